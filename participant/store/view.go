package store

import (
	"bytes"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/dgraph-io/badger/v4"
)

// View reads the state at one index, exactly, until it is closed. It may be used
// by several goroutines at once. It holds the discard floor back: close it.
type View struct {
	generation *generation
	txn        *badger.Txn
	index      uint64
	closed     atomic.Bool
}

// View pins index, 0 being the last published one. The error is ErrSnapshotTooOld
// below the discard floor and ErrNotApplied above what is published.
func (s *Store) View(index uint64) (*View, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return nil, ErrClosed
	}
	published := s.published.Load()
	if index == 0 {
		index = published
	}
	if index > published {
		return nil, fmt.Errorf("%w (asked for %d, published is %d)", ErrNotApplied, index, published)
	}
	g := s.current
	if err := g.view(index); err != nil {
		return nil, err
	}
	return &View{generation: g, txn: g.db.NewTransactionAt(index, false), index: index}, nil
}

// Index is the index that the view reads at.
func (v *View) Index() uint64 { return v.index }

// Get returns a copy of key's value.
func (v *View) Get(key []byte) (value []byte, found bool, err error) {
	if err := v.enter(); err != nil {
		return nil, false, err
	}
	defer v.generation.leave()
	if err := checkKey(key); err != nil {
		return nil, false, err
	}
	return getValue(v.txn, key)
}

// Scan calls fn with the keys of [start, end) in ascending order until it returns
// false or an error; an empty end is no bound. key and value are fn's only until
// it returns.
func (v *View) Scan(start, end []byte, fn func(key, value []byte) (more bool, err error)) error {
	if err := v.enter(); err != nil {
		return err
	}
	defer v.generation.leave()
	c := openCursor(v.generation, v.txn, start, end)
	defer c.close()
	for c.valid() {
		value, err := c.value()
		if err != nil {
			return err
		}
		more, err := fn(c.key(), value)
		if err != nil || !more {
			return err
		}
		if err := c.next(); err != nil {
			return err
		}
	}
	return nil
}

// Close lets the pin go. It must not overlap with another call.
func (v *View) Close() {
	if v.closed.Swap(true) {
		return
	}
	v.txn.Discard()
	v.generation.closeView(v.index)
}

func (v *View) enter() error {
	if v.closed.Load() {
		return ErrClosed
	}
	return v.generation.enter()
}

func checkKey(key []byte) error {
	if len(key) == 0 || len(key) > MaxKeyBytes || key[0] == ownPrefix {
		return fmt.Errorf("%w (got %d bytes, %.32q)", ErrKey, len(key), key)
	}
	return nil
}

func getValue(txn *badger.Txn, key []byte) ([]byte, bool, error) {
	item, err := txn.Get(key)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	value, err := itemValue(txn, item)
	return value, err == nil, err
}

// cursor walks the caller's keys of a range.
type cursor struct {
	generation *generation
	txn        *badger.Txn
	it         *badger.Iterator
	end        []byte
	steps      int
	buf        []byte
}

// closingCheckEvery bounds the keys that a walk passes before it notices that
// the store closes.
const closingCheckEvery = 256

func openCursor(g *generation, txn *badger.Txn, start, end []byte) *cursor {
	if first := []byte{ownPrefix + 1}; bytes.Compare(start, first) < 0 {
		start = first
	}
	// Prefetching would start a goroutine a key. The prefix spares tables.
	options := badger.IteratorOptions{Prefix: commonPrefix(start, end)}
	c := &cursor{generation: g, txn: txn, end: end, it: txn.NewIterator(options)}
	c.it.Seek(start)
	return c
}

// commonPrefix is what every key of [start, end) begins with.
func commonPrefix(start, end []byte) []byte {
	n := 0
	for n < len(start) && n < len(end) && start[n] == end[n] {
		n++
	}
	return start[:n:n]
}

func (c *cursor) valid() bool {
	return c.it.Valid() && (len(c.end) == 0 || bytes.Compare(c.it.Item().Key(), c.end) < 0)
}

func (c *cursor) key() []byte { return c.it.Item().Key() }

// version is the index that wrote the value.
func (c *cursor) version() uint64 { return c.it.Item().Version() }

// value is valid until next.
func (c *cursor) value() ([]byte, error) {
	item := c.it.Item()
	if item.UserMeta() == metaLarge {
		return itemValue(c.txn, item)
	}
	err := item.Value(func(v []byte) error { c.buf = v; return nil })
	return c.buf, err
}

func (c *cursor) next() error {
	if c.steps++; c.steps%closingCheckEvery == 0 && c.generation.closing() {
		return ErrClosed
	}
	c.it.Next()
	return nil
}

func (c *cursor) close() { c.it.Close() }
