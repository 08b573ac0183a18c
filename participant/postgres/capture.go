package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// captureLockTimeout bounds a wait for DDL under way: commits wait meanwhile.
const captureLockTimeout = time.Second

func tableNames(tables []*table) []string {
	out := make([]string, len(tables))
	for i, t := range tables {
		out[i] = t.name
	}
	return out
}

// captured is the database at a cut: a transaction that keeps its snapshot. Each
// WriteTo reads it by a connection of its own, so that one that is broken off
// costs the snapshot nothing.
type captured struct {
	db       *DB
	snapshot string
	header   streamHeader
	ctx      context.Context // of what is written; ends with it
	cancel   context.CancelFunc
	timer    *time.Timer

	closing sync.Once
	holder  *pgxpool.Conn
	writing sync.WaitGroup

	mu     sync.Mutex
	closed bool
}

var (
	_ io.WriterTo = (*captured)(nil)
	_ io.Closer   = (*captured)(nil)
)

// Capture keeps a snapshot of the tracked tables as they are now. It takes a few
// round trips, whatever their size. The snapshot is open until Close of what it
// returns, or for Config.CaptureTimeout.
func (db *DB) Capture(ctx context.Context) (io.WriterTo, error) {
	db.applier.Lock()
	defer db.applier.Unlock()
	conn, err := db.own.Acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("postgres: capture: %w", err)
	}
	c := &captured{db: db, holder: conn}
	if err := c.open(ctx); err != nil {
		rollback(conn)
		return nil, fmt.Errorf("postgres: capture: %w", err)
	}
	c.ctx, c.cancel = context.WithCancel(context.WithoutCancel(ctx))
	db.capturing.add(c)
	c.timer = time.AfterFunc(db.config.CaptureTimeout, func() { _ = c.Close() })
	return c, nil
}

func (c *captured) open(ctx context.Context) error {
	// The locks keep TRUNCATE and rewriting DDL away, which no snapshot survives.
	_, err := c.holder.Exec(ctx, "begin isolation level repeatable read read only; set local lock_timeout = "+milliseconds(captureLockTimeout)+
		"; lock table "+strings.Join(tableNames(c.db.tables), ", ")+" in access share mode")
	if err != nil {
		return err
	}
	err = c.holder.QueryRow(ctx, "select pg_export_snapshot(), current_setting('server_version')").Scan(&c.snapshot, &c.header.Server)
	if err != nil {
		return err
	}
	point, err := c.db.point(ctx, c.holder, "")
	if err != nil {
		return err
	}
	c.header.Group, c.header.Participant = c.db.group, c.db.name
	c.header.Incarnation, c.header.Position = point.Incarnation, point.Position
	for _, t := range c.db.tables {
		c.header.Tables = append(c.header.Tables, t.name)
		for _, seq := range t.sequences {
			// Not part of a snapshot, so they are read now, once.
			s := streamSequence{Table: t.name, Column: seq.column}
			if err := c.holder.QueryRow(ctx, "select last_value, is_called from "+seq.name).Scan(&s.Last, &s.Called); err != nil {
				return err
			}
			c.header.Sequences = append(c.header.Sequences, s)
		}
	}
	return nil
}

// WriteTo writes the captured database, the same bytes each time.
func (c *captured) WriteTo(w io.Writer) (int64, error) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return 0, errors.New("postgres: the captured snapshot is closed")
	}
	c.writing.Add(1)
	c.mu.Unlock()
	defer c.writing.Done()
	counted := &counter{w: w}
	err := c.write(counted)
	return counted.n, err
}

func (c *captured) write(w io.Writer) error {
	conn, err := c.db.own.Acquire(c.ctx)
	if err != nil {
		return fmt.Errorf("postgres: write the captured database: %w", err)
	}
	defer rollback(conn)
	_, err = conn.Exec(c.ctx, "begin isolation level repeatable read read only; set transaction snapshot "+literal(c.snapshot))
	if err != nil {
		return fmt.Errorf("postgres: the captured snapshot is gone: %w", err)
	}
	s, err := newStreamWriter(w)
	if err != nil {
		return err
	}
	if err := s.json(blockHeader, c.header); err != nil {
		return err
	}
	for _, t := range c.db.tables {
		if err := s.json(blockTable, streamTable{Table: t.name, Columns: t.stored()}); err != nil {
			return err
		}
		s.end.Tables++
		if _, err := conn.Conn().PgConn().CopyTo(c.ctx, s, t.copyOut()); err != nil {
			return fmt.Errorf("postgres: copy table %s: %w", t.name, err)
		}
		if err := s.flush(); err != nil {
			return err
		}
	}
	return s.finish()
}

// copyOut reads a table in the order in which it lies on disk, which for one
// snapshot is always the same.
func (t *table) copyOut() string {
	cols := make([]string, 0, len(t.columns))
	for _, c := range t.stored() {
		cols = append(cols, quote(c))
	}
	if t.partitioned {
		return "copy (select " + strings.Join(cols, ", ") + " from " + t.name + ") to stdout"
	}
	return "copy " + t.name + " (" + strings.Join(cols, ", ") + ") to stdout"
}

// Close lets go of the snapshot, and ends what is being written of it.
func (c *captured) Close() error {
	c.closing.Do(func() {
		c.mu.Lock()
		c.closed = true
		c.mu.Unlock()
		c.timer.Stop()
		c.cancel()
		c.writing.Wait()
		rollback(c.holder)
		c.db.capturing.remove(c)
	})
	return nil
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// captures are the snapshots that are open.
type captures struct {
	mu   sync.Mutex
	open map[*captured]struct{}
}

func (s *captures) add(c *captured) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		s.open = make(map[*captured]struct{})
	}
	s.open[c] = struct{}{}
}

func (s *captures) remove(c *captured) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, c)
}

func (s *captures) any() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.open) > 0
}

func (s *captures) close() {
	s.mu.Lock()
	var open []*captured
	for c := range s.open {
		open = append(open, c)
	}
	s.mu.Unlock()
	for _, c := range open {
		_ = c.Close()
	}
}
