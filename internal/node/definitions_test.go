package node

import (
	"testing"

	"github.com/cohort-tx/cohort/groups"
	"github.com/cohort-tx/cohort/participant"
)

// Without it a crash between a group's log and the directory would leave nodes
// without a replica showing an old definition for good.
func TestDirectoryFollowsTheLog(t *testing.T) {
	leavesNothing(t)
	n := run(t, configured(t, 1)[0])
	ctx := patient(t)
	if err := n.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	client, err := participant.Dial(n.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	applyGroup(ctx, t, client, "group: work\nparticipants: [{name: a}]\n")

	// The coordinator changes the log; the directory is not told.
	changed := groups.Default("work", "a", "b")
	version, err := n.manager.group("work").coordinator.Configure(ctx, changed, false)
	if err != nil {
		t.Fatal(err)
	}
	record, _ := n.directory.State().Group("work")
	if record.Version >= version {
		t.Fatalf("the directory is at version %d already: the test shows nothing", record.Version)
	}
	n.manager.bringUpDefinitions(ctx)
	state, err := n.directory.Read(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if record, _ = state.Group("work"); record.Version != version {
		t.Errorf("the directory is at version %d, the log at %d", record.Version, version)
	}
}
