package coordinator

import (
	"fmt"
	"sync"

	cohortv1 "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/coordinator/protocol"
	"github.com/cohort-tx/cohort/txlog/command"
)

// Session connects one node's agent to the reign it was opened in.
type Session struct {
	reign  *reign
	number uint64
	node   string

	mu   sync.Mutex
	send func(*cohortv1.CoordinatorMessage) // nil once closed
	done chan struct{}
}

// OpenSession connects the agent of a node. send is called from one goroutine at
// a time and must not block; it is not called any more once Close has returned or
// Done is closed. Error: ErrNotServing.
func (c *Coordinator) OpenSession(node string, send func(*cohortv1.CoordinatorMessage)) (*Session, error) {
	g := c.reign.Load()
	if g == nil {
		return nil, ErrNotServing
	}
	s := &Session{reign: g, number: g.requests.Add(1), node: node, send: send, done: make(chan struct{})}
	s.say(&cohortv1.CoordinatorMessage{Message: &cohortv1.CoordinatorMessage_Welcome{Welcome: &cohortv1.Welcome{
		CoordinatorEpoch: g.epoch, Incarnation: g.incarnation,
	}}})
	if !g.inbox.post(letter{do: func() { g.addSession(s) }}) {
		return nil, ErrNotServing
	}
	return s, nil
}

// addSession runs on the loop; after its end, the session is over at once.
func (g *reign) addSession(s *Session) {
	g.sessions[s.number] = s
}

// Done is closed when the coordinator's reign ends: the agent looks for the next
// one.
func (s *Session) Done() <-chan struct{} { return s.done }

// Close ends the session; the instances attached through it are gone for now.
func (s *Session) Close() {
	s.mute()
	s.reign.inbox.post(letter{do: func() {
		if s.reign.sessions[s.number] == s {
			delete(s.reign.sessions, s.number)
			s.reign.step(&protocol.SessionClosed{Session: s.number})
		}
	}})
}

func (s *Session) mute() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.send = nil
}

// end is called once, by the loop at its end.
func (s *Session) end() {
	s.mute()
	close(s.done)
}

func (s *Session) say(m *cohortv1.CoordinatorMessage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.send != nil {
		s.send(m)
	}
}

// Receive takes a message of the agent; it may wait while the coordinator is
// behind. An error is a breach of the protocol, or ErrNotServing: the caller ends
// the stream with it.
func (s *Session) Receive(m *cohortv1.AgentMessage) error {
	var ev protocol.Event
	switch m := m.GetMessage().(type) {
	case *cohortv1.AgentMessage_Hello:
		return nil // the stream's opening, which OpenSession stands for
	case *cohortv1.AgentMessage_Heartbeat:
		s.heartbeat(m.Heartbeat)
		return nil
	case *cohortv1.AgentMessage_Attached:
		h := m.Attached.GetHello()
		if err := command.CheckID(h.GetInstance()); err != nil {
			return &Invalid{Field: "hello.instance", Detail: err.Error()}
		}
		ev = &protocol.Attached{
			Session: s.number, Node: s.node, Participant: h.GetParticipant(), Instance: h.GetInstance(),
			Votes: h.GetVotes(), OwnState: h.GetOwnState(), AppliesFirst: h.GetAppliesFirst(), Description: h.GetDescription(),
			Position: s.positionOf(h.GetIncarnation(), h.GetPosition()),
		}
	case *cohortv1.AgentMessage_Detached:
		ev = &protocol.Detached{Session: s.number, Participant: m.Detached.GetParticipant(), Instance: m.Detached.GetInstance()}
	case *cohortv1.AgentMessage_FromInstance:
		var err error
		if ev, err = s.fromInstance(m.FromInstance); err != nil {
			return err
		}
	default:
		return &Invalid{Field: "message", Detail: fmt.Sprintf("a message of kind %T is not known", m)}
	}
	if !s.reign.inbox.post(letter{event: ev}) {
		return ErrNotServing
	}
	return nil
}

// positionOf takes an instance's word for a position: of another incarnation it says
// nothing.
func (s *Session) positionOf(incarnation, position uint64) uint64 {
	if incarnation != s.reign.incarnation {
		return 0
	}
	return position
}

// heartbeat is answered only after a ReadIndex begun after its receipt, so that
// a deposed coordinator keeps nobody.
func (s *Session) heartbeat(h *cohortv1.Heartbeat) {
	s.reign.reader.confirm(func(err error) {
		if err == nil {
			s.say(&cohortv1.CoordinatorMessage{Message: &cohortv1.CoordinatorMessage_Heartbeat{Heartbeat: h}})
		}
	})
}

