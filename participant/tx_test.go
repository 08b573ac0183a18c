package participant_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cohort-tx/cohort/participant"
)

// errStop ends a transaction on purpose.
var errStop = errors.New("stop")

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func started(t *testing.T, participants ...string) (*fakeGroup, *participant.Group) {
	g := newFakeGroup(participants...)
	return g, dial(t, g.node(t).addr).Group(groupName)
}

// Without it an import could pull the storage engines into every application.
func TestDependencies(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	allowed := []string{
		"github.com/cohort-tx/cohort/participant", "github.com/cohort-tx/cohort/api/cohort/v1",
		"google.golang.org/grpc", "google.golang.org/protobuf", "google.golang.org/genproto/googleapis/rpc",
		"golang.org/x/net", "golang.org/x/sys", "golang.org/x/text", // gRPC's own
	}
	for dep := range strings.FieldsSeq(string(out)) {
		if !slices.ContainsFunc(allowed, func(a string) bool {
			return dep == a || strings.HasPrefix(dep, a+"/") && !strings.HasPrefix(dep, "github.com/cohort-tx/cohort/participant/")
		}) {
			t.Errorf("package participant depends on %s", dep)
		}
	}
}

// Without it blind writes would cost a second round trip.
func TestBlindWritesAreOneRequest(t *testing.T) {
	g, group := started(t, "orders", "ledger")
	receipt, err := group.Run(testContext(t), func(tx *participant.Tx) error {
		return errors.Join(tx.Store("orders").Put("o1", "paid"), tx.Store("ledger").Add("revenue", 5))
	})
	if err != nil || receipt.Position != 1 {
		t.Fatal(receipt, err)
	}
	if n := g.count("Begin"); n != 0 {
		t.Errorf("%d Begins", n)
	}
	if g.value("orders", "o1") != "paid" || g.value("ledger", "revenue") != "5" {
		t.Error("not applied")
	}
}

// Without it a lost race would reach the caller, or a stale read would commit.
func TestRunTriesAgainAfterConflict(t *testing.T) {
	g, group := started(t, "ledger")
	g.set("ledger", "n", "1")
	runs := 0
	_, err := group.Run(testContext(t), func(tx *participant.Tx) error {
		runs++
		var n int
		if _, err := tx.Store("ledger").Get("n", &n); err != nil {
			return err
		}
		if runs == 1 {
			g.set("ledger", "n", "10")
		}
		return tx.Store("ledger").Put("n", n+1)
	})
	if err != nil || runs != 2 || g.value("ledger", "n") != "11" {
		t.Fatalf("err %v, runs %d, n %s", err, runs, g.value("ledger", "n"))
	}
}

// Without it a phantom would slip into what was scanned.
func TestScanConflictsWithPhantom(t *testing.T) {
	g, group := started(t, "orders")
	runs := 0
	_, err := group.Run(testContext(t), func(tx *participant.Tx) error {
		runs++
		for _, err := range tx.Store("orders").Scan("o/") {
			if err != nil {
				return err
			}
		}
		g.set("orders", fmt.Sprintf("o/%d", runs), "x")
		return tx.Store("orders").Put("sum", "x")
	}, participant.MaxAttempts(2))
	if !errors.Is(err, participant.ErrConflict) || runs != 2 {
		t.Fatal(err, runs)
	}
	var abort *participant.AbortError
	if !errors.As(err, &abort) || abort.Participant != "orders" {
		t.Fatalf("%#v", err)
	}
}

// Without it a bound could be overrun, or a hopeless transaction be repeated.
func TestConstraintIsFinal(t *testing.T) {
	g, group := started(t, "stock")
	_, err := group.Run(testContext(t), func(tx *participant.Tx) error {
		return tx.Store("stock").Add("sku", -1, participant.AtLeast(0))
	})
	if !errors.Is(err, participant.ErrConstraint) || participant.Retryable(err) || g.count("Commit") != 1 {
		t.Fatal(err, g.count("Commit"))
	}
	if !strings.Contains(err.Error(), "stock/sku") {
		t.Error("the error does not name the key:", err)
	}
}

