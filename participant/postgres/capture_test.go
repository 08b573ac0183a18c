package postgres

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/cohort-tx/cohort/participant"
)

func (b *bank) capture() io.WriterTo {
	b.t.Helper()
	c, err := b.Capture(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = c.(io.Closer).Close() })
	return c
}

func bytesOf(t testing.TB, c io.WriterTo) []byte {
	t.Helper()
	var buf bytes.Buffer
	n, err := c.WriteTo(&buf)
	if err != nil || n != int64(buf.Len()) {
		t.Fatalf("wrote %d bytes and said %d: %v", buf.Len(), n, err)
	}
	return buf.Bytes()
}

// everything has a column of each kind that a text form could spoil.
const everything = `
create type mood as enum ('sad', 'it''s fine');
create type pair as (a int, b text);
create domain positive as int check (value > 0);
create table everything (
  id bigint generated always as identity primary key,
  i int, n numeric, f real, d double precision, t text, c char(5), v varchar(3), b bytea, flag boolean,
  ts timestamp, tz timestamptz, day date, span interval, u uuid, j json, jb jsonb, arr int[], texts text[],
  m mood, p pair, r int4range, x bit varying(8), ip inet, cash money, pos positive, q "char",
  "Odd ""name" int, doubled int generated always as (i * 2) stored
);
create table parts (k int, at date, v text, primary key (k, at)) partition by range (at);
create table parts_old partition of parts for values from (minvalue) to ('2020-01-01');
create table parts_new partition of parts for values from ('2020-01-01') to (maxvalue);
create table keyonly (a date, b double precision, primary key (a, b));`

const fillEverything = `
insert into everything (i, n, f, d, t, c, v, b, flag, ts, tz, day, span, u, j, jb, arr, texts, m, p, r, x, ip, cash, pos, q, "Odd ""name")
values
 (1, 1.50, 0.1, 0.1::float8 + 0.2::float8, E'tab\t line\n back\\slash ''quote'' \u2713', 'ab', 'xyz', '\x00ff5c', true,
  '2024-02-29 12:34:56.789012', '2024-02-29 12:34:56.789012+05:30', 'infinity', '1 year -3 days 04:05:06.7', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11',
  '{"a" :  1, "a": 2}', 'null', '[0:1]={1,null}', array['', 'null', null, 'a"b,c'], 'it''s fine', row(1, null)::pair, '[1,5)', '10101', '::1/64', 12.34, 7, 'x', 9),
 (null, 'NaN', 'NaN', '-infinity', '', '', '', '', false, '-infinity', 'infinity', '0044-03-15 BC', '-1 day', null, null, '{"x": null}', '{}', '{}', 'sad', row(null, null)::pair, 'empty', '', '10.0.0.1', -1, null, null, null),
 (null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null);
insert into parts values (1, '1999-12-31', 'old'), (1, '2024-01-01', 'new');
insert into keyonly values ('2024-02-29', 0.1), ('infinity', 'NaN')`

const readEverything = "select e::text from everything e order by id"

// Without it the log or a checkpoint would spoil values: digits of floats, JSON's
// spelling, arrays' bounds, composites of nulls.
func TestValuesSurvive(t *testing.T) {
	s := shared.Get(t)
	cfg := Config{Tables: []string{"everything", "parts", "keyonly"}}
	g := newFakeGroup()
	// A session's settings must not matter.
	a := openBank(t, s.Database(t, everything)+" options='-c datestyle=sql,dmy -c extra_float_digits=-10 -c intervalstyle=iso_8601 -c bytea_output=escape -c timezone=Asia/Tokyo'", g, cfg)
	a.begin("t1").must(fillEverything).yes().commit()
	a.follow()
	a.begin("t2").must("update everything set t = t || '!' where id < 3").must("update parts set at = '2001-01-01' where v = 'new'").must("delete from keyonly where b = 0.1").yes().commit()
	a.follow()
	want := []string{a.query(readEverything), a.query("select tableoid::regclass::text, p::text from parts p order by v"), a.query("select * from keyonly")}
	check := func(how string, b *bank) {
		t.Helper()
		b.dsn = strings.Split(b.dsn, " options")[0] + " options='-c datestyle=sql,dmy -c extra_float_digits=-10 -c intervalstyle=iso_8601 -c bytea_output=escape -c timezone=Asia/Tokyo'"
		for i, sql := range []string{readEverything, "select tableoid::regclass::text, p::text from parts p order by v", "select * from keyonly"} {
			if got := b.query(sql); got != want[i] {
				t.Errorf("%s: %s:\n%s\nwant\n%s", how, sql, got, want[i])
			}
		}
		// The identity's sequence goes on after the rows.
		b.begin("next" + how).must("insert into everything (t) values ('next')").yes().commit()
		entries := b.group.entries
		b.apply(entries[len(entries)-1])
		b.want("select max(id) from everything", "4")
	}
	redone := openBank(t, s.Database(t, everything), a.group, cfg)
	redone.follow()
	stream := bytesOf(t, a.capture())
	restored := openBank(t, s.Database(t, everything+fillEverything), newFakeGroup(), cfg)
	at := participant.Point{Incarnation: 1, Position: 2}
	restored.group.entries = append(restored.group.entries, g.entries...)
	if err := restored.Restore(t.Context(), at, bytes.NewReader(stream)); err != nil {
		t.Fatal(err)
	}
	if p, err := restored.Point(t.Context()); err != nil || p != at {
		t.Errorf("the point is %v, %v", p, err)
	}
	check("restored", restored)
	redone.group = newFakeGroup()
	redone.group.first = 3
	check("redone", redone)
}

