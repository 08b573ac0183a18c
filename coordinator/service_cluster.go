package coordinator

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/groups"
)

const (
	// maxApplyFiles and maxApplyFileBytes bound one Apply.
	maxApplyFiles     = 64
	maxApplyFileBytes = 1 << 20
	maxFileNameBytes  = 4096
)

// Actions of a GroupChange.
const (
	actionCreated   = "created"
	actionChanged   = "changed"
	actionUnchanged = "unchanged"
)

// directoryWait bounds what Status waits for the directory's quorum.
const directoryWait = 2 * time.Second

type clusterService struct {
	pb.UnimplementedClusterServer
	*Service
}

// planned is what Apply is going to do about one group.
type planned struct {
	definition groups.Definition
	record     *groups.GroupRecord // nil for a group to be created
	nodes      []string            // of a group to be created
	moved      bool                // the replicas of a group that exists are to be elsewhere
	change     *pb.GroupChange
}

// Apply plans everything before it does anything. Groups are then created and
// changed one after the other; a failure in between leaves the earlier ones in
// effect, and applying the same files again does the rest.
func (s *clusterService) Apply(ctx context.Context, req *pb.ApplyRequest) (*pb.ApplyResponse, error) {
	files, err := filesOf(req)
	if err != nil {
		return nil, err
	}
	definitions, faults := groups.ParseFiles(files)
	if len(faults) > 0 {
		return &pb.ApplyResponse{Errors: faultsToWire(faults)}, nil
	}
	directory, err := s.config.Directory.Read(ctx)
	if err != nil {
		return nil, statusOf("", err)
	}
	var plan []*planned
	for i := range definitions {
		p, fault := planGroup(directory, definitions[i])
		if fault == nil && p.record != nil && !req.GetPrune() {
			fault, err = s.checkRemoved(ctx, p)
			if err != nil {
				return nil, err
			}
		}
		if fault == nil && p.moved {
			fault = s.checkMoved(ctx, directory, p)
		}
		if fault != nil {
			faults = append(faults, groups.Place(files, definitions[i].Group, *fault))
			continue
		}
		plan = append(plan, p)
	}
	if len(faults) > 0 {
		return &pb.ApplyResponse{Errors: faultsToWire(faults)}, nil
	}
	out := &pb.ApplyResponse{}
	for _, p := range plan {
		if !req.GetDryRun() {
			if err := s.carryOut(ctx, p, req.GetPrune()); err != nil {
				return nil, err
			}
		}
		out.Groups = append(out.Groups, p.change)
	}
	return out, nil
}

func filesOf(req *pb.ApplyRequest) ([]groups.File, error) {
	if n := len(req.GetFiles()); n == 0 || n > maxApplyFiles {
		return nil, invalid("files", "there are %d; give 1 to %d", n, maxApplyFiles)
	}
	files := make([]groups.File, len(req.GetFiles()))
	for i, f := range req.GetFiles() {
		if len(f.GetName()) > maxFileNameBytes {
			return nil, invalid(fmt.Sprintf("files[%d].name", i), "has %d bytes; at most %d", len(f.GetName()), maxFileNameBytes)
		}
		if len(f.GetYaml()) > maxApplyFileBytes {
			return nil, invalid(fmt.Sprintf("files[%d].yaml", i), "has %d bytes; at most %d: give groups files of their own", len(f.GetYaml()), maxApplyFileBytes)
		}
		files[i] = groups.File{Name: f.GetName(), Data: f.GetYaml()}
	}
	return files, nil
}

// planGroup compares a definition with the directory. A fault says why it cannot
// take effect.
func planGroup(directory *groups.DirectoryState, definition groups.Definition) (*planned, *groups.FileError) {
	p := &planned{definition: definition, change: &pb.GroupChange{Group: definition.Group}}
	record, ok := directory.Group(definition.Group)
	if !ok {
		nodes, err := directory.Placement(&definition)
		if err != nil {
			return nil, &groups.FileError{Key: "replicas", Message: err.Error()}
		}
		if copies := definition.Checkpoint.MinCopies; copies > uint64(len(nodes)) && definition.Replicas != nil {
			return nil, &groups.FileError{Key: "checkpoint.min_copies", Message: fmt.Sprintf("%d copies on %d replicas cannot be; at most %d", copies, len(nodes), len(nodes))}
		}
		p.nodes = nodes
		p.change.Action, p.change.Version = actionCreated, 1
		p.change.Changes = changesToWire(groups.Diff(nil, &definition))
		return p, nil
	}
	old, err := record.Definition()
	if err != nil {
		return nil, &groups.FileError{Key: "group", Message: fmt.Sprintf("the stored definition of group %s cannot be read by this version: %v", definition.Group, err)}
	}
	if _, err := directory.Placement(&definition); err != nil && !sameNodes(definition.Replicas, old.Replicas) {
		return nil, &groups.FileError{Key: "replicas", Message: err.Error()}
	}
	p.record, p.moved = record, !sameNodes(definition.Replicas, old.Replicas) || (definition.Replicas == nil) != (old.Replicas == nil)
	p.change.Version = record.Version
	p.change.Changes = changesToWire(groups.Diff(&old, &definition))
	p.change.Action = actionUnchanged
	if len(p.change.Changes) > 0 {
		p.change.Action = actionChanged
	}
	return p, nil
}

