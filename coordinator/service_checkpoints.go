package coordinator

import (
	"cmp"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/txlog"
	"github.com/cohort-tx/cohort/txlog/checkpoint"
	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/machine"
)

// fileChunkBytes is the size of the pieces that files are sent in.
const fileChunkBytes = 256 << 10

// verifyTick is how often progress is told.
const verifyTick = 200 * time.Millisecond

type checkpointsService struct {
	pb.UnimplementedCheckpointsServer
	*Service
}

// CreateCheckpoint asks the group's coordinator for one. Sent again with the same
// token after an error, it waits for the same one.
func (s *checkpointsService) CreateCheckpoint(ctx context.Context, req *pb.CreateCheckpointRequest) (*pb.CheckpointInfo, error) {
	ask := CheckpointRequest{Token: req.GetToken(), Trigger: command.TriggerOperator, By: s.config.Node, Participants: req.GetParticipants(), Wait: req.GetWait()}
	for _, p := range ask.Participants {
		if err := checkName("participants", p); err != nil {
			return nil, err
		}
	}
	if ask.Token != "" {
		if err := checkID("token", ask.Token); err != nil {
			return nil, err
		}
	}
	if by := req.GetRequestedBy(); by != "" {
		if err := checkName("requested_by", by); err != nil {
			return nil, err
		}
		ask.Trigger, ask.By = command.TriggerParticipant, by
	}
	c, err := s.transactor(req.GetGroup())
	if err != nil {
		return nil, err
	}
	taken, err := c.RequestCheckpoint(ctx, ask)
	if err != nil {
		return nil, statusOf(req.GetGroup(), err)
	}
	return checkpointToWire(req.GetGroup(), &taken), nil
}

// ListCheckpoints reads a replica of each group.
func (s *checkpointsService) ListCheckpoints(ctx context.Context, req *pb.ListCheckpointsRequest) (*pb.ListCheckpointsResponse, error) {
	if err := s.checkGroup(ctx, req.GetGroup()); err != nil {
		return nil, err
	}
	out := &pb.ListCheckpointsResponse{}
	for _, record := range s.config.Groups.Directory().Groups() {
		if req.GetGroup() != "" && record.Name != req.GetGroup() {
			continue
		}
		one, err := s.checkpointsOf(ctx, record.Name)
		if err != nil {
			return nil, err
		}
		for _, c := range slices.Backward(one) {
			if req.GetId() == 0 || c.GetId() == req.GetId() {
				out.Checkpoints = append(out.Checkpoints, c)
			}
		}
	}
	if req.GetId() != 0 && len(out.Checkpoints) == 0 {
		return nil, noSuchCheckpoint(req.GetGroup(), req.GetId())
	}
	return out, nil
}

func noSuchCheckpoint(group string, id uint64) error {
	return failure(codes.NotFound, reasonUnknownCheckpoint, []string{"group", group, "checkpoint", uintText(id)},
		"group %q has no checkpoint %d; `cohort checkpoint list %s` shows those it has", group, id, group)
}

// checkpointsOf asks the group's coordinator, so that what it answers is not
// behind what a client has seen; a replica when there is none.
func (s *Service) checkpointsOf(ctx context.Context, group string) ([]*pb.CheckpointInfo, error) {
	local := s.config.Groups.Group(group)
	read := func() ([]*pb.CheckpointInfo, error) {
		view, err := local.Replica.View(0)
		if err != nil {
			return nil, statusOf(group, err)
		}
		defer view.Close()
		all, err := machine.ReadCheckpoints(view.Reader())
		if err != nil {
			return nil, statusOf(group, err)
		}
		out := make([]*pb.CheckpointInfo, len(all))
		for i := range all {
			out[i] = checkpointToWire(group, &all[i])
		}
		return out, nil
	}
	response, err := s.dispatch(ctx, target{group: group, coordinator: true}, func(context.Context) (any, error) {
		local = s.config.Groups.Group(group)
		if local.Replica == nil {
			return nil, statusOf(group, ErrNotServing)
		}
		return read()
	}, func(ctx context.Context, conn *grpc.ClientConn) (any, error) {
		answer, err := pb.NewCheckpointsClient(conn).ListCheckpoints(ctx, &pb.ListCheckpointsRequest{Group: group})
		if err != nil {
			return nil, err
		}
		slices.Reverse(answer.Checkpoints)
		return answer.Checkpoints, nil
	})
	if err != nil {
		if local.Replica != nil && hasReason(err, reasonNoCoordinator) {
			return read()
		}
		return nil, err
	}
	return response.([]*pb.CheckpointInfo), nil
}

