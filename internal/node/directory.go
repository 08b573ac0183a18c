package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/groups"
	txcommand "github.com/cohort-tx/cohort/txlog/command"
)

const (
	// registerRetryAfter is waited between attempts to register with a directory
	// that has no quorum yet.
	registerRetryAfter = 200 * time.Millisecond
	registerTimeout    = 5 * time.Second
	// checkNewTimeout bounds asking the other nodes before a first start.
	checkNewTimeout = 3 * time.Second
)

// directoryReplica is this node's replica of the directory: that of its place in
// the list of initial nodes, or the one that it joined as. 0 when it is neither.
func (n *Node) directoryReplica() uint64 {
	if join := n.data.Join(); join != nil {
		return join.DirectoryReplica
	}
	return n.config.InitialReplicaID()
}

// startDirectory starts this node's replica of the directory, with the initial
// members only the first time: a lost Raft log must not vote again.
func (n *Node) startDirectory(ctx context.Context) error {
	id := n.directoryReplica()
	if id == 0 {
		return fmt.Errorf("node %s is none of the initial nodes that `cluster` lists: add it to the running cluster with `cohort node join --config FILE`, once", n.config.Name)
	}
	joined := n.data.Join() != nil
	mode, err := n.data.StartMode(groups.DirectoryShard, id, false, n.host.NodeHost().HasNodeInfo(groups.DirectoryShard, id))
	if err != nil {
		return err
	}
	c := groups.DirectoryConfig{
		NodeHost: n.host.NodeHost(), ReplicaID: id, ElectionRTT: electionTicks, HeartbeatRTT: heartbeatTicks, Logger: n.logger, Join: joined,
	}
	if mode == groups.StartBootstrap {
		if err := n.checkNew(ctx); err != nil && !joined {
			return err
		}
		if err := n.data.Plan("", groups.DirectoryShard, id); err != nil {
			return err
		}
		if !joined {
			c.Members = n.config.InitialMembers()
		}
	}
	if n.directory, err = groups.StartDirectory(c); err != nil {
		return err
	}
	return n.data.Bootstrapped(groups.DirectoryShard, id)
}

// checkNew refuses a first start when another node knows this one. A node
// registers after its first start, so its data was lost and its directory made
// anew, and it must not vote again. Registering would be refused too, but comes
// after Raft has spoken. When no other node answers there is nothing to learn:
// so it is when a cluster starts for the first time.
func (n *Node) checkNew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, checkNewTimeout)
	defer cancel()
	var asking errgroup.Group
	for _, peer := range n.config.Cluster {
		if peer.Name == n.config.Name {
			continue
		}
		asking.Go(func() error {
			standing, err := n.standingAt(ctx, peer.API)
			switch {
			case err != nil: // who does not answer says nothing
				return nil
			case standing.GetKnown():
				return fmt.Errorf("%w: node %s is registered with the cluster, as %s says, and %s is new. Put the old data directory back, or rebuild the node with `cohort node replace`: it must not vote again without its data",
					groups.ErrAmnesia, n.config.Name, peer.Name, n.config.DataDir)
			case standing.GetRemoved():
				return fmt.Errorf("%w: node %s, as %s says; add it again with `cohort node join`", ErrRemoved, n.config.Name, peer.Name)
			}
			return nil
		})
	}
	return asking.Wait()
}

// standingAt asks the node at addr what it knows of this one.
func (n *Node) standingAt(ctx context.Context, addr string) (*pb.StandingResponse, error) {
	conn, err := n.dialPeer(addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return pb.NewShardsClient(conn).Standing(ctx, &pb.StandingRequest{
		Name: n.config.Name, DataId: n.data.ID(), ReplicaId: n.directoryReplica(),
	})
}

// wasRemoved asks the others whether this node has left the cluster: it hears
// nothing of the directory then.
func (n *Node) wasRemoved(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, checkNewTimeout)
	defer cancel()
	var peers []string
	for _, peer := range n.config.Cluster {
		if peer.Name != n.config.Name {
			peers = append(peers, peer.API)
		}
	}
	if join := n.data.Join(); join != nil {
		peers = append(peers, join.Peers...)
	}
	for _, other := range n.directory.State().Nodes() {
		peers = append(peers, other.APIAddress)
	}
	removed := make(chan bool, len(peers))
	for _, addr := range peers {
		go func() { // ends with ctx; collected below
			standing, err := n.standingAt(ctx, addr)
			removed <- err == nil && standing.GetRemoved()
		}()
	}
	any := false
	for range peers {
		any = <-removed || any
	}
	return any
}

func (n *Node) leadsDirectory() bool {
	leader, _, known, err := n.host.NodeHost().GetLeaderID(groups.DirectoryShard)
	return err == nil && known && leader == n.directoryReplica()
}

// register tells the directory that this node is there, until it has; then the
// node serves. A refusal is for good.
func (n *Node) register(ctx context.Context) {
	initial := n.config.InitialReplicaID()
	if n.data.Join() != nil {
		initial = 0
	}
	command := groups.RegisterNode{
		Name: n.config.Name, ReplicaID: initial, DataID: n.data.ID(),
		APIAddress: n.config.APIAddress(), RaftAddress: n.config.RaftAddress(), FeatureLevel: txcommand.MaxFeatureLevel,
	}
	for {
		try, cancel := context.WithTimeout(ctx, registerTimeout)
		_, err := n.directory.RegisterNode(try, command)
		cancel()
		var refused *groups.RefusedError
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			n.mu.Lock()
			n.registered = true
			if !n.draining {
				n.health.SetServingStatus("", healthpb.HealthCheckResponse_SERVING)
			}
			n.mu.Unlock()
			n.logger.Info("node registered")
			return
		case errors.As(err, &refused):
			n.fail(fmt.Errorf("this node may not join the cluster: %w", err))
			return
		}
		n.logger.Debug("the directory does not answer yet", zap.Error(err))
		if n.wasRemoved(ctx) {
			n.fail(fmt.Errorf("%w; its data directory %s may be deleted", ErrRemoved, n.config.DataDir))
			return
		}
		select {
		case <-time.After(registerRetryAfter):
		case <-ctx.Done():
			return
		}
	}
}
