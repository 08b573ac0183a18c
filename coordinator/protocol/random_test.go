package protocol

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/machine"
	"github.com/cohort-tx/cohort/txlog/machine/memstate"
)

// world is a log, clients and instances around one core after another. Every
// message may be late, lost, repeated or out of order; what the core says is held
// against the log.
type world struct {
	t     *rapid.T
	store *memstate.Store
	m     *machine.Machine
	index uint64
	// committed says which attempt's changes are in the log, by the number it wrote.
	committed map[int]command.Receipt
	positions map[string]uint64

	core    *Core
	now     time.Duration
	epoch   uint64
	config  Config
	healthy bool // no more faults

	requests uint64
	asked    map[uint64]ask
	answered map[uint64]bool
	clients  []*client
	deposed  bool

	pins      []Pin
	snapshots map[uint64]bool
	proposals []*Propose
	stale     []*command.Batch // may still get into the log
	reads     []string
	contents  map[string][]byte // what was proposed for an attempt
	inbound   []*Send
	attached  map[string]uint64 // participant/instance: session
	yes       map[string]bool   // attempt number, participant, epoch
	sessions  uint64

	// cuts and numbers of the checkpoints that the log records, by token; the newest
	// is told again.
	cuts, abandoned map[string]uint64
	doubted         map[string]bool // a cut that was proposed more than once
	number          uint64
	newest          string
	// captures says, by checkpoint and participant, what the log has of its state:
	// wanted, captured or failed.
	captures    map[string]machine.CaptureState
	lacking     []uint64 // checkpoints that were cut and are said to be abandoned
	taken       []*Captured
	taking      uint64 // the request that is not answered yet
	byHand      bool   // the gate is closed by more than a checkpoint
	closedSince time.Duration
	gateClosed  bool
}

type ask struct {
	what   string
	client *client
	token  string
}

// client makes one attempt at a time and, for each, a change that tells it apart.
type client struct {
	number  int // of the attempt
	id      string
	attempt Attempt
	opened  bool
	ended   bool
	steps   uint32
	calling bool
	commit  *Commit
	aborted uint64 // the epoch in which it was told so
	// askedAt is when the commit was first asked for in an epoch, begunAt when the
	// attempt was.
	askedAt, begunAt time.Duration
	askedIn          uint64
}

func newWorld(t *rapid.T) *world {
	w := &world{
		t: t, store: memstate.New(), m: machine.New(), committed: map[int]command.Receipt{}, positions: map[string]uint64{},
		asked: map[uint64]ask{}, answered: map[uint64]bool{}, contents: map[string][]byte{}, attached: map[string]uint64{}, yes: map[string]bool{},
		cuts: map[string]uint64{}, abandoned: map[string]uint64{}, doubted: map[string]bool{},
		captures: map[string]machine.CaptureState{},
	}
	w.apply(&command.Batch{Epoch: 1, Commands: []command.Command{&command.RaiseEpoch{Node: "n1"}}})
	w.apply(&command.Batch{Epoch: 1, Commands: []command.Command{&command.Configure{Version: 1, Incarnation: 1, Participants: []string{"inv", "pay"}}, &command.FeatureLevel{Level: 3}}})
	w.epoch = 1
	w.reign()
	return w
}

// apply is the log. What it says to checkpoints is made up here.
func (w *world) apply(b *command.Batch) []command.Result {
	rest := &command.Batch{Epoch: b.Epoch}
	results := make([]command.Result, len(b.Commands))
	var places []int
	for i, c := range b.Commands {
		switch c := c.(type) {
		case *command.Checkpoint:
			if len(b.Commands) != 1 {
				w.t.Fatal("a cut is not alone in its entry")
			}
			results[i] = w.record(b.Epoch, c.Token, w.cuts)
			for _, p := range c.Captures {
				if at := fmt.Sprint(results[i].Number, p); results[i].Status == command.StatusDone && w.captures[at] == 0 {
					w.captures[at] = machine.CaptureWanted
				}
			}
		case *command.ReportCapture:
			results[i] = w.report(b.Epoch, c)
		case *command.AbandonCheckpoint:
			results[i] = w.record(b.Epoch, c.Token, w.abandoned)
		case *command.NotePause:
			results[i] = command.Result{Status: command.StatusDone}
			if b.Epoch < w.epoch {
				results[i] = command.Result{Status: command.StatusRefused, Reason: command.ReasonStaleEpoch}
			}
		default:
			rest.Commands = append(rest.Commands, c)
			places = append(places, i)
		}
	}
	if len(places) > 0 {
		for i, r := range w.applyRest(rest) {
			results[places[i]] = r
		}
	}
	return results
}

