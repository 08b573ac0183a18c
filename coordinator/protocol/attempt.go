package protocol

import (
	"fmt"
	"slices"
	"time"

	"github.com/cohort-tx/cohort/txlog/command"
)

const reasonMoved = command.ReasonMoved

// attempt is one attempt of a transaction at this coordinator:
//
//	Begin ─▶ opening ─▶ open ─┐
//	                          ├─Commit─▶ (waiting) ─▶ (preparing) ─▶ queued ⇄ proposed ─▶ ended
//	one-shot, or unknown here ┘
//
// From any state but proposed it may end at once; from proposed only by the log,
// or without an outcome when the reign ends.
type attempt struct {
	name Attempt
	// handle names it between core and driver; it is the nonce of those that Begin
	// opened.
	handle   uint64
	begun    uint64
	position uint64 // last one in its snapshot
	state    State
	since    time.Duration
	deadline time.Duration
	timer    timer
	digest   []byte
	// waiters are the requests that its next answer goes to: Begin while it is
	// opening, Commit after it.
	waiters []uint64

	// ops, reads and scans so far, in program order; they only grow.
	ops   []command.Op
	reads []command.Read
	scans []command.ScanRead
	bytes int64

	steps   []*step
	touched []touch
	// votes are the prepares without an answer.
	votes []*call

	decide *command.Decide
	// uncertain: a Decide of it may be in the log. Only the log can end it then.
	uncertain bool
	// vague: one may be there besides the one under way, so that a refusal of that
	// does not tell: another coordinator's, or of an entry whose answer was lost.
	vague bool
	// behind: queued after another attempt of its id.
	behind bool
	// overtaken: another attempt of the id with the same begun committed.
	overtaken bool

	// drained: a checkpoint waits for its end.
	drained bool

	holdsOpen, holdsFlight, pinned bool
	// next attempt of the same id.
	next *attempt
}

// touch says that an instance was asked to run a step under an epoch. It counts
// once a result came: then the attempt depends on that epoch.
type touch struct {
	participant *participant
	epoch       uint64
	counts      bool
}

// step is a call and, once done, its stored answer.
type step struct {
	ask     *Call
	waiters []uint64
	answer  Answer // nil while it runs
	until   time.Duration
	call    *call // at an instance, nil while it waits for one
}

func (a *attempt) running() *step {
	if n := len(a.steps); n > 0 && a.steps[n-1].answer == nil {
		return a.steps[n-1]
	}
	return nil
}

func (a *attempt) touchOf(p *participant) *touch {
	for i := range a.touched {
		if a.touched[i].participant == p {
			return &a.touched[i]
		}
	}
	return nil
}

// enter gives an attempt its name.
func (c *Core) enter(a *attempt, name Attempt) {
	if c.attempts[name] != nil {
		panic(fmt.Sprintf("protocol: two attempts named %+v", name))
	}
	a.name = name
	c.attempts[name] = a
	a.next = c.ids[name.ID]
	c.ids[name.ID] = a
}

func (c *Core) leave(a *attempt) {
	if c.attempts[a.name] != a {
		return
	}
	delete(c.attempts, a.name)
	head := c.ids[a.name.ID]
	if head == a {
		if a.next == nil {
			delete(c.ids, a.name.ID)
		} else {
			c.ids[a.name.ID] = a.next
		}
		return
	}
	for ; head.next != a; head = head.next {
	}
	head.next = a.next
}

// armAttempt sets the timer to the earliest moment at which something is due.
func (c *Core) armAttempt(a *attempt) {
	at := a.deadline
	if s := a.running(); s != nil {
		at = min(at, s.until)
	}
	a.timer.owner = a
	c.timers.set(&a.timer, at)
}

// attemptDue is called when the attempt's timer ran out.
func (c *Core) attemptDue(a *attempt) {
	if c.now < a.deadline {
		c.stepDue(a)
		c.armIfLive(a)
		return
	}
	switch {
	case a.uncertain || a.state == StateProposed:
		// A timeout is not an outcome: who waits learns that it is not known, and the
		// attempt stays until the log says.
		c.replyAll(a.waiters, &Indeterminate{Detail: "no decision within the timeout; it is still being made"})
		a.waiters = a.waiters[:0]
	case a.state == StateOpening:
		c.end(a, &NotServing{Detail: "no linearizable snapshot within the timeout"})
	case a.state == StatePreparing:
		// No answer in time is a no.
		v := a.votes[0]
		c.end(a, &Aborted{ID: a.name.ID, Reason: command.ReasonTimeout, Participant: v.participant.name, Detail: "no vote within the attempt's timeout"})
	default:
		c.end(a, &Aborted{ID: a.name.ID, Reason: command.ReasonTimeout, Detail: "the attempt was " + a.state.String() + " until its timeout"})
	}
}

