package txlog

import (
	"errors"
	"fmt"
	"io"

	"github.com/lni/dragonboat/v4/statemachine"
	"go.uber.org/zap"

	"github.com/cohort-tx/cohort/participant/store"
	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/machine"
)

// shard is a Replica as dragonboat drives it. Open, Update, Sync,
// PrepareSnapshot and RecoverFromSnapshot come from one goroutine at a time;
// SaveSnapshot runs beside them.
//
// An error returned to dragonboat from Update becomes a panic in a goroutine of
// its own, that is, the end of the process with all its groups and no word. So
// Update does not return one: it records why, and holds still. Nothing is
// applied or acknowledged any more, dragonboat learns of no progress and
// compacts nothing, Raft goes on without this replica, and Status tells.
type shard struct{ *Replica }

var _ statemachine.IOnDiskStateMachine = (*shard)(nil)

// Open opens the files and returns S: dragonboat applies everything after it.
func (s *shard) Open(<-chan struct{}) (uint64, error) {
	return s.open()
}

// Update applies Raft entries. It publishes all of them or none.
func (s *shard) Update(entries []statemachine.Entry) ([]statemachine.Entry, error) {
	if s.Err() == nil {
		err := s.apply(entries)
		if err == nil {
			return entries, nil
		}
		s.halt(err)
	}
	<-s.stop
	// The shard is being stopped. Entries without a result are unknown to their
	// proposers, and nothing durable says that they were applied.
	for i := range entries {
		entries[i].Result = statemachine.Result{}
	}
	return entries, nil
}

func (r *Replica) apply(entries []statemachine.Entry) error {
	u := r.store.Begin(entries[0].Index)
	defer u.Discard()
	for i := range entries {
		results, err := r.applyEntry(u, entries[i].Index, entries[i].Cmd)
		if err != nil {
			return fmt.Errorf("entry %d: %w", entries[i].Index, err)
		}
		entries[i].Result = statemachine.Result{Value: entries[i].Index, Data: command.AppendResults(nil, results)}
	}
	// Records before the index: a reader at an index finds all its positions.
	if err := r.files.log.Flush(); err != nil {
		return err
	}
	if err := u.Finish(); err != nil {
		return err
	}
	r.publish(r.files.log.Next() - 1)
	return r.grow()
}

func (r *Replica) applyEntry(u *store.Update, index uint64, data []byte) ([]command.Result, error) {
	results, committed, err := r.machine.Apply(u, index, data)
	if err != nil {
		return nil, err
	}
	if len(committed) > 0 {
		r.files.log.SetIncarnation(r.machine.Meta().Incarnation)
		var buf []byte
		for i := range committed {
			buf = command.AppendEntry(buf[:0], &committed[i])
			if err := r.files.log.Append(committed[i].Position, buf); err != nil {
				return nil, err
			}
		}
	}
	if len(committed) > 0 || !r.located {
		u.Set(locationKey, encodeLocation(r.files.id, r.files.log.End()))
		r.located = true
	}
	return results, u.Commit(index)
}

// publish tells who waits that more can be read.
func (r *Replica) publish(position uint64) {
	if r.position.Swap(position) == position {
		return
	}
	next := make(chan struct{})
	close(*r.published.Swap(&next))
}

// grow opens the store anew when the group's limits have been raised beyond what
// its memtables were laid out for. Views that are open fail once; their readers
// come back.
func (r *Replica) grow() error {
	limits := r.machine.Limits()
	if limits == r.limits || limits == (command.Limits{}) {
		return nil
	}
	was, is := machine.EntryBound(r.limits), machine.EntryBound(limits)
	if is.Within(was) {
		return nil
	}
	r.limits.ValueBytes = max(r.limits.ValueBytes, limits.ValueBytes)
	r.limits.TransactionBytes = max(r.limits.TransactionBytes, limits.TransactionBytes)
	r.limits.TransactionKeys = max(r.limits.TransactionKeys, limits.TransactionKeys)
	r.limits.ScanKeys = max(r.limits.ScanKeys, limits.ScanKeys)
	r.log.Info("opening the store anew for larger transactions", zap.Uint64("transaction_bytes", limits.TransactionBytes))
	// Without the lock: the store's last barrier syncs the log, which takes it.
	if err := r.store.Close(); err != nil {
		return err
	}
	st, err := store.Open(r.storeOptions())
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.store = st
	return nil
}

// Lookup is not used: readers go to the Replica.
func (s *shard) Lookup(any) (any, error) {
	return nil, errors.New("txlog: reads do not go through Raft's lookup")
}

// Sync is a real barrier: dragonboat drops log after it.
func (s *shard) Sync() error {
	if s.Err() == nil {
		err := s.store.Barrier()
		if err == nil {
			return nil
		}
		s.halt(err)
	}
	<-s.stop
	return statemachine.ErrSnapshotStopped
}

// PrepareSnapshot pins what SaveSnapshot will stream.
func (s *shard) PrepareSnapshot() (any, error) {
	if err := s.Err(); err != nil {
		<-s.stop
		return nil, statemachine.ErrSnapshotStopped
	}
	return s.Snapshot(0)
}

// SaveSnapshot streams the pinned state to a replica that needs it.
func (s *shard) SaveSnapshot(pinned any, w io.Writer, stop <-chan struct{}) error {
	snap := pinned.(*Snapshot)
	defer snap.Close()
	err := s.save(snap, w, stop)
	if errors.Is(err, store.ErrStopped) || errors.Is(err, store.ErrClosed) {
		return statemachine.ErrSnapshotStopped
	}
	return err
}

// RecoverFromSnapshot installs what another replica streamed.
func (s *shard) RecoverFromSnapshot(r io.Reader, stop <-chan struct{}) error {
	err := s.install(r, stop)
	if errors.Is(err, store.ErrStopped) || errors.Is(err, store.ErrClosed) {
		return statemachine.ErrSnapshotStopped
	}
	return err
}

// Close closes the files.
func (s *shard) Close() error {
	s.markClosed()
	return s.close()
}
