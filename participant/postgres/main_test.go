package postgres

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"

	"github.com/cohort-tx/cohort/internal/pgtest"
	"github.com/cohort-tx/cohort/participant"
)

var shared = pgtest.Shared{Settings: []string{"max_prepared_transactions = 60"}}

func TestMain(m *testing.M) {
	code := m.Run()
	if err := shared.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

const accounts = "create table accounts (id text primary key, balance bigint not null)"

// fakeGroup is a group's log and outcomes in memory.
type fakeGroup struct {
	mu      sync.Mutex
	entries []participant.Entry
	// first is the position of entries[0].
	first    uint64
	outcomes map[attemptKey]participant.Outcome
	down     error
}

func newFakeGroup() *fakeGroup {
	return &fakeGroup{first: 1, outcomes: make(map[attemptKey]participant.Outcome)}
}

// commit decides an attempt: what its steps have logged is the log's next entry.
func (g *fakeGroup) commit(id string, begun uint64, changes ...[]byte) participant.Entry {
	g.mu.Lock()
	defer g.mu.Unlock()
	e := participant.Entry{Incarnation: 1, Position: g.first + uint64(len(g.entries)), ID: id, Begun: begun}
	for _, c := range changes {
		e.Changes = append(e.Changes, participant.Change{Kind: participant.ChangeLog, Participant: "bank", Value: c})
	}
	g.entries = append(g.entries, e)
	g.outcomes[attemptKey{id: id, begun: begun}] = participant.Outcome{State: participant.Committed, Receipt: participant.Receipt{ID: id, Incarnation: 1, Position: e.Position, Begun: begun}}
	return e
}

func (g *fakeGroup) set(id string, begun uint64, s participant.State) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.outcomes[attemptKey{id: id, begun: begun}] = participant.Outcome{State: s}
}

// Outcome knows no options' content, so Settle is told by their number.
func (g *fakeGroup) Outcome(_ context.Context, id string, opts ...participant.OutcomeOption) (participant.Outcome, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.down != nil {
		return participant.Outcome{}, g.down
	}
	for k, out := range g.outcomes {
		if k.id == id {
			return out, nil
		}
	}
	if len(opts) > 1 {
		return participant.Outcome{State: participant.Aborted}, nil
	}
	return participant.Outcome{State: participant.Unknown}, nil
}

func (g *fakeGroup) Log(_ context.Context, from uint64, _ ...participant.LogOption) iter.Seq2[participant.Entry, error] {
	return func(yield func(participant.Entry, error) bool) {
		g.mu.Lock()
		entries, first, down := slices.Clone(g.entries), g.first, g.down
		g.mu.Unlock()
		if down != nil {
			yield(participant.Entry{}, down)
			return
		}
		if from < first {
			yield(participant.Entry{}, participant.ErrTruncated)
			return
		}
		for _, e := range entries {
			if e.Position >= from && !yield(e, nil) {
				return
			}
		}
	}
}

// bank is a database as participant bank of group shop.
type bank struct {
	*DB
	t     testing.TB
	dsn   string
	pool  *pgxpool.Pool
	group *fakeGroup
	begun uint64
	steps uint32
}

func newBank(t testing.TB, schema string, tables ...string) *bank {
	t.Helper()
	s := shared.Get(t)
	return openBank(t, s.Database(t, schema), newFakeGroup(), Config{Tables: tables})
}

func openBank(t testing.TB, dsn string, g *fakeGroup, cfg Config) *bank {
	t.Helper()
	pool := newPool(t, dsn)
	if cfg.LockTimeout == 0 {
		cfg.LockTimeout = 200 * time.Millisecond
	}
	if cfg.ResolveEvery == 0 {
		cfg.ResolveEvery = time.Hour // tests say when
	}
	db, err := open(t.Context(), pool, g, "shop", "bank", cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = db.Close()
		rollbackAll(t, pool)
	})
	return &bank{DB: db, t: t, dsn: dsn, pool: pool, group: g, begun: 100}
}

