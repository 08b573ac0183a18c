package coordinator

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/groups"
	"github.com/cohort-tx/cohort/txlog"
	"github.com/cohort-tx/cohort/txlog/checkpoint"
	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/machine"
)

const (
	// captureAckBytes is how much of a captured state is taken between two answers:
	// little enough that an instance, which keeps 8 MiB, never waits for one.
	captureAckBytes = 1 << 20
	// maxCaptureChunk bounds one message of a captured state.
	maxCaptureChunk = 4 << 20
)

// stateService is what instances with state of their own ask beside attaching.
type stateService struct {
	pb.UnimplementedParticipantsServer
	*Service
	agent Attacher
}

// Attacher serves the streams that instances attach with; *groups.Agent does.
type Attacher interface {
	Attach(stream pb.Participants_AttachServer) error
}

// RegisterParticipants adds the participants' service to a server: what comes from
// an attached instance goes to the agent.
func (s *Service) RegisterParticipants(server grpc.ServiceRegistrar, agent Attacher) {
	pb.RegisterParticipantsServer(server, &stateService{Service: s, agent: agent})
}

func (s *stateService) Attach(stream pb.Participants_AttachServer) error {
	return s.agent.Attach(stream)
}

// participantOf refuses a participant that the group does not have.
func (s *Service) participantOf(group, participant string) error {
	if err := checkName("participant", participant); err != nil {
		return err
	}
	record, ok := s.config.Groups.Directory().Group(group)
	if !ok {
		return statusOf(group, ErrNotServing)
	}
	definition, err := record.Definition()
	if err != nil {
		return statusOf(group, err)
	}
	if _, ok := definition.Participant(participant); !ok {
		return invalid("participant", "group %q has no participant %q; it has %q", group, participant, definition.ParticipantNames())
	}
	return nil
}

// FindState reads a replica of the group. One that is behind answers with an older
// state, from which the log leads on all the same.
func (s *stateService) FindState(ctx context.Context, req *pb.FindStateRequest) (*pb.FindStateResponse, error) {
	group := req.GetGroup()
	if err := s.participantOf(group, req.GetParticipant()); err != nil {
		return nil, err
	}
	replica, err := s.replica(group)
	if err != nil {
		return nil, err
	}
	view, err := replica.View(0)
	if err != nil {
		return nil, statusOf(group, err)
	}
	defer view.Close()
	meta, err := view.Meta()
	if err != nil {
		return nil, statusOf(group, err)
	}
	if meta.ConfigVersion == 0 {
		return nil, statusOf(group, txlog.ErrNotReady)
	}
	states, err := machine.ReadOwnStates(view.Reader())
	if err != nil {
		return nil, statusOf(group, err)
	}
	first := replica.Status().FirstPosition
	out := &pb.FindStateResponse{Incarnation: meta.Incarnation, LogFirst: first, LogLast: max(meta.Position, first-1), Base: meta.Position}
	for i := range states {
		if states[i].Participant != req.GetParticipant() {
			continue
		}
		out.Base = states[i].Base
		if last := &states[i].Last; last.State != 0 {
			out.Capture = &pb.CapturedState{
				Checkpoint: last.Checkpoint, Position: last.Position, Bytes: last.Bytes,
				Sha256: slices.Clone(last.SHA256[:]), Digest: slices.Clone(last.Section.Digest[:]),
			}
		}
	}
	return out, nil
}

// ReadState sends the file that is here, else has a node send it that has one. A
// node that goes meanwhile is followed by another, from where it ended.
func (s *stateService) ReadState(req *pb.ReadStateRequest, stream grpc.ServerStreamingServer[pb.StateChunk]) error {
	group := req.GetGroup()
	if err := s.participantOf(group, req.GetParticipant()); err != nil {
		return err
	}
	var digest checkpoint.Digest
	if len(req.GetDigest()) != len(digest) {
		return invalid("digest", "has %d bytes, not %d", len(req.GetDigest()), len(digest))
	}
	copy(digest[:], req.GetDigest())
	id := checkpoint.StateID{Participant: req.GetParticipant(), Position: req.GetPosition(), Digest: digest}
	rest := &pb.ReadStateRequest{
		Group: group, Participant: id.Participant, Incarnation: req.GetIncarnation(), Position: id.Position, Digest: req.GetDigest(), Offset: req.GetOffset(),
	}
	send := func(m *pb.StateChunk) error {
		if err := stream.Send(m); err != nil {
			return err
		}
		rest.Offset = m.GetOffset() + uint64(len(m.GetData()))
		return nil
	}
	_, err := s.dispatch(stream.Context(), target{group: group, replica: true}, func(ctx context.Context) (any, error) {
		err := s.readStateHere(ctx, rest, id, send)
		if !errors.Is(err, txlog.ErrNoState) {
			return nil, err
		}
		if isForwarded(ctx) {
			return nil, failure(codes.Unavailable, reasonNoReplica, []string{"group", group}, "node %q: %v", s.config.Node, err)
		}
		return nil, s.readStateElsewhere(ctx, rest, send)
	}, func(ctx context.Context, conn *grpc.ClientConn) (any, error) {
		return nil, readStateThere(ctx, conn, rest, send)
	})
	return err
}

