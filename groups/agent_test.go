package groups

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
)

// testWait is how long a test waits for what must happen.
const testWait = 10 * time.Second

// listen serves a gRPC server in memory and gives a connection to it.
func listen(t *testing.T, register func(*grpc.Server)) *grpc.ClientConn {
	t.Helper()
	listener := bufconn.Listen(1 << 20)
	server := grpc.NewServer(grpc.MaxRecvMsgSize(64 << 20))
	register(server)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	conn, err := grpc.NewClient("passthrough:///memory",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		server.Stop()
		serving.Wait()
	})
	return conn
}

// coordinatorNode is a node that coordinates: its Peers.Session streams are
// played by the test.
type coordinatorNode struct {
	pb.UnimplementedPeersServer
	name     string
	sessions chan *playedSession
	conn     *grpc.ClientConn
	// mute leaves heartbeats unanswered.
	mute bool
}

// playedSession is the coordinator's end of a session.
type playedSession struct {
	stream   pb.Peers_SessionServer
	incoming chan *pb.AgentMessage // without hello and heartbeats; closed at the end
	hang     chan struct{}
	sending  sync.Mutex
}

func newCoordinatorNode(t *testing.T, name string) *coordinatorNode {
	c := &coordinatorNode{name: name, sessions: make(chan *playedSession, 16)}
	c.conn = listen(t, func(s *grpc.Server) { pb.RegisterPeersServer(s, c) })
	return c
}

func (c *coordinatorNode) Session(stream pb.Peers_SessionServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if first.GetHello().GetNode() == "" || first.GetHello().GetGroup() == "" {
		return status.Error(codes.InvalidArgument, "the first message is no hello")
	}
	p := &playedSession{stream: stream, incoming: make(chan *pb.AgentMessage, 4096), hang: make(chan struct{})}
	p.say(&pb.CoordinatorMessage{Message: &pb.CoordinatorMessage_Welcome{Welcome: &pb.Welcome{CoordinatorEpoch: 1}}})
	c.sessions <- p
	received := make(chan error, 1)
	go func() {
		defer close(p.incoming)
		for {
			m, err := stream.Recv()
			if err != nil {
				received <- err
				return
			}
			if beat := m.GetHeartbeat(); beat != nil {
				if !c.mute {
					p.say(&pb.CoordinatorMessage{Message: &pb.CoordinatorMessage_Heartbeat{Heartbeat: beat}})
				}
				continue
			}
			p.incoming <- m
		}
	}()
	select {
	case err := <-received:
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	case <-p.hang:
		return status.Error(codes.Unavailable, "the coordinator moved")
	}
}

func (p *playedSession) say(m *pb.CoordinatorMessage) {
	p.sending.Lock()
	defer p.sending.Unlock()
	_ = p.stream.Send(m) // an error ends the session, which the test sees
}

func (p *playedSession) tell(participant, instance string, m *pb.NodeMessage) {
	p.say(&pb.CoordinatorMessage{Message: &pb.CoordinatorMessage_ToInstance{ToInstance: &pb.ToInstance{Participant: participant, Instance: instance, Message: m}}})
}

func (p *playedSession) next(t *testing.T) *pb.AgentMessage {
	t.Helper()
	select {
	case m, ok := <-p.incoming:
		if !ok {
			t.Fatal("the session ended instead of saying something")
		}
		return m
	case <-time.After(testWait):
		t.Fatal("the agent says nothing")
	}
	return nil
}

func (p *playedSession) awaitEnd(t *testing.T) {
	t.Helper()
	timeout := time.After(testWait)
	for {
		select {
		case _, ok := <-p.incoming:
			if !ok {
				return
			}
		case <-timeout:
			t.Fatal("the session does not end")
		}
	}
}

func (c *coordinatorNode) session(t *testing.T) *playedSession {
	t.Helper()
	select {
	case p := <-c.sessions:
		return p
	case <-time.After(testWait):
		t.Fatalf("no session reached %s", c.name)
	}
	return nil
}

// cluster says which node coordinates the groups.
type cluster struct {
	mu      sync.Mutex
	current *coordinatorNode
}

