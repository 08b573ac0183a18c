package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cohort-tx/cohort/participant"
)

// reopen is the application's crash: a new process on the same database.
func (b *bank) reopen() *bank {
	b.t.Helper()
	_ = b.Close()
	n := openBank(b.t, b.dsn, b.group, b.config)
	n.begun = b.begun
	return n
}

// Without it a crash between the vote and the decision's arrival would lose what
// committed, or keep what did not.
func TestInDoubtAfterACrash(t *testing.T) {
	for _, c := range []struct {
		name    string
		decide  func(x *tx)
		balance string
	}{
		{"committed, in the log", func(x *tx) { x.commit() }, "6"},
		{"aborted", func(x *tx) { x.bank.group.set(x.key.id, x.key.begun, participant.Aborted) }, "5"},
		{"never heard of", func(x *tx) {}, "5"},
		{"another attempt committed", func(x *tx) {
			y := &tx{bank: x.bank, key: attemptKey{id: x.key.id, begun: x.key.begun + 1}}
			y.commit()
		}, "5"},
		{"forgotten, committed", func(x *tx) {
			x.commit()
			x.bank.group.set(x.key.id, x.key.begun, participant.UnknownBeforeHorizon)
		}, "6"},
		{"forgotten, not committed", func(x *tx) {
			x.bank.group.set(x.key.id, x.key.begun, participant.UnknownBeforeHorizon)
		}, "5"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBank(t, accounts+"; insert into accounts values ('a', 5)", "accounts")
			x := b.begin("t1").must("update accounts set balance = 6").yes()
			c.decide(x)
			b = b.reopen()
			b.follow()
			eventually(t, "the doubt ends", func() bool {
				return b.query("select gid from pg_prepared_xacts where database = current_database()") == ""
			})
			b.want("select balance from accounts", c.balance)
			b.begin("t2").must("update accounts set balance = 7")
			b.attempts.shut("the test's end")
			b.wantRest()
		})
	}
}

// Without it a crash at any point between the commit here and the position would
// apply a transaction twice, or not at all.
func TestCrashBetweenCommitAndPosition(t *testing.T) {
	b := newBank(t, accounts+"; insert into accounts values ('a', 5)", "accounts")
	x := b.begin("t1").must("update accounts set balance = balance + 1").yes()
	x.commit()
	// Committed, and the process ended before the position was stored.
	if _, err := b.pool.Exec(t.Context(), "commit prepared '"+b.attempts.find(x.key).gid+"'"); err != nil {
		t.Fatal(err)
	}
	b = b.reopen()
	b.want("select balance from accounts", "6")
	b.follow()
	b.want("select balance from accounts", "6")
	if p, err := b.Point(t.Context()); err != nil || p.Position != 1 {
		t.Fatalf("the point is %v, %v", p, err)
	}
	b.wantRest()
	// The entry once more, as another instance would apply it.
	b.begin("t2").must("update accounts set balance = 9").yes()
	b.apply(b.group.entries[0])
	b.want("select balance from accounts", "6")
}

// Without it what the log has would be lost with a database that lacks it.
func TestRedo(t *testing.T) {
	a := newBank(t, accounts, "accounts")
	a.begin("t1").must("insert into accounts values ('a', 1), ('b', 2), ('c', 3)").yes().commit()
	a.follow()
	a.begin("t2").must("update accounts set balance = 20 where id = 'b'").must("delete from accounts where id = 'c'").yes().commit()
	a.follow()
	a.begin("t3").must("update accounts set id = 'z' where id = 'a'").must("insert into accounts values ('c', 4)").yes().commit()
	a.follow()
	want := a.query("select * from accounts order by id")

	s := shared.Get(t)
	each := openBank(t, s.Database(t, accounts), a.group, Config{Tables: []string{"accounts"}})
	each.follow()
	each.want("select * from accounts order by id", want)
	each.wantRest()
	together := openBank(t, s.Database(t, accounts), a.group, Config{Tables: []string{"accounts"}})
	together.apply(a.group.entries...)
	together.want("select * from accounts order by id", want)
	together.wantRest()
}

