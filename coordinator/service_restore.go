package coordinator

import (
	"bytes"
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
	"github.com/cohort-tx/cohort/txlog/command"
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
		return passOn(from, err, stream)
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

func passOn[T any](from grpc.ServerStreamingClient[T], err error, to grpc.ServerStreamingServer[T]) error {
	if err != nil {
		return err
	}
	for {
		m, err := from.Recv()
		if isEOF(err) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := to.Send(m); err != nil {
			return err
		}
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

// hydrated is what the nodes made.
type hydrated struct {
	digest []byte
	nodes  []string
	result *pb.HydrateResult
	// definition is that of the state.
	definition []byte
}

// hydrate has every node make its files, and wants equal ones from a majority.
func (r *restoring) hydrate(ctx context.Context, plan *restorePlan, group string, incarnation uint64) (*hydrated, error) {
	r.phase(phaseHydrating)
	definition, err := plan.definition.MarshalJSON()
	if err != nil {
		return nil, statusOf(group, err)
	}
	req := &pb.HydrateRequest{
		Token: plan.token, SourceGroup: plan.source, Checkpoint: plan.checkpoint, Position: plan.position,
		Group: group, Incarnation: incarnation, DefinitionJson: definition,
	}
	if plan.importNode != "" {
		req.ImportToken, req.ImportNode = plan.token, plan.importNode
	}
	results := make(map[string]*pb.HydrateResult)
	failures := make(map[string]error)
	var mu sync.Mutex
	var nodes sync.WaitGroup
	for _, node := range plan.nodes {
		nodes.Go(func() {
			result, err := r.hydrateAt(ctx, node, req)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failures[node] = err
				return
			}
			results[node] = result
		})
	}
	nodes.Wait()
	h, err := agree(group, plan.nodes, results, failures)
	if err != nil {
		return nil, err
	}
	h.definition = definition
	return h, nil
}

// agree picks the digest that a majority has.
func agree(group string, members []string, results map[string]*pb.HydrateResult, failures map[string]error) (*hydrated, error) {
	best := &hydrated{}
	for _, node := range members {
		if results[node] == nil {
			continue
		}
		same := &hydrated{digest: results[node].GetDigest(), result: results[node]}
		for _, other := range members {
			if results[other] != nil && bytes.Equal(results[other].GetDigest(), same.digest) {
				same.nodes = append(same.nodes, other)
			}
		}
		if len(same.nodes) > len(best.nodes) {
			best = same
		}
	}
	quorum := len(members)/2 + 1
	if len(best.nodes) >= quorum {
		return best, nil
	}
	var why []string
	for _, node := range members {
		switch {
		case failures[node] != nil:
			why = append(why, fmt.Sprintf("node %s: %s", node, plain(failures[node])))
		case !slices.Contains(best.nodes, node):
			why = append(why, fmt.Sprintf("node %s made another state from its files: verify them", node))
		}
	}
	return nil, failure(codes.FailedPrecondition, reasonNotRestored, []string{"group", group},
		"the state could be made on %d of %d nodes, and %d are needed; nothing was changed. %s", len(best.nodes), len(members), quorum, strings.Join(why, "; "))
}

func (r *restoring) hydrateAt(ctx context.Context, node string, req *pb.HydrateRequest) (*pb.HydrateResult, error) {
	var result *pb.HydrateResult
	take := func(p *pb.HydrateProgress) {
		if p.GetResult() != nil {
			result = p.GetResult()
			return
		}
		r.progress(node, p)
	}
	err := r.onNode(ctx, node, func() error {
		return r.hydrateHere(ctx, req, take)
	}, func(ctx context.Context, conn *grpc.ClientConn) error {
		from, err := pb.NewPeersClient(conn).Hydrate(ctx, req)
		if err != nil {
			return err
		}
		for {
			p, err := from.Recv()
			if isEOF(err) {
				return nil
			}
			if err != nil {
				return err
			}
			take(p)
		}
	})
	if err == nil && result == nil {
		err = errors.New("the node ended without a result")
	}
	return result, err
}

// hydrateHere is this node's part.
func (s *Service) hydrateHere(ctx context.Context, req *pb.HydrateRequest, tell func(*pb.HydrateProgress)) error {
	last := time.Now()
	done, err := s.config.Hydrator.Hydrate(ctx, req, func(p txlog.HydrateProgress) {
		if time.Since(last) >= verifyTick {
			last = time.Now()
			tell(&pb.HydrateProgress{Phase: phaseHydrating, BytesDone: p.BytesDone, BytesTotal: p.BytesTotal, Position: p.Position})
		}
	})
	if err != nil {
		return restoreError(req.GetSourceGroup(), err)
	}
	tell(&pb.HydrateProgress{Result: hydratedToWire(&done)})
	return nil
}

func hydratedToWire(h *txlog.Hydrated) *pb.HydrateResult {
	return &pb.HydrateResult{
		Digest: slices.Clone(h.Digest[:]), Position: h.Meta.Position, Entries: h.Entries, Bytes: h.Bytes,
		Sections: sectionsToWire(h.Sections), LoadSeconds: h.Load.Seconds(), ReplaySeconds: h.Replay.Seconds(),
		ConfigVersion: h.Meta.ConfigVersion, TimeUnixNano: h.Meta.TimeUnixNano,
	}
}

func sectionsToWire(sections []command.Section) []*pb.SectionReport {
	out := make([]*pb.SectionReport, len(sections))
	for i, s := range sections {
		out[i] = &pb.SectionReport{Name: s.Name, Keys: s.Keys, Bytes: s.Bytes, Digest: slices.Clone(s.Digest[:])}
	}
	return out
}

// Hydrate is a node's part of a restore.
func (s *peersService) Hydrate(req *pb.HydrateRequest, stream grpc.ServerStreamingServer[pb.HydrateProgress]) error {
	var sending error
	err := s.hydrateHere(stream.Context(), req, func(p *pb.HydrateProgress) {
		if sending == nil {
			sending = stream.Send(p)
		}
	})
	return errors.Join(err, sending)
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

// Drill runs on the node that coordinates the group.
func (s *checkpointsService) Drill(req *pb.DrillRequest, stream grpc.ServerStreamingServer[pb.RestoreProgress]) error {
	ctx := stream.Context()
	return s.onCoordinator(ctx, req.GetGroup(), func() error {
		r := s.newRestoring(stream)
		ctx := asOwn(ctx)
		return r.run(func() (*pb.RestoreResult, error) { return r.drill(ctx, req.GetGroup()) })
	}, func(ctx context.Context, conn *grpc.ClientConn) error {
		from, err := pb.NewCheckpointsClient(conn).Drill(ctx, req)
		return passOn(from, err, stream)
	})
}

// drill restores into a place of its own and compares with the state that was
// live when it began.
func (r *restoring) drill(ctx context.Context, group string) (*pb.RestoreResult, error) {
	r.phase(phasePlanning)
	local := r.config.Groups.Group(group)
	if local.Replica == nil || local.Keeper == nil {
		return nil, statusOf(group, ErrNotServing)
	}
	live, err := local.Replica.View(0)
	if err != nil {
		return nil, statusOf(group, err)
	}
	defer live.Close()
	meta, err := live.Meta()
	if err != nil {
		return nil, statusOf(group, err)
	}
	plan, err := r.plan(ctx, &pb.RestoreRequest{Group: group, To: &pb.RestoreRequest_Position{Position: meta.Position}})
	if err != nil {
		return nil, err
	}
	definition, err := plan.definition.MarshalJSON()
	if err != nil {
		return nil, statusOf(group, err)
	}
	done, err := r.hydrateAt(ctx, r.config.Node, &pb.HydrateRequest{
		Token: plan.token, SourceGroup: group, Checkpoint: plan.checkpoint, Position: plan.position,
		Group: group, Incarnation: plan.incarnation + 1, DefinitionJson: definition, Drill: true,
	})
	if err != nil {
		return nil, err
	}
	r.phase(phaseComparing)
	result := plan.result(group, plan.incarnation, &hydrated{nodes: []string{r.config.Node}, result: done})
	if result.Differences, err = differences(live, result.Participants); err != nil {
		return nil, statusOf(group, err)
	}
	result.Equal = len(result.Differences) == 0
	return result, nil
}

// differences compares participants' data with that of a state.
func differences(live View, restored []*pb.CheckpointParticipant) ([]string, error) {
	config, err := live.Config()
	if err != nil {
		return nil, err
	}
	_, sections, err := machine.ImageDigest(live.Reader(), config)
	if err != nil {
		return nil, err
	}
	var out []string
	want := participantSections(sectionsToWire(sections))
	for _, w := range want {
		i := slices.IndexFunc(restored, func(p *pb.CheckpointParticipant) bool { return p.Name == w.Name })
		switch {
		case i < 0:
			out = append(out, fmt.Sprintf("participant %s is missing from what was restored", w.Name))
		case !bytes.Equal(restored[i].Digest, w.Digest):
			out = append(out, fmt.Sprintf("participant %s: %d keys with digest %x were restored, %d keys with digest %x are live", w.Name, restored[i].Keys, restored[i].Digest, w.Keys, w.Digest))
		}
	}
	return out, nil
}

// ImportCheckpoint takes the file in, verifies it, and makes a group of it.
func (s *checkpointsService) ImportCheckpoint(stream grpc.BidiStreamingServer[pb.ImportCheckpointRequest, pb.RestoreProgress]) error {
	ctx := stream.Context()
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	as := first.GetHeader().GetAs()
	if err := checkName("as", as); err != nil {
		return err
	}
	r := s.newRestoring(stream)
	return r.run(func() (*pb.RestoreResult, error) {
		token := newToken()
		defer s.config.Hydrator.Discard(token)
		file, err := s.config.Hydrator.SaveImport(ctx, token, &importReader{from: stream})
		if err != nil {
			return nil, failure(codes.InvalidArgument, reasonInvalid, []string{"field", "file"}, "the file cannot be imported: %v", err)
		}
		plan, err := r.planImport(ctx, token, as, &file)
		if err != nil {
			return nil, err
		}
		return r.asNewGroup(ctx, plan, as)
	})
}

func (r *restoring) planImport(ctx context.Context, token, as string, file *ImportedFile) (*restorePlan, error) {
	definition, err := groups.Decode(file.Definition)
	if err != nil {
		return nil, failure(codes.InvalidArgument, reasonInvalid, []string{"field", "file"}, "the definition in the file cannot be read by this release: %v", err)
	}
	// The nodes it names are of the cluster that it comes from.
	definition.Group, definition.Replicas = as, nil
	for i := range definition.Participants {
		definition.Participants[i].Nodes = nil
	}
	directory, err := r.config.Directory.Read(ctx)
	if err != nil {
		return nil, statusOf(as, err)
	}
	nodes, err := directory.Placement(&definition)
	if err != nil {
		return nil, failure(codes.FailedPrecondition, reasonInvalid, []string{"group", as}, "%v", err)
	}
	if copies := uint64(len(nodes)); definition.Checkpoint.MinCopies > copies {
		definition.Checkpoint.MinCopies = copies
	}
	plan := &restorePlan{
		token: token, source: file.Group, incarnation: file.Incarnation, checkpoint: file.Checkpoint,
		position: file.Position, importNode: r.config.Node, definition: definition, nodes: nodes,
	}
	plan.keepParticipants(file.Participants)
	return plan, nil
}

type importReader struct {
	from interface {
		Recv() (*pb.ImportCheckpointRequest, error)
	}
	rest []byte
}

func (r *importReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		m, err := r.from.Recv()
		if err != nil {
			return 0, err
		}
		r.rest = m.GetData()
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}
