package machine

import (
	"fmt"
	"math"
	"strconv"

	"github.com/cohort-tx/cohort/txlog/command"
)

// writeSet is what a transaction will write, a key once, in the order of first
// writing. It is the transaction's own overlay: nothing of it is in the state
// until rule g.
type writeSet struct {
	list []stagedWrite
	// byKey finds a write when there are many; up to fewWrites the list is walked.
	byKey map[stagedKey]int
	// changes are those of the log entry, in program order.
	changes []command.Change
}

type stagedKey struct {
	participant uint32
	key         string
}

type stagedWrite struct {
	stagedKey
	value []byte
	live  bool // false: deleted
}

const (
	fewWrites = 8
	// keptWrites bounds what is kept of a set after a large transaction.
	keptWrites = 1 << 12
)

func (w *writeSet) reset() {
	if cap(w.list) > keptWrites {
		*w = writeSet{}
		return
	}
	clear(w.list)
	clear(w.byKey)
	clear(w.changes)
	w.list, w.changes = w.list[:0], w.changes[:0]
}

func (w *writeSet) find(k stagedKey) *stagedWrite {
	if len(w.list) <= fewWrites {
		for i := range w.list {
			if w.list[i].stagedKey == k {
				return &w.list[i]
			}
		}
		return nil
	}
	if i, ok := w.byKey[k]; ok {
		return &w.list[i]
	}
	return nil
}

func (w *writeSet) put(k stagedKey, value []byte, live bool) {
	if s := w.find(k); s != nil {
		s.value, s.live = value, live
		return
	}
	w.list = append(w.list, stagedWrite{k, value, live})
	switch n := len(w.list); {
	case n <= fewWrites:
	case n == fewWrites+1:
		if w.byKey == nil {
			w.byKey = make(map[stagedKey]int)
		}
		for i := range w.list {
			w.byKey[w.list[i].stagedKey] = i
		}
	default:
		w.byKey[k] = n - 1
	}
}

// evaluate runs the ops in program order and stages what they write. It is rule
// f.
func (e *entryRun) evaluate(d *command.Decide) (*abort, error) {
	w := &e.m.writes
	w.reset()
	for i := range d.Ops {
		o := &d.Ops[i]
		c := command.Change{Kind: o.Kind, Participant: o.Participant, Key: o.Key, Value: o.Value}
		k := stagedKey{e.m.participants[o.Participant].ID, o.Key}
		switch o.Kind {
		case command.OpPut:
			w.put(k, o.Value, true)
		case command.OpDelete:
			w.put(k, nil, false)
		case command.OpAdd:
			sum, a, err := e.add(k, o)
			if a != nil || err != nil {
				return a, err
			}
			c.Value = strconv.AppendInt(e.m.slab.make(counterBytes), sum, 10)
			c.Delta = o.Delta
			w.put(k, c.Value, true)
		case command.OpLog:
			c.AppliedEpoch = o.AppliedEpoch
		}
		w.changes = append(w.changes, c)
	}
	return nil, nil
}

// add gives a counter's value after an add.
func (e *entryRun) add(k stagedKey, o *command.Op) (int64, *abort, error) {
	value, found := []byte(nil), false
	if s := e.m.writes.find(k); s != nil {
		value, found = s.value, s.live
	} else {
		var err error
		if _, value, found, err = e.readData(k.participant, k.key); err != nil {
			return 0, nil, err
		}
	}
	current := int64(0)
	if found {
		var ok bool
		if current, ok = ParseCounter(value); !ok {
			return 0, constraint(o, "the value is not a decimal 64-bit integer"), nil
		}
	}
	if o.Delta > 0 && current > math.MaxInt64-o.Delta || o.Delta < 0 && current < math.MinInt64-o.Delta {
		return 0, constraint(o, fmt.Sprintf("%d plus %d overflows 64 bits", current, o.Delta)), nil
	}
	sum := current + o.Delta
	if o.AtLeast != nil && sum < *o.AtLeast {
		return 0, constraint(o, fmt.Sprintf("%d plus %d is %d: at least %d is asked for", current, o.Delta, sum, *o.AtLeast)), nil
	}
	if o.AtMost != nil && sum > *o.AtMost {
		return 0, constraint(o, fmt.Sprintf("%d plus %d is %d: at most %d is asked for", current, o.Delta, sum, *o.AtMost)), nil
	}
	return sum, nil, nil
}

func constraint(o *command.Op, detail string) *abort {
	return &abort{command.ReasonConstraint, o.Participant, o.Key, detail}
}

// ParseCounter reads a counter's value: a decimal int64 as strconv writes it,
// with no sign but a minus, no leading zero and no "-0".
func ParseCounter(value []byte) (int64, bool) {
	if len(value) == 0 || len(value) > counterBytes {
		return 0, false
	}
	v, err := strconv.ParseInt(string(value), 10, 64)
	if err != nil {
		return 0, false
	}
	var canonical [counterBytes]byte
	return v, string(strconv.AppendInt(canonical[:0], v, 10)) == string(value)
}

// takeChanges moves the changes of the staged transaction to memory of its own.
func (e *entryRun) takeChanges() []command.Change {
	staged := e.m.writes.changes
	if len(staged) == 0 {
		return nil
	}
	first := len(e.changes)
	e.changes = append(e.changes, staged...)
	return e.changes[first:len(e.changes):len(e.changes)]
}

// applyWrites sets what the transaction staged, at its position.
func (e *entryRun) applyWrites(position uint64) {
	m := e.m
	for i := range m.writes.list {
		s := &m.writes.list[i]
		key := appendDataKey(m.slab.make(dataPrefixLen+len(s.key)), s.participant, s.key)
		if !s.live {
			e.st.Delete(key)
			continue
		}
		e.st.Set(key, appendData(m.slab.make(versionLen+len(s.value)), position, s.value))
	}
}

// readData reads a key of the state; an absent one has version 0.
func (e *entryRun) readData(participant uint32, key string) (version uint64, value []byte, found bool, err error) {
	e.m.keyBuf = appendDataKey(e.m.keyBuf[:0], participant, key)
	record, found, err := e.st.Get(e.m.keyBuf)
	if err != nil || !found {
		return 0, nil, false, err
	}
	version, value, err = splitData(e.m.keyBuf, record)
	return version, value, err == nil, err
}
