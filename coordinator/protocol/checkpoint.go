package protocol

import (
	"fmt"
	"slices"
	"time"

	"github.com/cohort-tx/cohort/txlog/command"
)

// phase is where a checkpoint is:
//
//	     ┌───────────────── not in time ◀──┬──────────┐
//	     ▼                                 │          │
//	  pausing ─▶ draining ─quiescent─▶ cutting ─▶ capturing ─▶ over
//	     │ max_wait is over                │ refused
//	     ▼                                 │
//	abandoning ◀───────────────────────────┘
//
// The gate is closed while draining, cutting and capturing, for max_pause at most.
type phase uint8

const (
	phaseDraining   phase = 1 // the gate is closed, what is past it finishes
	phaseCutting    phase = 2 // the Checkpoint is on its way to the log
	phaseCapturing  phase = 3 // the cut is recorded; own state is captured
	phasePausing    phase = 4 // the gate is open until the next try
	phaseAbandoning phase = 5 // the AbandonCheckpoint is on its way
)

// checkpoint is the one that is being taken.
type checkpoint struct {
	ask   *TakeCheckpoint
	began time.Duration // when the core heard of it
	phase phase
	tries int
	// closed: it holds the gate, since closedAt. It may have let go of it while its
	// entry was in doubt: the cut is where the log puts it, and what commits after
	// it is after it.
	closed             bool
	closedAt, openedAt time.Duration
	// draining counts the attempts that it waits for beside those being committed.
	draining int
	// work is the command under way; one that is not this one is not wanted.
	work *work
	// doubted: an entry with it may be in the log besides the one under way.
	doubted  bool
	obstacle obstacle

	number, position uint64
	// asked are those whose own state is to be captured, capturing those that have
	// not answered. lacking: one of them has failed, and so has the checkpoint.
	asked     []string
	capturing []*participant
	lacking   bool
	timer     timer
}

// obstacle is what was in the way of a cut.
type obstacle struct{ detail, transaction, participant string }

// takeCheckpoint begins one, unless one is under way.
func (c *Core) takeCheckpoint(e *TakeCheckpoint) {
	switch {
	case c.draining:
		c.reply(e.Request, &NotServing{Detail: "the node is closing"})
		return
	case c.checkpoint != nil:
		c.reply(e.Request, &Busy{})
		return
	}
	cp := &checkpoint{ask: e, began: c.now}
	cp.timer.owner = cp
	c.checkpoint = cp
	c.closeGate(cp)
}

// shut tells whether commits wait.
func (c *Core) shut() bool {
	return c.held || c.sealed || c.checkpoint != nil && c.checkpoint.closed
}

// passes tells whether an attempt need not wait: a checkpoint that waits for what
// has started would wait for it for ever.
func (c *Core) passes(a *attempt) bool {
	return !c.shut() || a.drained && !c.held && !c.sealed
}

// closeGate begins a try.
func (c *Core) closeGate(cp *checkpoint) {
	cp.phase = phaseDraining
	cp.closed, cp.closedAt = true, c.now
	cp.tries++
	for _, a := range c.attempts {
		if c.mustDrain(a) {
			a.drained = true
			cp.draining++
		}
	}
	c.timers.set(&cp.timer, c.now+c.config.Checkpoint.maxPause())
}

// mustDrain tells whether a cut waits for an attempt that is not being committed:
// wait_for says so, or it has called the active instance of a participant whose
// handlers change its state before the commit, so that a capture would hold half of
// it.
func (c *Core) mustDrain(a *attempt) bool {
	if a.state != StateOpen && a.state != StateWaiting {
		return false
	}
	if a.state == StateOpen && c.config.Checkpoint.WaitFor == WaitForStarted && len(a.touched) > 0 {
		return true
	}
	return slices.ContainsFunc(a.touched, func(t touch) bool { return t.participant.appliesFirst && t.epoch == t.participant.epoch })
}

// keptOut tells whether an attempt's step must wait for the gate: its handler would
// change the participant's state, which is about to be captured.
func (c *Core) keptOut(a *attempt, p *participant) bool {
	return p.appliesFirst && !a.drained && c.checkpoint != nil && c.checkpoint.closed
}

// openGate lets go of the checkpoint's hold on the gate.
func (c *Core) openGate(cp *checkpoint) {
	cp.closed, cp.openedAt = false, c.now
	if cp.draining > 0 {
		cp.draining = 0
		for _, a := range c.attempts {
			a.drained = false
		}
	}
	c.letOn()
	for _, p := range c.order {
		if p.appliesFirst && p.active != nil && p.active.ready {
			c.serveLine(p)
		}
	}
}

// letOn lets on what waited and need not any more, in the order of arrival.
func (c *Core) letOn() {
	waited := c.atGate
	c.atGate = nil
	for _, a := range waited {
		switch {
		case a.state != StateWaiting:
		case c.passes(a):
			c.prepare(a)
		default:
			c.atGate = append(c.atGate, a)
		}
	}
}