// sameNodes compares lists of nodes whose order means nothing.
func sameNodes(a, b []string) bool {
	a, b = slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b))
	return slices.Equal(a, b)
}

// checkRemoved refuses, before anything takes effect, to remove participants
// that have data. The state machine refuses it again, for what is written
// meanwhile.
func (s *clusterService) checkRemoved(ctx context.Context, p *planned) (*groups.FileError, error) {
	old, err := p.record.Definition()
	if err != nil {
		return nil, statusOf(p.definition.Group, err)
	}
	for _, name := range old.ParticipantNames() {
		if _, stays := p.definition.Participant(name); stays {
			continue
		}
		has, err := s.hasData(ctx, p.definition.Group, name)
		if err != nil {
			return nil, err
		}
		if has {
			return &groups.FileError{Key: fmt.Sprintf("participants[%s]", name), Message: fmt.Sprintf("participant %s of group %s has data; give --prune to remove it together with its data, or leave it", name, p.definition.Group)}, nil
		}
	}
	return nil, nil
}

// hasData looks at a replica, wherever there is one.
func (s *Service) hasData(ctx context.Context, group, participant string) (bool, error) {
	req := &pb.ScanRequest{Group: group, Participant: participant, Limit: 1, At: &pb.ScanRequest_Stale{Stale: true}}
	response, err := s.dispatch(ctx, target{group: group, replica: true}, func(ctx context.Context) (any, error) {
		return (&transactionsService{Service: s}).Scan(ctx, req)
	}, func(ctx context.Context, conn *grpc.ClientConn) (any, error) {
		return pb.NewTransactionsClient(conn).Scan(ctx, req)
	})
	if err != nil {
		return false, err
	}
	return len(response.(*pb.ScanResponse).GetItems()) > 0, nil
}

// carryOut does what was planned and returns when it has taken effect.
func (s *clusterService) carryOut(ctx context.Context, p *planned, prune bool) error {
	group := p.definition.Group
	switch p.change.Action {
	case actionCreated:
		record, err := s.config.Directory.CreateGroup(ctx, &p.definition, p.nodes)
		if err != nil {
			return statusOf(group, err)
		}
		p.change.Version = record.Version
		s.logger.Info("group created", zap.String("group", group), zap.Strings("nodes", record.Nodes()))
		return s.awaitCoordinator(ctx, group)
	case actionChanged:
		data, err := p.definition.MarshalJSON()
		if err != nil {
			return statusOf(group, err)
		}
		version, err := s.configure(ctx, &pb.ConfigureRequest{Group: group, DefinitionJson: data, Prune: prune})
		if err != nil {
			return err
		}
		p.change.Version = version
		s.logger.Info("group changed", zap.String("group", group), zap.Uint64("version", version))
	}
	return nil
}

func (s *Service) configure(ctx context.Context, req *pb.ConfigureRequest) (uint64, error) {
	response, err := s.dispatch(ctx, target{group: req.GetGroup(), coordinator: true}, func(ctx context.Context) (any, error) {
		return (&peersService{Service: s}).Configure(ctx, req)
	}, func(ctx context.Context, conn *grpc.ClientConn) (any, error) {
		return pb.NewPeersClient(conn).Configure(ctx, req)
	})
	if err != nil {
		return 0, err
	}
	return response.(*pb.ConfigureResponse).GetVersion(), nil
}

// awaitCoordinator returns when a coordinator serves the new group, which it
// does only after it has configured it. A new shard elects, and its nodes create
// databases: it gets several waits.
func (s *Service) awaitCoordinator(ctx context.Context, group string) error {
	const waits = 4
	req := &pb.ListTransactionsRequest{Group: group, Limit: 1}
	var err error
	for range waits {
		_, err = s.dispatch(ctx, target{group: group, coordinator: true}, func(ctx context.Context) (any, error) {
			return (&transactionsService{Service: s}).ListTransactions(ctx, req)
		}, func(ctx context.Context, conn *grpc.ClientConn) (any, error) {
			return pb.NewTransactionsClient(conn).ListTransactions(ctx, req)
		})
		if err == nil || !hasReason(err, reasonNoCoordinator) || ctx.Err() != nil {
			break
		}
	}
	if err != nil && hasReason(err, reasonNoCoordinator) {
		return failure(codes.Unavailable, reasonNoCoordinator, []string{"group", group},
			"group %q is created, but has no coordinator yet; `cohort status %s` says when it has", group, group)
	}
	return err
}