func (w *world) report(epoch uint64, c *command.ReportCapture) command.Result {
	at := fmt.Sprint(c.Number, c.Participant)
	switch {
	case epoch < w.epoch:
		return command.Result{Status: command.StatusRefused, Reason: command.ReasonStaleEpoch}
	case w.captures[at] != machine.CaptureWanted:
		return command.Result{Status: command.StatusRefused}
	case c.Failure != "":
		w.captures[at] = machine.CaptureFailed
	default:
		w.captures[at] = machine.CaptureStored
	}
	return command.Result{Status: command.StatusDone, Number: c.Number}
}

func (w *world) record(epoch uint64, token string, as map[string]uint64) command.Result {
	if epoch < w.epoch {
		return command.Result{Status: command.StatusRefused, Reason: command.ReasonStaleEpoch}
	}
	if token != w.newest {
		w.number++
		w.newest = token
		as[token] = w.number
	}
	return command.Result{Status: command.StatusDone, Number: w.number}
}

func (w *world) applyRest(b *command.Batch) []command.Result {
	w.index++
	results, entries, err := w.store.Apply(w.m, w.index, command.AppendBatch(nil, b))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range entries {
		if p, twice := w.positions[e.ID]; twice {
			w.t.Fatalf("id %s committed at %d and at %d", e.ID, p, e.Position)
		}
		w.positions[e.ID] = e.Position
		for _, c := range e.Changes {
			if c.Key == "who" {
				n, _ := strconv.Atoi(string(c.Value))
				w.committed[n] = command.Receipt{ID: e.ID, Position: e.Position}
			}
		}
	}
	return results
}

// reign begins the next coordinator's.
func (w *world) reign() {
	w.config = Config{
		Epoch: w.epoch, Participants: []string{"inv", "pay"}, InFlight: 4, Open: 4, StagedBytes: 2000, Timeout: 10 * time.Second,
		FailAfter: time.Second, Grace: time.Second, AutoFailover: true, FeatureLevel: 3,
		Checkpoint: Checkpoint{MaxPause: 400 * time.Millisecond, MaxWait: 3 * time.Second},
	}
	if w.draw(2, "wait for") == 0 {
		w.config.Checkpoint.WaitFor = WaitForStarted
	}
	w.taking, w.byHand, w.gateClosed = 0, false, false
	all, err := machine.ReadActivations(w.store.Latest())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, a := range all {
		w.config.Activations = append(w.config.Activations, w.activation(a))
	}
	w.core, w.now, w.deposed = New(w.config), 0, false
	w.pins, w.proposals, w.reads, w.inbound = nil, nil, nil, nil
	w.snapshots = map[uint64]bool{}
	w.attached = map[string]uint64{}
}

func (w *world) activation(a machine.Activation) Activation {
	_, own, err := machine.ReadOwnState(w.store.Latest(), a.Participant)
	if err != nil {
		w.t.Fatal(err)
	}
	return Activation{Participant: a.Participant, Node: a.Node, Instance: a.Instance, Epoch: a.Epoch, OwnState: own}
}

func (w *world) step(ev Event) {
	effects := slices.Clone(w.core.Step(w.now, ev))
	for _, e := range effects {
		w.perform(e)
	}
	if w.deposed {
		return
	}
	load := w.core.Load()
	if load.GateClosed && !w.gateClosed {
		w.closedSince = w.now
	}
	w.gateClosed = load.GateClosed
	if _, ticked := ev.(Tick); ticked && load.GateClosed && !w.byHand && w.now-w.closedSince >= w.config.Checkpoint.MaxPause {
		w.t.Fatalf("the gate is closed for %s", w.now-w.closedSince)
	}
	if load.Open > w.config.Open || load.InFlight > w.config.InFlight || load.StagedBytes > w.config.StagedBytes || load.EntriesInFlight > MaxProposals {
		w.t.Fatalf("a bound is broken: %+v", load)
	}
	if load.StagedBytes < 0 || load.Open < 0 || load.InFlight < 0 {
		w.t.Fatalf("let go twice: %+v", load)
	}
}

