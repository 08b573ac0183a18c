package protocol

import (
	"fmt"
	"slices"
	"time"

	"github.com/cohort-tx/cohort/txlog/command"
)

// participant is an application of the group and the instances attached as it.
//
//	         attach                     Activate applied
//	(none) ────────▶ candidate ───────────────────────────▶ active
//	                    │  another is active or may come back │ stream ends
//	                    ▼                                     ▼
//	                 standby ◀── fail_after + grace ──── active, not attached
type participant struct {
	name string
	// epoch, node and instance of the activation in the log.
	epoch    uint64
	node     string
	instance string
	// active is the active instance's attachment, nil while it is not attached.
	active *instance
	// hasSay: the active instance votes or has state of its own; kept while it is
	// not attached.
	hasSay bool
	// appliesFirst: the active instance's handlers change its state before the commit;
	// likewise.
	appliesFirst bool
	// own: the log has a record of the participant's own state.
	own bool
	// wanted is the captured state that the log waits for.
	wanted *wantedCapture
	// goneSince is when the active instance was last not attached. goneFor says how
	// sure that is.
	goneSince time.Duration
	goneOrder uint64
	gone      absence
	// activating: an Activate is on its way to the log.
	activating bool
	instances  []*instance // in the order of attaching
	// line of attempts whose step waits for an active instance.
	line  []*attempt
	timer timer
}

// absence says what is known of an active instance that is not attached.
type absence uint8

const (
	absenceUnsure   absence = 0 // a session was lost, or the reign began
	absenceDetached absence = 1 // its agent says that its stream ended
	absenceLeft     absence = 2 // it said goodbye
)

// instance is a process attached as a participant.
type instance struct {
	participant *participant
	nonce       string
	session     uint64
	node        string
	votes       bool
	ownState    bool
	description string
	// appliesFirst, position and phase are of one with state of its own.
	appliesFirst bool
	position     uint64
	phase        Phase
	order        uint64 // of coming and going
	ready        bool
	// standby: it was told that it is one.
	standby bool
	calls   []*call
}

func (in *instance) hasSay() bool { return in.votes || in.ownState }

// recorded tells whether the log has what it must know of an active instance.
func (p *participant) recorded(in *instance) bool { return !in.ownState || p.own }

func (p *participant) find(nonce string) *instance {
	for _, in := range p.instances {
		if in.nonce == nonce {
			return in
		}
	}
	return nil
}

// whyNot says why no step can run now.
func (c *Core) whyNot(p *participant) string {
	switch {
	case p.active != nil && p.active.ready:
		return "a checkpoint waits for what the participant has begun"
	case p.active == nil && c.level < 3 && slices.ContainsFunc(p.instances, func(in *instance) bool { return in.ownState }):
		return "the group's nodes have not all said yet that they can keep what its own state needs; they do as soon as they run this release"
	case p.active != nil:
		return "the active instance is not ready yet: it applies the log"
	case p.activating:
		return "an instance is being activated"
	case p.instance == "":
		return "no instance is attached: start the application"
	}
	return "the active instance is not attached to node " + p.node
}

func (c *Core) send(in *instance, m Message) {
	c.emit(&Send{Session: in.session, Participant: in.participant.name, Instance: in.nonce, Message: m})
}

// attached takes an instance in.
func (c *Core) attached(e *Attached) {
	p := c.participants[e.Participant]
	refuse := func(code RefusalCode, detail string) {
		c.emit(&Send{Session: e.Session, Participant: e.Participant, Instance: e.Instance, Message: &Refused{Code: code, Detail: detail}})
	}
	if p == nil {
		refuse(RefusalUnknownParticipant, fmt.Sprintf("the group has no participant %q", e.Participant))
		return
	}
	in := p.find(e.Instance)
	if in == nil {
		if len(p.instances) >= MaxInstances && e.Instance != p.instance {
			refuse(RefusalTooMany, fmt.Sprintf("the participant has %d instances attached already", MaxInstances))
			return
		}
		in = &instance{participant: p, nonce: e.Instance, order: c.comingAndGoing()}
		p.instances = append(p.instances, in)
	} else {
		// Its stream was renewed before the old one's end was heard of; what was on
		// its way on the old one is lost.
		c.loseCalls(in, "its stream was renewed")
	}
	in.session, in.node = e.Session, e.Node
	in.votes, in.ownState, in.appliesFirst = e.Votes, e.OwnState, e.OwnState && e.AppliesFirst
	in.description, in.position, in.phase = e.Description, e.Position, 0
	in.ready, in.standby = false, false
	if p.instance == in.nonce && p.epoch > 0 && p.recorded(in) {
		c.activate(p, in)
		return
	}
	c.consider(p)
}

