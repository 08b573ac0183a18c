package participant_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/participant"
)

// captured puts a complete captured state into the group.
func (g *fakeGroup) captured(p string, position uint64, balances map[string]int64) {
	data, err := json.Marshal(balances)
	if err != nil {
		panic(err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.states[p] = &fakeCapture{checkpoint: 1, position: position, data: data, done: true}
}

// many is balances that make a captured state of several chunks.
func many(n int) map[string]int64 {
	out := map[string]int64{}
	for i := range n {
		out[fmt.Sprintf("account-%d", i)] = int64(i)
	}
	return out
}

// deposits puts changes into the log without an instance.
func (g *fakeGroup) deposits(p string, n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for range n {
		position := g.position + 1
		change, _ := json.Marshal(setBalance{Account: fmt.Sprintf("account-%d", position%10), Balance: int64(position)})
		g.applyLocked(fmt.Sprintf("d-%d", position), 0, []*pb.Op{{Participant: p, Op: &pb.Op_Log{Log: &pb.LogChange{Change: change}}}}, nil)
	}
}

// Without it a broken connection would cost a restore its beginning, or a wrong
// byte would be believed.
func TestRestoreGoesOnWhereItBrokeAndChecksTheSum(t *testing.T) {
	g, _ := started(t, "bank")
	g.deposits("bank", 10)
	g.captured("bank", 7, many(500))
	var breaks atomic.Int32
	var begun []uint64
	g.readFault = func(offset uint64) error {
		if n := breaks.Add(1); n%3 == 0 && n < 20 {
			begun = append(begun, offset)
			return lostAnswer()
		}
		if offset > 4000 && breaks.Load() > 20 {
			g.mu.Lock()
			g.rotten = false
			g.mu.Unlock()
		}
		return nil
	}
	g.rotten = true // until the first stream has come far
	b := newBank()
	serve(t, bankApp("bank", b, b.balance), g.node(t).addr)
	g.waitReady(t, "bank")
	want := many(500)
	for p := 8; p <= 10; p++ {
		want[fmt.Sprintf("account-%d", p%10)] = int64(p)
	}
	if got := b.copy(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%d accounts, want %d", len(got), len(want))
	}
	if !slices.Equal(b.positions(), []uint64{8, 9, 10}) || len(b.restored) != 1 || b.restored[0] != (participant.Point{Incarnation: 1, Position: 7}) {
		t.Errorf("restored %v, applied %v", b.restored, b.positions())
	}
	if len(begun) < 3 {
		t.Errorf("the stream broke at %v only", begun)
	}
}

// Without it an instance whose log is gone would stop for ever, and one whose group
// was restored in place would go on in a life that is over.
func TestStateIsRestoredWhenTheLogCannotBeFollowed(t *testing.T) {
	for name, change := range map[string]func(g *fakeGroup){
		"truncated": func(g *fakeGroup) { g.logFirst = g.position + 1 },
		"restored":  func(g *fakeGroup) { g.incarnation = 2 },
	} {
		t.Run(name, func(t *testing.T) {
			g, _ := started(t, "bank")
			node := g.node(t)
			g.deposits("bank", 5)
			b := newBank()
			app := bankApp("bank", b, b.balance)
			serve(t, app, node.addr)
			g.waitReady(t, "bank")
			g.mu.Lock()
			first := g.instances["bank"].nonce
			g.mu.Unlock()
			if !slices.Equal(b.positions(), []uint64{1, 2, 3, 4, 5}) {
				t.Fatal(b.positions())
			}
			// The streams break, and meanwhile the log has gone on.
			node.server.Stop()
			g.deposits("bank", 5)
			g.captured("bank", 9, map[string]int64{"x": 9})
			g.mu.Lock()
			g.position = 9
			change(g)
			g.position = 10
			g.mu.Unlock()
			again := g.startNode(node.addr)
			t.Cleanup(again.server.Stop)
			waitUntil(t, "restored and applied", func() bool { return b.balance("x") == 9 && b.balance("account-0") == 10 })
			g.waitFor(t, "ready as another instance", func() bool {
				i := g.instances["bank"]
				return i.ready && i.nonce != first && i.epoch == 2
			})
		})
	}
}

// Without it a state that keeps its Point would be restored for nothing.
func TestStateIsFollowedFromItsPoint(t *testing.T) {
	g, _ := started(t, "bank")
	g.deposits("bank", 10)
	g.captured("bank", 7, many(3))
	b := &storedBank{bank: newBank(), point: participant.Point{Incarnation: 1, Position: 6}}
	serve(t, bankApp("bank", b, b.balance), g.node(t).addr)
	g.waitReady(t, "bank")
	if !slices.Equal(b.positions(), []uint64{7, 8, 9, 10}) || len(b.restored) != 0 {
		t.Errorf("restored %v, applied %v", b.restored, b.positions())
	}
}

// storedBank keeps its Point with its balances.
type storedBank struct {
	*bank
	point participant.Point
}

func (b *storedBank) Point(context.Context) (participant.Point, error) { return b.point, nil }

// Without it an entry that the state cannot take would be left out, or tried for
// ever by a process that may be what is wrong.
func TestFailingApplyBeginsAnewAndEndsServeInTheEnd(t *testing.T) {
	t.Parallel() // it waits between its tries
	g, _ := started(t, "bank")
	g.deposits("bank", 3)
	g.captured("bank", 1, map[string]int64{"account-1": 1})
	b := newBank()
	var failures atomic.Int32
	var healed atomic.Bool
	b.failing = func(e participant.Entry) error {
		if !healed.Load() && e.Position == 3 {
			if failures.Add(1) == 3 {
				healed.Store(true)
			}
			return errors.New("no room")
		}
		if e.Position == 5 {
			panic("cannot be")
		}
		return nil
	}
	app := bankApp("bank", b, b.balance)
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	node := g.node(t)
	quiet := slog.New(slog.DiscardHandler)
	go func() { done <- app.Serve(ctx, node.addr, participant.WithLogger(quiet)) }()
	g.waitReady(t, "bank")
	if len(b.restored) != 4 || b.balance("account-3") != 3 {
		t.Errorf("restored %v times, %v", len(b.restored), b.copy())
	}
	g.deposits("bank", 2)
	err := <-done
	var state *participant.StateError
	if !errors.As(err, &state) || state.Op != "apply" || !strings.Contains(err.Error(), "cannot be") {
		t.Fatal(err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if i := g.instances["bank"]; i.ready {
		t.Error("it is still ready")
	}
}

// Without it a checkpoint would hold a state of another position, the state would
// stand still while it is sent, or a broken stream would cost it the beginning.
func TestCaptureUnderLoad(t *testing.T) {
	g, group := started(t, "bank")
	b := newBank()
	large := bytes.Repeat([]byte(" "), 1<<20) // white space before the JSON
	applied := make(chan struct{})
	b.writing = func(w io.Writer) error {
		if _, err := w.Write([]byte(" ")); err != nil {
			return err
		}
		<-applied
		for range 11 { // more than the window
			if _, err := w.Write(large); err != nil {
				return err
			}
		}
		return nil
	}
	faults := 0
	g.writeFault = func(offset uint64) (error, bool) {
		switch {
		case faults == 0 && offset > 3<<20:
			faults++
			return lostAnswer(), false
		case faults == 1 && offset > 9<<20:
			faults++
			return lostAnswer(), true // the node has lost what it had
		}
		return nil, false
	}
	serve(t, bankApp("bank", b, b.balance), g.node(t).addr)
	g.waitReady(t, "bank")
	put(t, group, "bank", "deposit", deposit{"ann", 5})
	checkpoint, position := g.capture("bank")
	g.waitFor(t, "captured", func() bool { return g.capturedLocked("bank", checkpoint) != nil })
	last := put(t, group, "bank", "deposit", deposit{"ann", 5})
	waitApplied(t, b, last.Position)
	close(applied)
	g.waitFor(t, "stored", func() bool { return g.states["bank"] != nil })
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.states["bank"]
	var got map[string]int64
	if err := json.Unmarshal(s.data, &got); err != nil || got["ann"] != 5 || s.position != position || s.checkpoint != checkpoint {
		t.Errorf("%v, %v at %d", got, err, s.position)
	}
	if c := g.capturedLocked("bank", checkpoint); c.Failure != "" || c.Position != position || c.ActivationEpoch != 1 {
		t.Errorf("%v", c)
	}
	if sent, size := g.stored, uint64(len(s.data)); sent < size+9<<20 || sent > size+10<<20 {
		t.Errorf("%d bytes were sent for %d: once from 3 MiB on, once anew at 9", sent, size)
	}
}

// Without it a checkpoint would wait for ever for a state that does not come, or a
// failing capture would harm more than its checkpoint.
func TestCaptureFails(t *testing.T) {
	g, group := started(t, "bank")
	b := newBank()
	var fail atomic.Bool
	fail.Store(true)
	b.writing = func(w io.Writer) error {
		if fail.Load() {
			w.Write([]byte("half of it"))
			return errors.New("the disk is gone")
		}
		return nil
	}
	serve(t, bankApp("bank", b, b.balance), g.node(t).addr)
	g.waitReady(t, "bank")
	put(t, group, "bank", "deposit", deposit{"ann", 5})
	checkpoint, _ := g.capture("bank")
	g.waitFor(t, "the capture's failure", func() bool {
		c := g.capturedLocked("bank", checkpoint)
		return c != nil && strings.Contains(c.Failure, "the disk is gone")
	})
	late := put(t, group, "bank", "deposit", deposit{"ann", 5})
	waitApplied(t, b, late.Position)
	i := g.active("bank")
	i.tell(&pb.NodeMessage{Message: &pb.NodeMessage_Capture{Capture: &pb.Capture{Checkpoint: 50, Position: late.Position - 1, ActivationEpoch: 1}}})
	g.waitFor(t, "a late capture's failure", func() bool { return g.capturedLocked("bank", 50).GetFailure() != "" })
	i.tell(&pb.NodeMessage{Message: &pb.NodeMessage_Capture{Capture: &pb.Capture{Checkpoint: 51, Position: late.Position, ActivationEpoch: 9}}})
	g.waitFor(t, "a fenced capture's failure", func() bool { return g.capturedLocked("bank", 51).GetFailure() != "" })
	fail.Store(false)
	checkpoint, _ = g.capture("bank")
	g.waitFor(t, "the next capture", func() bool { return g.states["bank"] != nil && g.states["bank"].checkpoint == checkpoint })
}

// firstBank is a bank whose handlers change it at once.
func firstBank(b *bank, undo bool) (participant.OwnState, *participant.App) {
	var state participant.OwnState = b
	if undo {
		state = &undoingBank{b}
	}
	app := participant.New(groupName, "bank")
	app.State(state, participant.AppliesFirst())
	app.Handle("deposit", participant.Func(func(_ context.Context, tx *participant.StepTx, in deposit) (int64, error) {
		if err := tx.Lock(in.Account); err != nil {
			return 0, err
		}
		after := b.balance(in.Account) + in.Amount
		if err := tx.Log(setBalance{in.Account, after, in.Amount}, participant.AlreadyApplied()); err != nil {
			return 0, err
		}
		b.set(in.Account, after)
		if in.Amount == 13 {
			return 0, errors.New("not thirteen")
		}
		return after, nil
	}))
	return state, app
}

// undoingBank takes deposits back.
type undoingBank struct{ *bank }

func (b *undoingBank) Undo(_ context.Context, id string, changes []participant.Change) error {
	defer b.alone()()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.undone = append(b.undone, id)
	for _, c := range slices.Backward(changes) {
		var set setBalance
		if err := json.Unmarshal(c.Value, &set); err != nil {
			return err
		}
		b.balances[set.Account] -= set.By
	}
	return nil
}

// Without it a change that was made first would be made twice, or stay when its
// transaction does not commit.
func TestAlreadyApplied(t *testing.T) {
	g, group := started(t, "bank")
	b := newBank()
	_, app := firstBank(b, true)
	serve(t, app, g.node(t).addr)
	g.waitReady(t, "bank")
	for range 3 {
		put(t, group, "bank", "deposit", deposit{"ann", 1})
	}
	if b.balance("ann") != 3 || len(b.positions()) != 0 {
		t.Fatalf("%d after three, applied %v", b.balance("ann"), b.positions())
	}
	// The workflow gives up: taken back before anybody else gets the lock.
	if _, err := group.Run(testContext(t), func(tx *participant.Tx) error {
		return errors.Join(tx.Call("bank", "deposit", deposit{"ann", 1}, nil), errStop)
	}); !errors.Is(err, errStop) {
		t.Fatal(err)
	}
	put(t, group, "bank", "deposit", deposit{"ann", 1})
	if b.balance("ann") != 4 || len(b.undone) != 1 {
		t.Fatalf("%d, undone %v", b.balance("ann"), b.undone)
	}
	// A failed step is taken back before its caller goes on.
	_, err := group.Run(testContext(t), func(tx *participant.Tx) error {
		if err := tx.Call("bank", "deposit", deposit{"ann", 13}, nil); !errors.Is(err, participant.ErrVote) {
			return fmt.Errorf("thirteen: %w", err)
		}
		if n := b.balance("ann"); n != 4 {
			return fmt.Errorf("%d after a failed step", n)
		}
		return tx.Call("bank", "deposit", deposit{"ann", 1}, nil)
	})
	if err != nil || b.balance("ann") != 5 || len(b.undone) != 2 {
		t.Fatal(err, b.copy(), b.undone)
	}
	checkpoint, _ := g.capture("bank")
	g.waitFor(t, "captured", func() bool { return g.states["bank"] != nil })
	// While a change is not decided, the state is nobody's checkpoint.
	open, err := group.Begin(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := open.Call("bank", "deposit", deposit{"ann", 1}, nil); err != nil {
		t.Fatal(err)
	}
	checkpoint, _ = g.capture("bank")
	g.waitFor(t, "no capture", func() bool {
		return strings.Contains(g.capturedLocked("bank", checkpoint).GetFailure(), "not decided")
	})
	if _, err := open.Commit(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if b.balance("ann") != 6 || len(b.positions()) != 0 {
		t.Error(b.copy(), b.positions())
	}
}

// Without it a handler that outlives its attempt would have its changes captured,
// or keep them, or lose its locks while it makes them.
func TestHandlerThatOutlivesItsAttemptIsTakenBack(t *testing.T) {
	g, group := started(t, "bank")
	g.lease = 300 * time.Millisecond
	b := newBank()
	release := make(chan struct{})
	app := participant.New(groupName, "bank")
	app.State(&undoingBank{b}, participant.AppliesFirst())
	app.Handle("slow", participant.Func(func(_ context.Context, tx *participant.StepTx, in deposit) (any, error) {
		if err := errors.Join(tx.Lock(in.Account), tx.Log(setBalance{in.Account, 1, 1}, participant.AlreadyApplied())); err != nil {
			return nil, err
		}
		<-release // heeds no context
		b.set(in.Account, 1)
		return nil, nil
	}))
	app.Handle("look", participant.Func(func(_ context.Context, tx *participant.StepTx, account string) (int64, error) {
		if err := tx.Lock(account); err != nil {
			return 0, err
		}
		return b.balance(account), nil
	}))
	serve(t, app, g.node(t).addr)
	g.waitReady(t, "bank")
	_, err := group.Run(testContext(t), func(tx *participant.Tx) error { return tx.Call("bank", "slow", deposit{Account: "ann"}, nil) })
	if !errors.Is(err, participant.ErrTimeout) {
		t.Fatal(err)
	}
	checkpoint, _ := g.capture("bank")
	g.waitFor(t, "no capture", func() bool { return strings.Contains(g.capturedLocked("bank", checkpoint).GetFailure(), "not decided") })
	close(release)
	waitUntil(t, "taken back", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.undone) == 1
	})
	var left int64
	if _, err := group.Run(testContext(t), func(tx *participant.Tx) error { return tx.Call("bank", "look", "ann", &left) }, participant.MaxAttempts(1000)); err != nil || left != 0 {
		t.Fatalf("%d, %v", left, err)
	}
	checkpoint, _ = g.capture("bank")
	g.waitFor(t, "captured", func() bool { return g.states["bank"] != nil && g.states["bank"].checkpoint == checkpoint })
}

// Without it a state that cannot take changes back would keep those of a
// transaction that never was.
func TestAlreadyAppliedWithoutUndoRestores(t *testing.T) {
	g, group := started(t, "bank")
	b := newBank()
	_, app := firstBank(b, false)
	serve(t, app, g.node(t).addr)
	g.waitReady(t, "bank")
	put(t, group, "bank", "deposit", deposit{"ann", 1})
	g.capture("bank")
	g.waitFor(t, "captured", func() bool { return g.states["bank"] != nil })
	put(t, group, "bank", "deposit", deposit{"ann", 1})
	if _, err := group.Run(testContext(t), func(tx *participant.Tx) error {
		return errors.Join(tx.Call("bank", "deposit", deposit{"ann", 1}, nil), errStop)
	}); !errors.Is(err, errStop) {
		t.Fatal(err)
	}
	g.waitFor(t, "another instance", func() bool { return g.instances["bank"].epoch == 2 && g.instances["bank"].ready })
	if b.balance("ann") != 2 || len(b.restored) != 1 || !slices.Equal(b.positions(), []uint64{2}) {
		t.Errorf("%v, restored %v, applied %v", b.copy(), b.restored, b.positions())
	}
	put(t, group, "bank", "deposit", deposit{"ann", 1})
	if b.balance("ann") != 3 {
		t.Error(b.copy())
	}
}

// Without it a change that a workflow's server never got would stay in the state.
func TestLogAndLocksNeedOwnState(t *testing.T) {
	g, group := started(t, "bank")
	app := participant.New(groupName, "bank")
	app.Handle("log", participant.Func(func(_ context.Context, tx *participant.StepTx, _ any) (any, error) {
		_ = tx.Log("x") // overlooked
		return nil, nil
	}))
	app.Handle("lock", participant.Func(func(_ context.Context, tx *participant.StepTx, _ any) (any, error) { return nil, tx.Lock("x") }))
	serve(t, app, g.node(t).addr)
	g.waitAttached(t, "bank", 1)
	for _, method := range []string{"log", "lock"} {
		_, err := group.Run(testContext(t), func(tx *participant.Tx) error { return tx.Call("bank", method, nil, nil) })
		if err == nil || !strings.Contains(err.Error(), "State") {
			t.Errorf("%s: %v", method, err)
		}
	}
}