func (w *world) perform(e Effect) {
	switch e := e.(type) {
	case Pin:
		w.snapshots[e.Handle] = true
		w.pins = append(w.pins, e)
	case Unpin:
		if !w.snapshots[e.Handle] {
			w.t.Fatal("a snapshot was let go twice")
		}
		delete(w.snapshots, e.Handle)
	case *Propose:
		w.checkProposal(e)
		if cp, ok := e.Commands[0].(*command.Checkpoint); ok && w.gateClosed && !w.doubted[cp.Token] {
			w.checkQuiescent("proposed")
			if len(w.proposals) > 0 {
				w.t.Fatal("a cut was proposed while entries were on their way")
			}
		}
		w.proposals = append(w.proposals, e)
	case *Send:
		w.inbound = append(w.inbound, e)
	case ReadActivation:
		w.reads = append(w.reads, e.Participant)
	case *Reply:
		w.reply(e)
	case Superseded:
	default:
		w.t.Fatalf("%T", e)
	}
}

// checkProposal: what is proposed for an attempt never changes, and every voter
// it was at has said yes under the fence's epoch.
func (w *world) checkProposal(e *Propose) {
	for _, c := range e.Commands {
		d, ok := c.(*command.Decide)
		if !ok {
			continue
		}
		n := whoseOps(d.Ops)
		content := command.AppendBatch(nil, &command.Batch{Commands: []command.Command{d}})
		// A one-shot sent again after it was decided begins anew; the log knows its id.
		key := fmt.Sprintf("%d@%d under %d", n, d.Begun, w.epoch)
		if before, ok := w.contents[key]; ok && !bytes.Equal(before, content) {
			w.t.Fatalf("attempt %d was proposed with two contents", n)
		}
		w.contents[key] = content
		for _, f := range d.Fences {
			if !w.yes[fmt.Sprintf("%s@%d %s %d", d.ID, d.Begun, f.Participant, f.Epoch)] {
				w.t.Fatalf("attempt %d was proposed without the yes of %s under epoch %d", n, f.Participant, f.Epoch)
			}
		}
	}
}

// checkQuiescent: a cut is between transactions, and between the attempts of those
// whose handlers change their state before the commit.
func (w *world) checkQuiescent(when string) {
	for _, a := range w.core.attempts {
		for _, t := range a.touched {
			if t.participant.appliesFirst && t.epoch == t.participant.epoch {
				w.t.Fatalf("a cut is %s while %s, which is %s, has run handlers of %s", when, a.name.ID, a.state, t.participant.name)
			}
		}
	}
	for _, a := range w.core.Attempts(1000) {
		if a.State == StatePreparing || a.State == StateQueued || a.State == StateProposed {
			w.t.Fatalf("a cut is %s while %s is %s", when, a.Attempt.ID, a.State)
		}
	}
}

// checkpointed holds an answer against the log.
func (w *world) checkpointed(a ask, r *Reply) {
	if _, busy := r.Answer.(*Busy); busy != (w.taking != 0 && w.taking != r.Request) {
		w.t.Fatalf("while %d is being taken, %d was answered %s", w.taking, r.Request, showAnswer(r.Answer))
	}
	if w.taking == r.Request {
		w.taking = 0
	}
	switch ans := r.Answer.(type) {
	case *CheckpointTaken:
		if ans.Number == 0 || w.cuts[a.token] != ans.Number || slices.Contains(w.lacking, ans.Number) {
			w.t.Fatalf("%s is said to be checkpoint %d; the log says %d", a.token, ans.Number, w.cuts[a.token])
		}
	case *CheckpointAbandoned:
		if n, cut := w.cuts[a.token]; cut && n == ans.Number && ans.Participant != "" {
			if w.captures[fmt.Sprint(n, ans.Participant)] == 0 {
				w.t.Fatalf("checkpoint %d lacks a state that it did not ask for", n)
			}
			w.lacking = append(w.lacking, n)
		} else if cut || ans.Number == 0 || w.abandoned[a.token] != ans.Number {
			w.t.Fatalf("%s is said to be abandoned as %d; the log says %d, and a cut: %v", a.token, ans.Number, w.abandoned[a.token], cut)
		}
		if ans.Detail == "" {
			w.t.Fatal("a checkpoint was abandoned and nothing was in the way")
		}
	case *NotServing:
		if n, cut := w.cuts[a.token]; cut {
			w.t.Fatalf("%s was not served and is checkpoint %d", a.token, n)
		}
	case *Indeterminate, *Busy:
	default:
		w.t.Fatalf("a checkpoint was answered %s", showAnswer(ans))
	}
}