func changesToWire(changes []groups.Change) []*pb.FieldChange {
	out := make([]*pb.FieldChange, len(changes))
	for i, c := range changes {
		out[i] = &pb.FieldChange{Path: c.Path, Before: c.Before, After: c.After}
	}
	return out
}

func faultsToWire(faults []groups.FileError) []*pb.FileError {
	out := make([]*pb.FileError, len(faults))
	for i, f := range faults {
		out[i] = &pb.FileError{File: f.File, Line: uint32(max(f.Line, 0)), Column: uint32(max(f.Column, 0)), Key: f.Key, Message: f.Message}
	}
	return out
}

func (s *clusterService) ListNodes(ctx context.Context, _ *pb.ListNodesRequest) (*pb.ListNodesResponse, error) {
	return &pb.ListNodesResponse{Nodes: s.survey(ctx, "").nodes()}, nil
}

func (s *clusterService) ListGroups(ctx context.Context, req *pb.ListGroupsRequest) (*pb.ListGroupsResponse, error) {
	if err := s.checkGroup(ctx, req.GetName()); err != nil {
		return nil, err
	}
	return &pb.ListGroupsResponse{Groups: s.survey(ctx, req.GetName()).groups()}, nil
}

func (s *clusterService) ListParticipants(ctx context.Context, req *pb.ListParticipantsRequest) (*pb.ListParticipantsResponse, error) {
	if err := s.checkGroup(ctx, req.GetGroup()); err != nil {
		return nil, err
	}
	sv := s.survey(ctx, req.GetGroup())
	out := &pb.ListParticipantsResponse{}
	for _, record := range sv.records {
		out.Participants = append(out.Participants, sv.participants(record)...)
	}
	return out, nil
}

func (s *clusterService) Status(ctx context.Context, req *pb.StatusRequest) (*pb.StatusResponse, error) {
	if err := s.checkGroup(ctx, req.GetGroup()); err != nil {
		return nil, err
	}
	out := s.survey(ctx, req.GetGroup()).status(req.GetGroup() == "")
	// What was surveyed is what this node knew; whether that is the truth, a
	// majority of the directory's nodes must say.
	asking, cancel := context.WithTimeout(ctx, directoryWait)
	defer cancel()
	if _, err := s.config.Directory.Read(asking); err != nil {
		out.Healthy = false
		out.Reasons = append(out.Reasons, "the directory does not answer, so a majority of the cluster's first nodes is not connected to node "+s.config.Node+": start them; until then no group is created or changed")
	}
	return out, nil
}

// checkGroup refuses a name that is not empty and no group's.
func (s *Service) checkGroup(ctx context.Context, group string) error {
	if group == "" {
		return nil
	}
	if err := checkName("group", group); err != nil {
		return err
	}
	_, err := s.record(ctx, group)
	return err
}

// Digest hashes the replica of this node; it was sent to the right one.
func (s *clusterService) Digest(_ context.Context, req *pb.DigestRequest) (*pb.DigestResponse, error) {
	if node := req.GetNode(); node != "" && node != s.config.Node {
		return nil, statusOf(req.GetGroup(), ErrNotServing)
	}
	local := s.config.Groups.Group(req.GetGroup())
	if local.Replica == nil {
		return nil, failure(codes.FailedPrecondition, reasonNoReplica, []string{"group", req.GetGroup(), "node", s.config.Node},
			"node %q has no replica of group %q; ask one that `cohort get groups` names", s.config.Node, req.GetGroup())
	}
	view, err := local.Replica.View(0)
	if err != nil {
		return nil, statusOf(req.GetGroup(), err)
	}
	defer view.Close()
	meta, err := view.Meta()
	if err != nil {
		return nil, statusOf(req.GetGroup(), err)
	}
	sum, keys, err := view.Digest()
	if err != nil {
		return nil, statusOf(req.GetGroup(), err)
	}
	return &pb.DigestResponse{
		Node: s.config.Node, Incarnation: meta.Incarnation, Position: meta.Position, AppliedIndex: view.Index(),
		Digest: bytes.Clone(sum[:]), Keys: keys,
	}, nil
}
