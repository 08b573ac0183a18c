package txlog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"go.uber.org/zap"
)

// The pause between two tries to get a state from another replica doubles
// between these.
const (
	rebuildRetryMin = 50 * time.Millisecond
	rebuildRetryMax = 2 * time.Second
)

// StateSource gives the state and log of another replica of the group at exactly
// an index, as SaveState writes it. It waits for a replica that has got there.
type StateSource func(ctx context.Context, index uint64) (io.ReadCloser, error)

// SaveState writes the state at exactly index, and the log that leads to it, as a
// Raft snapshot has them. Errors: those of Snapshot, and w's.
func (r *Replica) SaveState(ctx context.Context, index uint64, w io.Writer) error {
	snap, err := r.Snapshot(index)
	if err != nil {
		return err
	}
	defer snap.Close()
	return r.save(snap, w, ctx.Done())
}

// Rebuild replaces the replica's state by that of another one, as of the entry
// that this one has applied last. Entries wait meanwhile; the shard goes on as
// long as it has a majority without this replica. What it leaves behind when it
// fails is the old state.
func (r *Replica) Rebuild(ctx context.Context) error {
	if err := r.Err(); err != nil {
		return err
	}
	r.applying.Lock()
	defer r.applying.Unlock()
	if r.empty {
		return nil // the next entry does it
	}
	index := r.Published()
	if err := r.fetchState(ctx, index); err != nil {
		return fmt.Errorf("txlog: rebuild group %s at index %d: %w", r.config.Group, index, err)
	}
	r.quarantine.Store(nil)
	r.log.Warn("replica rebuilt from another one", zap.Uint64("index", index))
	return nil
}

// rebuildLocked is a start without a state: it tries until it has one or the
// replica is stopped.
func (r *Replica) rebuildLocked(stop <-chan struct{}, index uint64) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	for pause := rebuildRetryMin; ; pause = min(2*pause, rebuildRetryMax) {
		err := r.fetchState(ctx, index)
		if err == nil {
			r.log.Info("state taken from another replica", zap.Uint64("index", index))
			return nil
		}
		if ctx.Err() != nil {
			return ErrClosed
		}
		r.log.Info("no state to start from yet", zap.Uint64("index", index), zap.Error(err))
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ErrClosed
		}
	}
}

func (r *Replica) fetchState(ctx context.Context, index uint64) error {
	if r.config.State == nil {
		return errors.New("there is nowhere to take the state from")
	}
	if index == r.files.id {
		return fmt.Errorf("the state at index %d was installed before; the next entry gives another one", index)
	}
	in, err := r.config.State(ctx, index)
	if err != nil {
		return err
	}
	defer in.Close()
	return r.install(in, ctx.Done())
}
