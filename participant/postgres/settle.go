package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/cohort-tx/cohort/participant"
)

const (
	// maxTold bounds the outcomes that wait for the resolver; what finds no room is
	// found by its next pass. It is the SDK's bound on votes without an outcome.
	maxTold = 4096
	// askTimeout bounds one question to the group.
	askTimeout = 5 * time.Second
	// settlePause and maxSettlePause space the questions about a transaction that
	// is being decided.
	settlePause    = 20 * time.Millisecond
	maxSettlePause = time.Second
	// oldIDs is how long an id is kept whose gid is gone.
	oldIDs = time.Hour
)

// doubt is a prepared transaction of ours, as PostgreSQL has it.
type doubt struct {
	gid
	name  string
	since time.Time
}

// inDoubt lists the participant's prepared transactions in this database. All
// others are somebody else's.
func (db *DB) inDoubt(ctx context.Context) ([]doubt, error) {
	rows, err := db.own.Query(ctx, `select p.gid, p.prepared, (select i.id from cohort.ids i where i.hash = right(p.gid, $2))
		from pg_prepared_xacts p where p.database = current_database() and starts_with(p.gid, $1) order by p.prepared`, gidPrefix+db.owner+":", hashChars)
	if err != nil {
		return nil, fmt.Errorf("postgres: list prepared transactions: %w", err)
	}
	var out []doubt
	var d doubt
	var id *string
	_, err = pgx.ForEachRow(rows, []any{&d.name, &d.since, &id}, func() error {
		g, ok := parseGID(db.owner, d.name)
		if !ok {
			return nil
		}
		if g.idHash != "" && id != nil && hashID(*id) == g.idHash {
			g.id = *id
		}
		d.gid = g
		out = append(out, d)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("postgres: list prepared transactions: %w", err)
	}
	return out, nil
}

// verdict is what settling one transaction came to.
type verdict uint8

const (
	// waits: it is being decided, or nobody could be asked.
	waits verdict = iota + 1
	// settled: it is committed or rolled back.
	settled
	// left: it is committed, and following the log deals with it.
	left
)

func (v verdict) String() string { return [...]string{"", "waits", "settled", "left"}[v] }

// settle asks the group for a transaction's outcome and acts on it. Only one that
// no coordinator has open is ended by the question.
func (db *DB) settle(ctx context.Context, d doubt) (verdict, error) {
	if d.id == "" {
		return waits, fmt.Errorf("postgres: prepared transaction %s: its id is not in cohort.ids: find the outcome of the transactions of that time and end it by hand", d.name)
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	out, err := db.coordinator.Outcome(ctx, d.id, participant.Begun(d.begun))
	if err == nil && out.State == participant.Unknown {
		out, err = db.coordinator.Outcome(ctx, d.id, participant.Begun(d.begun), participant.Settle())
	}
	if err != nil {
		return waits, fmt.Errorf("postgres: ask for the outcome of %s: %w", d.id, err)
	}
	switch out.State {
	case participant.Aborted:
		return settled, db.rollbackPrepared(ctx, d)
	case participant.Committed:
		if out.Receipt.Begun != d.begun {
			return settled, db.rollbackPrepared(ctx, d) // another attempt of it committed
		}
		return db.settleCommitted(ctx, d, out.Receipt.Position)
	case participant.UnknownBeforeHorizon:
		return db.settleForgotten(ctx, d)
	}
	return waits, nil
}

// settleCommitted ends a transaction that committed at a position. It commits here
// what the log has, and nothing else.
func (db *DB) settleCommitted(ctx context.Context, d doubt, position uint64) (verdict, error) {
	if d.digest == noDigest {
		return settled, db.commitPrepared(ctx, d)
	}
	_, live := db.attempts.live(d.lot)
	point, err := db.point(ctx, db.own, "")
	if err != nil {
		return waits, err
	}
	for e, err := range db.coordinator.Log(ctx, position, participant.NoWait(), participant.OnlyParticipants(db.name)) {
		switch {
		case errors.Is(err, participant.ErrTruncated):
			return left, nil // the state will be restored
		case err != nil:
			return waits, fmt.Errorf("postgres: read the log at position %d: %w", position, err)
		case e.Position != position:
			return left, nil
		}
		w, err := db.work(e)
		if err != nil {
			return waits, err
		}
		if live && len(w.changes) > 0 {
			return left, nil // this process follows the log, and comes to it
		}
		passed := point.Incarnation == e.Incarnation && point.Position >= position
		switch {
		case w.lot != d.lot || passed:
			// It is another attempt that committed, or its changes are here already.
			return settled, db.rollbackPrepared(ctx, d)
		case w.digest != d.digest:
			return left, nil // its locks stay until the log's changes are made instead
		}
		return settled, db.commitPrepared(ctx, d)
	}
	return left, nil
}

// settleForgotten ends a transaction whose outcome the group has forgotten: the log
// since the database's position has it, or it did not commit.
func (db *DB) settleForgotten(ctx context.Context, d doubt) (verdict, error) {
	point, err := db.point(ctx, db.own, "")
	if err != nil {
		return waits, err
	}
	for e, err := range db.coordinator.Log(ctx, point.Position+1, participant.NoWait(), participant.OnlyParticipants(db.name)) {
		if errors.Is(err, participant.ErrTruncated) {
			return left, nil // the state will be restored
		}
		if err != nil {
			return waits, fmt.Errorf("postgres: read the log from position %d: %w", point.Position+1, err)
		}
		if e.ID == d.id && e.Begun == d.begun {
			return db.settleCommitted(ctx, d, e.Position)
		}
	}
	return settled, db.rollbackPrepared(ctx, d)
}

func (db *DB) commitPrepared(ctx context.Context, d doubt) error {
	return db.endPrepared(ctx, "commit prepared ", d)
}

func (db *DB) rollbackPrepared(ctx context.Context, d doubt) error {
	return db.endPrepared(ctx, "rollback prepared ", d)
}

func (db *DB) endPrepared(ctx context.Context, how string, d doubt) error {
	_, err := db.endByName(ctx, how, d.name)
	if err != nil {
		return err
	}
	db.attempts.ended(d.lot)
	if d.idHash != "" {
		// Another attempt of the id may still need it: the pass removes old ones.
		db.resolver.longIDs.Store(true)
	}
	return nil
}

// endByName ends a prepared transaction; found is false when there is none.
func (db *DB) endByName(ctx context.Context, how, name string) (found bool, err error) {
	pause := settlePause
	for {
		_, err := db.own.Exec(ctx, how+literal(name))
		switch code(err) {
		case "":
			if err != nil {
				return false, fmt.Errorf("postgres: %s%s: %w", how, name, err)
			}
			return true, nil
		case codeUndefinedObject:
			return false, nil
		case codeInsufficientPrivilege:
			return false, fmt.Errorf("postgres: %s%s: another role prepared it: run the application as that role, or as a superuser: %w", how, name, err)
		case codeNotInPrerequisite, codeObjectInUse:
			// Another session is at it, or the one that prepared it is just ending.
		default:
			return false, fmt.Errorf("postgres: %s%s: %w", how, name, err)
		}
		if err := sleep(ctx, pause); err != nil {
			return false, err
		}
		pause = min(2*pause, maxSettlePause)
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// settleInherited ends the doubt about what was prepared before this instance
// attached, since its locks would keep the log's changes from being redone. What
// is being decided is waited for: the attempts of an earlier activation lose.
func (db *DB) settleInherited(ctx context.Context) error {
	pause := settlePause
	for len(db.inherited) > 0 {
		doubts, err := db.inDoubt(ctx)
		if err != nil {
			return err
		}
		still := make(map[lot]bool)
		for _, d := range doubts {
			if !db.inherited[d.lot] {
				continue
			}
			v, err := db.settle(ctx, d)
			if err != nil {
				db.config.Logger.Warn("a prepared transaction waits for its outcome", "group", db.group, "participant", db.name, "gid", d.name, "error", err)
			}
			if v == waits || err != nil {
				still[d.lot] = true
			}
		}
		if db.inherited = still; len(still) == 0 {
			return nil
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
		pause = min(2*pause, maxSettlePause)
	}
	return nil
}

// resolver ends transactions in doubt while the application runs: at once those
// whose end it is told, and in passes all others.
type resolver struct {
	db      *DB
	told    chan told
	woken   chan struct{}
	cancel  context.CancelFunc
	running sync.WaitGroup
	longIDs atomic.Bool
}

type told struct {
	lot       lot
	committed bool
}

func startResolver(db *DB) *resolver {
	ctx, cancel := context.WithCancel(context.Background())
	r := &resolver{db: db, told: make(chan told, maxTold), woken: make(chan struct{}, 1), cancel: cancel}
	r.longIDs.Store(true)
	every := db.config.ResolveEvery
	r.running.Go(func() { r.run(ctx, every) })
	return r
}

func (r *resolver) close() {
	r.cancel()
	r.running.Wait()
}

// tell hands it an outcome.
func (r *resolver) tell(l lot, committed bool) {
	select {
	case r.told <- told{l, committed}:
	default:
	}
}

// wake has it look around now.
func (r *resolver) wake() {
	select {
	case r.woken <- struct{}{}:
	default:
	}
}

func (r *resolver) run(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case t := <-r.told:
			if r.hear(ctx, t) != nil {
				r.wake()
			}
			continue
		case <-r.woken:
		case <-tick.C:
		}
		err := r.pass(ctx)
		if err != nil && !failing && ctx.Err() == nil {
			r.db.config.Logger.Warn("transactions in doubt could not be settled", "group", r.db.group, "participant", r.db.name, "error", err)
		}
		failing = err != nil
	}
}

// hear acts on an outcome. A commit with changes is the log's to bring.
func (r *resolver) hear(ctx context.Context, t told) error {
	a, live := r.db.attempts.live(t.lot)
	if !live {
		return nil
	}
	if !t.committed {
		r.db.attempts.abort(t.lot)
	}
	if a.state != attemptPrepared {
		return nil
	}
	g, ok := parseGID(r.db.owner, a.gid)
	if !ok {
		panic("postgres: an attempt is prepared under a gid that is not ours: " + a.gid)
	}
	d := doubt{gid: g, name: a.gid}
	switch {
	case !t.committed:
		return r.db.rollbackPrepared(ctx, d)
	case g.digest == noDigest:
		return r.db.commitPrepared(ctx, d)
	}
	return nil
}

// pass settles everything in doubt, but for what was prepared here a moment ago.
func (r *resolver) pass(ctx context.Context) error {
	doubts, err := r.db.inDoubt(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, d := range doubts {
		a, live := r.db.attempts.live(d.lot)
		if live && (a.state != attemptPrepared || time.Since(d.since) < r.db.config.ResolveEvery) {
			continue
		}
		if _, err := r.db.settle(ctx, d); err != nil {
			errs = append(errs, err)
		}
	}
	if len(doubts) == 0 && r.longIDs.Swap(false) {
		_, err := r.db.own.Exec(ctx, "delete from cohort.ids where at < now() - make_interval(secs => $1)", oldIDs.Seconds())
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
