package protocol

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/machine"
)

// commit begins the decision on an attempt, joins the one under way, or repeats
// the answer.
func (c *Core) commit(e *Commit) {
	a := c.attempts[e.Attempt]
	if a == nil {
		if ans, ok := c.answers.recall(e.Attempt); ok {
			c.reply(e.Request, ans)
			return
		}
		c.commitUnknown(e)
		return
	}
	if a.state != StateOpen {
		c.joinCommit(a, e)
		return
	}
	switch {
	case a.running() != nil:
		c.reply(e.Request, &Invalid{Field: "steps", Detail: fmt.Sprintf("step %d still runs: wait for its answer", len(a.steps))})
		return
	case int(e.Steps) != len(a.steps):
		c.reply(e.Request, &Invalid{Field: "steps", Detail: fmt.Sprintf("the attempt has called %d steps, not %d", len(a.steps), e.Steps)})
		return
	}
	a.waiters = append(a.waiters, e.Request)
	c.startCommit(a, e)
}

// joinCommit lets the same request wait for the same answer.
func (c *Core) joinCommit(a *attempt, e *Commit) {
	switch {
	case string(a.digest) != string(e.RequestDigest):
		c.reply(e.Request, &Aborted{ID: a.name.ID, Reason: command.ReasonIDReused, Detail: "the id is being decided for another request"})
		return
	case len(a.waiters) >= MaxWaiters:
		c.reply(e.Request, &Indeterminate{Detail: fmt.Sprintf("%d requests wait for the decision already", MaxWaiters)})
		return
	}
	a.waiters = append(a.waiters, e.Request)
	if a.uncertain && c.now >= a.deadline {
		a.deadline = c.now + c.config.lease(e.Timeout)
		c.armAttempt(a)
	}
}

// commitUnknown takes an attempt that this coordinator has not opened. Without
// steps the request holds all there is to it. With steps, what they staged went
// with the coordinator that ran them: the attempt is over, unless the log says
// that it had committed.
func (c *Core) commitUnknown(e *Commit) {
	switch {
	case c.draining:
		c.reply(e.Request, &NotServing{Detail: "the node is closing"})
		return
	case e.Steps > 0 && e.Attempt.Begun == 0:
		c.reply(e.Request, &Invalid{Field: "attempt", Detail: "an attempt with steps has begun; give its begun"})
		return
	case e.Steps > 0:
		c.settleLost(e)
		return
	}
	a := &attempt{
		handle:   c.number(),
		state:    StateOpen,
		since:    c.now,
		deadline: c.now + c.config.lease(e.Timeout),
		begun:    e.Attempt.Begun,
		waiters:  []uint64{e.Request},
		// Another coordinator may have proposed it before.
		vague:     e.Attempt.Begun != 0,
		uncertain: e.Attempt.Begun != 0,
	}
	if a.begun == 0 {
		a.begun = e.Published
	}
	c.enter(a, e.Attempt)
	c.startCommit(a, e)
}

// startCommit is admission and the gate.
func (c *Core) startCommit(a *attempt, e *Commit) {
	if c.refusal != "" && len(a.ops)+len(e.Ops) > 0 {
		c.giveUp(a, &Aborted{ID: a.name.ID, Reason: command.ReasonDiskFull, Detail: c.refusal})
		return
	}
	if c.inFlight >= c.config.InFlight {
		c.giveUp(a, c.overloaded(a.name.ID, "in_flight", c.config.InFlight))
		return
	}
	c.inFlight++
	a.holdsFlight = true
	a.digest = e.RequestDigest
	a.deadline = min(a.deadline, c.now+c.config.lease(e.Timeout))
	if ab := c.stage(a, e.Ops, e.Reads, e.Scans, 0); ab != nil {
		c.giveUp(a, ab)
		return
	}
	// The early look counts only where nobody can have proposed the attempt: what
	// it found changed could be the attempt's own writes.
	if e.Conflict != nil && !a.vague {
		c.end(a, e.Conflict)
		return
	}
	a.decide = &command.Decide{
		Attempt:       command.Attempt{ID: a.name.ID, Begun: a.begun},
		RequestDigest: a.digest,
		Reads:         a.reads,
		Scans:         a.scans,
		Ops:           a.ops,
	}
	if t := machine.CheckSize(c.config.Limits, a.decide); t != nil && !a.vague {
		c.end(a, &Aborted{ID: a.name.ID, Reason: command.ReasonTooLarge, Participant: t.Participant, Key: t.Key, Detail: t.Detail})
		return
	}
	c.armAttempt(a)
	if !c.passes(a) {
		a.state = StateWaiting
		c.atGate = append(c.atGate, a)
		return
	}
	c.prepare(a)
}

// prepare asks everybody for a vote who was called and has a say, in parallel.
func (c *Core) prepare(a *attempt) {
	a.state = StatePreparing
	for _, t := range a.touched {
		p := t.participant
		if t.epoch != p.epoch || c.participants[p.name] != p {
			if !t.counts {
				continue // the step never came to anything, and its instance is gone
			}
			c.end(a, c.moved(a, p, t.epoch))
			return
		}
		if t.counts {
			a.decide.Fences = append(a.decide.Fences, command.Fence{Participant: p.name, Epoch: t.epoch})
		}
		if !p.hasSay {
			continue
		}
		if p.active == nil {
			c.end(a, &Aborted{ID: a.name.ID, Reason: reasonMoved, Participant: p.name, Detail: "its instance is gone: " + c.whyNot(p)})
			return
		}
		if !t.counts {
			a.decide.Fences = append(a.decide.Fences, command.Fence{Participant: p.name, Epoch: t.epoch})
		}
		a.votes = append(a.votes, c.newCall(a, p.active, true))
	}
	slices.SortFunc(a.decide.Fences, func(x, y command.Fence) int { return strings.Compare(x.Participant, y.Participant) })
	if len(a.votes) == 0 {
		c.enqueueAttempt(a)
		return
	}
	for _, v := range a.votes {
		c.send(v.instance, &Prepare{Call: v.id, Attempt: a.attemptName(), Epoch: v.epoch, Timeout: a.deadline - c.now})
	}
}

// vote takes one answer; the last yes completes the Decide, the first no ends
// the attempt.
func (c *Core) vote(e *Vote) {
	v := c.answered(e.Session, e.Participant, e.Instance, e.Call, true)
	if v == nil {
		return
	}
	a := v.attempt
	if a.state != StatePreparing {
		panic("protocol: a vote for an attempt that is " + a.state.String())
	}
	c.forgetCall(v)
	a.votes = slices.DeleteFunc(a.votes, func(other *call) bool { return other == v })
	if !e.Yes {
		reason := command.ReasonVote
		if e.Conflict {
			reason = command.ReasonConflict
		}
		c.end(a, &Aborted{ID: a.name.ID, Reason: reason, Participant: e.Participant, Detail: e.Reason})
		return
	}
	if len(a.votes) == 0 {
		c.enqueueAttempt(a)
	}
}
