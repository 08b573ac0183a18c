package node

import (
	"strings"
	"testing"

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
