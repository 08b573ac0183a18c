package coordinator

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/groups"
)

func (n *testNode) operator() pb.ClusterClient { return pb.NewClusterClient(n.conn) }

func apply(t *testing.T, n *testNode, req *pb.ApplyRequest, yaml string) *pb.ApplyResponse {
	t.Helper()
	req.Files = []*pb.ApplyFile{{Name: "group.yaml", Yaml: []byte(yaml)}}
	r, err := n.operator().Apply(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

const checkoutYAML = `
group: checkout
participants:
  - name: orders
  - name: ledger
`

// Without it half of a wrong set of files would take effect.
func TestApplyChecksAllFilesFirst(t *testing.T) {
	c := newTestCluster(t, 1, 0)
	r, err := c.nodes[0].operator().Apply(t.Context(), &pb.ApplyRequest{Files: []*pb.ApplyFile{
		{Name: "good.yaml", Yaml: []byte(checkoutYAML)},
		{Name: "bad.yaml", Yaml: []byte("group: stock\nparticipants: [{name: a}]\ncheckpoint: {intervall: 2h}\n")},
		{Name: "far.yaml", Yaml: []byte("group: far\nparticipants: [{name: a}]\nreplicas: [n1, n9]\n")},
	}})
	if err != nil || len(r.GetErrors()) == 0 || len(r.GetGroups()) > 0 {
		t.Fatalf("%v, %v", r, err)
	}
	if e := r.GetErrors()[0]; e.GetFile() != "bad.yaml" || e.GetLine() != 3 || !strings.Contains(e.GetMessage(), "interval") {
		t.Errorf("the fault is %v", e)
	}
	r = apply(t, c.nodes[0], &pb.ApplyRequest{}, checkoutYAML+"---\ngroup: far\nparticipants: [{name: a}]\nreplicas: [n1, n9]\n")
	if len(r.GetErrors()) != 1 || !strings.Contains(r.GetErrors()[0].GetMessage(), "n9") {
		t.Errorf("a group on no node: %v", r)
	}
	if n := len(c.directory.State().Groups()); n != 0 {
		t.Fatalf("%d groups were created", n)
	}
	_, err = c.nodes[0].operator().Apply(t.Context(), &pb.ApplyRequest{})
	wantFailure(t, err, codes.InvalidArgument, reasonInvalid)
	_, err = c.nodes[0].operator().Apply(t.Context(), &pb.ApplyRequest{Files: []*pb.ApplyFile{{Yaml: make([]byte, maxApplyFileBytes+1)}}})
	wantFailure(t, err, codes.InvalidArgument, reasonInvalid)
}

// Without it Apply would return before transactions can run.
func TestApplyCreates(t *testing.T) {
	c := newTestCluster(t, 2, 0)
	f := &fakeTransactor{}
	waited := make(chan struct{})
	var once sync.Once
	f.transactions = func(context.Context, int) ([]TransactionInfo, error) {
		once.Do(func() { close(waited) })
		return nil, nil
	}
	c.directory.created = func(*groups.GroupRecord) { go c.lead(1, f) } // the cluster's own work

	dry := apply(t, c.nodes[0], &pb.ApplyRequest{DryRun: true}, checkoutYAML)
	if len(dry.GetGroups()) != 1 || dry.GetGroups()[0].GetAction() != "created" || len(dry.GetGroups()[0].GetChanges()) == 0 || len(c.directory.State().Groups()) != 0 {
		t.Fatalf("a dry run did %v", dry)
	}
	r := apply(t, c.nodes[0], &pb.ApplyRequest{}, checkoutYAML)
	if len(r.GetGroups()) != 1 || r.GetGroups()[0].GetAction() != "created" || r.GetGroups()[0].GetVersion() != 1 {
		t.Fatalf("%v", r)
	}
	select {
	case <-waited:
	default:
		t.Fatal("it did not wait for the coordinator")
	}
	if r = apply(t, c.nodes[1], &pb.ApplyRequest{}, checkoutYAML); r.GetGroups()[0].GetAction() != "unchanged" {
		t.Fatalf("the same again is %v", r)
	}
}

// Without it a change would bypass the group's log, or the directory not follow.
func TestApplyChanges(t *testing.T) {
	c := newTestCluster(t, 2, 2)
	f := &fakeTransactor{}
	replicas := c.lead(1, f)
	var got groups.Definition
	var pruned bool
	f.configure = func(_ context.Context, d groups.Definition, prune bool) (uint64, error) {
		got, pruned = d, prune
		return 5, nil
	}
	r := apply(t, c.nodes[0], &pb.ApplyRequest{}, checkoutYAML+"  - name: stock\n")
	if g := r.GetGroups()[0]; g.GetAction() != "changed" || g.GetVersion() != 5 || len(g.GetChanges()) != 1 || !strings.Contains(g.GetChanges()[0].GetPath(), "stock") {
		t.Fatalf("%v", r)
	}
	if _, ok := got.Participant("stock"); !ok || pruned {
		t.Fatalf("the coordinator got %+v, prune %v", got, pruned)
	}
	record, _ := c.directory.State().Group("checkout")
	definition, err := record.Definition()
	if err != nil || record.Version != 5 || !definition.Equal(&got) {
		t.Fatalf("the directory has %v, %v", record, err)
	}

	// Removing a participant with data is refused before anything takes effect.
	replicas[0].stores["ledger"]["k"] = versioned{"v", 1}
	without := "group: checkout\nparticipants: [{name: orders}, {name: stock}]\n"
	got = groups.Definition{}
	replicas[0].stores["stock"] = fakeStore{}
	r = apply(t, c.nodes[0], &pb.ApplyRequest{}, without)
	if len(r.GetErrors()) != 1 || r.GetErrors()[0].GetKey() != "participants[ledger]" || !strings.Contains(r.GetErrors()[0].GetMessage(), "--prune") || got.Group != "" {
		t.Fatalf("%v", r)
	}
	if r = apply(t, c.nodes[0], &pb.ApplyRequest{Prune: true}, without); len(r.GetErrors()) != 0 || !pruned {
		t.Fatalf("%v", r)
	}
	r = apply(t, c.nodes[0], &pb.ApplyRequest{}, checkoutYAML+"replicas: [n1]\n")
	if len(r.GetErrors()) != 1 || r.GetErrors()[0].GetKey() != "replicas" {
		t.Fatalf("moving replicas: %v", r)
	}
}

// Without it an operator would see a healthy cluster that is not.
func TestStatus(t *testing.T) {
	c := newTestCluster(t, 3, 3)
	f := &fakeTransactor{}
	replicas := c.lead(1, f)
	replicas[1].append(someEntry("a"))
	f.transactions = func(context.Context, int) ([]TransactionInfo, error) {
		return []TransactionInfo{{State: "open"}, {State: "committed"}, {State: "preparing"}}, nil
	}
	operator := c.nodes[0].operator()
	r, err := operator.Status(t.Context(), &pb.StatusRequest{})
	if err != nil || !r.GetHealthy() || len(r.GetNodes()) != 3 || len(r.GetGroups()) != 1 {
		t.Fatalf("%v, %v", r, err)
	}
	g := r.GetGroups()[0]
	if g.GetCoordinator() != "n2" || g.GetCoordinatorEpoch() != 7 || g.GetPosition() != 1 || g.GetOpenTransactions() != 2 || len(g.GetParticipants()) != 2 {
		t.Errorf("%v", g)
	}
	if roles := []string{g.GetReplicas()[0].GetRole(), g.GetReplicas()[1].GetRole()}; roles[0] != "follower" || roles[1] != "leader" || g.GetReplicas()[0].GetLag() != 1 {
		t.Errorf("%v", g.GetReplicas())
	}
	f.participants = func(context.Context) ([]ParticipantInfo, error) {
		return []ParticipantInfo{{Name: "orders", State: "detached", Reason: "its instance has gone"}}, nil
	}
	if r, err = operator.Status(t.Context(), &pb.StatusRequest{Group: "checkout"}); err != nil || r.GetHealthy() || len(r.GetGroups()[0].GetReasons()) != 1 {
		t.Fatalf("a detached participant: %v, %v", r, err)
	}
	f.participants = nil

	c.nodes[2].server.Stop()
	if r, err = operator.Status(t.Context(), &pb.StatusRequest{}); err != nil || r.GetHealthy() || len(r.GetReasons()) != 1 {
		t.Fatalf("a node down: %v, %v", r, err)
	}
	nodes, err := operator.ListNodes(t.Context(), &pb.ListNodesRequest{})
	if err != nil || nodes.GetNodes()[2].GetState() != "down" || nodes.GetNodes()[0].GetState() != "up" || nodes.GetNodes()[0].GetVersion() != "test" || len(nodes.GetNodes()[2].GetGroups()) != 1 {
		t.Fatalf("%v, %v", nodes, err)
	}
	c.nodes[1].run(LocalGroup{Replica: replicas[1]})
	if r, err = operator.Status(t.Context(), &pb.StatusRequest{Group: "checkout"}); err != nil || r.GetHealthy() || r.GetGroups()[0].GetCoordinator() != "" {
		t.Fatalf("no coordinator: %v, %v", r, err)
	}
	participants, err := operator.ListParticipants(t.Context(), &pb.ListParticipantsRequest{Group: "checkout"})
	if err != nil || len(participants.GetParticipants()) != 2 || participants.GetParticipants()[0].GetReason() == "" {
		t.Fatalf("%v, %v", participants, err)
	}
	_, err = operator.Status(t.Context(), &pb.StatusRequest{Group: "nowhere"})
	wantFailure(t, err, codes.NotFound, reasonUnknownGroup)
}

func TestListGroups(t *testing.T) {
	c := newTestCluster(t, 3, 2)
	c.lead(1, &fakeTransactor{})
	r, err := c.nodes[2].operator().ListGroups(t.Context(), &pb.ListGroupsRequest{})
	if err != nil || len(r.GetGroups()) != 1 {
		t.Fatalf("%v, %v", r, err)
	}
	g := r.GetGroups()[0]
	if g.GetCoordinator() != "n2" || g.GetCoordinatorAddr() != c.nodes[1].addr || len(g.GetReplicas()) != 2 || len(g.GetParticipants()) != 2 || !strings.Contains(string(g.GetDefinitionJson()), `"orders"`) {
		t.Fatalf("%v", g)
	}
}

// Without it replicas could not be compared.
func TestDigestOfANode(t *testing.T) {
	c := newTestCluster(t, 3, 2)
	c.lead(0, &fakeTransactor{})
	for node, want := range map[string]string{"": "n1", "n1": "n1", "n2": "n2"} {
		r, err := c.nodes[0].operator().Digest(t.Context(), &pb.DigestRequest{Group: "checkout", Node: node})
		if err != nil || r.GetNode() != want || len(r.GetDigest()) != 32 || r.GetAppliedIndex() != 100 {
			t.Errorf("node %q: %v, %v", node, r, err)
		}
	}
	_, err := c.nodes[0].operator().Digest(t.Context(), &pb.DigestRequest{Group: "checkout", Node: "n3"})
	wantFailure(t, err, codes.FailedPrecondition, reasonNoReplica)
	_, err = c.nodes[0].operator().Digest(t.Context(), &pb.DigestRequest{Group: "checkout", Node: "n9"})
	wantFailure(t, err, codes.NotFound, reasonUnknownNode)
}

// playedReign is a coordinator's end of a session, played by a test.
type playedReign struct {
	send     func(*pb.CoordinatorMessage)
	received chan *pb.AgentMessage
	done     chan struct{}
	closed   chan struct{}
}

func (p *playedReign) Receive(m *pb.AgentMessage) error {
	if m.GetHello() != nil {
		return &Invalid{Field: "message", Detail: "a second hello"}
	}
	p.received <- m
	return nil
}
func (p *playedReign) Done() <-chan struct{} { return p.done }
func (p *playedReign) Close()                { close(p.closed) }

// Without it instances would stay with a coordinator that has gone.
func TestPeerSession(t *testing.T) {
	c := newTestCluster(t, 2, 2)
	f := &fakeTransactor{}
	c.lead(0, f)
	opened := make(chan *playedReign, 1)
	f.openSession = func(node string, send func(*pb.CoordinatorMessage)) (AgentSession, error) {
		p := &playedReign{send: send, received: make(chan *pb.AgentMessage, 1), done: make(chan struct{}), closed: make(chan struct{})}
		opened <- p
		return p, nil
	}
	open := func(n *testNode) (pb.Peers_SessionClient, error) {
		stream, err := pb.NewPeersClient(n.conn).Session(t.Context())
		if err != nil {
			return nil, err
		}
		return stream, stream.Send(&pb.AgentMessage{Message: &pb.AgentMessage_Hello{Hello: &pb.AgentHello{Node: "n2", Group: "checkout"}}})
	}
	beat := &pb.AgentMessage{Message: &pb.AgentMessage_Heartbeat{Heartbeat: &pb.Heartbeat{Sequence: 1}}}
	for _, end := range []string{"reign", "agent", "breach", "overflow"} {
		t.Run(end, func(t *testing.T) {
			stream, err := open(c.nodes[0])
			if err != nil {
				t.Fatal(err)
			}
			p := <-opened
			if err := stream.Send(beat); err != nil {
				t.Fatal(err)
			}
			<-p.received
			p.send(&pb.CoordinatorMessage{Message: &pb.CoordinatorMessage_Heartbeat{Heartbeat: &pb.Heartbeat{Sequence: 1}}})
			if m, err := stream.Recv(); err != nil || m.GetHeartbeat().GetSequence() != 1 {
				t.Fatalf("%v, %v", m, err)
			}
			want := codes.OK
			switch end {
			case "reign":
				close(p.done)
				want = codes.Unavailable
			case "agent":
				_ = stream.CloseSend()
			case "breach":
				_ = stream.Send(&pb.AgentMessage{Message: &pb.AgentMessage_Hello{Hello: &pb.AgentHello{}}})
				want = codes.InvalidArgument
			case "overflow":
				payload := make([]byte, 64)
				for range 2*sessionQueueMessages + 1000 {
					p.send(&pb.CoordinatorMessage{Message: &pb.CoordinatorMessage_ToInstance{ToInstance: &pb.ToInstance{
						Message: &pb.NodeMessage{Message: &pb.NodeMessage_Step{Step: &pb.Step{Payload: payload}}},
					}}})
				}
				want = codes.ResourceExhausted
			}
			select {
			case <-p.closed:
			case <-time.After(10 * time.Second):
				t.Fatal("the session stays open at the coordinator")
			}
			err = nil
			for err == nil {
				_, err = stream.Recv()
			}
			if want == codes.OK {
				if !isEOF(err) {
					t.Fatalf("the stream ended with %v", err)
				}
				return
			}
			if wantFailure(t, err, want, map[codes.Code]string{codes.Unavailable: reasonNotServing, codes.InvalidArgument: reasonInvalid, codes.ResourceExhausted: reasonOverloaded}[want]); err == nil {
				t.Fatal("the stream did not end")
			}
		})
	}
	stream, err := open(c.nodes[1])
	if err != nil {
		t.Fatal(err)
	}
	_, err = stream.Recv()
	wantFailure(t, err, codes.Unavailable, reasonNotServing)
}

// Without it a node that has just started, or is cut off, would deny groups that
// are there, and clients and instances would give up.
func TestUnknownGroupWhileTheDirectoryIsSilent(t *testing.T) {
	c := newTestCluster(t, 1, 1)
	c.directory.silent.Store(true)
	_, err := c.nodes[0].transactions().Begin(t.Context(), &pb.BeginRequest{Group: "nowhere"})
	wantFailure(t, err, codes.Unavailable, reasonDirectory)
	for _, test := range [][2]string{{"nowhere", "orders"}, {"checkout", "not-there"}} {
		_, err := c.nodes[0].service.AgentCoordinators().Participants(t.Context(), test[0], test[1])
		wantFailure(t, err, codes.Unavailable, reasonDirectory)
	}
}

// Without it the agent of a node without a replica would find no coordinator.
func TestAgentFindsTheCoordinator(t *testing.T) {
	c := newTestCluster(t, 3, 2)
	c.lead(1, &fakeTransactor{})
	for _, n := range c.nodes {
		find := n.service.AgentCoordinators()
		for _, wanted := range []string{"orders", "not-there"} {
			if p, err := find.Participants(t.Context(), "checkout", wanted); err != nil || len(p) != 2 {
				t.Fatalf("%s: participants %v, %v", n.name, p, err)
			}
		}
		for _, group := range []string{"nowhere", "no/name"} {
			if p, err := find.Participants(t.Context(), group, "orders"); !errors.Is(err, groups.ErrNoGroup) {
				t.Fatalf("%s knows a group that is not there: %v, %v", n.name, p, err)
			}
		}
		conn, err := find.Connect(t.Context(), "checkout")
		if err != nil {
			t.Fatal(err)
		}
		r, err := pb.NewPeersClient(conn).Probe(t.Context(), &pb.ProbeRequest{Group: "checkout"})
		if err != nil || r.GetNode() != "n2" || !r.GetReplicas()[0].GetServing() {
			t.Fatalf("%s was connected to %v, %v", n.name, r, err)
		}
	}
}
