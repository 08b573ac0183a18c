package node

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/participant"
)

// Without it a node that is alone of three would call an empty cluster healthy.
func TestStatusWithoutQuorum(t *testing.T) {
	leavesNothing(t)
	n := run(t, configured(t, 3)[0])
	client, err := participant.Dial(n.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	status, err := client.Cluster().Status(patient(t), &pb.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if status.Healthy || len(status.Reasons) != 1 || !strings.Contains(status.Reasons[0], "majority") {
		t.Errorf("one node of three says %v", status)
	}
}

// Without it an operator would see a replica down and not why; and one damaged
// group must not keep its node from serving the others.
func TestStatusTellsWhyAReplicaDoesNotRun(t *testing.T) {
	leavesNothing(t)
	c := configured(t, 1)[0]
	n := run(t, c)
	client, err := participant.Dial(n.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx := patient(t)
	if err := n.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	applyGroup(ctx, t, client, "group: checkout\nparticipants: [{name: orders}]\n")
	put(t, client, "before")
	shard := fmt.Sprintf("shard-%04d-*", n.manager.group("checkout").record.ShardID)
	if err := n.Kill(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(c.DataDir, shard, "store", "CURRENT"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	if err := os.WriteFile(files[0], []byte("damaged"), 0o644); err != nil {
		t.Fatal(err)
	}
	again := run(t, c)
	for {
		status, err := client.Cluster().Status(ctx, &pb.StatusRequest{})
		if err != nil && ctx.Err() != nil {
			t.Fatal(err)
		}
		if err == nil && !status.Healthy && strings.Contains(fmt.Sprint(status.Groups), "CURRENT") {
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("status does not say why: %v", status)
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err := again.Err(); err != nil {
		t.Errorf("the node failed: %v", err)
	}
}
