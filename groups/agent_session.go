package groups

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
)

const (
	// linkQueueMessages towards the coordinator; an instance that finds it full
	// waits, and by flow control so does its process.
	linkQueueMessages = 1024
	// connectTimeout bounds one search for the coordinator.
	connectTimeout = 5 * time.Second
	// farewellTimeout bounds the sending of what is queued when the last instance
	// of a group has gone.
	farewellTimeout = time.Second
)

var errSilent = errors.New("the coordinator does not answer heartbeats")

// agentSession is what the agent keeps per group with attached instances: the
// instances, and a succession of links to the group's coordinator, one at a time.
//
//	searching ──connected──▶ linked ──broken, silent──▶ backing off ──▶ searching
//	    any ──last instance detached, or agent closed──▶ ended
type agentSession struct {
	group  string
	config *AgentConfig
	logger *zap.Logger
	// ctx ends with the agent; life ends with it too, or by finish, when the last
	// instance has gone.
	ctx    context.Context
	life   context.Context
	finish context.CancelFunc
	// previous is an ended session of the same group whose farewell may be under
	// way: its messages come first. ended is closed when run has returned.
	previous *agentSession
	ended    chan struct{}
	// users counts attached instances; the agent's mu guards it.
	users int

	mu        sync.Mutex
	instances map[instanceKey]*agentInstance
	link      *agentLink // nil while there is none
}

// agentLink is one Peers.Session stream's life.
type agentLink struct {
	outgoing chan *pb.AgentMessage
	// last is closed when nothing more will be queued.
	last chan struct{}
	// done is closed when the link is of no more use.
	done chan struct{}
}

func newAgentSession(ctx context.Context, config *AgentConfig, group string, previous *agentSession) *agentSession {
	life, finish := context.WithCancel(ctx)
	return &agentSession{
		group:     group,
		config:    config,
		logger:    config.Logger.With(zap.String("group", group)),
		ctx:       ctx,
		life:      life,
		finish:    finish,
		previous:  previous,
		ended:     make(chan struct{}),
		instances: make(map[instanceKey]*agentInstance),
	}
}

// add makes an instance known. A newer stream of the same instance replaces an
// older one, whose end the node may not have noticed yet.
func (s *agentSession) add(in *agentInstance) {
	s.mu.Lock()
	old := s.instances[in.key()]
	s.instances[in.key()] = in
	link := s.link
	s.mu.Unlock()
	if old != nil {
		old.end(status.Error(codes.Aborted, "a newer stream of the same instance took over"))
	}
	// A link that begins after the unlock announces the instance itself. To a
	// coordinator that knows the instance it says that what was in flight is lost;
	// a detaching would cost the instance its activation.
	s.say(link, attachedMessage(in))
}

// remove forgets an instance and tells the coordinator, unless a newer stream
// of it has taken its place.
func (s *agentSession) remove(in *agentInstance, reason string) {
	s.mu.Lock()
	current := s.instances[in.key()] == in
	if current {
		delete(s.instances, in.key())
	}
	link := s.link
	s.mu.Unlock()
	if current {
		s.say(link, detachedMessage(in, reason))
	}
}

// say queues a message on a link and waits while it is full. A link that ends
// meanwhile takes the message with it.
func (s *agentSession) say(link *agentLink, m *pb.AgentMessage) {
	if link == nil {
		return
	}
	select {
	case link.outgoing <- m:
	case <-link.done:
	}
}

