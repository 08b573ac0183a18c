package participant_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/participant"
)

// Without it a write that could not be staged would be left out of a transaction
// that commits, when its error is overlooked.
func TestOverlookedErrorsDoomTheAttempt(t *testing.T) {
	g, group := started(t, "orders")
	for name, fn := range map[string]func(*participant.Tx){
		"value":  func(tx *participant.Tx) { tx.Store("orders").Put("o", make(chan int)) },
		"key":    func(tx *participant.Tx) { tx.Store("orders").Put("", "v") },
		"name":   func(tx *participant.Tx) { tx.Store("a/b").Add("k", 1) },
		"lookup": func(tx *participant.Tx) { tx.Store("a/b").Get("k", nil) },
	} {
		_, err := group.Run(testContext(t), func(tx *participant.Tx) error {
			fn(tx)
			return tx.Store("orders").Put("half", name)
		})
		if err == nil || g.value("orders", "half") != "" {
			t.Errorf("%s: committed the other half: %v", name, err)
		}
	}
}

// Without it a request to a cluster that is gone would outlast its patience many
// times over, or be called undecided though nothing was sent.
func TestNobodyAnswers(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := lis.Addr().String()
	lis.Close()
	group := dial(t, addr, participant.WithPatience(150*time.Millisecond)).Group(groupName)
	for name, fn := range map[string]func() error{
		"read": func() error {
			_, err := group.Run(context.Background(), func(tx *participant.Tx) error { _, err := tx.Store("p").Get("k", nil); return err })
			return err
		},
		"blind": func() error {
			_, err := group.Run(context.Background(), func(tx *participant.Tx) error { return tx.Store("p").Put("k", "v") })
			return err
		},
		"view": func() error {
			return group.View(context.Background(), func(*participant.ReadTx) error { return nil })
		},
		"log": func() error {
			for _, err := range group.Log(context.Background(), 1, participant.NoWait()) {
				return err
			}
			return nil
		},
	} {
		done := make(chan error, 1)
		go func() { done <- fn() }()
		select {
		case err := <-done:
			var unknown *participant.IndeterminateError
			if !errors.Is(err, participant.ErrUnavailable) || errors.As(err, &unknown) {
				t.Errorf("%s: %v", name, err)
			}
		case <-time.After(3 * time.Second):
			t.Errorf("%s: still at it after twenty times its patience", name)
		}
	}
}

// Without it a retryable abort that the function does not pass on would end Run.
func TestRunTriesAgainWhateverTheFunctionMakesOfAnAbort(t *testing.T) {
	g, group := started(t, "ledger")
	runs := 0
	_, err := group.Run(testContext(t), func(tx *participant.Tx) error {
		if _, err := tx.Store("ledger").Get("n", nil); err != nil {
			return err
		}
		if runs++; runs == 1 {
			g.mu.Lock()
			clear(g.attempts)
			g.mu.Unlock()
		}
		if _, err := tx.Store("ledger").Get("n", nil); err != nil {
			return fmt.Errorf("reading failed: %v", err)
		}
		return nil
	})
	if err != nil || runs != 2 {
		t.Fatal(err, runs)
	}
}

// Without it an attempt would stay open, with all it holds, until its timeout.
func TestPanicOfTheFunctionGivesTheAttemptUp(t *testing.T) {
	g, group := started(t, "ledger")
	func() {
		defer func() { recover() }()
		_, _ = group.Run(testContext(t), func(tx *participant.Tx) error { panic("oh no") }, participant.ID("x"))
	}()
	if n := g.count("Abort"); n != 1 {
		t.Errorf("%d aborts", n)
	}
}

// Without it a blind write whose answer was lost could be called aborted by the
// answer to its second sending, and commit by the first.
func TestLostBlindCommitIsSettledBeforeItIsCalledAborted(t *testing.T) {
	g, group := started(t, "ledger")
	g.fault = func(method string, n int, after bool) error {
		if method == "Commit" && n == 1 && !after {
			return lostAnswer()
		}
		return nil
	}
	_, err := group.Run(testContext(t), func(tx *participant.Tx) error {
		return tx.Store("ledger").Add("n", -1, participant.AtLeast(0))
	})
	if !errors.Is(err, participant.ErrConstraint) || g.count("Outcome") != 1 {
		t.Fatal(err, g.count("Outcome"))
	}
}

// Without it a server's empty page would be asked for again for ever.
func TestScanThatMakesNoProgressEnds(t *testing.T) {
	g, group := started(t, "ledger")
	g.set("ledger", "k", "v")
	g.emptyPages = true
	_, err := group.Run(testContext(t), func(tx *participant.Tx) error {
		for _, err := range tx.Store("ledger").Scan("") {
			return err
		}
		return nil
	})
	var wrong *participant.RequestError
	if !errors.As(err, &wrong) || g.count("Scan") > 2 {
		t.Fatal(err, g.count("Scan"))
	}
}

// Without it a handler that heeds no context would keep its participant from ever
// attaching again, or Serve from ending.
func TestHungHandlerDoesNotHoldTheApp(t *testing.T) {
	g := newFakeGroup("inventory")
	one, two := g.node(t), g.node(t)
	entered, release := make(chan struct{}), make(chan struct{})
	app := participant.New(groupName, "inventory")
	app.Handle("hang", participant.Func(func(context.Context, *participant.StepTx, any) (any, error) {
		close(entered)
		<-release
		return nil, nil
	}))
	serve(t, app, one.addr+","+two.addr)
	t.Cleanup(func() { close(release) }) // before Serve's end is waited for
	g.waitAttached(t, "inventory", 1)
	g.active("inventory").tell(stepMessage(77, 1, "hang"))
	<-entered
	one.server.Stop()
	g.waitAttached(t, "inventory", 2)
}

