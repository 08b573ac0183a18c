package coordinator

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/groups"
	"github.com/cohort-tx/cohort/txlog"
	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/machine"
	"github.com/cohort-tx/cohort/txlog/machine/memstate"
)

// fakeTransactor is a coordinator whose answers a test sets; what it does not
// set panics, which the services survive.
type fakeTransactor struct {
	Transactor // what tests do not ask of it
	serving    atomic.Bool

	begin        func(context.Context, BeginRequest) (Opened, error)
	call         func(context.Context, CallRequest) (StepReply, error)
	commit       func(context.Context, CommitRequest) (command.Receipt, error)
	abort        func(context.Context, Attempt, string) error
	outcome      func(context.Context, OutcomeRequest) (OutcomeInfo, error)
	attemptView  func(context.Context, Attempt) (Snapshot, []command.Op, func(), error)
	transactions func(context.Context, int) ([]TransactionInfo, error)
	participants func(context.Context) ([]ParticipantInfo, error)
	configure    func(context.Context, groups.Definition, bool) (uint64, error)
	openSession  func(string, func(*pb.CoordinatorMessage)) (AgentSession, error)
}

func (f *fakeTransactor) Serving() (uint64, bool) { return 7, f.serving.Load() }
func (f *fakeTransactor) Begin(ctx context.Context, r BeginRequest) (Opened, error) {
	return f.begin(ctx, r)
}
func (f *fakeTransactor) Call(ctx context.Context, r CallRequest) (StepReply, error) {
	return f.call(ctx, r)
}
func (f *fakeTransactor) Commit(ctx context.Context, r CommitRequest) (command.Receipt, error) {
	return f.commit(ctx, r)
}
func (f *fakeTransactor) Abort(ctx context.Context, a Attempt, reason string) error {
	return f.abort(ctx, a, reason)
}
func (f *fakeTransactor) Outcome(ctx context.Context, r OutcomeRequest) (OutcomeInfo, error) {
	return f.outcome(ctx, r)
}
func (f *fakeTransactor) AttemptView(ctx context.Context, a Attempt) (Snapshot, []command.Op, func(), error) {
	return f.attemptView(ctx, a)
}
func (f *fakeTransactor) Transactions(ctx context.Context, limit int) ([]TransactionInfo, error) {
	if f.transactions == nil {
		return nil, nil
	}
	return f.transactions(ctx, limit)
}
func (f *fakeTransactor) Participants(ctx context.Context) ([]ParticipantInfo, error) {
	if f.participants == nil {
		return []ParticipantInfo{{Name: "orders", State: "store_only"}, {Name: "ledger", State: "store_only"}}, nil
	}
	return f.participants(ctx)
}
func (f *fakeTransactor) Configure(ctx context.Context, d groups.Definition, prune bool) (uint64, error) {
	return f.configure(ctx, d, prune)
}
func (f *fakeTransactor) OpenSession(node string, send func(*pb.CoordinatorMessage)) (AgentSession, error) {
	return f.openSession(node, send)
}

// fakeReplica is a replica of which only what is committed changes.
type fakeReplica struct {
	LocalReplica // what tests do not ask of it
	mu           sync.Mutex
	stores       map[string]fakeStore
	entries      []command.Entry
	first        uint64 // first position kept
	incarnation  uint64
	more         chan struct{}
	readIndexes  int
	readIndex    func(context.Context) (uint64, error)
	views        int // open ones
}

func newFakeReplica() *fakeReplica {
	return &fakeReplica{stores: map[string]fakeStore{"orders": {}, "ledger": {}}, first: 1, incarnation: 1, more: make(chan struct{})}
}

func (f *fakeReplica) append(entries ...command.Entry) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range entries {
		e.Position = f.first + uint64(len(f.entries))
		f.entries = append(f.entries, e)
	}
	close(f.more)
	f.more = make(chan struct{})
}

func (f *fakeReplica) positionLocked() uint64 { return f.first + uint64(len(f.entries)) - 1 }

func (f *fakeReplica) ReadIndex(ctx context.Context) (uint64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.readIndexes++
	if f.readIndex != nil {
		return f.readIndex(ctx)
	}
	return 100, nil
}

func (f *fakeReplica) View(uint64) (View, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.views++
	stores := make(map[string]fakeStore)
	for name, s := range f.stores {
		stores[name] = maps.Clone(s)
	}
	return &fakeView{replica: f, stores: stores, meta: machine.Meta{Incarnation: f.incarnation, Position: f.positionLocked(), ConfigVersion: 1}}, nil
}