// fromInstance passes an instance's message on. Without a link the message is
// lost, as is everything in flight.
func (s *agentSession) fromInstance(ctx context.Context, in *agentInstance, m *pb.InstanceMessage) error {
	s.mu.Lock()
	link := s.link
	s.mu.Unlock()
	switch body := m.GetMessage().(type) {
	case *pb.InstanceMessage_Hello:
		return status.Error(codes.InvalidArgument, "a second hello on an Attach stream; open a stream for each participant")
	case *pb.InstanceMessage_StepResult:
		call, ok := in.resolve(link, body.StepResult.GetCall())
		if !ok {
			return nil // its caller has been told that the call was lost
		}
		if size := proto.Size(m); size > MaxInstanceMessageBytes {
			body.StepResult = tooLarge(in, size)
		}
		body.StepResult.Call = call
	case *pb.InstanceMessage_Vote:
		call, ok := in.resolve(link, body.Vote.GetCall())
		if !ok {
			return nil
		}
		body.Vote.Call = call
	case *pb.InstanceMessage_Goodbye, *pb.InstanceMessage_Ready, *pb.InstanceMessage_Captured, *pb.InstanceMessage_Progress:
	default:
		// The coordinator would take it as a breach by the whole session.
		return status.Error(codes.InvalidArgument, "an empty message, or of a kind that this node does not know; use an SDK of its version")
	}
	if size := proto.Size(m); size > MaxInstanceMessageBytes {
		return status.Errorf(codes.ResourceExhausted, "a message of %d bytes; at most %d are taken from an instance", size, MaxInstanceMessageBytes)
	}
	if link == nil {
		return nil
	}
	select {
	case link.outgoing <- &pb.AgentMessage{Message: &pb.AgentMessage_FromInstance{FromInstance: &pb.FromInstance{
		Participant: in.hello.GetParticipant(), Instance: in.hello.GetInstance(), Message: m,
	}}}:
	case <-link.done:
	case <-ctx.Done():
	}
	return nil
}

func tooLarge(in *agentInstance, size int) *pb.StepResult {
	return &pb.StepResult{Result: &pb.StepResult_Failure{Failure: &pb.StepFailure{
		Code:        pb.StepFailure_CODE_TOO_LARGE,
		Participant: in.hello.GetParticipant(),
		Message:     fmt.Sprintf("the step's result has %d bytes; at most %d pass", size, MaxInstanceMessageBytes),
	}}}
}

// run keeps a link to the coordinator until the session ends. Its pause grows
// with each failure and starts over once a coordinator has welcomed the agent.
func (s *agentSession) run() {
	defer close(s.ended)
	defer s.finish()
	if s.previous != nil {
		<-s.previous.ended
		s.previous = nil
	}
	pause := s.config.BackoffMin
	for s.life.Err() == nil {
		welcomed, err := s.serveLink()
		if s.life.Err() != nil {
			return
		}
		if welcomed {
			pause = s.config.BackoffMin
		}
		s.logger.Info("no session with the group's coordinator, trying again", zap.Duration("pause", pause), zap.Error(err))
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-s.life.Done():
			timer.Stop()
		}
		pause = min(2*pause, s.config.BackoffMax)
	}
}

// serveLink finds the coordinator, opens a stream to it and serves it to its
// end.
func (s *agentSession) serveLink() (welcomed bool, err error) {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	stream, err := s.open(ctx, cancel)
	if err != nil {
		return false, err
	}
	link, announcements := s.begin()
	defer s.end(link)

	var goroutines sync.WaitGroup
	defer goroutines.Wait()
	defer cancel() // before waiting: Send and Recv end with the context
	incoming := make(chan *pb.CoordinatorMessage)
	received := make(chan error, 1)
	goroutines.Go(func() { received <- receive(ctx, stream, incoming) })
	sent := make(chan error, 1)
	goroutines.Go(func() { sent <- s.send(ctx, stream, link, announcements) })

	silence := time.NewTimer(s.config.Silence)
	defer silence.Stop()
	var farewell <-chan time.Time
	finished := s.life.Done()
	for {
		select {
		case m := <-incoming:
			switch body := m.GetMessage().(type) {
			case *pb.CoordinatorMessage_Welcome:
				welcomed = true
			case *pb.CoordinatorMessage_Heartbeat:
				silence.Reset(s.config.Silence)
			case *pb.CoordinatorMessage_ToInstance:
				if finished != nil {
					s.toInstance(link, body.ToInstance)
				}
			}
		case err := <-received:
			return welcomed, err
		case err := <-sent:
			if err != nil && !errors.Is(err, io.EOF) {
				return welcomed, err
			}
			// Either everything is sent and the coordinator will end the stream, or
			// the stream is broken: the receiver has the status.
			sent = nil
		case <-silence.C:
			return welcomed, errSilent
		case <-finished:
			// Every instance has said its last: what is queued goes out yet.
			finished = nil
			close(link.last)
			farewell = time.After(farewellTimeout)
		case <-farewell:
			return welcomed, nil
		}
	}
}

