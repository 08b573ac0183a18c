package history

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// version is one value of a register, or its absence at the beginning.
type version struct {
	// writer is -1 for the absence.
	writer  int32
	value   int64
	readers []int32
	// next is the version that replaced it, as far as who replaced it had read it;
	// follower says the opposite.
	next     *version
	follower bool
	replacer *access
}

// chain is a run of versions in which each one's writer has read the one before:
// nothing comes between them.
type chain struct {
	first, last *version
	// over is when the first of its transactions had returned, begun when the last
	// one was invoked: whatever was over before another chain begun is before it,
	// and so are both chains.
	over, begun     time.Duration
	overBy, begunBy int32
	// behind is the node between what ends it and what comes after.
	behind int32
	// entered and left tell how far the sweep has come; before are the chains that
	// lead to it directly.
	entered, left bool
	before        []*chain
}

// registerEdges orders the versions of a register as far as reads and real time
// tell, and adds the edges that follow.
func (c *checker) registerEdges(k *key) {
	absent := &version{writer: -1}
	versions := []*version{absent}
	byValue := make(map[int64]*version)
	for i := range k.accesses {
		a := &k.accesses[i]
		if n := len(a.wrote); n > 0 {
			v := &version{writer: a.txn, value: a.wrote[n-1]}
			versions = append(versions, v)
			byValue[v.value] = v
		}
	}
	for i := range k.accesses {
		c.readRegister(k, &k.accesses[i], absent, byValue)
	}
	for _, v := range versions {
		if v.writer >= 0 {
			for _, r := range v.readers {
				c.g.edge(v.writer, r, wr, k.number, v.value)
			}
		}
	}
	var chains []*chain
	for _, v := range versions {
		if !v.follower {
			chains = append(chains, c.chain(k, v))
		}
	}
	c.fromTheBeginning(k, chains)
	c.byTime(k, chains[1:])
}

// readRegister notes what a read, and that its write replaced that.
func (c *checker) readRegister(k *key, a *access, absent *version, byValue map[int64]*version) {
	if !a.read {
		return
	}
	from := absent
	if !a.absent {
		if !c.source(k, a, a.value, true) {
			return
		}
		from = byValue[a.value]
	}
	from.readers = append(from.readers, a.txn)
	n := len(a.wrote)
	if n == 0 {
		return
	}
	if from.next != nil {
		c.addLostUpdate(k, from.replacer, a)
		return
	}
	to := byValue[a.wrote[n-1]]
	from.next, from.replacer, to.follower = to, a, true
}

// chain walks from a chain's first version to its last, and adds the edges inside.
func (c *checker) chain(k *key, first *version) *chain {
	ch := &chain{first: first, last: first, over: math.MaxInt64, begun: math.MinInt64, behind: -1}
	for v := first; v != nil; v = v.next {
		ch.last = v
		if v.writer < 0 {
			ch.over = math.MinInt64
		} else {
			c.spread(ch, v.writer)
		}
		for _, r := range v.readers {
			c.spread(ch, r)
		}
		if v.next != nil {
			if v.writer >= 0 {
				c.g.edge(v.writer, v.next.writer, ww, k.number, v.next.value)
			}
			for _, r := range v.readers {
				c.g.edge(r, v.next.writer, rw, k.number, v.next.value)
			}
		}
	}
	return ch
}

func (c *checker) spread(ch *chain, txn int32) {
	t := &c.h[txn]
	if t.Invoked > ch.begun {
		ch.begun, ch.begunBy = t.Invoked, txn
	}
	if t.Outcome == OK && t.Returned < ch.over {
		ch.over, ch.overBy = t.Returned, txn
	}
}

// fromTheBeginning adds that the chain which begins with absence is before all
// others.
func (c *checker) fromTheBeginning(k *key, chains []*chain) {
	for _, to := range chains[1:] {
		c.follows(k, chains[0], to, ww, rw)
	}
}

// follows adds that what ends a chain is before what begins another one.
func (c *checker) follows(k *key, from, to *chain, written, read kind) {
	last := from.last
	if from.behind < 0 {
		from.behind = c.g.between()
		if last.writer >= 0 {
			c.g.edge(last.writer, from.behind, written, k.number, to.first.value)
		}
		for _, r := range last.readers {
			c.g.edge(r, from.behind, read, k.number, to.first.value)
		}
	}
	// No reader of the last version wrote: it would have made another one the last.
	e := edge{to: to.first.writer, kind: via, key: k.number, value: to.first.value}
	if written == wwTime {
		c.witnesses = append(c.witnesses, [2]int32{from.overBy, to.begunBy})
		e.witness = int32(len(c.witnesses))
	}
	c.g.edges[from.behind] = append(c.g.edges[from.behind], e)
}

// byTime adds the order of chains that real time tells. A chain that is wholly
// past stands for those before it, so that each is followed by few.
func (c *checker) byTime(k *key, chains []*chain) {
	type moment struct {
		at    time.Duration
		leave bool
		of    *chain
	}
	moments := make([]moment, 0, 2*len(chains))
	for _, ch := range chains {
		moments = append(moments, moment{ch.begun, false, ch})
		if ch.over < math.MaxInt64 {
			moments = append(moments, moment{ch.over, true, ch})
		}
	}
	slices.SortStableFunc(moments, func(a, b moment) int {
		return cmp.Or(cmp.Compare(a.at, b.at), boolCompare(a.leave, b.leave))
	})
	var past []*chain
	for _, m := range moments {
		if m.leave {
			m.of.left = true
			past = append(past, m.of)
		} else {
			m.of.entered = true
			for _, from := range past {
				if from != m.of {
					c.follows(k, from, m.of, wwTime, rwTime)
					m.of.before = append(m.of.before, from)
				}
			}
		}
		if m.of.entered && m.of.left {
			past = slices.DeleteFunc(past, func(ch *chain) bool { return slices.Contains(m.of.before, ch) })
			m.of.before = nil
		}
	}
}

func boolCompare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}
