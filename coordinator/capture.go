package coordinator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/machine"
)

// captureWait bounds how long a state that was captured may take to be stored. It
// is far above what gigabytes take; a checkpoint that lacks one holds up the next.
const captureWait = 10 * time.Minute

// ReportCapture takes a node's word that a captured state is stored there, or why
// there is none, and returns when the log has recorded it. What the log refuses is
// an *Invalid: the report is not of a state that a checkpoint waits for. Other
// errors: ErrNotServing, *Indeterminate, those of ctx.
func (c *Coordinator) ReportCapture(ctx context.Context, report command.ReportCapture) error {
	g := c.reign.Load()
	if g == nil {
		return ErrNotServing
	}
	_, err := g.administer(ctx, &report)
	return err
}

// giveUpCaptures ends the waiting for states that will not come: those asked for
// by an earlier coordinator, whose questions went with it, and those that take too
// long. Their checkpoints are abandoned, and what was due before them is due again.
func (c *Coordinator) giveUpCaptures(ctx context.Context, g *reign, inherited bool, now time.Time) error {
	all, err := c.Checkpoints()
	if err != nil {
		return err
	}
	var errs []error
	for i := range all {
		for _, report := range capturesToGiveUp(&all[i], inherited, now) {
			g.log.Warn("the state of a participant is not waited for any longer", zap.Uint64("checkpoint", report.Number),
				zap.String("participant", report.Participant), zap.String("reason", report.Failure))
			var no *Invalid
			if _, err := g.administer(ctx, &report); err != nil && !errors.As(err, &no) {
				errs = append(errs, err) // refused means that it is decided meanwhile
			}
		}
	}
	return errors.Join(errs...)
}

// capturesToGiveUp is the rule. inherited: the reign has just begun, so that
// everything wanted was asked for by another.
func capturesToGiveUp(c *machine.Checkpoint, inherited bool, now time.Time) (reports []command.ReportCapture) {
	if c.State != machine.CheckpointWriting {
		return nil
	}
	why := ""
	switch {
	case inherited:
		why = "the coordinator changed while its state was being captured"
	case now.Sub(time.Unix(0, c.TimeUnixNano)) > captureWait:
		why = fmt.Sprintf("its state was not stored within %s", captureWait)
	default:
		return nil
	}
	for i := range c.Captures {
		if p := &c.Captures[i]; p.State == machine.CaptureWanted {
			reports = append(reports, command.ReportCapture{Number: c.Number, Participant: p.Participant, Epoch: p.Epoch, Position: p.Position, Failure: why})
		}
	}
	return reports
}