func whoseOps(ops []command.Op) int {
	for _, o := range ops {
		if o.Key == "who" {
			n, _ := strconv.Atoi(string(o.Value))
			return n
		}
	}
	return -1
}

func (w *world) reply(e *Reply) {
	a, ok := w.asked[e.Request]
	if !ok || w.answered[e.Request] {
		w.t.Fatalf("request %d was answered twice, or never asked", e.Request)
	}
	w.answered[e.Request] = true
	if a.what == "checkpoint" {
		w.checkpointed(a, e)
		return
	}
	if a.what == "stored" {
		return
	}
	c := a.client
	switch ans := e.Answer.(type) {
	case *Opened:
		c.opened, c.attempt = true, ans.Attempt
	case *Committed:
		if w.positions[c.id] != ans.Receipt.Position {
			w.t.Fatalf("%s of %s was answered committed at %d; the log says %d", a.what, c.id, ans.Receipt.Position, w.positions[c.id])
		}
		c.ended = true
	case *Aborted:
		if a.what == "begin" || ans.Reason == command.ReasonIDReused {
			c.ended = true
			return
		}
		if _, ok := w.positions[c.id]; ok && a.what == "commit" && c.attempt.Nonce>>32 != w.epoch {
			// The driver looks once more for those that the reign did not open.
			c.ended = true
			return
		}
		if _, ok := w.committed[c.number]; ok {
			w.t.Fatalf("attempt %d is in the log and was answered %s: %s", c.number, a.what, showAnswer(ans))
		}
		if ans.Reason == command.ReasonTimeout && w.now < c.begunAt+w.config.Timeout && c.commit != nil && w.now < c.askedAt+w.config.lease(c.commit.Timeout) {
			w.t.Fatalf("%s of %s timed out before its time", a.what, c.id)
		}
		c.aborted, c.ended = w.epoch, true
	case *StepDone, *StepFailed:
		c.calling = false
	case *NotServing:
		if a.what == "begin" {
			c.ended = true
		}
		c.calling = false
	case *Indeterminate, *Done, *Viewed, *Looked, *Invalid:
	default:
		w.t.Fatalf("%T", ans)
	}
}

func (w *world) ask(what string, c *client) uint64 {
	w.requests++
	w.asked[w.requests] = ask{what: what, client: c}
	return w.requests
}

func (w *world) draw(n int, what string) int { return rapid.IntRange(0, n-1).Draw(w.t, what) }

func take[T any](w *world, from *[]T, what string) (T, bool) {
	var none T
	if len(*from) == 0 {
		return none, false
	}
	i := w.draw(len(*from), what)
	x := (*from)[i]
	*from = slices.Delete(*from, i, i+1)
	return x, true
}

func (w *world) begin() {
	c := &client{number: len(w.clients) + 1, id: fmt.Sprintf("t%d", w.draw(6, "id"))}
	w.clients = append(w.clients, c)
	c.begunAt = w.now
	if w.draw(3, "one-shot") == 0 {
		c.attempt = Attempt{ID: c.id, Nonce: uint64(c.number)}
		c.opened = true
		return
	}
	w.step(&Begin{Request: w.ask("begin", c), ID: c.id})
}

