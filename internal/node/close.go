package node

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/groups"
)

const (
	// drainShare is the part of the grace that open transactions have to end, and
	// drainMost its bound: while they do nobody else can begin one here, and a
	// client that thinks for long is better told to try again at the next leader.
	drainShare = 0.5
	drainMost  = 2 * time.Second
	// linger is what answers under way have once the coordinators have ended: they
	// wait for nothing any more. What is left are streams without an end.
	linger = time.Second
	// handOver bounds the wait for another node to lead; without one Raft elects
	// one by itself.
	handOver      = 2 * time.Second
	handOverEvery = 5 * time.Millisecond
	// handOverProbe bounds asking the other nodes who is best to lead.
	handOverProbe = 500 * time.Millisecond
)

// Close ends the node in order, within ctx and the configured grace:
//
//	health says NOT_SERVING                      new clients go elsewhere
//	coordinators begin nothing new and finish    at most half of the grace, or 2 s
//	leadership is handed to the other nodes      so that nobody waits for an election
//	instances are told to attach elsewhere
//	coordinators end: every attempt is answered
//	the API sends its answers, then is cut       at most 1 s
//	replicas and the directory stop
//
// What is acknowledged is durable at any of these points. Attempts that are open
// when the time is over end as at a crash: their clients get a retryable error.
func (n *Node) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, n.config.ShutdownGrace)
	defer cancel()
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return nil
	}
	n.closed, n.draining = true, true
	n.mu.Unlock()
	n.health.Shutdown()
	n.cancel()
	n.manager.stopStarting()
	n.drain(ctx)
	return n.stop(ctx)
}

// Kill ends the node at once, as a crash would as far as others can see.
func (n *Node) Kill() error {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return nil
	}
	n.closed, n.draining = true, true
	n.mu.Unlock()
	now, cancel := context.WithCancel(context.Background())
	cancel()
	return n.stop(now)
}

// stop ends whatever of the node was started, in reverse order.
func (n *Node) stop(ctx context.Context) error {
	n.cancel()
	var errs []error
	if n.agent != nil {
		n.agent.Close()
	}
	if n.manager != nil && n.manager.cancel != nil {
		n.manager.close()
	}
	if n.grpc != nil {
		n.stopAPI(ctx)
	}
	if n.service != nil {
		n.service.Close()
	}
	if n.directory != nil {
		errs = append(errs, n.directory.Close())
	}
	if n.host != nil {
		n.host.Close()
	}
	errs = append(errs, n.http.close(ctx))
	n.running.Wait()
	return errors.Join(errs...)
}

// stopAPI lets answers under way finish, then cuts the streams that would not end
// by themselves: somebody follows a log.
func (n *Node) stopAPI(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, linger)
	defer cancel()
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		n.grpc.GracefulStop()
	}()
	select {
	case <-stopped:
	case <-ctx.Done():
		n.grpc.Stop()
		<-stopped
	}
}

// drain lets this node's coordinators finish and hands over what it leads.
func (n *Node) drain(ctx context.Context) {
	share := time.Duration(float64(n.config.ShutdownGrace) * drainShare)
	open, cancel := context.WithTimeout(ctx, min(share, drainMost))
	defer cancel()
	var draining sync.WaitGroup
	for _, hosted := range n.manager.all() {
		if hosted.coordinator == nil {
			continue
		}
		draining.Go(func() {
			if err := hosted.coordinator.Drain(open); err != nil {
				n.logger.Info("transactions are still open; their clients will be told to try again",
					zap.String("group", hosted.record.Name), zap.Error(err))
			}
			n.handOver(ctx, hosted)
		})
	}
	draining.Wait()
	n.handOverDirectory(ctx)
}

// handOver makes the most current other replica the leader.
func (n *Node) handOver(ctx context.Context, hosted *hostedGroup) {
	record := n.manager.current(hosted.record)
	if !hosted.replica.Leadership().Self || len(record.Voters()) == 1 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, handOver)
	defer cancel()
	target, ok := n.mostCurrent(ctx, record)
	if !ok {
		n.logger.Warn("no other node answers to take the leadership", zap.String("group", hosted.record.Name))
		return
	}
	if err := hosted.replica.TransferLeadership(target.ReplicaID); err != nil {
		n.logger.Warn("leadership was not handed over", zap.String("group", hosted.record.Name), zap.Error(err))
		return
	}
	if waitUntil(ctx, func() bool { return !hosted.replica.Leadership().Self }) {
		n.logger.Info("leadership handed over", zap.String("group", hosted.record.Name), zap.String("to", target.Node))
	}
}

// mostCurrent asks the group's other nodes for their replicas and picks the one
// that has applied most.
func (n *Node) mostCurrent(ctx context.Context, record *groups.GroupRecord) (best groups.Member, found bool) {
	ctx, cancel := context.WithTimeout(ctx, handOverProbe)
	defer cancel()
	var (
		mu      sync.Mutex
		most    uint64
		probing sync.WaitGroup
	)
	for _, member := range record.Members {
		if member.Node == n.config.Name || !member.Voter() || member.Leaving {
			continue
		}
		probing.Go(func() {
			applied, ok := n.probe(ctx, member.Node, record.Name)
			mu.Lock()
			defer mu.Unlock()
			if ok && (!found || applied > most) {
				best, most, found = member, applied, true
			}
		})
	}
	probing.Wait()
	return best, found
}

// probe asks a node how far its replica of a group is.
func (n *Node) probe(ctx context.Context, node, group string) (applied uint64, ok bool) {
	record, known := n.directory.State().Node(node)
	if !known {
		return 0, false
	}
	conn, err := n.dialPeer(record.APIAddress)
	if err != nil {
		return 0, false
	}
	defer conn.Close()
	answer, err := pb.NewPeersClient(conn).Probe(ctx, &pb.ProbeRequest{Group: group})
	if err != nil {
		return 0, false
	}
	for _, replica := range answer.GetReplicas() {
		if replica.GetGroup() == group && replica.GetError() == "" {
			return replica.GetAppliedIndex(), true
		}
	}
	return 0, false
}

// handOverDirectory makes another node that answers the directory's leader.
func (n *Node) handOverDirectory(ctx context.Context) {
	if !n.leadsDirectory() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, handOver)
	defer cancel()
	for _, other := range n.directory.State().Nodes() {
		if other.Name == n.config.Name || !other.DirectoryVoter() || !n.serves(ctx, other.APIAddress) {
			continue
		}
		if err := n.host.NodeHost().RequestLeaderTransfer(groups.DirectoryShard, other.ReplicaID); err != nil {
			n.logger.Warn("the directory's leadership was not handed over", zap.Error(err))
			return
		}
		waitUntil(ctx, func() bool { return !n.leadsDirectory() })
		return
	}
}

// serves tells whether the node at an address is healthy.
func (n *Node) serves(ctx context.Context, addr string) bool {
	ctx, cancel := context.WithTimeout(ctx, handOverProbe)
	defer cancel()
	conn, err := n.dialPeer(addr)
	if err != nil {
		return false
	}
	defer conn.Close()
	answer, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
	return err == nil && answer.Status == healthpb.HealthCheckResponse_SERVING
}

// waitUntil waits for a condition that nobody announces; false when ctx ended
// first.
func waitUntil(ctx context.Context, condition func() bool) bool {
	ticker := time.NewTicker(handOverEvery)
	defer ticker.Stop()
	for !condition() {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return false
		}
	}
	return true
}
