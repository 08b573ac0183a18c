package protocol

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
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
