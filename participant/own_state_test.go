package participant_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/participant"
)

// setBalance is a change of the test's bank: an account's new balance.
type setBalance struct {
	Account string `json:"account"`
	Balance int64  `json:"balance"`
	By      int64  `json:"by,omitempty"`
}

// bank keeps balances in memory, and notes how it is called.
type bank struct {
	mu       sync.Mutex
	balances map[string]int64
	applied  []uint64 // positions
	restored []participant.Point
	undone   []string
	// applying and failing are asked before an Apply; nil lets it pass.
	applying func(e participant.Entry)
	failing  func(e participant.Entry) error
	// writing is asked before WriteTo gives its bytes.
	writing func(w io.Writer) error
	running atomic.Int32
}

func newBank() *bank { return &bank{balances: map[string]int64{}} }

// alone fails when two callbacks run at once.
func (b *bank) alone() func() {
	if b.running.Add(1) > 1 {
		panic("two callbacks at once")
	}
	return func() { b.running.Add(-1) }
}

func (b *bank) Point(context.Context) (participant.Point, error) {
	defer b.alone()()
	return participant.Point{}, nil
}

func (b *bank) Apply(_ context.Context, e participant.Entry) error {
	defer b.alone()()
	if b.applying != nil {
		b.applying(e)
	}
	if b.failing != nil {
		if err := b.failing(e); err != nil {
			return err
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range e.Changes {
		if c.Kind != participant.ChangeLog {
			continue
		}
		var set setBalance
		if err := json.Unmarshal(c.Value, &set); err != nil {
			return err
		}
		b.balances[set.Account] = set.Balance
	}
	b.applied = append(b.applied, e.Position)
	return nil
}

func (b *bank) Restore(_ context.Context, at participant.Point, r io.Reader) error {
	defer b.alone()()
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	balances := map[string]int64{}
	if err := json.Unmarshal(data, &balances); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.balances = balances
	b.restored = append(b.restored, at)
	return nil
}

func (b *bank) Capture(context.Context) (io.WriterTo, error) {
	defer b.alone()()
	b.mu.Lock()
	defer b.mu.Unlock()
	data, err := json.Marshal(b.balances)
	return &capturedBank{data: data, writing: b.writing}, err
}

type capturedBank struct {
	data    []byte
	writing func(io.Writer) error
	closed  atomic.Bool
}

func (c *capturedBank) WriteTo(w io.Writer) (int64, error) {
	if c.closed.Load() {
		return 0, errors.New("closed")
	}
	if c.writing != nil {
		if err := c.writing(w); err != nil {
			return 0, err
		}
	}
	n, err := w.Write(c.data)
	return int64(n), err
}

func (c *capturedBank) Close() error {
	if c.closed.Swap(true) {
		return errors.New("closed twice")
	}
	return nil
}

func (b *bank) balance(account string) int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.balances[account]
}

func (b *bank) set(account string, balance int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.balances[account] = balance
}

func (b *bank) positions() []uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]uint64(nil), b.applied...)
}

func (b *bank) copy() map[string]int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.balances)
}

type deposit struct {
	Account string
	Amount  int64
}

type transfer struct {
	From, To string
	Amount   int64
}

// bankApp is an App on a bank, named like its participant.
func bankApp(name string, b participant.OwnState, balance func(string) int64, opts ...participant.StateOption) *participant.App {
	app := participant.New(groupName, name)
	app.State(b, opts...)
	app.Handle("deposit", participant.Func(func(_ context.Context, tx *participant.StepTx, in deposit) (int64, error) {
		if err := tx.Lock(in.Account); err != nil {
			return 0, err
		}
		after := balance(in.Account) + in.Amount
		return after, tx.Log(setBalance{Account: in.Account, Balance: after})
	}))
	app.Handle("transfer", participant.Func(func(_ context.Context, tx *participant.StepTx, in transfer) (any, error) {
		if err := tx.Lock(in.From, in.To); err != nil {
			return nil, err
		}
		if balance(in.From) < in.Amount {
			return nil, fmt.Errorf("%s has only %d", in.From, balance(in.From))
		}
		return nil, errors.Join(
			tx.Log(setBalance{Account: in.From, Balance: balance(in.From) - in.Amount}),
			tx.Log(setBalance{Account: in.To, Balance: balance(in.To) + in.Amount}))
	}))
	app.Handle("balance", participant.Func(func(_ context.Context, tx *participant.StepTx, account string) (int64, error) {
		if err := tx.RLock(account); err != nil {
			return 0, err
		}
		return balance(account), nil
	}))
	return app
}

