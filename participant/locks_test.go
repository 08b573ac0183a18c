package participant

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// lockModel drives a lock table and holds it against what it promises.
type lockModel struct {
	table *lockTable
	waits map[string]*lockWait // under way, by owner, key and mode
}

func newLockModel(most int) *lockModel {
	m := &lockModel{waits: map[string]*lockWait{}}
	m.table = newLockTable(most, func(w *lockWait) {
		name := waitName(w.owner.attempt, w.key, w.mode)
		if m.waits[name] != w {
			panic("settled a wait that was not under way: " + name)
		}
		delete(m.waits, name)
	})
	return m
}

func waitName(a attemptKey, key string, mode lockMode) string {
	return fmt.Sprintf("%d.%d %s %s", a.begun, a.nonce, key, mode)
}

func (m *lockModel) waiting(a attemptKey) bool {
	return slices.ContainsFunc(slices.Collect(maps.Values(m.waits)), func(w *lockWait) bool { return w.owner.attempt == a })
}

func (m *lockModel) acquire(a attemptKey, key string, mode lockMode) error {
	if m.waits[waitName(a, key, mode)] != nil {
		return nil
	}
	w, err := m.table.acquire(a, key, mode)
	if w != nil {
		m.waits[waitName(a, key, mode)] = w
	}
	return err
}

// check is what must hold in every state.
func (m *lockModel) check() error {
	size, waits := 0, 0
	for key, k := range m.table.keys {
		if len(k.holders) == 0 {
			return fmt.Errorf("%s: kept without a holder, %d wait", key, len(k.queue))
		}
		exclusive := 0
		for _, h := range k.holders {
			if h.held[key] == lockExclusive {
				exclusive++
			}
			if m.table.owners[h.attempt] != h {
				return fmt.Errorf("%s: held by %d, which is forgotten", key, h.attempt.begun)
			}
		}
		if exclusive > 0 && len(k.holders) > 1 {
			return fmt.Errorf("%s: exclusive and %d holders", key, len(k.holders))
		}
		size += len(k.holders) + len(k.queue)
		waits += len(k.queue)
		for i, w := range k.queue {
			if m.waits[waitName(w.owner.attempt, key, w.mode)] != w {
				return fmt.Errorf("%s: %d waits and nobody knows", key, w.owner.attempt.begun)
			}
			for _, b := range m.blockers(k, i) {
				if !b.voted && !w.owner.attempt.older(b.attempt) {
					return fmt.Errorf("%s: %d waits for the older %d", key, w.owner.attempt.begun, b.attempt.begun)
				}
				if b.voted && len(b.waits) > 0 {
					return fmt.Errorf("%s: %d has voted and waits", key, b.attempt.begun)
				}
			}
		}
		if head := k.queue; len(head) > 0 && len(m.blockers(k, 0)) == 0 {
			return fmt.Errorf("%s: free for %d, which waits", key, head[0].owner.attempt.begun)
		}
	}
	if size != m.table.size || waits != len(m.waits) {
		return fmt.Errorf("size %d, counted %d; %d waits, counted %d", m.table.size, size, len(m.waits), waits)
	}
	for _, o := range m.table.owners {
		if len(o.held) == 0 && len(o.waits) == 0 {
			return fmt.Errorf("%d has nothing and is kept", o.attempt.begun)
		}
	}
	return nil
}

// blockers are those that the wait at a place of a queue waits for.
func (m *lockModel) blockers(k *lockedKey, i int) (out []*lockOwner) {
	w := k.queue[i]
	meets := func(o *lockOwner, mode lockMode) {
		if o != w.owner && (mode == lockExclusive || w.mode == lockExclusive) {
			out = append(out, o)
		}
	}
	for _, h := range k.holders {
		meets(h, h.held[w.key])
	}
	for _, before := range k.queue[:i] {
		meets(before.owner, before.mode)
	}
	return out
}

// finish ends attempts that do not wait, one after the other, until none is left.
func (m *lockModel) finish() error {
	for len(m.table.owners) > 0 {
		var free []attemptKey
		for a := range m.table.owners {
			if !m.waiting(a) {
				free = append(free, a)
			}
		}
		if len(free) == 0 {
			return fmt.Errorf("deadlock: all of %d attempts wait", len(m.table.owners))
		}
		slices.SortFunc(free, func(a, b attemptKey) int { return int(a.begun) - int(b.begun) })
		m.table.release(free[len(free)-1])
		if err := m.check(); err != nil {
			return err
		}
	}
	if m.table.size != 0 || len(m.table.keys) != 0 || len(m.waits) != 0 {
		return fmt.Errorf("left behind: size %d, %d keys, %d waits", m.table.size, len(m.table.keys), len(m.waits))
	}
	return nil
}

// state names all that the table's behaviour depends on.
func (m *lockModel) state() string {
	var b strings.Builder
	for _, key := range []string{"a", "b"} {
		k := m.table.keys[key]
		if k == nil {
			continue
		}
		fmt.Fprintf(&b, "%s:", key)
		for _, h := range k.holders {
			fmt.Fprintf(&b, " %d/%d", h.attempt.begun, h.held[key])
		}
		for _, w := range k.queue {
			fmt.Fprintf(&b, " ?%d/%d", w.owner.attempt.begun, w.mode)
		}
	}
	for begun := range uint64(4) {
		if o := m.table.owners[attemptKey{begun: begun}]; o != nil && o.voted {
			fmt.Fprintf(&b, " !%d", begun)
		}
	}
	return b.String()
}

