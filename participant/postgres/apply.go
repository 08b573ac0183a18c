package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/cohort-tx/cohort/participant"
)

const (
	// commitConns is how many commit at once: PostgreSQL then writes several with one
	// flush.
	commitConns = 4
	// redoLockTimeout bounds a wait for a lock while redoing. Nobody but open steps
	// can be in the way, and they are given up then.
	redoLockTimeout = 2 * time.Second
	// redoTries bounds how often that is tried.
	redoTries = 5
)

// work is one entry of the log as it concerns the database.
type work struct {
	entry   participant.Entry
	changes []change
	// lot is empty when the entry has no changes here, or those of several SQL
	// transactions, which none that is prepared can be.
	lot    lot
	digest string
	redo   bool
}

func (db *DB) work(e participant.Entry) (work, error) {
	w, sum := work{entry: e}, newDigest()
	for i, c := range e.Changes {
		if c.Kind != participant.ChangeLog {
			continue
		}
		decoded, err := decodeChange(c.Value)
		if err != nil {
			return work{}, fmt.Errorf("position %d, change %d: %w", e.Position, i, err)
		}
		switch {
		case len(w.changes) == 0:
			w.lot = decoded.Lot
		case w.lot != decoded.Lot:
			w.lot = ""
		}
		w.changes = append(w.changes, decoded)
		sum.add(c.Value)
	}
	w.digest = sum.String()
	return w, nil
}

// Apply makes the changes of one committed transaction.
func (db *DB) Apply(ctx context.Context, e participant.Entry) error {
	return db.ApplyBatch(ctx, []participant.Entry{e})
}

// ApplyBatch makes the changes of several, in order. What is prepared here is
// committed, what is committed already is passed over, and everything else is
// redone from the log:
//
//	lot in cohort.transactions ─▶ pass
//	lot prepared, same digest  ─▶ COMMIT PREPARED
//	lot prepared, other digest ─▶ ROLLBACK PREPARED, redo
//	neither                    ─▶ redo
//
// Redoing, the position, and forgetting the lots passed are one SQL transaction. A
// crash before it leaves lots that are passed over when the entries come again.
func (db *DB) ApplyBatch(ctx context.Context, entries []participant.Entry) (err error) {
	db.applier.Lock()
	defer db.applier.Unlock()
	defer func() { err = away(ctx, err) }()
	if len(entries) == 0 {
		return nil
	}
	if err := db.settleInherited(ctx); err != nil {
		return err
	}
	works := make([]work, len(entries))
	for i, e := range entries {
		if works[i], err = db.work(e); err != nil {
			return err
		}
	}
	reopen, err := db.commitWhatIsPrepared(ctx, works)
	defer reopen()
	if err != nil {
		return err
	}
	if err := db.finish(ctx, works); err != nil {
		return err
	}
	for _, w := range works {
		for _, c := range w.changes {
			db.attempts.ended(c.Lot) // redone, if it was not committed
		}
	}
	return nil
}

// Advance moves the position over entries that do not change the participant.
func (db *DB) Advance(ctx context.Context, to participant.Point) (err error) {
	db.applier.Lock()
	defer db.applier.Unlock()
	defer func() { err = away(ctx, err) }()
	return db.finish(ctx, []work{{entry: participant.Entry{Incarnation: to.Incarnation, Position: to.Position}}})
}

// commitWhatIsPrepared commits what can be and marks the rest to be redone. reopen
// lets steps begin again; it is never nil.
func (db *DB) commitWhatIsPrepared(ctx context.Context, works []work) (reopen func(), err error) {
	reopen = func() {}
	present, err := db.present(ctx, works)
	if err != nil {
		return reopen, err
	}
	doubts, err := db.inDoubt(ctx)
	if err != nil {
		return reopen, err
	}
	byLot := make(map[lot]doubt, len(doubts))
	for _, d := range doubts {
		byLot[d.lot] = d
	}
	var commit []doubt
	var wrong []doubt
	redoing := false
	for i := range works {
		w := &works[i]
		d, prepared := byLot[w.lot]
		switch {
		case len(w.changes) == 0:
			continue
		case w.lot != "" && present[w.lot]:
			w.redo = db.redone || redoing
		case prepared && d.digest == w.digest && d.begun == w.entry.Begun:
			commit = append(commit, d)
			w.redo = redoing
		default:
			w.redo, redoing = true, true
			for _, c := range w.changes {
				if d, prepared := byLot[c.Lot]; prepared {
					wrong = append(wrong, d)
				}
			}
		}
	}
	if len(wrong) > 0 {
		if reopen, err = db.undoWrong(ctx, wrong); err != nil {
			return reopen, err
		}
	}
	gone, err := db.commitAll(ctx, commit)
	if err != nil || len(gone) == 0 {
		return reopen, err
	}
	return reopen, db.redoGone(ctx, works, gone)
}

// present tells which lots are committed here and not passed.
func (db *DB) present(ctx context.Context, works []work) (map[lot]bool, error) {
	lots := make([]string, 0, len(works))
	for _, w := range works {
		if w.lot != "" {
			lots = append(lots, string(w.lot))
		}
	}
	present := make(map[lot]bool)
	if len(lots) == 0 {
		return present, nil
	}
	rows, err := db.own.Query(ctx, "select lot from cohort.transactions where lot = any($1)", lots)
	if err == nil {
		var l string
		_, err = pgx.ForEachRow(rows, []any{&l}, func() error {
			present[lot(l)] = true
			return nil
		})
	}
	if err != nil {
		return nil, fmt.Errorf("postgres: read what is committed: %w", err)
	}
	return present, nil
}

