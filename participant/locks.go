package participant

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// maxLocks bounds the locks that an App's attempts hold and wait for together:
// about 20 MB of them. Beyond it a step is refused, and tried again later.
const maxLocks = 100_000

type lockMode uint8

const (
	lockShared    lockMode = 1
	lockExclusive lockMode = 2
)

var (
	errLockDie  = errors.New("an older attempt holds it, or waits for it")
	errLockFull = fmt.Errorf("%d locks are held and waited for; the instance takes no more", maxLocks)
	errLockOver = errors.New("the attempt is over, or has voted")
)

// lockTable holds key locks of attempts, strictly two-phase: an attempt takes
// locks while it is open, and they go all at once when it ends.
//
// Wait-die (Rosenkrantz, Stearns and Lewis, 1978) keeps it free of deadlocks: an
// attempt waits only for younger ones; the younger one of two fails at once and is
// tried again. One that has voted takes no further locks, so it waits for nothing,
// and everybody may wait for it. Every wait thus goes from an older attempt to a
// younger one, or ends at one that has voted, and no cycle can close.
//
// Waiters of a key are served in the order in which they came, so a stream of
// readers does not starve a writer; who comes later waits for those before it as
// for holders, by the same rule. Only an upgrade, from shared to exclusive, goes
// ahead of the others: they wait for its shared lock already.
//
// It is pure: no clock, no goroutine, no lock of its own.
type lockTable struct {
	most int
	// size counts what is held and what is waited for.
	size   int
	keys   map[string]*lockedKey
	owners map[attemptKey]*lockOwner
	// settled is called for each wait that ends by another attempt's doing.
	settled func(*lockWait)
}

type lockedKey struct {
	holders []*lockOwner
	queue   []*lockWait
}

type lockOwner struct {
	attempt attemptKey
	voted   bool
	held    map[string]lockMode
	// waits are more than one only when a handler outlived its step.
	waits []*lockWait
}

// lockWait is a place in a key's queue. err is set when it is settled: nil means
// that the lock is held.
type lockWait struct {
	owner *lockOwner
	key   string
	mode  lockMode
	err   error
	done  chan struct{} // the driver's: closed by it
}

func newLockTable(most int, settled func(*lockWait)) *lockTable {
	return &lockTable{most: most, keys: make(map[string]*lockedKey), owners: make(map[attemptKey]*lockOwner), settled: settled}
}

// older is a total order of attempts: of those that began at one index too.
func (k attemptKey) older(other attemptKey) bool {
	switch {
	case k.begun != other.begun:
		return k.begun < other.begun
	case k.nonce != other.nonce:
		return k.nonce < other.nonce
	}
	return strings.Compare(k.id, other.id) < 0
}

// acquire gives an attempt a lock, or a place in the queue for it, or says why it
// gets neither.
func (t *lockTable) acquire(attempt attemptKey, key string, mode lockMode) (*lockWait, error) {
	o := t.owners[attempt]
	if o == nil {
		o = &lockOwner{attempt: attempt, held: make(map[string]lockMode)}
	}
	if o.voted {
		return nil, errLockOver
	}
	if o.held[key] >= mode {
		return nil, nil
	}
	if t.size >= t.most {
		return nil, errLockFull
	}
	k := t.keys[key]
	if k == nil {
		k = &lockedKey{}
	}
	blocked, err := k.blocked(o, key, mode)
	if err != nil {
		return nil, err
	}
	t.owners[attempt], t.keys[key] = o, k
	if !blocked {
		t.grant(k, o, key, mode)
		return nil, nil
	}
	w := &lockWait{owner: o, key: key, mode: mode}
	if o.held[key] != 0 {
		k.queue = slices.Insert(k.queue, 0, w)
	} else {
		k.queue = append(k.queue, w)
	}
	o.waits = append(o.waits, w)
	t.size++
	return w, nil
}

// blocked tells whether a request must wait, or that it must not wait: errLockDie.
func (k *lockedKey) blocked(o *lockOwner, key string, mode lockMode) (blocked bool, err error) {
	meets := func(other *lockOwner, its lockMode) {
		if other == o || mode == lockShared && its == lockShared {
			return
		}
		blocked = true
		if !other.voted && !o.attempt.older(other.attempt) {
			err = errLockDie
		}
	}
	for _, h := range k.holders {
		meets(h, h.held[key])
	}
	if o.held[key] == 0 {
		for _, w := range k.queue {
			meets(w.owner, w.mode)
		}
	}
	return blocked, err
}

func (t *lockTable) grant(k *lockedKey, o *lockOwner, key string, mode lockMode) {
	if o.held[key] == 0 {
		k.holders = append(k.holders, o)
		t.size++
	}
	o.held[key] = max(o.held[key], mode)
}

// cancel takes a wait back whose step gave up.
func (t *lockTable) cancel(w *lockWait) {
	k := t.keys[w.key]
	if k == nil || !slices.Contains(k.queue, w) {
		return // settled meanwhile
	}
	t.leave(k, w)
	t.serve(w.key, k)
	t.forget(w.owner)
}

func (t *lockTable) leave(k *lockedKey, w *lockWait) {
	same := func(other *lockWait) bool { return other == w }
	k.queue = slices.DeleteFunc(k.queue, same)
	w.owner.waits = slices.DeleteFunc(w.owner.waits, same)
	t.size--
}

// vote says that the attempt takes no more locks and waits for nothing.
func (t *lockTable) vote(attempt attemptKey) {
	if o := t.owners[attempt]; o != nil {
		o.voted = true
		t.refuseWaits(o)
		t.forget(o)
	}
}

// release ends what an attempt holds and waits for.
func (t *lockTable) release(attempt attemptKey) {
	o := t.owners[attempt]
	if o == nil {
		return
	}
	o.voted = true // nothing that is served meanwhile counts for it
	t.refuseWaits(o)
	for _, key := range slices.Sorted(maps.Keys(o.held)) {
		k := t.keys[key]
		k.holders = slices.DeleteFunc(k.holders, func(h *lockOwner) bool { return h == o })
		delete(o.held, key)
		t.size--
		t.serve(key, k)
	}
	t.forget(o)
}

func (t *lockTable) refuseWaits(o *lockOwner) {
	for len(o.waits) > 0 {
		w := o.waits[0]
		k := t.keys[w.key]
		t.leave(k, w)
		w.err = errLockOver
		t.settled(w)
		t.serve(w.key, k)
	}
}

// serve grants a key to those at the head of its queue for whom it is free.
func (t *lockTable) serve(key string, k *lockedKey) {
	for len(k.queue) > 0 {
		w := k.queue[0]
		for _, h := range k.holders {
			if h != w.owner && (w.mode == lockExclusive || h.held[key] == lockExclusive) {
				return
			}
		}
		t.grant(k, w.owner, key, w.mode)
		// Another wait of the same attempt may ask for no more than it has now.
		for _, mine := range slices.Clone(w.owner.waits) {
			if mine.key == key && mine.mode <= w.mode {
				t.leave(k, mine)
				t.settled(mine)
			}
		}
	}
	if len(k.holders) == 0 {
		delete(t.keys, key)
	}
}

func (t *lockTable) forget(o *lockOwner) {
	if len(o.held) == 0 && len(o.waits) == 0 {
		delete(t.owners, o.attempt)
	}
}