func checkpointToWire(group string, c *machine.Checkpoint) *pb.CheckpointInfo {
	out := &pb.CheckpointInfo{
		Group: group, Id: c.Number, State: c.State.String(), Incarnation: c.Incarnation, Position: c.Position,
		Time: timeToWire(c.TimeUnixNano), Trigger: c.Request.Trigger.String(), RequestedBy: c.Request.By,
		Reason: c.Detail, Transaction: c.Transaction, Participant: c.Participant,
		PauseSeconds: seconds(c.PauseNanos), WaitSeconds: seconds(c.WaitNanos),
		MinCopies: c.MinCopies, Only: c.Request.Participants, Completed: timeToWire(c.CompletedUnixNano),
	}
	if c.State == machine.CheckpointComplete {
		out.Digest = slices.Clone(c.Digest[:])
	}
	for _, section := range c.Sections {
		if name, ok := strings.CutPrefix(section.Name, participantSection); ok {
			out.Participants = append(out.Participants, &pb.CheckpointParticipant{
				Name: name, Keys: section.Keys, Bytes: section.Bytes, Digest: slices.Clone(section.Digest[:]),
			})
		}
	}
	for i := range c.Captures {
		stateToWire(out, &c.Captures[i])
	}
	for _, m := range c.Members {
		copy := &pb.CheckpointCopy{Node: m, State: command.CopyNone.String()}
		for i := range c.Copies {
			if c.Copies[i].Node == m {
				copyToWire(copy, &c.Copies[i])
			}
		}
		out.Copies = append(out.Copies, copy)
		out.Bytes, out.WriteSeconds = max(out.Bytes, copy.Bytes), max(out.WriteSeconds, copy.WriteSeconds)
	}
	for i := range c.Copies {
		if !slices.Contains(c.Members, c.Copies[i].Node) {
			copy := &pb.CheckpointCopy{Node: c.Copies[i].Node}
			copyToWire(copy, &c.Copies[i])
			out.Copies = append(out.Copies, copy)
		}
	}
	return out
}

// stateToWire adds what is known of a participant's own state; its store data may
// not be known yet.
func stateToWire(out *pb.CheckpointInfo, c *machine.Capture) {
	at, found := slices.BinarySearchFunc(out.Participants, c.Participant, func(p *pb.CheckpointParticipant, name string) int { return cmp.Compare(p.Name, name) })
	if !found {
		out.Participants = slices.Insert(out.Participants, at, &pb.CheckpointParticipant{Name: c.Participant})
	}
	state := &pb.CheckpointState{State: c.State.String(), Position: c.Position, Bytes: c.Bytes, Reason: c.Detail}
	if c.Exists() {
		state.Sha256 = slices.Clone(c.SHA256[:])
	}
	out.Participants[at].State = state
}

// participantSection begins the names of participants' sections.
const participantSection = "participant/"

func copyToWire(out *pb.CheckpointCopy, c *machine.Copy) {
	out.State, out.Bytes, out.WriteSeconds, out.Reason, out.Rebuilt = c.State.String(), c.Bytes, seconds(c.WriteNanos), c.Detail, c.Rebuilt
}

func seconds(nanos uint64) float64 { return time.Duration(nanos).Seconds() }

