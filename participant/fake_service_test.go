package participant_test

import (
	"context"
	"sync"

	"google.golang.org/grpc"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
)

// fakeInstance is an attached instance as the fake coordinator sees it. Its
// waiting calls fail when its stream ends.
type fakeInstance struct {
	nonce    string
	epoch    uint64
	votes    bool
	ownState bool
	ready    bool // of own state: said so on this stream
	captured []*pb.Captured
	progress *pb.Progress
	attached bool
	attaches int
	hellos   []*pb.Hello
	byes     int

	send    sync.Mutex
	stream  grpc.BidiStreamingServer[pb.InstanceMessage, pb.NodeMessage]
	waiting map[uint64]chan *pb.InstanceMessage
	gone    chan struct{} // closed when the stream ended
}

func (i *fakeInstance) tell(m *pb.NodeMessage) {
	i.send.Lock()
	defer i.send.Unlock()
	_ = i.stream.Send(m)
}

func (n *fakeNode) Attach(stream grpc.BidiStreamingServer[pb.InstanceMessage, pb.NodeMessage]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	g, hello := n.g, first.GetHello()
	g.mu.Lock()
	if !g.participants[hello.Participant] {
		g.mu.Unlock()
		return stream.Send(&pb.NodeMessage{Message: &pb.NodeMessage_Refused{Refused: &pb.Refused{Code: pb.Refused_CODE_UNKNOWN_PARTICIPANT, Detail: "no such participant"}}})
	}
	i := g.instances[hello.Participant]
	if i == nil {
		i = &fakeInstance{}
		g.instances[hello.Participant] = i
	}
	if i.attached && i.nonce != hello.Instance && g.standBy {
		g.mu.Unlock()
		return n.attachStandby(stream, i.epoch)
	}
	if i.nonce != hello.Instance {
		i.nonce = hello.Instance
		i.epoch++
	}
	i.votes, i.attached, i.stream = hello.Votes, true, stream
	i.ownState, i.ready, i.progress = hello.OwnState, false, nil
	i.attaches++
	i.hellos = append(i.hellos, hello)
	i.waiting, i.gone = map[uint64]chan *pb.InstanceMessage{}, make(chan struct{})
	gone := i.gone
	epoch := i.epoch
	i.tell(&pb.NodeMessage{Message: &pb.NodeMessage_Activated{Activated: &pb.Activated{Epoch: epoch, Position: g.position, Incarnation: g.incarnation, CoordinatorEpoch: 1}}})
	g.changedLocked()
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if i.gone == gone {
			i.attached = false
		}
		close(gone)
		g.changedLocked()
	}()
	for {
		m, err := stream.Recv()
		if err != nil {
			return nil
		}
		g.mu.Lock()
		var call uint64
		switch m := m.Message.(type) {
		case *pb.InstanceMessage_StepResult:
			call = m.StepResult.Call
		case *pb.InstanceMessage_Vote:
			call = m.Vote.Call
		case *pb.InstanceMessage_Goodbye:
			i.byes++
		case *pb.InstanceMessage_Ready:
			i.ready = i.ready || m.Ready.ActivationEpoch == i.epoch
			g.changedLocked()
		case *pb.InstanceMessage_Captured:
			i.captured = append(i.captured, m.Captured)
			g.changedLocked()
		case *pb.InstanceMessage_Progress:
			i.progress = m.Progress
			g.changedLocked()
		}
		if wait := i.waiting[call]; wait != nil {
			delete(i.waiting, call)
			wait <- m
		}
		g.mu.Unlock()
	}
}

// ask sends a message with a call number and waits for its answer; nil when the
// instance went away.
func (g *fakeGroup) ask(ctx context.Context, i *fakeInstance, message func(call, epoch uint64) *pb.NodeMessage) *pb.InstanceMessage {
	g.mu.Lock()
	g.nextCall++
	call, wait, gone, epoch := g.nextCall, make(chan *pb.InstanceMessage, 1), i.gone, i.epoch
	i.waiting[call] = wait
	g.mu.Unlock()
	i.tell(message(call, epoch))
	select {
	case m := <-wait:
		return m
	case <-gone:
		return nil
	case <-ctx.Done():
		return nil
	}
}