func (c *cluster) Participants(_ context.Context, group, _ string) ([]string, error) {
	switch group {
	case "checkout":
		return []string{"orders", "ledger"}, nil
	case "not-heard-of-yet":
		return nil, errors.New("the directory does not answer")
	}
	return nil, ErrNoGroup
}

func (c *cluster) Connect(context.Context, string) (grpc.ClientConnInterface, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current == nil {
		return nil, errors.New("no coordinator")
	}
	return c.current.conn, nil
}

func (c *cluster) elect(n *coordinatorNode) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.current = n
}

type agentTest struct {
	*testing.T
	cluster *cluster
	agent   *Agent
	client  pb.ParticipantsClient
}

func newAgentTest(t *testing.T, change func(*AgentConfig)) *agentTest {
	at := &agentTest{T: t, cluster: &cluster{}}
	config := AgentConfig{Node: "n1", Coordinators: at.cluster, BackoffMin: time.Millisecond, BackoffMax: 5 * time.Millisecond}
	if change != nil {
		change(&config)
	}
	at.agent = NewAgent(config)
	conn := listen(t, func(s *grpc.Server) { pb.RegisterParticipantsServer(s, at.agent) })
	at.client = pb.NewParticipantsClient(conn)
	t.Cleanup(at.agent.Close)
	return at
}

// instance is the application's end of an Attach stream.
type instance struct {
	t      *agentTest
	stream pb.Participants_AttachClient
	cancel context.CancelFunc
	hello  *pb.Hello
}

func (t *agentTest) attach(participant string, number int) *instance {
	t.Helper()
	return t.attachAs(&pb.Hello{Group: "checkout", Participant: participant, Instance: fmt.Sprintf("%032x", number)})
}

func (t *agentTest) attachAs(hello *pb.Hello) *instance {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	stream, err := t.client.Attach(ctx)
	if err != nil {
		t.Fatal(err)
	}
	in := &instance{t: t, stream: stream, cancel: cancel, hello: hello}
	in.say(&pb.InstanceMessage{Message: &pb.InstanceMessage_Hello{Hello: hello}})
	return in
}

func (in *instance) say(m *pb.InstanceMessage) {
	in.t.Helper()
	if err := in.stream.Send(m); err != nil {
		in.t.Fatal(err)
	}
}

func (in *instance) reply(call uint64, payload string) {
	in.t.Helper()
	in.say(&pb.InstanceMessage{Message: &pb.InstanceMessage_StepResult{StepResult: &pb.StepResult{
		Call: call, Result: &pb.StepResult_Reply{Reply: &pb.StepReply{Payload: []byte(payload)}},
	}}})
}

func (in *instance) next() *pb.NodeMessage {
	in.t.Helper()
	m, err := in.stream.Recv()
	if err != nil {
		in.t.Fatal(err)
	}
	return m
}

func step(call uint64, method string) *pb.NodeMessage {
	return &pb.NodeMessage{Message: &pb.NodeMessage_Step{Step: &pb.Step{Call: call, Method: method}}}
}

func wantAttached(t *testing.T, m *pb.AgentMessage, in *instance) {
	t.Helper()
	if h := m.GetAttached().GetHello(); h.GetInstance() != in.hello.Instance || h.GetParticipant() != in.hello.Participant {
		t.Fatalf("the agent says %v, not that %v is attached", m, in.hello)
	}
}

// Without it a step would not reach its instance, or its answer not the caller.
func TestAgentPassesCallsBothWays(t *testing.T) {
	at := newAgentTest(t, nil)
	c := newCoordinatorNode(t, "n2")
	at.cluster.elect(c)
	in := at.attach("orders", 1)
	s := c.session(t)
	wantAttached(t, s.next(t), in)

	s.tell("orders", in.hello.Instance, step(77, "reserve"))
	got := in.next().GetStep()
	if got.GetMethod() != "reserve" {
		t.Fatalf("the instance got %v", got)
	}
	in.reply(got.GetCall(), "done")
	from := s.next(t).GetFromInstance()
	if r := from.GetMessage().GetStepResult(); r.GetCall() != 77 || string(r.GetReply().GetPayload()) != "done" {
		t.Fatalf("the coordinator got %v", from)
	}
	// An answer that was given comes once.
	in.reply(got.GetCall(), "again")
	in.say(&pb.InstanceMessage{Message: &pb.InstanceMessage_Goodbye{Goodbye: &pb.Goodbye{Reason: "bye"}}})
	if m := s.next(t); m.GetFromInstance().GetMessage().GetGoodbye().GetReason() != "bye" {
		t.Fatalf("the coordinator got %v", m)
	}
}

