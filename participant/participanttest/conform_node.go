package participanttest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	cohortv1 "github.com/cohort-tx/cohort/api/cohort/v1"
)

// conformNode is a node, a coordinator and a log in memory, of one group with one
// participant. It is honest about what counts: activations, votes, positions.
type conformNode struct {
	cohortv1.UnimplementedTransactionsServer
	cohortv1.UnimplementedLogServer
	cohortv1.UnimplementedParticipantsServer
	server *grpc.Server
	addr   string

	mu      sync.Mutex
	changed chan struct{} // closed and replaced at every change
	log     []*cohortv1.LogEntry
	begun   uint64
	outcome map[string]uint64 // position, 0 for an abort, by id
	// The active instance: its stream is nil while it is not attached.
	instance string
	epoch    uint64
	ready    bool
	stream   *conformStream
	calls    map[uint64]chan *cohortv1.InstanceMessage
	nextCall uint64
	// Checkpoints: what is being stored, and the newest that is whole.
	checkpoint uint64
	failures   map[uint64]string // by checkpoint, of those answered
	storing    map[uint64][]byte
	whole      *cohortv1.CapturedState
	state      []byte
}

// conformStream is one stream of the instance.
type conformStream struct {
	send   sync.Mutex
	stream grpc.BidiStreamingServer[cohortv1.InstanceMessage, cohortv1.NodeMessage]
	broken chan struct{}
	once   sync.Once
}

func (s *conformStream) tell(m *cohortv1.NodeMessage) {
	s.send.Lock()
	defer s.send.Unlock()
	_ = s.stream.Send(m)
}

func startConformNode() (*conformNode, error) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	n := &conformNode{
		server: grpc.NewServer(), addr: lis.Addr().String(), changed: make(chan struct{}), begun: 100, outcome: map[string]uint64{},
		calls: map[uint64]chan *cohortv1.InstanceMessage{}, failures: map[uint64]string{}, storing: map[uint64][]byte{},
	}
	cohortv1.RegisterTransactionsServer(n.server, n)
	cohortv1.RegisterLogServer(n.server, n)
	cohortv1.RegisterParticipantsServer(n.server, n)
	go n.server.Serve(lis)
	return n, nil
}

func (n *conformNode) close() {
	n.breakStreams()
	n.server.Stop()
}

func (n *conformNode) changedLocked() {
	close(n.changed)
	n.changed = make(chan struct{})
}

// wait waits until something holds; ok is called under mu.
func (n *conformNode) wait(what string, ok func() bool) error {
	timeout := time.NewTimer(servedWait)
	defer timeout.Stop()
	for {
		n.mu.Lock()
		if ok() {
			n.mu.Unlock()
			return nil
		}
		changed := n.changed
		n.mu.Unlock()
		select {
		case <-changed:
		case <-timeout.C:
			return fmt.Errorf("the application is not %s after %s", what, servedWait)
		}
	}
}

// breakStreams breaks what the instance has open.
func (n *conformNode) breakStreams() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.stream != nil {
		n.stream.once.Do(func() { close(n.stream.broken) })
		n.stream, n.ready = nil, false
	}
	n.changedLocked()
}

