package coordinator

import (
	"context"
	"errors"
	"math"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/txlog"
)

const (
	// followEntries and followBytes bound one message of Follow. An entry larger
	// than followBytes is a message of its own.
	followEntries = 256
	followBytes   = 1 << 20
	// maxFollowParticipants is the largest number that a group has.
	maxFollowParticipants = 256
	// logEndWait bounds asking the group's leader where the log ends: longer than
	// an election.
	logEndWait = 5 * time.Second
)

type logService struct {
	pb.UnimplementedLogServer
	*Service
}

// Follow reads this node's replica, else that of a member. A follower that does
// not read is held back by the stream's flow control; what it has not read yet
// stays in the log's files.
func (s *logService) Follow(req *pb.FollowRequest, stream grpc.ServerStreamingServer[pb.FollowResponse]) error {
	if err := checkName("group", req.GetGroup()); err != nil {
		return err
	}
	if n := len(req.GetParticipants()); n > maxFollowParticipants {
		return invalid("participants", "there are %d; a group has at most %d", n, maxFollowParticipants)
	}
	for _, p := range req.GetParticipants() {
		if err := checkName("participants", p); err != nil {
			return err
		}
	}
	sent := false
	_, err := s.dispatch(stream.Context(), target{group: req.GetGroup(), replica: true}, func(context.Context) (any, error) {
		return nil, s.followHere(req, stream)
	}, func(ctx context.Context, conn *grpc.ClientConn) (any, error) {
		err := followThere(ctx, conn, req, stream, &sent)
		if sent && status.Code(err) == codes.Unavailable {
			// Begun once is not begun again: the client knows how far it got.
			err = failure(codes.Aborted, reasonNoReplica, []string{"group", req.GetGroup()}, "the node that was followed has gone (%s); follow again from the last position", status.Convert(err).Message())
		}
		return nil, err
	})
	return err
}

// followThere passes the stream of another node on.
func followThere(ctx context.Context, conn *grpc.ClientConn, req *pb.FollowRequest, stream grpc.ServerStreamingServer[pb.FollowResponse], sent *bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	source, err := pb.NewLogClient(conn).Follow(ctx, req)
	if err != nil {
		return err
	}
	for {
		m, err := source.Recv()
		if err != nil {
			if isEOF(err) {
				return nil
			}
			return err
		}
		*sent = true
		if err := stream.Send(m); err != nil {
			return err
		}
	}
}

func (s *logService) followHere(req *pb.FollowRequest, stream grpc.ServerStreamingServer[pb.FollowResponse]) error {
	group := req.GetGroup()
	replica, err := s.replica(group)
	if err != nil {
		return err
	}
	wanted, err := s.wantedParticipants(req)
	if err != nil {
		return err
	}
	state := replica.Status()
	if req.GetIncarnation() != 0 && req.GetIncarnation() != state.Incarnation {
		return otherIncarnation(group, req.GetIncarnation(), state.Incarnation)
	}
	end := uint64(math.MaxUint64)
	if req.GetNoWait() {
		if end, err = logEnd(stream.Context(), replica, req.GetStale()); err != nil {
			return statusOf(group, err)
		}
	}
	next := max(req.GetFrom(), 1)
	follower, err := replica.Follow(next)
	if err != nil {
		return followError(group, replica, err)
	}
	incarnation := state.Incarnation
	for ctx := stream.Context(); ; {
		if next > end {
			if next == max(req.GetFrom(), 1) {
				// Nothing to show: the end is an answer too.
				return stream.Send(&pb.FollowResponse{Incarnation: incarnation, End: end})
			}
			return nil
		}
		entries, err := follower.Next(ctx, followEntries, followBytes)
		if err != nil {
			return followError(group, replica, err)
		}
		// Looked at after reading: entries of another life never pass for this one's.
		state = replica.Status()
		if incarnation == 0 {
			incarnation = state.Incarnation // followed from before the group's first entry
		}
		if state.Incarnation != incarnation {
			return otherIncarnation(group, incarnation, state.Incarnation)
		}
		if last := next + uint64(len(entries)) - 1; last > end {
			entries = entries[:uint64(len(entries))-(last-end)]
		}
		m := &pb.FollowResponse{Incarnation: incarnation, Entries: make([]*pb.LogEntry, len(entries))}
		for i := range entries {
			m.Entries[i] = entryToWire(&entries[i], wanted)
			next = entries[i].Position + 1
		}
		m.End = max(state.Position, next-1)
		if err := stream.Send(m); err != nil {
			return err
		}
	}
}

// logEnd is the last position acknowledged before the call; of a stale one, what
// the replica has applied.
func logEnd(ctx context.Context, replica LocalReplica, stale bool) (uint64, error) {
	if !stale {
		ctx, cancel := context.WithTimeout(ctx, logEndWait)
		defer cancel()
		if _, err := replica.ReadIndex(ctx); err != nil {
			return 0, err
		}
	}
	return replica.Status().Position, nil
}

// wantedParticipants refuses names that the group does not have; a misspelt one
// would follow in silence.
func (s *logService) wantedParticipants(req *pb.FollowRequest) (map[string]bool, error) {
	if len(req.GetParticipants()) == 0 {
		return nil, nil
	}
	record, ok := s.config.Groups.Directory().Group(req.GetGroup())
	if !ok {
		return nil, statusOf(req.GetGroup(), ErrNotServing)
	}
	definition, err := record.Definition()
	if err != nil {
		return nil, statusOf(req.GetGroup(), err)
	}
	wanted := make(map[string]bool, len(req.GetParticipants()))
	for _, name := range req.GetParticipants() {
		if _, ok := definition.Participant(name); !ok {
			return nil, invalid("participants", "group %q has no participant %q; it has %q", req.GetGroup(), name, definition.ParticipantNames())
		}
		wanted[name] = true
	}
	return wanted, nil
}

func otherIncarnation(group string, asked, is uint64) error {
	return failure(codes.FailedPrecondition, reasonIncarnation, []string{"group", group, "incarnation", uintText(is)},
		"group %q is in incarnation %d, not %d: positions of the one mean nothing in the other; begin with incarnation %d from its checkpoint or position 1", group, is, asked, is)
}

func followError(group string, replica LocalReplica, err error) error {
	if errors.Is(err, txlog.ErrTruncated) {
		first := replica.Status().FirstPosition
		return failure(codes.OutOfRange, reasonTruncated, []string{"group", group, "first_position", uintText(first)},
			"the log of group %q is kept from position %d on; begin there, or from a checkpoint", group, first)
	}
	return statusOf(group, err)
}