func (g *fakeGroup) waitReady(t testing.TB, p string) {
	t.Helper()
	g.waitFor(t, p+" is ready", func() bool {
		i := g.instances[p]
		return i != nil && i.attached && i.ready
	})
}

// applied waits until a bank has applied a position.
func waitApplied(t testing.TB, b *bank, position uint64) {
	t.Helper()
	waitUntil(t, fmt.Sprintf("position %d applied", position), func() bool {
		p := b.positions()
		return len(p) > 0 && p[len(p)-1] >= position
	})
}

// waitUntil polls what tells of no change by itself.
func waitUntil(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(waitTime); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for: %s", what)
		}
	}
}

func put(t testing.TB, group *participant.Group, p, method string, in any) participant.Receipt {
	t.Helper()
	receipt, err := group.Run(testContext(t), func(tx *participant.Tx) error { return tx.Call(p, method, in, nil) })
	if err != nil {
		t.Fatal(err)
	}
	return receipt
}

// Without it a committed change would not reach the state, reach it twice, or out
// of order; or a handler would see a state older than its snapshot.
func TestOwnStateIsAppliedFromTheLog(t *testing.T) {
	g, group := started(t, "bank", "orders")
	b := newBank()
	serve(t, bankApp("bank", b, b.balance), g.node(t).addr)
	g.waitReady(t, "bank")
	put(t, group, "bank", "deposit", deposit{"ann", 5})
	for range 20 {
		var after int64
		receipt, err := group.Run(testContext(t), func(tx *participant.Tx) error {
			if err := tx.Store("orders").Add("n", 1); err != nil {
				return err
			}
			return tx.Call("bank", "deposit", deposit{"ann", 1}, &after)
		})
		if err != nil {
			t.Fatal(err)
		}
		waitApplied(t, b, receipt.Position)
		if b.balance("ann") != after {
			t.Fatalf("%d applied, %d answered", b.balance("ann"), after)
		}
	}
	g.set("orders", "other", "1") // nothing of the bank's
	last := put(t, group, "bank", "deposit", deposit{"ann", 1})
	waitApplied(t, b, last.Position)
	if got := b.balance("ann"); got != 26 {
		t.Errorf("balance %d", got)
	}
	seen := uint64(0)
	for _, p := range b.positions() {
		if p <= seen || p == last.Position-1 {
			t.Errorf("applied %v", b.positions())
			break
		}
		seen = p
	}
}

// Without it a handler would decide on a state that lacks what its transaction has
// seen elsewhere.
func TestHandlersWaitForTheirSnapshot(t *testing.T) {
	g, group := started(t, "bank")
	b := newBank()
	release := make(chan struct{})
	var hold atomic.Bool
	b.applying = func(participant.Entry) {
		if hold.Load() {
			<-release
		}
	}
	serve(t, bankApp("bank", b, b.balance), g.node(t).addr)
	g.waitReady(t, "bank")
	hold.Store(true)
	put(t, group, "bank", "deposit", deposit{"ann", 5})
	_, err := group.Run(testContext(t), func(tx *participant.Tx) error { return tx.Call("bank", "balance", "bob", nil) })
	var call *participant.CallError
	if !errors.As(err, &call) || call.Code != participant.CallTimeout {
		t.Fatalf("a handler ran before its snapshot was applied, or hung: %v", err)
	}
	answer := make(chan int64)
	go func() {
		var seen int64
		if _, err := group.Run(testContext(t), func(tx *participant.Tx) error { return tx.Call("bank", "balance", "ann", &seen) }); err != nil {
			t.Error(err)
		}
		answer <- seen
	}()
	hold.Store(false)
	close(release)
	if seen := <-answer; seen != 5 {
		t.Errorf("saw %d", seen)
	}
}

