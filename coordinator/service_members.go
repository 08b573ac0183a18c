package coordinator

import (
	"context"
	"fmt"
	"slices"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/groups"
)

type nodesService struct {
	pb.UnimplementedNodesServer
	*Service
}

// ListMembers shows what the directory has and what is done next.
func (s *nodesService) ListMembers(ctx context.Context, _ *pb.ListMembersRequest) (*pb.ListMembersResponse, error) {
	state, err := s.config.Directory.Read(ctx)
	if err != nil {
		return nil, statusOf("", err)
	}
	reports := s.shardReports(ctx, state)
	out := &pb.ListMembersResponse{Settled: state.MembersSettled()}
	for _, n := range state.Nodes() {
		out.Nodes = append(out.Nodes, memberToWire(state, n, reports))
	}
	for _, v := range reports.views(state, nil) {
		step := groups.NextStep(v)
		// Without a change under way a shard that lacks a quorum is status' to tell.
		if step.Kind == groups.StepDone || out.Settled && !step.Acts() {
			continue
		}
		out.Settled = false
		out.Changes = append(out.Changes, stepToWire(v, step))
	}
	return out, nil
}

func memberToWire(state *groups.DirectoryState, n *groups.Node, reports shardReports) *pb.MemberNode {
	out := &pb.MemberNode{Name: n.Name, Addr: n.APIAddress, RaftAddr: n.RaftAddress, State: "down", Membership: "member", Directory: "follower"}
	if reports.answers(n.Name) {
		out.State = "up"
	}
	switch {
	case n.Leaving:
		out.Membership = "leaving"
	case n.Joining:
		out.Membership = "joining"
	}
	if n.DirectoryVoter() {
		out.Directory = "voter"
	}
	for _, shard := range reports[n.Name].GetShards() {
		if shard.GetShardId() == groups.DirectoryShard {
			out.DirectoryLeader = shard.GetLeads()
		}
	}
	for _, g := range state.Groups() {
		for _, m := range g.Members {
			if m.Node != n.Name {
				continue
			}
			role := "voter"
			switch {
			case m.Leaving:
				role = "leaving"
			case !m.Voter():
				role = "joining"
			}
			out.Replicas = append(out.Replicas, &pb.ReplicaOnNode{Group: g.Name, ReplicaId: m.ReplicaID, Role: role})
		}
	}
	return out
}

func stepToWire(v *groups.ShardView, s groups.Step) *pb.ShardChange {
	return &pb.ShardChange{Group: v.Group, ShardId: v.ShardID, Step: s.Kind.String(), Node: s.Node, ReplicaId: s.ReplicaID, Text: s.Text()}
}

// JoinNode announces a node. Nothing that runs changes by it.
func (s *nodesService) JoinNode(ctx context.Context, req *pb.JoinNodeRequest) (*pb.JoinNodeResponse, error) {
	state, err := s.checkJoin(ctx, req)
	if err != nil {
		return nil, err
	}
	c := groups.AddNode{Name: req.GetName(), APIAddress: req.GetAddr(), RaftAddress: req.GetRaftAddr(), DataID: req.GetDataId()}
	after, err := state.AfterJoin(c)
	if err != nil {
		return nil, statusOf("", err)
	}
	// A shard that lacks its quorum does not hold a node off: it waits.
	steps, _ := s.preview(ctx, after, c.Name, true)
	out := &pb.JoinNodeResponse{Steps: steps, Peers: peersOf(state)}
	if req.GetDryRun() {
		return out, nil
	}
	n, err := s.config.Directory.AddNode(ctx, c)
	if err != nil {
		return nil, statusOf("", err)
	}
	s.logger.Info("node joins", zap.String("name", n.Name), zap.String("addr", n.APIAddress))
	out.DirectoryReplica = n.ReplicaID
	return out, nil
}

// checkJoin finds what is wrong with a node that is to come before anything is
// changed.
func (s *nodesService) checkJoin(ctx context.Context, req *pb.JoinNodeRequest) (*groups.DirectoryState, error) {
	if err := checkName("name", req.GetName()); err != nil {
		return nil, err
	}
	if req.GetClusterId() != s.config.ClusterID {
		return nil, failure(codes.FailedPrecondition, reasonInvalid, []string{"node", req.GetName()},
			"the file of node %q lists other initial nodes under `cluster` than node %q: copy that list as it is, whether they still run or not", req.GetName(), s.config.Node)
	}
	state, err := s.config.Directory.Read(ctx)
	if err != nil {
		return nil, statusOf("", err)
	}
	return state, nil
}

func peersOf(state *groups.DirectoryState) []string {
	var peers []string
	for _, n := range state.Nodes() {
		if !n.Leaving && !n.Joining {
			peers = append(peers, n.APIAddress)
		}
	}
	return peers
}

