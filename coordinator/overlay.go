package coordinator

import (
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/machine"
)

// overlay is what an attempt has changed so far at one participant, to be laid
// over what its snapshot holds. It is pure: it only orders and folds ops.
type overlay struct {
	participant string
	// ops of each changed key, in program order.
	ops map[string][]*command.Op
	// keys are those of ops, in order.
	keys []string
}

// newOverlay takes the participant's part of an attempt's ops, which must not
// change while the overlay is used.
func newOverlay(participant string, ops []command.Op) *overlay {
	o := &overlay{participant: participant}
	for i := range ops {
		op := &ops[i]
		if op.Participant != participant || op.Kind == command.OpLog {
			continue
		}
		if o.ops == nil {
			o.ops = make(map[string][]*command.Op)
		}
		if len(o.ops[op.Key]) == 0 {
			o.keys = append(o.keys, op.Key)
		}
		o.ops[op.Key] = append(o.ops[op.Key], op)
	}
	slices.Sort(o.keys)
	return o
}

// cell is a key's value, or that it has none.
type cell struct {
	value []byte
	found bool
}

// fold gives a key's value after its ops. An add that the state machine would
// refuse on this base is an *Aborted without id: since the base has been read,
// the attempt cannot commit with another outcome.
func (o *overlay) fold(key string, base cell) (cell, error) {
	for _, op := range o.ops[key] {
		switch op.Kind {
		case command.OpPut:
			base = cell{op.Value, true}
		case command.OpDelete:
			base = cell{}
		case command.OpAdd:
			sum, detail := addTo(base, op)
			if detail != "" {
				return cell{}, &Aborted{Reason: command.ReasonConstraint, Participant: o.participant, Key: key, Detail: detail}
			}
			base = cell{strconv.AppendInt(nil, sum, 10), true}
		}
	}
	return base, nil
}

// addTo adds as the state machine does; detail says why it cannot.
func addTo(base cell, op *command.Op) (sum int64, detail string) {
	current := int64(0)
	if base.found {
		var ok bool
		if current, ok = machine.ParseCounter(base.value); !ok {
			return 0, "the value is not a decimal 64-bit integer"
		}
	}
	if op.Delta > 0 && current > math.MaxInt64-op.Delta || op.Delta < 0 && current < math.MinInt64-op.Delta {
		return 0, fmt.Sprintf("%d plus %d overflows 64 bits", current, op.Delta)
	}
	sum = current + op.Delta
	if op.AtLeast != nil && sum < *op.AtLeast {
		return 0, fmt.Sprintf("%d plus %d is %d: at least %d is asked for", current, op.Delta, sum, *op.AtLeast)
	}
	if op.AtMost != nil && sum > *op.AtMost {
		return 0, fmt.Sprintf("%d plus %d is %d: at most %d is asked for", current, op.Delta, sum, *op.AtMost)
	}
	return sum, ""
}

// scanItem is a live key as a scan answers it.
type scanItem struct {
	key   string
	value []byte
	// version in the snapshot; 0 for a key that the attempt made.
	version uint64
}

// scanner is a snapshot that can be scanned; see View.
type scanner interface {
	Scan(participant, start, end string, limit int, fn func(key string, value []byte, version uint64) (bool, error)) (command.ScanRead, bool, error)
}

// scan goes through the live keys of [start, end) as the attempt sees them, up
// to limit keys or about maxBytes of keys and values. The read that it returns
// covers, of the snapshot, at least what the items depend on: it may reach one
// key beyond the last item.
//
// It merges two ordered sequences, the snapshot's keys and the changed ones:
//
//	snapshot   a   c   d   f
//	changed      b   c-        g      (c was deleted)
//	answer     a b       d   f   g
func (o *overlay) scan(base scanner, start, end string, limit int, maxBytes int64) (items []scanItem, read command.ScanRead, more bool, err error) {
	changed, _ := slices.BinarySearch(o.keys, start)
	pending := o.keys[changed:]
	var bytes int64
	full := func() bool { return len(items) >= limit || bytes >= maxBytes }
	emit := func(key string, c cell, version uint64) {
		if !c.found {
			return
		}
		if full() {
			more = true
			return
		}
		items = append(items, scanItem{key, slices.Clone(c.value), version})
		bytes += int64(len(key) + len(c.value))
	}
	// untilKey emits the changed keys below bound that the snapshot does not have.
	untilKey := func(bound string, bounded bool) error {
		for len(pending) > 0 && !more && (!bounded || pending[0] < bound) && (end == "" || pending[0] < end) {
			key := pending[0]
			pending = pending[1:]
			c, err := o.fold(key, cell{})
			if err != nil {
				return err
			}
			emit(key, c, 0)
		}
		return nil
	}
	read, baseMore, err := base.Scan(o.participant, start, end, 0, func(key string, value []byte, version uint64) (bool, error) {
		if err := untilKey(key, true); err != nil {
			return false, err
		}
		if more {
			return false, nil
		}
		c := cell{value, true}
		if len(pending) > 0 && pending[0] == key {
			pending = pending[1:]
			var err error
			if c, err = o.fold(key, c); err != nil {
				return false, err
			}
		}
		emit(key, c, version)
		return !more, nil
	})
	if err != nil {
		return nil, command.ScanRead{}, false, err
	}
	if !baseMore {
		if err := untilKey("", false); err != nil {
			return nil, command.ScanRead{}, false, err
		}
	}
	return items, read, more, nil
}

// prefixEnd is the first key after all that begin with prefix; empty when there
// is none, as for the empty prefix.
func prefixEnd(prefix string) string {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] != 0xff {
			return prefix[:i] + string([]byte{prefix[i] + 1})
		}
	}
	return ""
}