// Without it prepared transactions of other programs would be ended.
func TestForeignPreparedTransactionsAreNotTouched(t *testing.T) {
	b := newBank(t, accounts+"; create table other (n int)", "accounts")
	foreign := []string{
		"mine", "cohort1:shop/bank", "cohort1:shop/other:2s:AAAAAAAAAAAAAAAAAAAAAA:-:ix", "cohort1:shop/bank:2s:AAAAAAAAAAAAAAAAAAAAAA:-",
		"cohort1:shop/bank:2s:AAAAAAAAAAAAAAAAAAAAAA:-:", "cohort1:shop/bank:!:AAAAAAAAAAAAAAAAAAAAAA:-:ix", "cohort1:shop/bank2:2s:AAAAAAAAAAAAAAAAAAAAAA:-:ix",
	}
	for _, gid := range foreign {
		if _, err := b.pool.Exec(t.Context(), "begin; insert into other values (1); prepare transaction '"+gid+"'"); err != nil {
			t.Fatal(err)
		}
	}
	b.begin("t1").must("insert into accounts values ('a', 1)").yes()
	b.begin("t2").must("insert into accounts values ('b', 1)").yes().commit()
	b = b.reopen()
	if err := b.resolver.pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.follow()
	b.want("select count(*) from pg_prepared_xacts where database = current_database()", "7")
	b.want("select id from accounts", "b")
	// Another database's are not ours either, whatever they are called.
	c := openBank(t, shared.Get(t).Database(t, accounts), b.group, Config{Tables: []string{"accounts"}})
	d := newBank(t, accounts, "accounts")
	d.begin("t3").must("insert into accounts values ('a', 1)").yes()
	if err := c.resolver.pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.want("select count(*) from pg_prepared_xacts where database = current_database()", "1")
}

// Without it a transaction that is just being decided would be ended by looking.
func TestLookingDoesNotEndWhatIsBeingDecided(t *testing.T) {
	b := newBank(t, accounts, "accounts")
	x := b.begin("t1").must("insert into accounts values ('a', 1)").yes()
	b.group.set("t1", x.key.begun, participant.Pending)
	b = b.reopen()
	if err := b.resolver.pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.want("select count(*) from pg_prepared_xacts where database = current_database()", "1")
	x.commit()
	b.follow()
	b.want("select id from accounts", "a")
	b.wantRest()
}

// Without it the running application would leave in doubt what nobody told it.
func TestResolverAsksWhileRunning(t *testing.T) {
	s := shared.Get(t)
	b := openBank(t, s.Database(t, accounts), newFakeGroup(), Config{Tables: []string{"accounts"}, ResolveEvery: 20e6})
	b.group.down = errors.New("no node answers")
	b.begin("t1").must("insert into accounts values ('a', 1)").yes()
	read := b.begin("t2").must("select * from accounts for share").yes()
	read.commit()
	b.group.mu.Lock()
	b.group.down = nil
	b.group.mu.Unlock()
	eventually(t, "both are settled", func() bool {
		return b.query("select gid from pg_prepared_xacts where database = current_database()") == ""
	})
	b.want("select id from accounts", "")
	b.wantRest()
}

// Without it an answer that got lost would commit here what did not commit in the
// log: the caller went on without the step.
func TestPreparedIsNotWhatCommitted(t *testing.T) {
	for _, crash := range []bool{false, true} {
		b := newBank(t, accounts+"; insert into accounts values ('a', 5), ('b', 5)", "accounts")
		x := b.begin("t1").must("update accounts set balance = 6 where id = 'a'")
		kept := x.changes
		x.must("update accounts set balance = 7 where id = 'b'").yes()
		x.changes = kept
		other := b.begin("t2").must("select 1")
		e := x.commit()
		if crash {
			b = b.reopen()
			b.follow()
		} else {
			b.apply(e)
			if err := other.vote(); err == nil {
				t.Error("a transaction that was open while changes were redone may commit")
			}
		}
		b.want("select * from accounts order by id", "a 6\nb 5")
		b.begin("t3").must("update accounts set balance = 8").yes().commit()
		b.follow()
		b.wantRest()
	}
}

