package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/coordinator"
	"github.com/cohort-tx/cohort/groups"
	"github.com/cohort-tx/cohort/txlog"
)

const (
	// membersTimeout bounds asking a shard for its members: less than a report may
	// take.
	membersTimeout = 700 * time.Millisecond
	// changeTimeout bounds a change of a shard's members, compactTimeout what comes
	// before one.
	changeTimeout  = 5 * time.Second
	compactTimeout = 10 * time.Second
)

// shards are this node's replicas as Raft's members.
type shards struct{ node *Node }

var _ coordinator.LocalShards = (*shards)(nil)

// Report describes the replicas that run here.
func (s *shards) Report(ctx context.Context) *pb.ReportShardsResponse {
	out := &pb.ReportShardsResponse{Node: s.node.config.Name, DataId: s.node.data.ID()}
	directory := &pb.ShardReport{ShardId: groups.DirectoryShard, ReplicaId: s.node.directory.ReplicaID(), Applied: s.node.directory.State().Revision}
	out.Shards = append(out.Shards, directory)
	leads := []bool{s.node.leadsDirectory()}
	for _, hosted := range s.node.manager.all() {
		if hosted.replica == nil {
			continue
		}
		out.Shards = append(out.Shards, reportReplica(hosted.replica))
		leads = append(leads, hosted.replica.Leadership().Self)
	}
	var asking sync.WaitGroup
	for i, report := range out.Shards {
		if leads[i] {
			asking.Go(func() { s.askMembers(ctx, report) })
		}
	}
	asking.Wait()
	return out
}

func reportReplica(r *txlog.Replica) *pb.ShardReport {
	report := &pb.ShardReport{ShardId: r.ShardID(), ReplicaId: r.ReplicaID(), Applied: r.AppliedRaft()}
	if err := errors.Join(r.Err(), r.Quarantined()); err != nil {
		report.Problem = err.Error()
	}
	return report
}

// askMembers adds the members, if a quorum confirms them.
func (s *shards) askMembers(ctx context.Context, report *pb.ShardReport) {
	ctx, cancel := context.WithTimeout(ctx, membersTimeout)
	defer cancel()
	m, err := s.node.host.Members(ctx, report.ShardId)
	if err != nil {
		return
	}
	report.Leads, report.Voters, report.Learners, report.Removed, report.ConfigId = true, m.Voters, m.Learners, m.Removed, m.ConfigID
}

// Change does one step. Whether one whose answer is lost was done shows in the
// members.
func (s *shards) Change(ctx context.Context, req *pb.ChangeShardRequest) error {
	ctx, cancel := context.WithTimeout(ctx, changeTimeout)
	defer cancel()
	host := s.node.host
	var err error
	switch req.GetStep() {
	case groups.StepAdd.String():
		err = host.AddLearner(ctx, req.GetShardId(), req.GetReplicaId(), req.GetAddress(), req.GetConfigId())
	case groups.StepPromote.String():
		err = host.Promote(ctx, req.GetShardId(), req.GetReplicaId(), req.GetAddress(), req.GetConfigId())
	case groups.StepRemove.String():
		err = host.RemoveMember(ctx, req.GetShardId(), req.GetReplicaId(), req.GetConfigId())
	case groups.StepTransfer.String():
		err = host.NodeHost().RequestLeaderTransfer(req.GetShardId(), req.GetTarget())
	case stepCompact:
		compacting, cancel := context.WithTimeout(context.WithoutCancel(ctx), compactTimeout)
		defer cancel()
		err = host.Compact(compacting, req.GetShardId())
	default:
		return status.Error(codes.InvalidArgument, fmt.Sprintf("%q is no step that changes a shard", req.GetStep()))
	}
	if err != nil {
		return status.Error(codes.Aborted, err.Error())
	}
	return nil
}

// stepCompact comes before a replica is added to an incarnation that did not begin
// empty; see driver.compact.
const stepCompact = "compact"
