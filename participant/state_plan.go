package participant

import (
	"errors"
	"fmt"

	cohortv1 "github.com/cohort-tx/cohort/api/cohort/v1"
)

var (
	// errNoWay: neither the log nor a captured state leads to where the group is, as
	// the node that answered knows it.
	errNoWay = errors.New("no way to the group's state")
	// errOlder: the node that answered knows of an earlier life of the log than the
	// state has seen.
	errOlder = errors.New("the node is in an earlier incarnation than the state")
)

// stateFacts are what decides how a state is brought to the group's.
type stateFacts struct {
	point Point
	// touched: this process has applied something to the state, or begun to restore
	// it, so that a zero Point does not mean what the state began with.
	touched bool
	// lost: the state holds what the log does not, or half of a captured one.
	lost   bool
	maxLag uint64
	found  *cohortv1.FindStateResponse
}

// statePlan says what to do: restore, unless nil, then apply the log from a
// position on.
type statePlan struct {
	restore *cohortv1.CapturedState
	from    uint64
}

// planState decides between the log and a captured state. What can be followed is
// followed, unless a captured state saves more than maxLag entries.
func planState(f stateFacts) (statePlan, error) {
	captured := f.found.GetCapture()
	restore := func() (statePlan, error) {
		return statePlan{restore: captured, from: captured.GetPosition() + 1}, nil
	}
	first, last := f.found.GetLogFirst(), f.found.GetLogLast()
	switch {
	case f.point.Incarnation > f.found.GetIncarnation():
		return statePlan{}, fmt.Errorf("%w: %d, and %d", errOlder, f.found.GetIncarnation(), f.point.Incarnation)
	case f.lost || f.point == Point{} && f.touched:
		if captured == nil {
			return statePlan{}, fmt.Errorf("%w: the state holds what it should not, and none was captured yet to restore; start it anew, and empty", errNoWay)
		}
		return restore()
	case f.point == Point{}:
		if captured != nil {
			return restore()
		}
		if from := f.found.GetBase() + 1; from >= first {
			return statePlan{from: from}, nil
		}
		return statePlan{}, fmt.Errorf("%w: the log begins at position %d, after the participant's first change could be, and no state was captured", errNoWay, first)
	case f.point.Incarnation != f.found.GetIncarnation():
		if captured == nil {
			return statePlan{}, fmt.Errorf("%w: the state is of incarnation %d, the group was restored and is in %d, and none was captured to restore; start it anew, and empty",
				errNoWay, f.point.Incarnation, f.found.GetIncarnation())
		}
		return restore()
	case f.point.Position+1 < first:
		if captured == nil {
			return statePlan{}, fmt.Errorf("%w: the state is at position %d, the log begins at %d, and no state was captured", errNoWay, f.point.Position, first)
		}
		return restore()
	}
	lag := last - min(f.point.Position, last)
	if captured != nil && lag > f.maxLag && captured.GetPosition() > f.point.Position {
		return restore()
	}
	return statePlan{from: f.point.Position + 1}, nil
}
