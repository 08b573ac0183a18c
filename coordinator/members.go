package coordinator

import (
	"context"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/groups"
)

// LocalShards are the replicas of this node, as Raft's members.
type LocalShards interface {
	// Report describes them.
	Report(ctx context.Context) *pb.ReportShardsResponse
	// Change does one step about a shard's members.
	Change(ctx context.Context, req *pb.ChangeShardRequest) error
}

// noShards are those of a node whose members never change.
type noShards struct{}

func (noShards) Report(context.Context) *pb.ReportShardsResponse { return &pb.ReportShardsResponse{} }

func (noShards) Change(context.Context, *pb.ChangeShardRequest) error {
	return failure(codes.Unimplemented, reasonInvalid, nil, "this node does not change members")
}

// shardReports are what the nodes say of their replicas, by node. Those that did
// not answer in time are not in it, nor are those whose data is not what the
// directory knows: a node that was replaced and runs still.
type shardReports map[string]*pb.ReportShardsResponse

func (s *Service) shardReports(ctx context.Context, state *groups.DirectoryState) shardReports {
	ctx, cancel := context.WithTimeout(forwardedContext(ctx), probeTimeout)
	defer cancel()
	var (
		mu     sync.Mutex
		asking sync.WaitGroup
	)
	out := make(shardReports)
	for _, n := range state.Nodes() { // at most groups.MaxNodes
		asking.Go(func() {
			answer, err := s.reportOf(ctx, n)
			if err != nil || answer.GetDataId() != n.DataID {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			out[n.Name] = answer
		})
	}
	asking.Wait()
	return out
}

func (s *Service) reportOf(ctx context.Context, n *groups.Node) (*pb.ReportShardsResponse, error) {
	if n.Name == s.config.Node {
		return s.config.Shards.Report(ctx), nil
	}
	conn, err := s.connect(n.APIAddress)
	if err != nil {
		return nil, err
	}
	return pb.NewShardsClient(conn).ReportShards(ctx, &pb.ReportShardsRequest{})
}

// MemberViews put together what decides about the members of all shards, the
// directory's last. floors are what the leaders had applied a moment ago, by
// shard; nil when nobody looked.
func (s *Service) MemberViews(ctx context.Context, state *groups.DirectoryState, floors map[uint64]uint64) []*groups.ShardView {
	return s.shardReports(ctx, state).views(state, floors)
}

func (r shardReports) views(state *groups.DirectoryState, floors map[uint64]uint64) []*groups.ShardView {
	var views []*groups.ShardView
	for _, g := range state.Groups() {
		views = append(views, state.MembersOf(g))
	}
	directory := state.DirectoryMembers()
	for _, n := range state.Nodes() {
		if n.Leaving && directory.Held[n.Name] == "" && r.runsGroups(n.Name) {
			directory.Held[n.Name] = "node " + n.Name + " clears its replicas"
		}
	}
	views = append(views, directory)
	for _, v := range views {
		v.Floor = floors[v.ShardID]
		r.fill(v)
	}
	return views
}

// runsGroups tells whether a node still has a replica of any group.
func (r shardReports) runsGroups(node string) bool {
	for _, shard := range r[node].GetShards() {
		if shard.GetShardId() != groups.DirectoryShard {
			return true
		}
	}
	return false
}

// fill adds what the nodes say to what the directory does.
func (r shardReports) fill(v *groups.ShardView) {
	v.Reports = make(map[uint64]groups.ReplicaReport)
	for _, m := range v.Members {
		report := r.replica(m, v.ShardID)
		if report == nil {
			continue
		}
		v.Reports[m.ReplicaID] = groups.ReplicaReport{Applied: report.GetApplied(), Problem: report.GetProblem()}
		// Of two that say that they lead, the one with the newer members does.
		if report.GetLeads() && (v.Raft == nil || report.GetConfigId() >= v.Raft.ConfigID) {
			v.Raft = &groups.RaftMembers{
				Leader: m.ReplicaID, Voters: report.GetVoters(), Learners: report.GetLearners(), Removed: report.GetRemoved(), ConfigID: report.GetConfigId(),
			}
		}
	}
}

func (r shardReports) replica(m groups.Member, shardID uint64) *pb.ShardReport {
	for _, shard := range r[m.Node].GetShards() {
		if shard.GetShardId() == shardID && shard.GetReplicaId() == m.ReplicaID {
			return shard
		}
	}
	return nil
}

// answers tells which nodes do.
func (r shardReports) answers(node string) bool { return r[node] != nil }

// ChangeShard has a node do one step about a shard's members.
func (s *Service) ChangeShard(ctx context.Context, node string, req *pb.ChangeShardRequest) error {
	_, err := s.dispatch(ctx, target{node: node}, func(ctx context.Context) (any, error) {
		return &pb.ChangeShardResponse{}, s.config.Shards.Change(ctx, req)
	}, func(ctx context.Context, conn *grpc.ClientConn) (any, error) {
		return pb.NewShardsClient(conn).ChangeShard(ctx, req)
	})
	return err
}

type shardsService struct {
	pb.UnimplementedShardsServer
	*Service
}

func (s *shardsService) ReportShards(ctx context.Context, _ *pb.ReportShardsRequest) (*pb.ReportShardsResponse, error) {
	return s.config.Shards.Report(ctx), nil
}

func (s *shardsService) ChangeShard(ctx context.Context, req *pb.ChangeShardRequest) (*pb.ChangeShardResponse, error) {
	if err := s.config.Shards.Change(ctx, req); err != nil {
		return nil, err
	}
	return &pb.ChangeShardResponse{}, nil
}

// Standing answers from what this node has applied.
func (s *shardsService) Standing(_ context.Context, req *pb.StandingRequest) (*pb.StandingResponse, error) {
	state := s.config.Groups.Directory()
	n, known := state.Node(req.GetName())
	return &pb.StandingResponse{
		Known: known, SameData: known && n.DataID == req.GetDataId(),
		Removed: state.WasRemoved(req.GetDataId(), req.GetReplicaId()),
	}, nil
}