// VerifyCheckpoint has every node of the group read its own copies, at once.
func (s *checkpointsService) VerifyCheckpoint(req *pb.VerifyCheckpointRequest, stream grpc.ServerStreamingServer[pb.VerifyProgress]) error {
	record, err := s.record(stream.Context(), req.GetGroup())
	if err != nil {
		return err
	}
	if err := s.checkWanted(stream.Context(), req); err != nil {
		return err
	}
	v := &verification{stream: stream, done: make(map[string]*pb.VerifyProgress)}
	var nodes sync.WaitGroup
	for _, node := range record.Nodes() {
		nodes.Go(func() { v.add(node, s.verifyAt(stream.Context(), node, req, v)) })
	}
	nodes.Wait()
	return v.finish()
}

// checkWanted refuses to verify what there is no complete checkpoint of.
func (s *Service) checkWanted(ctx context.Context, req *pb.VerifyCheckpointRequest) error {
	if req.GetId() == 0 {
		return nil
	}
	all, err := s.checkpointsOf(ctx, req.GetGroup())
	if err != nil {
		return err
	}
	for _, c := range all {
		if c.GetId() == req.GetId() {
			if c.GetState() == machine.CheckpointComplete.String() {
				return nil
			}
			return failure(codes.FailedPrecondition, reasonUnknownCheckpoint, []string{"group", req.GetGroup(), "checkpoint", uintText(req.GetId())},
				"checkpoint %d of group %q is %s, so that there is nothing to verify", req.GetId(), req.GetGroup(), c.GetState())
		}
	}
	return noSuchCheckpoint(req.GetGroup(), req.GetId())
}

// verification gathers what the nodes say.
type verification struct {
	stream grpc.ServerStreamingServer[pb.VerifyProgress]
	mu     sync.Mutex
	done   map[string]*pb.VerifyProgress
	copies []*pb.VerifiedCopy
}

func (v *verification) progress(node string, p *pb.VerifyProgress) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.done[node] = p
	sum := &pb.VerifyProgress{}
	for _, one := range v.done {
		sum.BytesDone += one.GetBytesDone()
		sum.BytesTotal += one.GetBytesTotal()
	}
	_ = v.stream.Send(sum) // a client that is gone ends the context too
}

func (v *verification) add(node string, copies []*pb.VerifiedCopy) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.copies = append(v.copies, copies...)
}

func (v *verification) finish() error {
	slices.SortFunc(v.copies, func(a, b *pb.VerifiedCopy) int {
		return cmp.Or(cmp.Compare(a.Id, b.Id), strings.Compare(a.Node, b.Node))
	})
	result := &pb.VerifyResult{Whole: true, Copies: v.copies}
	for _, c := range v.copies {
		result.Whole = result.Whole && c.Whole
	}
	return v.stream.Send(&pb.VerifyProgress{Result: result})
}

// verifyAt gives what a node says of its copies; a node that says nothing has
// none that is known to be whole.
func (s *Service) verifyAt(ctx context.Context, node string, req *pb.VerifyCheckpointRequest, v *verification) []*pb.VerifiedCopy {
	result, err := resultOf(ctx, s, node, (*pb.VerifyProgress).GetResult, func(p *pb.VerifyProgress) { v.progress(node, p) },
		func(tell func(*pb.VerifyProgress)) error { return s.verifyHere(ctx, req, tell) },
		func(ctx context.Context, peer pb.PeersClient) (grpc.ServerStreamingClient[pb.VerifyProgress], error) {
			return peer.VerifyCopies(ctx, req)
		})
	if err != nil {
		return []*pb.VerifiedCopy{{Node: node, Id: req.GetId(), Reason: "the node could not be asked: " + plain(err)}}
	}
	return result.Copies
}

