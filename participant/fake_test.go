package participant_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"net"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/participant"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const groupName = "shop"

// fakeGroup is one group in memory, honest about snapshots, validation and ids,
// served by any number of fakeNodes. Its faults are the tests' to plant.
type fakeGroup struct {
	mu           sync.Mutex
	index        uint64 // Raft index: every begin and every decision takes one
	position     uint64
	participants map[string]bool
	versions     map[place][]version
	log          []*pb.LogEntry
	committed    map[string]*pb.Receipt
	digests      map[string][]byte
	abortedTo    map[string]uint64
	attempts     map[uint64]*fakeAttempt // by nonce
	sessions     map[uint64]uint64       // read session → position
	instances    map[string]*fakeInstance
	calls        map[string]int
	nextCall     uint64
	changed      chan struct{} // closed and replaced at every change

	fakeStates

	// leader is named in the answers of all other nodes.
	leader string
	// pageMax caps a scan's page below what was asked for, 0 does not.
	pageMax int
	// fault may fail the nth request of a method: before it is worked on, or
	// after, which loses the answer.
	fault func(method string, n int, after bool) error
	// followMax breaks a log stream after so many entries, 0 does not.
	followMax int
	// emptyPages answers scans with more and nothing.
	emptyPages bool
}

type place struct{ participant, key string }

type version struct {
	position uint64
	value    []byte
	live     bool
}

type fakeAttempt struct {
	id          string
	begun, snap uint64
	ops         []*pb.Op
	reads       []*pb.Read
	steps       map[uint32]*pb.CallResponse
	called      map[string]bool
	// applied is the epoch of changes that an instance made first.
	applied map[*pb.Op]uint64
}

func newFakeGroup(participants ...string) *fakeGroup {
	g := &fakeGroup{
		index: 100, participants: map[string]bool{}, versions: map[place][]version{}, committed: map[string]*pb.Receipt{},
		digests: map[string][]byte{}, abortedTo: map[string]uint64{}, attempts: map[uint64]*fakeAttempt{},
		sessions: map[uint64]uint64{}, instances: map[string]*fakeInstance{}, calls: map[string]int{}, changed: make(chan struct{}),
	}
	for _, p := range participants {
		g.participants[p] = true
	}
	g.fakeStates.init()
	return g
}

func (g *fakeGroup) changedLocked() {
	close(g.changed)
	g.changed = make(chan struct{})
}

// count is how many requests of a method came.
func (g *fakeGroup) count(method string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.calls[method]
}

// set gives a key a value as a transaction of its own.
func (g *fakeGroup) set(p, key, value string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.applyLocked(fmt.Sprintf("set-%d", g.position+1), 0, []*pb.Op{{Participant: p, Key: []byte(key), Op: &pb.Op_Put{Put: &pb.Put{Value: []byte(value)}}}}, nil)
}

func (g *fakeGroup) value(p, key string) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	v := g.atLocked(place{p, key}, g.position)
	return string(v.value)
}

func (g *fakeGroup) atLocked(k place, position uint64) version {
	for _, v := range slices.Backward(g.versions[k]) {
		if v.position <= position {
			return v
		}
	}
	return version{}
}

// seenLocked is a key in a snapshot with ops over it.
func (g *fakeGroup) seenLocked(k place, snap uint64, ops []*pb.Op) version {
	v := g.atLocked(k, snap)
	for _, op := range ops {
		if op.Participant == k.participant && string(op.Key) == k.key {
			v.value, v.live, _ = fakeApply(v.value, v.live, op)
		}
	}
	return v
}

