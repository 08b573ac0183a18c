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

// startDirectory starts this node's replica of the directory, with the initial
// members only the first time: a lost Raft log must not vote again.
func (n *Node) startDirectory(ctx context.Context) error {
	id := n.config.InitialReplicaID()
	if id == 0 {
		return fmt.Errorf("cluster: it does not list node %s; the initial nodes are listed in the file of each", n.config.Name)
	}
	mode, err := n.data.StartMode(groups.DirectoryShard, id, false, n.host.NodeHost().HasNodeInfo(groups.DirectoryShard, id))
	if err != nil {
		return err
	}
	c := groups.DirectoryConfig{
		NodeHost: n.host.NodeHost(), ReplicaID: id, ElectionRTT: electionTicks, HeartbeatRTT: heartbeatTicks, Logger: n.logger,
	}
	if mode == groups.StartBootstrap {
		if err := n.checkNew(ctx); err != nil {
			return err
		}
		if err := n.data.Plan("", groups.DirectoryShard, id); err != nil {
			return err
		}
		c.Members = n.config.InitialMembers()
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
			known, err := n.knownAt(ctx, peer.API)
			if err != nil || !known {
				return nil // who does not answer says nothing
			}
			return fmt.Errorf("%w: node %s is registered with the cluster, as %s says, and %s is new. Put the old data directory back: the node must not vote again without it",
				groups.ErrAmnesia, n.config.Name, peer.Name, n.config.DataDir)
		})
	}
	return asking.Wait()
}

// knownAt asks the node at addr whether this one is registered.
func (n *Node) knownAt(ctx context.Context, addr string) (bool, error) {
	conn, err := n.dialPeer(addr)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	answer, err := pb.NewClusterClient(conn).ListNodes(ctx, &pb.ListNodesRequest{})
	if err != nil {
		return false, err
	}
	for _, node := range answer.Nodes {
		if node.Name == n.config.Name {
			return true, nil
		}
	}
	return false, nil
}

func (n *Node) leadsDirectory() bool {
	leader, _, known, err := n.host.NodeHost().GetLeaderID(groups.DirectoryShard)
	return err == nil && known && leader == n.config.InitialReplicaID()
}

// register tells the directory that this node is there, until it has; then the
// node serves. A refusal is for good.
func (n *Node) register(ctx context.Context) {
	command := groups.RegisterNode{
		Name: n.config.Name, ReplicaID: n.config.InitialReplicaID(), DataID: n.data.ID(),
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
		select {
		case <-time.After(registerRetryAfter):
		case <-ctx.Done():
			return
		}
	}
}
