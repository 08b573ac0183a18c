package coordinator

import (
	"slices"
	"testing"

	"github.com/cohort-tx/cohort/txlog/command"
)

// Would break: participants that are named in another order than that of their
// names, or twice, and that the log refuses.
func TestParticipantsOfACheckpointInAnyOrder(t *testing.T) {
	c := newTestCoordinator(t, nil)
	c.until("it can take checkpoints", func() bool { return c.supportsCheckpoints() == nil })
	taken, err := c.RequestCheckpoint(ctx, CheckpointRequest{Trigger: command.TriggerOperator, By: "n1", Participants: []string{"payments", "inventory", "payments"}})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"inventory", "payments"}; !slices.Equal(taken.Request.Participants, want) {
		t.Errorf("the checkpoint is of %v, not of %v", taken.Request.Participants, want)
	}
}
