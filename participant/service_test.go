package participant_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/wrapperspb"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/participant"
)

type Reserve struct {
	SKU string `json:"sku"`
	N   int64  `json:"n"`
}

// serve runs an app until the test ends; stop ends it earlier and gives Serve's
// error.
func serve(t testing.TB, app *participant.App, addrs string, opts ...participant.ClientOption) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- app.Serve(ctx, addrs, opts...) }()
	var ended bool
	var err error
	stop = func() error {
		if cancel(); !ended {
			ended = true
			select {
			case err = <-done:
			case <-time.After(15 * time.Second):
				err = errors.New("Serve did not end")
			}
		}
		return err
	}
	t.Cleanup(func() { stop() })
	return stop
}

// waitTime bounds waiting for what comes in milliseconds on a machine that has
// nothing else to do.
const waitTime = 60 * time.Second

// waitFor waits until the group's state is as wanted.
func (g *fakeGroup) waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	timeout := time.After(waitTime)
	for {
		g.mu.Lock()
		good, changed := ok(), g.changed
		g.mu.Unlock()
		if good {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			t.Fatalf("waited in vain for: %s", what)
		}
	}
}

func (g *fakeGroup) waitAttached(t testing.TB, p string, times int) {
	t.Helper()
	g.waitFor(t, fmt.Sprintf("%s attached %d times", p, times), func() bool {
		i := g.instances[p]
		return i != nil && i.attached && i.attaches >= times
	})
}

func inventory() *participant.App {
	app := participant.New(groupName, "inventory")
	app.Handle("reserve", participant.Func(func(_ context.Context, tx *participant.StepTx, in Reserve) (int64, error) {
		var left int64
		if _, err := tx.Store().Get(in.SKU, &left); err != nil {
			return 0, err
		}
		if left < in.N {
			return 0, fmt.Errorf("%d of %s left", left, in.SKU)
		}
		if err := tx.Store().Add(in.SKU, -in.N, participant.AtLeast(0)); err != nil {
			return 0, err
		}
		_, err := tx.Store().Get(in.SKU, &left)
		return left, err
	}))
	app.Handle("panic", participant.Func(func(context.Context, *participant.StepTx, string) (string, error) { panic("oh no") }))
	app.Handle("hang", participant.Func(func(ctx context.Context, _ *participant.StepTx, _ string) (string, error) {
		<-ctx.Done()
		return "", ctx.Err()
	}))
	app.Handle("upper", participant.Func(func(_ context.Context, _ *participant.StepTx, in *wrapperspb.StringValue) (*wrapperspb.StringValue, error) {
		return wrapperspb.String(strings.ToUpper(in.GetValue())), nil
	}))
	return app
}

// Without it a handler would not see what its transaction did before, or its
// changes would not commit with it.
func TestCallInsideATransaction(t *testing.T) {
	g, group := started(t, "inventory", "orders")
	node := g.node(t)
	g.set("inventory", "apple", "5")
	serve(t, inventory(), node.addr)
	g.waitAttached(t, "inventory", 1)
	_, err := group.Run(testContext(t), func(tx *participant.Tx) error {
		if err := tx.Store("inventory").Add("apple", 2); err != nil {
			return err
		}
		var left int64
		if err := tx.Call("inventory", "reserve", Reserve{"apple", 3}, &left); err != nil {
			return err
		}
		if left != 4 {
			return fmt.Errorf("%d left", left)
		}
		var seen int64
		if _, err := tx.Store("inventory").Get("apple", &seen); err != nil || seen != 4 {
			return fmt.Errorf("saw %d, %w", seen, err)
		}
		var loud wrapperspb.StringValue
		if err := tx.Call("inventory", "upper", wrapperspb.String("a"), &loud); err != nil || loud.Value != "A" {
			return fmt.Errorf("%q, %w", loud.Value, err)
		}
		return tx.Store("orders").Put("o", left)
	})
	if err != nil || g.value("inventory", "apple") != "4" || g.value("orders", "o") != "4" {
		t.Fatal(err, g.value("inventory", "apple"))
	}
}

