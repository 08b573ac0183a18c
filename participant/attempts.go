package participant

import (
	"bytes"
	"context"
	"slices"
	"time"
)

const (
	// maxAttempts bounds attempts that an instance with own state knows of: more
	// than limits.open lets a group have by default. Beyond it steps are refused.
	maxAttempts = 16384
	// maxDeadAttempts bounds the names kept of those whose lease ran out here. What
	// is forgotten of them is a floor: see attempts.
	maxDeadAttempts = 4096
)

// timeOverHere is why an attempt is refused that was given up here.
const timeOverHere = "the attempt's time was over here"

// attemptState is how an attempt stands at an instance with own state:
//
//	step ─▶ open ── yes ──▶ voted ── its entry is applied, or its abort known ──▶ over
//	          └─ no, lease over, abort heard, fenced, another coordinator ──▶ over
type attemptState uint8

const (
	attemptOpen  attemptState = 1
	attemptVoted attemptState = 2
	attemptOver  attemptState = 3
)

// attempt is one that called this instance and whose outcome is not known here.
type attempt struct {
	key                attemptKey
	epoch, coordinator uint64
	state              attemptState
	// ctx ends with it; its handlers' contexts hang on it.
	ctx context.Context
	end context.CancelFunc
	// timer ends its lease while it is open, and asks for its outcome once it voted.
	timer *time.Timer
	// running handlers of it.
	running int
	// lingers: it is over, and its changes are taken back when they have ended.
	lingers bool
	// changes that its handlers made before the decision, in their order, in the
	// life of the state that it had then.
	changes []firstChange
	life    uint64
	// toldCommitted: a notice said that this very attempt committed.
	toldCommitted bool
	// abortedFrom is the position from which on it counts as aborted when its entry
	// has not come by then; 0 while that is not known.
	abortedFrom uint64
}

// firstChange is a change of the state that the log does not hold yet.
type firstChange struct {
	step   *StepTx
	change Change
}

// attempts are those that an instance with own state knows of. It is pure.
type attempts struct {
	byKey map[attemptKey]*attempt
	byID  map[string][]*attempt
	// dead are names of attempts that the instance has given up without the
	// coordinator's knowing. They are never voted for. floor is the highest begun
	// among those that were forgotten: an unknown attempt up to it may be one.
	dead      map[attemptKey]bool
	deadOrder []attemptKey
	floor     uint64
	// life counts how often the state was replaced.
	life uint64
}

func newAttempts() attempts {
	return attempts{byKey: make(map[attemptKey]*attempt), byID: make(map[string][]*attempt), dead: make(map[attemptKey]bool)}
}

// find gives an attempt, made if it is new. Otherwise why tells what it is refused
// for.
func (t *attempts) find(k attemptKey, epoch, coordinator uint64) (a *attempt, why string) {
	if a := t.byKey[k]; a != nil {
		return a, ""
	}
	switch {
	case t.dead[k]:
		return nil, timeOverHere
	case k.begun <= t.floor:
		return nil, "the attempt is older than what the instance remembers"
	case len(t.byKey) >= maxAttempts:
		return nil, "the instance has more open attempts than it takes"
	}
	a = &attempt{key: k, epoch: epoch, coordinator: coordinator, state: attemptOpen, life: t.life}
	a.ctx, a.end = context.WithCancel(context.Background())
	t.byKey[k] = a
	t.byID[k.id] = append(t.byID[k.id], a)
	return a, ""
}

// forget takes an attempt out that is over.
func (t *attempts) forget(a *attempt) {
	delete(t.byKey, a.key)
	rest := slices.DeleteFunc(t.byID[a.key.id], func(o *attempt) bool { return o == a })
	if len(rest) == 0 {
		delete(t.byID, a.key.id)
	} else {
		t.byID[a.key.id] = rest
	}
}

// bury remembers that an attempt was given up here.
func (t *attempts) bury(k attemptKey) {
	if t.dead[k] {
		return
	}
	t.dead[k] = true
	t.deadOrder = append(t.deadOrder, k)
	if len(t.deadOrder) > maxDeadAttempts {
		oldest := t.deadOrder[0]
		t.deadOrder = t.deadOrder[1:]
		delete(t.dead, oldest)
		t.floor = max(t.floor, oldest.begun)
	}
}

// decided gives what a committed transaction means for the attempts of its id:
// winner is the one that committed, nil when it did not run here, and losers are
// over, because an id commits once. An entry does not name the nonce, so among
// attempts begun at one index it is the one that a notice named, or one that
// voted, best with the changes that the entry holds.
func (t *attempts) decided(e *Entry) (winner *attempt, losers []*attempt) {
	of := t.byID[e.ID]
	best := 0
	for _, a := range of {
		if a.key.begun != e.Begun || a.state != attemptVoted {
			continue
		}
		rank := 1
		if _, left := a.match(e.Changes); len(left) == 0 {
			rank = 2
		}
		if a.toldCommitted {
			rank = 3
		}
		if rank > best {
			winner, best = a, rank
		}
	}
	for _, a := range of {
		if a != winner {
			losers = append(losers, a)
		}
	}
	return winner, losers
}

// match pairs the changes of the attempt's entry with those that it made first:
// apply is what the state lacks, undo what it has and the entry does not, of a
// step that the coordinator did not wait for.
func (a *attempt) match(changes []Change) (apply, undo []Change) {
	first := a.changes
	for _, c := range changes {
		at := -1
		if c.Kind == ChangeLog && c.AppliedEpoch == a.epoch {
			at = slices.IndexFunc(first, func(f firstChange) bool { return bytes.Equal(f.change.Value, c.Value) })
		}
		if at < 0 {
			apply = append(apply, c)
			continue
		}
		undo = append(undo, changesOf(first[:at])...)
		first = first[at+1:]
	}
	return apply, append(undo, changesOf(first)...)
}

func changesOf(first []firstChange) []Change {
	out := make([]Change, len(first))
	for i := range first {
		out[i] = first[i].change
	}
	return out
}