func (w *world) pinned() {
	if p, ok := take(w, &w.pins, "pin"); ok {
		if !w.healthy && w.draw(8, "pin fails") == 0 {
			w.step(&PinFailed{Handle: p.Handle})
			return
		}
		ev := &Pinned{Handle: p.Handle, Begun: w.index}
		d, o, err := machine.ReadDecision(w.store.Latest(), p.ID, w.index)
		if err != nil {
			w.t.Fatal(err)
		}
		if d == machine.DecisionCommitted {
			ev.Committed = &o.Receipt
		}
		w.step(ev)
	}
}

func (w *world) client() *client {
	live := slices.DeleteFunc(slices.Clone(w.clients), func(c *client) bool { return !c.opened })
	if len(live) == 0 {
		return nil
	}
	live = live[max(0, len(live)-8):]
	return live[w.draw(len(live), "client")]
}

func (w *world) call() {
	c := w.client()
	if c == nil || c.commit != nil || c.attempt.Begun == 0 {
		return
	}
	if c.calling { // sent again
		w.step(&Call{Request: w.ask("call", c), Attempt: c.attempt, Step: c.steps, Participant: "inv"})
		return
	}
	if c.ended {
		return
	}
	c.steps++
	c.calling = true
	w.step(&Call{Request: w.ask("call", c), Attempt: c.attempt, Step: c.steps, Participant: "inv", Timeout: time.Duration(w.draw(3, "timeout")) * time.Second})
}

func (w *world) commitOne() {
	c := w.client()
	if c == nil || c.calling || c.aborted != 0 && c.aborted != w.epoch {
		return // who was told of the abort does not ask the next coordinator
	}
	if c.commit == nil {
		c.commit = &Commit{
			Attempt: c.attempt, Steps: c.steps, Timeout: time.Duration(w.draw(3, "timeout")) * time.Second,
			Ops: []command.Op{{Kind: command.OpPut, Participant: "pay", Key: "who", Value: []byte(strconv.Itoa(c.number))}},
		}
		if w.draw(8, "large") == 0 {
			c.commit.Ops[0].Value = append(bytes.Repeat([]byte("0"), 1500), c.commit.Ops[0].Value...)
		}
		if w.draw(3, "reads") == 0 && c.attempt.Begun != 0 {
			c.commit.Reads = []command.Read{{Participant: "pay", Key: "who", Version: uint64(w.draw(3, "version"))}}
		}
	}
	if c.askedIn != w.epoch {
		c.askedIn, c.askedAt = w.epoch, w.now
	}
	// The same again, any time later.
	ev := *c.commit
	ev.Request, ev.Published = w.ask("commit", c), w.index
	w.step(&ev)
}

func (w *world) log() {
	p, ok := take(w, &w.proposals, "proposal")
	if !ok {
		if b, ok := take(w, &w.stale, "stale"); ok {
			w.apply(b) // what was thought lost
		}
		return
	}
	batch := &command.Batch{Epoch: w.epoch, Commands: p.Commands}
	fate := 0
	if !w.healthy {
		fate = w.draw(6, "fate")
	}
	cp, isCut := p.Commands[0].(*command.Checkpoint)
	if isCut && fate >= 2 && fate <= 4 {
		w.doubted[cp.Token] = true
	}
	switch fate {
	case 1:
		w.step(&NotProposed{Entry: p.Entry})
	case 2: // applied, and nobody told
		w.apply(batch)
		w.step(&Doubtful{Entry: p.Entry})
	case 3: // perhaps later
		w.stale = append(w.stale, batch)
		w.step(&Doubtful{Entry: p.Entry})
	case 4:
		w.step(&Doubtful{Entry: p.Entry})
	default:
		results := w.apply(batch)
		if isCut && w.gateClosed && w.core.checkpoint != nil && w.core.checkpoint.closed {
			w.checkQuiescent("applied")
		}
		w.step(&Applied{Entry: p.Entry, Results: results})
		if w.draw(8, "again") == 0 {
			w.step(&Applied{Entry: p.Entry, Results: results})
		}
	}
}

