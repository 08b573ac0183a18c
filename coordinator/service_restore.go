package coordinator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/groups"
	"github.com/cohort-tx/cohort/txlog"
	"github.com/cohort-tx/cohort/txlog/machine"
)

// Phases of a restore, as they are told.
const (
	phasePlanning      = "planning"
	phaseHydrating     = "hydrating"
	phaseCheckpointing = "checkpointing"
	phaseSwitching     = "switching"
	phaseStarting      = "starting"
	phaseComparing     = "comparing"
)

// restoreStart bounds the wait for a restored group's first coordinator.
const restoreStart = time.Minute

// Hydrator makes, on this node, the files that replicas of restored incarnations
// start from.
type Hydrator interface {
	Hydrate(ctx context.Context, req *pb.HydrateRequest, progress func(txlog.HydrateProgress)) (txlog.Hydrated, error)
	// Discard removes what a token has left, if no replica has taken it.
	Discard(token string)
	// SaveImport keeps an export file under a token until Discard, whole and
	// verified, and tells what is in it.
	SaveImport(ctx context.Context, token string, in io.Reader) (ImportedFile, error)
	// OpenImport gives it back.
	OpenImport(token string) (io.ReadCloser, uint64, error)
}

// ImportedFile is what an export file says of itself.
type ImportedFile struct {
	Group       string
	Checkpoint  uint64
	Incarnation uint64
	Position    uint64
	// Definition that the group had, and the participants that have sections.
	Definition   []byte
	Participants []string
}

// restorePlan is what a restore goes by once its target is known.
type restorePlan struct {
	token       string
	source      string // group, for messages
	incarnation uint64 // of the source
	checkpoint  uint64
	position    uint64
	importNode  string // of an import
	definition  groups.Definition
	nodes       []string
}

// Restore runs on the node that coordinates the group.
func (s *checkpointsService) Restore(req *pb.RestoreRequest, stream grpc.ServerStreamingServer[pb.RestoreProgress]) error {
	ctx := stream.Context()
	if err := checkRestore(req); err != nil {
		return err
	}
	return s.onCoordinator(ctx, req.GetGroup(), func() error {
		r := s.newRestoring(stream)
		ctx := asOwn(ctx)
		return r.run(func() (*pb.RestoreResult, error) { return r.restore(ctx, req) })
	}, func(ctx context.Context, conn *grpc.ClientConn) error {
		from, err := pb.NewCheckpointsClient(conn).Restore(ctx, req)
		return passOn(from, err, stream.Send)
	})
}

// asOwn is for what a node does on behalf of a request that was sent on to it:
// requests of its own, which may be sent on.
func asOwn(ctx context.Context) context.Context {
	return metadata.NewIncomingContext(ctx, metadata.MD{})
}

func checkRestore(req *pb.RestoreRequest) error {
	if err := checkName("group", req.GetGroup()); err != nil {
		return err
	}
	if (req.GetAs() == "") == !req.GetInPlace() {
		return invalid("as", "give either the name of a new group, or in_place")
	}
	if req.GetAs() != "" {
		if err := checkName("as", req.GetAs()); err != nil {
			return err
		}
	}
	if req.GetTo() == nil {
		return invalid("to", "is missing; give a checkpoint, a position or a time")
	}
	return nil
}

// onCoordinator runs a streaming request where the group is coordinated.
func (s *Service) onCoordinator(ctx context.Context, group string, here func() error, there func(context.Context, *grpc.ClientConn) error) error {
	if err := checkName("group", group); err != nil {
		return err
	}
	p, err := s.awaitPlace(ctx, group)
	if err != nil {
		return err
	}
	if p.here {
		return here()
	}
	conn, err := s.connect(p.addr)
	if err != nil {
		return err
	}
	return there(forwardedContext(ctx), conn)
}

