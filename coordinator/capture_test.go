package coordinator

import (
	"strings"
	"testing"
	"time"

	"github.com/cohort-tx/cohort/txlog/machine"
)

// Would break: a checkpoint that waits for ever for a state that nobody sends, or
// one that is given up while it is being sent.
func TestCapturesAreGivenUp(t *testing.T) {
	cut := time.Unix(1000, 0)
	waits := machine.Checkpoint{
		Number: 7, State: machine.CheckpointWriting, TimeUnixNano: cut.UnixNano(),
		Captures: []machine.Capture{
			{Participant: "a", State: machine.CaptureWanted, Epoch: 3, Position: 40},
			{Participant: "b", State: machine.CaptureStored, Epoch: 2, Position: 40},
			{Participant: "c", State: machine.CaptureInherited, Epoch: 1, Position: 9},
		},
	}
	complete := waits
	complete.State = machine.CheckpointComplete
	for name, c := range map[string]struct {
		checkpoint machine.Checkpoint
		inherited  bool
		after      time.Duration
		want       string
	}{
		"it is being sent":              {checkpoint: waits, after: captureWait},
		"it takes too long":             {checkpoint: waits, after: captureWait + 1, want: "not stored within"},
		"asked for by another reign":    {checkpoint: waits, inherited: true, after: time.Second, want: "the coordinator changed"},
		"a checkpoint that is complete": {checkpoint: complete, inherited: true, after: 2 * captureWait},
	} {
		reports := capturesToGiveUp(&c.checkpoint, c.inherited, cut.Add(c.after))
		switch {
		case c.want == "" && len(reports) > 0:
			t.Errorf("%s: given up: %+v", name, reports)
		case c.want == "":
		case len(reports) != 1 || reports[0].Number != 7 || reports[0].Participant != "a" || reports[0].Epoch != 3 || reports[0].Position != 40:
			t.Errorf("%s: %+v, want one report for a", name, reports)
		case !strings.Contains(reports[0].Failure, c.want):
			t.Errorf("%s: because %q, want %q", name, reports[0].Failure, c.want)
		}
	}
}