func (n *conformNode) Attach(stream grpc.BidiStreamingServer[cohortv1.InstanceMessage, cohortv1.NodeMessage]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	s := &conformStream{stream: stream, broken: make(chan struct{})}
	n.mu.Lock()
	if hello := first.GetHello(); n.instance != hello.GetInstance() {
		n.instance = hello.GetInstance()
		n.epoch++
	}
	n.stream, n.ready = s, false
	activated := &cohortv1.Activated{Epoch: n.epoch, Position: uint64(len(n.log)), Incarnation: 1, CoordinatorEpoch: 1}
	n.mu.Unlock()
	s.tell(&cohortv1.NodeMessage{Message: &cohortv1.NodeMessage_Activated{Activated: activated}})
	received := make(chan struct{})
	go func() {
		defer close(received)
		for {
			m, err := stream.Recv()
			if err != nil {
				return
			}
			n.receive(s, m)
		}
	}()
	select {
	case <-received:
	case <-s.broken:
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.stream == s {
		n.stream, n.ready = nil, false
	}
	s.once.Do(func() { close(s.broken) })
	n.changedLocked()
	return nil
}

func (n *conformNode) receive(s *conformStream, m *cohortv1.InstanceMessage) {
	n.mu.Lock()
	defer n.mu.Unlock()
	var call uint64
	switch m := m.Message.(type) {
	case *cohortv1.InstanceMessage_Ready:
		n.ready = n.ready || n.stream == s && m.Ready.ActivationEpoch == n.epoch
	case *cohortv1.InstanceMessage_Captured:
		n.failures[m.Captured.Checkpoint] = m.Captured.Failure
	case *cohortv1.InstanceMessage_StepResult:
		call = m.StepResult.Call
	case *cohortv1.InstanceMessage_Vote:
		call = m.Vote.Call
	}
	if answer := n.calls[call]; answer != nil {
		delete(n.calls, call)
		answer <- m
	}
	n.changedLocked()
}

// begin gives a new attempt of a new transaction.
func (n *conformNode) begin() *cohortv1.Attempt {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.begun++
	return &cohortv1.Attempt{Id: fmt.Sprintf("t-%d", n.begun), Begun: n.begun, Nonce: n.begun}
}

// ask sends the active instance a message and gives its answer, nil when the
// stream broke.
func (n *conformNode) ask(message func(call, epoch, position uint64) *cohortv1.NodeMessage) (m *cohortv1.InstanceMessage, epoch uint64, err error) {
	if err := n.wait("ready", func() bool { return n.stream != nil && n.ready }); err != nil {
		return nil, 0, err
	}
	n.mu.Lock()
	s := n.stream
	epoch = n.epoch
	if s == nil {
		n.mu.Unlock()
		return nil, epoch, nil
	}
	n.nextCall++
	call, answer := n.nextCall, make(chan *cohortv1.InstanceMessage, 1)
	n.calls[call] = answer
	question := message(call, epoch, uint64(len(n.log)))
	n.mu.Unlock()
	s.tell(question)
	timeout := time.NewTimer(servedWait)
	defer timeout.Stop()
	select {
	case m := <-answer:
		return m, epoch, nil
	case <-s.broken:
		return nil, epoch, nil
	case <-timeout.C:
		return nil, epoch, errors.New("the application does not answer")
	}
}

func (n *conformNode) step(a *cohortv1.Attempt, method string, payload []byte) (*cohortv1.StepResult, uint64, error) {
	m, under, err := n.ask(func(call, epoch, position uint64) *cohortv1.NodeMessage {
		return &cohortv1.NodeMessage{Message: &cohortv1.NodeMessage_Step{Step: &cohortv1.Step{
			Call: call, Attempt: a, Step: uint32(call), Method: method, Payload: payload, ContentType: "application/json", Position: position,
			ActivationEpoch: epoch, CoordinatorEpoch: 1, TimeoutMs: servedWait.Milliseconds(), LeaseMs: servedWait.Milliseconds(),
		}}}
	})
	if m == nil {
		return &cohortv1.StepResult{Result: &cohortv1.StepResult_Failure{Failure: &cohortv1.StepFailure{Code: cohortv1.StepFailure_CODE_INSTANCE_LOST}}}, under, err
	}
	return m.GetStepResult(), under, nil
}

func (n *conformNode) prepare(a *cohortv1.Attempt) (yes bool, under uint64, err error) {
	m, under, err := n.ask(func(call, epoch, _ uint64) *cohortv1.NodeMessage {
		return &cohortv1.NodeMessage{Message: &cohortv1.NodeMessage_Prepare{Prepare: &cohortv1.Prepare{
			Call: call, Attempt: a, ActivationEpoch: epoch, CoordinatorEpoch: 1, TimeoutMs: servedWait.Milliseconds(),
		}}}
	})
	return m.GetVote().GetYes(), under, err
}

// commit appends an attempt's entry.
func (n *conformNode) commit(a *conformAttempt) uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	e := &cohortv1.LogEntry{Position: uint64(len(n.log) + 1), Id: a.name.Id, Begun: a.name.Begun}
	for _, op := range a.ops {
		c := &cohortv1.Change{Participant: conformParticipant, Kind: cohortv1.Change_KIND_LOG, Value: op.GetLog().GetChange()}
		if op.GetLog().GetAlreadyApplied() {
			c.AppliedEpoch = a.epoch
		}
		e.Changes = append(e.Changes, c)
	}
	n.log = append(n.log, e)
	n.outcome[a.name.Id] = e.Position
	n.changedLocked()
	return e.Position
}

// abort records an attempt's end.
func (n *conformNode) abort(a *cohortv1.Attempt) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.outcome[a.Id] = 0
}

// notice sends one, if there is a stream.
func (n *conformNode) notice(notice *cohortv1.Notice) bool {
	n.mu.Lock()
	s := n.stream
	n.mu.Unlock()
	if s != nil {
		s.tell(&cohortv1.NodeMessage{Message: &cohortv1.NodeMessage_Notice{Notice: notice}})
	}
	return s != nil
}

func (n *conformNode) end() uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return uint64(len(n.log))
}

func (n *conformNode) changes() (out [][]byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, e := range n.log {
		for _, c := range e.Changes {
			out = append(out, c.Value)
		}
	}
	return out
}

