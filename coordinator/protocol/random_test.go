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
)

// What follows happens to the world, one drawn event after the other.

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
