package node

import (
	"context"
	"os"
	"testing"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/participant"
)

// TestMain runs the client of BenchmarkCommit when asked to.
func TestMain(m *testing.M) {
	if spec := os.Getenv(benchClientEnv); spec != "" {
		benchClient(spec)
		return
	}
	os.Exit(m.Run())
}

func applyGroup(ctx context.Context, t testing.TB, client *participant.Client, yaml string) {
	t.Helper()
	answer, err := client.Cluster().Apply(ctx, &pb.ApplyRequest{Files: []*pb.ApplyFile{{Name: "group.yaml", Yaml: []byte(yaml)}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, fault := range answer.Errors {
		t.Fatalf("group.yaml:%d:%d: %s", fault.Line, fault.Column, fault.Message)
	}
}
