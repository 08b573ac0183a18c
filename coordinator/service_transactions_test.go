package coordinator

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/txlog/command"
)

func attemptNamed(id string) *pb.Attempt { return &pb.Attempt{Id: id, Begun: 9, Nonce: 4} }

// Without it bad input would reach the log, or come back without a way out.
func TestBadInputIsRefusedAtTheEdge(t *testing.T) {
	c := newTestCluster(t, 1, 1)
	c.lead(0, &fakeTransactor{})
	client := c.nodes[0].transactions()
	ctx := t.Context()
	put := func(key string) []*pb.Op {
		return []*pb.Op{{Participant: "orders", Key: []byte(key), Op: &pb.Op_Put{Put: &pb.Put{}}}}
	}
	stale := &pb.GetRequest_Stale{Stale: true}
	for name, test := range map[string]struct {
		field string
		do    func() error
	}{
		"begin: group with a slash": {"group", func() error {
			_, err := client.Begin(ctx, &pb.BeginRequest{Group: "a/b"})
			return err
		}},
		"begin: control character": {"id", func() error {
			_, err := client.Begin(ctx, &pb.BeginRequest{Group: "checkout", Id: "a\nb"})
			return err
		}},
		"begin: long digest": {"request_digest", func() error {
			_, err := client.Begin(ctx, &pb.BeginRequest{Group: "checkout", RequestDigest: make([]byte, 65)})
			return err
		}},
		"begin: negative timeout": {"timeout_ms", func() error {
			_, err := client.Begin(ctx, &pb.BeginRequest{Group: "checkout", TimeoutMs: -1})
			return err
		}},
		"get: neither attempt nor session": {"at", func() error {
			_, err := client.Get(ctx, &pb.GetRequest{Group: "checkout", Participant: "orders", Keys: [][]byte{[]byte("k")}})
			return err
		}},
		"get: stale false": {"at", func() error {
			_, err := client.Get(ctx, &pb.GetRequest{Group: "checkout", Participant: "orders", Keys: [][]byte{[]byte("k")}, At: &pb.GetRequest_Stale{}})
			return err
		}},
		"get: no keys": {"keys", func() error {
			_, err := client.Get(ctx, &pb.GetRequest{Group: "checkout", Participant: "orders", At: stale})
			return err
		}},
		"get: empty key": {"keys", func() error {
			_, err := client.Get(ctx, &pb.GetRequest{Group: "checkout", Participant: "orders", Keys: [][]byte{nil}, At: stale})
			return err
		}},
		"get: long key": {"keys", func() error {
			_, err := client.Get(ctx, &pb.GetRequest{Group: "checkout", Participant: "orders", Keys: [][]byte{make([]byte, 1025)}, At: stale})
			return err
		}},
		"get: participant": {"participant", func() error {
			_, err := client.Get(ctx, &pb.GetRequest{Group: "checkout", Participant: "Orders", Keys: [][]byte{[]byte("k")}, At: stale})
			return err
		}},
		"get: attempt without begun": {"attempt.begun", func() error {
			_, err := client.Get(ctx, &pb.GetRequest{Group: "checkout", Participant: "orders", Keys: [][]byte{[]byte("k")}, At: &pb.GetRequest_Attempt{Attempt: &pb.Attempt{Id: "a"}}})
			return err
		}},
		"scan: after outside the prefix": {"after", func() error {
			_, err := client.Scan(ctx, &pb.ScanRequest{Group: "checkout", Participant: "orders", Prefix: []byte("a"), After: []byte("b"), At: &pb.ScanRequest_Stale{Stale: true}})
			return err
		}},
		"scan: limit": {"limit", func() error {
			_, err := client.Scan(ctx, &pb.ScanRequest{Group: "checkout", Participant: "orders", Limit: maxScanLimit + 1, At: &pb.ScanRequest_Stale{Stale: true}})
			return err
		}},
		"call: no attempt": {"attempt", func() error {
			_, err := client.Call(ctx, &pb.CallRequest{Group: "checkout", Step: 1, Participant: "orders", Method: "m"})
			return err
		}},
		"call: step 0": {"step", func() error {
			_, err := client.Call(ctx, &pb.CallRequest{Group: "checkout", Attempt: attemptNamed("a"), Participant: "orders", Method: "m"})
			return err
		}},
		"call: method": {"method", func() error {
			_, err := client.Call(ctx, &pb.CallRequest{Group: "checkout", Attempt: attemptNamed("a"), Step: 1, Participant: "orders", Method: "two words"})
			return err
		}},
		"call: content type": {"content_type", func() error {
			_, err := client.Call(ctx, &pb.CallRequest{Group: "checkout", Attempt: attemptNamed("a"), Step: 1, Participant: "orders", Method: "m", ContentType: strings.Repeat("x", 129)})
			return err
		}},
		"commit: op without kind": {"ops[0].op", func() error {
			_, err := client.Commit(ctx, &pb.CommitRequest{Group: "checkout", Attempt: attemptNamed("a"), Ops: []*pb.Op{{Participant: "orders", Key: []byte("k")}}})
			return err
		}},
		"commit: op's key": {"ops[0].key", func() error {
			_, err := client.Commit(ctx, &pb.CommitRequest{Group: "checkout", Attempt: attemptNamed("a"), Ops: put("")})
			return err
		}},
		"commit: a client's log change": {"ops[0].log", func() error {
			_, err := client.Commit(ctx, &pb.CommitRequest{Group: "checkout", Attempt: attemptNamed("a"), Ops: []*pb.Op{{Participant: "orders", Op: &pb.Op_Log{Log: &pb.LogChange{}}}}})
			return err
		}},
		"commit: read's key": {"reads[0].key", func() error {
			_, err := client.Commit(ctx, &pb.CommitRequest{Group: "checkout", Attempt: attemptNamed("a"), Reads: []*pb.Read{{Participant: "orders"}}})
			return err
		}},
		"commit: scan's hash": {"scans[0].hash", func() error {
			_, err := client.Commit(ctx, &pb.CommitRequest{Group: "checkout", Attempt: attemptNamed("a"), Scans: []*pb.ScanRead{{Participant: "orders", Hash: []byte("x")}}})
			return err
		}},
		"commit: reads in one round": {"attempt.begun", func() error {
			_, err := client.Commit(ctx, &pb.CommitRequest{Group: "checkout", Attempt: &pb.Attempt{Id: "a"}, Reads: []*pb.Read{{Participant: "orders", Key: []byte("k")}}})
			return err
		}},
		"abort: long reason": {"reason", func() error {
			_, err := client.Abort(ctx, &pb.AbortRequest{Group: "checkout", Attempt: attemptNamed("a"), Reason: strings.Repeat("x", 513)})
			return err
		}},
		"outcome: no id": {"id", func() error {
			_, err := client.Outcome(ctx, &pb.OutcomeRequest{Group: "checkout"})
			return err
		}},
		"begin read: idle too long": {"timeout_ms", func() error {
			_, err := client.BeginRead(ctx, &pb.BeginReadRequest{Group: "checkout", TimeoutMs: maxReadIdle.Milliseconds() + 1})
			return err
		}},
		"end read: no session": {"read_session", func() error {
			_, err := client.EndRead(ctx, &pb.EndReadRequest{Group: "checkout"})
			return err
		}},
		"list: limit": {"limit", func() error {
			_, err := client.ListTransactions(ctx, &pb.ListTransactionsRequest{Group: "checkout", Limit: maxListLimit + 1})
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			info := wantFailure(t, test.do(), codes.InvalidArgument, reasonInvalid)
			if info.GetMetadata()["field"] != test.field {
				t.Fatalf("it names field %q, want %q", info.GetMetadata()["field"], test.field)
			}
		})
	}
}

