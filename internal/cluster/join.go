package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/configs"
	"github.com/cohort-tx/cohort/groups"
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
	api, apiErr := freeAddress()
	raft, raftErr := freeAddress()
	http, httpErr := freeAddress()
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
	return m, Announce(ctx, m.Config, addr, false)
}

// Announce makes the data directory of a node that joins the cluster at addr, or
// that begins anew there after its data was lost, and records as what it starts.
func Announce(ctx context.Context, config configs.Node, addr string, replace bool) error {
	data, err := groups.PrepareJoin(config.DataDir, config.Name, config.ClusterID())
	if err != nil {
		return err
	}
	conn, err := dial(addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	ask := pb.NewNodesClient(conn).JoinNode
	if replace {
		ask = pb.NewNodesClient(conn).ReplaceNode
	}
	answer, err := ask(ctx, &pb.JoinNodeRequest{
		Name: config.Name, Addr: config.APIAddress(), RaftAddr: config.RaftAddress(), DataId: data.ID(), ClusterId: config.ClusterID(),
	})
	if err != nil {
		return err
	}
	return data.RecordJoin(groups.Join{DirectoryReplica: answer.GetDirectoryReplica(), Peers: answer.GetPeers()})
}