func (s *Session) fromInstance(f *cohortv1.FromInstance) (protocol.Event, error) {
	participant, instance := f.GetParticipant(), f.GetInstance()
	switch m := f.GetMessage().GetMessage().(type) {
	case *cohortv1.InstanceMessage_StepResult:
		return s.stepResult(participant, instance, m.StepResult), nil
	case *cohortv1.InstanceMessage_Vote:
		return &protocol.Vote{
			Session: s.number, Participant: participant, Instance: instance,
			Call: m.Vote.GetCall(), Yes: m.Vote.GetYes(), Reason: m.Vote.GetReason(), Conflict: m.Vote.GetConflict(),
		}, nil
	case *cohortv1.InstanceMessage_Goodbye:
		return &protocol.Detached{Session: s.number, Participant: participant, Instance: instance, Goodbye: true}, nil
	case *cohortv1.InstanceMessage_Ready:
		return &protocol.Ready{
			Session: s.number, Participant: participant, Instance: instance,
			Epoch: m.Ready.GetActivationEpoch(), Position: m.Ready.GetPosition(),
		}, nil
	case *cohortv1.InstanceMessage_Captured:
		return &protocol.Captured{
			Session: s.number, Participant: participant, Instance: instance, Number: m.Captured.GetCheckpoint(),
			Position: m.Captured.GetPosition(), Epoch: m.Captured.GetActivationEpoch(), Failure: m.Captured.GetFailure(),
		}, nil
	case *cohortv1.InstanceMessage_Progress:
		return &protocol.Progress{
			Session: s.number, Participant: participant, Instance: instance, Phase: protocol.Phase(m.Progress.GetPhase()),
			Position: s.positionOf(m.Progress.GetIncarnation(), m.Progress.GetPosition()),
		}, nil
	}
	return nil, &Invalid{Field: "from_instance.message", Detail: fmt.Sprintf("a message of kind %T does not belong here", f.GetMessage().GetMessage())}
}

// stepResult is a failed one when the instance staged what no log may hold.
func (s *Session) stepResult(participant, instance string, r *cohortv1.StepResult) protocol.Event {
	ev := &protocol.StepResult{Session: s.number, Participant: participant, Instance: instance, Call: r.GetCall()}
	var err error
	if ev.Ops, err = stagedOps(r.GetOps()); err == nil {
		ev.Reads, ev.Scans, err = stagedReads(r)
	}
	switch {
	case err != nil:
		ev.Ops, ev.Reads, ev.Scans = nil, nil, nil
		ev.Failure = &protocol.StepFailed{Code: protocol.FailureHandler, Message: "the handler's changes make no sense: " + err.Error()}
	case r.GetFailure() != nil:
		code := protocol.FailureCode(r.GetFailure().GetCode())
		if code == 0 {
			code = protocol.FailureHandler
		}
		ev.Failure = &protocol.StepFailed{Code: code, Message: r.GetFailure().GetMessage()}
	default:
		ev.Payload, ev.ContentType = r.GetReply().GetPayload(), r.GetReply().GetContentType()
	}
	return ev
}

func stagedOps(in []*cohortv1.Op) ([]command.Op, error) {
	if len(in) == 0 {
		return nil, nil
	}
	ops := make([]command.Op, len(in))
	for i, o := range in {
		op := command.Op{Participant: o.GetParticipant(), Key: string(o.GetKey())}
		switch k := o.GetOp().(type) {
		case *cohortv1.Op_Put:
			op.Kind, op.Value = command.OpPut, k.Put.GetValue()
		case *cohortv1.Op_Delete:
			op.Kind = command.OpDelete
		case *cohortv1.Op_Add:
			op.Kind, op.Delta, op.AtLeast, op.AtMost = command.OpAdd, k.Add.GetDelta(), k.Add.AtLeast, k.Add.AtMost
		case *cohortv1.Op_Log:
			op.Kind, op.Value = command.OpLog, k.Log.GetChange()
			if k.Log.GetAlreadyApplied() {
				op.AppliedEpoch = 1 // the core puts in the epoch it asked under
			}
		default:
			return nil, &Invalid{Field: "ops", Detail: "an op is a put, a delete, an add or a log change"}
		}
		ops[i] = op
	}
	return ops, checkOps(ops)
}