// verifyHere reads this node's copies.
func (s *Service) verifyHere(ctx context.Context, req *pb.VerifyCheckpointRequest, tell func(*pb.VerifyProgress)) error {
	keeper := s.config.Groups.Group(req.GetGroup()).Keeper
	if keeper == nil {
		return failure(codes.FailedPrecondition, reasonNoReplica, []string{"group", req.GetGroup(), "node", s.config.Node},
			"node %q has no replica of group %q that runs", s.config.Node, req.GetGroup())
	}
	var done, total uint64
	last := time.Now()
	verified, err := keeper.Verify(ctx, req.GetId(), func(bytes, of uint64) {
		done, total = bytes, of
		if time.Since(last) >= verifyTick {
			last = time.Now()
			tell(&pb.VerifyProgress{BytesDone: done, BytesTotal: total})
		}
	})
	if err != nil {
		return statusOf(req.GetGroup(), err)
	}
	result := &pb.VerifyResult{Whole: true}
	for _, v := range verified {
		one := &pb.VerifiedCopy{Node: s.config.Node, Id: v.Number, Whole: v.Err == nil, File: v.File, Bytes: v.Bytes}
		if v.Err != nil {
			one.Reason = v.Err.Error()
			var corrupt *checkpoint.CorruptError
			if errors.As(v.Err, &corrupt) {
				one.File, one.Section, one.Reason = corrupt.File, corrupt.Section, corrupt.Detail
			}
		}
		result.Whole = result.Whole && one.Whole
		result.Copies = append(result.Copies, one)
	}
	tell(&pb.VerifyProgress{Result: result})
	return nil
}

// VerifyCopies is the node's part of VerifyCheckpoint.
func (s *peersService) VerifyCopies(req *pb.VerifyCheckpointRequest, stream grpc.ServerStreamingServer[pb.VerifyProgress]) error {
	var sending error
	err := s.verifyHere(stream.Context(), req, func(p *pb.VerifyProgress) {
		if sending == nil {
			sending = stream.Send(p)
		}
	})
	return errors.Join(err, sending)
}

// ExportCheckpoint sends a copy of this node, else of any that has one.
func (s *checkpointsService) ExportCheckpoint(req *pb.ExportCheckpointRequest, stream grpc.ServerStreamingServer[pb.FileChunk]) error {
	ctx := stream.Context()
	if err := checkName("group", req.GetGroup()); err != nil {
		return err
	}
	wanted, err := s.wantedCheckpoint(ctx, req.GetGroup(), req.GetId())
	if err != nil {
		return err
	}
	if err := exportable(req.GetGroup(), wanted); err != nil {
		return err
	}
	file, err := s.openCopy(ctx, req.GetGroup(), wanted)
	if err != nil {
		return err
	}
	defer file.Close()
	return sendFile(file, file.size, stream)
}

// wantedCheckpoint is the complete checkpoint of that id, or the newest.
func (s *Service) wantedCheckpoint(ctx context.Context, group string, id uint64) (*pb.CheckpointInfo, error) {
	all, err := s.checkpointsOf(ctx, group)
	if err != nil {
		return nil, err
	}
	for _, c := range slices.Backward(all) {
		complete := c.GetState() == machine.CheckpointComplete.String()
		switch {
		case id == 0 && complete && len(c.GetOnly()) == 0, c.GetId() == id && complete:
			return c, nil
		case c.GetId() == id && id != 0:
			return nil, failure(codes.FailedPrecondition, reasonUnknownCheckpoint, []string{"group", group, "checkpoint", uintText(id)},
				"checkpoint %d of group %q is %s, not complete", id, group, c.GetState())
		}
	}
	if id == 0 {
		return nil, failure(codes.FailedPrecondition, reasonUnknownCheckpoint, []string{"group", group},
			"group %q has no complete checkpoint yet; take one with `cohort checkpoint create %s --wait`", group, group)
	}
	return nil, noSuchCheckpoint(group, id)
}

// exportable refuses a checkpoint of which no group could be made elsewhere: of one
// with a state that is older than the cut, the log belongs to it.
func exportable(group string, c *pb.CheckpointInfo) error {
	for _, p := range c.GetParticipants() {
		if s := p.GetState(); s != nil && s.GetPosition() < c.GetPosition() {
			return failure(codes.FailedPrecondition, reasonUnknownCheckpoint, []string{"group", group, "checkpoint", uintText(c.GetId()), "participant", p.GetName()},
				"the state of participant %s in checkpoint %d is as of position %d, and the log from there to the checkpoint's, %d, would not be in the file; take one while an instance of %s is ready, or restore here",
				p.GetName(), c.GetId(), s.GetPosition(), c.GetPosition(), p.GetName())
		}
	}
	return nil
}