// ReplaceNode is for a node whose data is lost: it is refused for one that runs,
// and where the quorum went with it.
func (s *nodesService) ReplaceNode(ctx context.Context, req *pb.JoinNodeRequest) (*pb.JoinNodeResponse, error) {
	state, err := s.checkJoin(ctx, req)
	if err != nil {
		return nil, err
	}
	c := groups.ReplaceNode{Name: req.GetName(), APIAddress: req.GetAddr(), RaftAddress: req.GetRaftAddr(), DataID: req.GetDataId()}
	after, err := state.AfterReplace(c)
	if err != nil {
		return nil, statusOf("", err)
	}
	old, _ := state.Node(c.Name)
	again := old.DataID == c.DataID
	if !again && s.shardReports(ctx, state).answers(c.Name) {
		return nil, failure(codes.FailedPrecondition, reasonNotSafe, []string{"node", c.Name},
			"node %q answers, with the data that it is known by: nothing of it is lost. Stop it first if it is to begin anew", c.Name)
	}
	steps, blocked := s.preview(ctx, after, c.Name, true)
	if blocked != nil && !again {
		return nil, notSafe(c.Name, "replaced", blocked)
	}
	out := &pb.JoinNodeResponse{Steps: steps, Peers: peersOf(state)}
	if req.GetDryRun() {
		return out, nil
	}
	n, err := s.config.Directory.ReplaceNode(ctx, c)
	if err != nil {
		return nil, statusOf("", err)
	}
	s.logger.Info("node begins anew", zap.String("name", n.Name), zap.Uint64("directory_replica", n.ReplicaID))
	out.DirectoryReplica = n.ReplicaID
	return out, nil
}

// RemoveNode begins to take a node out.
func (s *nodesService) RemoveNode(ctx context.Context, req *pb.RemoveNodeRequest) (*pb.RemoveNodeResponse, error) {
	if err := checkName("name", req.GetName()); err != nil {
		return nil, err
	}
	state, err := s.config.Directory.Read(ctx)
	if err != nil {
		return nil, statusOf("", err)
	}
	c := groups.LeaveNode{Name: req.GetName(), Stay: req.GetCancel()}
	after, err := state.AfterLeave(c)
	if err != nil {
		return nil, statusOf("", err)
	}
	if !c.Stay {
		if err := checkUnlisted(state, c.Name); err != nil {
			return nil, err
		}
	}
	steps, blocked := s.preview(ctx, after, c.Name, false)
	if blocked != nil && !c.Stay {
		return nil, notSafe(c.Name, "removed", blocked)
	}
	if !req.GetDryRun() {
		if _, err := s.config.Directory.LeaveNode(ctx, c); err != nil {
			return nil, statusOf("", err)
		}
		s.logger.Info("node leaves", zap.String("name", c.Name), zap.Bool("stay", c.Stay))
	}
	return &pb.RemoveNodeResponse{Steps: steps}, nil
}

// checkUnlisted refuses to remove a node that groups name.
func checkUnlisted(state *groups.DirectoryState, node string) error {
	for _, g := range state.Groups() {
		d, err := g.Definition()
		if err != nil {
			return statusOf(g.Name, err)
		}
		if slices.Contains(d.Replicas, node) {
			return failure(codes.FailedPrecondition, reasonNotSafe, []string{"node", node, "group", g.Name},
				"group %q names node %q in `replicas`: apply a file without it first", g.Name, node)
		}
	}
	return nil
}

// preview tells what follows in the shards that have to do with a node, and what
// is blocked first, nil when nothing is. comes says that the node is about to
// start.
func (s *Service) preview(ctx context.Context, after *groups.DirectoryState, node string, comes bool) (steps []*pb.ShardChange, blocked error) {
	reports := s.shardReports(ctx, after)
	up := func(name string) bool { return reports.answers(name) || comes && name == node }
	for _, v := range reports.views(after, nil) {
		concerned := slices.Contains(v.Wanted, node) || slices.ContainsFunc(v.Members, func(m groups.Member) bool { return m.Node == node })
		if !concerned {
			continue
		}
		for _, step := range groups.Preview(v, up) {
			if step.Kind == groups.StepDone {
				continue
			}
			steps = append(steps, stepToWire(v, step))
			if step.Kind == groups.StepBlocked && blocked == nil {
				blocked = fmt.Errorf("%s: %s", shardText(v.Group), step.Reason)
			}
		}
	}
	return steps, blocked
}

func shardText(group string) string {
	if group == "" {
		return "the directory"
	}
	return fmt.Sprintf("group %q", group)
}

func notSafe(node, what string, blocked error) error {
	return failure(codes.FailedPrecondition, reasonNotSafe, []string{"node", node}, "node %q cannot be %s safely now: %v", node, what, blocked)
}

// checkMoved refuses, before anything takes effect, replicas that could not move
// to where a definition wants them.
func (s *Service) checkMoved(ctx context.Context, directory *groups.DirectoryState, p *planned) *groups.FileError {
	after, err := directory.AfterDefinition(&p.definition)
	if err != nil {
		return &groups.FileError{Key: "replicas", Message: err.Error()}
	}
	reports := s.shardReports(ctx, after)
	for _, v := range reports.views(after, nil) {
		if v.Group != p.definition.Group {
			continue
		}
		steps := groups.Preview(v, reports.answers)
		if last := steps[len(steps)-1]; last.Kind == groups.StepBlocked {
			return &groups.FileError{Key: "replicas", Message: fmt.Sprintf("the replicas of group %s cannot be moved safely now: %s", v.Group, last.Reason)}
		}
	}
	return nil
}