// rollbackAll leaves nothing prepared in a database: the server is shared.
func rollbackAll(t testing.TB, pool *pgxpool.Pool) {
	ctx := context.Background()
	if _, err := pool.Exec(ctx, "select"); err != nil {
		pool.Reset() // the test ended its connections
	}
	rows, err := pool.Query(ctx, "select 'rollback prepared ' || quote_literal(gid) from pg_prepared_xacts where database = current_database()")
	if err != nil {
		t.Error(err)
		return
	}
	statements, err := pgx.CollectRows(rows, pgx.RowTo[string])
	for _, sql := range statements {
		_, e := pool.Exec(ctx, sql)
		err = errors.Join(err, e)
	}
	if err != nil {
		t.Error(err)
	}
}

func newPool(t testing.TB, dsn string) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(context.Background(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// tx is an attempt of a transaction.
type tx struct {
	bank    *bank
	key     attemptKey
	changes [][]byte
}

func (b *bank) begin(id string) *tx {
	b.begun++
	return &tx{bank: b, key: attemptKey{id: id, begun: b.begun}}
}

// step runs SQL as one step.
func (x *tx) step(sql string) error {
	return x.do(func(tx *Tx) error {
		_, err := tx.Exec(context.Background(), sql)
		return err
	})
}

func (x *tx) do(fn func(*Tx) error) error {
	x.bank.steps++
	var staged [][]byte
	c := call{attempt: x.key, number: x.bank.steps, log: func(data []byte) error {
		staged = append(staged, slices.Clone(data))
		return nil
	}}
	err := x.bank.DB.step(x.bank.t.Context(), c, fn)
	if err == nil {
		x.changes = append(x.changes, staged...)
	}
	return err
}

func (x *tx) must(sql string) *tx {
	x.bank.t.Helper()
	if err := x.step(sql); err != nil {
		x.bank.t.Fatalf("%s: %s: %v", x.key.id, sql, err)
	}
	return x
}

func (x *tx) vote() error { return x.bank.prepare(x.bank.t.Context(), x.key) }

func (x *tx) yes() *tx {
	x.bank.t.Helper()
	if err := x.vote(); err != nil {
		x.bank.t.Fatalf("%s: the vote: %v", x.key.id, err)
	}
	return x
}

// commit decides it; the log has it from then on.
func (x *tx) commit() participant.Entry {
	return x.bank.group.commit(x.key.id, x.key.begun, x.changes...)
}

func (b *bank) apply(entries ...participant.Entry) {
	b.t.Helper()
	if err := b.ApplyBatch(b.t.Context(), entries); err != nil {
		b.t.Fatalf("apply: %v", err)
	}
}

// follow applies all that the log has after the database's position.
func (b *bank) follow() {
	b.t.Helper()
	p, err := b.Point(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	for e, err := range b.group.Log(b.t.Context(), p.Position+1) {
		if err != nil {
			b.t.Fatal(err)
		}
		b.apply(e)
	}
}

// query gives rows as text, a line each.
func (b *bank) query(sql string) string {
	b.t.Helper()
	return queryIn(b.t, b.dsn, sql)
}

func queryIn(t testing.TB, dsn, sql string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	rows, err := conn.Query(t.Context(), sql)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	defer rows.Close()
	var out []string
	for rows.Next() {
		values, err := rows.Values()
		if err != nil {
			t.Fatal(err)
		}
		var line []string
		for _, v := range values {
			line = append(line, fmt.Sprint(v))
		}
		out = append(out, strings.Join(line, " "))
	}
	if err := rows.Err(); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return strings.Join(out, "\n")
}

func (b *bank) want(sql, want string) {
	b.t.Helper()
	if got := b.query(sql); got != want {
		b.t.Errorf("%s:\n%s\nwant\n%s", sql, got, want)
	}
}

// wantRest says that nothing of ours is prepared, noted or remembered.
func (b *bank) wantRest() {
	b.t.Helper()
	b.want("select gid from pg_prepared_xacts where database = current_database() and gid like 'cohort%'", "")
	b.want("select lot from cohort.transactions", "")
	b.want("select tbl from cohort.changes", "")
	if n := len(b.attempts.slots); n != 0 {
		b.t.Errorf("%d places for prepared transactions are taken at rest", n)
	}
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it did not come true: %s", what)
		}
	}
}