// Without it a transaction that is too large for any group would look like a
// mistake in the client, not like a limit.
func TestTooManyOfSomething(t *testing.T) {
	c := newTestCluster(t, 1, 1)
	c.lead(0, &fakeTransactor{})
	for field, request := range map[string]*pb.CommitRequest{
		"ops":   {Ops: make([]*pb.Op, maxRequestItems+1)},
		"reads": {Reads: make([]*pb.Read, maxRequestItems+1)},
		"scans": {Scans: make([]*pb.ScanRead, maxRequestScans+1)},
	} {
		request.Group, request.Attempt = "checkout", attemptNamed("a")
		_, err := c.nodes[0].transactions().Commit(t.Context(), request)
		info := wantFailure(t, err, codes.ResourceExhausted, reasonTooLarge)
		if info.GetMetadata()["field"] != field {
			t.Fatalf("it names field %q, want %q", info.GetMetadata()["field"], field)
		}
	}
}

func TestUnknownGroup(t *testing.T) {
	c := newTestCluster(t, 1, 1)
	_, err := c.nodes[0].transactions().Begin(t.Context(), &pb.BeginRequest{Group: "nowhere"})
	wantFailure(t, err, codes.NotFound, reasonUnknownGroup)
}

// Without it an abort would look like a broken cluster, or an unknown outcome
// like an abort.
func TestAnswersOfTheCoordinator(t *testing.T) {
	c := newTestCluster(t, 1, 1)
	f := &fakeTransactor{}
	c.lead(0, f)
	client := c.nodes[0].transactions()
	ctx := t.Context()
	abort := &Aborted{ID: "a", Reason: command.ReasonConflict, Participant: "orders", Key: "k", Detail: "d"}
	wantAbort := &pb.Abort{Id: "a", Reason: pb.Reason_REASON_CONFLICT, Participant: "orders", Key: []byte("k"), Detail: "d"}
	receipt := command.Receipt{ID: "a", Incarnation: 1, Position: 3, Begun: 9, TimeUnixNano: 1e9}

	f.begin = func(_ context.Context, r BeginRequest) (Opened, error) {
		if r.Fresh != (len(r.ID) == 36) {
			t.Errorf("id %q is fresh: %v", r.ID, r.Fresh)
		}
		return Opened{Attempt: Attempt{ID: r.ID, Begun: 9, Nonce: 1}, Epoch: 7, Incarnation: 1, Position: 2}, nil
	}
	if r, err := client.Begin(ctx, &pb.BeginRequest{Group: "checkout"}); err != nil || len(r.GetOpened().GetAttempt().GetId()) != 36 {
		t.Errorf("begin without id: %v, %v", r, err)
	}
	if r, err := client.Begin(ctx, &pb.BeginRequest{Group: "checkout", Id: "a"}); err != nil || r.GetOpened().GetPosition() != 2 {
		t.Errorf("begin: %v, %v", r, err)
	}
	f.begin = func(context.Context, BeginRequest) (Opened, error) { return Opened{}, &Committed{Receipt: receipt} }
	if r, err := client.Begin(ctx, &pb.BeginRequest{Group: "checkout", Id: "a"}); err != nil || r.GetCommitted().GetPosition() != 3 {
		t.Errorf("begin of a committed id: %v, %v", r, err)
	}
	f.begin = func(context.Context, BeginRequest) (Opened, error) { return Opened{}, abort }
	if r, err := client.Begin(ctx, &pb.BeginRequest{Group: "checkout", Id: "a"}); err != nil || !proto.Equal(r.GetAbort(), wantAbort) {
		t.Errorf("begin aborted: %v, %v", r, err)
	}

	call := &pb.CallRequest{Group: "checkout", Attempt: attemptNamed("a"), Step: 1, Participant: "orders", Method: "m"}
	f.call = func(context.Context, CallRequest) (StepReply, error) {
		return StepReply{}, &StepFailure{Code: pb.StepFailure_CODE_HANDLER, Participant: "orders", Message: "no"}
	}
	if r, err := client.Call(ctx, call); err != nil || r.GetFailure().GetCode() != pb.StepFailure_CODE_HANDLER {
		t.Errorf("failed call: %v, %v", r, err)
	}
	f.call = func(context.Context, CallRequest) (StepReply, error) { return StepReply{}, abort }
	if r, err := client.Call(ctx, call); err != nil || !proto.Equal(r.GetAbort(), wantAbort) {
		t.Errorf("aborted call: %v, %v", r, err)
	}

	commit := &pb.CommitRequest{Group: "checkout", Attempt: attemptNamed("a")}
	f.commit = func(context.Context, CommitRequest) (command.Receipt, error) { return receipt, nil }
	if r, err := client.Commit(ctx, commit); err != nil || r.GetReceipt().GetPosition() != 3 || r.GetReceipt().GetTime().GetSeconds() != 1 {
		t.Errorf("commit: %v, %v", r, err)
	}
	f.commit = func(context.Context, CommitRequest) (command.Receipt, error) {
		return receipt, &Indeterminate{Detail: "proposed"}
	}
	if r, err := client.Commit(ctx, commit); err != nil || r.GetIndeterminate().GetDetail() != "proposed" {
		t.Errorf("unknown commit: %v, %v", r, err)
	}
	f.commit = func(context.Context, CommitRequest) (command.Receipt, error) {
		return receipt, &Invalid{Field: "ops", Detail: "no"}
	}
	_, err := client.Commit(ctx, commit)
	wantFailure(t, err, codes.InvalidArgument, reasonInvalid)
	f.commit = func(context.Context, CommitRequest) (command.Receipt, error) { return receipt, errors.New("disk") }
	_, err = client.Commit(ctx, commit)
	wantFailure(t, err, codes.Internal, reasonInternal)
	f.commit = nil // calling it panics
	_, err = client.Commit(ctx, commit)
	wantFailure(t, err, codes.Internal, reasonInternal)
}