// advance takes a checkpoint as far as it goes. It runs after every event, so
// that what one event does is done whole before the gate opens.
func (c *Core) advance() {
	cp := c.checkpoint
	if cp == nil {
		return
	}
	switch {
	case cp.phase == phaseDraining && c.quiescent(cp):
		cp.phase = phaseCutting
		cp.asked = c.asked(cp.ask.Wish.Participants)
		c.enqueueFor(cp, &command.Checkpoint{
			CheckpointRequest: cp.ask.Wish,
			Serves:            cp.ask.Serves,
			WaitNanos:         uint64(cp.wait()),
			Members:           cp.ask.Members,
			MinCopies:         cp.ask.MinCopies,
			Seal:              cp.ask.Seal,
			SealToken:         cp.ask.SealToken,
			Captures:          cp.asked,
		})
	case cp.phase == phaseCapturing && len(cp.capturing) == 0:
		c.taken(cp)
	}
}

// wait is from the trigger to the closing of the gate.
func (cp *checkpoint) wait() time.Duration { return cp.ask.Waited + cp.closedAt - cp.began }

// quiescent: no commit is past the gate, and nothing is on its way to the log.
func (c *Core) quiescent(cp *checkpoint) bool {
	return c.inFlight == len(c.atGate) && cp.draining == 0 && len(c.entries) == 0 && len(c.queue) == c.unwanted
}

func (c *Core) enqueueFor(cp *checkpoint, cmd command.Command) {
	cp.work = &work{command: cmd, checkpoint: cp, alone: true}
	c.enqueue(cp.work)
}

// checkpointDue is called when max_pause is over, or the pause between two tries.
func (c *Core) checkpointDue(cp *checkpoint) {
	switch cp.phase {
	case phasePausing:
		c.closeGate(cp)
	case phaseDraining:
		cp.obstacle = c.inTheWay()
		c.tryAgain(cp)
	case phaseCutting:
		switch {
		case !c.isProposed(cp.work):
			cp.work = nil
			c.abandon()
			cp.obstacle = obstacle{detail: "the log took no proposal within max_pause"}
			c.tryAgain(cp)
		case !cp.ask.Seal:
			c.openGate(cp)
		}
		// What comes after a sealing cut would be refused: it rather waits.
	case phaseCapturing:
		c.captureFailed(cp.capturing[0], "it did not capture its state within max_pause")
		c.taken(cp)
	}
}

func (c *Core) isProposed(w *work) bool {
	for _, en := range c.entryOrder {
		if slices.Contains(en.works, w) {
			return true
		}
	}
	return false
}

// inTheWay names what a cut waits for: first what a participant owes.
func (c *Core) inTheWay() obstacle {
	all := c.all()
	for _, a := range all {
		if a.state == StatePreparing {
			p := a.votes[0].participant.name
			return obstacle{"a vote is outstanding", a.name.ID, p}
		}
	}
	for _, a := range all {
		if !a.drained {
			continue
		}
		if s := a.running(); s != nil {
			return obstacle{fmt.Sprintf("step %d runs", len(a.steps)), a.name.ID, s.ask.Participant}
		}
		return obstacle{"it has executed steps and is neither committed nor given up", a.name.ID, ""}
	}
	o := obstacle{detail: "the log is slow: entries wait for it"}
	for _, en := range c.entryOrder {
		if en.doubtful {
			o.detail = "the log: it is not known whether an entry is in it"
		}
	}
	for _, a := range all {
		if a.state == StateProposed || a.state == StateQueued {
			o.transaction = a.name.ID
			break
		}
	}
	return o
}

// tryAgain opens the gate after a try that came to nothing. The next one is
// after a pause; without time for it the checkpoint is given up.
func (c *Core) tryAgain(cp *checkpoint) {
	if cp.closed {
		c.openGate(cp)
	}
	pause := min(CheckpointPauseMin<<min(cp.tries-1, 16), CheckpointPauseMax)
	if cp.ask.Waited+c.now-cp.began+pause >= c.config.Checkpoint.maxWait() {
		c.giveUpCheckpoint(cp)
		return
	}
	cp.phase = phasePausing
	c.timers.set(&cp.timer, c.now+pause)
}

// giveUpCheckpoint records that there was no cut, and why.
func (c *Core) giveUpCheckpoint(cp *checkpoint) {
	c.timers.stop(&cp.timer)
	cp.phase = phaseAbandoning
	c.enqueueFor(cp, &command.AbandonCheckpoint{
		CheckpointRequest: cp.ask.Wish,
		Serves:            cp.ask.Serves,
		WaitNanos:         uint64(cp.ask.Waited + c.now - cp.began),
		Detail:            cp.obstacle.detail,
		Transaction:       cp.obstacle.transaction,
		Participant:       cp.obstacle.participant,
	})
}

