package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"sync"
	"sync/atomic"

	"github.com/dgraph-io/badger/v4"
)

// Update applies entries in order:
//
//	u := s.Begin(first)
//	for each entry { u.Get …; u.Set …; u.Commit(index) }
//	u.Finish()
//
// Reads see the state before the first entry and everything set since. Commits
// are pipelined: Finish waits for them and then publishes the last one. There is
// one Update at a time, used by one goroutine. Without Finish, nothing of it is
// published: apply the same entries again.
type Update struct {
	store      *Store
	generation *generation
	base       *badger.Txn
	over       overlay
	// touched are the cells that the current entry has set, in order of first
	// touch, which is the order of the ordinals of large values.
	touched []*cell
	entry   int
	last    uint64 // index of the last committed entry, or first-1

	// err is the first failure: it makes Commit and Finish fail.
	err      error
	finished bool

	commits sync.WaitGroup
	failed  atomic.Pointer[failure]
}

// Begin begins an update whose first entry is at first or above: reads are at
// first-1.
func (s *Store) Begin(first uint64) *Update {
	if !s.updating.CompareAndSwap(false, true) {
		panic("store: invariant: one Update at a time")
	}
	if published := s.published.Load(); first <= published {
		panic(fmt.Sprintf("store: invariant: entries are applied once and in order (got %d, published is %d)", first, published))
	}
	u := &Update{store: s, generation: s.current, over: make(overlay), entry: 1, last: first - 1}
	u.base = u.generation.db.NewTransactionAt(first-1, false)
	u.err = s.Err()
	if u.err == nil && s.isClosed() {
		u.err = ErrClosed
	}
	return u
}

// Get returns a copy of key's value.
func (u *Update) Get(key []byte) (value []byte, found bool, err error) {
	if err := u.enter(); err != nil {
		return nil, false, err
	}
	defer u.generation.leave()
	if err := checkKey(key); err != nil {
		return nil, false, err
	}
	if c := u.over[string(key)]; c != nil {
		if c.deleted {
			return nil, false, nil
		}
		return bytes.Clone(c.value), true, nil
	}
	return getValue(u.base, key)
}

// Scan is like View.Scan. It walks the state as it is when Scan begins: fn may
// set keys, and does not see them.
func (u *Update) Scan(start, end []byte, fn func(key, value []byte) (more bool, err error)) error {
	if err := u.enter(); err != nil {
		return err
	}
	defer u.generation.leave()
	over := u.over.cells(start, end)
	c := openCursor(u.generation, u.base, start, end)
	defer c.close()
	return scanOver(c, over, fn)
}

// Set sets key to a copy of value in the current entry. A key that cannot be set
// makes Commit fail.
func (u *Update) Set(key, value []byte) {
	if c := u.touch(key); c != nil {
		c.value, c.deleted = append(make([]byte, 0, len(value)), value...), false
	}
}

// Delete deletes key in the current entry, whether it exists or not.
func (u *Update) Delete(key []byte) {
	if c := u.touch(key); c != nil {
		c.value, c.deleted = nil, true
	}
}

func (u *Update) touch(key []byte) *cell {
	if u.finished {
		panic("store: invariant: an Update that has ended sets nothing")
	}
	if err := checkKey(key); err != nil {
		if u.err == nil {
			u.err = err
		}
		return nil
	}
	c := u.over[string(key)]
	if c == nil {
		c = &cell{key: string(key)}
		u.over[c.key] = c
	}
	if c.entry != u.entry {
		c.entry = u.entry
		u.touched = append(u.touched, c)
	}
	return c
}

// Commit makes what was set since the last Commit the entry at index: one badger
// transaction with index in it. It does not wait for it. An entry that set
// nothing writes nothing and counts all the same.
func (u *Update) Commit(index uint64) error {
	if err := u.enter(); err != nil {
		return err
	}
	defer u.generation.leave()
	if index <= u.last {
		panic(fmt.Sprintf("store: invariant: entries are applied in order (got %d after %d)", index, u.last))
	}
	if err := u.checkSize(index); err != nil {
		u.err = err
		return err
	}
	if len(u.touched) > 0 {
		if err := u.send(index); err != nil {
			u.err = u.store.fail(fmt.Errorf("store: entry %d: %w", index, err))
			return u.err
		}
	}
	u.last = index
	u.entry++
	u.touched = u.touched[:0]
	return nil
}