// copyFile is a copy of a checkpoint as an export file.
type copyFile struct {
	io.ReadCloser
	size uint64 // 0 when it is not known
}

// openCopy opens this node's copy, else another's: those that the record says
// have one are asked first.
func (s *Service) openCopy(ctx context.Context, group string, c *pb.CheckpointInfo) (*copyFile, error) {
	if file, err := s.openOwnCopy(group, c.GetId()); err == nil {
		return file, nil
	}
	var last error
	for _, copy := range c.GetCopies() {
		if copy.GetNode() == s.config.Node || copy.GetState() != command.CopyWritten.String() {
			continue
		}
		file, err := s.fetchFrom(ctx, copy.GetNode(), &pb.FetchCheckpointRequest{Group: group, Id: c.GetId()})
		if err == nil {
			return file, nil
		}
		last = err
	}
	if last == nil {
		last = errors.New("no node says that it has a whole copy")
	}
	return nil, failure(codes.Unavailable, reasonNoReplica, []string{"group", group, "checkpoint", uintText(c.GetId())},
		"no copy of checkpoint %d of group %q could be read: %s", c.GetId(), group, plain(last))
}

func (s *Service) openOwnCopy(group string, id uint64) (*copyFile, error) {
	keeper := s.config.Groups.Group(group).Keeper
	if keeper == nil {
		return nil, txlog.ErrNoCopy
	}
	r, release, err := keeper.Open(id)
	if err != nil {
		return nil, err
	}
	return &copyFile{ReadCloser: exportPipe(r, release), size: uint64(max(checkpoint.ExportSize(r), 0))}, nil
}

// exportPipe reads a checkpoint as an export file; release is called when it is
// closed and nothing reads it any more.
func exportPipe(r *checkpoint.Reader, release func()) io.ReadCloser {
	out, in := io.Pipe()
	done := make(chan struct{})
	go func() { // ends when the file is read or the pipe closed
		defer close(done)
		_ = in.CloseWithError(checkpoint.WriteExport(in, r))
	}()
	return &pipe{PipeReader: out, done: done, release: release}
}

type pipe struct {
	*io.PipeReader
	done    chan struct{}
	release func()
}

func (p *pipe) Close() error {
	err := p.PipeReader.Close()
	<-p.done
	p.release()
	return err
}

// fetchFrom opens a file of another node.
func (s *Service) fetchFrom(ctx context.Context, node string, req *pb.FetchCheckpointRequest) (*copyFile, error) {
	p, err := s.locateNode(node)
	if err != nil {
		return nil, err
	}
	conn, err := s.connect(p.addr)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(forwardedContext(ctx))
	from, err := pb.NewPeersClient(conn).FetchCheckpoint(ctx, req)
	if err != nil {
		cancel()
		return nil, err
	}
	return openChunks(from, cancel)
}

// openChunks reads the first chunk, so that an error is told by whoever opens.
func openChunks(from grpc.ServerStreamingClient[pb.FileChunk], cancel func()) (*copyFile, error) {
	first, err := from.Recv()
	if err != nil {
		cancel()
		return nil, err
	}
	return &copyFile{ReadCloser: &chunkReader{from: from, rest: first.GetData(), cancel: cancel}, size: first.GetTotalBytes()}, nil
}

type chunkReader struct {
	from   grpc.ServerStreamingClient[pb.FileChunk]
	rest   []byte
	cancel func()
}

func (r *chunkReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		m, err := r.from.Recv()
		if err != nil {
			return 0, err // io.EOF at the end
		}
		r.rest = m.GetData()
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

func (r *chunkReader) Close() error {
	r.cancel()
	return nil
}

func sendFile(in io.Reader, size uint64, stream grpc.ServerStreamingServer[pb.FileChunk]) error {
	buf := make([]byte, fileChunkBytes)
	for first := true; ; first = false {
		n, err := io.ReadFull(in, buf)
		if n > 0 {
			m := &pb.FileChunk{Data: slices.Clone(buf[:n])}
			if first {
				m.TotalBytes = size
			}
			if err := stream.Send(m); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return failure(codes.DataLoss, reasonInternal, nil, "%v", err)
		}
	}
}
