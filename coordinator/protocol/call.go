package protocol

import (
	"fmt"

	"github.com/cohort-tx/cohort/txlog/command"
)

// call is a message to an instance that waits for its answer.
type call struct {
	id          uint64
	attempt     *attempt
	participant *participant
	instance    *instance
	epoch       uint64
	prepare     bool
	place       int // in instance.calls
}

// call runs the attempt's next step, joins the running one, or repeats the
// stored answer of an earlier one.
func (c *Core) call(e *Call) {
	a, ans := c.find(e.Attempt)
	if a == nil {
		c.reply(e.Request, ans)
		return
	}
	done := len(a.steps)
	switch {
	case e.Step == 0 || int(e.Step) > done+1 || int(e.Step) == done+1 && a.running() != nil:
		c.reply(e.Request, &Invalid{Field: "step", Detail: fmt.Sprintf("steps are called one after the other: %d were called so far, this is %d", done, e.Step)})
	case int(e.Step) <= done:
		c.repeat(a.steps[e.Step-1], e)
	case a.state != StateOpen:
		c.reply(e.Request, &Invalid{Field: "attempt", Detail: "its decision has been asked for: it takes no more steps"})
	default:
		c.startStep(a, e)
	}
}

func (c *Core) repeat(s *step, e *Call) {
	switch {
	case s.ask.Participant != e.Participant || s.ask.Method != e.Method:
		c.reply(e.Request, &Invalid{Field: "step", Detail: fmt.Sprintf("step %d was another call: %s at %s", e.Step, s.ask.Method, s.ask.Participant)})
	case s.answer != nil:
		c.reply(e.Request, s.answer)
	case len(s.waiters) >= MaxWaiters:
		c.reply(e.Request, &Invalid{Field: "step", Detail: fmt.Sprintf("the step has been sent %d times and still runs", MaxWaiters)})
	default:
		s.waiters = append(s.waiters, e.Request)
	}
}

func (c *Core) startStep(a *attempt, e *Call) {
	p := c.participants[e.Participant]
	refuse := func(ab *Aborted) {
		ab.ID = a.name.ID
		a.waiters = append(a.waiters, e.Request)
		c.end(a, ab)
	}
	switch {
	case p == nil:
		refuse(&Aborted{Reason: command.ReasonUnknownParticipant, Participant: e.Participant, Detail: "the group has no such participant"})
		return
	case len(a.steps) >= MaxSteps:
		refuse(&Aborted{Reason: command.ReasonTooLarge, Detail: fmt.Sprintf("an attempt has at most %d steps", MaxSteps)})
		return
	}
	if ab := c.stage(a, e.Ops, nil, nil, len(e.Payload)); ab != nil {
		refuse(ab)
		return
	}
	until := c.now + c.config.lease(e.Timeout)
	s := &step{ask: e, waiters: []uint64{e.Request}, until: until}
	a.steps = append(a.steps, s)
	c.dispatch(a, s, p)
	c.armIfLive(a)
}

// stage adds changes and reads to an attempt, or says which limit they break.
func (c *Core) stage(a *attempt, ops []command.Op, reads []command.Read, scans []command.ScanRead, extra int) *Aborted {
	n := int64(extra) + stagedBytes(ops, reads, scans)
	// Several times what the state machine admits: it also counts payloads here.
	if most := 4 * int64(c.config.Limits.WithDefaults().TransactionBytes); a.bytes+n > most {
		return &Aborted{ID: a.name.ID, Reason: command.ReasonTooLarge, Detail: fmt.Sprintf("the attempt holds more than %d bytes of changes, reads and payloads: four times limits.transaction_bytes", most)}
	}
	if !c.hold(a, n) {
		return c.overloaded(a.name.ID, "staged_bytes", c.config.StagedBytes)
	}
	a.ops = join(a.ops, ops)
	a.reads = join(a.reads, reads)
	a.scans = join(a.scans, scans)
	return nil
}

// join appends without a copy where there is nothing to append to.
func join[T any](to, more []T) []T {
	if len(to) == 0 {
		return more[:len(more):len(more)]
	}
	return append(to, more...)
}

func stagedBytes(ops []command.Op, reads []command.Read, scans []command.ScanRead) int64 {
	// 64 is about what a record of each takes beside its strings.
	n := 64 * (len(ops) + len(reads) + len(scans))
	for i := range ops {
		n += len(ops[i].Key) + len(ops[i].Value)
	}
	for i := range reads {
		n += len(reads[i].Key)
	}
	for i := range scans {
		n += len(scans[i].Start) + len(scans[i].End)
	}
	return int64(n)
}

