package coordinator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/cohort-tx/cohort/coordinator/protocol"
	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/machine"
)

// captureWait bounds the time from a cut to its captured states being stored: they
// take as long as there is state, and until then no checkpoint is complete.
const captureWait = 10 * time.Minute

// ReportCapture records that a node has stored captured state, or why there is
// none. Errors: *Invalid when the log does not want it (any more), *Indeterminate,
// ErrNotServing, those of ctx.
func (c *Coordinator) ReportCapture(ctx context.Context, report command.ReportCapture) error {
	g := c.reign.Load()
	if g == nil {
		return ErrNotServing
	}
	_, err := g.administer(ctx, &report)
	return err
}

// strandedCapture is one that the log waits for and that will not come.
type strandedCapture struct {
	capture machine.Capture
	number  uint64
	age     time.Duration
}

// failStranded tells the log of captures that nobody brings any more: those that an
// earlier coordinator asked for, since it knew from whom, those whose instance is
// gone, and those that take too long. So their checkpoints are abandoned, and
// others are taken.
func (c *Coordinator) failStranded(ctx context.Context, g *reign) error {
	wanted, err := c.wantedCaptures(time.Now())
	if err != nil || len(wanted) == 0 {
		return err
	}
	awaited := make(chan []bool, 1)
	err = g.inLoop(ctx, func() {
		step := make([]bool, len(wanted))
		for i := range wanted {
			step[i] = g.core.AwaitsCapture(wanted[i].number, wanted[i].capture.Participant)
		}
		awaited <- step
	})
	if err != nil {
		return err
	}
	for i, waits := range <-awaited {
		w := &wanted[i]
		why := "the coordinator changed, or the instance has gone, before the state was stored"
		if waits {
			if w.age < captureWait {
				continue
			}
			why = fmt.Sprintf("the state was not stored within %s", captureWait)
		}
		_, err := g.administer(ctx, &command.ReportCapture{
			Number: w.number, Participant: w.capture.Participant, Epoch: w.capture.Epoch, Position: w.capture.Position, Failure: why,
		})
		var refused *Invalid
		if errors.As(err, &refused) {
			continue // it is decided by now
		}
		if err != nil {
			return err
		}
		g.log.Warn("a captured state will not come: the checkpoint is abandoned", zap.Uint64("checkpoint", w.number),
			zap.String("participant", w.capture.Participant), zap.String("reason", why))
	}
	return nil
}

// wantedCaptures reads what the log waits for, as of this replica.
func (c *Coordinator) wantedCaptures(now time.Time) ([]strandedCapture, error) {
	all, err := c.Checkpoints()
	if err != nil {
		return nil, err
	}
	var wanted []strandedCapture
	for i := range all {
		if all[i].State != machine.CheckpointWriting {
			continue
		}
		for _, capture := range all[i].Captures {
			if capture.State == machine.CaptureWanted {
				wanted = append(wanted, strandedCapture{capture: capture, number: all[i].Number, age: now.Sub(time.Unix(0, all[i].TimeUnixNano))})
			}
		}
	}
	return wanted, nil
}

const (
	// inheritedWorthMention is how many complete checkpoints in a row may have a
	// participant's state of an earlier one before that is worth a mention: each adds
	// to the log that must be kept, and that the participant applies when it is
	// restored.
	inheritedWorthMention = 3
	// uncapturedWorthMention is how many positions the log may have beyond a
	// participant's newest captured state: an instance that is so far behind restores
	// rather than follows.
	uncapturedWorthMention = 1_000_000
	// ownLagWorthMention is how many positions an active instance may be behind the
	// log: its steps wait until it has applied what their snapshot has.
	ownLagWorthMention = 10_000
)

// ownStateReason says what is wrong with a participant's own state, empty when
// nothing is.
func ownStateReason(p *protocol.ParticipantInfo, own *machine.OwnState, checkpoints []machine.Checkpoint, position uint64) string {
	inherited := 0
	for i := range checkpoints {
		c := &checkpoints[i]
		if c.State == machine.CheckpointComplete && c.Whole() && c.Position > own.From() && (own.Last.State == 0 || c.Number > own.Last.Checkpoint) {
			inherited++
		}
	}
	since := "was never captured"
	if own.Last.State != 0 {
		since = fmt.Sprintf("was last captured at position %d", own.Last.Position)
	}
	switch {
	case p.Active != nil && !p.Active.OwnState:
		return "it keeps state of its own, and the active instance says that it has none: start the application with its state, or remove the participant with its data"
	case inherited >= inheritedWorthMention:
		return fmt.Sprintf("its state %s, and %d checkpoints were completed without it since: the log from there on is kept; start an instance, and see that it comes to be ready", since, inherited)
	case position > own.From()+uncapturedWorthMention:
		return fmt.Sprintf("its state %s, %d positions ago: start an instance, and take a checkpoint", since, position-own.From())
	case p.Active != nil && position > p.Active.Position+ownLagWorthMention:
		return fmt.Sprintf("the active instance is %d positions behind the log", position-p.Active.Position)
	}
	return ""
}