// activate makes an attached instance the one that steps go to. The log has said
// so before.
func (c *Core) activate(p *participant, in *instance) {
	if p.instance != in.nonce {
		panic("protocol: activated against the log")
	}
	p.active = in
	p.hasSay, p.appliesFirst = in.hasSay(), in.appliesFirst
	in.ready = !in.ownState
	in.standby = false
	c.timers.stop(&p.timer)
	c.send(in, &Activated{Epoch: p.epoch})
	for _, other := range p.instances {
		if other != in && !other.standby {
			other.standby = true
			c.send(other, &Standby{ActiveEpoch: p.epoch})
		}
	}
	if in.ready {
		c.serveLine(p)
	}
}

// ready lets steps flow to an instance that has applied the log up to its
// activation.
func (c *Core) ready(e *Ready) {
	p := c.participants[e.Participant]
	if p == nil || p.active == nil || p.active.nonce != e.Instance || p.active.session != e.Session || e.Epoch != p.epoch {
		return
	}
	p.active.position = max(p.active.position, e.Position)
	if !p.active.ready {
		p.active.ready = true
		c.serveLine(p)
	}
}

// progress takes an instance's word on how far it is.
func (c *Core) progress(e *Progress) {
	p := c.participants[e.Participant]
	if p == nil {
		return
	}
	if in := p.find(e.Instance); in != nil && in.session == e.Session {
		in.phase, in.position = e.Phase, e.Position
	}
}

// leveled lets instances come into their turn that a feature level kept back.
func (c *Core) leveled(level uint64) {
	c.level = max(c.level, level)
	for _, p := range c.order {
		c.consider(p)
	}
}

func (c *Core) serveLine(p *participant) {
	line := p.line
	p.line = nil
	for _, a := range line {
		if s := a.running(); s != nil && s.call == nil {
			c.dispatch(a, s, p)
			c.armIfLive(a)
		}
	}
}

// consider activates the instance whose turn it is, or sets the moment at which
// one's turn comes.
func (c *Core) consider(p *participant) {
	if p.activating || c.participants[p.name] != p {
		return
	}
	var best *instance
	var bestAt time.Duration
	for _, in := range p.instances {
		if p.active != nil {
			if in != p.active && !in.standby {
				in.standby = true
				c.send(in, &Standby{ActiveEpoch: p.epoch})
			}
			continue
		}
		if at, ok := c.eligible(p, in); ok && (best == nil || at < bestAt) {
			best, bestAt = in, at
		}
	}
	if best != nil && bestAt <= c.now {
		p.activating = true
		c.timers.stop(&p.timer)
		c.enqueue(&work{
			command:     &command.Activate{Participant: p.name, Node: best.node, Instance: best.nonce, Expect: p.epoch, OwnState: best.ownState},
			participant: p,
			instance:    best,
		})
		return
	}
	if best != nil {
		c.timers.set(&p.timer, bestAt)
	}
	for _, in := range p.instances {
		if in != p.active && !in.standby {
			in.standby = true
			c.send(in, &Standby{ActiveEpoch: p.epoch})
		}
	}
}

// eligible is when an instance may take the place of an active one that is not
// attached.
func (c *Core) eligible(p *participant, in *instance) (time.Duration, bool) {
	switch {
	case in.ownState && c.level < 3:
		return 0, false
	case p.instance == "" || p.gone == absenceLeft || p.instance == in.nonce:
		// The active one itself is here when the log does not know yet that it has state
		// of its own.
		return c.now, true
	case p.gone == absenceDetached && in.order > p.goneOrder:
		// It came after the other had gone: a restart, most likely.
		return c.now, true
	case p.gone == absenceUnsure && in.node == p.node:
		// One node's agent announces what is attached there: the other is not.
		return p.goneSince + ReannounceWait, true
	case !c.config.AutoFailover:
		return 0, false
	}
	return p.goneSince + c.config.failover(), true
}

