package participant

import (
	"context"
	"errors"
	"time"

	cohortv1 "github.com/cohort-tx/cohort/api/cohort/v1"
)

// capturedEvery is how often it is looked whether the first state is captured.
const capturedEvery = 100 * time.Millisecond

// CaptureFirst is for a state that holds something before its participant's first
// transaction: no step comes to any instance before such a state is part of a
// complete checkpoint, which is asked for. Without it every new process must begin
// with the same state, an empty one say, or one that stores its Point: what the
// log does not lead to would be gone with the process.
func CaptureFirst() StateOption { return func(o *ownState) { o.captureFirst = true } }

// errUncaptured is what steps are refused for meanwhile; the workflow is run again.
var errUncaptured = errors.New("the state that the participant begins with is in no complete checkpoint yet")

// usable says why no step can run yet. A step that waited here would hold up the
// very checkpoint.
func (o *ownState) usable() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.uncaptured {
		return errUncaptured
	}
	return nil
}

// awaitCapture holds steps back until the participant has a captured state, and
// tells whether it has none.
func (o *ownState) awaitCapture(found *cohortv1.FindStateResponse) (wanted bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.uncaptured = o.captureFirst && found.Capture == nil
	return o.uncaptured
}

// captureOnce asks for a checkpoint once this instance is ready, and again until
// the participant has a captured state. It ends with ctx.
func (o *ownState) captureOnce(ctx context.Context) {
	tick := time.NewTicker(capturedEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		o.mu.Lock()
		ready := o.ready
		o.mu.Unlock()
		if !ready {
			continue
		}
		if found, err := o.find(ctx); err == nil && found.Capture != nil {
			o.mu.Lock()
			o.uncaptured = false
			o.mu.Unlock()
			return
		}
		_, err := requestCheckpoint(ctx, o.client, o.app)
		var none *CheckpointError
		if err != nil && !errors.As(err, &none) && ctx.Err() == nil {
			o.client.opts.logger.Warn("the first checkpoint with the state cannot be asked for", "group", o.app.group, "participant", o.app.participant, "error", err)
		}
	}
}