// capture asks for the state as of the log's end; failure is why there is none.
func (n *conformNode) capture() (failure string, err error) {
	if err := n.wait("ready", func() bool { return n.stream != nil && n.ready }); err != nil {
		return "", err
	}
	n.mu.Lock()
	s := n.stream
	n.checkpoint++
	c := &cohortv1.Capture{Checkpoint: n.checkpoint, Position: uint64(len(n.log)), ActivationEpoch: n.epoch}
	n.mu.Unlock()
	if s == nil {
		return "", nil
	}
	s.tell(&cohortv1.NodeMessage{Message: &cohortv1.NodeMessage_Capture{Capture: c}})
	err = n.wait("captured", func() bool {
		var answered bool
		failure, answered = n.failures[c.Checkpoint]
		return answered || n.stream != s
	})
	return failure, err
}

func (n *conformNode) FindState(context.Context, *cohortv1.FindStateRequest) (*cohortv1.FindStateResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return &cohortv1.FindStateResponse{Incarnation: 1, LogFirst: 1, LogLast: uint64(len(n.log)), Capture: n.whole}, nil
}

func (n *conformNode) ReadState(r *cohortv1.ReadStateRequest, stream grpc.ServerStreamingServer[cohortv1.StateChunk]) error {
	n.mu.Lock()
	state, whole := n.state, n.whole
	n.mu.Unlock()
	if whole.GetPosition() != r.Position {
		return status.Error(codes.NotFound, "it is not the newest any more")
	}
	for offset := r.Offset; offset < uint64(len(state)); {
		data := state[offset:min(offset+97, uint64(len(state)))]
		if err := stream.Send(&cohortv1.StateChunk{Offset: offset, Data: data}); err != nil {
			return err
		}
		offset += uint64(len(data))
	}
	return nil
}

func (n *conformNode) WriteCapture(stream grpc.BidiStreamingServer[cohortv1.CaptureChunk, cohortv1.CaptureProgress]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	h := first.GetHeader()
	n.mu.Lock()
	offset := uint64(len(n.storing[h.Checkpoint]))
	n.mu.Unlock()
	if err := stream.Send(&cohortv1.CaptureProgress{Offset: offset}); err != nil {
		return err
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			return nil
		}
		n.mu.Lock()
		stored := append(n.storing[h.Checkpoint], m.Data...)
		n.storing[h.Checkpoint] = stored
		sum := sha256.Sum256(stored)
		done := m.End != nil
		if done && (m.End.Bytes != uint64(len(stored)) || !bytes.Equal(m.End.Sha256, sum[:])) {
			delete(n.storing, h.Checkpoint)
			n.mu.Unlock()
			return status.Error(codes.DataLoss, "these are not the bytes of the sum")
		}
		if done && h.Position >= n.whole.GetPosition() {
			n.state = stored
			n.whole = &cohortv1.CapturedState{Checkpoint: h.Checkpoint, Position: h.Position, Bytes: uint64(len(stored)), Sha256: sum[:], Digest: sum[:]}
		}
		n.mu.Unlock()
		if err := stream.Send(&cohortv1.CaptureProgress{Offset: uint64(len(stored)), Done: done}); err != nil || done {
			return err
		}
	}
}

func (n *conformNode) Follow(r *cohortv1.FollowRequest, stream grpc.ServerStreamingServer[cohortv1.FollowResponse]) error {
	for next := max(r.From, 1); ; {
		n.mu.Lock()
		var entries []*cohortv1.LogEntry
		if next <= uint64(len(n.log)) {
			entries = n.log[next-1:]
		}
		changed := n.changed
		n.mu.Unlock()
		if len(entries) > 0 {
			if err := stream.Send(&cohortv1.FollowResponse{Incarnation: 1, Entries: entries, End: next - 1 + uint64(len(entries))}); err != nil {
				return err
			}
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

func (n *conformNode) Outcome(_ context.Context, r *cohortv1.OutcomeRequest) (*cohortv1.OutcomeResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	position, known := n.outcome[r.Id]
	if known && position == 0 {
		return &cohortv1.OutcomeResponse{State: cohortv1.OutcomeResponse_STATE_ABORTED, Abort: &cohortv1.Abort{Id: r.Id, Reason: cohortv1.Reason_REASON_CANCELLED}}, nil
	}
	if known {
		return &cohortv1.OutcomeResponse{State: cohortv1.OutcomeResponse_STATE_COMMITTED, Receipt: &cohortv1.Receipt{Id: r.Id, Incarnation: 1, Position: position, Begun: r.Begun}}, nil
	}
	return &cohortv1.OutcomeResponse{State: cohortv1.OutcomeResponse_STATE_PENDING}, nil
}
