package cluster_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/configs"
	"github.com/cohort-tx/cohort/internal/cluster"
	"github.com/cohort-tx/cohort/participant"
)

const listedGroup = `group: vault
participants: [{name: left}, {name: right}]
checkpoint: {interval: 1h, log_bytes: 0, log_entries: 0, min_gap: 1ms, max_wait: 10s, max_pause: 1s}
replicas: [%s]
`

func (v *vault) apply(nodes string) []*pb.FileError {
	v.t.Helper()
	answer, err := v.b.client.Cluster().Apply(v.t.Context(), &pb.ApplyRequest{Files: []*pb.ApplyFile{{Name: "vault.yaml", Yaml: fmt.Appendf(nil, listedGroup, nodes)}}})
	want(v.t, nil, err)
	return answer.Errors
}

// Would break: a change of the members that stops, or goes wrong, when the node
// that drives it dies between two steps.
func TestFaultMembersMoveWhileDriversAreKilled(t *testing.T) {
	v := openVaultOn(t, cluster.Options{Nodes: 3, RTT: 20 * time.Millisecond}, fmt.Sprintf(listedGroup, "n1, n2, n3"))
	_, err := v.cluster.Join(t.Context())
	want(t, nil, err)
	ctx, cancel := context.WithTimeout(t.Context(), 2*membersPatience)
	defer cancel()
	want(t, nil, v.cluster.WaitReady(ctx))
	client, err := participant.Dial(v.cluster.Addrs())
	want(t, nil, err)
	t.Cleanup(func() { client.Close() })
	v.b.client = client
	v.move(4)
	if faults := v.apply("n2, n3, n9"); len(faults) != 1 || !strings.Contains(faults[0].Message, "n9") {
		t.Errorf("replicas on a node that is not there: %v", faults)
	}
	if faults := v.apply("n2, n3, n4"); len(faults) > 0 {
		t.Fatalf("apply: %v", faults)
	}
	kills := v.killDrivers(ctx)
	v.progress(50)
	v.halt()
	t.Logf("%d drivers killed", kills)
	if kills == 0 {
		t.Error("no driver was killed")
	}
	voters := votersOf(ctx, t, v.cluster, "vault")
	if fmt.Sprint(voters) != "[n2 n3 n4]" {
		t.Errorf("the group is on %v", voters)
	}
	checkEqualReplicas(ctx, t, client, "vault", v.cluster.Members()[1:])
	if total := v.total("vault"); total != vaultTotal {
		t.Errorf("the money is %d, and was %d", total, vaultTotal)
	}
}

// killDrivers kills the leader of the directory whenever a step was taken, until
// nothing is under way.
func (v *vault) killDrivers(ctx context.Context) (kills int) {
	v.t.Helper()
	last := ""
	for {
		answer := listFromAny(ctx, v.t, v.cluster)
		if answer.Settled {
			return kills
		}
		now, leader := fmt.Sprint(answer.Changes), ""
		for _, n := range answer.Nodes {
			if n.DirectoryLeader {
				leader = n.Name
			}
		}
		if now == last || leader == "" {
			time.Sleep(5 * time.Millisecond)
			continue
		}
		last = now
		want(v.t, nil, v.cluster.Kill(leader))
		kills++
		v.b.start(v.t, leader)
	}
}

// listFromAny asks the nodes that run until one answers.
func listFromAny(ctx context.Context, t *testing.T, c *cluster.Embedded) *pb.ListMembersResponse {
	t.Helper()
	for i := 0; ; i++ {
		members := c.Members()
		m := members[i%len(members)]
		if c.Node(m.Name) != nil {
			once, cancel := context.WithTimeout(ctx, 2*time.Second)
			answer, err := dialNodes(t, m.Addr).ListMembers(once, &pb.ListMembersRequest{})
			cancel()
			if err == nil {
				return answer
			}
		}
		if ctx.Err() != nil {
			t.Fatal("no node lists the members")
		}
	}
}

func votersOf(ctx context.Context, t *testing.T, c *cluster.Embedded, group string) (names []string) {
	t.Helper()
	for _, n := range listFromAny(ctx, t, c).Nodes {
		for _, r := range n.Replicas {
			if r.Group == group && r.Role == "voter" {
				names = append(names, n.Name)
			}
		}
	}
	return names
}

