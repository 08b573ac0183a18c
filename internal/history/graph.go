package history

import (
	"cmp"
	"slices"
	"time"
)

// kind is why one transaction is before another; a set of kinds is their sum.
type kind uint8

const (
	ww kind = 1 << iota
	wr
	rw
	rt
	// wwTime and rwTime are ww and rw of which real time told the order.
	wwTime
	rwTime
	// via leads from a node that stands between transactions and is no step of its
	// own: the step is the edge that led to that node.
	via
)

var kindNames = map[kind]string{ww: "ww", wr: "wr", rw: "rw", rt: "rt", wwTime: "ww(t)", rwTime: "rw(t)"}

type edge struct {
	to    int32
	key   int32
	value int64
	kind  kind
	// witness is where in checker.witnesses it is said why, from 1, for edges of
	// which real time told the order.
	witness int32
}

// graph has a node for each transaction, and behind them those between.
type graph struct {
	transactions int32
	edges        [][]edge
	// out are nodes that are no longer looked at.
	out []bool
}

func newGraph(transactions int) *graph {
	return &graph{transactions: int32(transactions), edges: make([][]edge, transactions), out: make([]bool, transactions)}
}

// between adds a node between transactions: a set of edges from each to each
// takes their sum and not their product.
func (g *graph) between() int32 {
	g.edges = append(g.edges, nil)
	g.out = append(g.out, false)
	return int32(len(g.edges) - 1)
}

func (g *graph) edge(from, to int32, k kind, key int32, value int64) {
	if from != to {
		g.edges[from] = append(g.edges[from], edge{to: to, kind: k, key: key, value: value})
	}
}

func (g *graph) leaveOut(txn int32) { g.out[txn] = true }

// realTimeEdges adds that who had returned is before who was invoked then: each
// return leads to a chain of moments, and that to the invocations.
func (c *checker) realTimeEdges() {
	type moment struct {
		at      time.Duration
		returns bool
		txn     int32
	}
	var moments []moment
	for i := range c.h {
		if !c.committed[i] {
			continue
		}
		t := &c.h[i]
		moments = append(moments, moment{t.Invoked, false, int32(i)})
		if t.Outcome == OK {
			moments = append(moments, moment{t.Returned, true, int32(i)})
		}
	}
	// At one moment all are invoked before any returns: those overlap.
	slices.SortFunc(moments, func(a, b moment) int {
		return cmp.Or(cmp.Compare(a.at, b.at), boolCompare(a.returns, b.returns), cmp.Compare(a.txn, b.txn))
	})
	now, invoked := int32(-1), true
	for _, m := range moments {
		if m.returns && invoked {
			before := now
			now = c.g.between()
			if before >= 0 {
				c.g.edge(before, now, via, -1, 0)
			}
		}
		invoked = !m.returns
		if m.returns {
			c.g.edge(m.txn, now, rt, -1, 0)
		} else if now >= 0 {
			c.g.edge(now, m.txn, via, -1, 0)
		}
	}
}

// cyclic returns the strongly connected components that have more than one
// transaction, by Tarjan's algorithm, over edges of some kinds. Each is the sorted
// list of its nodes.
func (g *graph) cyclic(kinds kind) [][]int32 {
	n := len(g.edges)
	var (
		found   [][]int32
		number  = make([]int32, n) // from 1 in order of discovery; 0 is not seen
		low     = make([]int32, n)
		onStack = make([]bool, n)
		stack   []int32
		path    []frame
		count   int32
	)
	visit := func(v int32) {
		count++
		number[v], low[v], onStack[v] = count, count, true
		stack = append(stack, v)
		path = append(path, frame{v, 0})
	}
	for root := range int32(n) {
		if number[root] != 0 || g.out[root] {
			continue
		}
		visit(root)
		for len(path) > 0 {
			f := &path[len(path)-1]
			if f.next < len(g.edges[f.node]) {
				e := &g.edges[f.node][f.next]
				f.next++
				switch {
				case e.kind&kinds == 0 || g.out[e.to]:
				case number[e.to] == 0:
					visit(e.to)
				case onStack[e.to]:
					low[f.node] = min(low[f.node], number[e.to])
				}
				continue
			}
			v := f.node
			path = path[:len(path)-1]
			if len(path) > 0 {
				parent := path[len(path)-1].node
				low[parent] = min(low[parent], low[v])
			}
			if low[v] != number[v] {
				continue
			}
			at := len(stack) - 1
			for stack[at] != v {
				at--
			}
			for _, w := range stack[at:] {
				onStack[w] = false
			}
			if len(stack)-at > 1 {
				found = append(found, slices.Sorted(slices.Values(stack[at:])))
			}
			stack = stack[:at]
		}
	}
	return found
}

type frame struct {
	node int32
	next int
}
