package postgres

import (
	"context"
	"fmt"
	"iter"
	"sync"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/cohort-tx/cohort/participant"
)

// coordinator is what is asked of the group.
type coordinator interface {
	Outcome(ctx context.Context, id string, opts ...participant.OutcomeOption) (participant.Outcome, error)
	Log(ctx context.Context, from uint64, opts ...participant.LogOption) iter.Seq2[participant.Entry, error]
}

// DB is a database that is a participant of a group. It is a participant.OwnState:
// give it to an App with Attach. It is safe for concurrent use.
type DB struct {
	group, name, owner string
	pool, own          *pgxpool.Pool
	coordinator        coordinator
	config             Config
	tables             []*table
	server             server

	attempts  *attempts
	resolver  *resolver
	capturing captures

	// applier is held by what the SDK calls one at a time. The fields below it are
	// its own.
	applier sync.Mutex
	// inherited are the transactions in doubt that were here when the instance
	// attached: they are settled before anything is applied.
	inherited map[lot]bool
	// applied is how far the database was when it was last looked at. It must not be
	// further back the next time.
	applied participant.Point
	// redone tells that changes were redone since the instance attached. From then
	// on what was committed ahead of the log is redone in its turn as well.
	redone bool
}

var (
	_ participant.OwnState     = (*DB)(nil)
	_ participant.BatchApplier = (*DB)(nil)
	_ participant.Advancer     = (*DB)(nil)
)

// Open makes a participant of the database that pool connects to, and checks that
// it can be one. What is missing in the database is made, as by Setup. group is
// asked for the outcome of transactions in doubt; it and pool must stay open until
// Close has returned. The pool is the application's: steps take a connection each
// from it for as long as a transaction is open here.
//
// The error holds all that is wrong at once, with what to do about it.
func Open(ctx context.Context, pool *pgxpool.Pool, group *participant.Group, name string, cfg Config) (*DB, error) {
	return open(ctx, pool, group, group.Name(), name, cfg)
}

func open(ctx context.Context, pool *pgxpool.Pool, c coordinator, group, name string, cfg Config) (_ *DB, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	own, err := ownPool(ctx, pool, name)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			own.Close()
		}
	}()
	db := &DB{group: group, name: name, owner: owner(group, name), pool: pool, own: own, coordinator: c, config: cfg.withDefaults()}
	if db.server, err = checkServer(ctx, db.own); err != nil {
		return nil, err
	}
	if db.tables, err = loadAll(ctx, pool, db.own, cfg.Tables); err != nil {
		return nil, err
	}
	if err := setup(ctx, db.own, group, name, db.tables, cfg); err != nil {
		return nil, err
	}
	if err := checkRights(ctx, db.own, &db.server, db.tables); err != nil {
		return nil, err
	}
	db.attempts = newAttempts(db.config.AttemptTimeout, db.server.prepared)
	db.resolver = startResolver(db)
	return db, nil
}

// Attach makes the database the state of an App: its votes, its notices, its
// checkpoints. Call it before App.Serve, which must have ended before Close. An
// application with a say of its own calls OnPrepare and OnOutcome after Attach and
// calls Vote and Ended from there.
func (db *DB) Attach(app *participant.App) {
	app.State(db)
	app.OnPrepare(db.Vote)
	app.OnOutcome(db.Ended)
}

// Close rolls back what is open and not voted for, and lets go of connections.
// What is prepared stays so, until the participant is served again.
func (db *DB) Close() error {
	db.resolver.close()
	db.attempts.close()
	db.capturing.close()
	db.own.Close()
	return nil
}

// table finds a tracked table by its qualified name.
func (db *DB) table(name string) (*table, error) {
	for _, t := range db.tables {
		if t.name == name {
			return t, nil
		}
	}
	return nil, fmt.Errorf("postgres: the log changes table %s, which is not tracked: add it to Config.Tables", name)
}

// Point is how far the database has come in the group's log, as it stores itself.
func (db *DB) Point(ctx context.Context) (_ participant.Point, err error) {
	db.applier.Lock()
	defer db.applier.Unlock()
	defer func() { err = away(ctx, err) }()
	doubts, err := db.inDoubt(ctx)
	if err != nil {
		return participant.Point{}, err
	}
	db.inherited, db.redone = make(map[lot]bool), false
	for _, d := range doubts {
		if !db.attempts.has(d.lot) {
			db.inherited[d.lot] = true
		}
	}
	db.resolver.wake()
	db.applied, err = db.point(ctx, db.own, "")
	return db.applied, err
}

// point reads the row; lock is "for update" or nothing.
func (db *DB) point(ctx context.Context, q querier, lock string) (participant.Point, error) {
	var incarnation, position int64
	err := q.QueryRow(ctx, "select incarnation, position from cohort.applied where grp = $1 and participant = $2 "+lock, db.group, db.name).Scan(&incarnation, &position)
	if err != nil {
		return participant.Point{}, fmt.Errorf("postgres: read the position: %w", err)
	}
	return participant.Point{Incarnation: uint64(incarnation), Position: uint64(position)}, nil
}