// checkpointed takes the log's answer to a checkpoint's command.
func (c *Core) checkpointed(w *work, r *command.Result, position uint64) {
	cp := w.checkpoint
	if cp != c.checkpoint || cp.work != w {
		panic("protocol: a result for a checkpoint that is over")
	}
	cp.work = nil
	switch {
	case r.Status == command.StatusRefused && r.Reason == command.ReasonStaleEpoch:
		if cp.doubted {
			c.checkpointOver(cp, &Indeterminate{Detail: "a newer coordinator is in charge; the checkpoint may have been recorded before"})
		} else {
			c.checkpointOver(cp, &NotServing{Detail: "a newer coordinator is in charge"})
		}
		c.emit(Superseded{})
	case r.Status == command.StatusRefused && r.Reason == command.ReasonOverloaded:
		switch {
		case cp.phase == phaseAbandoning:
			c.enqueueFor(cp, w.command)
		case cp.closed:
			cp.phase = phaseDraining
		default:
			cp.obstacle = obstacle{detail: "the log's entry was full"}
			c.tryAgain(cp)
		}
	case r.Status == command.StatusRefused:
		c.checkpointRefused(cp, r.Reason, r.Detail)
	case cp.phase == phaseAbandoning:
		c.abandoned(cp, r.Number)
	default:
		cp.number, cp.position = r.Number, position
		c.sealed = c.sealed || cp.ask.Seal
		cp.phase = phaseCapturing
		c.capture(cp)
	}
}

// checkpointRefused ends a checkpoint that the log will not have. That is
// recorded too, where the log can, so that it is not asked for at once again.
func (c *Core) checkpointRefused(cp *checkpoint, reason command.Reason, detail string) {
	if cp.closed {
		c.openGate(cp)
	}
	if cp.phase == phaseAbandoning {
		c.abandoned(cp, 0)
		return
	}
	cp.obstacle = obstacle{detail: "the log refused it: " + detail}
	if reason == command.ReasonUnsupported {
		c.abandoned(cp, 0)
		return
	}
	c.giveUpCheckpoint(cp)
}

// checkpointNotProposed takes back a command that is certainly not in the log,
// and tells whether it is to be proposed again as it is.
func (c *Core) checkpointNotProposed(w *work, tooLarge bool) bool {
	cp := w.checkpoint
	switch {
	case tooLarge:
		cp.work = nil
		c.checkpointRefused(cp, command.ReasonTooLarge, "it does not fit one log entry")
		return false
	case cp.phase == phaseCutting && (!cp.closed || c.now >= cp.closedAt+c.config.Checkpoint.maxPause()):
		// Others have passed the gate since, or are to.
		cp.work = nil
		cp.obstacle = obstacle{detail: "the log took no proposal within max_pause"}
		c.tryAgain(cp)
		return false
	case cp.phase == phaseCutting:
		// What is no commit may have been proposed beside it.
		cp.work = nil
		cp.phase = phaseDraining
		return false
	}
	return true
}

// taken ends a checkpoint that has its cut.
func (c *Core) taken(cp *checkpoint) {
	if cp.closed {
		cp.openedAt = c.now
	}
	pause := cp.openedAt - cp.closedAt
	if cp.lacking {
		c.abandoned(cp, cp.number)
	} else {
		c.checkpointOver(cp, &CheckpointTaken{Number: cp.number, Position: cp.position, Pause: pause, Wait: cp.wait()})
	}
	if !cp.ask.Seal {
		c.enqueue(&work{command: &command.NotePause{Number: cp.number, PauseNanos: uint64(pause)}, note: true})
	}
}

// noted takes the log's answer to what nobody waits for.
func (c *Core) noted(w *work, r *command.Result) {
	switch {
	case r.Status != command.StatusRefused:
	case r.Reason == command.ReasonOverloaded:
		c.enqueue(&work{command: w.command, note: true, alone: true})
	case r.Reason == command.ReasonStaleEpoch:
		c.emit(Superseded{})
	}
}

func (c *Core) abandoned(cp *checkpoint, number uint64) {
	c.checkpointOver(cp, &CheckpointAbandoned{
		Number: number, Detail: cp.obstacle.detail, Transaction: cp.obstacle.transaction, Participant: cp.obstacle.participant,
	})
}

// checkpointOver answers and lets go of the gate.
func (c *Core) checkpointOver(cp *checkpoint, ans Answer) {
	c.timers.stop(&cp.timer)
	c.checkpoint = nil
	c.reply(cp.ask.Request, ans)
	if cp.closed {
		c.openGate(cp)
	}
}

// deposeCheckpoint answers for one that the reign's end interrupts.
func (c *Core) deposeCheckpoint(detail string) {
	cp := c.checkpoint
	if cp == nil {
		return
	}
	c.checkpoint = nil
	switch {
	case cp.phase == phaseCapturing:
		for _, p := range cp.capturing {
			cp.lacks(p.name, "the coordinator changed before it had captured its state")
		}
		c.reply(cp.ask.Request, &CheckpointAbandoned{Number: cp.number, Detail: cp.obstacle.detail, Participant: cp.obstacle.participant})
	case cp.work != nil && c.isProposed(cp.work):
		c.reply(cp.ask.Request, &Indeterminate{Detail: "the coordinator changed while the checkpoint was on its way to the log"})
	default:
		c.reply(cp.ask.Request, &NotServing{Detail: detail})
	}
}