// Without it a checkpoint would hold what came after its cut, or differ each time
// that it is sent.
func TestCaptureDuringWrites(t *testing.T) {
	b := newBank(t, accounts, "accounts")
	x := b.begin("t1").must("insert into accounts select 'a' || n, n from generate_series(1, 20000) n").yes()
	b.apply(x.commit())
	// Prepared and not decided: not part of it.
	open := b.begin("t2").must("update accounts set balance = -1 where id = 'a1'").yes()
	c := b.capture()
	first := bytesOf(t, c)
	b.apply(open.commit())
	b.apply(b.begin("t3").must("update accounts set balance = 0").must("delete from accounts where id = 'a2'").yes().commit())
	if _, err := b.pool.Exec(t.Context(), "vacuum accounts"); err != nil {
		t.Fatal(err)
	}
	// A reader that fails costs the snapshot nothing.
	broken := errors.New("broken")
	if _, err := c.WriteTo(failAfter{limit: new(int), err: broken}); !errors.Is(err, broken) {
		t.Fatalf("a broken writer gave %v", err)
	}
	if again := bytesOf(t, c); !bytes.Equal(first, again) {
		t.Fatal("the second time it wrote other bytes")
	}
	r := openBank(t, shared.Get(t).Database(t, accounts), newFakeGroup(), Config{Tables: []string{"accounts"}})
	if err := r.Restore(t.Context(), participant.Point{Incarnation: 1, Position: 1}, bytes.NewReader(first)); err != nil {
		t.Fatal(err)
	}
	r.want("select count(*), sum(balance)::bigint, min(balance) from accounts", "20000 200010000 1")
	r.apply(b.group.entries[1:]...)
	r.want("select count(*), sum(balance)::bigint from accounts", "19999 0")
	r.wantRest()
	if err := c.(io.Closer).Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.WriteTo(io.Discard); err == nil {
		t.Fatal("a closed snapshot was written")
	}
	b.want("select count(*) from pg_stat_activity where datname = current_database() and backend_xmin is not null and pid <> pg_backend_pid()", "0")
}

type failAfter struct {
	limit *int
	err   error
}

func (f failAfter) Write(p []byte) (int, error) {
	if *f.limit += len(p); *f.limit > 150<<10 {
		return 0, f.err
	}
	return len(p), nil
}

// Without it a snapshot that nobody closes would keep dead rows for ever.
func TestCaptureIsBoundedInTime(t *testing.T) {
	b := openBank(t, shared.Get(t).Database(t, accounts), newFakeGroup(), Config{Tables: []string{"accounts"}, CaptureTimeout: 20 * time.Millisecond})
	c := b.capture()
	eventually(t, "it is closed", func() bool {
		_, err := c.WriteTo(io.Discard)
		return err != nil && b.own.Stat().AcquiredConns() == 0
	})
}

// Without it a damaged or cut stream would leave a database that is half restored.
func TestRestoreOfADamagedStream(t *testing.T) {
	a := newBank(t, accounts, "accounts")
	a.apply(a.begin("t1").must("insert into accounts select 'a' || n, n from generate_series(1, 200) n").yes().commit())
	stream := bytesOf(t, a.capture())
	b := newBank(t, accounts+"; insert into accounts values ('mine', 1)", "accounts")
	try := func(what string, r io.Reader) {
		t.Helper()
		if err := b.Restore(t.Context(), participant.Point{Incarnation: 1, Position: 1}, r); err == nil {
			t.Fatalf("%s was restored", what)
		}
		b.want("select id from accounts", "mine")
		if p, err := b.Point(t.Context()); err != nil || p != (participant.Point{}) {
			t.Fatalf("%s: the point is %v, %v", what, p, err)
		}
	}
	for n := 0; n < len(stream); n += 1 + len(stream)/17 {
		try("a stream cut short", bytes.NewReader(stream[:n]))
		damaged := bytes.Clone(stream)
		damaged[n] ^= 0x20
		try("a damaged stream", bytes.NewReader(damaged))
	}
	try("a stream that goes on", bytes.NewReader(append(bytes.Clone(stream), 0)))
	broken := errors.New("broken")
	err := b.Restore(t.Context(), participant.Point{Incarnation: 1, Position: 1}, io.MultiReader(bytes.NewReader(stream[:len(stream)/2]), iotest.ErrReader(broken)))
	if !errors.Is(err, broken) {
		t.Fatalf("a reader's error became %v", err)
	}
	if err := b.Restore(t.Context(), participant.Point{Incarnation: 1, Position: 1}, iotest.OneByteReader(bytes.NewReader(stream))); err != nil {
		t.Fatal(err)
	}
	b.want("select count(*) from accounts", "200")
}

