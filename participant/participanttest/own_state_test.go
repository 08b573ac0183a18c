package participanttest_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	cohortv1 "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/participant"
	"github.com/cohort-tx/cohort/participant/participanttest"
)

// ownCheckout waits for a second copy of each checkpoint on no node: there is one.
const ownCheckout = "group: checkout\nparticipants: [{name: orders}, {name: counts}]\ncheckpoint: {min_copies: 1, min_gap: 100ms}\n"

// countsApp serves counters of the conformance tests; state is them, or around them.
func countsApp(c *counters, state participant.OwnState) *participant.App {
	app := participant.New("checkout", "counts")
	app.State(state)
	app.Handle("add", participant.Func(func(_ context.Context, tx *participant.StepTx, name string) (int, error) {
		if err := tx.Lock(name); err != nil {
			return 0, err
		}
		c.mu.Lock()
		n := c.image.Counters[name]
		c.mu.Unlock()
		return n + 1, tx.Log(name + "+1")
	}))
	app.Handle("get", participant.Func(func(_ context.Context, tx *participant.StepTx, name string) (int, error) {
		if err := tx.RLock(name); err != nil {
			return 0, err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.image.Counters[name], nil
	}))
	return app
}

// serveApp runs an App until stop.
func serveApp(t *testing.T, app *participant.App, addr string) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- app.Serve(ctx, addr, participant.WithLogger(slog.New(slog.DiscardHandler))) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("serve: %v", err)
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

// Without it own state and the store could disagree about a transaction, or a new
// process come up with something else than a checkpoint and the log after it hold.
func TestOwnStateOnACluster(t *testing.T) {
	c := participanttest.Start(t, ownCheckout)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	group := c.Client.Group("checkout")
	add := func(n int) {
		t.Helper()
		var clients sync.WaitGroup
		for client := range 3 {
			clients.Go(func() {
				for i := range n {
					name := fmt.Sprint("c", (client+i)%2)
					var after int
					if _, err := group.Run(ctx, func(tx *participant.Tx) error {
						if err := tx.Call("counts", "add", name, &after); err != nil {
							return err
						}
						return tx.Store("orders").Add(name, 1)
					}, participant.MaxAttempts(1000)); err != nil {
						t.Errorf("add: %v", err)
						return
					}
				}
			})
		}
		clients.Wait()
	}
	agree := func(total int) {
		t.Helper()
		sum := 0
		_, err := group.Run(ctx, func(tx *participant.Tx) error {
			sum = 0
			for _, name := range []string{"c0", "c1"} {
				var own, stored int
				if err := tx.Call("counts", "get", name, &own); err != nil {
					return err
				}
				if _, err := tx.Store("orders").Get(name, &stored); err != nil {
					return err
				}
				if own != stored {
					return fmt.Errorf("%s: %d in memory, %d in the store", name, own, stored)
				}
				sum += own
			}
			return nil
		})
		if err != nil || sum != total {
			t.Fatalf("%d of %d, %v", sum, total, err)
		}
	}
	memory := func() *counters { return newCounters("", false)(t).(*counters) }
	first := memory()
	stop := serveApp(t, countsApp(first, first), c.Addr)
	add(5)
	agree(15)
	// A new process in memory, from the log alone.
	stop()
	second := memory()
	stop = serveApp(t, countsApp(second, second), c.Addr)
	agree(15)
	add(2)
	// A checkpoint holds the state; the next process is restored from it.
	info, err := c.Client.Checkpoints().CreateCheckpoint(ctx, &cohortv1.CreateCheckpointRequest{Group: "checkout", Wait: true})
	if err != nil || info.GetState() != "complete" {
		t.Fatalf("checkpoint %s: %s, %v", info.GetState(), info.GetReason(), err)
	}
	add(2)
	stop()
	third := memory()
	restored := &watchedCounters{counters: third}
	serveApp(t, countsApp(third, restored), c.Addr)
	agree(27)
	if at := restored.at(); at.Position != info.GetPosition() {
		t.Errorf("restored at %v, the checkpoint is at %d", at, info.GetPosition())
	}
}

// watchedCounters notes what it was restored to.
type watchedCounters struct {
	*counters
	mu   sync.Mutex
	last participant.Point
}

func (w *watchedCounters) Restore(ctx context.Context, at participant.Point, r io.Reader) error {
	w.mu.Lock()
	w.last = at
	w.mu.Unlock()
	return w.counters.Restore(ctx, at, r)
}

func (w *watchedCounters) at() participant.Point {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last
}