// fakeApply is one op on one value; why is not empty when it breaks a bound.
func fakeApply(value []byte, live bool, op *pb.Op) (_ []byte, _ bool, why string) {
	switch o := op.Op.(type) {
	case *pb.Op_Put:
		return o.Put.Value, true, ""
	case *pb.Op_Delete:
		return nil, false, ""
	case *pb.Op_Log:
		return nil, false, ""
	case *pb.Op_Add:
		var n int64
		if live {
			var err error
			if n, err = strconv.ParseInt(string(value), 10, 64); err != nil {
				return value, live, "no integer"
			}
		}
		n += o.Add.Delta
		if o.Add.AtLeast != nil && n < *o.Add.AtLeast || o.Add.AtMost != nil && n > *o.Add.AtMost {
			return value, live, "bound"
		}
		return strconv.AppendInt(nil, n, 10), true, ""
	}
	return value, live, ""
}

func (g *fakeGroup) applyLocked(id string, begun uint64, ops []*pb.Op, applied map[*pb.Op]uint64) (*pb.Receipt, *pb.Abort) {
	type result struct {
		op *pb.Op
		v  version
	}
	state := map[place]version{}
	var results []result
	for _, op := range ops {
		k := place{op.Participant, string(op.Key)}
		if !g.participants[k.participant] {
			return nil, &pb.Abort{Id: id, Reason: pb.Reason_REASON_UNKNOWN_PARTICIPANT, Participant: k.participant}
		}
		v, ok := state[k]
		if !ok {
			v = g.atLocked(k, g.position)
		}
		var why string
		if v.value, v.live, why = fakeApply(v.value, v.live, op); why != "" {
			return nil, &pb.Abort{Id: id, Reason: pb.Reason_REASON_CONSTRAINT, Participant: k.participant, Key: op.Key, Detail: why}
		}
		state[k] = v
		results = append(results, result{op, v})
	}
	g.position++
	g.index++
	entry := &pb.LogEntry{Position: g.position, Id: id, Begun: begun}
	for k, v := range state {
		v.position = g.position
		g.versions[k] = append(g.versions[k], v)
	}
	for _, r := range results {
		c := &pb.Change{Participant: r.op.Participant, Key: r.op.Key, Value: r.v.value, Kind: pb.Change_KIND_PUT}
		switch r.op.Op.(type) {
		case *pb.Op_Delete:
			c.Kind = pb.Change_KIND_DELETE
		case *pb.Op_Add:
			c.Kind, c.Delta = pb.Change_KIND_ADD, r.op.GetAdd().Delta
		case *pb.Op_Log:
			c.Kind, c.Value, c.AppliedEpoch = pb.Change_KIND_LOG, r.op.GetLog().Change, applied[r.op]
		}
		entry.Changes = append(entry.Changes, c)
	}
	g.log = append(g.log, entry)
	receipt := &pb.Receipt{Id: id, Incarnation: g.incarnation, Position: g.position, Begun: begun}
	g.committed[id] = receipt
	g.changedLocked()
	return receipt, nil
}

// fakeNode serves a group on a port of its own.
type fakeNode struct {
	pb.UnimplementedTransactionsServer
	pb.UnimplementedLogServer
	pb.UnimplementedParticipantsServer
	g      *fakeGroup
	addr   string
	server *grpc.Server
}

func (g *fakeGroup) node(t testing.TB) *fakeNode {
	t.Helper()
	n := g.startNode("127.0.0.1:0")
	t.Cleanup(n.server.Stop)
	return n
}

func (g *fakeGroup) startNode(addr string) *fakeNode {
	lis, err := net.Listen("tcp", addr)
	if err != nil {
		panic(err)
	}
	n := &fakeNode{g: g, addr: lis.Addr().String()}
	n.server = grpc.NewServer(grpc.UnaryInterceptor(n.intercept))
	pb.RegisterTransactionsServer(n.server, n)
	pb.RegisterLogServer(n.server, n)
	pb.RegisterParticipantsServer(n.server, n)
	go n.server.Serve(lis)
	return n
}

func (n *fakeNode) intercept(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	method := path.Base(info.FullMethod)
	n.g.mu.Lock()
	n.g.calls[method]++
	n.g.calls[n.addr]++
	count, fault, leader := n.g.calls[method], n.g.fault, n.g.leader
	n.g.mu.Unlock()
	if fault != nil {
		if err := fault(method, count, false); err != nil {
			return nil, err
		}
	}
	if leader != "" && leader != n.addr {
		_ = grpc.SetHeader(ctx, metadata.Pairs("cohort-coordinator", leader))
	}
	resp, err := handler(ctx, req)
	if fault != nil && err == nil {
		err = fault(method, count, true)
	}
	return resp, err
}

