package groups

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
)

// Bounds of an agent, each with what it protects.
const (
	// maxInstances attached to one node: each holds a stream and a queue.
	maxInstances = 1024
	// maxHelloDescription is text for operators, kept at the coordinator too.
	maxHelloDescription = 512
	// instanceNonceBytes is the length of an instance's nonce before encoding.
	instanceNonceBytes = 16
	// helloTimeout ends a stream that says nothing.
	helloTimeout = 10 * time.Second
	// MaxInstanceMessageBytes is the largest message taken from an instance. It
	// leaves room for the envelope under the nodes' own message limit, since a
	// message too large for a session would end it for every instance of the
	// group on this node.
	MaxInstanceMessageBytes = 20 << 20
)

// Coordinators finds groups and the nodes that coordinate them.
type Coordinators interface {
	// Participants lists a group's participants. A list without the wanted one is
	// the newest that the cluster has agreed on, and ErrNoGroup says the same of the
	// group: an instance is sent away for good by them. Any other error says that
	// this cannot be told now.
	Participants(ctx context.Context, group, wanted string) ([]string, error)
	// Connect returns a connection to the node that runs the group's coordinator.
	// It may wait for an election, as long as ctx lets it. The connection belongs
	// to the callee.
	Connect(ctx context.Context, group string) (grpc.ClientConnInterface, error)
}

// AgentConfig is what an Agent needs.
type AgentConfig struct {
	// Node is this node's name.
	Node         string
	Coordinators Coordinators
	Logger       *zap.Logger

	// BackoffMin and BackoffMax bound the pause before a lost session is opened
	// again; it doubles from one to the other. 0 means 50 ms and 2 s.
	BackoffMin, BackoffMax time.Duration
	// Heartbeat is the time between heartbeats of a session; 0 means 1 s.
	Heartbeat time.Duration
	// Silence is how long a session may leave its heartbeats unanswered before it
	// is given up and its coordinator looked for anew; 0 means 5 s. It is how the
	// agent leaves a leader that is cut off from its quorum.
	Silence time.Duration
}