// Without it a bad handler would take the process, the transaction, or the group
// with it, or its caller could not tell why.
func TestFailingHandlers(t *testing.T) {
	g, group := started(t, "inventory")
	serve(t, inventory(), g.node(t).addr)
	g.waitAttached(t, "inventory", 1)
	for _, c := range []struct {
		method string
		in     any
		code   participant.CallCode
		is     error
		text   string
	}{
		{"reserve", Reserve{"apple", 1}, participant.CallRefused, participant.ErrVote, "0 of apple left"},
		{"reserve", []byte("{"), participant.CallBadPayload, nil, "decode"},
		{"panic", "", participant.CallPanic, nil, "oh no"},
		{"hang", "", participant.CallTimeout, participant.ErrTimeout, ""},
		{"nothing", "", participant.CallUnknownMethod, nil, "nothing"},
	} {
		_, err := group.Run(testContext(t), func(tx *participant.Tx) error {
			err := tx.Call("inventory", c.method, c.in, nil)
			var call *participant.CallError
			if !errors.As(err, &call) || call.Code != c.code || call.Method != c.method || !strings.Contains(err.Error(), c.text) {
				return fmt.Errorf("%s: %w", c.method, err)
			}
			if c.is != nil && !errors.Is(err, c.is) {
				return fmt.Errorf("%s is not %v: %w", c.method, c.is, err)
			}
			return tx.Store("inventory").Put("went/on", c.method)
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// Without it a lost answer to a call would run its handler twice, or fail it.
func TestLostCallAnswer(t *testing.T) {
	g, group := started(t, "inventory")
	var runs atomic.Int32
	app := participant.New(groupName, "inventory")
	app.Handle("once", participant.Func(func(_ context.Context, tx *participant.StepTx, _ any) (any, error) {
		runs.Add(1)
		return nil, tx.Store().Add("n", 1)
	}))
	serve(t, app, g.node(t).addr)
	g.waitAttached(t, "inventory", 1)
	g.fault = func(method string, n int, after bool) error {
		if method == "Call" && n == 1 && after {
			return lostAnswer()
		}
		return nil
	}
	_, err := group.Run(testContext(t), func(tx *participant.Tx) error { return tx.Call("inventory", "once", nil, nil) })
	if err != nil || runs.Load() != 1 || g.value("inventory", "n") != "1" {
		t.Fatal(err, runs.Load(), g.value("inventory", "n"))
	}
}

// Without it a broken connection would cost the participant its activation.
func TestReconnectsAsTheSameInstance(t *testing.T) {
	g := newFakeGroup("inventory")
	one, two := g.node(t), g.node(t)
	states := make(chan participant.ServeState, 16)
	app := inventory()
	app.OnState(func(s participant.ServeState) { states <- s })
	stop := serve(t, app, one.addr+","+two.addr)
	for i, want := range []participant.ServeState{participant.Active, participant.Connecting, participant.Active} {
		if got := <-states; got != want {
			t.Fatalf("state %s, want %s", got, want)
		}
		if i == 0 {
			one.server.Stop()
		}
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	i := g.instances["inventory"]
	if i.epoch != 1 || len(i.hellos) != 2 || i.hellos[0].Instance != i.hellos[1].Instance || len(i.hellos[0].Instance) != 32 {
		t.Errorf("epoch %d, hellos %v", i.epoch, i.hellos)
	}
}

// Without it a participant that the group does not have would wait for ever.
func TestRefused(t *testing.T) {
	g, _ := started(t, "inventory")
	err := participant.New(groupName, "inventori").Serve(testContext(t), g.node(t).addr)
	var no *participant.RefusedError
	if !errors.As(err, &no) || no.Code != "unknown_participant" {
		t.Fatal(err)
	}
}

// Without it a voter's no would not count, or it would not hear what became.
func TestVotes(t *testing.T) {
	g, group := started(t, "inventory")
	notices := make(chan participant.Notice, 4)
	app := inventory()
	var refusal error
	asked := 0
	app.OnPrepare(func(_ context.Context, p *participant.Prepare) error {
		asked++
		if errors.Is(refusal, participant.ErrConflict) && asked == 3 {
			return nil // the moment has passed
		}
		return refusal
	})
	app.OnOutcome(func(n participant.Notice) { notices <- n })
	serve(t, app, g.node(t).addr)
	g.waitAttached(t, "inventory", 1)
	place := func() (participant.Receipt, error) {
		return group.Run(testContext(t), func(tx *participant.Tx) error { return tx.Call("inventory", "upper", wrapperspb.String("x"), nil) })
	}
	receipt, err := place()
	if err != nil {
		t.Fatal(err)
	}
	notice := &pb.NodeMessage{Message: &pb.NodeMessage_Notice{Notice: &pb.Notice{
		Attempt: &pb.Attempt{Id: receipt.ID, Begun: receipt.Begun, Nonce: receipt.Begun}, Position: receipt.Position,
	}}}
	i := g.active("inventory")
	i.tell(notice)
	i.tell(notice) // told twice, heard once
	if n := <-notices; n.ID != receipt.ID || !n.Committed || n.Position != receipt.Position {
		t.Errorf("%+v", n)
	}
	refusal = errors.New("not today")
	if _, err := place(); !errors.Is(err, participant.ErrVote) || !strings.Contains(err.Error(), "not today") {
		t.Error(err)
	}
	select {
	case n := <-notices:
		t.Errorf("a second notice: %+v", n)
	default:
	}
	asked, refusal = 0, fmt.Errorf("%w: the database restarts", participant.ErrConflict)
	if _, err := place(); err != nil || asked != 3 {
		t.Errorf("a no of the moment: %v after %d votes, want that the third is counted", err, asked)
	}
}

func stepMessage(call, epoch uint64, method string) *pb.NodeMessage {
	return &pb.NodeMessage{Message: &pb.NodeMessage_Step{Step: &pb.Step{
		Call: call, Attempt: &pb.Attempt{Id: "t", Begun: 1, Nonce: 1}, Step: 1, Method: method, Payload: []byte("null"),
		ContentType: "application/json", ActivationEpoch: epoch, CoordinatorEpoch: 1, TimeoutMs: 5000,
	}}}
}

// Without it a step that is sent again would run again, and could answer
// otherwise.
func TestResentStepIsAnsweredFromMemory(t *testing.T) {
	g, _ := started(t, "inventory")
	var runs atomic.Int32
	app := participant.New(groupName, "inventory")
	app.Handle("count", participant.Func(func(context.Context, *participant.StepTx, any) (int32, error) { return runs.Add(1), nil }))
	serve(t, app, g.node(t).addr)
	g.waitAttached(t, "inventory", 1)
	for range 3 {
		m := g.ask(testContext(t), g.active("inventory"), func(call, epoch uint64) *pb.NodeMessage { return stepMessage(call, epoch, "count") })
		if got := string(m.GetStepResult().GetReply().GetPayload()); got != "1" {
			t.Fatalf("%q", got)
		}
	}
}

// Without it work that was under way would be lost when a service is stopped.
func TestLeavesGracefully(t *testing.T) {
	g, group := started(t, "inventory")
	entered, release := make(chan struct{}), make(chan struct{})
	app := participant.New(groupName, "inventory")
	app.Handle("slow", participant.Func(func(_ context.Context, tx *participant.StepTx, _ any) (string, error) {
		close(entered)
		<-release
		return "done", tx.Store().Put("k", "v")
	}))
	stop := serve(t, app, g.node(t).addr)
	g.waitAttached(t, "inventory", 1)
	answer := make(chan string, 1)
	go func() {
		var out string
		_, err := group.Run(testContext(t), func(tx *participant.Tx) error {
			if err := tx.Call("inventory", "slow", nil, &out); err != nil {
				return err
			}
			return errStop
		})
		answer <- fmt.Sprint(out, " ", err)
	}()
	<-entered
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	close(release)
	if got := <-answer; got != "done stop" {
		t.Error(got)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}