func lostAnswer() error { return status.Error(codes.Unavailable, "planted") }

func (n *fakeNode) Begin(_ context.Context, r *pb.BeginRequest) (*pb.BeginResponse, error) {
	g := n.g
	g.mu.Lock()
	defer g.mu.Unlock()
	if r.Group != groupName {
		return nil, status.Errorf(codes.NotFound, "no group %q", r.Group)
	}
	if receipt := g.committed[r.Id]; receipt != nil {
		if !bytes.Equal(g.digests[r.Id], r.RequestDigest) {
			return &pb.BeginResponse{Result: &pb.BeginResponse_Abort{Abort: &pb.Abort{Id: r.Id, Reason: pb.Reason_REASON_ID_REUSED}}}, nil
		}
		return &pb.BeginResponse{Result: &pb.BeginResponse_Committed{Committed: receipt}}, nil
	}
	g.index++
	g.attempts[g.index] = &fakeAttempt{id: r.Id, begun: g.index, snap: g.position, steps: map[uint32]*pb.CallResponse{}, called: map[string]bool{}, applied: map[*pb.Op]uint64{}}
	return &pb.BeginResponse{Result: &pb.BeginResponse_Opened{Opened: &pb.Opened{
		Attempt: &pb.Attempt{Id: r.Id, Begun: g.index, Nonce: g.index}, Incarnation: 1, Position: g.position,
	}}}, nil
}

// viewLocked is the snapshot that a read asks for.
func (g *fakeGroup) viewLocked(attempt *pb.Attempt, session uint64) (snap uint64, ops []*pb.Op, abort *pb.Abort) {
	if attempt != nil {
		a := g.attempts[attempt.Nonce]
		if a == nil {
			return 0, nil, &pb.Abort{Id: attempt.Id, Reason: pb.Reason_REASON_MOVED, Detail: "the coordinator does not know the attempt"}
		}
		return a.snap, a.ops, nil
	}
	position, ok := g.sessions[session]
	if !ok {
		return 0, nil, &pb.Abort{Reason: pb.Reason_REASON_SNAPSHOT_TOO_OLD}
	}
	return position, nil, nil
}

func (n *fakeNode) Get(_ context.Context, r *pb.GetRequest) (*pb.GetResponse, error) {
	g := n.g
	g.mu.Lock()
	defer g.mu.Unlock()
	snap, ops, abort := g.viewLocked(r.GetAttempt(), r.GetReadSession())
	if abort == nil && !g.participants[r.Participant] {
		abort = &pb.Abort{Reason: pb.Reason_REASON_UNKNOWN_PARTICIPANT, Participant: r.Participant}
	}
	if abort != nil {
		return &pb.GetResponse{Abort: abort}, nil
	}
	out := &pb.GetResponse{Position: snap}
	for _, key := range r.Keys {
		k := place{r.Participant, string(key)}
		v := g.seenLocked(k, snap, ops)
		base := g.atLocked(k, snap)
		item := &pb.Item{Key: key, Found: v.live, Value: v.value}
		if base.live {
			item.Version = base.position
		}
		out.Items = append(out.Items, item)
	}
	return out, nil
}

// rangeHashLocked hashes the live keys of [start, end) at a position.
func (g *fakeGroup) rangeHashLocked(p string, start, end []byte, at uint64) []byte {
	var pairs []string
	for k := range g.versions {
		if k.participant != p || k.key < string(start) || len(end) > 0 && k.key >= string(end) {
			continue
		}
		if v := g.atLocked(k, at); v.live {
			pairs = append(pairs, fmt.Sprintf("%q@%d", k.key, v.position))
		}
	}
	slices.Sort(pairs)
	sum := sha256.Sum256([]byte(strings.Join(pairs, ",")))
	return sum[:]
}