// deliver gives an instance a message, perhaps twice, and its answer to the core.
func (w *world) deliver() {
	s, ok := take(w, &w.inbound, "message")
	if !ok || !w.healthy && w.draw(10, "lost") == 0 {
		return
	}
	again := !w.healthy && w.draw(8, "twice") == 0
	switch m := s.Message.(type) {
	case *Activated:
		w.step(&Ready{Session: s.Session, Participant: s.Participant, Instance: s.Instance, Epoch: m.Epoch})
	case *Step:
		r := &StepResult{Session: s.Session, Participant: s.Participant, Instance: s.Instance, Call: m.Call}
		w.step(r)
		if again {
			w.step(r)
		}
	case *Capture:
		ev := &Captured{Session: s.Session, Participant: s.Participant, Instance: s.Instance, Number: m.Checkpoint, Position: m.Position, Epoch: m.Epoch}
		if !w.healthy && w.draw(6, "capture fails") == 0 {
			ev.Failure = "x"
		} else {
			w.taken = append(w.taken, ev)
		}
		w.step(ev)
		if again {
			w.step(ev)
		}
	case *Prepare:
		v := &Vote{Session: s.Session, Participant: s.Participant, Instance: s.Instance, Call: m.Call, Yes: w.healthy || w.draw(6, "vote") != 0}
		if v.Yes {
			w.yes[fmt.Sprintf("%s@%d %s %d", m.Attempt.ID, m.Attempt.Begun, s.Participant, m.Epoch)] = true
		}
		w.step(v)
		if again {
			w.step(v)
		}
	}
}

func (w *world) instance() {
	name := fmt.Sprintf("i%d", w.draw(3, "instance"))
	session, here := w.attached[name]
	switch {
	case !here || w.draw(4, "renewed") == 0:
		w.sessions++
		w.attached[name] = w.sessions
		w.step(&Attached{Session: w.sessions, Node: "n" + name[1:], Participant: "inv", Instance: name, Votes: true, OwnState: name != "i0", AppliesFirst: name == "i2"})
	case w.draw(2, "session") == 0:
		delete(w.attached, name)
		w.step(&SessionClosed{Session: session})
	default:
		delete(w.attached, name)
		w.step(&Detached{Session: session, Participant: "inv", Instance: name, Goodbye: w.draw(3, "goodbye") == 0})
	}
}

// succeed ends a reign and begins the next.
func (w *world) succeed() {
	for _, p := range w.proposals {
		w.stale = append(w.stale, &command.Batch{Epoch: w.epoch, Commands: p.Commands})
	}
	w.deposed = true
	w.step(&Deposed{})
	for r, a := range w.asked {
		if !w.answered[r] {
			w.t.Fatalf("the reign ended and request %d, a %s, has no answer", r, a.what)
		}
	}
	if len(w.snapshots) > 0 {
		w.t.Fatal("the reign ended and snapshots are pinned")
	}
	for w.draw(3, "straggler") == 0 {
		if b, ok := take(w, &w.stale, "stale"); ok {
			w.apply(b)
		}
	}
	for _, c := range w.clients {
		c.calling = false
	}
	w.epoch++
	w.apply(&command.Batch{Epoch: w.epoch, Commands: []command.Command{&command.RaiseEpoch{Node: "n1"}}})
	w.reign()
}