// readStateHere sends the file of this node; ErrNoState when there is none.
func (s *Service) readStateHere(ctx context.Context, req *pb.ReadStateRequest, id checkpoint.StateID, send func(*pb.StateChunk) error) error {
	size, err := s.capturedBytes(req, id)
	if err != nil {
		return err
	}
	if req.GetOffset() > size {
		return invalid("offset", "is %d, and the state has %d bytes", req.GetOffset(), size)
	}
	keeper := s.config.Groups.Group(req.GetGroup()).Keeper
	if keeper == nil {
		return txlog.ErrNoState
	}
	path, release, err := keeper.HoldState(id)
	if err != nil {
		return err
	}
	defer release()
	in, err := checkpoint.OpenState(path, checkpoint.StateSection(id.Participant), size, req.GetOffset())
	if err == nil {
		err = errors.Join(sendState(ctx, in, req.GetOffset(), send), in.Close())
	}
	var corrupt *checkpoint.CorruptError
	if errors.As(err, &corrupt) || errors.Is(err, os.ErrNotExist) {
		keeper.DamagedState(id, err)
		return failure(codes.Unavailable, reasonNoReplica, []string{"group", req.GetGroup()}, "the state of %s on node %q is damaged (%v); it is read from another one", id.Participant, s.config.Node, err)
	}
	return err
}