func prefixEnd(prefix []byte) []byte {
	end := slices.Clone(prefix)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i] < 0xff {
			end[i]++
			return end[:i+1]
		}
	}
	return nil
}

func (n *fakeNode) Scan(_ context.Context, r *pb.ScanRequest) (*pb.ScanResponse, error) {
	g := n.g
	g.mu.Lock()
	defer g.mu.Unlock()
	snap, ops, abort := g.viewLocked(r.GetAttempt(), r.GetReadSession())
	if abort != nil {
		return &pb.ScanResponse{Abort: abort}, nil
	}
	if g.emptyPages {
		return &pb.ScanResponse{More: true}, nil
	}
	places := map[place]bool{}
	for k := range g.versions {
		places[k] = true
	}
	for _, op := range ops {
		places[place{op.Participant, string(op.Key)}] = true
	}
	var keys []string
	for k := range places {
		if k.participant == r.Participant && strings.HasPrefix(k.key, string(r.Prefix)) && k.key > string(r.After) && g.seenLocked(k, snap, ops).live {
			keys = append(keys, k.key)
		}
	}
	slices.Sort(keys)
	limit := int(r.Limit)
	if limit == 0 {
		limit = 1000
	}
	if g.pageMax > 0 {
		limit = min(limit, g.pageMax)
	}
	out := &pb.ScanResponse{Position: snap, Read: &pb.ScanRead{Participant: r.Participant, Start: r.Prefix, End: prefixEnd(r.Prefix)}}
	if len(r.After) > 0 {
		out.Read.Start = append(slices.Clone(r.After), 0)
	}
	if len(keys) > limit {
		keys, out.More = keys[:limit], true
		out.Read.End = append([]byte(keys[limit-1]), 0)
	}
	for _, key := range keys {
		k := place{r.Participant, key}
		item := &pb.Item{Key: []byte(key), Found: true, Value: g.seenLocked(k, snap, ops).value}
		if base := g.atLocked(k, snap); base.live {
			item.Version = base.position
		}
		out.Items = append(out.Items, item)
	}
	out.Read.Hash = g.rangeHashLocked(r.Participant, out.Read.Start, out.Read.End, snap)
	return out, nil
}

func (n *fakeNode) Commit(ctx context.Context, r *pb.CommitRequest) (*pb.CommitResponse, error) {
	g := n.g
	g.mu.Lock()
	a := g.attempts[r.Attempt.GetNonce()]
	var called map[string]bool
	if a != nil {
		called = a.called
	}
	g.mu.Unlock()
	abort := g.votes(ctx, r.Attempt, called)
	g.mu.Lock()
	defer g.mu.Unlock()
	receipt, refused := g.decideLocked(r, a, abort)
	if refused != nil {
		g.index++
		g.abortedTo[r.Attempt.Id] = max(g.abortedTo[r.Attempt.Id], r.Attempt.Begun)
		g.noticeLocked(r.Attempt, called, 0)
		return &pb.CommitResponse{Result: &pb.CommitResponse_Abort{Abort: refused}}, nil
	}
	g.noticeLocked(r.Attempt, called, receipt.Position)
	return &pb.CommitResponse{Result: &pb.CommitResponse_Receipt{Receipt: receipt}}, nil
}

