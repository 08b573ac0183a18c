package txlog

import (
	"sync"

	"github.com/cohort-tx/cohort/participant/store"
	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/machine"
)

// Snapshot reads a group's state at one index. It pins that state: close it. It
// may be used by several goroutines at once.
type Snapshot struct {
	store *store.Store
	files *logFiles
	view  *store.View

	config func() (machine.Config, error)
}

// Snapshot pins index, 0 being the last published one. Errors: ErrSnapshotTooOld,
// ErrNotApplied, ErrNotReady, ErrClosed.
func (r *Replica) Snapshot(index uint64) (*Snapshot, error) {
	if err := r.Quarantined(); err != nil {
		return nil, err
	}
	return r.snapshot(index)
}

// snapshot reads also what is quarantined.
func (r *Replica) snapshot(index uint64) (*Snapshot, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.closed {
		return nil, ErrClosed
	}
	if r.store == nil {
		return nil, ErrNotReady
	}
	view, err := r.store.View(index)
	if err != nil {
		return nil, err
	}
	s := &Snapshot{store: r.store, files: r.files, view: view}
	s.config = sync.OnceValues(func() (machine.Config, error) { return machine.ReadConfig(view) })
	return s, nil
}

// Index is the Raft index of the state.
func (s *Snapshot) Index() uint64 { return s.view.Index() }

// Meta is what the state machine keeps about the group as a whole.
func (s *Snapshot) Meta() (machine.Meta, error) { return machine.ReadMeta(s.view) }

// Config is the group's definition in the state.
func (s *Snapshot) Config() (machine.Config, error) { return s.config() }

// Get reads a participant's key; version 0 is absent.
func (s *Snapshot) Get(participant, key string) (value []byte, version uint64, found bool, err error) {
	c, err := s.config()
	if err != nil {
		return nil, 0, false, err
	}
	return machine.GetValue(s.view, c, participant, key)
}

// Scan is machine.ScanValues on the state.
func (s *Snapshot) Scan(participant, start, end string, limit int, fn func(key string, value []byte, version uint64) (bool, error)) (command.ScanRead, bool, error) {
	c, err := s.config()
	if err != nil {
		return command.ScanRead{}, false, err
	}
	return machine.ScanValues(s.view, c, participant, start, end, limit, fn)
}

// Outcome is what is recorded of an id.
func (s *Snapshot) Outcome(id string) (machine.Outcome, bool, error) {
	return machine.ReadOutcome(s.view, id)
}

// Decision tells what became of an attempt, with the horizon in mind.
func (s *Snapshot) Decision(id string, begun uint64) (machine.Decision, machine.Outcome, error) {
	return machine.ReadDecision(s.view, id, begun)
}

// Activations are those of all participants, by name.
func (s *Snapshot) Activations() ([]machine.Activation, error) {
	return machine.ReadActivations(s.view)
}

// RecentOutcomes are the newest outcomes, newest first.
func (s *Snapshot) RecentOutcomes(limit int) ([]machine.Outcome, error) {
	return machine.RecentOutcomes(s.view, limit)
}

// Reader gives the raw state to the read side of txlog/machine.
func (s *Snapshot) Reader() machine.Reader { return s.view }

// Digest hashes the logical state: replicas at the same index agree on it.
func (s *Snapshot) Digest() (sum [32]byte, keys uint64, err error) { return machine.Digest(s.view) }

// Close lets the state go.
func (s *Snapshot) Close() { s.view.Close() }
