package protocol

import (
	"fmt"
	"slices"
	"time"
)

// Core is the coordinator of one group for one reign. It is not safe for
// concurrent use. Time is given to it, as the time since the reign began.
type Core struct {
	config Config
	now    time.Duration
	out    []Effect
	// handles numbers attempts, calls and entries. It begins with the epoch in its
	// upper half, so that no other coordinator's numbers meet this one's.
	handles uint64

	// attempts by the name their clients use; opening ones by handle, since they
	// have no name yet; ids finds all of one id.
	attempts map[Attempt]*attempt
	opening  map[uint64]*attempt
	ids      map[string]*attempt
	answers  *answers
	opened   int   // attempts that hold a place of limits.open
	inFlight int   // attempts that hold a place of limits.in_flight
	staged   int64 // bytes of all attempts

	// held and sealed close the gate beside the checkpoint that is being taken, nil
	// when none is.
	held, sealed bool
	checkpoint   *checkpoint
	atGate       []*attempt
	// level is the group's feature level.
	level uint64
	// refusal of new commits with writes, empty for none.
	refusal string

	participants map[string]*participant
	order        []*participant
	calls        map[uint64]*call
	comings      uint64

	// queue waits to be proposed; entries are on their way.
	queue         []*work
	queueBytes    uint64
	unwanted      int // works in queue whose attempt has ended
	entries       map[uint64]*entry
	entryOrder    []*entry
	inEntries     int // commands in entries
	administering int
	pause         time.Duration // before the next proposal after a refused one
	pauseTimer    timer

	timers   timers
	draining bool
	deposed  string // why, once it is
}

// New begins a reign.
func New(config Config) *Core {
	c := &Core{
		handles:      config.Epoch << 32,
		attempts:     make(map[Attempt]*attempt),
		opening:      make(map[uint64]*attempt),
		ids:          make(map[string]*attempt),
		answers:      newAnswers(),
		participants: make(map[string]*participant),
		calls:        make(map[uint64]*call),
		entries:      make(map[uint64]*entry),
	}
	c.pauseTimer.owner = c
	c.configure(config)
	return c
}

// Step takes an event at a time and gives its effects, in the order in which
// they are to be performed. The slice is valid until the next Step.
func (c *Core) Step(now time.Duration, ev Event) []Effect {
	if now < c.now {
		panic("protocol: time ran backwards")
	}
	c.now = now
	clear(c.out)
	c.out = c.out[:0]
	if c.deposed != "" {
		c.stepDeposed(ev)
		return c.out
	}
	c.dispatchEvent(ev)
	return c.out
}

func (c *Core) dispatchEvent(ev Event) {
	switch e := ev.(type) {
	case *Begin:
		c.begin(e)
	case *Pinned:
		c.pinned(e)
	case *PinFailed:
		c.pinFailed(e)
	case *Call:
		c.call(e)
	case *Commit:
		c.commit(e)
	case *Abort:
		c.abort(e)
	case *View:
		c.view(e)
	case *Look:
		c.reply(e.Request, &Looked{Pending: c.ids[e.ID] != nil})
	case *Administer:
		c.administer(e)
	case *Attached:
		c.attached(e)
	case *Detached:
		c.detached(e)
	case *SessionClosed:
		c.sessionClosed(e)
	case *Ready:
		c.ready(e)
	case *StepResult:
		c.stepResult(e)
	case *Vote:
		c.vote(e)
	case *Applied:
		c.applied(e)
	case *NotProposed:
		c.notProposed(e)
	case *Doubtful:
		c.doubtful(e)
	case *ActivationRead:
		c.activationRead(e)
	case *Configured:
		c.configure(e.Config)
	case *TakeCheckpoint:
		c.takeCheckpoint(e)
	case *Captured:
		c.captured(e)
	case *Progress:
		c.progress(e)
	case Leveled:
		c.leveled(e.Level)
	case *Refuse:
		c.refusal = e.Detail
	case Unsealed:
		c.sealed = false
		c.letOn()
	case CloseGate:
		c.held = true
	case OpenGate:
		c.held, c.sealed = false, false
		c.letOn()
	case Tick:
		c.tick()
	case Flush:
		c.flush()
		return
	case Drain:
		c.draining = true
	case *Deposed:
		c.depose(e)
	default:
		panic(fmt.Sprintf("protocol: no such event: %T", ev))
	}
	c.advance()
}

// NextDeadline is when a Tick is due, false when none is.
func (c *Core) NextDeadline() (time.Duration, bool) {
	if len(c.timers.heap) == 0 {
		return 0, false
	}
	return c.timers.heap[0].at, true
}

// Load is what the core holds now.
type Load struct {
	Open, InFlight, AtGate, EntriesInFlight int
	StagedBytes                             int64
	// GateClosed: commits wait.
	GateClosed bool
}

