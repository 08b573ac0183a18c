package history

import "fmt"

// maxVisits bounds the edges that are followed in search of the shortest cycles of
// one history, so that one with countless faults gets its verdict in seconds. Past
// it the cycles shown may not be the shortest.
const maxVisits = 50_000_000

// longCycle is where a cycle begins to be hard to follow: a fault that shows in a
// longer one only may show in a shorter one with real time.
const longCycle = 5

// byTime are the kinds that need real time.
const byTime = rt | wwTime | rwTime

// searchCycles reports a shortest cycle of each cyclic component, class by class,
// and goes on without its transactions until there is none.
func (c *checker) searchCycles() {
	s := &search{g: c.g, visits: maxVisits}
	var long []step
	for _, kinds := range []kind{ww, ww | wr, ww | wr | rw, ww | wr | rw | byTime} {
		if kinds&byTime != 0 {
			for _, step := range long {
				c.g.out[step.from] = false
			}
		}
		for again := true; again; {
			again = false
			for _, component := range c.g.cyclic(kinds | via) {
				s.enter(component)
				cycle, class := s.shortest(component, kinds)
				if len(cycle) == 0 {
					continue
				}
				for _, step := range cycle {
					c.g.leaveOut(step.from)
				}
				again = c.found[class] < maxAnomalies
				if class == RealTime && ofKind(cycle, byTime) == 0 {
					continue // a long one again: nothing shorter is there
				}
				c.addCycle(class, cycle)
				if len(cycle) >= longCycle {
					long = append(long, cycle...)
				}
			}
		}
	}
}

// step is one edge of a cycle, from transaction to transaction.
type step struct {
	from int32
	edge
}

// search finds shortest cycles. Its slices are as long as the graph's nodes and
// are valid where their mark is the current one.
type search struct {
	g      *graph
	visits int

	inside []int32 // which component a node is in
	entry  int32
	mark   []int32
	run    int32
	dist   []int32
	parent []int32
	by     []edge
}

func (s *search) enter(component []int32) {
	if s.inside == nil {
		n := len(s.g.edges)
		s.inside, s.mark, s.dist, s.parent, s.by = make([]int32, n), make([]int32, n), make([]int32, n), make([]int32, n), make([]edge, n)
	}
	s.entry++
	for _, v := range component {
		s.inside[v] = s.entry
	}
}

// shortest finds a shortest cycle in the component, and its class.
func (s *search) shortest(component []int32, kinds kind) ([]step, Class) {
	if kinds == ww|wr|rw {
		if cycle := s.withOne(component, kinds); cycle != nil {
			return cycle, GSingle
		}
	}
	best := s.any(component, kinds)
	switch {
	case kinds&byTime != 0:
		return best, RealTime
	case kinds&rw != 0 && ofKind(best, rw) > 1:
		return best, G2
	case kinds&rw != 0:
		return best, GSingle // the search for it was given up
	case kinds&wr != 0:
		return best, CircularFlow
	}
	return best, WriteCycle
}

func ofKind(cycle []step, k kind) (n int) {
	for _, s := range cycle {
		if s.kind&k != 0 {
			n++
		}
	}
	return n
}

// any finds a shortest cycle.
func (s *search) any(component []int32, kinds kind) (best []step) {
	for _, v := range component {
		if v >= s.g.transactions {
			continue
		}
		bound := int32(len(component))
		if best != nil {
			bound = int32(len(best)) - 1
		}
		if bound < 2 || best != nil && s.visits <= 0 {
			break
		}
		if s.walk(v, v, kinds, bound) {
			best = s.steps(v, nil)
		}
	}
	return best
}

// withOne finds a shortest cycle with exactly one rw.
func (s *search) withOne(component []int32, kinds kind) (best []step) {
	for _, v := range component {
		if v >= s.g.transactions {
			continue
		}
		for _, e := range s.g.edges[v] {
			bound := int32(len(component))
			if best != nil {
				bound = int32(len(best)) - 1
			}
			if bound < 2 || s.visits <= 0 {
				return best
			}
			if e.kind == rw && s.usable(e.to) && s.walk(e.to, v, kinds&^rw, bound-1) {
				best = s.steps(v, &step{v, e})
			}
		}
	}
	return best
}

func (s *search) usable(v int32) bool { return s.inside[v] == s.entry && !s.g.out[v] }

// walk searches a shortest path from a node to another, or back to itself, of at
// most bound steps, and leaves it in parent and by. via costs nothing, so the
// search is breadth-first with two ends: what costs nothing goes in front.
func (s *search) walk(from, to int32, kinds kind, bound int32) bool {
	s.run++
	level, next := []int32{from}, []int32(nil)
	s.mark[from], s.dist[from] = s.run, 0
	if from == to {
		s.mark[from] = 0 // may be reached
	}
	for d := int32(0); len(level) > 0; d++ {
		for len(level) > 0 {
			v := level[len(level)-1]
			level = level[:len(level)-1]
			for _, e := range s.g.edges[v] {
				s.visits--
				cost := int32(1)
				if e.kind == via {
					cost = 0
				}
				if e.kind&(kinds|via) == 0 || d+cost > bound || !s.usable(e.to) {
					continue
				}
				if s.mark[e.to] == s.run && s.dist[e.to] <= d+cost {
					continue
				}
				s.mark[e.to], s.dist[e.to], s.parent[e.to], s.by[e.to] = s.run, d+cost, v, e
				if e.to == to && cost == 0 {
					return true
				}
				if cost == 0 {
					level = append(level, e.to)
				} else {
					next = append(next, e.to)
				}
			}
		}
		if s.mark[to] == s.run && (from != to || s.dist[to] > 0) {
			return true
		}
		level, next = next, level
	}
	return false
}

// steps are those of the path that walk found to a node, behind the edge that led
// to where it began, if it is not nil.
func (s *search) steps(to int32, first *step) []step {
	var path []step
	for v := to; ; {
		path = append(path, step{s.parent[v], s.by[v]})
		v = s.parent[v]
		if first == nil && v == to || first != nil && v == first.to {
			break
		}
	}
	if first != nil {
		path = append(path, *first)
	}
	// It is backwards, and some of its nodes are between transactions.
	var out []step
	for i := len(path) - 1; i >= 0; i-- {
		p := path[i]
		if p.from >= s.g.transactions {
			last := &out[len(out)-1]
			last.to = p.to
			if last.kind != rt {
				last.value, last.witness = p.value, p.witness
			}
			continue
		}
		out = append(out, p)
	}
	return out
}

var cycleDetails = map[Class]string{
	WriteCycle:   "each transaction's write comes after the other one's",
	CircularFlow: "information flows in a circle",
	GSingle:      "a transaction did not see what it must have seen",
	G2:           "transactions did not see each other's writes",
	RealTime:     "the order that the values tell is not the order in which it happened",
}

func (c *checker) addCycle(class Class, cycle []step) {
	txns := make([]int32, len(cycle))
	steps := make([]Step, len(cycle))
	for i, s := range cycle {
		txns[i] = s.from
		steps[i] = Step{Kind: kindNames[s.kind], Value: s.value}
		if s.key >= 0 {
			steps[i].Key = c.keys[s.key].name
		}
		if s.witness > 0 {
			w := c.witnesses[s.witness-1]
			steps[i].Witnesses = []*Transaction{&c.h[w[0]], &c.h[w[1]]}
		}
	}
	a := c.add(class, fmt.Sprintf("a cycle of %d transactions: %s", len(cycle), cycleDetails[class]), txns...)
	a.Cycle = steps
}
