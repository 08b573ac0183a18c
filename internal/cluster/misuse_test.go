package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	cohortv1 "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/internal/cluster"
	"github.com/cohort-tx/cohort/participant"
)

// TestMain is also where an application of the mixed group begins.
func TestMain(m *testing.M) {
	if kind := os.Getenv(appEnv); kind != "" {
		if err := runMixedApp(kind); err != nil {
			fmt.Fprintln(os.Stderr, kind, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

const (
	// lease is limits.timeout of the group that is misused.
	lease = 500 * time.Millisecond
	// within is how long after its bound an answer may come on a busy machine.
	within = 3 * time.Second
	// patience ends a test that hangs.
	patience = 20 * time.Second

	misused = `
group: work
participants: [{name: stock}, {name: audit}, {name: ledger}]
limits: {timeout: 500ms}
---
group: wide
participants: [{name: stock}, {name: ledger}]
limits: {timeout: 15s}
---
group: narrow
participants: [{name: ledger}]
limits: {open: 2, in_flight: 2, timeout: 20s}
`
)

// TestMisuse lets clients and applications behave badly, one after the other, on
// one cluster. Each gets its typed error in time, and the next transaction
// commits.
func TestMisuse(t *testing.T) {
	b := startBench(t, cluster.Options{Nodes: 1, RTT: 10 * time.Millisecond}, misused)
	b.serve(t, stock("work", nil, nil), participant.Active)
	b.serve(t, stock("wide", nil, nil), participant.Active)
	b.serve(t, audit(), participant.Active)
	for _, test := range []struct {
		name string
		run  func(*testing.T, *bench)
	}{
		{"client never finishes", neverFinishes},
		{"handler hangs", handlerHangs},
		{"handler panics", handlerPanics},
		{"handler mumbles", handlerMumbles},
		{"vote never comes", voteNeverComes},
		{"voter refuses and panics", voterRefuses},
		{"huge value", hugeValue},
		{"million keys", millionKeys},
		{"odd names", oddNames},
		{"odd keys and values", oddKeys},
		{"unknown things", unknownThings},
		{"id reused", idReused},
		{"add to what is no integer", addToText},
		{"too many open", tooManyOpen},
		{"outcome of an open attempt", outcomeOfOpen},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.run(t, b)
			b.works(t)
		})
	}
}

// Without a lease a client that goes away would hold its snapshot and its place
// under limits.open for ever.
func neverFinishes(t *testing.T, b *bench) {
	begun := time.Now()
	tx := b.begin(t, "work")
	want(t, nil, tx.Store("ledger").Put("left", "behind"))
	want(t, nil, tx.Call("stock", "reserve", nil, nil))
	b.eventually(t, "the attempt ends by itself", func() bool {
		out, err := b.group("work").Outcome(t.Context(), tx.ID())
		return err == nil && out.State != participant.Pending
	})
	if took := time.Since(begun); took < lease || took > lease+within {
		t.Errorf("it ended after %s, want %s", took, lease)
	}
	_, err := tx.Commit(t.Context())
	abort := aborted(t, err, participant.ErrTimeout)
	if abort.ID != tx.ID() {
		t.Errorf("the abort names %q, want %q", abort.ID, tx.ID())
	}
	b.absent(t, "ledger", "left")
}

// Without the step's bound a caller would wait as long as the handler does, also
// when the handler does not look at its context.
func handlerHangs(t *testing.T, b *bench) {
	for _, method := range []string{"hang", "deaf"} {
		begun := time.Now()
		_, err := b.run(t, "work", func(tx *participant.Tx) error {
			return tx.Call("stock", method, nil, nil)
		})
		want(t, participant.ErrTimeout, err)
		if took := time.Since(begun); took > lease+within {
			t.Errorf("%s: the answer took %s, want %s", method, took, lease)
		}
	}
}

// Without its recovery a handler's mistake would end the whole service.
func handlerPanics(t *testing.T, b *bench) {
	_, err := b.run(t, "work", func(tx *participant.Tx) error {
		var call *participant.CallError
		err := tx.Call("stock", "panic", nil, nil)
		if !errors.As(err, &call) || call.Code != participant.CallPanic || !strings.Contains(call.Message, "out of shelves") {
			t.Errorf("got %v, want a *CallError of the panic", err)
		}
		// The attempt is still open: what the handler staged is void, the rest counts.
		return tx.Store("ledger").Put("after-panic", "yes")
	})
	want(t, nil, err)
	b.absent(t, "stock", "panicking")
	b.present(t, "ledger", "after-panic")
}

// Without it words that cannot travel would break the stream of all the
// instance's calls, again at each retry.
func handlerMumbles(t *testing.T, b *bench) {
	for _, words := range []string{"\xff\xfe", strings.Repeat("no ", 10<<20)} {
		var call *participant.CallError
		_, err := b.run(t, "wide", func(tx *participant.Tx) error {
			return tx.Call("stock", "mumble", []byte(words)[:min(len(words), 8<<20)], nil)
		})
		if !errors.As(err, &call) || call.Code != participant.CallRefused {
			t.Errorf("got %.200v, want the refusal", err)
		}
		_, err = b.run(t, "wide", func(tx *participant.Tx) error { return tx.Call("stock", "chatter", len(words), nil) })
		if large := len(words) > 20<<20; large && !errors.Is(err, participant.ErrTooLarge) || !large && err != nil {
			t.Errorf("a reply of %d bytes: got %v", len(words), err)
		}
	}
}

// Without the bound of prepare a silent voter would keep the decision open, and
// its client waiting.
func voteNeverComes(t *testing.T, b *bench) {
	for _, id := range []string{"vote-hang", "vote-deaf"} {
		begun := time.Now()
		_, err := b.run(t, "work", func(tx *participant.Tx) error {
			if err := tx.Store("ledger").Put(id, "x"); err != nil {
				return err
			}
			return tx.Call("audit", "note", nil, nil)
		}, participant.ID(id))
		// A voter that gives up with its context says no in the same moment.
		var abort *participant.AbortError
		if !errors.As(err, &abort) || !errors.Is(err, participant.ErrTimeout) && !errors.Is(err, participant.ErrVote) {
			t.Errorf("%s: got %v, want an abort: timeout or vote", id, err)
		} else if abort.Participant != "audit" {
			t.Errorf("%s: the abort names %q, want audit", id, abort.Participant)
		}
		if took := time.Since(begun); took > lease+within {
			t.Errorf("%s: the answer took %s, want %s", id, took, lease)
		}
		b.absent(t, "ledger", id)
	}
}

// Without it a voter's no, or its crash, could be taken for a yes.
func voterRefuses(t *testing.T, b *bench) {
	for id, detail := range map[string]string{"vote-no": "the books are closed", "vote-panic": "no ink"} {
		_, err := b.run(t, "work", func(tx *participant.Tx) error {
			return tx.Call("audit", "note", nil, nil)
		}, participant.ID(id))
		abort := aborted(t, err, participant.ErrVote)
		if abort.Participant != "audit" || !strings.Contains(abort.Detail, detail) {
			t.Errorf("%s: got %v, want audit's words %q", id, abort, detail)
		}
	}
}

// Without bounds on messages and values one client could fill every replica's
// memory and disk; with bad ones it would look like a lost node, and be retried.
func hugeValue(t *testing.T, b *bench) {
	for _, mib := range []int{2, 20, 28, 100} {
		value := make([]byte, mib<<20)
		begun := time.Now()
		_, err := b.run(t, "wide", func(tx *participant.Tx) error {
			return tx.Store("ledger").Put("huge", value)
		})
		if !errors.Is(err, participant.ErrTooLarge) {
			t.Errorf("a direct write of %d MiB: got %v, want ErrTooLarge", mib, err)
		}
		_, err = b.run(t, "wide", func(tx *participant.Tx) error {
			return tx.Call("stock", "chatter", value, nil)
		})
		if mib >= 20 && !errors.Is(err, participant.ErrTooLarge) {
			t.Errorf("a payload of %d MiB: got %v, want ErrTooLarge", mib, err)
		}
		_, err = b.run(t, "wide", func(tx *participant.Tx) error {
			return tx.Call("stock", "swell", mib, nil)
		})
		if !errors.Is(err, participant.ErrTooLarge) {
			t.Errorf("a handler that stages %d MiB: got %v, want ErrTooLarge", mib, err)
		}
		if took := time.Since(begun); took > 3*within {
			t.Errorf("%d MiB: the answers took %s", mib, took)
		}
	}
	_, err := b.run(t, "wide", func(tx *participant.Tx) error {
		for _, name := range []string{"ledger", "stock"} {
			for item, err := range tx.Store(name).Scan("") {
				t.Errorf("%s has %q, %v", name, item.Key, err)
			}
		}
		return nil
	})
	want(t, nil, err)
}

// Without a bound on keys one entry would occupy every replica for seconds, and a
// client that overlooks the error would commit a part.
func millionKeys(t *testing.T, b *bench) {
	for _, keys := range []int{30_000, 1_000_000} {
		_, err := b.run(t, "work", func(tx *participant.Tx) error {
			store := tx.Store("ledger")
			for i := range keys {
				if err := store.Put(fmt.Sprintf("k%d", i), ""); err != nil {
					return err
				}
			}
			return nil
		})
		if !errors.Is(err, participant.ErrTooLarge) {
			t.Errorf("%d keys: got %v, want ErrTooLarge", keys, err)
		}
	}
	_, err := b.run(t, "work", func(tx *participant.Tx) error {
		for i := range 100_001 {
			_ = tx.Store("ledger").Put(fmt.Sprintf("k%d", i), "")
		}
		return nil
	})
	want(t, participant.ErrTooLarge, err)
	b.absent(t, "ledger", "k0")
}

// Without it names would end up in paths, metrics and keys as they are.
func oddNames(t *testing.T, b *bench) {
	for _, name := range []string{"", "a/b", "../x", "A", "a b", "ä", "a\x00", strings.Repeat("a", 64)} {
		_, err := b.run(t, "work", func(tx *participant.Tx) error { return tx.Store(name).Put("k", "v") })
		want(t, participant.ErrInvalid, err)
		_, err = b.run(t, "work", func(tx *participant.Tx) error { return tx.Call(name, "reserve", nil, nil) })
		want(t, participant.ErrInvalid, err)
		_, err = b.run(t, name, func(tx *participant.Tx) error { return tx.Store("ledger").Put("k", "v") })
		want(t, participant.ErrInvalid, err)
		want(t, participant.ErrInvalid, participant.New("work", name).Serve(t.Context(), b.addrs))
		answer, err := b.client.Cluster().Apply(t.Context(), &cohortv1.ApplyRequest{Files: []*cohortv1.ApplyFile{{
			Name: "group.yaml", Yaml: fmt.Appendf(nil, "group: odd\nparticipants: [{name: %q}]\n", name),
		}}})
		if err != nil || len(answer.GetErrors()) == 0 {
			t.Errorf("a group with the participant %q: got %v %v, want its fault", name, answer, err)
		}
	}
	for _, method := range []string{"", "a b", "ä", strings.Repeat("m", 129)} {
		_, err := b.run(t, "work", func(tx *participant.Tx) error { return tx.Call("stock", method, nil, nil) })
		want(t, participant.ErrInvalid, err)
	}
	for _, id := range []string{"a\nb", "\xff", strings.Repeat("i", 257)} {
		_, err := b.run(t, "work", func(tx *participant.Tx) error { return nil }, participant.ID(id))
		want(t, participant.ErrInvalid, err)
	}
}

// Without it keys of any bytes would get lost between client, log and store.
func oddKeys(t *testing.T, b *bench) {
	for _, key := range []string{"", strings.Repeat("k", 2<<10), strings.Repeat("k", 1025)} {
		_, err := b.run(t, "work", func(tx *participant.Tx) error { return tx.Store("ledger").Put(key, "v") })
		want(t, participant.ErrInvalid, err)
		_, err = b.run(t, "work", func(tx *participant.Tx) error {
			_, err := tx.Store("ledger").Get(key, nil)
			return err
		})
		want(t, participant.ErrInvalid, err)
	}
	odd := []string{"a/b", "\x00", "\xff\xfe", "ä\n", strings.Repeat("k", 1024)}
	_, err := b.run(t, "work", func(tx *participant.Tx) error {
		for _, key := range odd {
			if err := tx.Store("ledger").Put("odd"+key[:min(len(key), 1021)], key); err != nil {
				return err
			}
		}
		return tx.Store("ledger").Put("odd-empty", "")
	})
	want(t, nil, err)
	for _, key := range append(odd, "-empty") {
		value := b.present(t, "ledger", "odd"+key[:min(len(key), 1021)])
		if key != "-empty" && value != key {
			t.Errorf("under %q is %q, want the key itself", key, value)
		}
	}
}

// Without it a mistyped name would be waited for as if it were in motion.
func unknownThings(t *testing.T, b *bench) {
	begun := time.Now()
	_, err := b.run(t, "work", func(tx *participant.Tx) error { return tx.Store("nobody").Put("k", "v") })
	aborted(t, err, participant.ErrUnknownParticipant)
	_, err = b.run(t, "work", func(tx *participant.Tx) error { return tx.Call("nobody", "reserve", nil, nil) })
	aborted(t, err, participant.ErrUnknownParticipant)
	_, err = b.run(t, "work", func(tx *participant.Tx) error {
		_, err := tx.Store("nobody").Get("k", nil)
		return err
	})
	aborted(t, err, participant.ErrUnknownParticipant)
	_, err = b.run(t, "nowhere", func(tx *participant.Tx) error { return tx.Store("ledger").Put("k", "v") })
	want(t, participant.ErrNotFound, err)
	want(t, participant.ErrNotFound, b.client.Group("nowhere").View(t.Context(), func(tx *participant.ReadTx) error {
		_, err := tx.Store("ledger").Get("k", nil)
		return err
	}))
	_, err = b.client.Group("nowhere").Outcome(t.Context(), "x")
	want(t, participant.ErrNotFound, err)
	_, err = b.run(t, "work", func(tx *participant.Tx) error {
		err := tx.Call("stock", "nothing", nil, nil)
		var call *participant.CallError
		if !errors.As(err, &call) || call.Code != participant.CallUnknownMethod {
			t.Errorf("got %v, want a *CallError of an unknown method", err)
		}
		return nil
	})
	want(t, nil, err)
	for _, app := range []*participant.App{participant.New("nowhere", "stock"), participant.New("work", "nobody")} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		var refused *participant.RefusedError
		if err := app.Serve(ctx, b.addrs); !errors.As(err, &refused) {
			t.Errorf("an instance of what is not there: got %v, want a *RefusedError", err)
		}
		cancel()
	}
	if took := time.Since(begun); took > within {
		t.Errorf("the answers took %s", took)
	}
}

// Without the request's digest an id used by mistake for something else would be
// answered with another transaction's receipt.
func idReused(t *testing.T, b *bench) {
	put := func(value string) func(*participant.Tx) error {
		return func(tx *participant.Tx) error { return tx.Store("ledger").Put("reused", value) }
	}
	first, err := b.run(t, "work", put("a"), participant.ID("reused"), participant.Request("a"))
	want(t, nil, err)
	again, err := b.run(t, "work", put("a"), participant.ID("reused"), participant.Request("a"))
	want(t, nil, err)
	if again != first {
		t.Errorf("the same request again: got %+v, want %+v", again, first)
	}
	_, err = b.run(t, "work", put("b"), participant.ID("reused"), participant.Request("b"))
	aborted(t, err, participant.ErrIDReused)
	_, err = b.run(t, "work", put("b"), participant.ID("reused"))
	aborted(t, err, participant.ErrIDReused)
	if got := b.present(t, "ledger", "reused"); got != "a" {
		t.Errorf("the value is %q, want a", got)
	}
}

// Without it an Add would turn text into a number, on some replicas perhaps.
func addToText(t *testing.T, b *bench) {
	for i, text := range []string{"text", "", "1.5", "007", "+1", " 1", "9223372036854775808"} {
		key := fmt.Sprintf("text-%d", i)
		_, err := b.run(t, "work", func(tx *participant.Tx) error { return tx.Store("ledger").Put(key, text) })
		want(t, nil, err)
		_, err = b.run(t, "work", func(tx *participant.Tx) error { return tx.Store("ledger").Add(key, 1) })
		if abort := aborted(t, err, participant.ErrConstraint); abort.Participant != "ledger" || abort.Key != key {
			t.Errorf("the abort names %s/%s, want ledger/%s", abort.Participant, abort.Key, key)
		}
		if got := b.present(t, "ledger", key); got != text {
			t.Errorf("the value is %q, want %q", got, text)
		}
	}
	for _, delta := range []int64{1, -1} {
		_, err := b.run(t, "work", func(tx *participant.Tx) error {
			return tx.Store("ledger").Put("counter", fmt.Sprint(delta*(1<<62)))
		})
		want(t, nil, err)
		_, err = b.run(t, "work", func(tx *participant.Tx) error { return tx.Store("ledger").Add("counter", delta*(1<<62)+min(delta, 0)) })
		aborted(t, err, participant.ErrConstraint)
	}
}

// Without admission a burst would be held in memory until everything is late.
func tooManyOpen(t *testing.T, b *bench) {
	first, second := b.begin(t, "narrow"), b.begin(t, "narrow")
	begun := time.Now()
	_, err := b.group("narrow").Begin(t.Context())
	aborted(t, err, participant.ErrOverloaded)
	if took := time.Since(begun); took > within {
		t.Errorf("it was refused after %s, want at once", took)
	}
	// Run waits its turn: the refusal is retryable.
	done := make(chan error, 1)
	go func() {
		_, err := b.group("narrow").Run(t.Context(), func(tx *participant.Tx) error {
			_, err := tx.Store("ledger").Get("k", nil)
			return err
		})
		done <- err
	}()
	want(t, nil, first.Abort(t.Context()))
	want(t, nil, <-done)
	_, err = second.Commit(t.Context())
	want(t, nil, err)
}

// Without it a client that lost an answer could never be sure that its
// transaction will not commit after all.
func outcomeOfOpen(t *testing.T, b *bench) {
	tx := b.begin(t, "narrow", participant.ID("settled"))
	want(t, nil, tx.Store("ledger").Put("settled", "no"))
	outcome := func(opts ...participant.OutcomeOption) participant.Outcome {
		out, err := b.group("narrow").Outcome(t.Context(), "settled", opts...)
		want(t, nil, err)
		return out
	}
	if out := outcome(); out.State != participant.Pending {
		t.Errorf("while it is open: %s, want pending", out.State)
	}
	if out := outcome(participant.Settle()); out.State != participant.Aborted || !errors.Is(out.Abort, participant.ErrSuperseded) {
		t.Errorf("settled: %s %v, want aborted, superseded", out.State, out.Abort)
	}
	_, err := tx.Commit(t.Context())
	aborted(t, err, participant.ErrSuperseded)
	if out := outcome(); out.State != participant.Aborted {
		t.Errorf("afterwards: %s, want aborted", out.State)
	}
	// An abort is of the attempt, not of the id.
	r, err := b.run(t, "narrow", func(tx *participant.Tx) error { return tx.Store("ledger").Put("settled", "yes") }, participant.ID("settled"))
	want(t, nil, err)
	if out := outcome(participant.Settle()); out.State != participant.Committed || out.Receipt != r {
		t.Errorf("after a later attempt: %s %+v, want committed %+v", out.State, out.Receipt, r)
	}
	if out, err := b.group("narrow").Outcome(t.Context(), "never-seen"); err != nil || out.State != participant.Unknown {
		t.Errorf("an id that nobody used: %s, %v", out.State, err)
	}
}

// stock is a service whose handlers misbehave. One that hangs says so first; one
// is stuck until release is closed.
func stock(group string, hanging chan<- struct{}, release <-chan struct{}) *participant.App {
	app := participant.New(group, "stock")
	app.Handle("reserve", participant.Func(func(_ context.Context, tx *participant.StepTx, _ []byte) (string, error) {
		return "reserved", tx.Store().Add("reserved", 1)
	}))
	app.Handle("hang", participant.Func(func(ctx context.Context, _ *participant.StepTx, _ []byte) (string, error) {
		if hanging != nil {
			hanging <- struct{}{}
		}
		<-ctx.Done()
		return "", ctx.Err()
	}))
	app.Handle("stuck", participant.Func(func(context.Context, *participant.StepTx, []byte) (string, error) {
		<-release
		return "", nil
	}))
	app.Handle("deaf", participant.Func(func(context.Context, *participant.StepTx, []byte) (string, error) {
		time.Sleep(2 * lease) // what does not look at its context
		return "late", nil
	}))
	app.Handle("panic", participant.Func(func(_ context.Context, tx *participant.StepTx, _ []byte) (string, error) {
		if err := tx.Store().Put("panicking", "x"); err != nil {
			return "", err
		}
		panic("out of shelves")
	}))
	app.Handle("mumble", participant.Func(func(_ context.Context, _ *participant.StepTx, words []byte) (string, error) {
		return "", errors.New(string(words))
	}))
	app.Handle("chatter", participant.Func(func(_ context.Context, _ *participant.StepTx, n int) ([]byte, error) {
		return make([]byte, n), nil
	}))
	app.Handle("swell", participant.Func(func(_ context.Context, tx *participant.StepTx, mib int) (string, error) {
		return "", tx.Store().Put("swollen", make([]byte, mib<<20))
	}))
	return app
}

// audit is a voter; the id tells what it does.
func audit() *participant.App {
	app := participant.New("work", "audit")
	app.Handle("note", participant.Func(func(_ context.Context, tx *participant.StepTx, _ []byte) (string, error) {
		return "noted", tx.Store().Put("note/"+tx.ID(), "x")
	}))
	app.OnPrepare(func(ctx context.Context, p *participant.Prepare) error {
		switch p.ID {
		case "vote-hang":
			<-ctx.Done()
			return ctx.Err()
		case "vote-deaf":
			time.Sleep(2 * lease)
		case "vote-no":
			return errors.New("the books are closed")
		case "vote-panic":
			panic("no ink")
		}
		return nil
	})
	return app
}

// bench is a cluster with a client.
type bench struct {
	cluster *cluster.Embedded
	client  *participant.Client
	addrs   string
}

func startBench(t *testing.T, o cluster.Options, groupFiles string) *bench {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	o.Dir = t.TempDir()
	c, err := cluster.StartEmbedded(ctx, o, "test", nil)
	want(t, nil, err)
	t.Cleanup(func() { want(t, nil, c.Close(context.Background())) })
	want(t, nil, c.WaitReady(ctx))
	client, err := participant.Dial(c.Addrs())
	want(t, nil, err)
	t.Cleanup(func() { client.Close() })
	b := &bench{cluster: c, client: client, addrs: c.Addrs()}
	request := &cohortv1.ApplyRequest{}
	for i, text := range strings.Split(groupFiles, "---\n") {
		request.Files = append(request.Files, &cohortv1.ApplyFile{Name: fmt.Sprintf("group-%d.yaml", i), Yaml: []byte(text)})
	}
	answer, err := client.Cluster().Apply(ctx, request)
	want(t, nil, err)
	if len(answer.Errors) > 0 {
		t.Fatalf("apply: %v", answer.Errors)
	}
	want(t, nil, cluster.WaitGroups(ctx, c.Members()[0].Addr))
	return b
}

// serve runs an instance until the test ends or the returned function is called,
// and waits until it is in the state.
func (b *bench) serve(t *testing.T, app *participant.App, state participant.ServeState, opts ...participant.ClientOption) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	states := make(chan participant.ServeState, 16)
	app.OnState(func(s participant.ServeState) {
		select {
		case states <- s:
		default:
		}
	})
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := app.Serve(ctx, b.addrs, opts...); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	stop = func() {
		cancel()
		serving.Wait()
	}
	t.Cleanup(stop)
	deadline := time.After(patience)
	for {
		select {
		case s := <-states:
			if s == state {
				return stop
			}
		case <-deadline:
			t.Fatalf("the instance did not become %s", state)
		}
	}
}