// open connects to the coordinator's node and says hello, within connectTimeout.
// The stream itself lives as long as ctx.
func (s *agentSession) open(ctx context.Context, cancel context.CancelFunc) (pb.Peers_SessionClient, error) {
	timeout := time.AfterFunc(connectTimeout, cancel)
	defer timeout.Stop()
	stop := context.AfterFunc(s.life, cancel)
	defer stop()
	conn, err := s.config.Coordinators.Connect(ctx, s.group)
	if err != nil {
		return nil, err
	}
	stream, err := pb.NewPeersClient(conn).Session(ctx)
	if err != nil {
		return nil, err
	}
	if err := stream.Send(&pb.AgentMessage{Message: &pb.AgentMessage_Hello{Hello: &pb.AgentHello{Node: s.config.Node, Group: s.group}}}); err != nil {
		_, err = stream.Recv() // has the status that Send hides behind io.EOF
		return nil, err
	}
	return stream, nil
}

// receive passes what the coordinator says to incoming, to the stream's end.
func receive(ctx context.Context, stream pb.Peers_SessionClient, incoming chan<- *pb.CoordinatorMessage) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		select {
		case incoming <- m:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// begin makes a new link the session's current one. What is attached at that
// moment is announced by the link; what comes later announces itself.
func (s *agentSession) begin() (*agentLink, []*pb.AgentMessage) {
	link := &agentLink{outgoing: make(chan *pb.AgentMessage, linkQueueMessages), last: make(chan struct{}), done: make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.link = link
	announcements := make([]*pb.AgentMessage, 0, len(s.instances))
	for _, in := range s.instances {
		announcements = append(announcements, attachedMessage(in))
	}
	return link, announcements
}

func (s *agentSession) end(link *agentLink) {
	s.mu.Lock()
	s.link = nil
	s.mu.Unlock()
	close(link.done)
}

// send writes announcements, then what is queued, and heartbeats in between. It
// returns nil once the last message is sent.
func (s *agentSession) send(ctx context.Context, stream pb.Peers_SessionClient, link *agentLink, announcements []*pb.AgentMessage) error {
	for _, m := range announcements {
		if err := stream.Send(m); err != nil {
			return err
		}
	}
	heartbeat := time.NewTicker(s.config.Heartbeat)
	defer heartbeat.Stop()
	var sequence uint64
	for {
		var m *pb.AgentMessage
		select {
		case m = <-link.outgoing:
		case <-link.last:
			select {
			case m = <-link.outgoing:
			default:
				return stream.CloseSend()
			}
		case <-heartbeat.C:
			sequence++
			m = &pb.AgentMessage{Message: &pb.AgentMessage_Heartbeat{Heartbeat: &pb.Heartbeat{Sequence: sequence}}}
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := stream.Send(m); err != nil {
			return err
		}
	}
}

// toInstance passes a coordinator's message on, or says that its addressee is
// not here.
func (s *agentSession) toInstance(link *agentLink, to *pb.ToInstance) {
	key := instanceKey{to.GetParticipant(), to.GetInstance()}
	s.mu.Lock()
	in := s.instances[key]
	s.mu.Unlock()
	if in == nil {
		// Dropped when the queue is full: the link must go on reading, and the
		// coordinator's own timeout remains.
		select {
		case link.outgoing <- &pb.AgentMessage{Message: &pb.AgentMessage_Detached{Detached: &pb.InstanceDetached{
			Participant: key.participant, Instance: key.instance, Reason: "the instance is not attached to this node",
		}}}:
		default:
		}
		return
	}
	if to.GetMessage() != nil {
		in.deliver(link, to.GetMessage())
	}
}

func attachedMessage(in *agentInstance) *pb.AgentMessage {
	return &pb.AgentMessage{Message: &pb.AgentMessage_Attached{Attached: &pb.InstanceAttached{Hello: in.hello}}}
}

func detachedMessage(in *agentInstance, reason string) *pb.AgentMessage {
	return &pb.AgentMessage{Message: &pb.AgentMessage_Detached{Detached: &pb.InstanceDetached{
		Participant: in.hello.GetParticipant(), Instance: in.hello.GetInstance(), Reason: reason,
	}}}
}
