package txlog

import (
	"errors"
	"fmt"
	"io"

	"github.com/lni/dragonboat/v4/statemachine"
	"go.uber.org/zap"

	"github.com/cohort-tx/cohort/participant/store"
	"github.com/cohort-tx/cohort/txlog/command"
)

// shard is a Replica as dragonboat drives it. Open, Update, Sync,
// PrepareSnapshot and RecoverFromSnapshot come from one goroutine at a time;
// SaveSnapshot runs beside them.
//
// dragonboat turns every error that it is given here into a panic in a goroutine
// of its own, that is, the end of the process with all its groups; only those
// that say that something was stopped or aborted it takes for what they are. So a
// failure halts the replica instead: it is recorded, the replica leaves its shard,
// so that another one can lead, and what failed is given back as if it had been
// stopped, when nobody waits for it any more.
type shard struct{ *Replica }

var _ statemachine.IOnDiskStateMachine = (*shard)(nil)

// Open returns S: dragonboat applies everything after it. StartReplica has opened
// the files, so that it can say what is wrong with them.
func (s *shard) Open(<-chan struct{}) (uint64, error) {
	return s.raftIndex(s.store.Synced()), nil
}

// Update applies Raft entries.
func (s *shard) Update(entries []statemachine.Entry) ([]statemachine.Entry, error) {
	if s.Err() == nil {
		err := s.update(entries)
		if err == nil {
			return entries, nil
		}
		if errors.Is(err, ErrClosed) {
			<-s.left // the replica is being stopped
		} else {
			s.halt(err)
		}
	}
	// The replica has left: nobody gets these, and nothing durable says that they
	// were applied.
	for i := range entries {
		entries[i].Result = statemachine.Result{}
	}
	return entries, nil
}

func (r *Replica) update(entries []statemachine.Entry) error {
	r.applying.Lock()
	defer r.applying.Unlock()
	if !r.empty {
		return r.apply(entries)
	}
	// There is nothing to apply them to: the state after them comes from elsewhere.
	last := &entries[len(entries)-1]
	if err := r.rebuildLocked(r.stop, r.logicalIndex(last.Index)); err != nil {
		return err
	}
	for i := range entries {
		entries[i].Result = statemachine.Result{Value: r.logicalIndex(entries[i].Index)}
	}
	r.empty = false
	return nil
}

// logicalIndex and raftIndex translate: see ReplicaConfig.IndexBase.
func (r *Replica) logicalIndex(raft uint64) uint64 { return raft + r.config.IndexBase }

func (r *Replica) raftIndex(logical uint64) uint64 {
	if logical < r.config.IndexBase {
		return 0 // a replica that starts without a state
	}
	return logical - r.config.IndexBase
}

// apply applies entries as one update of the store; as several when one of them
// raises the limits, because the store is then opened anew for what follows.
func (r *Replica) apply(entries []statemachine.Entry) error {
	for len(entries) > 0 {
		n, err := r.applySome(entries)
		if err != nil {
			return err
		}
		entries = entries[n:]
		if err := r.grow(); err != nil {
			return err
		}
	}
	return nil
}

func (r *Replica) applySome(entries []statemachine.Entry) (n int, err error) {
	u := r.store.Begin(r.logicalIndex(entries[0].Index))
	defer u.Discard()
	before := r.machine.Limits()
	for i := range entries {
		index := r.logicalIndex(entries[i].Index)
		results, err := r.applyEntry(u, index, entries[i].Cmd)
		if err != nil {
			return 0, fmt.Errorf("entry %d: %w", index, err)
		}
		entries[i].Result = statemachine.Result{Value: index, Data: command.AppendResults(nil, results)}
		n++
		if r.machine.Limits() != before {
			break
		}
	}
	// Records before the index: a reader at an index finds all its positions.
	if err := r.files.log.Flush(); err != nil {
		return 0, err
	}
	if err := u.Finish(); err != nil {
		return 0, err
	}
	r.publish(r.files.log.Next() - 1)
	r.publishCut()
	return n, nil
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
	if cut, ok := r.machine.Cut(); ok {
		if err := r.holdCut(&cut); err != nil {
			return nil, err
		}
		// What is before the cut goes when the cut is the oldest that is kept.
		r.files.log.Roll()
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
	if !r.raiseLimits() {
		return nil
	}
	r.log.Info("opening the store anew for larger transactions", zap.Uint64("transaction_bytes", r.limits.TransactionBytes))
	// Without the lock: the store's last barrier syncs the log, which takes it.
	if err := r.store.Close(); err != nil {
		return err
	}
	st, err := store.Open(r.storeOptions())
	if err != nil {
		return err
	}
	if err := r.takeHolds(st); err != nil {
		return errors.Join(err, st.Close())
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

// Sync is a real barrier: dragonboat records a snapshot and drops log after it.
// It may not return an error, and dragonboat goes on when it returns none; the
// snapshot of a replica that has halted is refused by the log store.
func (s *shard) Sync() error {
	if s.Err() == nil {
		if err := s.store.Barrier(); err != nil {
			s.halt(err)
		}
	}
	return nil
}

// PrepareSnapshot pins what SaveSnapshot will stream.
func (s *shard) PrepareSnapshot() (any, error) {
	if s.Err() == nil {
		snap, err := s.Snapshot(0)
		if err == nil {
			return snap, nil
		}
		s.log.Warn("no state to stream", zap.Error(err))
	}
	return nil, statemachine.ErrSnapshotAborted
}

// SaveSnapshot streams the pinned state to a replica that needs it. A failure to
// read aborts the stream; the receiver asks again.
func (s *shard) SaveSnapshot(pinned any, w io.Writer, stop <-chan struct{}) error {
	snap := pinned.(*Snapshot)
	defer snap.Close()
	err := s.save(snap, w, stop)
	switch {
	case err == nil, errors.Is(err, statemachine.ErrSnapshotStreaming), errors.Is(err, statemachine.ErrSnapshotStopped):
		return err
	case errors.Is(err, store.ErrStopped), errors.Is(err, store.ErrClosed):
		return statemachine.ErrSnapshotStopped
	}
	s.log.Error("streaming the state failed", zap.Error(err))
	return statemachine.ErrSnapshotAborted
}

// RecoverFromSnapshot installs what another replica streamed.
func (s *shard) RecoverFromSnapshot(r io.Reader, stop <-chan struct{}) error {
	if s.Err() != nil {
		return statemachine.ErrSnapshotStopped
	}
	s.applying.Lock()
	defer s.applying.Unlock()
	err := s.install(r, stop)
	if err == nil {
		s.empty = false
		return nil
	}
	if !errors.Is(err, store.ErrStopped) {
		s.halt(fmt.Errorf("install a Raft snapshot: %w", err))
	}
	return statemachine.ErrSnapshotStopped
}

// Close closes the files. What fails is StopReplica's to tell.
func (s *shard) Close() error {
	s.markClosed()
	if err := s.close(); err != nil {
		s.log.Error("closing the replica's files", zap.Error(err))
	}
	return nil
}
