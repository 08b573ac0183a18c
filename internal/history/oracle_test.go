package history

import (
	"fmt"
	"slices"
	"strings"
)

// serializable tries every order: it is the definition, and knows no graph. For
// small histories only.
func serializable(h []Transaction) bool {
	o := &oracle{h: h, seen: map[string]bool{}}
	for i := range h {
		if h[i].Outcome == OK {
			o.must |= 1 << i
		}
	}
	return o.from(0, map[string][]int64{})
}

type oracle struct {
	h    []Transaction
	must uint64
	seen map[string]bool // states from which there is no way
}

// from tells whether what is not in done can follow it. A register is the list of
// its values of which only the last one is read.
func (o *oracle) from(done uint64, state map[string][]int64) bool {
	if done&o.must == o.must {
		return true
	}
	name := fmt.Sprint(done, state)
	if o.seen[name] {
		return false
	}
	o.seen[name] = true
	for i := range o.h {
		if done&(1<<i) != 0 || o.h[i].Outcome == Aborted || !o.mayBeNext(done, i) {
			continue
		}
		if next, ok := run(&o.h[i], state); ok && o.from(done|1<<i, next) {
			return true
		}
	}
	return false
}

// mayBeNext: none that must come, and is not done, had returned before i began.
func (o *oracle) mayBeNext(done uint64, i int) bool {
	for j := range o.h {
		if j != i && o.must&^done&(1<<j) != 0 && o.h[j].Returned < o.h[i].Invoked {
			return false
		}
	}
	return true
}

func run(t *Transaction, state map[string][]int64) (map[string][]int64, bool) {
	next := make(map[string][]int64, len(state))
	for k, v := range state {
		next[k] = v
	}
	for _, op := range t.Ops {
		have := next[op.Key]
		switch op.Kind {
		case Append:
			next[op.Key] = append(slices.Clip(have), op.Value)
		case Write:
			next[op.Key] = []int64{op.Value}
		case List:
			if !slices.Equal(have, op.Values) {
				return nil, false
			}
		case Read:
			if op.Absent != (len(have) == 0) || !op.Absent && have[0] != op.Value {
				return nil, false
			}
		}
	}
	return next, true
}

// show prints a history for a failing test.
func show(h []Transaction) string {
	var s strings.Builder
	for i := range h {
		fmt.Fprintf(&s, "%s\n", &h[i])
	}
	return s.String()
}