// activationResult takes the log's answer to an Activate.
func (c *Core) activationResult(w *work, r *command.Result) {
	p, in := w.participant, w.instance
	switch {
	case c.participants[p.name] != p:
		// Dropped meanwhile.
	case r.Status == command.StatusDone:
		p.activating = false
		act := w.command.(*command.Activate)
		if active := p.active; active != nil {
			// It came back while the activation was on its way.
			p.active = nil
			c.loseCalls(active, "another activation took its place")
			if active.nonce != act.Instance {
				c.send(active, &Fenced{Epoch: r.Epoch, Reason: "another instance was activated"})
			}
		}
		p.epoch, p.node, p.instance = r.Epoch, act.Node, act.Instance
		p.own = p.own || act.OwnState
		c.captureMoved(p)
		c.miss(p, absenceDetached)
		if attached := p.find(act.Instance); attached != nil && p.recorded(attached) {
			c.activate(p, attached)
			return
		}
		c.consider(p) // gone in between
	case r.Reason == command.ReasonOverloaded:
		c.enqueue(&work{command: w.command, participant: p, instance: in, alone: true})
	case r.Reason == command.ReasonStaleVersion:
		// An earlier proposal of it was applied, or the definition's change raised
		// the epoch: the log knows.
		c.emit(ReadActivation{Participant: p.name})
	case r.Reason == command.ReasonStaleEpoch:
		p.activating = false
		c.emit(Superseded{})
	default:
		p.activating = false
		c.remove(p, in)
		c.send(in, &Refused{Code: RefusalUnknownParticipant, Detail: "the log refused the activation: " + r.Detail})
		c.consider(p)
	}
}

func (c *Core) activationRead(e *ActivationRead) {
	p := c.participants[e.Activation.Participant]
	if p == nil || !p.activating {
		return
	}
	p.activating = false
	p.own = p.own || e.Activation.OwnState
	c.raised(p, e.Activation)
}

// raised takes over an activation that the log has and the core did not ask for.
func (c *Core) raised(p *participant, a Activation) {
	active := p.active
	p.active = nil
	if active != nil {
		c.loseCalls(active, "another activation took its place")
		c.send(active, &Fenced{Epoch: a.Epoch, Reason: "another instance was activated"})
	}
	p.epoch, p.node, p.instance = a.Epoch, a.Node, a.Instance
	c.captureMoved(p)
	c.miss(p, absenceUnsure)
	if in := p.find(p.instance); in != nil && p.recorded(in) {
		c.activate(p, in)
		return
	}
	c.consider(p)
}

// detached takes an instance out.
func (c *Core) detached(e *Detached) {
	p := c.participants[e.Participant]
	if p == nil {
		return
	}
	in := p.find(e.Instance)
	if in == nil || in.session != e.Session {
		return // heard of on another session since
	}
	how := absenceDetached
	if e.Goodbye {
		how = absenceLeft
	}
	c.lose(p, in, how)
}

func (c *Core) sessionClosed(e *SessionClosed) {
	for _, p := range c.order {
		for _, in := range append([]*instance(nil), p.instances...) {
			if in.session == e.Session {
				c.lose(p, in, absenceUnsure)
			}
		}
	}
}

func (c *Core) lose(p *participant, in *instance, how absence) {
	c.remove(p, in)
	if p.active == in {
		p.active = nil
		c.miss(p, how)
	}
	c.loseCalls(in, "its instance is gone")
	c.loseCapture(in, how != absenceUnsure)
	c.consider(p)
}

// miss notes when and how the active instance went.
func (c *Core) miss(p *participant, how absence) {
	p.gone, p.goneSince, p.goneOrder = how, c.now, c.comingAndGoing()
}

// comingAndGoing orders what happens at the same moment.
func (c *Core) comingAndGoing() uint64 {
	c.comings++
	return c.comings
}

func (c *Core) remove(p *participant, in *instance) {
	for i, other := range p.instances {
		if other == in {
			p.instances = append(p.instances[:i], p.instances[i+1:]...)
			return
		}
	}
}

// loseCalls ends what an instance was asked and will not answer any more: steps
// fail, and no vote is a no.
func (c *Core) loseCalls(in *instance, why string) {
	for len(in.calls) > 0 {
		cl := in.calls[0]
		a := cl.attempt
		if cl.prepare {
			c.end(a, &Aborted{ID: a.name.ID, Reason: reasonMoved, Participant: in.participant.name, Detail: why + " before it voted"})
			continue
		}
		c.stepFailed(a, a.running(), FailureInstanceLost, why)
		c.armIfLive(a)
	}
	c.loseCapture(in, false)
}

// dropParticipant ends what belongs to a participant that the group has no more.
func (c *Core) dropParticipant(p *participant) {
	c.timers.stop(&p.timer)
	gone := &Refused{Code: RefusalUnknownParticipant, Detail: "the participant was removed from the group"}
	for _, in := range append([]*instance(nil), p.instances...) {
		c.remove(p, in)
		p.active = nil
		c.loseCalls(in, "the participant was removed")
		c.loseCapture(in, true)
		c.send(in, gone)
	}
	for _, a := range append([]*attempt(nil), p.line...) {
		c.end(a, &Aborted{ID: a.name.ID, Reason: command.ReasonUnknownParticipant, Participant: p.name, Detail: "the participant was removed from the group"})
	}
	p.line = nil
}
