package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/cohort-tx/cohort/participant"
)

// Tx is a step's part of its attempt's SQL transaction. It has what queries need
// and no Commit or Rollback: the group decides. It belongs to the handler's
// goroutine and ends with it. It runs at READ COMMITTED; rows that a decision
// rests on must be locked, with SELECT … FOR SHARE or FOR UPDATE.
type Tx struct {
	conn *pgx.Conn
	step *participant.StepTx
}

// Step is the step itself: the participant's store, the transaction's id.
func (tx *Tx) Step() *participant.StepTx { return tx.step }

// Exec is pgx.Conn.Exec.
func (tx *Tx) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	return tx.conn.Exec(ctx, sql, args...)
}

// Query is pgx.Conn.Query. Close the rows before the handler returns.
func (tx *Tx) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	return tx.conn.Query(ctx, sql, args...)
}

// QueryRow is pgx.Conn.QueryRow.
func (tx *Tx) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return tx.conn.QueryRow(ctx, sql, args...)
}

// SendBatch is pgx.Conn.SendBatch.
func (tx *Tx) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	return tx.conn.SendBatch(ctx, b)
}

// CopyFrom is pgx.Conn.CopyFrom.
func (tx *Tx) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, rows pgx.CopyFromSource) (int64, error) {
	return tx.conn.CopyFrom(ctx, table, columns, rows)
}

// Func makes a handler of a typed function that works on the database, as
// participant.Func does of one that works on the participant's store.
func Func[In, Out any](db *DB, fn func(ctx context.Context, tx *Tx, in In) (Out, error)) participant.Handler {
	return participant.Func(func(ctx context.Context, step *participant.StepTx, in In) (out Out, err error) {
		err = db.Step(ctx, step, func(tx *Tx) error {
			out, err = fn(ctx, tx, in)
			return err
		})
		return out, err
	})
}

// Step runs fn in the SQL transaction of the step's attempt, which begins with the
// attempt's first step here. What fn changes in tracked tables is staged for the
// group's log. When fn returns an error, or panics, what it did is undone, and the
// transaction may go on without it. Losing a lock is a conflict, which the caller's
// Run tries again. A handler calls it once.
func (db *DB) Step(ctx context.Context, step *participant.StepTx, fn func(*Tx) error) error {
	return db.step(ctx, callOf(step), fn)
}

// call is what is needed of a participant.StepTx.
type call struct {
	attempt attemptKey
	number  uint32
	log     func([]byte) error
	// over has a function called when the attempt is over; nil where nobody tells.
	over func(func())
	step *participant.StepTx
}

func (db *DB) step(ctx context.Context, c call, fn func(*Tx) error) error {
	a, err := db.attempts.enter(c.attempt)
	if err != nil {
		return err
	}
	if err := db.attempts.take(ctx, a); err != nil {
		return err
	}
	defer db.attempts.give(a)
	if a.ran[c.number] {
		// Its changes are in the SQL transaction already, and cannot be there twice.
		db.attempts.die(a, "a step was asked for again whose answer was lost")
		return db.attempts.alive(a)
	}
	if err := db.beginStep(ctx, a, c); err != nil {
		return err
	}
	done := false
	defer func() {
		if !done {
			db.undoStep(a) // fn panicked
		}
	}()
	err = fn(&Tx{conn: a.conn.Conn(), step: c.step})
	done = true
	if err == nil {
		err = db.endStep(ctx, a, c)
	}
	if err != nil {
		db.undoStep(a)
		if dead := db.attempts.alive(a); dead != nil && ctx.Err() == nil {
			return fmt.Errorf("%w: %w", dead, err)
		}
		return stepError(err)
	}
	a.ran[c.number] = true
	return nil
}

// beginStep begins the SQL transaction, or goes on with it.
func (db *DB) beginStep(ctx context.Context, a *attempt, c call) error {
	if a.conn != nil {
		if _, err := a.conn.Exec(ctx, "release savepoint cohort_step; savepoint cohort_step"); err != nil {
			db.attempts.die(a, "its SQL transaction broke: "+err.Error())
			return db.attempts.alive(a)
		}
		return nil
	}
	waiting, cancel := context.WithTimeout(ctx, db.config.LockTimeout)
	defer cancel()
	conn, err := db.pool.Acquire(waiting)
	switch {
	case err != nil && ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, context.DeadlineExceeded):
		return conflict("no connection became free in %s: allow the pool more (pool_max_conns)", db.config.LockTimeout)
	case err != nil:
		return conflict("connect: %w", err)
	}
	if err := db.attempts.mayBegin(a, conn.Conn().PgConn().PID()); err != nil {
		conn.Release()
		return err
	}
	a.conn = conn
	if c.over != nil {
		c.over(func() { db.attempts.kill(a, "it is over without a vote") })
	}
	// A session that hangs in it is ended by PostgreSQL, even when this process cannot.
	idle := db.config.AttemptTimeout + 30*time.Second
	_, err = conn.Exec(ctx, "begin isolation level read committed read write; set local cohort.attempt = "+literal(db.owner)+
		"; set local lock_timeout = "+milliseconds(db.config.LockTimeout)+
		"; set local idle_in_transaction_session_timeout = "+milliseconds(idle)+"; savepoint cohort_step")
	if err != nil {
		db.attempts.die(a, "its SQL transaction did not begin: "+err.Error())
		return db.attempts.alive(a)
	}
	return nil
}

// endStep stages what the step has changed.
func (db *DB) endStep(ctx context.Context, a *attempt, c call) error {
	if err := ctx.Err(); err != nil {
		return err // whoever asked has stopped waiting, and goes on without it
	}
	switch status := a.conn.Conn().PgConn().TxStatus(); {
	case a.conn.Conn().IsClosed():
		return errors.New("postgres: the connection broke")
	case status == 'E':
		return errors.New("postgres: a statement of the step failed and the handler went on: return its error, or use a savepoint")
	case status != 'T':
		db.attempts.die(a, "a handler ended its SQL transaction")
		return errors.New("postgres: the handler ended the SQL transaction: that is the group's to do")
	}
	rows, err := db.takeRows(ctx, a)
	if err != nil {
		return err
	}
	changes, err := encodeChanges(a.lot, rows)
	if err != nil {
		return err
	}
	for _, data := range changes {
		if err := c.log(data); err != nil {
			return err
		}
	}
	for _, data := range changes {
		a.digest.add(data)
	}
	return nil
}

// takeRows reads the rows that the step has changed.
func (db *DB) takeRows(ctx context.Context, a *attempt) ([]rowChange, error) {
	rows, err := a.conn.Query(ctx, "select tbl, key, vals from cohort.take()")
	if err != nil {
		return nil, fmt.Errorf("postgres: read what the step changed: %w", err)
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r rowChange, err error) {
		var name string
		if err := row.Scan(&name, &r.key, &r.values); err != nil {
			return r, err
		}
		r.table, err = db.table(name)
		return r, err
	})
	if err != nil {
		return nil, fmt.Errorf("postgres: read what the step changed: %w", err)
	}
	return out, nil
}

// undoStep takes back what a step did. What cannot be taken back ends the attempt.
func (db *DB) undoStep(a *attempt) {
	if a.conn.Conn().IsClosed() {
		db.attempts.die(a, "its connection broke")
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), rollbackTimeout)
	defer cancel()
	if _, err := a.conn.Exec(ctx, "rollback to savepoint cohort_step"); err != nil {
		db.attempts.die(a, "a failed step could not be taken back: "+err.Error())
	}
}