func (g *fakeGroup) active(p string) *fakeInstance {
	g.mu.Lock()
	defer g.mu.Unlock()
	if i := g.instances[p]; i != nil && i.attached && (i.ready || !i.ownState) {
		return i
	}
	return nil
}

func (n *fakeNode) Call(ctx context.Context, r *pb.CallRequest) (*pb.CallResponse, error) {
	g := n.g
	g.mu.Lock()
	a := g.attempts[r.Attempt.Nonce]
	if a == nil {
		g.mu.Unlock()
		return &pb.CallResponse{Result: &pb.CallResponse_Abort{Abort: &pb.Abort{Id: r.Attempt.Id, Reason: pb.Reason_REASON_MOVED}}}, nil
	}
	if stored := a.steps[r.Step]; stored != nil {
		g.mu.Unlock()
		return stored, nil
	}
	a.ops = append(a.ops, r.Ops...)
	position := a.snap
	g.mu.Unlock()
	failure := func(code pb.StepFailure_Code) *pb.CallResponse {
		return &pb.CallResponse{Result: &pb.CallResponse_Failure{Failure: &pb.StepFailure{Code: code, Participant: r.Participant}}}
	}
	resp := failure(pb.StepFailure_CODE_RECOVERING)
	if i := g.active(r.Participant); i != nil {
		g.mu.Lock()
		a.called[r.Participant] = true
		g.mu.Unlock()
		stepCtx, cancel := context.WithTimeout(ctx, 2*g.stepTimeout)
		defer cancel()
		m := g.ask(stepCtx, i, func(call, epoch uint64) *pb.NodeMessage {
			return &pb.NodeMessage{Message: &pb.NodeMessage_Step{Step: &pb.Step{
				Call: call, Attempt: r.Attempt, Step: r.Step, Method: r.Method, Payload: r.Payload, ContentType: r.ContentType,
				Position: position, ActivationEpoch: epoch, CoordinatorEpoch: 1, TimeoutMs: g.stepTimeout.Milliseconds(), LeaseMs: g.lease.Milliseconds(),
			}}}
		})
		switch result := m.GetStepResult(); {
		case m == nil && stepCtx.Err() != nil:
			resp = failure(pb.StepFailure_CODE_TIMEOUT)
		case m == nil:
			resp = failure(pb.StepFailure_CODE_INSTANCE_LOST)
		case result.GetFailure() != nil:
			resp = &pb.CallResponse{Result: &pb.CallResponse_Failure{Failure: result.GetFailure()}}
		default:
			resp = &pb.CallResponse{Result: &pb.CallResponse_Reply{Reply: result.GetReply()}}
			g.mu.Lock()
			for _, op := range result.Ops {
				if op.GetLog().GetAlreadyApplied() {
					a.applied[op] = i.epoch
				}
			}
			a.ops = append(a.ops, result.Ops...)
			a.reads = append(a.reads, result.Reads...)
			g.mu.Unlock()
		}
	}
	g.mu.Lock()
	a.steps[r.Step] = resp
	g.mu.Unlock()
	return resp, nil
}

// votes asks the voters among the participants that were called.
func (g *fakeGroup) votes(ctx context.Context, attempt *pb.Attempt, called map[string]bool) *pb.Abort {
	for p := range called {
		i := g.active(p)
		if i == nil {
			return &pb.Abort{Id: attempt.Id, Reason: pb.Reason_REASON_MOVED, Participant: p}
		}
		if !i.votes && !i.ownState {
			continue
		}
		m := g.ask(ctx, i, func(call, epoch uint64) *pb.NodeMessage {
			return &pb.NodeMessage{Message: &pb.NodeMessage_Prepare{Prepare: &pb.Prepare{
				Call: call, Attempt: attempt, ActivationEpoch: epoch, CoordinatorEpoch: 1, TimeoutMs: g.stepTimeout.Milliseconds(),
			}}}
		})
		if !m.GetVote().GetYes() {
			reason := pb.Reason_REASON_VOTE
			if m.GetVote().GetConflict() {
				reason = pb.Reason_REASON_CONFLICT
			}
			return &pb.Abort{Id: attempt.Id, Reason: reason, Participant: p, Detail: m.GetVote().GetReason()}
		}
	}
	return nil
}