func (g *fakeGroup) decideLocked(r *pb.CommitRequest, a *fakeAttempt, voted *pb.Abort) (*pb.Receipt, *pb.Abort) {
	id := r.Attempt.Id
	abort := func(reason pb.Reason) (*pb.Receipt, *pb.Abort) { return nil, &pb.Abort{Id: id, Reason: reason} }
	if receipt := g.committed[id]; receipt != nil {
		if !bytes.Equal(g.digests[id], r.RequestDigest) {
			return abort(pb.Reason_REASON_ID_REUSED)
		}
		return receipt, nil
	}
	begun := r.Attempt.Begun
	if begun == 0 {
		g.index++
		begun = g.index
	}
	ops, reads := r.Ops, r.Reads
	switch {
	case begun <= g.abortedTo[id]:
		return abort(pb.Reason_REASON_SUPERSEDED)
	case voted != nil:
		return nil, voted
	case a == nil && r.Steps > 0:
		return abort(pb.Reason_REASON_MOVED)
	case a != nil:
		ops = append(slices.Clone(a.ops), ops...)
		reads = append(slices.Clone(a.reads), reads...)
	}
	for _, read := range reads {
		v := g.atLocked(place{read.Participant, string(read.Key)}, g.position)
		if !v.live {
			v.position = 0
		}
		if v.position != read.Version {
			return nil, &pb.Abort{Id: id, Reason: pb.Reason_REASON_CONFLICT, Participant: read.Participant, Key: read.Key}
		}
	}
	for _, s := range r.Scans {
		if !bytes.Equal(g.rangeHashLocked(s.Participant, s.Start, s.End, g.position), s.Hash) {
			return nil, &pb.Abort{Id: id, Reason: pb.Reason_REASON_CONFLICT, Participant: s.Participant, Key: s.Start}
		}
	}
	var applied map[*pb.Op]uint64
	if a != nil {
		applied = a.applied
	}
	receipt, refused := g.applyLocked(id, begun, ops, applied)
	if refused == nil {
		g.digests[id] = r.RequestDigest
	}
	return receipt, refused
}

func (n *fakeNode) Abort(_ context.Context, r *pb.AbortRequest) (*pb.AbortResponse, error) {
	n.g.mu.Lock()
	defer n.g.mu.Unlock()
	if a := n.g.attempts[r.Attempt.Nonce]; a != nil {
		n.g.noticeLocked(r.Attempt, a.called, 0)
	}
	delete(n.g.attempts, r.Attempt.Nonce)
	n.g.abortedTo[r.Attempt.Id] = max(n.g.abortedTo[r.Attempt.Id], r.Attempt.Begun)
	return &pb.AbortResponse{}, nil
}

func (n *fakeNode) Outcome(_ context.Context, r *pb.OutcomeRequest) (*pb.OutcomeResponse, error) {
	g := n.g
	g.mu.Lock()
	defer g.mu.Unlock()
	if receipt := g.committed[r.Id]; receipt != nil {
		return &pb.OutcomeResponse{State: pb.OutcomeResponse_STATE_COMMITTED, Receipt: receipt}, nil
	}
	begun := r.Begun
	if begun == 0 {
		begun = g.index
	}
	if r.Settle {
		g.abortedTo[r.Id] = max(g.abortedTo[r.Id], begun)
	}
	if to := g.abortedTo[r.Id]; to > 0 && to >= begun {
		return &pb.OutcomeResponse{State: pb.OutcomeResponse_STATE_ABORTED, Abort: &pb.Abort{Id: r.Id, Reason: pb.Reason_REASON_SUPERSEDED}}, nil
	}
	return &pb.OutcomeResponse{State: pb.OutcomeResponse_STATE_UNKNOWN}, nil
}

func (n *fakeNode) BeginRead(_ context.Context, r *pb.BeginReadRequest) (*pb.BeginReadResponse, error) {
	g := n.g
	g.mu.Lock()
	defer g.mu.Unlock()
	g.index++
	g.sessions[g.index] = g.position
	return &pb.BeginReadResponse{ReadSession: g.index, Incarnation: 1, Position: g.position, NodeAddr: n.addr}, nil
}

func (n *fakeNode) EndRead(_ context.Context, r *pb.EndReadRequest) (*pb.EndReadResponse, error) {
	n.g.mu.Lock()
	defer n.g.mu.Unlock()
	delete(n.g.sessions, r.ReadSession)
	return &pb.EndReadResponse{}, nil
}

// dial makes a client of the nodes.
func dial(t testing.TB, addrs string, opts ...participant.ClientOption) *participant.Client {
	t.Helper()
	c, err := participant.Dial(addrs, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}
