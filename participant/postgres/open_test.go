package postgres

import (
	"context"
	"errors"
	"strings"
	"testing"
)

func tryOpen(t *testing.T, dsn string, cfg Config) error {
	t.Helper()
	db, err := open(t.Context(), newPool(t, dsn), newFakeGroup(), "shop", "bank", cfg)
	if err == nil {
		_ = db.Close()
	}
	return err
}

func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one that says %q", parts)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error does not say %q:\n%v", part, err)
		}
	}
}

// Without it a database that cannot be a participant would fail at its first vote,
// with an error that does not say why.
func TestWhatOpenRefuses(t *testing.T) {
	s := shared.Get(t)
	wantError(t, tryOpen(t, s.DSN("postgres"), Config{LockTimeout: -1}), "Config.Tables is empty", "Config.LockTimeout")
	dsn := s.Database(t, accounts+`;
		create table nokey (n int);
		create unlogged table risky (n int primary key);
		create view look as select 1;
		create table parent (n int primary key); create table heir () inherits (parent);
		create table late (n int primary key deferrable);
		create table outside (a text references accounts)`)
	err := tryOpen(t, dsn, Config{Tables: []string{"accounts", "public.accounts", "missing", "nokey", "risky", "look", "parent", "late"}})
	wantError(t, err, "no table missing", "are the same one", "nokey has no primary key", "risky is temporary or unlogged",
		"look is not a table", "inherit from it", "DEFERRABLE", "from table public.outside, which is not tracked, to public.accounts")
	wantError(t, tryOpen(t, dsn+" pool_max_conns=1", Config{Tables: []string{"accounts"}}), "pool_max_conns")
	wantError(t, tryOpen(t, s.Database(t, accounts+"; create schema cohort"), Config{Tables: []string{"accounts"}}), "schema cohort that this package did not make")
	newer := s.Database(t, accounts)
	if err := tryOpen(t, newer, Config{Tables: []string{"accounts"}}); err != nil {
		t.Fatal(err)
	}
	s.Exec(t, newer, "update cohort.version set version = 99")
	wantError(t, tryOpen(t, newer, Config{Tables: []string{"accounts"}}), "version 99")
}

// Without it an installation that leaves prepared transactions off, as PostgreSQL
// does by default, would fail at the first vote.
func TestPreparedTransactionsAreOff(t *testing.T) {
	s := shared.Get(t)
	dsn := s.Database(t, accounts)
	restart := func(settings ...string) {
		t.Helper()
		if err := errors.Join(s.Stop(), s.Server.Start(context.Background(), settings...)); err != nil {
			t.Fatal(err)
		}
	}
	restart("max_prepared_transactions=0")
	defer restart()
	wantError(t, tryOpen(t, dsn, Config{Tables: []string{"accounts"}}), "max_prepared_transactions is 0", "restart the server")
}

// Without it a role with too few rights would fail in the middle of its work, and
// one with just enough could not work at all.
func TestRights(t *testing.T) {
	s := shared.Get(t)
	dsn := s.Database(t, accounts+`; create table child (id serial primary key, account text references accounts);
		drop role if exists app; create role app login`)
	app := strings.Replace(dsn, "user=postgres", "user=app", 1)
	cfg := Config{Tables: []string{"accounts", "child"}}
	wantError(t, tryOpen(t, app, cfg), "may not make schema cohort", "postgres.Setup")
	granted := cfg
	granted.Role = "app"
	admin, err := ownPool(t.Context(), newPool(t, dsn), "bank")
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	tables, err := loadAll(t.Context(), newPool(t, dsn), admin, cfg.Tables)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time changes nothing
		if err := setup(t.Context(), admin, "shop", "bank", tables, granted); err != nil {
			t.Fatal(err)
		}
	}
	wantError(t, tryOpen(t, app, cfg), "may not INSERT on table public.accounts", "may not TRUNCATE on table public.child", "child_id_seq", "session_replication_role")
	s.Exec(t, dsn, "grant select, insert, update, delete, truncate on accounts, child to app; grant usage, select, update on sequence child_id_seq to app; grant set on parameter session_replication_role to app")
	b := openBank(t, app, newFakeGroup(), cfg)
	b.apply(b.begin("t1").must("insert into accounts values ('a', 1)").must("insert into child (account) values ('a')").yes().commit())
	stream := bytesOf(t, b.capture())
	if err := b.Restore(t.Context(), b.applied, strings.NewReader(string(stream))); err != nil {
		t.Fatal(err)
	}
	b.begin("t2").must("insert into child (account) values ('a')").yes().commit()
	b.follow()
	b.want("select id, account from child order by id", "1 a\n2 a")
	b.wantRest()
	s.Exec(t, dsn, "revoke set on parameter session_replication_role from app")
	// Without triggers and foreign keys that right is not needed.
	plain := s.Database(t, accounts)
	s.Exec(t, plain, "alter table accounts owner to app; do $$ begin execute format('grant create on database %I to app', current_database()); end $$")
	a := openBank(t, strings.Replace(plain, "user=postgres", "user=app", 1), newFakeGroup(), Config{Tables: []string{"accounts"}})
	a.begin("t1").must("insert into accounts values ('a', 1)").yes().commit()
	a.follow()
	c := openBank(t, s.Database(t, accounts), a.group, Config{Tables: []string{"accounts"}})
	c.server.replica = false
	c.follow()
	c.want("select id from accounts", "a")
	if err := c.Restore(t.Context(), c.applied, strings.NewReader(string(bytesOf(t, a.capture())))); err != nil {
		t.Fatal(err)
	}
	c.want("select id from accounts", "a")
}

// Without it a start would wait for what is in doubt, which waits for the start.
func TestOpenDoesNotWaitForPreparedTransactions(t *testing.T) {
	b := newBank(t, accounts, "accounts")
	b.begin("t1").must("insert into accounts values ('a', 1)").yes()
	b = b.reopen()
	b.want("select count(*) from pg_prepared_xacts where database = current_database()", "1")
}

// Without it a table that is tracked no more could not be changed any more, and one
// could be two participants'.
func TestTrackedTablesChange(t *testing.T) {
	s := shared.Get(t)
	dsn := s.Database(t, accounts+"; create table other (n int primary key)")
	b := openBank(t, dsn, newFakeGroup(), Config{Tables: []string{"accounts", "other"}})
	if _, err := open(t.Context(), b.pool, b.group, "shop", "second", Config{Tables: []string{"other"}}); err == nil || !strings.Contains(err.Error(), "belongs to participant bank") {
		t.Fatalf("another participant's table: %v", err)
	}
	_ = b.Close()
	b = openBank(t, dsn, b.group, Config{Tables: []string{"accounts"}})
	if _, err := b.pool.Exec(t.Context(), "insert into other values (1); truncate other"); err != nil {
		t.Errorf("a table that is not tracked any more: %v", err)
	}
	other, err := open(t.Context(), b.pool, newFakeGroup(), "shop", "second", Config{Tables: []string{"other"}})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, err := b.pool.Exec(context.Background(), "insert into other values (1)"); code(err) != codeNotInPrerequisite {
		t.Errorf("a change outside of a step: %v", err)
	}
	if err := b.begin("t1").step("insert into other values (1)"); code(err) != codeNotInPrerequisite {
		t.Errorf("a change in another participant's step: %v", err)
	}
}