// Without it changes would reach instances, and staged changes coordinators, in
// another order than they were said.
func TestAgentKeepsOrder(t *testing.T) {
	at := newAgentTest(t, nil)
	c := newCoordinatorNode(t, "n2")
	at.cluster.elect(c)
	a, b := at.attach("orders", 1), at.attach("ledger", 2)
	s := c.session(t)
	s.next(t)
	s.next(t)
	const calls = 500
	for i := uint64(1); i <= calls; i++ {
		s.tell("orders", a.hello.Instance, step(i, "a"))
		s.tell("ledger", b.hello.Instance, step(i, "b"))
	}
	for i := range uint64(calls) {
		for _, in := range []*instance{a, b} {
			got := in.next().GetStep()
			if got.GetCall() != i+1 {
				t.Fatalf("call %d came in place %d", got.GetCall(), i+1)
			}
			in.reply(got.GetCall(), "")
		}
	}
	last := map[string]uint64{}
	for range 2 * calls {
		from := s.next(t).GetFromInstance()
		call := from.GetMessage().GetStepResult().GetCall()
		if call != last[from.GetParticipant()]+1 {
			t.Fatalf("%s: answer %d after %d", from.GetParticipant(), call, last[from.GetParticipant()])
		}
		last[from.GetParticipant()] = call
	}
}

// Without it a new leader would know no instances, and an answer to the old
// one's call would be taken for the answer to its own.
func TestAgentFollowsTheCoordinator(t *testing.T) {
	at := newAgentTest(t, nil)
	first, second := newCoordinatorNode(t, "n2"), newCoordinatorNode(t, "n3")
	at.cluster.elect(first)
	a, b := at.attach("orders", 1), at.attach("ledger", 2)
	s := first.session(t)
	s.next(t)
	s.next(t)
	s.tell("orders", a.hello.Instance, step(5, "old"))
	old := a.next().GetStep()

	at.cluster.elect(second)
	close(s.hang)
	s = second.session(t)
	announced := map[string]bool{}
	for range 2 {
		announced[s.next(t).GetAttached().GetHello().GetInstance()] = true
	}
	if !announced[a.hello.Instance] || !announced[b.hello.Instance] {
		t.Fatalf("the new coordinator heard of %v only", announced)
	}
	// The new one's call has the number that the old one's had.
	s.tell("orders", a.hello.Instance, step(5, "new"))
	fresh := a.next().GetStep()
	if fresh.GetMethod() != "new" || fresh.GetCall() == old.GetCall() {
		t.Fatalf("the instance cannot tell %v from %v", fresh, old)
	}
	a.reply(old.GetCall(), "late")
	a.reply(fresh.GetCall(), "in time")
	if r := s.next(t).GetFromInstance().GetMessage().GetStepResult(); string(r.GetReply().GetPayload()) != "in time" || r.GetCall() != 5 {
		t.Fatalf("the new coordinator got %v", r)
	}
}

// Without it an agent would stay with a leader that is cut off from its quorum.
func TestAgentLeavesASilentCoordinator(t *testing.T) {
	at := newAgentTest(t, func(c *AgentConfig) { c.Heartbeat, c.Silence = 5*time.Millisecond, 50*time.Millisecond })
	silent, second := newCoordinatorNode(t, "n2"), newCoordinatorNode(t, "n3")
	silent.mute = true
	at.cluster.elect(silent)
	in := at.attach("orders", 1)
	s := silent.session(t)
	at.cluster.elect(second)
	s.awaitEnd(t)
	wantAttached(t, second.session(t).next(t), in)
}

