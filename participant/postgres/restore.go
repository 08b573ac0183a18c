package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/cohort-tx/cohort/participant"
)

// restoreLockTimeout bounds how long a restore waits for those who read the tables.
const restoreLockTimeout = 30_000 // ms

// Restore replaces the rows of the tracked tables by captured ones, in one SQL
// transaction: a crash or an error leaves what was there. The tables must exist,
// as the application's migrations make them; schema cohort is there since Open.
// Transactions in doubt are settled first. A tracked table that is not in the
// capture, because it was not tracked then, stays as it is.
func (db *DB) Restore(ctx context.Context, at participant.Point, r io.Reader) (err error) {
	db.applier.Lock()
	defer db.applier.Unlock()
	defer func() { err = away(ctx, err) }()
	if err := db.giveUpOpen(ctx, "the database is being restored"); err != nil {
		return err
	}
	defer db.attempts.open()
	if err := db.settleAll(ctx); err != nil {
		return err
	}
	s, err := newStreamReader(r)
	if err != nil {
		return err
	}
	h, err := s.header()
	if err != nil {
		return err
	}
	err = pgx.BeginFunc(ctx, db.own, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, fmt.Sprintf("set local cohort.attempt = unlogged; set local lock_timeout = %d%s", restoreLockTimeout, db.replicaRole()))
		if err != nil {
			return fmt.Errorf("postgres: %w", err)
		}
		if _, err := db.point(ctx, tx, "for update"); err != nil {
			return err
		}
		if err := db.load(ctx, tx, h, s); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "delete from cohort.transactions where grp = $1 and participant = $2", db.group, db.name)
		if err == nil {
			_, err = tx.Exec(ctx, "update cohort.applied set incarnation = $3, position = $4 where grp = $1 and participant = $2",
				db.group, db.name, int64(at.Incarnation), int64(at.Position))
		}
		if err != nil {
			return fmt.Errorf("postgres: store the position: %w", err)
		}
		return nil
	})
	if code(err) == codeLockNotAvailable {
		return fmt.Errorf("postgres: restore: somebody reads the tracked tables for more than %d s: end what does: %w", restoreLockTimeout/1000, err)
	}
	if err == nil {
		db.applied = at
	}
	return err
}

// settleAll ends every doubt. What committed and is not here comes by the log.
func (db *DB) settleAll(ctx context.Context) error {
	pause := settlePause
	for {
		doubts, err := db.inDoubt(ctx)
		if err != nil || len(doubts) == 0 {
			return err
		}
		waiting := 0
		for _, d := range doubts {
			v, err := db.settle(ctx, d)
			switch {
			case err != nil:
				return err
			case v == left:
				if err := db.rollbackPrepared(ctx, d); err != nil {
					return err
				}
			case v == waits:
				waiting++
			}
		}
		if waiting > 0 {
			if err := sleep(ctx, pause); err != nil {
				return err
			}
			pause = min(2*pause, maxSettlePause)
		}
	}
}

// load empties the captured tables and copies their rows in.
func (db *DB) load(ctx context.Context, tx pgx.Tx, h streamHeader, s *streamReader) error {
	for _, name := range h.Tables {
		if _, err := db.table(name); err != nil {
			return &StreamError{Detail: fmt.Sprintf("it has table %s, which is not tracked here: add it to Config.Tables", name)}
		}
	}
	if err := db.empty(ctx, tx, h.Tables); err != nil {
		return err
	}
	seen := 0
	for {
		st, more, err := s.table()
		if err != nil {
			return err
		}
		if !more {
			break
		}
		if !slices.Contains(h.Tables, st.Table) {
			return &StreamError{Detail: "table " + st.Table + " is not in its header"}
		}
		seen++
		sql, err := db.copyIn(st)
		if err != nil {
			return err
		}
		if err := copyRows(ctx, tx.Conn().PgConn(), s, sql); err != nil {
			return fmt.Errorf("postgres: copy into table %s: %w", st.Table, err)
		}
	}
	if seen != len(h.Tables) {
		return &StreamError{Detail: fmt.Sprintf("it has %d of %d tables", seen, len(h.Tables))}
	}
	// Last: they are not undone with the transaction.
	return db.setSequences(ctx, tx, h.Sequences)
}

// empty removes all rows. TRUNCATE takes them from open snapshots too, so what is
// being captured keeps it from running: then rows are deleted.
func (db *DB) empty(ctx context.Context, tx pgx.Tx, tables []string) error {
	if len(tables) == 0 {
		return nil
	}
	statements := []string{"truncate " + strings.Join(tables, ", ")}
	if db.capturing.any() {
		statements = nil
		for _, t := range tables {
			statements = append(statements, "delete from "+t)
		}
	}
	for _, sql := range statements {
		if _, err := tx.Exec(ctx, sql); err != nil {
			return fmt.Errorf("postgres: empty the tables: %w", err)
		}
	}
	return nil
}

// copyRows feeds a COPY with the rows of the table under way. The stream is read in
// the caller's goroutine, and PostgreSQL's side ends before it returns.
func copyRows(ctx context.Context, conn *pgconn.PgConn, s *streamReader, sql string) error {
	r, w := io.Pipe()
	copied := make(chan error, 1)
	go func() {
		_, err := conn.CopyFrom(ctx, r, sql)
		_ = r.CloseWithError(errCopyEnded)
		copied <- err
	}()
	sent := errCopyEnded // unless it is replaced: reading panicked
	defer func() {
		if sent != nil {
			_ = w.CloseWithError(sent)
			<-copied
		}
	}()
	_, err := io.CopyBuffer(w, struct{ io.Reader }{s}, make([]byte, 64<<10))
	if err != nil && !errors.Is(err, errCopyEnded) {
		sent = err
		return err // the stream's: what PostgreSQL says of it is of no use
	}
	sent = nil
	_ = w.Close()
	return <-copied
}

// errCopyEnded is what the stream's side of a COPY gets when the other has ended.
var errCopyEnded = errors.New("the COPY has ended")

func (db *DB) copyIn(st streamTable) (string, error) {
	t, err := db.table(st.Table)
	if err != nil {
		return "", err
	}
	cols := make([]string, len(st.Columns))
	for i, name := range st.Columns {
		c, ok := t.column(name)
		if !ok || c.generated {
			return "", &StreamError{Detail: fmt.Sprintf("column %s of table %s does not exist here: run the migrations of the release that captured it", name, t.name)}
		}
		cols[i] = quote(name)
	}
	return "copy " + t.name + " (" + strings.Join(cols, ", ") + ") from stdin", nil
}

func (db *DB) setSequences(ctx context.Context, tx pgx.Tx, sequences []streamSequence) error {
	for _, ss := range sequences {
		t, err := db.table(ss.Table)
		if err != nil {
			return err
		}
		for _, seq := range t.sequences {
			if seq.column != ss.Column {
				continue
			}
			if _, err := tx.Exec(ctx, "select setval($1::text::regclass, $2, $3)", seq.name, ss.Last, ss.Called); err != nil {
				return fmt.Errorf("postgres: set sequence %s: %w", seq.name, err)
			}
		}
	}
	return nil
}