// Would break: a node whose disk was wiped that votes as if it had never voted, is
// never rebuilt, or costs the quorum; a removal that does.
func TestWipedNodeIsRebuiltUnderLoad(t *testing.T) {
	v := openVaultOn(t, cluster.Options{Nodes: 3, RTT: 20 * time.Millisecond}, vaultGroup)
	nodes := dialNodes(t, v.cluster.Members()[0].Addr)
	n3 := v.cluster.Members()[2]
	v.create(&pb.CreateCheckpointRequest{Wait: true})
	elsewhere := n3.Config
	elsewhere.DataDir = t.TempDir() + "/data"
	if _, err := cluster.Foretell(t.Context(), nodes, elsewhere, cluster.Returns); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "answers") {
		t.Errorf("a node that runs was replaced: %v", err)
	}
	v.move(4)
	want(t, nil, v.cluster.Kill("n3"))
	want(t, nil, os.RemoveAll(n3.Config.DataDir))
	v.b.eventually(t, "the node is seen to be down", func() bool {
		answer, err := nodes.ListMembers(t.Context(), &pb.ListMembersRequest{})
		return err == nil && answer.Nodes[2].State == "down"
	})
	v.b.eventually(t, "the two that are left have a leader", func() bool {
		_, err := nodes.RemoveNode(t.Context(), &pb.RemoveNodeRequest{Name: "n1"})
		return err != nil && !strings.Contains(err.Error(), "no replica leads")
	})
	for _, name := range []string{"n1", "n2"} {
		if _, err := nodes.RemoveNode(t.Context(), &pb.RemoveNodeRequest{Name: name}); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "quorum would be lost") {
			t.Errorf("remove %s with n3 down: %v", name, err)
		}
	}
	if err := v.cluster.Start(t.Context(), "n3"); err == nil || !strings.Contains(err.Error(), "node replace") {
		t.Errorf("a node without its disk: %v", err)
	}
	answer, err := cluster.Announce(t.Context(), nodes, n3.Config, cluster.Returns)
	want(t, nil, err)
	if len(answer.Steps) == 0 {
		t.Error("nothing is foretold")
	}
	// It goes on before the node is back, and when it is.
	again, err := cluster.Announce(t.Context(), nodes, n3.Config, cluster.Returns)
	want(t, nil, err)
	if again.DirectoryReplica != answer.DirectoryReplica {
		t.Errorf("announced twice, the node has replicas %d and %d", answer.DirectoryReplica, again.DirectoryReplica)
	}
	v.b.start(t, "n3")
	awaitMembers(t, nodes, "vault", "n1", "n2", "n3")
	v.progress(50)
	v.halt()
	ctx, cancel := context.WithTimeout(t.Context(), membersPatience)
	defer cancel()
	checkEqualReplicas(ctx, t, v.b.client, "vault", v.cluster.Members())
	listed, err := nodes.ListMembers(ctx, &pb.ListMembersRequest{})
	want(t, nil, err)
	if r := listed.Nodes[2].Replicas; len(r) != 1 || r[0].ReplicaId != 4 {
		t.Errorf("the rebuilt node holds %v, and replica 3 was the lost one", r)
	}
	// The rebuilt node is started once more, from its own log.
	want(t, nil, v.cluster.Kill("n3"))
	v.b.start(t, "n3")
	want(t, nil, v.cluster.WaitReady(ctx))
	checkEqualReplicas(ctx, t, v.b.client, "vault", v.cluster.Members())
}

// Would break: a node that joins a group whose incarnation began on top of files
// that it does not have.
func TestNodeJoinsARestoredGroup(t *testing.T) {
	v := openVaultOn(t, cluster.Options{Nodes: 1, RTT: 20 * time.Millisecond}, vaultGroup)
	v.move(4)
	first := v.create(&pb.CreateCheckpointRequest{Wait: true})
	v.progress(100)
	v.halt()
	_, err := v.restore(&pb.RestoreRequest{To: &pb.RestoreRequest_Checkpoint{Checkpoint: first.Id}, InPlace: true})
	want(t, nil, err)
	v.move(4)
	v.progress(300)
	_, err = v.cluster.Join(t.Context())
	want(t, nil, err)
	awaitMembers(t, dialNodes(t, v.cluster.Members()[0].Addr), "vault", "n1", "n2")
	v.progress(50)
	v.halt()
	ctx, cancel := context.WithTimeout(t.Context(), membersPatience)
	defer cancel()
	checkEqualReplicas(ctx, t, v.b.client, "vault", v.cluster.Members())
	if total := v.total("vault"); total != vaultTotal {
		t.Errorf("the money is %d, and was %d", total, vaultTotal)
	}
}

// Would break: a node that joins the wrong cluster, or takes another's place.
func TestWrongArrivalsAreRefused(t *testing.T) {
	v := openVaultOn(t, cluster.Options{Nodes: 1, RTT: 20 * time.Millisecond}, vaultGroup)
	nodes := dialNodes(t, v.cluster.Members()[0].Addr)
	first := v.cluster.Members()[0].Config
	for _, test := range []struct {
		name, reason string
		how          cluster.Arrival
		edit         func(*configs.Node)
	}{
		{"another cluster", "other initial nodes", cluster.Joins, func(c *configs.Node) {
			c.Cluster = []configs.Peer{{Name: "m1", API: "127.0.0.1:1", Raft: "127.0.0.1:2"}}
		}},
		{"a name that is taken", "already", cluster.Joins, func(c *configs.Node) { c.Name = "n1" }},
		{"an address that is taken", "already", cluster.Joins, func(c *configs.Node) { c.Raft.Address = first.Raft.Address }},
		{"nobody's place", "no node n7", cluster.Returns, func(*configs.Node) {}},
	} {
		config := first
		config.Name, config.DataDir = "n7", t.TempDir()+"/data"
		config.API.Address, config.Raft.Address = "127.0.0.1:3", "127.0.0.1:4"
		test.edit(&config)
		if _, err := cluster.Announce(t.Context(), nodes, config, test.how); err == nil || !strings.Contains(err.Error(), test.reason) {
			t.Errorf("%s: %v", test.name, err)
		}
		if _, err := os.Stat(config.DataDir); err == nil {
			t.Errorf("%s: a data directory was made", test.name)
		}
	}
}