// Load is what the core holds now.
func (c *Core) Load() Load {
	return Load{
		Open: c.opened, InFlight: c.inFlight, AtGate: len(c.atGate), EntriesInFlight: len(c.entries), StagedBytes: c.staged,
		GateClosed: c.deposed == "" && c.shut(),
	}
}

// Idle: no attempt is here, no checkpoint is being taken and nothing is on its
// way to the log.
func (c *Core) Idle() bool {
	return c.checkpoint == nil && len(c.attempts)+len(c.opening)+len(c.entries)+c.administering == 0
}

func (c *Core) configure(config Config) {
	c.config = config
	c.level = max(c.level, config.FeatureLevel)
	before := c.participants
	c.participants = make(map[string]*participant, len(config.Participants))
	c.order = c.order[:0]
	for _, name := range config.Participants {
		p := before[name]
		if p == nil {
			p = &participant{name: name, goneSince: c.now}
			p.timer.owner = p
		}
		delete(before, name)
		c.participants[name] = p
		c.order = append(c.order, p)
	}
	for _, a := range config.Activations {
		p := c.participants[a.Participant]
		if p == nil {
			continue
		}
		p.own = p.own || a.OwnState
		if !p.activating && a.Epoch > p.epoch {
			c.raised(p, a)
		}
	}
	for _, name := range sortedNames(before) {
		c.dropParticipant(before[name])
	}
}

func sortedNames(m map[string]*participant) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (c *Core) tick() {
	for {
		t := c.timers.due(c.now)
		if t == nil {
			return
		}
		switch owner := t.owner.(type) {
		case *attempt:
			c.attemptDue(owner)
		case *participant:
			c.consider(owner)
		case *entry:
			c.retry(owner)
		case *checkpoint:
			c.checkpointDue(owner)
		case *Core: // the pause is over: the next Flush proposes
		}
	}
}

// stepDeposed answers what comes after the reign's end.
func (c *Core) stepDeposed(ev Event) {
	over := &NotServing{Detail: c.deposed}
	switch e := ev.(type) {
	case *Begin:
		c.reply(e.Request, over)
	case *Call:
		c.reply(e.Request, over)
	case *Commit:
		c.reply(e.Request, over)
	case *Abort:
		c.reply(e.Request, over)
	case *View:
		c.reply(e.Request, over)
	case *Look:
		c.reply(e.Request, over)
	case *Administer:
		c.reply(e.Request, over)
	case *TakeCheckpoint:
		c.reply(e.Request, over)
	}
}

// depose ends every attempt: those whose Decide may be in the log are
// indeterminate, nobody having answered for them; the others never happened.
func (c *Core) depose(e *Deposed) {
	for _, a := range c.all() {
		switch {
		case a.uncertain:
			c.end(a, &Indeterminate{Detail: "the coordinator changed while the decision was being made"})
		case a.state == StateOpening:
			c.end(a, &NotServing{Detail: e.Detail})
		default:
			c.end(a, &Aborted{ID: a.name.ID, Reason: reasonMoved, Detail: "the coordinator changed before a decision was asked for"})
		}
	}
	detail := e.Detail
	if detail == "" {
		detail = "this node does not run the group's coordinator any more"
	}
	c.deposeCheckpoint(detail)
	for _, w := range c.queue {
		if w.admin != nil {
			c.finishAdmin(w.admin, &NotServing{Detail: e.Detail})
		}
	}
	for _, en := range c.entryOrder {
		for _, w := range en.works {
			if w.admin != nil {
				c.finishAdmin(w.admin, &Indeterminate{Detail: "the coordinator changed while the command was on its way to the log"})
			}
		}
	}
	c.queue, c.entries, c.entryOrder = nil, nil, nil
	c.timers.heap = nil
	c.deposed = detail
}

// all gives every attempt in the order of their handles.
func (c *Core) all() []*attempt {
	all := make([]*attempt, 0, len(c.attempts)+len(c.opening))
	for _, a := range c.attempts {
		all = append(all, a)
	}
	for _, a := range c.opening {
		all = append(all, a)
	}
	slices.SortFunc(all, func(a, b *attempt) int {
		if a.handle < b.handle {
			return -1
		}
		return 1
	})
	return all
}

func (c *Core) number() uint64 {
	c.handles++
	return c.handles
}

func (c *Core) emit(e Effect) { c.out = append(c.out, e) }

func (c *Core) reply(request uint64, ans Answer) {
	c.emit(&Reply{Request: request, Answer: ans})
}

func (c *Core) replyAll(requests []uint64, ans Answer) {
	for _, r := range requests {
		c.reply(r, ans)
	}
}
