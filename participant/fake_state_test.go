package participant_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"slices"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
)

// fakeStates is what the fake group knows of own state. Its lock is the group's.
type fakeStates struct {
	incarnation uint64
	// lease is what steps are told; short ones are for tests of its end.
	lease time.Duration
	// stepTimeout is what a step and a vote are given.
	stepTimeout time.Duration
	// logFirst is the first position kept; base is before the first own state.
	logFirst, base uint64
	states         map[string]*fakeCapture // captured and complete, by participant
	storing        map[string]*fakeCapture // being written
	nextCheckpoint uint64
	// notify sends notices, the same one several times if more than 1.
	notify int
	// standBy makes a second instance a standby.
	standBy         bool
	standbyProgress *pb.Progress
	// readFault may break ReadState before an offset is sent, writeFault WriteCapture
	// after one was stored; forget makes the node lose what it had stored then.
	readFault  func(offset uint64) error
	writeFault func(offset uint64) (err error, forget bool)
	// rotten changes a byte of what ReadState sends.
	rotten bool
	// stored counts bytes taken by WriteCapture, reads ReadState streams.
	stored uint64
	reads  int
	// followMany is how entries are sent: so many in one message.
	followMany int
}

type fakeCapture struct {
	checkpoint, position uint64
	data                 []byte
	done                 bool
}

func (s *fakeStates) init() {
	s.incarnation, s.logFirst, s.lease, s.followMany, s.notify = 1, 1, 30*time.Second, 1, 1
	s.stepTimeout = 300 * time.Millisecond
	s.states, s.storing = map[string]*fakeCapture{}, map[string]*fakeCapture{}
}

// attachStandby serves a second instance.
func (n *fakeNode) attachStandby(stream grpc.BidiStreamingServer[pb.InstanceMessage, pb.NodeMessage], epoch uint64) error {
	if err := stream.Send(&pb.NodeMessage{Message: &pb.NodeMessage_Standby{Standby: &pb.Standby{ActiveEpoch: epoch}}}); err != nil {
		return err
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			return nil
		}
		if p := m.GetProgress(); p != nil {
			n.g.mu.Lock()
			n.g.standbyProgress = p
			n.g.changedLocked()
			n.g.mu.Unlock()
		}
	}
}

// noticeLocked tells instances with own state how an attempt ended.
func (g *fakeGroup) noticeLocked(attempt *pb.Attempt, called map[string]bool, position uint64) {
	for p := range called {
		if i := g.instances[p]; i != nil && i.attached && i.ownState {
			for range g.notify {
				i.tell(&pb.NodeMessage{Message: &pb.NodeMessage_Notice{Notice: &pb.Notice{Attempt: attempt, Position: position}}})
			}
		}
	}
}

func (n *fakeNode) FindState(_ context.Context, r *pb.FindStateRequest) (*pb.FindStateResponse, error) {
	g := n.g
	g.mu.Lock()
	defer g.mu.Unlock()
	out := &pb.FindStateResponse{Incarnation: g.incarnation, LogFirst: g.logFirst, LogLast: g.position, Base: g.base}
	if s := g.states[r.Participant]; s != nil {
		sum := sha256.Sum256(s.data)
		out.Capture = &pb.CapturedState{Checkpoint: s.checkpoint, Position: s.position, Bytes: uint64(len(s.data)), Sha256: sum[:], Digest: sum[:8]}
	}
	return out, nil
}

func (n *fakeNode) ReadState(r *pb.ReadStateRequest, stream grpc.ServerStreamingServer[pb.StateChunk]) error {
	const chunk = 1000
	g := n.g
	g.mu.Lock()
	s, fault, rotten := g.states[r.Participant], g.readFault, g.rotten
	g.reads++
	g.mu.Unlock()
	if s == nil || s.position != r.Position {
		return status.Error(codes.NotFound, "no such captured state")
	}
	for offset := r.Offset; offset < uint64(len(s.data)); {
		if fault != nil {
			if err := fault(offset); err != nil {
				return err
			}
		}
		data := bytes.Clone(s.data[offset:min(offset+chunk, uint64(len(s.data)))])
		if rotten {
			data[0] ^= 1
		}
		if err := stream.Send(&pb.StateChunk{Offset: offset, Data: data}); err != nil {
			return err
		}
		offset += uint64(len(data))
	}
	return nil
}