func sendState(ctx context.Context, in io.Reader, offset uint64, send func(*pb.StateChunk) error) error {
	for {
		buf := make([]byte, fileChunkBytes)
		n, err := io.ReadFull(in, buf)
		if n > 0 {
			if err := send(&pb.StateChunk{Offset: offset, Data: buf[:n]}); err != nil {
				return err
			}
			offset += uint64(n)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// capturedBytes is the size of a captured state that the records know.
func (s *Service) capturedBytes(req *pb.ReadStateRequest, id checkpoint.StateID) (uint64, error) {
	group := req.GetGroup()
	replica, err := s.replica(group)
	if err != nil {
		return 0, err
	}
	view, err := replica.View(0)
	if err != nil {
		return 0, statusOf(group, err)
	}
	defer view.Close()
	meta, err := view.Meta()
	if err != nil {
		return 0, statusOf(group, err)
	}
	if meta.Incarnation != req.GetIncarnation() {
		return 0, otherIncarnation(group, req.GetIncarnation(), meta.Incarnation)
	}
	states, err := machine.ReadOwnStates(view.Reader())
	if err != nil {
		return 0, statusOf(group, err)
	}
	all, err := machine.ReadCheckpoints(view.Reader())
	if err != nil {
		return 0, statusOf(group, err)
	}
	captures := make([]machine.Capture, 0, len(states))
	for i := range states {
		captures = append(captures, states[i].Last)
	}
	for i := range all {
		captures = append(captures, all[i].Captures...)
	}
	for i := range captures {
		c := &captures[i]
		if c.Participant == id.Participant && c.Position == id.Position && c.Section.Digest == id.Digest && c.Exists() {
			return c.Bytes, nil
		}
	}
	return 0, failure(codes.NotFound, reasonUnknownCheckpoint, []string{"group", group, "participant", id.Participant},
		"the state of %s as of position %d is not kept; ask for the newest one again", id.Participant, id.Position)
}

// readStateElsewhere asks the other members one after the other.
func (s *Service) readStateElsewhere(ctx context.Context, req *pb.ReadStateRequest, send func(*pb.StateChunk) error) error {
	record, err := s.record(ctx, req.GetGroup())
	if err != nil {
		return err
	}
	err = statusOf(req.GetGroup(), txlog.ErrNotReady)
	for _, node := range record.Nodes() {
		if node == s.config.Node {
			continue
		}
		err = s.onNode(ctx, node, nil, func(ctx context.Context, conn *grpc.ClientConn) error {
			return readStateThere(ctx, conn, req, send)
		})
		if err == nil || status.Code(err) != codes.Unavailable {
			return err
		}
	}
	return err
}

func readStateThere(ctx context.Context, conn *grpc.ClientConn, req *pb.ReadStateRequest, send func(*pb.StateChunk) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	from, err := pb.NewParticipantsClient(conn).ReadState(ctx, req)
	return passOn(from, err, send)
}

// FetchCapture sends this node's file of a captured state.
func (s *peersService) FetchCapture(req *pb.FetchCaptureRequest, stream grpc.ServerStreamingServer[pb.FileChunk]) error {
	if err := errors.Join(checkName("group", req.GetGroup()), checkName("participant", req.GetParticipant())); err != nil {
		return err
	}
	keeper := s.config.Groups.Group(req.GetGroup()).Keeper
	id := checkpoint.StateID{Participant: req.GetParticipant(), Position: req.GetPosition()}
	if len(req.GetDigest()) != len(id.Digest) {
		return invalid("digest", "has %d bytes, not %d", len(req.GetDigest()), len(id.Digest))
	}
	copy(id.Digest[:], req.GetDigest())
	missing := func(err error) error {
		return failure(codes.NotFound, reasonUnknownCheckpoint, []string{"group", req.GetGroup(), "participant", id.Participant}, "node %q: %v", s.config.Node, err)
	}
	if keeper == nil {
		return missing(txlog.ErrNoState)
	}
	path, release, err := keeper.HoldState(id)
	if err != nil {
		return missing(err)
	}
	defer release()
	f, err := os.Open(path)
	if err != nil {
		return missing(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return missing(err)
	}
	if req.GetOffset() > uint64(info.Size()) {
		return invalid("offset", "is %d, and the file has %d bytes", req.GetOffset(), info.Size())
	}
	if _, err := f.Seek(int64(req.GetOffset()), io.SeekStart); err != nil {
		return missing(err)
	}
	return sendFile(f, uint64(info.Size()), stream)
}

// FetchCaptured gets the file of a captured state from an offset on: of the node
// that stored it, else of any member that has it.
func (s *Service) FetchCaptured(ctx context.Context, record *groups.GroupRecord, c *machine.Capture, offset uint64) (io.ReadCloser, error) {
	nodes := record.Nodes()
	slices.SortStableFunc(nodes, func(a, b string) int {
		switch {
		case a == c.Node && b != c.Node:
			return -1
		case b == c.Node && a != c.Node:
			return 1
		}
		return 0
	})
	err := error(txlog.ErrNoState)
	for _, node := range nodes {
		if node == s.config.Node {
			continue
		}
		var file *copyFile
		err = s.onNode(ctx, node, nil, func(ctx context.Context, conn *grpc.ClientConn) (err error) {
			ctx, cancel := context.WithCancel(ctx)
			from, err := pb.NewPeersClient(conn).FetchCapture(ctx, &pb.FetchCaptureRequest{
				Group: record.Name, Participant: c.Participant, Position: c.Position, Digest: c.Section.Digest[:], Offset: offset,
			})
			if err != nil {
				cancel()
				return err
			}
			file, err = openChunks(from, cancel)
			if isEOF(err) { // nothing follows the offset
				file, err = &copyFile{ReadCloser: io.NopCloser(eofReader{})}, nil
			}
			return err
		})
		if err == nil {
			return file, nil
		}
	}
	return nil, err
}

type eofReader struct{}

func (eofReader) Read([]byte) (int, error) { return 0, io.EOF }

// ReportCaptured tells the group's coordinator, wherever it is, of a captured
// state; it returns when the log has it.
func (s *Service) ReportCaptured(ctx context.Context, group string, c *command.ReportCapture) error {
	req := &pb.ReportCaptureRequest{
		Group: group, Node: s.config.Node, Checkpoint: c.Number, Participant: c.Participant, ActivationEpoch: c.Epoch, Position: c.Position,
		Failure: c.Failure,
	}
	if c.Failure == "" {
		req.Records, req.SectionBytes, req.Digest = c.Section.Keys, c.Section.Bytes, c.Section.Digest[:]
		req.Bytes, req.Sha256 = c.Bytes, c.SHA256[:]
	}
	_, err := s.dispatch(asOwn(ctx), target{group: group, coordinator: true}, func(ctx context.Context) (any, error) {
		return (&peersService{Service: s}).ReportCapture(ctx, req)
	}, func(ctx context.Context, conn *grpc.ClientConn) (any, error) {
		return pb.NewPeersClient(conn).ReportCapture(ctx, req)
	})
	return err
}

// reportFailed tells that an instance's captured state cannot be had. Who waits for
// it gives up anyway, later.
func (s *Service) reportFailed(ctx context.Context, group string, id checkpoint.UploadID, cause error) {
	report := &command.ReportCapture{
		Number: id.Checkpoint, Participant: id.Participant, Epoch: id.Epoch, Position: id.Position, Node: s.config.Node, Failure: plain(cause),
	}
	if err := s.ReportCaptured(ctx, group, report); err != nil {
		s.logger.Warn("telling that a captured state failed", zap.String("group", group), zap.String("participant", id.Participant), zap.Error(err))
	}
}