// Without it a restore would wait for ever for what is prepared, or keep it.
func TestRestoreSettlesWhatIsInDoubt(t *testing.T) {
	a := newBank(t, accounts, "accounts")
	a.apply(a.begin("t1").must("insert into accounts values ('a', 1)").yes().commit())
	stream := bytesOf(t, a.capture())
	b := newBank(t, accounts+"; insert into accounts values ('mine', 1)", "accounts")
	b.begin("t2").must("update accounts set balance = 2").yes()
	open := b.begin("t3").must("select 1 from accounts")
	if err := b.Restore(t.Context(), participant.Point{Incarnation: 1, Position: 1}, bytes.NewReader(stream)); err != nil {
		t.Fatal(err)
	}
	b.want("select * from accounts", "a 1")
	if err := open.vote(); err == nil {
		t.Error("a transaction that was open during the restore may commit")
	}
	b.wantRest()
}

// Without it tables that refer to each other could be neither redone nor restored.
func TestForeignKeysAndTriggers(t *testing.T) {
	schema := accounts + `; create table child (id int primary key, account text not null references accounts on delete cascade, twin text unique);
		create table audit (n serial primary key, what text);
		create function note() returns trigger language plpgsql as 'begin insert into audit (what) values (tg_op); return null; end';
		create trigger note after insert or update or delete on accounts for each row execute function note()`
	a := newBank(t, schema, "accounts", "child", "audit")
	a.begin("t1").must("insert into accounts values ('a', 1), ('b', 2)").must("insert into child values (1, 'a', 'x'), (2, 'b', 'y')").yes().commit()
	a.follow()
	// Two rows change their unique values: no order of single rows allows it.
	a.begin("t2").must("update child set twin = null where id = 1; update child set twin = 'x' where id = 2; update child set twin = 'y' where id = 1").yes().commit()
	a.follow()
	a.begin("t3").must("delete from accounts where id = 'b'").must("insert into accounts values ('c', 3)").yes().commit()
	a.follow()
	b := openBank(t, shared.Get(t).Database(t, schema), a.group, Config{Tables: []string{"accounts", "child", "audit"}})
	b.follow()
	c := openBank(t, shared.Get(t).Database(t, schema), a.group, Config{Tables: []string{"audit", "child", "accounts"}})
	c.apply(a.group.entries...)
	d := openBank(t, shared.Get(t).Database(t, schema), a.group, Config{Tables: []string{"audit", "child", "accounts"}})
	if err := d.Restore(t.Context(), participant.Point{Incarnation: 1, Position: 3}, bytes.NewReader(bytesOf(t, a.capture()))); err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{"select * from accounts order by id", "select * from child order by id", "select * from audit order by n"} {
		want := a.query(sql)
		b.want(sql, want)
		c.want(sql, want)
		d.want(sql, want)
	}
	d.begin("t4").must("insert into accounts values ('d', 1)").yes()
}

// Without it a migration would make the log from before it useless.
func TestLogFromBeforeAMigration(t *testing.T) {
	a := newBank(t, accounts, "accounts")
	a.begin("t1").must("insert into accounts values ('a', 1)").yes().commit()
	a.follow()
	a.Close()
	conn, err := pgx.Connect(t.Context(), a.dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	migrate := "alter table accounts add note text default 'new'; alter table accounts rename balance to amount"
	if _, err := conn.Exec(t.Context(), migrate); err != nil {
		t.Fatal(err)
	}
	a = openBank(t, a.dsn, a.group, a.config)
	a.begun = 200
	a.begin("t2").must("insert into accounts values ('b', 2, 'x')").yes().commit()
	a.follow()
	a.want("select * from accounts order by id", "a 1 new\nb 2 x")
	b := openBank(t, shared.Get(t).Database(t, accounts+";"+strings.Replace(migrate, "alter table accounts rename balance to amount", "alter table accounts add amount int; alter table accounts drop balance", 1)), a.group, a.config)
	b.follow()
	b.want("select id, note, amount from accounts order by id", "a new <nil>\nb x 2")
}