// awaitPlace waits, bounded, until somebody coordinates the group.
func (s *Service) awaitPlace(ctx context.Context, group string) (place, error) {
	wait, cancel := context.WithTimeout(ctx, s.wait)
	defer cancel()
	pause := retryPauseMin
	for {
		p, err := s.locateCoordinator(ctx, group)
		if err != nil || p.here || p.addr != "" {
			return p, err
		}
		if err := waitForChange(wait, p.changed, pause); err != nil {
			return place{}, unreachable(target{group: group, coordinator: true}, s.wait, nil)
		}
		pause = min(2*pause, retryPauseMax)
	}
}

// restoring is one restore, import or drill under way.
type restoring struct {
	*Service
	began time.Time
	mu    sync.Mutex
	send  func(*pb.RestoreProgress) error
	nodes map[string]*pb.HydrateProgress
}

func (s *checkpointsService) newRestoring(stream interface {
	Send(*pb.RestoreProgress) error
}) *restoring {
	return &restoring{Service: s.Service, began: time.Now(), send: stream.Send, nodes: make(map[string]*pb.HydrateProgress)}
}

func (r *restoring) run(do func() (*pb.RestoreResult, error)) error {
	result, err := do()
	if err != nil {
		return err
	}
	result.Seconds = time.Since(r.began).Seconds()
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.send(&pb.RestoreProgress{Result: result})
}

func (r *restoring) phase(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_ = r.send(&pb.RestoreProgress{Phase: name}) // a client that is gone ends the context too
}

// progress sums up what the nodes have done.
func (r *restoring) progress(node string, p *pb.HydrateProgress) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.nodes[node] = p
	sum := &pb.RestoreProgress{Phase: phaseHydrating, Node: node, Position: p.GetPosition()}
	for _, one := range r.nodes {
		sum.BytesDone += one.GetBytesDone()
		sum.BytesTotal += one.GetBytesTotal()
	}
	_ = r.send(sum)
}

func (r *restoring) restore(ctx context.Context, req *pb.RestoreRequest) (*pb.RestoreResult, error) {
	r.phase(phasePlanning)
	plan, err := r.plan(ctx, req)
	if err != nil {
		return nil, err
	}
	if req.GetInPlace() {
		return r.inPlace(ctx, plan)
	}
	return r.asNewGroup(ctx, plan, req.GetAs())
}

// plan finds the checkpoint to begin with and the position to end at.
func (r *restoring) plan(ctx context.Context, req *pb.RestoreRequest) (*restorePlan, error) {
	group := req.GetGroup()
	if to, ok := req.GetTo().(*pb.RestoreRequest_Time); ok {
		// Times are those of coordinators' clocks, and this node is one now.
		if at, now := to.Time.AsTime(), time.Now(); at.After(now) {
			return nil, invalid("time", "%s is yet to come: node %q has %s; give a moment of the past, or the position or checkpoint that you want", at.Format(time.RFC3339), r.config.Node, now.UTC().Format(time.RFC3339))
		}
	}
	local := r.config.Groups.Group(group)
	if local.Keeper == nil || local.Coordinator == nil {
		return nil, statusOf(group, ErrNotServing)
	}
	record, err := r.record(ctx, group)
	if err != nil {
		return nil, err
	}
	definition, err := record.Definition()
	if err != nil {
		return nil, statusOf(group, err)
	}
	point, err := local.Keeper.Locate(ctx, locateOf(req))
	if err != nil {
		return nil, restoreError(group, err)
	}
	if point.Incarnation > groups.MaxIncarnation-1 {
		return nil, failure(codes.FailedPrecondition, reasonInvalid, []string{"group", group}, "group %q is in its last incarnation, %d", group, point.Incarnation)
	}
	plan := &restorePlan{
		token: newToken(), source: group, incarnation: point.Incarnation,
		checkpoint: point.Checkpoint, position: point.Position, definition: definition, nodes: record.Voters(),
	}
	plan.keepParticipants(point.Participants)
	return plan, nil
}

// keepParticipants adds those that had data then and are not in the group any
// more.
func (p *restorePlan) keepParticipants(names []string) {
	for _, name := range names {
		if _, ok := p.definition.Participant(name); !ok {
			p.definition.Participants = append(p.definition.Participants, groups.Participant{Name: name})
		}
	}
}