// Without it the failure of a handler that a broken stream cut off would be
// remembered as the step's own, and answer the step when it is sent again.
func TestStepCutOffByTheStreamIsNotRemembered(t *testing.T) {
	g := newFakeGroup("inventory")
	one, two := g.node(t), g.node(t)
	entered := make(chan struct{}, 2)
	var runs atomic.Int32
	app := participant.New(groupName, "inventory")
	app.Handle("wait", participant.Func(func(ctx context.Context, _ *participant.StepTx, _ any) (string, error) {
		entered <- struct{}{}
		if runs.Add(1) == 1 {
			select {
			case <-ctx.Done():
				return "", ctx.Err()
			case <-time.After(200 * time.Millisecond):
			}
		}
		return "fine", nil
	}))
	serve(t, app, one.addr+","+two.addr)
	g.waitAttached(t, "inventory", 1)
	g.active("inventory").tell(stepMessage(77, 1, "wait"))
	<-entered
	one.server.Stop()
	g.waitAttached(t, "inventory", 2)
	m := g.ask(testContext(t), g.active("inventory"), func(call, epoch uint64) *pb.NodeMessage { return stepMessage(call, epoch, "wait") })
	if m.GetStepResult().GetReply() == nil {
		t.Fatal(m)
	}
}

// Without it a step sent twice at once would run twice at once.
func TestStepSentTwiceAtOnceRunsOnce(t *testing.T) {
	g, _ := started(t, "inventory")
	var runs atomic.Int32
	entered, release := make(chan struct{}, 2), make(chan struct{})
	app := participant.New(groupName, "inventory")
	app.Handle("slow", participant.Func(func(context.Context, *participant.StepTx, any) (int32, error) {
		entered <- struct{}{}
		<-release
		return runs.Add(1), nil
	}))
	serve(t, app, g.node(t).addr)
	g.waitAttached(t, "inventory", 1)
	i := g.active("inventory")
	i.tell(stepMessage(77, 1, "slow"))
	<-entered
	done := make(chan *pb.InstanceMessage)
	go func() {
		done <- g.ask(testContext(t), i, func(call, epoch uint64) *pb.NodeMessage { return stepMessage(call, epoch, "slow") })
	}()
	select {
	case <-entered:
		t.Error("ran twice")
	case <-time.After(50 * time.Millisecond):
	}
	close(release)
	if got := string((<-done).GetStepResult().GetReply().GetPayload()); got != "1" {
		t.Error(got)
	}
}

// Without it a caller would wait for a fenced instance until its time is up, and
// an old activation could take the place of a newer one.
func TestStaleEpochs(t *testing.T) {
	g, _ := started(t, "inventory")
	app := participant.New(groupName, "inventory")
	entered, canceled := make(chan struct{}), make(chan struct{})
	app.Handle("echo", participant.Func(func(_ context.Context, _ *participant.StepTx, in any) (any, error) { return in, nil }))
	app.Handle("wait", participant.Func(func(ctx context.Context, _ *participant.StepTx, _ any) (any, error) {
		close(entered)
		<-ctx.Done()
		close(canceled)
		return nil, ctx.Err()
	}))
	serve(t, app, g.node(t).addr)
	g.waitAttached(t, "inventory", 1)
	i := g.active("inventory")
	ask := func(epoch uint64, method string) *pb.StepResult {
		ctx, cancel := context.WithTimeout(testContext(t), 2*time.Second)
		defer cancel()
		return g.ask(ctx, i, func(call, _ uint64) *pb.NodeMessage { return stepMessage(call, epoch, method) }).GetStepResult()
	}
	activate := func(epoch uint64) {
		i.tell(&pb.NodeMessage{Message: &pb.NodeMessage_Activated{Activated: &pb.Activated{Epoch: epoch, Incarnation: 1, CoordinatorEpoch: 1}}})
	}
	if r := ask(9, "echo"); r.GetFailure().GetCode() != pb.StepFailure_CODE_INSTANCE_LOST {
		t.Errorf("a step of another epoch: %v", r)
	}
	activate(5)
	activate(3)
	if r := ask(5, "echo"); r.GetReply() == nil {
		t.Errorf("an old activation took over: %v", r)
	}
	msg := stepMessage(90, 5, "wait")
	msg.GetStep().Step = 2
	i.tell(msg)
	<-entered
	i.tell(&pb.NodeMessage{Message: &pb.NodeMessage_Fenced{Fenced: &pb.Fenced{Epoch: 6}}})
	select {
	case <-canceled:
	case <-time.After(2 * time.Second):
		t.Error("a fenced handler was not told")
	}
}

// Without it what a leaving instance says last would be lost with its stream.
func TestGoodbyeArrives(t *testing.T) {
	for range 20 {
		g, _ := started(t, "inventory")
		active := make(chan participant.ServeState, 1)
		app := inventory()
		app.OnState(func(s participant.ServeState) { active <- s })
		stop := serve(t, app, g.node(t).addr)
		<-active
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		g.waitFor(t, "goodbye", func() bool { return !g.instances["inventory"].attached })
		g.mu.Lock()
		byes := g.instances["inventory"].byes
		g.mu.Unlock()
		if byes != 1 {
			t.Fatalf("%d goodbyes", byes)
		}
	}
}