// Without it a coordinator would go on calling what is gone.
func TestAgentReportsDetached(t *testing.T) {
	at := newAgentTest(t, nil)
	c := newCoordinatorNode(t, "n2")
	at.cluster.elect(c)
	a, b := at.attach("orders", 1), at.attach("ledger", 2)
	s := c.session(t)
	s.next(t)
	s.next(t)
	a.cancel()
	if m := s.next(t).GetDetached(); m.GetParticipant() != "orders" || m.GetInstance() != a.hello.Instance {
		t.Fatalf("the coordinator got %v", m)
	}
	// A call that crossed the detaching is answered at once.
	s.tell("orders", a.hello.Instance, step(1, "x"))
	if m := s.next(t).GetDetached(); m.GetInstance() != a.hello.Instance {
		t.Fatalf("the coordinator got %v", m)
	}
	// The last one of the group says so too, and then the session ends.
	if err := b.stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if m := s.next(t).GetDetached(); m.GetParticipant() != "ledger" {
		t.Fatalf("the coordinator got %v", m)
	}
	s.awaitEnd(t)
	// What attaches later gets a session of its own.
	again := at.attach("orders", 3)
	wantAttached(t, c.session(t).next(t), again)
}

// Without it two streams of one process would both be fed, or the end of the
// older one would detach the newer.
func TestAgentNewerStreamReplaces(t *testing.T) {
	at := newAgentTest(t, nil)
	c := newCoordinatorNode(t, "n2")
	at.cluster.elect(c)
	old := at.attach("orders", 1)
	s := c.session(t)
	wantAttached(t, s.next(t), old)
	fresh := at.attach("orders", 1)
	wantAttached(t, s.next(t), fresh)
	if _, err := old.stream.Recv(); status.Code(err) != codes.Aborted {
		t.Fatalf("the older stream ended with %v", err)
	}
	s.tell("orders", fresh.hello.Instance, step(1, "x"))
	if got := fresh.next().GetStep(); got.GetMethod() != "x" {
		t.Fatalf("the newer stream got %v", got)
	}
	fresh.reply(1, "y")
	if m := s.next(t); m.GetFromInstance() == nil {
		t.Fatalf("the coordinator got %v: the older stream's end detached the newer", m)
	}
}

// Without it one instance's nonsense would end the session of them all.
func TestAgentEndsAnInstanceThatTalksNonsense(t *testing.T) {
	at := newAgentTest(t, nil)
	c := newCoordinatorNode(t, "n2")
	at.cluster.elect(c)
	good := at.attach("orders", 1)
	s := c.session(t)
	wantAttached(t, s.next(t), good)
	for i, nonsense := range []*pb.InstanceMessage{{}, {Message: &pb.InstanceMessage_Hello{Hello: good.hello}}} {
		bad := at.attach("ledger", 2+i)
		wantAttached(t, s.next(t), bad)
		bad.say(nonsense)
		if _, err := bad.stream.Recv(); status.Code(err) != codes.InvalidArgument {
			t.Fatalf("its stream ended with %v", err)
		}
		if m := s.next(t).GetDetached(); m.GetInstance() != bad.hello.Instance {
			t.Fatalf("the coordinator got %v", m)
		}
	}
}

