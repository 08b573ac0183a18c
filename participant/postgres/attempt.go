package postgres

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// maxDead bounds the attempts remembered as dead, the oldest go first. A group
	// has fewer open (limits.open), and a dead one matters only as long as its
	// coordinator may still ask for its vote.
	maxDead = 16384
	// rollbackTimeout bounds what is done for a transaction that is given up.
	rollbackTimeout = 5 * time.Second
)

// attemptKey names an attempt of a transaction.
type attemptKey struct {
	id    string
	begun uint64
	nonce uint64
}

// attemptState is where an attempt is here:
//
//	open ─▶ voting ─▶ prepared ─▶ (gone: committed or rolled back)
//	  └────────┴────▶ dead
type attemptState uint8

const (
	attemptOpen attemptState = iota + 1
	attemptVoting
	attemptPrepared
	// attemptDead is rolled back, or will be: its vote is no.
	attemptDead
)

func (s attemptState) String() string {
	return [...]string{"", "open", "voting", "prepared", "dead"}[s]
}

// attempt is one attempt's SQL transaction.
type attempt struct {
	key attemptKey
	lot lot

	// turn is held by the one step or vote that works on it, and guards what follows.
	turn chan struct{}
	conn *pgxpool.Conn // nil before the first step, and once prepared or dead
	// ran are the steps that the transaction has.
	ran    map[uint32]bool
	digest *digest

	// The table's lock guards the rest.
	state attemptState
	why   string // it is dead
	gid   string
	pid   uint32 // of the backend, while conn is held
	cut   bool   // the backend is being ended
	slot  bool   // one of max_prepared_transactions is kept for it
	timer *time.Timer
}

// attempts are those that have come here and are not over.
type attempts struct {
	timeout time.Duration
	// slots bounds what is prepared at once, by max_prepared_transactions.
	slots chan struct{}

	mu    sync.Mutex
	byKey map[attemptKey]*attempt
	byLot map[lot]*attempt
	dead  []attemptKey
	// gate is the reason why no new SQL transaction may begin, if there is one.
	gate   string
	closed bool
}

func newAttempts(timeout time.Duration, prepared int) *attempts {
	return &attempts{
		timeout: timeout, slots: make(chan struct{}, prepared),
		byKey: make(map[attemptKey]*attempt), byLot: make(map[lot]*attempt),
	}
}

// enter finds an attempt or makes it.
func (t *attempts) enter(k attemptKey) (*attempt, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, ErrClosed
	}
	if a := t.byKey[k]; a != nil {
		return a, nil
	}
	a := &attempt{key: k, lot: newLot(), turn: make(chan struct{}, 1), ran: make(map[uint32]bool), digest: newDigest(), state: attemptOpen}
	t.byKey[k], t.byLot[a.lot] = a, a
	a.timer = time.AfterFunc(t.timeout, func() {
		t.kill(a, fmt.Sprintf("it was open for more than %s without a vote", t.timeout))
	})
	return a, nil
}

func (t *attempts) find(k attemptKey) *attempt {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byKey[k]
}

func (t *attempts) has(l lot) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := t.byLot[l]
	return a != nil && a.state != attemptDead
}

// take waits for the attempt's turn. What is dead has none.
func (t *attempts) take(ctx context.Context, a *attempt) error {
	select {
	case a.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := t.alive(a); err != nil {
		t.give(a)
		return err
	}
	return nil
}

func (t *attempts) alive(a *attempt) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if a.state == attemptDead {
		return conflict("the transaction was given up here: %s", a.why)
	}
	return nil
}

// give ends a turn, and the SQL transaction of an attempt that died meanwhile.
func (t *attempts) give(a *attempt) {
	t.mu.Lock()
	dead, cut := a.state == attemptDead, a.cut
	if dead {
		a.pid = 0
	}
	t.mu.Unlock()
	if dead && a.conn != nil {
		if cut {
			discard(a.conn)
		} else {
			rollback(a.conn)
		}
		a.conn = nil
	}
	<-a.turn
}