func (c *AgentConfig) ensureDefaults() {
	if c.BackoffMin == 0 {
		c.BackoffMin = 50 * time.Millisecond
	}
	if c.BackoffMax == 0 {
		c.BackoffMax = 2 * time.Second
	}
	if c.Heartbeat == 0 {
		c.Heartbeat = time.Second
	}
	if c.Silence == 0 {
		c.Silence = 5 * time.Second
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
}

// Agent serves the instances that attach to this node. Per group with instances
// it keeps one session to the node that runs the group's coordinator, wherever
// that moves, and passes messages both ways:
//
//	instance ══ Attach ══▶ ┌───────┐
//	instance ══ Attach ══▶ │ agent │ ══ Peers.Session (one a group) ══▶ coordinator
//	instance ══ Attach ══▶ └───────┘
//
// Messages of one instance keep their order within a session. A session that is
// lost takes everything in flight with it, both ways: the coordinator tells the
// callers, and the agent drops late answers to calls of the lost session, so
// that they never meet another coordinator's calls. The next session begins with
// the announcement of every instance attached then.
//
// An Agent is safe for concurrent use.
type Agent struct {
	pb.UnimplementedParticipantsServer

	config AgentConfig
	// ctx lives as long as the agent; cancel is called by Close.
	ctx    context.Context
	cancel context.CancelFunc
	// running counts the goroutines of sessions and of streams.
	running sync.WaitGroup

	mu       sync.Mutex
	closed   bool
	sessions map[string]*agentSession
	attached int
}

// NewAgent returns an agent that serves until Close.
func NewAgent(config AgentConfig) *Agent {
	config.ensureDefaults()
	ctx, cancel := context.WithCancel(context.Background())
	return &Agent{
		config:   config,
		ctx:      ctx,
		cancel:   cancel,
		sessions: make(map[string]*agentSession),
	}
}

// Close ends every attached stream and session and waits for them.
func (a *Agent) Close() {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	a.cancel()
	a.running.Wait()
}

// Attach serves one instance until its stream ends, a newer stream of the same
// instance replaces it, or the agent closes.
func (a *Agent) Attach(stream pb.Participants_AttachServer) error {
	a.mu.Lock()
	if a.closed {
		a.mu.Unlock()
		return errAgentClosing()
	}
	a.running.Add(1)
	a.mu.Unlock()
	defer a.running.Done()

	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	incoming := a.receive(ctx, stream)

	hello, err := a.awaitHello(ctx, incoming)
	if err != nil {
		return err
	}
	refused, err := a.check(ctx, hello)
	if err != nil {
		return err
	}
	if refused != nil {
		return stream.Send(&pb.NodeMessage{Message: &pb.NodeMessage_Refused{Refused: refused}})
	}
	in := newAgentInstance(hello, cancel)
	session, refused := a.attach(in)
	if refused != nil {
		return stream.Send(&pb.NodeMessage{Message: &pb.NodeMessage_Refused{Refused: refused}})
	}
	reason, err := a.serve(ctx, stream, session, in, incoming)
	a.detach(session, in, reason)
	return err
}

// fromInstance is a message of an instance, or the end of its stream.
type fromInstance struct {
	message *pb.InstanceMessage
	err     error
}

// receive reads the stream into a channel. Its goroutine ends with the stream,
// which ends when Attach returns.
func (a *Agent) receive(ctx context.Context, stream pb.Participants_AttachServer) <-chan fromInstance {
	incoming := make(chan fromInstance)
	a.running.Add(1)
	go func() {
		defer a.running.Done()
		for {
			m, err := stream.Recv()
			select {
			case incoming <- fromInstance{m, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return incoming
}

func (a *Agent) awaitHello(ctx context.Context, incoming <-chan fromInstance) (*pb.Hello, error) {
	timer := time.NewTimer(helloTimeout)
	defer timer.Stop()
	select {
	case first := <-incoming:
		if first.err != nil {
			return nil, first.err
		}
		hello := first.message.GetHello()
		if hello == nil {
			return nil, status.Error(codes.InvalidArgument, "the first message on an Attach stream must be a hello")
		}
		return hello, nil
	case <-timer.C:
		return nil, status.Errorf(codes.DeadlineExceeded, "no hello within %s of opening the Attach stream", helloTimeout)
	case <-a.ctx.Done():
		return nil, errAgentClosing()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// check refuses what no coordinator would accept, at once. Its error says that
// this cannot be told now: the instance tries again, here or elsewhere.
func (a *Agent) check(ctx context.Context, hello *pb.Hello) (*pb.Refused, error) {
	nonce, err := hex.DecodeString(hello.GetInstance())
	switch {
	case err != nil || len(nonce) != instanceNonceBytes:
		return refusal(pb.Refused_CODE_BAD_HELLO, "hello.instance must be %d random bytes in hexadecimal, made once a process", instanceNonceBytes), nil
	case len(hello.GetDescription()) > maxHelloDescription:
		return refusal(pb.Refused_CODE_BAD_HELLO, "hello.description has %d bytes; at most %d are kept", len(hello.GetDescription()), maxHelloDescription), nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(a.ctx, cancel)()
	participants, err := a.config.Coordinators.Participants(ctx, hello.GetGroup(), hello.GetParticipant())
	switch {
	case errors.Is(err, ErrNoGroup):
		return refusal(pb.Refused_CODE_UNKNOWN_GROUP, "there is no group %q; declare it with `cohort apply`", hello.GetGroup()), nil
	case a.ctx.Err() != nil:
		return nil, errAgentClosing()
	case err != nil:
		return nil, status.Errorf(codes.Unavailable, "whether group %q has participant %q cannot be told now: %v", hello.GetGroup(), hello.GetParticipant(), err)
	case !slices.Contains(participants, hello.GetParticipant()):
		return refusal(pb.Refused_CODE_UNKNOWN_PARTICIPANT, "group %q has no participant %q; it has %q", hello.GetGroup(), hello.GetParticipant(), participants), nil
	}
	return nil, nil
}

func refusal(code pb.Refused_Code, format string, args ...any) *pb.Refused {
	return &pb.Refused{Code: code, Detail: fmt.Sprintf(format, args...)}
}

func errAgentClosing() error {
	return status.Error(codes.Unavailable, "this node is shutting down; attach to another one")
}

// attach adds an instance to its group's session, which the first one starts.
func (a *Agent) attach(in *agentInstance) (*agentSession, *pb.Refused) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.attached >= maxInstances {
		return nil, refusal(pb.Refused_CODE_TOO_MANY, "this node serves %d instances already, its bound; attach to another node", maxInstances)
	}
	a.attached++
	s := a.sessions[in.hello.GetGroup()]
	if s == nil || s.users == 0 {
		s = newAgentSession(a.ctx, &a.config, in.hello.GetGroup(), s)
		a.sessions[in.hello.GetGroup()] = s
		a.running.Add(1)
		go func() {
			defer a.running.Done()
			s.run()
			a.forget(s)
		}()
	}
	s.users++
	return s, nil
}

// detach takes an instance out; the last one of a group ends its session.
func (a *Agent) detach(s *agentSession, in *agentInstance, reason string) {
	s.remove(in, reason)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.attached--
	s.users--
	if s.users == 0 {
		s.finish()
	}
}

// forget drops an ended session, unless another has taken its place.
func (a *Agent) forget(s *agentSession) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.sessions[s.group] == s {
		delete(a.sessions, s.group)
	}
}

// serve passes messages between the instance and the session until one of the
// ends goes; the reason it returns is what the coordinator is told.
func (a *Agent) serve(ctx context.Context, stream pb.Participants_AttachServer, s *agentSession, in *agentInstance, incoming <-chan fromInstance) (reason string, err error) {
	s.add(in)
	sent := make(chan error, 1)
	a.running.Add(1)
	go func() {
		defer a.running.Done()
		sent <- in.send(ctx, stream)
	}()
	// Send may block on the peer's flow control: it returns when the stream's
	// context ends, which it does after Attach returned. So nobody waits for it
	// here; Close does.
	for {
		select {
		case got := <-incoming:
			if got.err != nil {
				if errors.Is(got.err, io.EOF) {
					return "the instance closed its stream", nil
				}
				return "the instance's stream broke: " + status.Convert(got.err).Message(), got.err
			}
			if err := s.fromInstance(ctx, in, got.message); err != nil {
				return status.Convert(err).Message(), err
			}
		case err := <-sent:
			if err == nil {
				err = status.Error(codes.Aborted, "the stream was ended by the node")
			}
			return status.Convert(err).Message(), err
		case <-ctx.Done():
			if cause := in.endCause(); cause != nil {
				return status.Convert(cause).Message(), cause
			}
			return "the instance's stream broke", ctx.Err()
		case <-a.ctx.Done():
			return "the node is shutting down", errAgentClosing()
		}
	}
}
