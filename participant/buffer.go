package participant

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"

	cohortv1 "github.com/cohort-tx/cohort/api/cohort/v1"
)

// remote reads the snapshot of an attempt, overlaid with what the coordinator
// knows of its changes.
type remote interface {
	get(ctx context.Context, participant string, keys [][]byte) (*cohortv1.GetResponse, error)
	scan(ctx context.Context, participant string, prefix, after []byte, limit uint32) (*cohortv1.ScanResponse, error)
	// usable says why nothing can be done any more, nil when it can.
	usable() error
}

// buffer is what one attempt, or one step of it, has read and staged here: the
// changes not sent yet, in program order, lie over what the server returns.
type buffer struct {
	ctx    context.Context
	remote remote

	ops []*cohortv1.Op
	// touched is where the ops of a key are in ops.
	touched map[storeKey][]int
	// doomed is the first thing that did not happen though it was asked for: a
	// transaction must not commit without it, also when its error is overlooked.
	doomed error

	reads map[storeKey]*cohortv1.Read
	order []storeKey
	scans []*cohortv1.ScanRead
}

type storeKey struct{ participant, key string }

func newBuffer(ctx context.Context, r remote) *buffer {
	return &buffer{ctx: ctx, remote: r, touched: make(map[storeKey][]int), reads: make(map[storeKey]*cohortv1.Read)}
}

// doom keeps the attempt from committing and returns err.
func (b *buffer) doom(err error) error {
	if b.doomed == nil {
		b.doomed = err
	}
	return err
}

func (b *buffer) stage(op *cohortv1.Op) {
	k := storeKey{op.Participant, string(op.Key)}
	b.touched[k] = append(b.touched[k], len(b.ops))
	b.ops = append(b.ops, op)
}

// takeOps hands over the unsent changes: from now on the server overlays them.
func (b *buffer) takeOps() []*cohortv1.Op {
	ops := b.ops
	b.ops = nil
	clear(b.touched)
	return ops
}

// readList is what was read, in the order of first reading.
func (b *buffer) readList() []*cohortv1.Read {
	list := make([]*cohortv1.Read, len(b.order))
	for i, k := range b.order {
		list[i] = b.reads[k]
	}
	return list
}

func (b *buffer) read(k storeKey, version uint64) {
	if b.reads[k] == nil {
		b.reads[k] = &cohortv1.Read{Participant: k.participant, Key: []byte(k.key), Version: version}
		b.order = append(b.order, k)
	}
}

// get reads a key as the transaction sees it. A key that was put or deleted here
// needs no read of the snapshot, and records none.
func (b *buffer) get(participant, key string) (value []byte, found bool, version uint64, err error) {
	if err := b.remote.usable(); err != nil {
		return nil, false, 0, err
	}
	k := storeKey{participant, key}
	ops := b.touched[k]
	if !b.overwritten(ops) {
		resp, err := b.remote.get(b.ctx, participant, [][]byte{[]byte(key)})
		if err != nil {
			return nil, false, 0, b.doom(err)
		}
		item := resp.GetItems()[0]
		b.read(k, item.GetVersion())
		value, found, version = item.GetValue(), item.GetFound(), item.GetVersion()
	}
	value, found, err = b.fold(ops, value, found)
	return value, found, version, err
}

// overwritten tells whether the ops on a key begin anew somewhere.
func (b *buffer) overwritten(ops []int) bool {
	return slices.ContainsFunc(ops, func(i int) bool { return b.ops[i].GetAdd() == nil })
}

// fold applies a key's unsent ops to the value under them. What came before the
// last put or delete makes no difference, and is not judged: the value under it
// may not be known here.
func (b *buffer) fold(ops []int, value []byte, found bool) ([]byte, bool, error) {
	for n, i := range slices.Backward(ops) {
		if b.ops[i].GetAdd() == nil {
			ops = ops[n:]
			break
		}
	}
	for _, i := range ops {
		switch op := b.ops[i].Op.(type) {
		case *cohortv1.Op_Put:
			value, found = op.Put.Value, true
		case *cohortv1.Op_Delete:
			value, found = nil, false
		case *cohortv1.Op_Add:
			sum, err := addTo(value, found, op.Add)
			if err != nil {
				return nil, false, &AbortError{Reason: ReasonConstraint, Participant: b.ops[i].Participant, Key: string(b.ops[i].Key), Detail: err.Error()}
			}
			value, found = sum, true
		}
	}
	return value, found, nil
}

// addTo is what the state machine does with an add at commit.
func addTo(value []byte, found bool, add *cohortv1.Add) ([]byte, error) {
	var base int64
	if found {
		n, err := strconv.ParseInt(string(value), 10, 64)
		if err != nil || strconv.FormatInt(n, 10) != string(value) {
			return nil, fmt.Errorf("the value is no decimal integer")
		}
		base = n
	}
	sum := base + add.Delta
	switch {
	case (sum > base) != (add.Delta > 0) && add.Delta != 0:
		return nil, fmt.Errorf("%d plus %d overflows 64 bits", base, add.Delta)
	case add.AtLeast != nil && sum < *add.AtLeast:
		return nil, fmt.Errorf("%d plus %d is below %d", base, add.Delta, *add.AtLeast)
	case add.AtMost != nil && sum > *add.AtMost:
		return nil, fmt.Errorf("%d plus %d is above %d", base, add.Delta, *add.AtMost)
	}
	return strconv.AppendInt(nil, sum, 10), nil
}

// scanAll walks the keys with a prefix as the transaction sees them, page by
// page.
func (b *buffer) scanAll(participant, prefix string, o scanOptions) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		given, after := 0, o.after
		for {
			if err := b.remote.usable(); err != nil {
				yield(Item{}, err)
				return
			}
			page, err := b.remote.scan(b.ctx, participant, []byte(prefix), []byte(after), o.page(given))
			if err == nil && page.More && (len(page.Items) == 0 || string(page.Items[len(page.Items)-1].Key) <= after) {
				err = errNoAnswer("scan", "")
			}
			if err != nil {
				yield(Item{}, b.doom(err))
				return
			}
			if page.Read != nil {
				b.scans = append(b.scans, page.Read)
			}
			items, last, err := b.overlay(participant, prefix, after, page)
			if err != nil {
				yield(Item{}, err)
				return
			}
			for _, item := range items {
				if o.limit > 0 && given == o.limit {
					return
				}
				given++
				if !yield(item, nil) {
					return
				}
			}
			if !page.More || o.limit > 0 && given == o.limit {
				return
			}
			after = last
		}
	}
}

// overlay lays the unsent ops over one page. The page covers the keys after
// after up to its last one, or to the prefix's end when it is the last page.
func (b *buffer) overlay(participant, prefix, after string, page *cohortv1.ScanResponse) (items []Item, last string, err error) {
	base := make(map[string]*cohortv1.Item, len(page.Items))
	for _, item := range page.Items {
		base[string(item.Key)] = item
		last = string(item.Key)
	}
	keys := slices.Collect(maps.Keys(base))
	for k := range b.touched {
		covered := k.participant == participant && strings.HasPrefix(k.key, prefix) && k.key > after && (!page.More || k.key <= last)
		if covered && base[k.key] == nil {
			keys = append(keys, k.key)
		}
	}
	slices.Sort(keys)
	for _, key := range keys {
		item := base[key]
		value, found, err := b.fold(b.touched[storeKey{participant, key}], item.GetValue(), item.GetFound())
		if err != nil {
			return nil, "", err
		}
		if found {
			items = append(items, Item{Key: key, Value: value, Version: item.GetVersion()})
		}
	}
	return items, last, nil
}