// Without it a transaction none of whose steps committed would be in doubt for
// ever, since the log's entry does not concern the database.
func TestPreparedAndNothingOfItCommitted(t *testing.T) {
	b := newBank(t, accounts+"; insert into accounts values ('a', 5)", "accounts")
	x := b.begin("t1").must("update accounts set balance = 6").yes()
	x.changes = nil
	x.commit()
	b.config.ResolveEvery = 0
	if err := b.resolver.pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.want("select balance from accounts", "5")
	b.wantRest()
}

// Without it redoing would wait for ever for steps that wait for it.
func TestOpenStepsGiveWayToTheLog(t *testing.T) {
	b := newBank(t, accounts+"; insert into accounts values ('a', 5)", "accounts")
	x := b.begin("t1").must("update accounts set balance = 6").yes()
	// Somebody ended ours by hand, and a step took the lock.
	if _, err := b.pool.Exec(t.Context(), "rollback prepared '"+b.attempts.find(x.key).gid+"'"); err != nil {
		t.Fatal(err)
	}
	y := b.begin("t2").must("update accounts set balance = 7")
	b.apply(x.commit())
	b.want("select balance from accounts", "6")
	if err := y.vote(); err == nil {
		t.Error("the step that was in the way may commit")
	}
	b.wantRest()
}

// Without it ids that do not fit, or that SQL would misread, would be in doubt for
// ever.
func TestStrangeIDs(t *testing.T) {
	b := newBank(t, accounts+"; create table rooms (n int primary key)", "accounts")
	ids := []string{"plain", "it's", `back\slash "quoted"`, "with space: and :colons:", "naïve ✓", strings.Repeat("long", 64), strings.Repeat("✓", 85)}
	for i, id := range ids {
		x := b.begin(id).must("insert into accounts values ('" + string(rune('a'+i)) + "', 1)").yes()
		if i%2 == 0 {
			x.commit()
		}
	}
	b = b.reopen()
	b.follow()
	b.want("select id from accounts order by id", "a\nc\ne\ng")
	b.wantRest()
	// Names are part of a gid, too, and may look like what is around them.
	hotel, err := open(t.Context(), b.pool, b.group, "hotel", "h", Config{Tables: []string{"rooms"}, ResolveEvery: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer hotel.Close()
	x := (&bank{DB: hotel, t: t}).begin(strings.Repeat("h:h", 80)).must("insert into rooms values (1)").yes()
	hotel.attempts.ended(x.bank.attempts.find(x.key).lot) // as after a crash
	if err := hotel.resolver.pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.wantRest()
}

// Without it a standby on the same database would apply what the active instance
// has applied, or end what it is preparing.
func TestTwoInstancesOnOneDatabase(t *testing.T) {
	active := newBank(t, accounts+"; insert into accounts values ('a', 0)", "accounts")
	standby := openBank(t, active.dsn, active.group, active.config)
	if _, err := standby.Point(t.Context()); err != nil {
		t.Fatal(err)
	}
	const n = 30
	feed := make(chan participant.Entry, n)
	done := make(chan error, 1)
	go func() {
		for e := range feed {
			if err := standby.DB.Apply(context.Background(), e); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for i := range n {
		x := active.begin(fmt.Sprint("t", i)).must("update accounts set balance = balance + 1")
		active.group.set(x.key.id, x.key.begun, participant.Pending)
		x.yes()
		e := x.commit()
		feed <- e
		if i%3 != 0 {
			active.apply(e) // otherwise the standby is alone with it
			continue
		}
		eventually(t, "the standby applies it", func() bool {
			p, err := active.point(t.Context(), active.own, "")
			return err == nil && p.Position >= e.Position
		})
		active.apply(e)
	}
	close(feed)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	active.want("select balance from accounts", fmt.Sprint(n))
	active.wantRest()
}