func (n *fakeNode) WriteCapture(stream grpc.BidiStreamingServer[pb.CaptureChunk, pb.CaptureProgress]) error {
	g := n.g
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	h := first.Header
	name := fmt.Sprintf("%s/%d", h.Participant, h.Checkpoint)
	g.mu.Lock()
	s := g.storing[name]
	if s == nil {
		s = &fakeCapture{checkpoint: h.Checkpoint, position: h.Position}
		g.storing[name] = s
	}
	fault, offset := g.writeFault, uint64(len(s.data))
	g.mu.Unlock()
	if err := stream.Send(&pb.CaptureProgress{Offset: offset}); err != nil {
		return err
	}
	for {
		m, err := stream.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		g.mu.Lock()
		if m.End != nil {
			sum := sha256.Sum256(s.data)
			if m.End.Bytes != uint64(len(s.data)) || !bytes.Equal(m.End.Sha256, sum[:]) {
				s.data = nil
				g.mu.Unlock()
				return status.Error(codes.DataLoss, "the sum is another one")
			}
			s.done = true
			g.states[h.Participant] = s
			g.changedLocked()
			g.mu.Unlock()
			return stream.Send(&pb.CaptureProgress{Offset: m.End.Bytes, Done: true})
		}
		if m.Offset != uint64(len(s.data)) {
			g.mu.Unlock()
			return status.Errorf(codes.InvalidArgument, "offset %d, %d are stored", m.Offset, len(s.data))
		}
		s.data = append(s.data, m.Data...)
		g.stored += uint64(len(m.Data))
		offset := uint64(len(s.data))
		g.mu.Unlock()
		if fault != nil {
			if err, forget := fault(offset); err != nil {
				if forget {
					g.mu.Lock()
					s.data = nil
					g.mu.Unlock()
				}
				return err
			}
		}
		if err := stream.Send(&pb.CaptureProgress{Offset: offset}); err != nil {
			return err
		}
	}
}

// capture asks the active instance for its state at the log's end, as a
// checkpoint's cut does.
func (g *fakeGroup) capture(p string) (checkpoint, position uint64) {
	g.mu.Lock()
	g.nextCheckpoint++
	checkpoint, position = g.nextCheckpoint, g.position
	i := g.instances[p]
	epoch := i.epoch
	g.mu.Unlock()
	i.tell(&pb.NodeMessage{Message: &pb.NodeMessage_Capture{Capture: &pb.Capture{Checkpoint: checkpoint, Position: position, ActivationEpoch: epoch}}})
	return checkpoint, position
}

// capturedLocked is what the instance answered a request with, once it has.
func (g *fakeGroup) capturedLocked(p string, checkpoint uint64) *pb.Captured {
	for _, c := range slices.Backward(g.instances[p].captured) {
		if c.Checkpoint == checkpoint {
			return c
		}
	}
	return nil
}

// stale says that the log is in another incarnation now.
func staleIncarnation() error {
	st, err := status.New(codes.FailedPrecondition, "restored").WithDetails(&errdetails.ErrorInfo{Domain: "cohort", Reason: "INCARNATION_CHANGED"})
	if err != nil {
		panic(err)
	}
	return st.Err()
}

func (n *fakeNode) Follow(r *pb.FollowRequest, stream grpc.ServerStreamingServer[pb.FollowResponse]) error {
	g, sent := n.g, 0
	for next := max(r.From, 1); ; {
		g.mu.Lock()
		incarnation, first, many := g.incarnation, g.logFirst, uint64(g.followMany)
		var entries []*pb.LogEntry
		if next >= first && next <= g.position {
			entries = g.log[next-1 : min(g.position, next-1+many)]
		}
		end, changed, most := g.position, g.changed, g.followMax
		g.mu.Unlock()
		switch {
		case r.Incarnation != 0 && r.Incarnation != incarnation:
			return staleIncarnation()
		case next < first:
			return status.Errorf(codes.OutOfRange, "the log begins at %d", first)
		}
		if len(entries) > 0 {
			if most > 0 && sent >= most {
				return lostAnswer()
			}
			if err := stream.Send(&pb.FollowResponse{Incarnation: incarnation, Entries: only(entries, r.Participants), End: end}); err != nil {
				return err
			}
			sent += len(entries)
			next += uint64(len(entries))
			continue
		}
		if r.NoWait {
			return nil
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// only leaves other participants' changes out.
func only(entries []*pb.LogEntry, participants []string) []*pb.LogEntry {
	if len(participants) == 0 {
		return entries
	}
	out := make([]*pb.LogEntry, len(entries))
	for i, e := range entries {
		out[i] = &pb.LogEntry{Position: e.Position, Id: e.Id, Begun: e.Begun, Time: e.Time}
		for _, c := range e.Changes {
			if slices.Contains(participants, c.Participant) {
				out[i].Changes = append(out[i].Changes, c)
			}
		}
	}
	return out
}