// Without it transactions that use the same accounts would overwrite each other, or
// wait for each other for ever.
func TestLocksMakeTransfersExact(t *testing.T) {
	g, group := started(t, "bank")
	b := newBank()
	const accounts, clients, each = 5, 5, 10
	g.stepTimeout = 10 * time.Second
	serve(t, bankApp("bank", b, b.balance), g.node(t).addr)
	g.waitReady(t, "bank")
	for i := range accounts {
		put(t, group, "bank", "deposit", deposit{fmt.Sprint(i), 100})
	}
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			for n := range each {
				from, to := (c+n)%accounts, (c*3+n*2+1)%accounts
				if from == to {
					continue
				}
				_, err := group.Run(testContext(t), func(tx *participant.Tx) error {
					return tx.Call("bank", "transfer", transfer{fmt.Sprint(from), fmt.Sprint(to), 1}, nil)
				}, participant.MaxAttempts(1000))
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	g.mu.Lock()
	end := g.position
	g.mu.Unlock()
	waitApplied(t, b, end)
	var total int64
	for _, n := range b.copy() {
		total += n
	}
	if total != accounts*100 {
		t.Errorf("the total is %d: %v", total, b.copy())
	}
}

// Without it a younger attempt would wait for an older one's lock, the workflow would
// see the loss of a lock as a refusal, or commit without the step that lost.
func TestLostLockIsAConflict(t *testing.T) {
	g, group := started(t, "bank")
	b := newBank()
	serve(t, bankApp("bank", b, b.balance), g.node(t).addr)
	g.waitReady(t, "bank")
	older, err := group.Begin(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := older.Call("bank", "deposit", deposit{"ann", 1}, nil); err != nil {
		t.Fatal(err)
	}
	younger, err := group.Begin(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	err = younger.Call("bank", "deposit", deposit{"ann", 1}, nil)
	if !errors.Is(err, participant.ErrConflict) || !participant.Retryable(err) {
		t.Fatalf("the younger one: %v", err)
	}
	if _, err := younger.Commit(testContext(t)); !errors.Is(err, participant.ErrConflict) {
		t.Fatalf("it commits all the same: %v", err)
	}
	runs := 0
	done := make(chan error, 1)
	go func() {
		_, err := group.Run(testContext(t), func(tx *participant.Tx) error {
			if runs++; runs == 2 {
				if _, err := older.Commit(testContext(t)); err != nil {
					t.Error(err)
				}
			}
			_ = tx.Call("bank", "deposit", deposit{"ann", 1}, nil) // overlooked
			return nil
		})
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	g.mu.Lock()
	end := g.position
	g.mu.Unlock()
	waitApplied(t, b, end)
	if b.balance("ann") != 2 {
		t.Errorf("balance %d", b.balance("ann"))
	}
}

// Without it an attempt whose caller is gone would keep its locks for ever, or
// commit after they were given to another.
func TestLocksEndWithTheLease(t *testing.T) {
	g, group := started(t, "bank")
	g.lease = 400 * time.Millisecond
	b := newBank()
	serve(t, bankApp("bank", b, b.balance), g.node(t).addr)
	g.waitReady(t, "bank")
	lost, err := group.Begin(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := lost.Call("bank", "deposit", deposit{"ann", 1}, nil); err != nil {
		t.Fatal(err)
	}
	put(t, group, "bank", "deposit", deposit{"ann", 10})
	if _, err := lost.Commit(testContext(t)); !errors.Is(err, participant.ErrConflict) {
		t.Fatalf("its time was over: %v", err)
	}
	last := put(t, group, "bank", "deposit", deposit{"ann", 10})
	waitApplied(t, b, last.Position)
	if b.balance("ann") != 20 {
		t.Errorf("balance %d", b.balance("ann"))
	}
}

// Without it a voter would hear of an outcome twice or never, or of a commit before
// its state has it.
func TestOutcomesAreToldOnceAndAfterTheirEntry(t *testing.T) {
	g, group := started(t, "bank")
	g.notify = 3
	b := newBank()
	app := bankApp("bank", b, b.balance)
	notices := make(chan participant.Notice, 100)
	app.OnOutcome(func(n participant.Notice) {
		if n.Committed {
			if p := b.positions(); len(p) == 0 || p[len(p)-1] < n.Position {
				t.Errorf("told of position %d, applied %v", n.Position, p)
			}
		}
		notices <- n
	})
	refuse := atomic.Bool{}
	app.OnPrepare(func(context.Context, *participant.Prepare) error {
		if refuse.Load() {
			return errors.New("not today")
		}
		return nil
	})
	serve(t, app, g.node(t).addr)
	g.waitReady(t, "bank")
	g.set("bank", "k", "1")
	receipt := put(t, group, "bank", "deposit", deposit{"ann", 1})
	if n := <-notices; n.ID != receipt.ID || !n.Committed || n.Position != receipt.Position || n.Begun != receipt.Begun {
		t.Errorf("%+v", n)
	}
	// A yes that comes to nothing: the store's part conflicts.
	_, err := group.Run(testContext(t), func(tx *participant.Tx) error {
		if _, err := tx.Store("bank").Get("k", nil); err != nil {
			return err
		}
		g.set("bank", "k", "2")
		return tx.Call("bank", "deposit", deposit{"ann", 1}, nil)
	}, participant.MaxAttempts(1))
	if !errors.Is(err, participant.ErrConflict) {
		t.Fatal(err)
	}
	if n := <-notices; n.Committed {
		t.Errorf("%+v", n)
	}
	refuse.Store(true)
	if _, err := group.Run(testContext(t), func(tx *participant.Tx) error { return tx.Call("bank", "deposit", deposit{"ann", 1}, nil) }); !errors.Is(err, participant.ErrVote) {
		t.Fatal(err)
	}
	refuse.Store(false)
	put(t, group, "bank", "deposit", deposit{"ann", 1}) // the locks of all of them are free
	if n := <-notices; !n.Committed {
		t.Errorf("%+v", n)
	}
	select {
	case n := <-notices:
		t.Errorf("one too many: %+v", n)
	default:
	}
}

// Without it a yes whose notice was lost would hold its locks for ever.
func TestLostAbortIsAskedFor(t *testing.T) {
	t.Parallel() // it waits for the voter's patience
	g, group := started(t, "bank")
	g.notify = 0
	b := newBank()
	app := bankApp("bank", b, b.balance)
	notices := make(chan participant.Notice, 10)
	app.OnOutcome(func(n participant.Notice) { notices <- n })
	serve(t, app, g.node(t).addr)
	g.waitReady(t, "bank")
	g.set("bank", "k", "1")
	_, err := group.Run(testContext(t), func(tx *participant.Tx) error {
		if _, err := tx.Store("bank").Get("k", nil); err != nil {
			return err
		}
		g.set("bank", "k", "2")
		return tx.Call("bank", "deposit", deposit{"ann", 1}, nil)
	}, participant.MaxAttempts(1))
	if !errors.Is(err, participant.ErrConflict) {
		t.Fatal(err)
	}
	select {
	case n := <-notices:
		if n.Committed {
			t.Errorf("%+v", n)
		}
	case <-time.After(15 * time.Second):
		t.Fatal("nobody asked")
	}
	put(t, group, "bank", "deposit", deposit{"ann", 1})
}

// Without it a process could serve one participant only.
func TestManyAppsInOneProcess(t *testing.T) {
	g, group := started(t, "bank", "till", "orders")
	node := g.node(t)
	one, two := newBank(), newBank()
	serve(t, bankApp("bank", one, one.balance), node.addr)
	serve(t, bankApp("till", two, two.balance), node.addr)
	g.waitReady(t, "bank")
	g.waitReady(t, "till")
	receipt, err := group.Run(testContext(t), func(tx *participant.Tx) error {
		return errors.Join(tx.Call("bank", "deposit", deposit{"ann", 1}, nil), tx.Call("till", "deposit", deposit{"ann", 2}, nil), tx.Store("orders").Put("o", 1))
	})
	if err != nil {
		t.Fatal(err)
	}
	waitApplied(t, one, receipt.Position)
	waitApplied(t, two, receipt.Position)
	if one.balance("ann") != 1 || two.balance("ann") != 2 {
		t.Error(one.copy(), two.copy())
	}
}

// Without it a standby would be cold when it is needed, and nobody would know how
// far it is.
func TestStandbyFollows(t *testing.T) {
	g, group := started(t, "bank")
	g.standBy = true
	node := g.node(t)
	active, standby := newBank(), newBank()
	serve(t, bankApp("bank", active, active.balance), node.addr)
	g.waitReady(t, "bank")
	put(t, group, "bank", "deposit", deposit{"ann", 1})
	serve(t, bankApp("bank", standby, standby.balance), node.addr)
	last := put(t, group, "bank", "deposit", deposit{"ann", 1})
	waitApplied(t, standby, last.Position)
	g.waitFor(t, "the standby's progress", func() bool {
		p := g.standbyProgress
		return p.GetPosition() == last.Position && p.GetIncarnation() == 1 && p.GetPhase() == pb.Progress_PHASE_FOLLOWING
	})
	if standby.balance("ann") != 2 {
		t.Error(standby.copy())
	}
}
