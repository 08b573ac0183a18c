package protocol

import (
	"fmt"
	"slices"

	"github.com/cohort-tx/cohort/txlog/command"
)

// wantedCapture is the own state that an instance was asked for and that is not
// stored yet:
//
//	asked ─Captured─▶ taken, on its way to a node ─ReportCapture─▶ stored
//	  └──────┬──────────┘
//	         └── a failure, the instance or its activation gone ─▶ failed
//
// A failure is reported to the log, which abandons the checkpoint.
type wantedCapture struct {
	number, position, epoch uint64
	instance                string
	taken                   bool
}

// asked names the participants whose own state is captured at a cut that is
// proposed now: those with an instance that has applied the log. Of the others the
// checkpoint has what it had before.
func (c *Core) asked(of []string) []string {
	var names []string
	for _, p := range c.order {
		if p.own && p.active != nil && p.active.ownState && p.active.ready && (len(of) == 0 || slices.Contains(of, p.name)) {
			names = append(names, p.name)
		}
	}
	slices.Sort(names)
	return names
}

// capture asks for own state as of the cut. Where the gate is open already it may
// be past it.
func (c *Core) capture(cp *checkpoint) {
	if cp.ask.Seal {
		// The gate stays closed: a late cut takes no time from the captures.
		c.timers.set(&cp.timer, c.now+c.config.Checkpoint.maxPause())
	}
	for _, name := range cp.asked {
		if cp.lacking {
			return
		}
		p := c.participants[name]
		if p == nil {
			cp.lacks(name, "the participant was removed") // the driver tells the log
			continue
		}
		in := p.active
		p.wanted = &wantedCapture{number: cp.number, position: cp.position, epoch: p.epoch}
		switch {
		case in == nil || !in.ready || !in.ownState:
			c.captureFailed(p, "its instance was lost when the cut was recorded")
		case !cp.closed:
			c.captureFailed(p, "the log took longer than max_pause to record the cut, so that its state may be past it")
		default:
			p.wanted.instance = in.nonce
			cp.capturing = append(cp.capturing, p)
			c.send(in, &Capture{Checkpoint: cp.number, Position: cp.position, Epoch: p.epoch})
		}
	}
}

// captured takes one answer: only from who was asked, of what it was asked for.
func (c *Core) captured(e *Captured) {
	p := c.participants[e.Participant]
	if p == nil || p.wanted == nil || p.active == nil || p.active.session != e.Session || p.active.nonce != e.Instance {
		return
	}
	if w := p.wanted; w.number != e.Number || w.position != e.Position || w.epoch != e.Epoch || w.instance != e.Instance {
		return
	}
	if e.Failure != "" {
		c.captureFailed(p, e.Failure)
		return
	}
	p.wanted.taken = true
	if cp := c.checkpoint; cp != nil {
		cp.capturing = slices.DeleteFunc(cp.capturing, func(o *participant) bool { return o == p })
	}
}

// captureFailed tells the log that there will be no captured state, and so no
// checkpoint: nobody else's is waited for any more.
func (c *Core) captureFailed(p *participant, why string) {
	w := p.wanted
	for _, o := range c.order {
		if o.wanted != nil && o.wanted.number == w.number {
			o.wanted = nil
		}
	}
	p.wanted = nil
	if cp := c.checkpoint; cp != nil && cp.phase == phaseCapturing && cp.number == w.number {
		cp.lacks(p.name, why)
	}
	c.enqueue(&work{note: true, command: &command.ReportCapture{
		Number: w.number, Participant: p.name, Epoch: w.epoch, Position: w.position, Failure: why,
	}})
}

// loseCapture ends the waiting for what an instance was asked on a stream that has
// ended, or for all of it when the instance is gone for good.
func (c *Core) loseCapture(in *instance, gone bool) {
	p := in.participant
	if w := p.wanted; w != nil && w.instance == in.nonce && (gone || !w.taken) {
		c.captureFailed(p, "its instance was lost before its state was stored")
	}
}

// captureMoved ends the waiting for what an earlier activation captured.
func (c *Core) captureMoved(p *participant) {
	if p.wanted != nil && p.wanted.epoch != p.epoch {
		c.captureFailed(p, "another activation took the instance's place before its state was stored")
	}
}

// captureStored takes note that the log has an instance's captured state.
func (c *Core) captureStored(r *command.ReportCapture) {
	if p := c.participants[r.Participant]; p != nil && p.wanted != nil && p.wanted.number == r.Number && r.Failure == "" {
		p.wanted = nil
	}
}

// lacks notes why the checkpoint is abandoned though it has a cut; the first reason
// stands.
func (cp *checkpoint) lacks(participant, why string) {
	if !cp.lacking {
		cp.lacking, cp.capturing = true, nil
		cp.obstacle = obstacle{detail: fmt.Sprintf("participant %s: %s", participant, why), participant: participant}
	}
}

// AwaitsCapture tells whether the captured state of a participant may still come,
// of a checkpoint whose record the log has. It may not when it was asked for in an
// earlier reign, nor when the instance has been gone for as long as a failover
// takes to begin.
func (c *Core) AwaitsCapture(number uint64, participant string) bool {
	if cp := c.checkpoint; cp != nil && (cp.phase == phaseCutting || cp.phase == phaseCapturing) {
		return true // what the log has the core may not have heard of yet
	}
	p := c.participants[participant]
	if p == nil || p.wanted == nil || p.wanted.number != number {
		return false
	}
	return p.active != nil || c.now < p.goneSince+c.config.failover()
}
