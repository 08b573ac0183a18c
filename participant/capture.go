package participant

import (
	"context"
	"errors"
	"fmt"
	"io"

	cohortv1 "github.com/cohort-tx/cohort/api/cohort/v1"
)

// asked takes the request for a capture. A newer one takes the place of one that
// was not answered.
func (o *ownState) asked(c *cohortv1.Capture) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.capture = c
	o.wakeUp()
}

// attendCapture captures the state when it is where the cut is, between applying
// the cut and applying anything after it.
func (o *ownState) attendCapture(ctx context.Context) error {
	o.mu.Lock()
	c, at, act := o.capture, o.applied, o.activation
	if c == nil || act != nil && c.ActivationEpoch == act.Epoch && at.Position < c.Position {
		o.mu.Unlock()
		return nil
	}
	o.capture = nil
	first := o.lingering
	for _, a := range o.attempts.byKey {
		first += len(a.changes)
	}
	o.mu.Unlock()
	var state io.WriterTo
	var err error
	switch {
	case act == nil || c.ActivationEpoch != act.Epoch:
		err = errors.New(notActive(c.ActivationEpoch))
	case at.Position > c.Position:
		err = fmt.Errorf("the state is at position %d already", at.Position)
	case first > 0:
		err = fmt.Errorf("the state may hold %d changes of transactions that are not decided", first)
	default:
		err = o.safely(func() error {
			if advancer, ok := o.state.(Advancer); ok {
				if err := advancer.Advance(ctx, at); err != nil {
					return err
				}
			}
			state, err = o.state.Capture(ctx)
			if err == nil && state == nil {
				err = errors.New("it gave nothing")
			}
			return err
		})
	}
	if err != nil {
		o.captured(c, fmt.Errorf("capture: %w", err))
		return nil
	}
	o.captured(c, nil)
	o.uploads.begin(&upload{
		client: o.client, state: state, failed: func(err error) { o.captured(c, err) },
		header: &cohortv1.CaptureHeader{
			Group: o.app.group, Participant: o.app.participant, Instance: o.app.instance(), Checkpoint: c.Checkpoint,
			Position: c.Position, ActivationEpoch: c.ActivationEpoch, Incarnation: at.Incarnation,
		},
	})
	return nil
}

func (o *ownState) captured(c *cohortv1.Capture, err error) {
	m := &cohortv1.Captured{Checkpoint: c.Checkpoint, Position: c.Position, ActivationEpoch: c.ActivationEpoch}
	if err != nil {
		m.Failure = sendable(err.Error())
		o.client.opts.logger.Warn("no captured state for a checkpoint", "group", o.app.group, "participant", o.app.participant,
			"checkpoint", c.Checkpoint, "position", c.Position, "error", err)
	}
	o.app.say(&cohortv1.InstanceMessage{Message: &cohortv1.InstanceMessage_Captured{Captured: m}})
}