// rollback ends the SQL transaction of a connection and gives that back.
func rollback(conn *pgxpool.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), rollbackTimeout)
	defer cancel()
	if _, err := conn.Exec(ctx, "rollback"); err != nil {
		_ = conn.Conn().Close(ctx)
	}
	conn.Release()
}

// discard closes a connection, so that nobody gets one whose backend ends.
func discard(conn *pgxpool.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), rollbackTimeout)
	defer cancel()
	_ = conn.Conn().Close(ctx)
	conn.Release()
}

// kill gives an attempt up that is not voted for. Whoever has its turn ends the
// SQL transaction with it.
func (t *attempts) kill(a *attempt, why string) {
	t.mu.Lock()
	if a.state != attemptOpen {
		t.mu.Unlock()
		return
	}
	t.dieLocked(a, why)
	t.mu.Unlock()
	t.clean(a)
}

// clean ends a dead attempt's SQL transaction, unless somebody has its turn.
func (t *attempts) clean(a *attempt) (done bool) {
	select {
	case a.turn <- struct{}{}:
		t.give(a)
		return true
	default:
		return false
	}
}

// abort is kill for an attempt that the group has aborted.
func (t *attempts) abort(l lot) {
	t.mu.Lock()
	a := t.byLot[l]
	t.mu.Unlock()
	if a != nil {
		t.kill(a, "the transaction was aborted")
	}
}

// die is kill by the one who has the turn.
func (t *attempts) die(a *attempt, why string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.dieLocked(a, why)
}

func (t *attempts) dieLocked(a *attempt, why string) {
	if a.state == attemptDead {
		return
	}
	a.timer.Stop()
	a.state, a.why = attemptDead, why
	t.freeLocked(a)
	t.dead = append(t.dead, a.key)
	if len(t.dead) > maxDead {
		t.dropLocked(t.byKey[t.dead[0]])
		t.dead = t.dead[1:]
	}
}

func (t *attempts) freeLocked(a *attempt) {
	if a.slot {
		a.slot = false
		<-t.slots
	}
}

func (t *attempts) dropLocked(a *attempt) {
	if a == nil {
		return
	}
	delete(t.byKey, a.key)
	delete(t.byLot, a.lot)
}

// live tells what is known of a lot's attempt here; false when nothing is.
func (t *attempts) live(l lot) (attempt, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := t.byLot[l]
	if a == nil || a.state == attemptDead {
		return attempt{}, false
	}
	return attempt{key: a.key, lot: a.lot, state: a.state, gid: a.gid}, true
}

// ended forgets an attempt whose transaction is committed, or rolled back after
// it was prepared.
func (t *attempts) ended(l lot) {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := t.byLot[l]
	if a == nil || a.state == attemptDead {
		return
	}
	a.timer.Stop()
	t.freeLocked(a)
	t.dropLocked(a)
}

// shut keeps new SQL transactions from beginning, gives up those that are open,
// and returns the backends of steps that still run: those are to be ended.
func (t *attempts) shut(why string) []uint32 {
	t.mu.Lock()
	t.gate = why
	var open []*attempt
	for _, a := range t.byKey {
		if a.state == attemptOpen {
			t.dieLocked(a, why)
			open = append(open, a)
		}
	}
	t.mu.Unlock()
	var pids []uint32
	for _, a := range open {
		if t.clean(a) {
			continue
		}
		t.mu.Lock()
		if a.pid != 0 {
			a.cut = true
			pids = append(pids, a.pid)
		}
		t.mu.Unlock()
	}
	return pids
}

// open ends what shut began.
func (t *attempts) open() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.gate = ""
}

// mayBegin tells whether a new SQL transaction may begin, and notes its backend.
func (t *attempts) mayBegin(a *attempt, pid uint32) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return ErrClosed
	}
	if t.gate != "" {
		return conflict("%s", t.gate)
	}
	a.pid = pid
	return nil
}

// close gives up all that is open.
func (t *attempts) close() {
	t.shut("the database was closed")
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	for _, a := range t.byKey {
		a.timer.Stop()
	}
}
