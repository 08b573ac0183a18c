package checkout

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"

	"github.com/cohort-tx/cohort/participant"
)

// resubmitEvery is how often a customer presses the button twice: every so many
// orders, the order is placed a second time after it was placed.
const resubmitEvery = 10

// Tally is how placing a file of orders went so far.
type Tally struct {
	Total int
	// Placed and Declined orders; Declined ones by why.
	Placed     int
	OutOfStock int
	NoCredit   int
	// Resubmitted orders were placed again, and got the same receipt again.
	Resubmitted int
	// Receipts by order.
	Receipts map[string]participant.Receipt
}

// Done is the number of orders with an answer.
func (t *Tally) Done() int { return t.Placed + t.OutOfStock + t.NoCredit }

// Run places orders with some workers at once. progress, if not nil, is called
// after each answer, by one worker at a time. An order whose outcome is not known
// when ctx ends, or any error that is no refusal, ends the run.
func (s *Shop) Run(ctx context.Context, orders []Order, workers int, progress func(Tally)) (Tally, error) {
	r := run{shop: s, tally: Tally{Total: len(orders), Receipts: make(map[string]participant.Receipt)}, progress: progress}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan int)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for n := range next {
				if err := r.place(ctx, orders[n], n%resubmitEvery == 0); err != nil {
					cancel(fmt.Errorf("order %s: %w", orders[n].ID, err))
				}
			}
		})
	}
	for n := range orders {
		select {
		case next <- n:
			continue
		case <-ctx.Done():
		}
		break
	}
	close(next)
	wg.Wait()
	r.tally.Receipts = maps.Clone(r.tally.Receipts)
	return r.tally, context.Cause(ctx)
}

type run struct {
	shop     *Shop
	progress func(Tally)

	mu    sync.Mutex
	tally Tally
}

func (r *run) place(ctx context.Context, o Order, again bool) error {
	receipt, err := r.shop.Place(ctx, o)
	var refused *participant.CallError
	switch {
	case err == nil:
	case errors.Is(err, participant.ErrConstraint):
		r.count(func(t *Tally) { t.OutOfStock++ })
		return nil
	case errors.As(err, &refused) && refused.Code == participant.CallRefused && refused.Participant == "inventory":
		r.count(func(t *Tally) { t.OutOfStock++ })
		return nil
	case errors.As(err, &refused) && refused.Code == participant.CallRefused && refused.Participant == "payments":
		r.count(func(t *Tally) { t.NoCredit++ })
		return nil
	default:
		return err
	}
	r.count(func(t *Tally) { t.Placed++; t.Receipts[o.ID] = receipt })
	if !again {
		return nil
	}
	second, err := r.shop.Place(ctx, o)
	if err != nil {
		return fmt.Errorf("placed a second time: %w", err)
	}
	if second.Position != receipt.Position {
		return fmt.Errorf("placed twice: at position %d and at %d", receipt.Position, second.Position)
	}
	r.count(func(t *Tally) { t.Resubmitted++ })
	return nil
}

func (r *run) count(change func(*Tally)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(&r.tally)
	if r.progress != nil {
		r.progress(r.tally)
	}
}
