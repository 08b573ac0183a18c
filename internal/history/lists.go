package history

import (
	"fmt"
	"maps"
	"slices"
)

// listEdges orders the versions of a list by what was read of it, and adds the
// edges that follow.
func (c *checker) listEdges(k *key) {
	for i := range k.accesses {
		c.orderList(k, &k.accesses[i])
	}
	c.extendList(k)
	n := len(k.order)
	// appender[i] made version i, the list of i values; -1 where that is unknown.
	appender := make([]int32, n+1)
	appender[0] = -1
	for i, v := range k.order {
		appender[i+1] = -1
		if w, known := k.writes[v]; known && c.committed[w.txn] {
			appender[i+1] = w.txn
		}
	}
	// next[i] is the first version after i with an appender, n+1 if there is none.
	next := make([]int, n+1)
	for i, j := n, n+1; i >= 0; i-- {
		next[i] = j
		if appender[i] >= 0 {
			j = i
		}
	}
	for i := 1; i <= n; i++ {
		if j := next[i]; appender[i] >= 0 && j <= n {
			c.g.edge(appender[i], appender[j], ww, k.number, k.order[j-1])
		}
	}
	replaced := make(map[int]*access)
	end := map[int32]kind{appender[n]: ww}
	for i := range k.accesses {
		a := &k.accesses[i]
		c.ownOrder(k, a)
		if !a.read {
			continue
		}
		version := len(a.seen)
		if version > 0 && appender[version] >= 0 {
			c.g.edge(appender[version], a.txn, wr, k.number, k.order[version-1])
		}
		if j := next[version]; j <= n {
			c.g.edge(a.txn, appender[j], rw, k.number, k.order[j-1])
		} else {
			end[a.txn] = rw
		}
		if len(a.wrote) > 0 {
			c.lostAppend(k, replaced, a)
		}
	}
	c.unseenAppends(k, end)
}

// orderList holds a list that was read against the longest one so far. One that
// does not fit is reported and says nothing about the order.
func (c *checker) orderList(k *key, a *access) {
	if !a.read {
		return
	}
	same := commonPrefix(k.order, a.seen)
	ok := true
	further := make(map[int64]bool)
	for _, v := range a.seen[same:] {
		if at, before := k.at[v]; before && at < same || further[v] {
			c.add(Duplicate, fmt.Sprintf("T1 read %s from %s, where %d is twice", showList(a.seen), k.name, v), a.txn)
			ok = false
		}
		further[v] = true
		ok = c.source(k, a, v, false) && ok
	}
	if n := len(a.seen); n > 0 && ok {
		c.source(k, a, a.seen[n-1], true)
	}
	switch {
	case !ok:
	case same == len(k.order):
		if len(a.seen) > same {
			k.extend(a.seen[same:], a.txn)
		}
	case same < len(a.seen):
		c.add(Incompatible, fmt.Sprintf("T1 read %s from %s, and T2 %s: they differ from value %d on",
			showList(a.seen), k.name, showList(k.order), same+1), a.txn, k.orderedBy)
		ok = false
	}
	a.read = ok
}

func (k *key) extend(values []int64, by int32) {
	for _, v := range values {
		k.at[v] = len(k.order)
		k.order = append(k.order, v)
	}
	k.orderedBy = by
}

// extendList adds what was appended to the longest list by one that had read it:
// nothing else can have come between.
func (c *checker) extendList(k *key) {
	for i := range k.accesses {
		a := &k.accesses[i]
		_, there := 0, false
		if len(a.wrote) > 0 {
			_, there = k.at[a.wrote[0]]
		}
		if a.read && len(a.seen) == len(k.order) && len(a.wrote) > 0 && !there {
			k.extend(a.wrote, a.txn)
			return
		}
	}
}

// lostAppend reports a as the second one to append to a version, unless what both
// appended was read: then they have an order, and a cycle will show it.
func (c *checker) lostAppend(k *key, replaced map[int]*access, a *access) {
	first := replaced[len(a.seen)]
	if first == nil {
		replaced[len(a.seen)] = a
		return
	}
	_, kept := k.at[first.wrote[0]]
	if _, too := k.at[a.wrote[0]]; !kept || !too {
		c.addLostUpdate(k, first, a)
	}
}

// ownOrder reports a transaction whose later appends were seen without its earlier
// ones, or in front of them. Others between them are a cycle.
func (c *checker) ownOrder(k *key, a *access) {
	before, gone := -1, false
	for _, v := range a.wrote {
		at, seen := k.at[v]
		if seen && (gone || at < before) {
			c.add(Incompatible, fmt.Sprintf("T1 appended %s to %s in this order, and T2 read %s",
				showList(a.wrote), k.name, showList(k.order)), a.txn, k.orderedBy)
			return
		}
		before, gone = at, gone || !seen
	}
}

// unseenAppends puts appends that nobody read behind the last version, of which
// end are the writer and the readers.
func (c *checker) unseenAppends(k *key, end map[int32]kind) {
	behind := int32(-1)
	for i := range k.accesses {
		a := &k.accesses[i]
		for _, v := range a.wrote {
			if _, seen := k.at[v]; seen || end[a.txn] != 0 {
				continue
			}
			if behind < 0 {
				behind = c.g.between()
				for _, t := range slices.Sorted(maps.Keys(end)) {
					if t >= 0 {
						c.g.edge(t, behind, end[t], k.number, v)
					}
				}
			}
			c.g.edge(behind, a.txn, via, k.number, v)
		}
	}
}