func (c *Core) armIfLive(a *attempt) {
	if a.state != StateEnded && c.now < a.deadline {
		c.armAttempt(a)
	}
}

// hold counts bytes for an attempt, or says that there is no room.
func (c *Core) hold(a *attempt, bytes int64) bool {
	if c.staged+bytes > c.config.StagedBytes {
		return false
	}
	c.staged += bytes
	a.bytes += bytes
	return true
}

func (c *Core) overloaded(id, limit string, n any) *Aborted {
	return &Aborted{ID: id, Reason: command.ReasonOverloaded, Detail: fmt.Sprintf("limits.%s, %v, is reached; try again later", limit, n)}
}

// end is the last thing that happens to an attempt: everybody who waits gets the
// answer, the instances it touched hear of it, and what it held is let go.
func (c *Core) end(a *attempt, ans Answer) {
	if a.state == StateEnded {
		panic("protocol: an attempt ended twice")
	}
	before := a.state
	wasOpening := before == StateOpening
	a.state = StateEnded
	switch {
	case before == StateWaiting:
		c.atGate = slices.DeleteFunc(c.atGate, func(o *attempt) bool { return o == a })
	case before == StateQueued && !a.behind:
		c.abandon()
	}
	if a.drained {
		c.checkpoint.draining--
	}
	c.timers.stop(&a.timer)
	c.replyAll(a.waiters, ans)
	a.waiters = nil
	if s := a.running(); s != nil {
		c.replyAll(s.waiters, stepAnswer(a, ans))
		if s.call != nil {
			c.forgetCall(s.call)
		} else {
			c.leaveLine(a, s)
		}
		s.answer = ans
	}
	for _, v := range a.votes {
		c.forgetCall(v)
	}
	a.votes = nil
	c.notify(a, ans)
	if wasOpening {
		delete(c.opening, a.handle)
	} else {
		c.leave(a)
		c.remember(a, ans)
	}
	c.staged -= a.bytes
	if a.holdsOpen {
		c.opened--
	}
	if a.holdsFlight {
		c.inFlight--
	}
	if a.pinned {
		c.emit(Unpin{Handle: a.handle})
	}
	if !wasOpening {
		c.letBehind(a.name.ID)
	}
}

// stepAnswer is what a call hears when its attempt ends under it.
func stepAnswer(a *attempt, ans Answer) Answer {
	if _, ok := ans.(*Aborted); ok {
		return ans
	}
	return &Aborted{ID: a.name.ID, Reason: reasonMoved, Detail: "the attempt ended while the step ran"}
}

// remember keeps an answer that the log would not give again.
func (c *Core) remember(a *attempt, ans Answer) {
	switch ans.(type) {
	case *Aborted:
		c.answers.remember(a.name, ans)
	case *Committed:
		// The log answers again for one-shots.
		if a.holdsOpen {
			c.answers.remember(a.name, ans)
		}
	}
}

// giveUp ends an attempt that no Decide was proposed for in this reign, unless
// one may be in the log all the same.
func (c *Core) giveUp(a *attempt, ab *Aborted) {
	if a.uncertain {
		c.end(a, &Indeterminate{Detail: ab.Detail + "; whether an earlier coordinator committed it is not known here: ask for the outcome, or commit again"})
		return
	}
	c.end(a, ab)
}

// notify tells the instances that the attempt touched, best effort.
func (c *Core) notify(a *attempt, ans Answer) {
	if len(a.touched) == 0 {
		return
	}
	var n *Notice
	switch ans := ans.(type) {
	case *Committed:
		n = &Notice{Attempt: a.attemptName()}
		if ans.Receipt.Begun == a.begun && !a.overtaken {
			n.Position = ans.Receipt.Position
		} else {
			n.Abort = &Aborted{ID: a.name.ID, Reason: command.ReasonSuperseded, Detail: "another attempt of the transaction committed"}
		}
	case *Aborted:
		n = &Notice{Attempt: a.attemptName(), Abort: ans}
	default:
		return // without an outcome there is nothing to tell
	}
	for _, t := range a.touched {
		if in := t.participant.active; in != nil && t.participant.epoch == t.epoch && in.hasSay() {
			c.send(in, n)
		}
	}
}

// attemptName is what instances know the attempt as.
func (a *attempt) attemptName() Attempt {
	return Attempt{ID: a.name.ID, Begun: a.begun, Nonce: a.name.Nonce}
}
