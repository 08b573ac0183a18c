package cluster_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/internal/cluster"
	"github.com/cohort-tx/cohort/participant"
)

// membersPatience bounds one change of the members on a busy machine.
const membersPatience = time.Minute

// dialNodes is the operator's API of any node that runs.
func dialNodes(t *testing.T, addr string) pb.NodesClient {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	want(t, nil, err)
	t.Cleanup(func() { conn.Close() })
	return pb.NewNodesClient(conn)
}

// awaitMembers waits until nothing is under way and exactly the nodes vote in the
// group and in the directory.
func awaitMembers(t *testing.T, nodes pb.NodesClient, group string, wanted ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), membersPatience)
	defer cancel()
	var last *pb.ListMembersResponse
	for {
		answer, err := nodes.ListMembers(ctx, &pb.ListMembersRequest{})
		if err == nil {
			last = answer
			var voters []string
			for _, n := range answer.Nodes {
				if n.Directory == "voter" && n.Membership == "member" && slices.ContainsFunc(n.Replicas, func(r *pb.ReplicaOnNode) bool { return r.Group == group && r.Role == "voter" }) {
					voters = append(voters, n.Name)
				}
			}
			if answer.Settled && slices.Equal(voters, wanted) && len(answer.Nodes) == len(wanted) {
				return
			}
		}
		select {
		case <-ctx.Done():
			t.Fatalf("the members are not %v: %v, %v", wanted, last, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Would break: a cluster that cannot grow without stopping, a transaction that
// fails because of a change, or a new replica with another state.
func TestOneNodeToThreeAndBackUnderLoad(t *testing.T) {
	v := openVaultOn(t, cluster.Options{Nodes: 1, RTT: 20 * time.Millisecond}, vaultGroup)
	nodes := dialNodes(t, v.cluster.Members()[0].Addr)
	v.move(4)
	v.create(&pb.CreateCheckpointRequest{Wait: true})
	for range 2 {
		_, err := v.cluster.Join(t.Context())
		want(t, nil, err)
	}
	awaitMembers(t, nodes, "vault", "n1", "n2", "n3")
	client, err := participant.Dial(v.cluster.Addrs())
	want(t, nil, err)
	t.Cleanup(func() { client.Close() })
	v.progress(200)
	info := v.create(&pb.CreateCheckpointRequest{Wait: true})
	if info.State != "complete" || len(info.Copies) < 2 {
		t.Errorf("the checkpoint of three nodes: %v", info)
	}
	v.halt()
	ctx, cancel := context.WithTimeout(t.Context(), membersPatience)
	defer cancel()
	checkEqualReplicas(ctx, t, client, "vault", v.cluster.Members())

	// Back, and the node that all began on is one of those that go.
	nodes = dialNodes(t, v.cluster.Members()[1].Addr)
	v.use(client, v.cluster.Members()[1].Addr)
	v.move(4)
	for _, name := range []string{"n1", "n3"} {
		_, err := nodes.RemoveNode(ctx, &pb.RemoveNodeRequest{Name: name})
		want(t, nil, err)
	}
	awaitMembers(t, nodes, "vault", "n2")
	v.progress(200)
	v.halt()
	for _, name := range []string{"n1", "n3"} {
		<-v.cluster.Node(name).Failed()
		t.Logf("%s: %v", name, v.cluster.Node(name).Err())
		m := v.cluster.Members()[name[1]-'1']
		left, err := filepath.Glob(filepath.Join(m.Config.DataDir, "shard-*"))
		want(t, nil, err)
		kept, err := os.ReadDir(filepath.Join(m.Config.DataDir, "checkpoints"))
		if err != nil && !errors.Is(err, os.ErrNotExist) || len(left)+len(kept) > 0 {
			t.Errorf("%s has %v and %v left of its groups (%v)", name, left, kept, err)
		}
		want(t, nil, v.cluster.Kill(name))
	}
	if total := v.total("vault"); total != vaultTotal {
		t.Errorf("the money is %d, and was %d", total, vaultTotal)
	}
	if info := v.create(&pb.CreateCheckpointRequest{Wait: true}); info.State != "complete" {
		t.Errorf("the checkpoint of the node that is left: %v", info)
	}
	if _, err := nodes.RemoveNode(ctx, &pb.RemoveNodeRequest{Name: "n2"}); err == nil {
		t.Error("the last node was let go")
	}
}

// use makes the vault work through other nodes.
func (v *vault) use(client *participant.Client, addr string) {
	v.t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	want(v.t, nil, err)
	v.t.Cleanup(func() { conn.Close() })
	v.b.client, v.checkpoints = client, pb.NewCheckpointsClient(conn)
}

// progress waits until so many more transfers have committed.
func (v *vault) progress(more int64) {
	v.t.Helper()
	before := v.moved.Load()
	v.b.eventually(v.t, "transfers go on", func() bool { return v.moved.Load() >= before+more })
}