func (u *Update) checkSize(index uint64) error {
	var size int64
	var count int
	for _, c := range u.touched {
		b, k := Cost(len(c.key), len(c.value))
		size, count = size+b, count+k
	}
	if o := &u.store.options; size > o.MaxEntryBytes || count > o.MaxEntryKeys {
		return &EntryTooLargeError{Index: index, Bytes: size, MaxBytes: o.MaxEntryBytes, Keys: count, MaxKeys: o.MaxEntryKeys}
	}
	return nil
}

// send writes the current entry's transaction and hands it to badger.
func (u *Update) send(index uint64) error {
	// It reads nothing, so what it reads at does not matter.
	txn := u.generation.db.NewTransactionAt(math.MaxUint64, true)
	defer txn.Discard()
	var fresh []blob
	ordinal := uint32(0)
	for _, c := range u.touched {
		old, err := u.storedBlob(c)
		if err != nil {
			return err
		}
		if old.chunks > 0 {
			fresh = append(fresh, old)
		}
		c.known, c.stored = true, blob{}
		switch {
		case c.deleted:
			err = txn.Delete([]byte(c.key))
		case len(c.value) <= LargeValueBytes:
			err = txn.Set([]byte(c.key), c.value)
		default:
			u.generation.large = true
			c.stored = blob{index: index, ordinal: ordinal, chunks: uint32(chunkCount(len(c.value)))}
			ordinal++
			err = setLarge(txn, c)
		}
		if err != nil {
			return err
		}
	}
	if err := u.generation.garbage.sweep(txn, index, fresh); err != nil {
		return err
	}
	if err := txn.Set(appliedKey, binary.BigEndian.AppendUint64(nil, index)); err != nil {
		return err
	}
	u.commits.Add(1)
	return txn.CommitAt(index, func(err error) {
		if err != nil {
			u.failed.CompareAndSwap(nil, &failure{err: fmt.Errorf("store: entry %d: %w", index, err)})
		}
		u.commits.Done()
	})
}

// storedBlob is the blob that the current entry replaces under c's key. Without
// large values there is none, and no read.
func (u *Update) storedBlob(c *cell) (blob, error) {
	if c.known || !u.generation.large {
		return c.stored, nil
	}
	item, err := u.base.Get([]byte(c.key))
	if err == badger.ErrKeyNotFound {
		return blob{}, nil
	}
	if err != nil {
		return blob{}, err
	}
	b, _, err := itemBlob(item)
	return b, err
}

func setLarge(txn *badger.Txn, c *cell) error {
	for n := range c.stored.chunks {
		if err := txn.Set(c.stored.chunkKey(n), chunk(c.value, n)); err != nil {
			return err
		}
	}
	return txn.SetEntry(badger.NewEntry([]byte(c.key), reference(c.stored, len(c.value))).WithMeta(metaLarge))
}

// Finish waits for all commits and publishes the last index. If one failed,
// nothing is published and the store has failed.
func (u *Update) Finish() error {
	if u.finished {
		return fmt.Errorf("store: Finish of an update that has ended: %w", ErrClosed)
	}
	if len(u.touched) > 0 && u.err == nil {
		panic("store: invariant: every entry is committed before Finish")
	}
	if u.err != nil {
		u.Discard()
		return u.err
	}
	defer u.end()
	if err := u.wait(); err != nil {
		return err
	}
	if u.entry > 1 {
		u.store.published.Store(u.last)
	}
	return nil
}

// Discard ends the update without publishing anything. After Finish it does
// nothing.
func (u *Update) Discard() {
	if u.finished {
		return
	}
	defer u.end()
	if u.wait() != nil || u.store.Err() != nil || u.entry == 1 || u.generation.enter() != nil {
		return
	}
	defer u.generation.leave()
	// The queue of garbage is ahead of what is published.
	if err := u.generation.reload(u.store.published.Load()); err != nil {
		_ = u.store.fail(err)
	}
}

// wait waits for the commits. When one failed, later ones may be in badger while
// it is not, so S must never pass it: the store has failed.
func (u *Update) wait() error {
	u.commits.Wait()
	if f := u.failed.Load(); f != nil {
		return u.store.fail(f.err)
	}
	return nil
}

func (u *Update) end() {
	u.finished = true
	u.base.Discard()
	u.store.updating.Store(false)
}

func (u *Update) enter() error {
	if u.finished {
		return ErrClosed
	}
	if u.err != nil {
		return u.err
	}
	return u.generation.enter()
}
