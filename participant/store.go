package participant

import (
	"fmt"
	"iter"

	cohortv1 "github.com/cohort-tx/cohort/api/cohort/v1"
)

// Store is a participant's store inside a transaction. A write that could not be
// staged and a read that failed keep the transaction from committing, also when
// their errors are overlooked. Keys are strings of 1 to
// 1,024 bytes of any kind, in the order of their bytes.
type Store struct {
	buffer      *buffer
	participant string
}

// Get reads a key's value into a pointer; see the package's documentation for
// how values are kept. It reports whether the key exists; if not, into is left as
// it is. A nil into only asks that.
func (s Store) Get(key string, into any) (found bool, err error) {
	value, found, err := s.GetBytes(key)
	if err != nil || !found {
		return false, err
	}
	if err := decodeValue(value, into); err != nil {
		return true, fmt.Errorf("%s/%s: %w", s.participant, printable(key), err)
	}
	return true, nil
}

// GetBytes reads a key's value as it is kept.
func (s Store) GetBytes(key string) (value []byte, found bool, err error) {
	if err := s.check(key); err != nil {
		return nil, false, s.buffer.doom(err)
	}
	value, found, _, err = s.buffer.get(s.participant, key)
	return value, found, err
}

// Put stages a value for a key.
func (s Store) Put(key string, value any) error {
	data, _, err := encode(value)
	if err != nil {
		return s.buffer.doom(fmt.Errorf("%s/%s: %w", s.participant, printable(key), err))
	}
	return s.stage(key, &cohortv1.Op{Op: &cohortv1.Op_Put{Put: &cohortv1.Put{Value: data}}})
}

// Delete stages the removal of a key, whether it exists or not.
func (s Store) Delete(key string) error {
	return s.stage(key, &cohortv1.Op{Op: &cohortv1.Op_Delete{Delete: &cohortv1.Delete{}}})
}

// Bound is a condition on the result of an Add.
type Bound func(*cohortv1.Add)

// AtLeast aborts the transaction with ErrConstraint when the result would be less
// than n.
func AtLeast(n int64) Bound { return func(a *cohortv1.Add) { a.AtLeast = &n } }

// AtMost aborts the transaction with ErrConstraint when the result would be more
// than n.
func AtMost(n int64) Bound { return func(a *cohortv1.Add) { a.AtMost = &n } }

// Add stages adding delta to a counter; an absent key counts as 0. It is done
// when the transaction commits, without reading before, so transactions that add
// to one key do not conflict with each other. A value that is no decimal integer,
// an overflow and a broken bound abort with ErrConstraint.
func (s Store) Add(key string, delta int64, bounds ...Bound) error {
	add := &cohortv1.Add{Delta: delta}
	for _, bound := range bounds {
		bound(add)
	}
	return s.stage(key, &cohortv1.Op{Op: &cohortv1.Op_Add{Add: add}})
}

func (s Store) stage(key string, op *cohortv1.Op) error {
	if err := s.check(key); err != nil {
		return s.buffer.doom(err)
	}
	if err := s.buffer.remote.usable(); err != nil {
		return err
	}
	if err := checkSize(len(s.buffer.ops), len(op.GetPut().GetValue())); err != nil {
		return s.buffer.doom(fmt.Errorf("%s/%s: %w", s.participant, printable(key), err))
	}
	op.Participant, op.Key = s.participant, []byte(key)
	s.buffer.stage(op)
	return nil
}

func (s Store) check(key string) error {
	if err := checkName("participant", s.participant); err != nil {
		return err
	}
	return checkKey(key)
}

// Item is a key with its value.
type Item struct {
	Key   string
	Value []byte
	// Version is the position that last wrote the key, 0 when only this
	// transaction did.
	Version uint64
}

// Decode reads the value into a pointer, as Store.Get does.
func (i Item) Decode(into any) error { return decodeValue(i.Value, into) }

// decodeValue reads what a store keeps: it has no content type, so the pointer's
// type says what it is.
func decodeValue(value []byte, into any) error {
	if into == nil {
		return nil
	}
	return decode(value, "", into)
}

const (
	// defaultScanPage keys are asked for at a time.
	defaultScanPage = 1000
	maxScanPage     = 10_000
)

type scanOptions struct {
	after string
	limit int
}

// page is how many keys to ask for next.
func (o scanOptions) page(given int) uint32 {
	if o.limit > 0 {
		return uint32(min(o.limit-given, maxScanPage))
	}
	return defaultScanPage
}

// ScanOption changes what a Scan gives.
type ScanOption func(*scanOptions)

// After continues after a key: the last one of an earlier Scan.
func After(key string) ScanOption { return func(o *scanOptions) { o.after = key } }

// Limit ends after n keys; 0 is no limit.
func Limit(n int) ScanOption { return func(o *scanOptions) { o.limit = n } }

// Scan walks the keys with a prefix in order; an empty prefix is the whole store.
// An error ends it. In a read-write transaction what was scanned must not have
// changed when it commits, keys that came or went included, and all its scans
// together may read at most the group's limits.scan_keys.
func (s Store) Scan(prefix string, opts ...ScanOption) iter.Seq2[Item, error] {
	return scan(s.buffer, s.participant, prefix, opts)
}

func scan(b *buffer, participant, prefix string, opts []ScanOption) iter.Seq2[Item, error] {
	var o scanOptions
	for _, opt := range opts {
		opt(&o)
	}
	if err := checkName("participant", participant); err != nil {
		return func(yield func(Item, error) bool) { yield(Item{}, b.doom(err)) }
	}
	return b.scanAll(participant, prefix, o)
}