// Without it a lost answer would be an error, or the transaction happen twice.
func TestLostCommitAnswers(t *testing.T) {
	for _, after := range []bool{false, true} {
		for _, id := range []string{"", "order-1"} {
			t.Run(fmt.Sprintf("after=%v,id=%q", after, id), func(t *testing.T) {
				g, group := started(t, "ledger")
				g.fault = func(method string, n int, a bool) error {
					if method == "Commit" && n <= 2 && a == after {
						return lostAnswer()
					}
					return nil
				}
				var opts []participant.TxOption
				if id != "" {
					opts = append(opts, participant.ID(id))
				}
				receipt, err := group.Run(testContext(t), func(tx *participant.Tx) error {
					return tx.Store("ledger").Add("n", 1)
				}, opts...)
				if err != nil || receipt.Position != 1 || g.value("ledger", "n") != "1" {
					t.Fatal(receipt, err, g.value("ledger", "n"))
				}
			})
		}
	}
}

// Without it an unknown outcome could be taken for an abort.
func TestIndeterminate(t *testing.T) {
	g, group := started(t, "ledger")
	g.fault = func(method string, _ int, after bool) error {
		if method == "Commit" && after {
			return lostAnswer()
		}
		return nil
	}
	ctx, cancel := context.WithTimeout(testContext(t), 200*time.Millisecond)
	defer cancel()
	_, err := group.Run(ctx, func(tx *participant.Tx) error { return tx.Store("ledger").Add("n", 1) }, participant.ID("x"))
	var unknown *participant.IndeterminateError
	var abort *participant.AbortError
	if !errors.As(err, &unknown) || unknown.ID != "x" || unknown.Begun == 0 || errors.As(err, &abort) || participant.Retryable(err) {
		t.Fatalf("%#v", err)
	}
	out, err := group.Outcome(testContext(t), "x", participant.Begun(unknown.Begun), participant.Settle())
	if err != nil || out.State != participant.Committed || out.Receipt.Position != 1 {
		t.Fatal(out, err)
	}
}

// Without it a settled id could commit after all, or looking could kill it.
func TestOutcome(t *testing.T) {
	_, group := started(t, "ledger")
	ctx := testContext(t)
	tx, err := group.Begin(ctx, participant.ID("x"))
	if err != nil {
		t.Fatal(err)
	}
	if out, err := group.Outcome(ctx, "x"); err != nil || out.State != participant.Unknown {
		t.Fatal(out, err)
	}
	out, err := group.Outcome(ctx, "x", participant.Settle())
	if err != nil || out.State != participant.Aborted || out.Abort.Reason != participant.ReasonSuperseded {
		t.Fatal(out, err)
	}
	if _, err := tx.Commit(ctx); !errors.Is(err, participant.ErrSuperseded) {
		t.Fatal(err)
	}
}

// Without it a retry of business would run its function, and its effects, again.
func TestCommittedID(t *testing.T) {
	g, group := started(t, "ledger")
	ctx := testContext(t)
	run := func(request any) (participant.Receipt, int, error) {
		runs := 0
		r, err := group.Run(ctx, func(tx *participant.Tx) error {
			runs++
			return tx.Store("ledger").Add("n", 1)
		}, participant.ID("order-1"), participant.Request(request))
		return r, runs, err
	}
	first, runs, err := run(map[string]any{"a": 1, "b": 2})
	if err != nil || runs != 1 {
		t.Fatal(err, runs)
	}
	again, runs, err := run(struct {
		B int `json:"b"`
		A int `json:"a"`
	}{2, 1})
	if err != nil || runs != 0 || again.Position != first.Position {
		t.Fatal(again, runs, err)
	}
	if _, runs, err = run("another"); !errors.Is(err, participant.ErrIDReused) || runs != 0 {
		t.Fatal(err, runs)
	}
	var before *participant.CommittedError
	if _, err := group.Begin(ctx, participant.ID("order-1"), participant.Request(map[string]int{"b": 2, "a": 1})); !errors.As(err, &before) || before.Receipt.Position != first.Position {
		t.Fatal(err)
	}
	if g.value("ledger", "n") != "1" {
		t.Error("it happened twice")
	}
}

// Without it one dead address would fail the client.
func TestDeadAddressesArePassedOver(t *testing.T) {
	g := newFakeGroup("ledger")
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := lis.Addr().String()
	lis.Close()
	group := dial(t, dead+", "+g.node(t).addr).Group(groupName)
	for range 3 {
		if _, err := group.Run(testContext(t), func(tx *participant.Tx) error { return tx.Store("ledger").Add("n", 1) }); err != nil {
			t.Fatal(err)
		}
	}
	if g.value("ledger", "n") != "3" {
		t.Error(g.value("ledger", "n"))
	}
}