// dispatch sends a step to the participant's active instance, or lets it wait in
// line for one.
func (c *Core) dispatch(a *attempt, s *step, p *participant) {
	in := p.active
	if in == nil || !in.ready || c.keptOut(a, p) {
		if len(p.line) >= MaxWaitingCalls {
			c.stepFailed(a, s, FailureRecovering, fmt.Sprintf("%d calls wait for the participant already", MaxWaitingCalls))
			return
		}
		p.line = append(p.line, a)
		s.until = min(s.until, c.now+c.config.recoverWait())
		return
	}
	t := a.touchOf(p)
	switch {
	case t == nil:
		a.touched = append(a.touched, touch{participant: p, epoch: p.epoch})
	case t.epoch != p.epoch && t.counts:
		c.end(a, c.moved(a, p, t.epoch))
		return
	default:
		t.epoch = p.epoch
	}
	s.until = min(c.now+c.config.lease(s.ask.Timeout), a.deadline)
	s.call = c.newCall(a, in, false)
	c.send(in, &Step{
		Call:        s.call.id,
		Attempt:     a.attemptName(),
		Step:        s.ask.Step,
		Method:      s.ask.Method,
		Payload:     s.ask.Payload,
		ContentType: s.ask.ContentType,
		Position:    a.position,
		Epoch:       p.epoch,
		Timeout:     s.until - c.now,
		Lease:       a.deadline - c.now,
	})
}

func (c *Core) moved(a *attempt, p *participant, epoch uint64) *Aborted {
	return &Aborted{ID: a.name.ID, Reason: reasonMoved, Participant: p.name, Detail: fmt.Sprintf("the activation epoch is %d; a step ran under %d", p.epoch, epoch)}
}

func (c *Core) newCall(a *attempt, in *instance, prepare bool) *call {
	cl := &call{id: c.number(), attempt: a, participant: in.participant, instance: in, epoch: in.participant.epoch, prepare: prepare}
	c.calls[cl.id] = cl
	cl.place = len(in.calls)
	in.calls = append(in.calls, cl)
	return cl
}

func (c *Core) forgetCall(cl *call) {
	delete(c.calls, cl.id)
	in := cl.instance
	last := len(in.calls) - 1
	moved := in.calls[last]
	in.calls[cl.place], moved.place = moved, cl.place
	in.calls[last] = nil
	in.calls = in.calls[:last]
}

// answered finds the call that an instance answers. An answer counts only from
// the instance that was asked, on the stream it was asked on: everything else is
// late, repeated or of a fenced instance. The calls of an instance end with its
// attachment, so that none outlives the activation epoch it was made under.
func (c *Core) answered(session uint64, participant, instance string, id uint64, prepare bool) *call {
	cl := c.calls[id]
	if cl == nil || cl.prepare != prepare || cl.participant.name != participant || cl.instance.nonce != instance || cl.instance.session != session {
		return nil
	}
	if cl.epoch != cl.participant.epoch || cl.participant.active != cl.instance {
		panic("protocol: a call outlived its activation")
	}
	return cl
}

func (c *Core) stepResult(e *StepResult) {
	cl := c.answered(e.Session, e.Participant, e.Instance, e.Call, false)
	if cl == nil {
		return
	}
	a := cl.attempt
	s := a.running()
	if s == nil || s.call != cl {
		panic("protocol: a call without its step")
	}
	c.forgetCall(cl)
	s.call = nil
	a.touchOf(cl.participant).counts = true
	ops := e.Ops
	if e.Failure != nil {
		// What a failed handler read its caller may act on; what it staged is void.
		ops = nil
	}
	for i := range ops {
		if ops[i].AppliedEpoch != 0 {
			ops[i].AppliedEpoch = cl.epoch
		}
	}
	if ab := c.stage(a, ops, e.Reads, e.Scans, len(e.Payload)); ab != nil {
		c.end(a, ab)
		return
	}
	if e.Failure != nil {
		s.answer = &StepFailed{Code: e.Failure.Code, Participant: e.Participant, Message: e.Failure.Message}
	} else {
		s.answer = &StepDone{Payload: e.Payload, ContentType: e.ContentType}
	}
	c.replyAll(s.waiters, s.answer)
	s.waiters = nil
	c.armIfLive(a)
}

// stepFailed ends a step, not its attempt.
func (c *Core) stepFailed(a *attempt, s *step, code FailureCode, message string) {
	if s.call != nil {
		c.forgetCall(s.call)
		s.call = nil
	} else {
		c.leaveLine(a, s)
	}
	s.answer = &StepFailed{Code: code, Participant: s.ask.Participant, Message: message}
	c.replyAll(s.waiters, s.answer)
	s.waiters = nil
}

// stepDue is called when a running step's time ran out.
func (c *Core) stepDue(a *attempt) {
	s := a.running()
	if s == nil || c.now < s.until {
		return
	}
	if s.call != nil {
		c.stepFailed(a, s, FailureTimeout, "the handler did not answer in time")
		return
	}
	c.stepFailed(a, s, FailureRecovering, c.whyNot(c.participants[s.ask.Participant]))
}

// leaveLine takes an attempt out of those that wait for a participant.
func (c *Core) leaveLine(a *attempt, s *step) {
	p := c.participants[s.ask.Participant]
	if p == nil {
		return
	}
	for i, other := range p.line {
		if other == a {
			p.line = append(p.line[:i], p.line[i+1:]...)
			return
		}
	}
}
