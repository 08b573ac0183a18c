package history

import (
	"cmp"
	"fmt"
	"slices"
)

// Check decides whether a history is strictly serializable. The report refers to
// h's transactions. The error says what is wrong with the history itself, so that
// there is no verdict: times that run backwards, a value given twice to one key,
// a key that is list and register.
//
// It takes time and memory proportional to the operations and the lengths of
// lists, and, in histories with faults, to the cycles that are searched.
func Check(h []Transaction) (*Report, error) {
	c := &checker{h: h, byName: map[string]*key{}, committed: make([]bool, len(h)), found: map[Class]int{}}
	if err := c.index(); err != nil {
		return nil, err
	}
	c.commit()
	for i := range h {
		if c.committed[i] {
			c.access(int32(i))
		}
	}
	c.g = newGraph(len(h))
	for _, k := range c.keys {
		if k.list {
			c.listEdges(k)
		} else {
			c.registerEdges(k)
		}
	}
	c.realTimeEdges()
	c.searchCycles()
	slices.SortStableFunc(c.report.Anomalies, func(a, b *Anomaly) int {
		return cmp.Compare(slices.Index(classes, a.Class), slices.Index(classes, b.Class))
	})
	c.report.Transactions = len(h)
	return &c.report, nil
}

// checker holds one history. Transactions are named by their place in it.
type checker struct {
	h         []Transaction
	keys      []*key
	byName    map[string]*key
	committed []bool
	g         *graph
	// witnesses are pairs of which the first had returned when the second was
	// invoked.
	witnesses [][2]int32
	report    Report
	found     map[Class]int
}

// key is what is known of one list or register.
type key struct {
	name string
	// number is its place in checker.keys.
	number int32
	list   bool
	// writes are by value.
	writes map[int64]write
	// accesses are one for each committed transaction that touches the key.
	accesses []access

	// order is the longest list that was read, orderedBy who read it, and at where
	// in it a value is; for lists.
	order     []int64
	orderedBy int32
	at        map[int64]int
}

// write is a value's origin.
type write struct {
	txn int32
	// final is set when the transaction left the key with this value.
	final bool
}

// access is what one committed transaction did to one key.
type access struct {
	txn int32
	// read is set when it saw what others had written, and that made sense.
	read bool
	// seen is the list that it read, without what it had appended itself.
	seen []int64
	// value is what the register had, unless absent.
	value  int64
	absent bool
	// wrote are the values it gave the key, in order.
	wrote []int64
}

// index finds every value's writer.
func (c *checker) index() error {
	for i := range c.h {
		t := &c.h[i]
		if err := t.validate(); err != nil {
			return fmt.Errorf("transaction %d (%s): %w", i+1, t, err)
		}
		for _, o := range t.Ops {
			k := c.byName[o.Key]
			if k == nil {
				k = &key{name: o.Key, number: int32(len(c.keys)), list: o.Kind.ofList(), writes: map[int64]write{}, orderedBy: -1, at: map[int64]int{}}
				c.byName[o.Key] = k
				c.keys = append(c.keys, k)
			}
			if k.list != o.Kind.ofList() {
				return fmt.Errorf("transaction %d (%s): key %s is used as a list and as a register; give each object a key of its own", i+1, t, o.Key)
			}
			if o.Kind.reads() {
				continue
			}
			if before, twice := k.writes[o.Value]; twice {
				return fmt.Errorf("transactions %d and %d both give %s the value %d; give every value once, so that who reads it names its writer", before.txn+1, i+1, o.Key, o.Value)
			}
			k.writes[o.Value] = write{txn: int32(i)}
		}
		c.markFinal(t)
	}
	return nil
}

func (c *checker) markFinal(t *Transaction) {
	for i, o := range slices.Backward(t.Ops) {
		later := slices.ContainsFunc(t.Ops[i+1:], func(l Op) bool { return l.Key == o.Key && !l.Kind.reads() })
		if k := c.byName[o.Key]; !o.Kind.reads() && !later {
			w := k.writes[o.Value]
			w.final = true
			k.writes[o.Value] = w
		}
	}
}