// Without it an instance would be sent away for good by a node that has just
// started and has not heard of its group yet.
func TestAgentThatCannotTellRefusesNothing(t *testing.T) {
	at := newAgentTest(t, nil)
	stream, err := at.client.Attach(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	hello := &pb.Hello{Group: "not-heard-of-yet", Participant: "orders", Instance: strings.Repeat("ab", 16)}
	if err := stream.Send(&pb.InstanceMessage{Message: &pb.InstanceMessage_Hello{Hello: hello}}); err != nil {
		t.Fatal(err)
	}
	if m, err := stream.Recv(); status.Code(err) != codes.Unavailable {
		t.Fatalf("it answered %v, %v", m, err)
	}
}

func TestAgentRefuses(t *testing.T) {
	at := newAgentTest(t, nil)
	nonce := strings.Repeat("ab", 16)
	for name, test := range map[string]struct {
		hello *pb.Hello
		code  pb.Refused_Code
	}{
		"unknown group":       {&pb.Hello{Group: "other", Participant: "orders", Instance: nonce}, pb.Refused_CODE_UNKNOWN_GROUP},
		"unknown participant": {&pb.Hello{Group: "checkout", Participant: "stock", Instance: nonce}, pb.Refused_CODE_UNKNOWN_PARTICIPANT},
		"short nonce":         {&pb.Hello{Group: "checkout", Participant: "orders", Instance: "ab"}, pb.Refused_CODE_BAD_HELLO},
		"no hexadecimal":      {&pb.Hello{Group: "checkout", Participant: "orders", Instance: strings.Repeat("x", 32)}, pb.Refused_CODE_BAD_HELLO},
		"long description":    {&pb.Hello{Group: "checkout", Participant: "orders", Instance: nonce, Description: strings.Repeat("x", maxHelloDescription+1)}, pb.Refused_CODE_BAD_HELLO},
	} {
		t.Run(name, func(t *testing.T) {
			in := at.attachAs(test.hello)
			refused := in.next().GetRefused()
			if refused.GetCode() != test.code || refused.GetDetail() == "" {
				t.Fatalf("answered %v", refused)
			}
			if _, err := in.stream.Recv(); !errors.Is(err, io.EOF) {
				t.Fatalf("the stream ended with %v", err)
			}
		})
	}
	t.Run("no hello", func(t *testing.T) {
		stream, err := at.client.Attach(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&pb.InstanceMessage{Message: &pb.InstanceMessage_Goodbye{Goodbye: &pb.Goodbye{}}}); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); status.Code(err) != codes.InvalidArgument {
			t.Fatalf("the stream ended with %v", err)
		}
	})
}

// Without it one large result would end the session of every instance.
func TestAgentBoundsResults(t *testing.T) {
	in := newAgentInstance(&pb.Hello{Participant: "orders", Instance: "i"}, func() {})
	link := &agentLink{outgoing: make(chan *pb.AgentMessage, 1), done: make(chan struct{})}
	s := newAgentSession(t.Context(), &AgentConfig{Logger: zap.NewNop()}, "checkout", nil)
	defer s.finish()
	s.link = link
	in.deliver(link, step(9, "x"))
	err := s.fromInstance(t.Context(), in, &pb.InstanceMessage{Message: &pb.InstanceMessage_StepResult{StepResult: &pb.StepResult{
		Call: 1, Result: &pb.StepResult_Reply{Reply: &pb.StepReply{Payload: make([]byte, MaxInstanceMessageBytes+1)}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	r := (<-link.outgoing).GetFromInstance().GetMessage().GetStepResult()
	if r.GetCall() != 9 || r.GetFailure().GetCode() != pb.StepFailure_CODE_TOO_LARGE {
		t.Fatalf("passed on %v", r)
	}
}

// Without it an instance that does not read would hold memory without bound, or
// stop the others of its group.
func TestAgentEndsAnInstanceThatDoesNotRead(t *testing.T) {
	ended := false
	in := newAgentInstance(&pb.Hello{Participant: "orders", Instance: "i"}, func() { ended = true })
	link := &agentLink{}
	for i := range uint64(instanceQueueMessages) {
		in.deliver(link, step(i, "x"))
	}
	if ended {
		t.Fatal("ended within the bound")
	}
	in.deliver(link, step(0, "x"))
	if !ended || status.Code(in.endCause()) != codes.ResourceExhausted {
		t.Fatalf("beyond the bound it ended with %v", in.endCause())
	}
}

// Without it calls that are never answered would be remembered for ever.
func TestAgentForgetsOldCalls(t *testing.T) {
	in := newAgentInstance(&pb.Hello{}, func() {})
	link := &agentLink{}
	in.mu.Lock()
	for i := range uint64(2 * maxOutstandingCalls) {
		in.registerLocked(link, i)
	}
	n := len(in.calls)
	in.mu.Unlock()
	if n != maxOutstandingCalls {
		t.Fatalf("%d calls are remembered", n)
	}
	if _, ok := in.resolve(link, 1); ok {
		t.Fatal("the oldest call is still remembered")
	}
	if call, ok := in.resolve(link, in.lastCall); !ok || call != 2*maxOutstandingCalls-1 {
		t.Fatalf("the newest call is %d, %v", call, ok)
	}
}
