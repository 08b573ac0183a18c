package protocol

import (
	"bytes"

	"github.com/cohort-tx/cohort/txlog/command"
)

// begin admits an attempt and asks for its snapshot.
func (c *Core) begin(e *Begin) {
	if c.draining {
		c.reply(e.Request, &NotServing{Detail: "the node is closing"})
		return
	}
	if c.opened >= c.config.Open {
		c.reply(e.Request, c.overloaded(e.ID, "open", c.config.Open))
		return
	}
	c.opened++
	a := &attempt{
		name:      Attempt{ID: e.ID},
		handle:    c.number(),
		state:     StateOpening,
		since:     c.now,
		deadline:  c.now + c.config.lease(e.Timeout),
		digest:    e.RequestDigest,
		waiters:   []uint64{e.Request},
		holdsOpen: true,
		pinned:    true,
	}
	c.opening[a.handle] = a
	c.armAttempt(a)
	look := e.ID
	if e.Fresh {
		look = ""
	}
	c.emit(Pin{Handle: a.handle, ID: look})
}

// pinned opens the attempt, unless its id has committed.
func (c *Core) pinned(e *Pinned) {
	a := c.opening[e.Handle]
	if a == nil {
		return // it timed out; Unpin is on its way
	}
	if e.Committed != nil {
		if bytes.Equal(e.CommittedDigest, a.digest) {
			c.end(a, &Committed{Receipt: *e.Committed})
		} else {
			c.end(a, &Aborted{ID: a.name.ID, Reason: command.ReasonIDReused, Detail: "the id committed another request"})
		}
		return
	}
	delete(c.opening, a.handle)
	a.state = StateOpen
	a.begun, a.position = e.Begun, e.Position
	c.enter(a, Attempt{ID: a.name.ID, Begun: e.Begun, Nonce: a.handle})
	c.replyAll(a.waiters, &Opened{Attempt: a.name, Position: a.position})
	a.waiters = nil
}

func (c *Core) pinFailed(e *PinFailed) {
	if a := c.opening[e.Handle]; a != nil {
		c.end(a, &NotServing{Detail: e.Detail})
	}
}

// view gives an open attempt's changes so far.
func (c *Core) view(e *View) {
	a, ans := c.find(e.Attempt)
	switch {
	case a == nil:
		c.reply(e.Request, ans)
	case !a.pinned:
		c.reply(e.Request, &Invalid{Field: "attempt", Detail: "it asked for begin and commit in one round and has no snapshot to read"})
	default:
		c.reply(e.Request, &Viewed{Handle: a.handle, Ops: a.ops[:len(a.ops):len(a.ops)]})
	}
}

// find gives an attempt that is here, or the answer of one that is not.
func (c *Core) find(name Attempt) (*attempt, Answer) {
	if a := c.attempts[name]; a != nil {
		return a, nil
	}
	if ans, ok := c.answers.recall(name); ok {
		if ans, aborted := ans.(*Aborted); aborted {
			return nil, ans
		}
		return nil, &Invalid{Field: "attempt", Detail: "it is committed: begin another one"}
	}
	return nil, &Aborted{ID: name.ID, Reason: reasonMoved, Detail: "the attempt is not open at this coordinator: it ended, or the coordinator changed since it began"}
}

// abort gives an attempt up. What may be in the log is the log's to decide.
func (c *Core) abort(e *Abort) {
	a := c.attempts[e.Attempt]
	switch {
	case a == nil:
		c.reply(e.Request, &Done{})
	case a.uncertain:
		c.reply(e.Request, &Indeterminate{Detail: "the decision is already being made; ask for the outcome"})
	default:
		detail := e.Reason
		if detail == "" {
			detail = "its caller gave it up"
		}
		c.end(a, &Aborted{ID: a.name.ID, Reason: command.ReasonCancelled, Detail: detail})
		c.reply(e.Request, &Done{})
	}
}