// commit decides which transactions count as committed: those that are known to
// be, and those without an answer that a committed one read from.
func (c *checker) commit() {
	var next []int32
	for i := range c.h {
		if c.h[i].Outcome == OK {
			c.committed[i] = true
			next = append(next, int32(i))
		}
	}
	infer := func(k *key, value int64) {
		w, known := k.writes[value]
		if known && !c.committed[w.txn] && c.h[w.txn].Outcome == Indeterminate {
			c.committed[w.txn] = true
			c.report.Inferred++
			next = append(next, w.txn)
		}
	}
	// Lists are read again and again: what the longest one so far begins with has
	// been looked at.
	longest := make([][]int64, len(c.keys))
	for len(next) > 0 {
		t := &c.h[next[len(next)-1]]
		next = next[:len(next)-1]
		c.report.Committed++
		for i := range t.Ops {
			o := &t.Ops[i]
			k := c.byName[o.Key]
			switch {
			case o.Kind == Read && !o.Absent:
				infer(k, o.Value)
			case o.Kind == List:
				known := longest[k.number]
				for _, v := range o.Values[commonPrefix(known, o.Values):] {
					infer(k, v)
				}
				if len(o.Values) > len(known) {
					longest[k.number] = o.Values
				}
			}
		}
	}
}

func commonPrefix(a, b []int64) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// access sums up what a committed transaction did to each key, and reports reads
// that contradict its own program.
func (c *checker) access(txn int32) {
	t := &c.h[txn]
	for i := range t.Ops {
		o := &t.Ops[i]
		k := c.byName[o.Key]
		n := len(k.accesses)
		if n == 0 || k.accesses[n-1].txn != txn {
			k.accesses = append(k.accesses, access{txn: txn})
			n++
		}
		a := &k.accesses[n-1]
		switch o.Kind {
		case Append, Write:
			a.wrote = append(a.wrote, o.Value)
		case List:
			c.accessList(a, k, o)
		case Read:
			c.accessRegister(a, k, o)
		}
	}
}

func (c *checker) accessList(a *access, k *key, o *Op) {
	before := len(o.Values) - len(a.wrote)
	if before < 0 || !slices.Equal(o.Values[before:], a.wrote) {
		c.add(Internal, fmt.Sprintf("T1 had appended %s to %s, and read %s", showList(a.wrote), k.name, showList(o.Values)), a.txn)
		return
	}
	seen := o.Values[:before]
	if a.read && !slices.Equal(a.seen, seen) {
		c.add(Internal, fmt.Sprintf("T1 read two lists of others from %s, %s and then %s", k.name, showList(a.seen), showList(seen)), a.txn)
		return
	}
	a.read, a.seen = true, seen
}

func (c *checker) accessRegister(a *access, k *key, o *Op) {
	if n := len(a.wrote); n > 0 {
		if o.Absent || o.Value != a.wrote[n-1] {
			c.add(Internal, fmt.Sprintf("T1 had written %d to %s, and did not read that", a.wrote[n-1], k.name), a.txn)
		}
		return
	}
	if a.read && (a.value != o.Value || a.absent != o.Absent) {
		c.add(Internal, fmt.Sprintf("T1 read two values from %s", k.name), a.txn)
		return
	}
	a.read, a.value, a.absent = true, o.Value, o.Absent
}

// source finds who wrote what a reads, and reports a value that nobody may read:
// then it returns false. last says that nothing may follow the value at its writer.
func (c *checker) source(k *key, a *access, value int64, last bool) bool {
	w, known := k.writes[value]
	switch {
	case !known:
		c.add(Unwritten, fmt.Sprintf("T1 read %d from %s, which nobody wrote", value, k.name), a.txn)
	case c.h[w.txn].Outcome == Aborted:
		c.add(AbortedRead, fmt.Sprintf("T1 read %d from %s, which T2 wrote, and T2 was aborted", value, k.name), a.txn, w.txn)
	case w.txn == a.txn:
		c.add(Internal, fmt.Sprintf("T1 read %d from %s before it wrote that", value, k.name), a.txn)
	case last && !w.final:
		c.add(IntermediateRead, fmt.Sprintf("T1 read %d from %s, where T2 wrote something else afterwards", value, k.name), a.txn, w.txn)
	default:
		return true
	}
	return false
}

// add reports an anomaly that is no cycle.
func (c *checker) add(class Class, detail string, txns ...int32) *Anomaly {
	c.found[class]++
	a := &Anomaly{Class: class, Detail: detail}
	for _, t := range txns {
		a.Transactions = append(a.Transactions, &c.h[t])
	}
	if c.found[class] <= maxAnomalies {
		c.report.Anomalies = append(c.report.Anomalies, a)
	}
	return a
}

// addLostUpdate reports two transactions that read one version and replaced it.
func (c *checker) addLostUpdate(k *key, first, second *access) {
	a := c.add(LostUpdate, fmt.Sprintf("T1 and T2 read the same version of %s, and both replaced it", k.name), first.txn, second.txn)
	a.Cycle = []Step{{Kind: "rw", Key: k.name, Value: second.wrote[0]}, {Kind: "rw", Key: k.name, Value: first.wrote[0]}}
	c.g.leaveOut(first.txn)
	c.g.leaveOut(second.txn)
}