func (f *fakeReplica) Follow(from uint64) (Follower, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if from < f.first {
		return nil, txlog.ErrTruncated
	}
	return &fakeFollower{f, from}, nil
}

func (f *fakeReplica) Status() txlog.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	return txlog.Status{Published: 100, Position: f.positionLocked(), Incarnation: f.incarnation, FirstPosition: f.first}
}

type fakeFollower struct {
	replica *fakeReplica
	next    uint64
}

func (f *fakeFollower) Next(ctx context.Context, maxEntries int, _ int64) ([]command.Entry, error) {
	for {
		f.replica.mu.Lock()
		more := f.replica.more
		all := f.replica.entries[min(f.next-f.replica.first, uint64(len(f.replica.entries))):]
		entries := slices.Clone(all[:min(len(all), maxEntries)])
		f.replica.mu.Unlock()
		if len(entries) > 0 {
			f.next += uint64(len(entries))
			return entries, nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

type fakeView struct {
	Snapshot
	replica *fakeReplica
	stores  map[string]fakeStore
	meta    machine.Meta
	closed  bool
}

func (v *fakeView) Index() uint64               { return 100 }
func (v *fakeView) Reader() machine.Reader      { return memstate.New().Latest() }
func (v *fakeView) Meta() (machine.Meta, error) { return v.meta, nil }
func (v *fakeView) Get(participant, key string) ([]byte, uint64, bool, error) {
	s, ok := v.stores[participant]
	if !ok {
		return nil, 0, false, &machine.UnknownParticipantError{Participant: participant}
	}
	value, found := s[key]
	return []byte(value.value), value.version, found, nil
}
func (v *fakeView) Scan(participant, start, end string, limit int, fn func(string, []byte, uint64) (bool, error)) (command.ScanRead, bool, error) {
	s, ok := v.stores[participant]
	if !ok {
		return command.ScanRead{}, false, &machine.UnknownParticipantError{Participant: participant}
	}
	return s.Scan(participant, start, end, limit, fn)
}
func (v *fakeView) RecentOutcomes(int) ([]machine.Outcome, error) { return nil, nil }
func (v *fakeView) Digest() (sum [32]byte, keys uint64, err error) {
	return [32]byte{1, 2, 3}, uint64(len(v.stores["orders"])), nil
}
func (v *fakeView) Close() {
	v.replica.mu.Lock()
	defer v.replica.mu.Unlock()
	if v.closed {
		panic("a view is closed twice")
	}
	v.closed = true
	v.replica.views--
}

// fakeDirectory is the directory that all nodes of a test share.
type fakeDirectory struct {
	Directory // what tests do not ask of it
	t         testing.TB
	mu        sync.Mutex
	d         *groups.Directory
	// silent: it has no quorum.
	silent atomic.Bool
	// created is called after a group was created.
	created func(*groups.GroupRecord)
}

func (f *fakeDirectory) apply(command map[string]any) (groups.DirectoryResult, error) {
	command["format"] = 1
	data, err := json.Marshal(command)
	if err != nil {
		return groups.DirectoryResult{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	result := f.d.Apply(data)
	if result.Refused != 0 {
		return result, &groups.RefusedError{Code: result.Refused, Detail: result.Detail}
	}
	return result, nil
}

func (f *fakeDirectory) State() *groups.DirectoryState {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.d.State()
}

func (f *fakeDirectory) Read(context.Context) (*groups.DirectoryState, error) {
	if f.silent.Load() {
		return nil, groups.ErrDirectoryUnavailable
	}
	return f.State(), nil
}

func (f *fakeDirectory) CreateGroup(_ context.Context, d *groups.Definition, nodes []string) (*groups.GroupRecord, error) {
	data, err := d.MarshalJSON()
	if err != nil {
		return nil, err
	}
	result, err := f.apply(map[string]any{"create_group": groups.CreateGroup{Group: d.Group, DefinitionJSON: data, Members: nodes}})
	if err == nil && f.created != nil {
		f.created(result.Group)
	}
	return result.Group, err
}

func (f *fakeDirectory) SetDefinition(_ context.Context, d *groups.Definition, expect, version uint64) (*groups.GroupRecord, error) {
	data, err := d.MarshalJSON()
	if err != nil {
		return nil, err
	}
	result, err := f.apply(map[string]any{"set_definition": groups.SetDefinition{Group: d.Group, Expect: expect, Version: version, DefinitionJSON: data}})
	return result.Group, err
}

// testNode is one node of a test's cluster: its API on a real port, over fakes.
type testNode struct {
	name    string
	addr    string
	cluster *testCluster
	service *Service
	conn    *grpc.ClientConn
	server  *grpc.Server

	mu      sync.Mutex
	local   LocalGroup // what runs of checkout
	changed chan struct{}
}

func (n *testNode) Directory() *groups.DirectoryState { return n.cluster.directory.State() }

func (n *testNode) Group(name string) LocalGroup {
	n.mu.Lock()
	defer n.mu.Unlock()
	if name != "checkout" {
		return LocalGroup{}
	}
	local := n.local
	local.Changed = n.changed
	return local
}

// run changes what runs of the group on the node.
func (n *testNode) run(local LocalGroup) {
	n.mu.Lock()
	defer n.mu.Unlock()
	close(n.changed)
	n.changed = make(chan struct{})
	n.local = local
}

func (n *testNode) transactions() pb.TransactionsClient { return pb.NewTransactionsClient(n.conn) }

type testCluster struct {
	t         testing.TB
	directory *fakeDirectory
	nodes     []*testNode
}

// newTestCluster starts nodes n1, n2, … whose directory has the group checkout,
// with participants orders and ledger, on the first members of them.
func newTestCluster(t testing.TB, nodes, members int) *testCluster {
	c := &testCluster{t: t, directory: &fakeDirectory{t: t, d: groups.NewDirectory()}}
	var names []string
	for i := range nodes {
		n := &testNode{name: fmt.Sprintf("n%d", i+1), cluster: c, changed: make(chan struct{})}
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		n.addr = listener.Addr().String()
		if _, err := c.directory.apply(map[string]any{"register_node": groups.RegisterNode{
			Name: n.name, ReplicaID: uint64(i + 1), APIAddress: n.addr, RaftAddress: fmt.Sprintf("127.0.0.1:%d", i+1), DataID: n.name,
		}}); err != nil {
			t.Fatal(err)
		}
		n.service = NewService(ServiceConfig{
			Node: n.name, Addr: n.addr, Version: "test", Groups: n, Directory: c.directory,
			DialOptions: []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())},
			Logger:      zaptest.NewLogger(t),
		})
		n.service.wait = 2 * time.Second
		n.server = grpc.NewServer(n.service.ServerOptions()...)
		n.service.Register(n.server)
		n.service.RegisterParticipants(n.server, nil)
		var serving sync.WaitGroup
		serving.Go(func() { _ = n.server.Serve(listener) })
		n.conn, err = grpc.NewClient(n.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			n.conn.Close()
			n.server.Stop()
			serving.Wait()
			n.service.Close()
		})
		c.nodes = append(c.nodes, n)
		if i < members {
			names = append(names, n.name)
		}
	}
	if members > 0 {
		definition := groups.Default("checkout", "orders", "ledger")
		if members < nodes {
			definition.Replicas = names
		}
		if _, err := c.directory.CreateGroup(t.Context(), &definition, names); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// lead makes the first node the coordinator and gives each member a replica.
func (c *testCluster) lead(leader int, coordinator *fakeTransactor) []*fakeReplica {
	c.t.Helper()
	coordinator.serving.Store(true)
	record, ok := c.directory.State().Group("checkout")
	if !ok {
		c.t.Error("there is no group yet")
		return nil
	}
	var replicas []*fakeReplica
	for i := range record.Members {
		local := LocalGroup{Leader: c.nodes[leader].name}
		replica := newFakeReplica()
		local.Replica = replica
		if i == leader {
			local.Coordinator = coordinator
		}
		c.nodes[i].run(local)
		replicas = append(replicas, replica)
	}
	return replicas
}

// wantFailure checks an error's code and ErrorInfo, and gives the info.
func wantFailure(t *testing.T, err error, code codes.Code, reason string) *errdetails.ErrorInfo {
	t.Helper()
	if status.Code(err) != code {
		t.Fatalf("the error is %v, want %s", err, code)
	}
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			if info.GetDomain() != "cohort" || info.GetReason() != reason {
				t.Fatalf("the error's info is %v, want reason %s", info, reason)
			}
			return info
		}
	}
	t.Fatalf("the error %v has no info", err)
	return nil
}