// commitAll commits prepared transactions; what is prepared at once has no locks
// that conflict, so their order does not matter. It returns those that were gone.
func (db *DB) commitAll(ctx context.Context, commit []doubt) (map[lot]bool, error) {
	gone := make([]bool, len(commit))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(commitConns)
	for i, d := range commit {
		g.Go(func() error {
			found, err := db.endByName(ctx, "commit prepared ", d.name)
			gone[i] = !found
			if err == nil && found {
				db.attempts.ended(d.lot)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	lots := make(map[lot]bool)
	for i, d := range commit {
		if gone[i] {
			lots[d.lot] = true
			db.attempts.ended(d.lot)
		}
	}
	return lots, nil
}

// redoGone has redone what was prepared a moment ago and is not any more, unless
// somebody else committed it: the resolver, or another instance on this database.
func (db *DB) redoGone(ctx context.Context, works []work, gone map[lot]bool) error {
	present, err := db.present(ctx, works)
	if err != nil {
		return err
	}
	redoing := false
	for i := range works {
		w := &works[i]
		if gone[w.lot] && !present[w.lot] {
			redoing = true
		}
		w.redo = w.redo || redoing && len(w.changes) > 0
	}
	return nil
}

// undoWrong rolls back prepared transactions that differ from what committed: an
// answer of a step got lost and its caller went on without it. Between that and
// the redoing nobody may take the locks, so all that is open is given up first and
// nothing begins until reopen is called.
func (db *DB) undoWrong(ctx context.Context, wrong []doubt) (reopen func(), err error) {
	reopen = db.attempts.open
	why := "changes are redone that the participant did not keep as they committed"
	if err := db.giveUpOpen(ctx, why); err != nil {
		return reopen, err
	}
	for _, d := range wrong {
		db.config.Logger.Error("a prepared transaction is not what committed, it is redone from the log", "group", db.group, "participant", db.name, "txn_id", d.id, "gid", d.name, "error", errMismatch)
		if err := db.rollbackPrepared(ctx, d); err != nil {
			return reopen, err
		}
	}
	return reopen, nil
}

// giveUpOpen ends all SQL transactions of steps, also those that wait for locks,
// and lets none begin until attempts.open.
func (db *DB) giveUpOpen(ctx context.Context, why string) error {
	for _, pid := range db.attempts.shut(why) {
		if _, err := db.own.Exec(ctx, "select pg_terminate_backend($1, $2)", int32(pid), rollbackTimeout.Milliseconds()); err != nil {
			return fmt.Errorf("postgres: end a step's SQL transaction: %w", err)
		}
	}
	return nil
}

// finish redoes what is marked and moves the position, in one SQL transaction.
func (db *DB) finish(ctx context.Context, works []work) error {
	for _, w := range works {
		db.redone = db.redone || w.redo
	}
	for try := 1; ; try++ {
		err := db.tryFinish(ctx, works)
		if last := works[len(works)-1].entry; err == nil {
			db.applied = participant.Point{Incarnation: last.Incarnation, Position: last.Position}
		}
		if code(err) != codeLockNotAvailable || try == redoTries {
			return err
		}
		db.config.Logger.Warn("open steps are in the way of the log's changes and are given up", "group", db.group, "participant", db.name, "position", works[0].entry.Position)
		err = db.giveUpOpen(ctx, "its locks were in the way of the log's changes")
		db.attempts.open()
		if err != nil {
			return err
		}
	}
}

func (db *DB) tryFinish(ctx context.Context, works []work) error {
	last := works[len(works)-1].entry
	var lots []string
	for _, w := range works {
		for _, c := range w.changes {
			lots = append(lots, string(c.Lot))
		}
	}
	return pgx.BeginFunc(ctx, db.own, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "set local cohort.attempt = unlogged; set local lock_timeout = "+milliseconds(redoLockTimeout)+"; set local synchronous_commit = on"+db.replicaRole())
		if err != nil {
			return fmt.Errorf("postgres: %w", err)
		}
		point, err := db.point(ctx, tx, "for update")
		if err != nil {
			return err
		}
		if point.Incarnation > last.Incarnation {
			return fmt.Errorf("postgres: the database is of incarnation %d of the group and cannot apply what is of %d: another instance has it restored", point.Incarnation, last.Incarnation)
		}
		if point.Incarnation == db.applied.Incarnation && point.Position < db.applied.Position {
			// A standby that lacked the last transactions was promoted, say.
			return fmt.Errorf("postgres: the database was at position %d and is at %d now: it has lost transactions", db.applied.Position, point.Position)
		}
		var redo []work
		for _, w := range works {
			// What another instance on this database applied is here.
			if w.redo && (w.entry.Incarnation > point.Incarnation || w.entry.Position > point.Position) {
				redo = append(redo, w)
			}
		}
		if err := db.redo(ctx, tx, redo); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "delete from cohort.transactions where lot = any($1)", lots); err != nil {
			return fmt.Errorf("postgres: forget what the log has passed: %w", err)
		}
		if point.Incarnation == last.Incarnation && point.Position >= last.Position {
			return nil
		}
		if _, err := tx.Exec(ctx, "update cohort.applied set incarnation = $3, position = $4 where grp = $1 and participant = $2",
			db.group, db.name, int64(last.Incarnation), int64(last.Position)); err != nil {
			return fmt.Errorf("postgres: store the position: %w", err)
		}
		return nil
	})
}

// replicaRole keeps triggers and foreign keys from firing, where that is allowed.
// Where it is not, tables have none.
func (db *DB) replicaRole() string {
	if db.server.replica {
		return "; set local session_replication_role = replica"
	}
	return ""
}

// isUnique tells that rows of a batch got in each other's way.
func isUnique(err error) bool {
	c := code(err)
	return c == codeUniqueViolation || c == codeCardinality
}