func locateOf(req *pb.RestoreRequest) txlog.Target {
	switch to := req.GetTo().(type) {
	case *pb.RestoreRequest_Checkpoint:
		return txlog.Target{Checkpoint: to.Checkpoint}
	case *pb.RestoreRequest_Position:
		return txlog.Target{Position: &to.Position}
	case *pb.RestoreRequest_Time:
		return txlog.Target{TimeUnixNano: to.Time.AsTime().UnixNano()}
	}
	return txlog.Target{}
}

// restoreError tells a target that cannot be reached from a failure.
func restoreError(group string, err error) error {
	var no *txlog.TargetError
	if errors.As(err, &no) {
		return failure(codes.FailedPrecondition, reasonUnknownCheckpoint, []string{"group", group}, "group %q: %s", group, no.Detail)
	}
	return statusOf(group, err)
}

func (p *restorePlan) origin(h *hydrated) groups.Origin {
	return groups.Origin{
		Token: p.token, Digest: h.digest, SourceGroup: p.source, SourceIncarnation: p.incarnation,
		Checkpoint: p.checkpoint, Position: p.position, Hydrated: h.nodes,
	}
}

// asNewGroup makes a group of what was restored. A crash before the directory has
// the group leaves files that nodes remove later.
func (r *restoring) asNewGroup(ctx context.Context, plan *restorePlan, as string) (*pb.RestoreResult, error) {
	directory, err := r.config.Directory.Read(ctx)
	if err != nil {
		return nil, statusOf(as, err)
	}
	if _, taken := directory.Group(as); taken {
		return nil, failure(codes.AlreadyExists, reasonInvalid, []string{"group", as}, "there is a group %q already; give a name that is free", as)
	}
	plan.definition.Group = as
	h, err := r.hydrate(ctx, plan, as, plan.incarnation+1)
	if err != nil {
		return nil, err
	}
	r.phase(phaseSwitching)
	if _, err := r.config.Directory.CreateGroupFrom(ctx, &plan.definition, plan.nodes, plan.incarnation+1, plan.origin(h)); err != nil {
		return nil, statusOf(as, err)
	}
	r.logger.Info("group restored", zap.String("group", as), zap.String("from", plan.source), zap.Uint64("position", plan.position))
	if err := r.begin(ctx, as, plan.incarnation+1); err != nil {
		return nil, err
	}
	return plan.result(as, plan.incarnation+1, h), nil
}

func (p *restorePlan) result(group string, incarnation uint64, h *hydrated) *pb.RestoreResult {
	return &pb.RestoreResult{
		Group: group, Incarnation: incarnation, Checkpoint: p.checkpoint, Position: p.position, Time: timeToWire(h.result.GetTimeUnixNano()),
		EntriesReplayed: h.result.GetEntries(), Bytes: h.result.GetBytes(), Nodes: h.nodes,
		Participants: participantSections(h.result.GetSections()),
		LoadSeconds:  h.result.GetLoadSeconds(), ReplaySeconds: h.result.GetReplaySeconds(),
	}
}

