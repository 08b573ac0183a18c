package coordinator

import (
	"context"
	"errors"
	"time"

	"github.com/cohort-tx/cohort/txlog"
	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/machine"
)

// Snapshot is pinned state at one index. *txlog.Snapshot is one.
type Snapshot interface {
	Index() uint64
	Meta() (machine.Meta, error)
	Config() (machine.Config, error)
	Get(participant, key string) (value []byte, version uint64, found bool, err error)
	Scan(participant, start, end string, limit int, fn func(key string, value []byte, version uint64) (bool, error)) (command.ScanRead, bool, error)
	Decision(id string, begun uint64) (machine.Decision, machine.Outcome, error)
	Activations() ([]machine.Activation, error)
	RecentOutcomes(limit int) ([]machine.Outcome, error)
	Reader() machine.Reader
	Close()
}

// Replica is the group's replica on this node, as far as a coordinator needs it.
// Of returns the real one.
type Replica interface {
	// Propose sends a batch to the log and waits for its results, at the latest
	// until the timeout or ctx's end. The errors are those of txlog: what is
	// certainly not in the log is told apart from what may be.
	Propose(ctx context.Context, batch *command.Batch, timeout time.Duration) ([]command.Result, error)
	// ReadIndex confirms with a quorum that everything acknowledged before the
	// call is published here.
	ReadIndex(ctx context.Context) (uint64, error)
	// Snapshot pins the last published state.
	Snapshot() (Snapshot, error)
	Published() uint64
	// Position is the last published one.
	Position() uint64
	// Watch calls fn with the leadership now and at each change; fn does not block.
	Watch(fn func(txlog.Leadership)) (cancel func())
}

// Of adapts a replica.
func Of(r *txlog.Replica) Replica { return replica{r} }

type replica struct{ *txlog.Replica }

func (r replica) Snapshot() (Snapshot, error) {
	s, err := r.Replica.Snapshot(0)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (r replica) Propose(ctx context.Context, batch *command.Batch, timeout time.Duration) ([]command.Result, error) {
	p, err := r.Replica.Propose(batch, timeout)
	if err != nil {
		return nil, err
	}
	select {
	case <-p.Done():
		results, _, err := p.Result()
		return results, err
	case <-ctx.Done():
		return nil, txlog.ErrUnknown
	}
}

// notProposed tells whether an error of Propose means that the batch is
// certainly not in the log.
func notProposed(err error) bool {
	for _, e := range []error{txlog.ErrDropped, txlog.ErrOverloaded, txlog.ErrTooLarge, txlog.ErrNotReady, txlog.ErrHalted, txlog.ErrClosed} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
