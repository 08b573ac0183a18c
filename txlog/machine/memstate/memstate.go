// Package memstate is an ordered state in memory, with snapshots by index: what a
// test gives to the state machine in place of a store. It keeps every version of
// every key.
package memstate

import (
	"bytes"
	"fmt"
	"slices"
	"sync"

	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/machine"
)

// Store is a state that grows by entries. Views and its one open Update may be
// used concurrently.
type Store struct {
	mu       sync.RWMutex
	index    uint64 // last committed
	keys     []string
	versions map[string][]version
	open     bool
}

type version struct {
	index uint64
	value []byte
	live  bool
}

// New gives an empty state at index 0.
func New() *Store { return &Store{versions: make(map[string][]version)} }

// Index is the last committed index.
func (s *Store) Index() uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.index
}

// At gives the state as it was after the entry at index.
func (s *Store) At(index uint64) (*View, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if index > s.index {
		return nil, fmt.Errorf("index %d is not committed, the last is %d", index, s.index)
	}
	return &View{s: s, index: index}, nil
}

// Latest gives the state after the last committed entry.
func (s *Store) Latest() *View {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return &View{s: s, index: s.index}
}

// Begin opens an update on the last committed state. It panics if one is open.
func (s *Store) Begin() *Update {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open {
		panic("memstate: an update is open already")
	}
	s.open = true
	return &Update{base: &View{s: s, index: s.index}, staged: make(map[string]version)}
}

// Apply runs one entry through a machine and commits it.
func (s *Store) Apply(m *machine.Machine, index uint64, data []byte) (results []command.Result, entries []command.Entry, err error) {
	u := s.Begin()
	results, entries, err = m.Apply(u, index, data)
	if err != nil {
		u.Discard()
		return nil, nil, err
	}
	u.Commit(index)
	return results, entries, nil
}

// View is a machine.Reader of one index.
type View struct {
	s     *Store
	index uint64
}

// Index of the view.
func (v *View) Index() uint64 { return v.index }

// Get implements machine.Reader.
func (v *View) Get(key []byte) ([]byte, bool, error) {
	v.s.mu.RLock()
	defer v.s.mu.RUnlock()
	value, live := v.at(string(key))
	return value, live, nil
}

// at finds a key's version at the view. The store's lock is held.
func (v *View) at(key string) ([]byte, bool) {
	for _, ver := range slices.Backward(v.s.versions[key]) {
		if ver.index <= v.index {
			return ver.value, ver.live
		}
	}
	return nil, false
}

// Scan implements machine.Reader.
func (v *View) Scan(start, end []byte, fn func(key, value []byte) (bool, error)) error {
	for _, kv := range v.collect(start, end) {
		if more, err := fn(kv.key, kv.value); err != nil || !more {
			return err
		}
	}
	return nil
}

type pair struct{ key, value []byte }

func (v *View) collect(start, end []byte) []pair {
	v.s.mu.RLock()
	defer v.s.mu.RUnlock()
	var found []pair
	first, _ := slices.BinarySearch(v.s.keys, string(start))
	for _, k := range v.s.keys[first:] {
		if end != nil && k >= string(end) {
			break
		}
		if value, live := v.at(k); live {
			found = append(found, pair{[]byte(k), value})
		}
	}
	return found
}

// Update is a machine.State: the last committed state and what was set since. It
// may span several entries, as a store's update does.
type Update struct {
	base   *View
	staged map[string]version
	closed bool
}

// Get implements machine.Reader.
func (u *Update) Get(key []byte) ([]byte, bool, error) {
	if ver, ok := u.staged[string(key)]; ok {
		return ver.value, ver.live, nil
	}
	return u.base.Get(key)
}

// Scan implements machine.Reader.
func (u *Update) Scan(start, end []byte, fn func(key, value []byte) (bool, error)) error {
	found := u.base.collect(start, end)
	found = slices.DeleteFunc(found, func(p pair) bool {
		_, ok := u.staged[string(p.key)]
		return ok
	})
	for k, ver := range u.staged {
		if ver.live && k >= string(start) && (end == nil || k < string(end)) {
			found = append(found, pair{[]byte(k), ver.value})
		}
	}
	slices.SortFunc(found, func(a, b pair) int { return bytes.Compare(a.key, b.key) })
	for _, p := range found {
		if more, err := fn(p.key, p.value); err != nil || !more {
			return err
		}
	}
	return nil
}

// Set implements machine.State.
func (u *Update) Set(key, value []byte) {
	u.staged[string(key)] = version{value: value, live: true}
}

// Delete implements machine.State.
func (u *Update) Delete(key []byte) { u.staged[string(key)] = version{} }

// Writes gives how many keys the update changes, and the bytes of their keys and
// values.
func (u *Update) Writes() (keys, bytes int) {
	for k, ver := range u.staged {
		bytes += len(k) + len(ver.value)
	}
	return len(u.staged), bytes
}

// Commit ends the update: its effects are those of the entry at index.
func (u *Update) Commit(index uint64) {
	s := u.base.s
	s.mu.Lock()
	defer s.mu.Unlock()
	u.end()
	if index <= s.index {
		panic(fmt.Sprintf("memstate: commit of index %d after %d", index, s.index))
	}
	s.index = index
	added := false
	for k, ver := range u.staged {
		old, known := s.versions[k]
		if !known {
			s.keys = append(s.keys, k)
			added = true
		}
		ver.index = index
		s.versions[k] = append(old, ver)
	}
	if added {
		slices.Sort(s.keys)
	}
}

// Discard ends the update without effect.
func (u *Update) Discard() {
	s := u.base.s
	s.mu.Lock()
	defer s.mu.Unlock()
	u.end()
}

func (u *Update) end() {
	if u.closed {
		panic("memstate: the update has ended")
	}
	u.closed, u.base.s.open = true, false
}