// Without it every request would be forwarded, or a dead leader be asked for ever.
func TestFollowsTheLeader(t *testing.T) {
	g := newFakeGroup("ledger")
	a, b, c := g.node(t), g.node(t), g.node(t)
	g.leader = b.addr
	group := dial(t, a.addr).Group(groupName)
	add := func() {
		t.Helper()
		if _, err := group.Run(testContext(t), func(tx *participant.Tx) error { return tx.Store("ledger").Add("n", 1) }); err != nil {
			t.Fatal(err)
		}
	}
	add()
	add()
	if g.count(a.addr) != 1 || g.count(b.addr) != 1 {
		t.Errorf("a %d, b %d requests", g.count(a.addr), g.count(b.addr))
	}
	b.server.Stop()
	g.mu.Lock()
	g.leader = c.addr
	g.mu.Unlock()
	add()
	add()
	if g.count(c.addr) == 0 || g.value("ledger", "n") != "4" {
		t.Error(g.count(c.addr), g.value("ledger", "n"))
	}
}

// Without it a moved coordinator would end the workflow.
func TestRunTriesAgainWhenMoved(t *testing.T) {
	g, group := started(t, "ledger")
	runs := 0
	_, err := group.Run(testContext(t), func(tx *participant.Tx) error {
		if runs++; runs == 1 {
			if _, err := tx.Store("ledger").Get("n", nil); err != nil {
				return err
			}
			g.mu.Lock()
			clear(g.attempts) // a new coordinator remembers nothing
			g.mu.Unlock()
		}
		_, err := tx.Store("ledger").Get("n", nil)
		return err
	})
	if err != nil || runs != 2 {
		t.Fatal(err, runs)
	}
}

