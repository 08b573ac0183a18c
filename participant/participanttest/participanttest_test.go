package participanttest_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/cohort-tx/cohort/participant"
	"github.com/cohort-tx/cohort/participant/participanttest"
)

const checkout = "group: checkout\nparticipants: [{name: orders}, {name: stock}]\n"

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Without it a test would have to wait for the cluster by itself.
func TestStartedIsReady(t *testing.T) {
	begun := time.Now()
	c := participanttest.Start(t, checkout)
	t.Logf("ready after %s", time.Since(begun))
	receipt, err := c.Client.Group("checkout").Run(t.Context(), func(tx *participant.Tx) error {
		return tx.Store("orders").Put("o-1", "new")
	})
	if err != nil || receipt.Position != 1 {
		t.Fatalf("%+v, %v", receipt, err)
	}
}

// Without it an application's handler could not be tested together with its
// workflow.
func TestServiceAndWorkflow(t *testing.T) {
	c := participanttest.Start(t, checkout)
	type order struct{ N int64 }
	app := participant.New("checkout", "stock")
	app.Handle("reserve", participant.Func(func(_ context.Context, tx *participant.StepTx, in order) (order, error) {
		if in.N > 3 {
			return order{}, errors.New("too many")
		}
		return in, tx.Store().Add("left", -in.N)
	}))
	ctx, stop := context.WithCancel(t.Context())
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := app.Serve(ctx, c.Addr); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	defer serving.Wait()
	defer stop()

	group := c.Client.Group("checkout")
	reserve := func(n int64) error {
		_, err := group.Run(t.Context(), func(tx *participant.Tx) error {
			if err := tx.Store("orders").Put("o-1", n); err != nil {
				return err
			}
			return tx.Call("stock", "reserve", order{n}, nil)
		})
		return err
	}
	if err := reserve(2); err != nil {
		t.Fatal(err)
	}
	if err := reserve(4); !errors.Is(err, participant.ErrVote) {
		t.Fatalf("a handler's refusal: %v", err)
	}
	err := group.View(t.Context(), func(tx *participant.ReadTx) error {
		var left, ordered int64
		if _, err := tx.Store("stock").Get("left", &left); err != nil {
			return err
		}
		if _, err := tx.Store("orders").Get("o-1", &ordered); err != nil {
			return err
		}
		if left != -2 || ordered != 2 {
			return fmt.Errorf("left %d, ordered %d", left, ordered)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Without it losing the leader could lose what was acknowledged.
func TestThreeNodesLoseOne(t *testing.T) {
	c := participanttest.StartNodes(t, 3, checkout)
	group := c.Client.Group("checkout")
	put := func(i int) participant.Receipt {
		t.Helper()
		receipt, err := group.Run(t.Context(), func(tx *participant.Tx) error {
			return tx.Store("orders").Add("count", 1)
		}, participant.ID(fmt.Sprintf("o-%d", i)))
		if err != nil {
			t.Fatal(err)
		}
		return receipt
	}
	before := put(1)
	for _, name := range c.Nodes() {
		c.Kill(t, name)
		if again := put(1); again.Position != before.Position {
			t.Fatalf("the same id committed at %d and %d", before.Position, again.Position)
		}
		put(2)
		c.Restart(t, name)
	}
}