// lockOp is one thing that may happen.
type lockOp struct {
	what    string // lock, vote, release, cancel
	attempt attemptKey
	key     string
	mode    lockMode
}

func (m *lockModel) do(op lockOp) {
	switch op.what {
	case "lock":
		_ = m.acquire(op.attempt, op.key, op.mode)
	case "vote":
		m.table.vote(op.attempt)
	case "release":
		m.table.release(op.attempt)
	case "cancel":
		name := waitName(op.attempt, op.key, op.mode)
		if w := m.waits[name]; w != nil {
			delete(m.waits, name)
			m.table.cancel(w)
		}
	}
}

// Without it some order of locking, voting and ending could deadlock, let two
// attempts have one lock, or leave something behind: every state that three
// attempts can reach with two keys, one of them also shared, is looked at.
func TestLocksExhaustively(t *testing.T) {
	var ops []lockOp
	for begun := range uint64(3) {
		a := attemptKey{begun: begun}
		ops = append(ops, lockOp{what: "vote", attempt: a}, lockOp{what: "release", attempt: a})
		for _, l := range []lockOp{{key: "a", mode: lockShared}, {key: "a", mode: lockExclusive}, {key: "b", mode: lockExclusive}} {
			ops = append(ops, lockOp{"lock", a, l.key, l.mode}, lockOp{"cancel", a, l.key, l.mode})
		}
	}
	replay := func(path []lockOp) *lockModel {
		m := newLockModel(100)
		for _, op := range path {
			m.do(op)
		}
		return m
	}
	seen := map[string]bool{"": true}
	paths := [][]lockOp{nil}
	for len(paths) > 0 {
		path := paths[0]
		paths = paths[1:]
		here := replay(path)
		for _, op := range ops {
			if op.what == "lock" && here.waiting(op.attempt) || op.what == "cancel" && here.waits[waitName(op.attempt, op.key, op.mode)] == nil {
				continue // one handler at a time, which waits or does not
			}
			next := append(slices.Clone(path), op)
			m := replay(next)
			if err := m.check(); err != nil {
				t.Fatalf("%v: %v", next, err)
			}
			state := m.state()
			if seen[state] {
				continue
			}
			seen[state] = true
			paths = append(paths, next)
			if err := m.finish(); err != nil {
				t.Fatalf("%v: %v", next, err)
			}
		}
	}
	t.Logf("%d states", len(seen))
	if len(seen) < 500 {
		t.Errorf("only %d states were reached", len(seen))
	}
}

// Without it the same could happen with more attempts and keys, or at the table's
// bound.
func TestLocksAtRandom(t *testing.T) {
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 1))
		most := 200
		if seed%3 == 0 {
			most = 6
		}
		m := newLockModel(most)
		var done []lockOp
		for range 400 {
			op := lockOp{attempt: attemptKey{begun: r.Uint64N(8), nonce: r.Uint64N(2)}, key: string(rune('a' + r.IntN(4))), mode: lockMode(1 + r.IntN(2))}
			switch n := r.IntN(20); {
			case n < 14:
				op.what = "lock"
			case n < 16:
				op.what = "vote"
			case n < 17:
				op.what = "cancel"
			default:
				op.what = "release"
			}
			done = append(done, op)
			m.do(op)
			if m.table.size > most {
				t.Fatalf("seed %d: %d locks, most %d", seed, m.table.size, most)
			}
			if err := m.check(); err != nil {
				t.Fatalf("seed %d after %d: %v", seed, len(done), err)
			}
		}
		if err := m.finish(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

// Without it a writer would wait for ever while readers come and go, or waiters be
// served in another order than they came.
func TestLockWaitersAreServedInOrder(t *testing.T) {
	m := newLockModel(100)
	attempt := func(begun uint64) attemptKey { return attemptKey{begun: begun} }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(m.acquire(attempt(9), "k", lockShared))
	must(m.acquire(attempt(8), "k", lockExclusive)) // waits for 9
	must(m.acquire(attempt(7), "k", lockShared))    // waits behind the writer
	must(m.acquire(attempt(6), "k", lockShared))
	if err := m.acquire(attempt(10), "k", lockShared); !errors.Is(err, errLockDie) {
		t.Errorf("a younger reader passes an older writer: %v", err)
	}
	m.table.release(attempt(9))
	if !m.waiting(attempt(7)) || m.waiting(attempt(8)) {
		t.Error("the writer came first")
	}
	m.table.release(attempt(8))
	if m.waiting(attempt(7)) || m.waiting(attempt(6)) {
		t.Error("both readers can have it")
	}
	must(m.acquire(attempt(6), "k", lockExclusive)) // an upgrade waits for 7 alone
	if err := m.acquire(attempt(7), "k", lockExclusive); !errors.Is(err, errLockDie) {
		t.Errorf("two upgrades wait for each other: %v", err)
	}
	m.table.vote(attempt(7))
	must(m.acquire(attempt(5), "k", lockShared)) // behind the upgrade
	m.table.release(attempt(7))
	if m.waiting(attempt(6)) || !m.waiting(attempt(5)) {
		t.Error("the upgrade goes first")
	}
	if err := m.acquire(attempt(11), "k", lockShared); !errors.Is(err, errLockDie) {
		t.Errorf("a younger one waits: %v", err)
	}
	m.table.vote(attempt(6))
	m.table.release(attempt(5))
	must(m.acquire(attempt(11), "k", lockShared))
	if !m.waiting(attempt(11)) {
		t.Error("anybody may wait for one that has voted")
	}
}

func (m lockMode) String() string { return [...]string{"", "shared", "exclusive"}[m] }