func participantSections(sections []*pb.SectionReport) []*pb.CheckpointParticipant {
	var out []*pb.CheckpointParticipant
	for _, s := range sections {
		if name, ok := strings.CutPrefix(s.GetName(), participantSection); ok {
			out = append(out, &pb.CheckpointParticipant{Name: name, Keys: s.GetKeys(), Bytes: s.GetBytes(), Digest: s.GetDigest()})
		}
	}
	slices.SortFunc(out, func(a, b *pb.CheckpointParticipant) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// begin waits until the incarnation is coordinated, and takes its first
// checkpoint: without one there would be nothing to come back to.
func (r *restoring) begin(ctx context.Context, group string, incarnation uint64) error {
	r.phase(phaseStarting)
	ctx, cancel := context.WithTimeout(ctx, restoreStart)
	defer cancel()
	pause := retryPauseMin
	for {
		err := r.awaitCoordinator(ctx, group)
		if err == nil {
			var at uint64
			if at, err = r.servedIncarnation(ctx, group); err == nil && at == incarnation {
				break
			}
			if err == nil {
				err = fmt.Errorf("it is still in incarnation %d", at)
			}
		}
		if waitErr := waitForChange(ctx, nil, pause); waitErr != nil {
			return failure(codes.Unavailable, reasonNoCoordinator, []string{"group", group},
				"group %q is restored, but nobody coordinates it yet (%s); `cohort status %s` says more", group, plain(err), group)
		}
		pause = min(2*pause, retryPauseMax)
	}
	req := &pb.CreateCheckpointRequest{Group: group, Token: "restored-" + uintText(incarnation)}
	_, err := r.dispatch(ctx, target{group: group, coordinator: true}, func(ctx context.Context) (any, error) {
		return (&checkpointsService{Service: r.Service}).CreateCheckpoint(ctx, req)
	}, func(ctx context.Context, conn *grpc.ClientConn) (any, error) {
		return pb.NewCheckpointsClient(conn).CreateCheckpoint(ctx, req)
	})
	if err != nil {
		r.logger.Warn("the first checkpoint of a restored group is not taken yet", zap.String("group", group), zap.Error(err))
	}
	return nil
}

// servedIncarnation is the one that the group's coordinator serves.
func (r *restoring) servedIncarnation(ctx context.Context, group string) (uint64, error) {
	sv := r.survey(ctx, group)
	for _, record := range sv.records {
		if _, replica := sv.serving(record); replica != nil {
			return replica.GetIncarnation(), nil
		}
	}
	return 0, ErrNotServing
}

// inPlace takes the group itself back. Until the directory's entry that begins
// the incarnation, everything can be undone and is; after it, there is only
// forward.
func (r *restoring) inPlace(ctx context.Context, plan *restorePlan) (*pb.RestoreResult, error) {
	group := plan.source
	local := r.config.Groups.Group(group)
	defer local.Coordinator.Restoring(plan.token)()
	if _, err := r.config.Directory.PlanRestore(ctx, group, plan.token, plan.incarnation); err != nil {
		return nil, statusOf(group, err)
	}
	h, err := r.hydrate(ctx, plan, group, plan.incarnation+1)
	var back machine.Checkpoint
	if err == nil {
		r.phase(phaseCheckpointing)
		back, err = local.Coordinator.Seal(ctx, plan.token)
	}
	if err == nil {
		r.phase(phaseSwitching)
		origin := plan.origin(h)
		origin.Carried = [][]byte{machine.AppendCheckpoint(nil, &back)}
		_, err = r.config.Directory.BeginIncarnation(ctx, groups.BeginIncarnation{
			Group: group, Token: plan.token, Incarnation: plan.incarnation + 1, Origin: origin,
			Version: h.result.GetConfigVersion(), DefinitionJSON: h.definition,
		})
	}
	if err != nil {
		return nil, r.giveUp(ctx, plan, err)
	}
	r.logger.Info("group restored in place", zap.String("group", group), zap.Uint64("position", plan.position),
		zap.Uint64("incarnation", plan.incarnation+1), zap.Uint64("come_back_checkpoint", back.Number))
	if err := r.begin(ctx, group, plan.incarnation+1); err != nil {
		return nil, err
	}
	result := plan.result(group, plan.incarnation+1, h)
	result.ComeBackCheckpoint = back.Number
	return result, nil
}

// giveUp takes a plan back. The directory decides: once it has cancelled the
// token, the incarnation can never begin, and the group may go on.
func (r *restoring) giveUp(ctx context.Context, plan *restorePlan, cause error) error {
	ctx = context.WithoutCancel(ctx)
	ctx, cancel := context.WithTimeout(ctx, restoreStart)
	defer cancel()
	if _, err := r.config.Directory.CancelRestore(ctx, plan.source, plan.token); err != nil {
		return errors.Join(statusOf(plan.source, cause), fmt.Errorf("and it could not be taken back: %w; the coordinator does so later", err))
	}
	if local := r.config.Groups.Group(plan.source); local.Coordinator != nil {
		if err := local.Coordinator.Unseal(ctx, plan.token); err != nil {
			r.logger.Warn("the group is unsealed later", zap.String("group", plan.source), zap.Error(err))
		}
	}
	return statusOf(plan.source, cause)
}