func (b *bench) group(name string) *participant.Group { return b.client.Group(name) }

func (b *bench) begin(t *testing.T, group string, opts ...participant.TxOption) *participant.Tx {
	t.Helper()
	tx, err := b.group(group).Begin(t.Context(), opts...)
	want(t, nil, err)
	return tx
}

func (b *bench) run(t *testing.T, group string, fn func(*participant.Tx) error, opts ...participant.TxOption) (participant.Receipt, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return b.group(group).Run(ctx, fn, opts...)
}

// works commits a transaction with a call, a vote and direct writes.
func (b *bench) works(t *testing.T) {
	t.Helper()
	begun := time.Now()
	_, err := b.run(t, "work", func(tx *participant.Tx) error {
		if err := tx.Call("stock", "reserve", nil, nil); err != nil {
			return err
		}
		if err := tx.Call("audit", "note", nil, nil); err != nil {
			return err
		}
		return tx.Store("ledger").Add("worked", 1)
	})
	if err != nil {
		t.Errorf("a normal transaction afterwards: %v", err)
	}
	if took := time.Since(begun); took > within {
		t.Errorf("a normal transaction afterwards took %s", took)
	}
}

func (b *bench) value(t *testing.T, participantName, key string) (value string, found bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err := b.group("work").View(ctx, func(tx *participant.ReadTx) (err error) {
		found, err = tx.Store(participantName).Get(key, &value)
		return err
	})
	want(t, nil, err)
	return value, found
}

func (b *bench) present(t *testing.T, participantName, key string) string {
	t.Helper()
	value, found := b.value(t, participantName, key)
	if !found {
		t.Errorf("%s has no %q", participantName, key)
	}
	return value
}

func (b *bench) absent(t *testing.T, participantName, key string) {
	t.Helper()
	if _, found := b.value(t, participantName, key); found {
		t.Errorf("%s has %q, of a transaction that did not commit", participantName, key)
	}
}

func (b *bench) eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !is() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s", what, patience)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// want compares an error with the one that it must be; nil for none.
func want(t *testing.T, target, err error) {
	t.Helper()
	if target == nil && err != nil {
		t.Fatalf("unexpected: %v", err)
	}
	if target != nil && !errors.Is(err, target) {
		t.Errorf("got %v, want %v", err, target)
	}
}

func aborted(t *testing.T, err, target error) *participant.AbortError {
	t.Helper()
	var abort *participant.AbortError
	if !errors.As(err, &abort) || !errors.Is(err, target) {
		t.Errorf("got %v, want an abort: %v", err, target)
		return &participant.AbortError{}
	}
	return abort
}
