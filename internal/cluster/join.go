package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/configs"
	"github.com/cohort-tx/cohort/groups"
	"github.com/cohort-tx/cohort/internal/ports"
)

// join makes the files of one more node, whose file lists the initial nodes of
// the first one's, and announces it to the cluster at addr.
func join(ctx context.Context, first Member, number int, addr string) (Member, error) {
	if number > maxNodes {
		return Member{}, fmt.Errorf("a cluster on one machine has %d nodes at most, not %d", maxNodes, number)
	}
	m := Member{Name: fmt.Sprintf("n%d", number)}
	m.Dir = first.siblingDir(m.Name)
	m.ConfigPath = m.configPath()
	api, apiErr := ports.Claim()
	raft, raftErr := ports.Claim()
	http, httpErr := ports.Claim()
	if err := errors.Join(apiErr, raftErr, httpErr, os.MkdirAll(m.Dir, 0o755)); err != nil {
		return Member{}, err
	}
	o := Options{LogLevel: first.Config.Log.Level, RTT: first.Config.Raft.RTT, ShutdownGrace: first.Config.ShutdownGrace}
	text := nodeFile(m, first.Config.Cluster, configs.Peer{Name: m.Name, API: api, Raft: raft}, http, o)
	var err error
	if m.Config, err = configs.Parse(m.ConfigPath, []byte(text)); err != nil {
		return Member{}, err
	}
	m.Addr = api
	if err := os.WriteFile(m.ConfigPath, []byte(text), 0o644); err != nil {
		return Member{}, err
	}
	conn, err := dial(addr)
	if err != nil {
		return Member{}, err
	}
	defer conn.Close()
	_, err = Announce(ctx, pb.NewNodesClient(conn), m.Config, Joins)
	return m, err
}

// Arrival is how a node comes into a cluster that runs.
type Arrival uint8

const (
	// Joins: it was never there.
	Joins Arrival = 1
	// Returns: its data was lost, and it begins anew.
	Returns Arrival = 2
)

// Announce makes the data directory of a node that comes into a cluster that
// runs, tells the cluster, and records as what the node starts. Interrupted, it
// may be repeated: the directory keeps its identity.
func Announce(ctx context.Context, nodes pb.NodesClient, config configs.Node, how Arrival) (*pb.JoinNodeResponse, error) {
	// What is refused is refused before a directory is made.
	if _, err := Foretell(ctx, nodes, config, how); err != nil {
		return nil, err
	}
	data, err := groups.PrepareJoin(config.DataDir, config.Name, config.ClusterID())
	if err != nil {
		return nil, err
	}
	answer, err := announce(ctx, nodes, config, how, data.ID(), false)
	if err != nil {
		return nil, err
	}
	return answer, data.RecordJoin(groups.Join{DirectoryReplica: answer.GetDirectoryReplica(), Peers: answer.GetPeers()})
}

// Foretell tells what Announce would start, and changes nothing.
func Foretell(ctx context.Context, nodes pb.NodesClient, config configs.Node, how Arrival) (*pb.JoinNodeResponse, error) {
	id := "dry-run"
	if data, err := groups.OpenDataDir(config.DataDir, config.Name, config.ClusterID()); err == nil {
		id = data.ID() // of an announcement that was interrupted
	}
	return announce(ctx, nodes, config, how, id, true)
}

func announce(ctx context.Context, nodes pb.NodesClient, config configs.Node, how Arrival, dataID string, dry bool) (*pb.JoinNodeResponse, error) {
	req := &pb.JoinNodeRequest{
		Name: config.Name, Addr: config.APIAddress(), RaftAddr: config.RaftAddress(), DataId: dataID, ClusterId: config.ClusterID(), DryRun: dry,
	}
	if how == Returns {
		return nodes.ReplaceNode(ctx, req)
	}
	return nodes.JoinNode(ctx, req)
}