// Without it what a client asked for would not be what is decided.
func TestCommitConversion(t *testing.T) {
	c := newTestCluster(t, 1, 1)
	f := &fakeTransactor{}
	c.lead(0, f)
	var got CommitRequest
	f.commit = func(_ context.Context, r CommitRequest) (command.Receipt, error) {
		got = r
		return command.Receipt{}, nil
	}
	_, err := c.nodes[0].transactions().Commit(t.Context(), &pb.CommitRequest{
		Group: "checkout", Attempt: attemptNamed("a"), RequestDigest: []byte("d"), Steps: 2, TimeoutMs: 1500,
		Reads: []*pb.Read{{Participant: "orders", Key: []byte("r"), Version: 3}},
		Scans: []*pb.ScanRead{{Participant: "ledger", Start: []byte("a"), End: []byte("b"), Hash: []byte("0123456789abcdef")}},
		Ops: []*pb.Op{
			{Participant: "orders", Key: []byte("p"), Op: &pb.Op_Put{Put: &pb.Put{Value: []byte("v")}}},
			{Participant: "orders", Key: []byte("x"), Op: &pb.Op_Delete{Delete: &pb.Delete{}}},
			{Participant: "ledger", Key: []byte("n"), Op: &pb.Op_Add{Add: &pb.Add{Delta: -2, AtLeast: proto.Int64(0)}}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got.Attempt != (Attempt{ID: "a", Begun: 9, Nonce: 4}) || string(got.RequestDigest) != "d" || got.Steps != 2 || got.Timeout != 1500*time.Millisecond {
		t.Errorf("got %+v", got)
	}
	if len(got.Reads) != 1 || got.Reads[0] != (command.Read{Participant: "orders", Key: "r", Version: 3}) {
		t.Errorf("got reads %+v", got.Reads)
	}
	if len(got.Scans) != 1 || got.Scans[0].Start != "a" || got.Scans[0].End != "b" || string(got.Scans[0].Hash[:]) != "0123456789abcdef" {
		t.Errorf("got scans %+v", got.Scans)
	}
	if len(got.Ops) != 3 || got.Ops[0].Kind != command.OpPut || string(got.Ops[0].Value) != "v" || got.Ops[1].Kind != command.OpDelete ||
		got.Ops[2].Kind != command.OpAdd || got.Ops[2].Delta != -2 || *got.Ops[2].AtLeast != 0 || got.Ops[2].AtMost != nil {
		t.Errorf("got ops %+v", got.Ops)
	}
}

// Without it a transaction would not read its own writes, or an attempt that was
// told of its abort could still commit.
func TestReadsOfAnAttempt(t *testing.T) {
	c := newTestCluster(t, 1, 1)
	f := &fakeTransactor{}
	replica := c.lead(0, f)[0]
	replica.stores["orders"] = fakeStore{"a": {"1", 4}, "b": {"text", 5}}
	released := 0
	f.attemptView = func(context.Context, Attempt) (Snapshot, []command.Op, func(), error) {
		view, _ := replica.View(0)
		return view.(*fakeView), []command.Op{
			{Kind: command.OpAdd, Participant: "orders", Key: "a", Delta: 2},
			{Kind: command.OpAdd, Participant: "orders", Key: "b", Delta: 1},
			{Kind: command.OpPut, Participant: "orders", Key: "c", Value: []byte("new")},
		}, func() { released++; view.Close() }, nil
	}
	var aborts []Attempt
	f.abort = func(_ context.Context, a Attempt, _ string) error { aborts = append(aborts, a); return nil }
	client := c.nodes[0].transactions()
	at := &pb.GetRequest_Attempt{Attempt: attemptNamed("t")}
	r, err := client.Get(t.Context(), &pb.GetRequest{Group: "checkout", Participant: "orders", Keys: [][]byte{[]byte("c"), []byte("a"), []byte("z")}, At: at})
	if err != nil || len(r.GetItems()) != 3 {
		t.Fatalf("get: %v, %v", r, err)
	}
	if i := r.GetItems()[0]; string(i.GetValue()) != "new" || i.GetVersion() != 0 || !i.GetFound() {
		t.Errorf("its own put reads %v", i)
	}
	if i := r.GetItems()[1]; string(i.GetValue()) != "3" || i.GetVersion() != 4 {
		t.Errorf("its own add reads %v", i)
	}
	if i := r.GetItems()[2]; i.GetFound() || string(i.GetKey()) != "z" {
		t.Errorf("an absent key reads %v", i)
	}
	r, err = client.Get(t.Context(), &pb.GetRequest{Group: "checkout", Participant: "orders", Keys: [][]byte{[]byte("b")}, At: at})
	if err != nil || r.GetAbort().GetReason() != pb.Reason_REASON_CONSTRAINT || r.GetAbort().GetId() != "t" || string(r.GetAbort().GetKey()) != "b" {
		t.Fatalf("an add to text reads %v, %v", r, err)
	}
	if len(aborts) != 1 || aborts[0].ID != "t" {
		t.Fatalf("told of its abort, it is open still: %v", aborts)
	}
	scan, err := client.Scan(t.Context(), &pb.ScanRequest{Group: "checkout", Participant: "orders", Prefix: []byte("c"), At: &pb.ScanRequest_Attempt{Attempt: attemptNamed("t")}})
	if err != nil || len(scan.GetItems()) != 1 || string(scan.GetRead().GetStart()) != "c" || string(scan.GetRead().GetEnd()) != "d" || len(scan.GetRead().GetHash()) != 16 {
		t.Fatalf("scan: %v, %v", scan, err)
	}
	r, err = client.Get(t.Context(), &pb.GetRequest{Group: "checkout", Participant: "stock", Keys: [][]byte{[]byte("b")}, At: at})
	if err != nil || r.GetAbort().GetReason() != pb.Reason_REASON_UNKNOWN_PARTICIPANT {
		t.Fatalf("an unknown participant reads %v, %v", r, err)
	}
	if released != 4 || replica.views != 0 {
		t.Fatalf("%d views released of 4, %d open", released, replica.views)
	}
}

// Without it a read-only transaction would read at several points, or at an old
// one unasked.
func TestReadSessions(t *testing.T) {
	c := newTestCluster(t, 3, 2)
	replicas := c.lead(0, &fakeTransactor{})
	replicas[1].stores["orders"] = fakeStore{"a": {"old", 1}}
	ctx := t.Context()

	begun, err := c.nodes[1].transactions().BeginRead(ctx, &pb.BeginReadRequest{Group: "checkout"})
	if err != nil || begun.GetNodeAddr() != c.nodes[1].addr || begun.GetIncarnation() != 1 {
		t.Fatalf("begin read: %v, %v", begun, err)
	}
	if replicas[1].readIndexes != 1 {
		t.Fatal("the start was not confirmed by a quorum")
	}
	replicas[1].mu.Lock()
	replicas[1].stores["orders"] = fakeStore{"a": {"new", 2}}
	replicas[1].mu.Unlock()
	for _, n := range c.nodes { // any node knows where the session is
		r, err := n.transactions().Get(ctx, &pb.GetRequest{Group: "checkout", Participant: "orders", Keys: [][]byte{[]byte("a")}, At: &pb.GetRequest_ReadSession{ReadSession: begun.GetReadSession()}})
		if err != nil || len(r.GetItems()) != 1 || string(r.GetItems()[0].GetValue()) != "old" {
			t.Fatalf("%s reads %v, %v", n.name, r, err)
		}
	}
	if _, err := c.nodes[0].transactions().EndRead(ctx, &pb.EndReadRequest{Group: "checkout", ReadSession: begun.GetReadSession()}); err != nil {
		t.Fatal(err)
	}
	r, err := c.nodes[1].transactions().Get(ctx, &pb.GetRequest{Group: "checkout", Participant: "orders", Keys: [][]byte{[]byte("a")}, At: &pb.GetRequest_ReadSession{ReadSession: begun.GetReadSession()}})
	if err != nil || r.GetAbort().GetReason() != pb.Reason_REASON_SNAPSHOT_TOO_OLD {
		t.Fatalf("an ended session reads %v, %v", r, err)
	}

	stale, err := c.nodes[1].transactions().BeginRead(ctx, &pb.BeginReadRequest{Group: "checkout", Stale: true})
	if err != nil || replicas[1].readIndexes != 1 {
		t.Fatalf("a stale start asked a quorum: %v, %v", stale, err)
	}
	// A node without a replica has one begun elsewhere.
	far, err := c.nodes[2].transactions().BeginRead(ctx, &pb.BeginReadRequest{Group: "checkout"})
	if err != nil || far.GetNodeAddr() == c.nodes[2].addr {
		t.Fatalf("begin read without a replica: %v, %v", far, err)
	}
	scan, err := c.nodes[2].transactions().Scan(ctx, &pb.ScanRequest{Group: "checkout", Participant: "orders", At: &pb.ScanRequest_ReadSession{ReadSession: far.GetReadSession()}})
	if err != nil || scan.GetRead() != nil {
		t.Fatalf("scan in a session: %v, %v", scan, err)
	}
}

// Without it clients would have to know where coordinators are.
func TestForwarding(t *testing.T) {
	c := newTestCluster(t, 3, 2)
	f := &fakeTransactor{}
	c.lead(1, f)
	deadline := time.Now().Add(time.Minute)
	f.begin = func(ctx context.Context, r BeginRequest) (Opened, error) {
		if got, ok := ctx.Deadline(); !ok || got.Sub(deadline).Abs() > time.Second {
			t.Errorf("the deadline became %v, %v", got, ok)
		}
		return Opened{Attempt: Attempt{ID: r.ID, Begun: 1}}, nil
	}
	ctx, cancel := context.WithDeadline(t.Context(), deadline)
	defer cancel()
	for i, n := range c.nodes { // n3 has no replica and must ask
		var header metadata.MD
		r, err := n.transactions().Begin(ctx, &pb.BeginRequest{Group: "checkout", Id: "a"}, grpc.Header(&header))
		if err != nil || r.GetOpened().GetAttempt().GetId() != "a" {
			t.Fatalf("%s answers %v, %v", n.name, r, err)
		}
		named := header.Get(coordinatorHeader)
		if i == 1 && len(named) > 0 || i != 1 && (len(named) != 1 || named[0] != c.nodes[1].addr) {
			t.Errorf("%s names the coordinator %q", n.name, named)
		}
	}
	// Errors come through whole.
	f.begin = func(context.Context, BeginRequest) (Opened, error) {
		return Opened{}, &Invalid{Field: "id", Detail: "no"}
	}
	_, err := c.nodes[0].transactions().Begin(ctx, &pb.BeginRequest{Group: "checkout", Id: "a"})
	if info := wantFailure(t, err, codes.InvalidArgument, reasonInvalid); info.GetMetadata()["field"] != "id" {
		t.Errorf("through another node it names %v", info)
	}
}

// Without it an election would be an error for each client.
func TestForwardingWaitsForAnElection(t *testing.T) {
	c := newTestCluster(t, 3, 3)
	old, elected := &fakeTransactor{}, &fakeTransactor{}
	replicas := c.lead(0, old)
	asked := make(chan struct{}, 100)
	old.begin = func(context.Context, BeginRequest) (Opened, error) {
		asked <- struct{}{}
		return Opened{}, ErrNotServing
	}
	elected.begin = func(_ context.Context, r BeginRequest) (Opened, error) {
		return Opened{Attempt: Attempt{ID: r.ID, Begun: 1}}, nil
	}
	done := make(chan error, 1)
	go func() {
		_, err := c.nodes[2].transactions().Begin(t.Context(), &pb.BeginRequest{Group: "checkout", Id: "a"})
		done <- err
	}()
	<-asked // the request is at the old leader's door
	elected.serving.Store(true)
	c.nodes[1].run(LocalGroup{Coordinator: elected, Replica: replicas[1], Leader: "n2"})
	c.nodes[2].run(LocalGroup{Replica: replicas[2], Leader: "n2"})
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// Without it two nodes that each take the other for the leader would pass a
// request to and fro.
func TestForwardingDoesNotGoInCircles(t *testing.T) {
	c := newTestCluster(t, 2, 2)
	c.nodes[0].run(LocalGroup{Replica: newFakeReplica(), Leader: "n2"})
	c.nodes[1].run(LocalGroup{Replica: newFakeReplica(), Leader: "n1"})
	c.nodes[0].service.wait = 100 * time.Millisecond
	_, err := c.nodes[0].transactions().Begin(t.Context(), &pb.BeginRequest{Group: "checkout", Id: "a"})
	wantFailure(t, err, codes.Unavailable, reasonNoCoordinator)
	_, err = c.nodes[0].transactions().Begin(forwardedContext(t.Context()), &pb.BeginRequest{Group: "checkout", Id: "a"})
	wantFailure(t, err, codes.Unavailable, reasonNotServing)
}

func TestListTransactionsByID(t *testing.T) {
	c := newTestCluster(t, 1, 1)
	f := &fakeTransactor{transactions: func(context.Context, int) ([]TransactionInfo, error) {
		return []TransactionInfo{{ID: "a", State: "open", Age: 1500 * time.Millisecond}, {ID: "b", State: "aborted", Reason: command.ReasonIDReused}}, nil
	}}
	c.lead(0, f)
	r, err := c.nodes[0].transactions().ListTransactions(t.Context(), &pb.ListTransactionsRequest{Group: "checkout", Id: "b"})
	if err != nil || len(r.GetTransactions()) != 1 || r.GetTransactions()[0].GetReason() != "id_reused" {
		t.Fatalf("%v, %v", r, err)
	}
	r, err = c.nodes[0].transactions().ListTransactions(t.Context(), &pb.ListTransactionsRequest{Group: "checkout", Limit: 1})
	if err != nil || len(r.GetTransactions()) != 1 || r.GetTransactions()[0].GetAgeSeconds() != 1.5 {
		t.Fatalf("%v, %v", r, err)
	}
}