// Without it a wrong name or address would be found out late, or never.
func TestWrongInput(t *testing.T) {
	_, group := started(t, "ledger")
	ctx := testContext(t)
	for _, addrs := range []string{"", "nohost", "10.1.2.3:7070", "127.0.0.1:1,example.org:7"} {
		if c, err := participant.Dial(addrs); err == nil {
			c.Close()
			t.Errorf("Dial(%q) took it", addrs)
		}
	}
	if c, err := participant.Dial("10.1.2.3:7070", participant.WithInsecure()); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}
	for name, fn := range map[string]func(*participant.Tx) error{
		"slash": func(tx *participant.Tx) error { return tx.Store("a/b").Put("k", "v") },
		"empty": func(tx *participant.Tx) error { return tx.Store("ledger").Put("", "v") },
		"long":  func(tx *participant.Tx) error { return tx.Store("ledger").Delete(strings.Repeat("k", 1025)) },
		"method": func(tx *participant.Tx) error {
			return tx.Call("ledger", "a method", nil, nil)
		},
	} {
		if _, err := group.Run(ctx, fn); !errors.Is(err, participant.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, id := range []string{strings.Repeat("i", 257), "a\nb", "\xff"} {
		if _, err := group.Run(ctx, func(*participant.Tx) error { return nil }, participant.ID(id)); !errors.Is(err, participant.ErrInvalid) {
			t.Errorf("id %q: %v", id, err)
		}
	}
	if _, err := group.Run(ctx, func(tx *participant.Tx) error { return tx.Store("nobody").Put("k", "v") }); !errors.Is(err, participant.ErrUnknownParticipant) {
		t.Error(err)
	}
}

// Without it an attempt could be used after its end, and its writes be lost.
func TestUseAfterEnd(t *testing.T) {
	_, group := started(t, "ledger")
	ctx := testContext(t)
	var kept *participant.Tx
	if _, err := group.Run(ctx, func(tx *participant.Tx) error { kept = tx; return nil }); err != nil {
		t.Fatal(err)
	}
	if err := kept.Store("ledger").Put("k", "v"); !errors.Is(err, participant.ErrTxDone) {
		t.Error(err)
	}
	if _, err := kept.Commit(ctx); !errors.Is(err, participant.ErrTxDone) {
		t.Error(err)
	}
	tx, err := group.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(tx.Abort(ctx), tx.Abort(ctx)); err != nil {
		t.Error(err)
	}
	if _, err := tx.Store("ledger").Get("k", nil); !errors.Is(err, participant.ErrTxDone) {
		t.Error(err)
	}
}

// Without it a cancelled caller would hang.
func TestContextEnds(t *testing.T) {
	g, group := started(t, "ledger")
	release := make(chan struct{})
	defer close(release)
	entered := make(chan struct{}, 8)
	g.fault = func(method string, _ int, after bool) error {
		if !after && (method == "Begin" || method == "BeginRead" || method == "Outcome") {
			entered <- struct{}{}
			<-release
		}
		return nil
	}
	for name, fn := range map[string]func(context.Context) error{
		"run": func(ctx context.Context) error {
			_, err := group.Run(ctx, func(tx *participant.Tx) error { _, err := tx.Store("ledger").Get("k", nil); return err })
			return err
		},
		"begin": func(ctx context.Context) error { _, err := group.Begin(ctx); return err },
		"view": func(ctx context.Context) error {
			return group.View(ctx, func(*participant.ReadTx) error { return nil })
		},
		"outcome": func(ctx context.Context) error { _, err := group.Outcome(ctx, "x"); return err },
	} {
		ctx, cancel := context.WithCancel(testContext(t))
		go func() { <-entered; cancel() }()
		if err := fn(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
	}
}

// Without it a message that no node takes would be repeated for ever.
func TestTooLarge(t *testing.T) {
	_, group := started(t, "ledger")
	_, err := group.Run(testContext(t), func(tx *participant.Tx) error {
		return tx.Store("ledger").Put("k", make([]byte, 100<<20))
	})
	if !errors.Is(err, participant.ErrTooLarge) || participant.Retryable(err) {
		t.Fatal(err)
	}
}

// Without it a read-only transaction could see two states, or fail with a node.
func TestView(t *testing.T) {
	g := newFakeGroup("a", "b")
	one, two := g.node(t), g.node(t)
	group := dial(t, one.addr+","+two.addr).Group(groupName)
	g.set("a", "k", "1")
	g.set("b", "k", "1")
	runs := 0
	err := group.View(testContext(t), func(tx *participant.ReadTx) error {
		if runs++; runs == 1 {
			one.server.Stop() // the snapshot goes with it
		}
		var x, y string
		if _, err := tx.Store("a").Get("k", &x); err != nil {
			return err
		}
		g.set("a", "k", "2")
		g.set("b", "k", "2")
		if _, err := tx.Store("b").Get("k", &y); err != nil {
			return err
		}
		if x != y || tx.Position() == 0 {
			return fmt.Errorf("%s and %s at %d", x, y, tx.Position())
		}
		return nil
	})
	if err != nil || runs != 2 {
		t.Fatal(err, runs)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.sessions) > 1 { // the stopped node's cannot be ended
		t.Errorf("%d snapshots left open", len(g.sessions))
	}
}

// Without it a reader of the log would lose entries, or see them twice.
func TestLogOverBrokenStreams(t *testing.T) {
	g, group := started(t, "ledger")
	g.followMax = 2
	for i := range 7 {
		g.set("ledger", "n", fmt.Sprint(i))
	}
	var got []uint64
	for e, err := range group.Log(testContext(t), 0, participant.NoWait()) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e.Position)
	}
	if !slices.Equal(got, []uint64{1, 2, 3, 4, 5, 6, 7}) {
		t.Fatal(got)
	}
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	var last error
	for e, err := range group.Log(ctx, 7) {
		if last = err; err != nil {
			break
		}
		switch e.Position {
		case 7:
			g.set("ledger", "n", "7")
		case 8:
			if e.Changes[0].Kind != participant.ChangePut || string(e.Changes[0].Value) != "7" {
				t.Error(e)
			}
			cancel()
		}
	}
	if !errors.Is(last, context.Canceled) {
		t.Fatal(last)
	}
}

// Without it errors of the wire would not be told apart.
func TestRequestErrors(t *testing.T) {
	g, _ := started(t, "ledger")
	client := dial(t, g.node(t).addr)
	_, err := client.Group("nothing").Run(testContext(t), func(tx *participant.Tx) error {
		_, err := tx.Store("ledger").Get("k", nil)
		return err
	})
	if !errors.Is(err, participant.ErrNotFound) || status.Code(err) != codes.NotFound {
		t.Fatal(err)
	}
	client.Close()
	if _, err := client.Group(groupName).Begin(testContext(t)); !errors.Is(err, participant.ErrClosed) {
		t.Fatal(err)
	}
}