func stagedReads(r *cohortv1.StepResult) (reads []command.Read, scans []command.ScanRead, err error) {
	for _, in := range r.GetReads() {
		if err := command.CheckKey(string(in.GetKey())); err != nil {
			return nil, nil, &Invalid{Field: "reads.key", Detail: err.Error()}
		}
		reads = append(reads, command.Read{Participant: in.GetParticipant(), Key: string(in.GetKey()), Version: in.GetVersion()})
	}
	for _, in := range r.GetScans() {
		scan := command.ScanRead{Participant: in.GetParticipant(), Start: string(in.GetStart()), End: string(in.GetEnd())}
		if len(in.GetHash()) != len(scan.Hash) {
			return nil, nil, &Invalid{Field: "scans.hash", Detail: "hand a scan back as the server gave it"}
		}
		copy(scan.Hash[:], in.GetHash())
		scans = append(scans, scan)
	}
	return reads, scans, nil
}

// deliver runs on the loop: a message of the core goes to its instance.
func (s *Session) deliver(e *protocol.Send) {
	s.say(&cohortv1.CoordinatorMessage{Message: &cohortv1.CoordinatorMessage_ToInstance{ToInstance: &cohortv1.ToInstance{
		Participant: e.Participant, Instance: e.Instance, Message: s.reign.nodeMessage(e.Message),
	}}})
}

func (g *reign) nodeMessage(m protocol.Message) *cohortv1.NodeMessage {
	switch m := m.(type) {
	case *protocol.Activated:
		return &cohortv1.NodeMessage{Message: &cohortv1.NodeMessage_Activated{Activated: &cohortv1.Activated{
			Epoch: m.Epoch, Position: g.replica.Position(), Incarnation: g.incarnation, CoordinatorEpoch: g.epoch,
		}}}
	case *protocol.Standby:
		return &cohortv1.NodeMessage{Message: &cohortv1.NodeMessage_Standby{Standby: &cohortv1.Standby{ActiveEpoch: m.ActiveEpoch}}}
	case *protocol.Fenced:
		return &cohortv1.NodeMessage{Message: &cohortv1.NodeMessage_Fenced{Fenced: &cohortv1.Fenced{Epoch: m.Epoch, Reason: m.Reason}}}
	case *protocol.Refused:
		return &cohortv1.NodeMessage{Message: &cohortv1.NodeMessage_Refused{Refused: &cohortv1.Refused{
			Code: cohortv1.Refused_Code(m.Code), Detail: m.Detail,
		}}}
	case *protocol.Step:
		return &cohortv1.NodeMessage{Message: &cohortv1.NodeMessage_Step{Step: &cohortv1.Step{
			Call: m.Call, Attempt: wireAttempt(m.Attempt), Step: m.Step, Method: m.Method, Payload: m.Payload, ContentType: m.ContentType,
			Position: m.Position, ActivationEpoch: m.Epoch, CoordinatorEpoch: g.epoch, TimeoutMs: max(m.Timeout.Milliseconds(), 1),
			LeaseMs: max(m.Lease.Milliseconds(), 1),
		}}}
	case *protocol.Prepare:
		return &cohortv1.NodeMessage{Message: &cohortv1.NodeMessage_Prepare{Prepare: &cohortv1.Prepare{
			Call: m.Call, Attempt: wireAttempt(m.Attempt), ActivationEpoch: m.Epoch, CoordinatorEpoch: g.epoch, TimeoutMs: max(m.Timeout.Milliseconds(), 1),
		}}}
	case *protocol.Notice:
		n := &cohortv1.Notice{Attempt: wireAttempt(m.Attempt), Position: m.Position}
		if a := m.Abort; a != nil {
			n.Abort = &cohortv1.Abort{Id: a.ID, Reason: cohortv1.Reason(a.Reason), Participant: a.Participant, Key: []byte(a.Key), Detail: a.Detail}
		}
		return &cohortv1.NodeMessage{Message: &cohortv1.NodeMessage_Notice{Notice: n}}
	case *protocol.Capture:
		return &cohortv1.NodeMessage{Message: &cohortv1.NodeMessage_Capture{Capture: &cohortv1.Capture{
			Checkpoint: m.Checkpoint, Position: m.Position, ActivationEpoch: m.Epoch,
		}}}
	}
	panic("coordinator: a message that is not known")
}

func wireAttempt(a Attempt) *cohortv1.Attempt {
	return &cohortv1.Attempt{Id: a.ID, Begun: a.Begun, Nonce: a.Nonce}
}
