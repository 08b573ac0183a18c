package participant

import (
	"errors"
	"testing"

	cohortv1 "github.com/cohort-tx/cohort/api/cohort/v1"
)

// Without it a state would be followed into a gap, restored for nothing, or
// brought up from what it is not.
func TestPlanState(t *testing.T) {
	found := func(first, last, base uint64, captured ...uint64) *cohortv1.FindStateResponse {
		f := &cohortv1.FindStateResponse{Incarnation: 2, LogFirst: first, LogLast: last, Base: base}
		if len(captured) > 0 {
			f.Capture = &cohortv1.CapturedState{Position: captured[0]}
		}
		return f
	}
	at := func(position uint64) Point { return Point{Incarnation: 2, Position: position} }
	for _, tt := range []struct {
		name    string
		facts   stateFacts
		restore uint64 // position of the captured state
		from    uint64
		noWay   bool
	}{
		{"new, nothing captured", stateFacts{found: found(1, 50, 20)}, 0, 21, false},
		{"new, captured", stateFacts{found: found(30, 50, 20, 40)}, 40, 41, false},
		{"new, the base is gone", stateFacts{found: found(30, 50, 20)}, 0, 0, true},
		{"in memory, began before, captured", stateFacts{touched: true, found: found(1, 50, 20, 40)}, 40, 41, false},
		{"in memory, began before", stateFacts{touched: true, found: found(1, 50, 20)}, 0, 0, true},
		{"stored, near", stateFacts{point: at(45), found: found(1, 50, 20, 40)}, 0, 46, false},
		{"stored, touched", stateFacts{point: at(45), touched: true, found: found(1, 50, 20, 48)}, 0, 46, false},
		{"stored, at the log's first", stateFacts{point: at(29), found: found(30, 50, 20, 40)}, 0, 30, false},
		{"stored, before the log", stateFacts{point: at(28), found: found(30, 50, 20, 40)}, 40, 41, false},
		{"stored, before the log, nothing captured", stateFacts{point: at(28), found: found(30, 50, 20)}, 0, 0, true},
		{"stored, far behind", stateFacts{point: at(10), maxLag: 39, found: found(1, 50, 5, 40)}, 40, 41, false},
		{"stored, just not far behind", stateFacts{point: at(10), maxLag: 40, found: found(1, 50, 5, 40)}, 0, 11, false},
		{"stored, far behind, the captured state is older", stateFacts{point: at(10), maxLag: 5, found: found(1, 50, 5, 9)}, 0, 11, false},
		{"stored, ahead of the node that answered", stateFacts{point: at(60), maxLag: 100, found: found(1, 50, 5, 40)}, 0, 61, false},
		{"stored, of another life", stateFacts{point: Point{1, 45}, found: found(1, 50, 5, 40)}, 40, 41, false},
		{"stored, of another life, nothing captured", stateFacts{point: Point{1, 45}, found: found(1, 50, 5)}, 0, 0, true},
		{"stored, of a life that the node has not heard of", stateFacts{point: Point{3, 45}, found: found(1, 50, 5, 40)}, 0, 0, true},
		{"lost", stateFacts{point: at(45), lost: true, found: found(1, 50, 5, 40)}, 40, 41, false},
		{"lost, nothing captured", stateFacts{point: at(45), lost: true, found: found(1, 50, 5)}, 0, 0, true},
	} {
		if tt.facts.maxLag == 0 {
			tt.facts.maxLag = 1000
		}
		plan, err := planState(tt.facts)
		if (errors.Is(err, errNoWay) || errors.Is(err, errOlder)) != tt.noWay || plan.from != tt.from || plan.restore.GetPosition() != tt.restore {
			t.Errorf("%s: restore %d, from %d, %v", tt.name, plan.restore.GetPosition(), plan.from, err)
		}
	}
}
