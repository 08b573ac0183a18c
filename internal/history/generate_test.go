package history

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// shape says what random histories are like.
type shape struct {
	transactions, clients int
	// lists and registers are how many keys there are at a time; every perKey writes
	// a key is given up for a new one, 0 is never.
	lists, registers, perKey int
	// opsAtMost bounds a transaction.
	opsAtMost int
	// blind is how many of a hundred writes are done without reading before.
	blind int
	// single makes transactions of one read, one write, or one read and write.
	single bool
	// aborted and indeterminate are how many of a hundred transactions end so.
	aborted, indeterminate int
}

// store is strictly serializable by construction: each transaction happens whole,
// at one instant between its invocation and its return; one without an answer at
// any instant after its invocation, or never.
type store struct {
	shape
	r       *rand.Rand
	lists   map[string][]int64
	regs    map[string]int64
	written map[string]int
	names   []string
	next    int64
	now     time.Duration
}

// generate makes a history of that store. Times are dense: every instant is one
// event.
func generate(r *rand.Rand, s shape) []Transaction {
	st := &store{shape: s, r: r, lists: map[string][]int64{}, regs: map[string]int64{}, written: map[string]int{}}
	for n := range s.lists {
		st.names = append(st.names, fmt.Sprintf("l%d", n))
	}
	for n := range s.registers {
		st.names = append(st.names, fmt.Sprintf("r%d", n))
	}
	type running struct {
		txn  int
		done bool
	}
	var (
		h       []Transaction
		clients = make([]*running, s.clients)
		ghosts  []int // given up by their clients, and not yet happened
	)
	for finished := 0; finished < s.transactions; {
		st.now++
		if len(ghosts) > 0 && r.IntN(4*s.clients) == 0 {
			i := r.IntN(len(ghosts))
			st.happen(&h[ghosts[i]])
			ghosts = slices.Delete(ghosts, i, i+1)
		}
		n := r.IntN(s.clients)
		c := clients[n]
		switch {
		case c == nil && len(h) < s.transactions:
			clients[n] = &running{txn: len(h)}
			h = append(h, Transaction{Client: n, ID: fmt.Sprintf("t%d", len(h)), Invoked: st.now, Outcome: OK})
			if p := r.IntN(100); p < s.aborted {
				h[len(h)-1].Outcome = Aborted
			} else if p < s.aborted+s.indeterminate {
				h[len(h)-1].Outcome = Indeterminate
			}
		case c != nil && !c.done:
			c.done = true
			t := &h[c.txn]
			st.choose(t)
			if t.Outcome == OK || t.Outcome == Indeterminate && r.IntN(3) == 0 {
				st.happen(t)
			} else if t.Outcome == Indeterminate && r.IntN(2) == 0 {
				ghosts = append(ghosts, c.txn)
			} else {
				st.pretend(t)
			}
		case c != nil:
			h[c.txn].Returned = st.now
			clients[n] = nil
			finished++
		}
	}
	return h
}

// choose writes a transaction's program, without what it reads.
func (st *store) choose(t *Transaction) {
	ops := 1 + st.r.IntN(max(1, st.opsAtMost))
	if st.single {
		ops = 1
	}
	for range ops {
		k := st.r.IntN(len(st.names))
		name := st.names[k]
		read, write := Op{Kind: List, Key: name}, Op{Kind: Append, Key: name}
		if name[0] == 'r' {
			read, write = Op{Kind: Read, Key: name}, Op{Kind: Write, Key: name}
		}
		if st.r.IntN(2) == 0 {
			t.Ops = append(t.Ops, read)
			continue
		}
		st.next++
		write.Value = st.next
		if st.r.IntN(100) >= st.blind {
			t.Ops = append(t.Ops, read)
		}
		t.Ops = append(t.Ops, write)
		if st.written[name]++; st.perKey > 0 && st.written[name] >= st.perKey {
			st.names[k] = fmt.Sprintf("%c%d.%d", name[0], k, st.next)
		}
	}
}

// happen runs a transaction against the state.
func (st *store) happen(t *Transaction) {
	for i := range t.Ops {
		o := &t.Ops[i]
		switch o.Kind {
		case Append:
			st.lists[o.Key] = append(slices.Clip(st.lists[o.Key]), o.Value)
		case List:
			o.Values = st.lists[o.Key]
		case Write:
			st.regs[o.Key] = o.Value
		case Read:
			v, ok := st.regs[o.Key]
			o.Value, o.Absent = v, !ok
		}
	}
}

// pretend lets a transaction read what it would, and changes nothing.
func (st *store) pretend(t *Transaction) {
	lists, regs := st.lists, st.regs
	st.lists, st.regs = map[string][]int64{}, map[string]int64{}
	for _, o := range t.Ops {
		if v, ok := regs[o.Key]; ok {
			st.regs[o.Key] = v
		}
		st.lists[o.Key] = lists[o.Key]
	}
	st.happen(t)
	st.lists, st.regs = lists, regs
}

// mutate changes what one committed transaction read, or when it ran; the history
// may stay valid. It tells whether it changed anything.
func mutate(r *rand.Rand, h []Transaction) bool {
	type read struct{ txn, op int }
	var reads []read
	for i := range h {
		for j, o := range h[i].Ops {
			if o.Kind.reads() && h[i].Outcome == OK {
				reads = append(reads, read{i, j})
			}
		}
	}
	if len(reads) == 0 {
		return false
	}
	if r.IntN(4) == 0 { // it ran at another time
		t := &h[r.IntN(len(h))]
		by := time.Duration(r.IntN(40) - 20)
		t.Invoked, t.Returned = t.Invoked+by, t.Returned+by
		return true
	}
	at := reads[r.IntN(len(reads))]
	h[at.txn].Ops = slices.Clone(h[at.txn].Ops)
	o := &h[at.txn].Ops[at.op]
	// Another read of the same key, or a value that was written to it by any.
	var others []Op
	for i := range h {
		for _, other := range h[i].Ops {
			if other.Key == o.Key {
				others = append(others, other)
			}
		}
	}
	other := others[r.IntN(len(others))]
	switch {
	case other.Kind == o.Kind:
		o.Value, o.Values, o.Absent = other.Value, other.Values, other.Absent
	case o.Kind == Read:
		o.Value, o.Absent = other.Value, false
	case r.IntN(2) == 0:
		o.Values = append(slices.Clip(o.Values), other.Value)
	case len(o.Values) > 1:
		o.Values = slices.Clone(o.Values)
		i := r.IntN(len(o.Values) - 1)
		o.Values[i], o.Values[i+1] = o.Values[i+1], o.Values[i]
	case len(o.Values) == 1:
		o.Values = nil
	default:
		return false
	}
	return true
}