func (w *world) some(what string) {
	switch what {
	case "begin":
		w.begin()
	case "pinned":
		w.pinned()
	case "call":
		w.call()
	case "commit":
		w.commitOne()
	case "log":
		w.log()
	case "deliver":
		w.deliver()
	case "instance":
		w.instance()
	case "read":
		if p, ok := take(w, &w.reads, "read"); ok {
			a, _, err := machine.ReadActivation(w.store.Latest(), p)
			if err != nil {
				w.t.Fatal(err)
			}
			a.Participant = p
			w.step(&ActivationRead{w.activation(a)})
		}
	case "abort":
		if c := w.client(); c != nil && w.draw(3, "abort") == 0 {
			w.step(&Abort{Request: w.ask("abort", c), Attempt: c.attempt})
		}
	case "settle":
		if c := w.client(); c != nil && w.draw(3, "settle") == 0 {
			w.step(&Administer{Request: w.ask("settle", c), Command: &command.Settle{ID: c.id, Begun: w.index - 1, Reason: command.ReasonSuperseded}})
		}
	case "wait":
		w.now += time.Duration(w.draw(1500, "ms")) * time.Millisecond
		w.step(Tick{})
	case "flush":
		w.step(Flush{})
	case "gate":
		switch w.draw(4, "gate") {
		case 0:
			w.byHand = true
			w.step(CloseGate{})
		case 1:
			w.step(Unsealed{})
		default:
			w.byHand = w.taking != 0 && w.byHand // it may be sealing
			w.step(OpenGate{})
		}
	case "checkpoint":
		w.takeCheckpoint()
	case "stored": // a capture, or it could not be
		if ev, ok := take(w, &w.taken, "stored"); ok {
			if w.draw(4, "fails later") == 0 {
				late := *ev
				late.Failure = "late"
				w.step(&late)
				return
			}
			w.step(&Administer{Request: w.ask("stored", nil), Command: &command.ReportCapture{Number: ev.Number, Participant: ev.Participant, Epoch: ev.Epoch, Position: ev.Position, Node: "n1"}})
		}
	case "succeed":
		if w.draw(6, "succeed") == 0 {
			w.succeed()
		}
	}
}

func (w *world) takeCheckpoint() {
	e := &TakeCheckpoint{
		Request: w.ask("checkpoint", nil), Seal: w.draw(8, "seal") == 0, Waited: time.Duration(w.draw(4, "waited")) * time.Second,
	}
	e.Wish.Token = fmt.Sprintf("cp%d", e.Request)
	w.asked[e.Request] = ask{what: "checkpoint", token: e.Wish.Token}
	if w.taking == 0 {
		w.taking = e.Request
		w.byHand = w.byHand || e.Seal
	}
	w.step(e)
}

// settleDown stops the faults and sees that everything ends.
func (w *world) settleDown() {
	w.healthy = true
	for i := 0; !w.core.Idle(); i++ {
		w.step(OpenGate{})
		if i > 2000 {
			w.t.Fatalf("it does not come to rest: %+v, entries %d", w.core.Load(), len(w.core.entries))
		}
		for len(w.pins) > 0 {
			w.pinned()
		}
		for len(w.reads) > 0 {
			w.some("read")
		}
		for len(w.inbound) > 0 {
			w.deliver()
		}
		w.step(Flush{})
		for len(w.proposals) > 0 {
			w.log()
		}
		w.now += 200 * time.Millisecond
		w.step(Tick{})
	}
	for r, a := range w.asked {
		if !w.answered[r] {
			w.t.Fatalf("request %d, a %s, has no answer", r, a.what)
		}
	}
	for at, state := range w.captures {
		number, participant := uint64(0), ""
		if _, err := fmt.Sscanf(at, "%d%s", &number, &participant); err != nil {
			w.t.Fatal(err)
		}
		awaited := w.core.AwaitsCapture(number, participant)
		if awaited && (state != machine.CaptureWanted || slices.Contains(w.lacking, number)) {
			w.t.Fatalf("the state of %s for checkpoint %d is %v and still awaited", participant, number, state)
		}
	}
	for len(w.stale) > 0 {
		w.log()
	}
	for _, c := range w.clients {
		if _, in := w.committed[c.number]; in && c.aborted != 0 {
			w.t.Fatalf("attempt %d was called aborted and is in the log", c.number)
		}
	}
}

// TestRandomHistories holds the core against a real state machine under every
// order of events: an attempt that was called aborted is never in the log, one
// that was called committed is, every request has one answer, no vote of another
// epoch counts, bounds hold, and everything ends once the faults do.
func TestRandomHistories(t *testing.T) {
	actions := []string{
		"begin", "begin", "pinned", "pinned", "call", "call", "commit", "commit", "commit", "log", "log", "log", "deliver", "deliver", "deliver", "deliver",
		"instance", "read", "abort", "settle", "wait", "flush", "flush", "flush", "gate", "checkpoint", "checkpoint", "succeed", "stored",
	}
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		for range rapid.IntRange(20, 200).Draw(t, "length") {
			w.some(actions[w.draw(len(actions), "action")])
		}
		w.settleDown()
	})
}
