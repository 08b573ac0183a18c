package postgres

import (
	"errors"
	"testing"

	"github.com/cohort-tx/cohort/participant"
)

// Without it nothing of a step would be there when its transaction commits, or
// something before.
func TestCommit(t *testing.T) {
	b := newBank(t, accounts, "accounts")
	x := b.begin("t1").must("insert into accounts values ('a', 5), ('b', 7)").must("update accounts set balance = balance - 2 where id = 'a'")
	b.want("select * from accounts", "")
	x.yes()
	b.want("select * from accounts", "")
	b.apply(x.commit())
	b.want("select * from accounts order by id", "a 3\nb 7")
	if p, err := b.Point(t.Context()); err != nil || p != (participant.Point{Incarnation: 1, Position: 1}) {
		t.Errorf("the point is %v, %v", p, err)
	}
	b.wantRest()
}

// Without it an aborted transaction would leave rows or locks behind.
func TestAbort(t *testing.T) {
	b := newBank(t, accounts+"; insert into accounts values ('a', 5)", "accounts")
	x := b.begin("t1").must("update accounts set balance = 0").yes()
	b.Ended(participant.Notice{ID: "t1", Begun: x.key.begun})
	eventually(t, "the aborted transaction is rolled back", func() bool { return len(b.attempts.slots) == 0 })
	b.begin("t2").must("update accounts set balance = 6")
	b.want("select * from accounts", "a 5")
}

// Without it a failed step would leave changes in a transaction whose caller goes
// on without it.
func TestFailedStepIsUndone(t *testing.T) {
	b := newBank(t, accounts, "accounts")
	x := b.begin("t1").must("insert into accounts values ('a', 1)")
	refused := errors.New("refused")
	if err := x.do(func(tx *Tx) error {
		if _, err := tx.Exec(t.Context(), "insert into accounts values ('b', 2)"); err != nil {
			t.Fatal(err)
		}
		return refused
	}); !errors.Is(err, refused) {
		t.Fatalf("the step's error is %v", err)
	}
	if err := x.step("insert into accounts values ('a', 2)"); code(err) != codeUniqueViolation {
		t.Fatalf("a duplicate key: %v", err)
	}
	if err := x.do(func(tx *Tx) error {
		_, _ = tx.Exec(t.Context(), "select 1/0")
		return nil
	}); err == nil {
		t.Fatal("a step that ignores an error of its SQL succeeded")
	}
	b.apply(x.must("insert into accounts values ('c', 3)").yes().commit())
	b.want("select * from accounts order by id", "a 1\nc 3")
	b.wantRest()
}

// Without it a panic in a handler would leave half of its changes.
func TestPanickingStepIsUndone(t *testing.T) {
	b := newBank(t, accounts, "accounts")
	x := b.begin("t1").must("insert into accounts values ('a', 1)")
	func() {
		defer func() { _ = recover() }()
		_ = x.do(func(tx *Tx) error {
			_, _ = tx.Exec(t.Context(), "insert into accounts values ('b', 2)")
			panic("oh")
		})
	}()
	b.apply(x.yes().commit())
	b.want("select * from accounts", "a 1")
}

// Without it a deadlock between databases would last until somebody looks.
func TestLockTimeoutIsAConflict(t *testing.T) {
	b := newBank(t, accounts+"; insert into accounts values ('a', 5)", "accounts")
	b.begin("t1").must("select * from accounts for share").yes()
	x := b.begin("t2")
	if err := x.step("update accounts set balance = 6"); !errors.Is(err, participant.ErrConflict) {
		t.Fatalf("waiting for a lock in vain gave %v, want a conflict", err)
	}
	// The attempt itself is usable: its caller may go on without the step.
	x.must("select 1").yes()
}

// Without it a step whose answer got lost would be there twice.
func TestStepIsNotRunTwiceInOneTransaction(t *testing.T) {
	b := newBank(t, accounts+"; insert into accounts values ('a', 5)", "accounts")
	x := b.begin("t1").must("update accounts set balance = balance - 1")
	b.steps--
	if err := x.step("update accounts set balance = balance - 1"); !errors.Is(err, participant.ErrConflict) {
		t.Fatalf("the same step again gave %v, want a conflict", err)
	}
	if err := x.vote(); err == nil {
		t.Fatal("the vote was yes")
	}
	b.begin("t2").must("update accounts set balance = 1")
}

// Without it a handler could commit by itself, before the group has decided.
func TestHandlerMustNotCommit(t *testing.T) {
	b := newBank(t, accounts, "accounts")
	x := b.begin("t1")
	if err := x.step("insert into accounts values ('a', 1); rollback"); err == nil {
		t.Fatal("a handler that rolls back succeeded")
	}
	if err := x.vote(); err == nil {
		t.Fatal("the vote was yes")
	}
	y := b.begin("t2")
	if err := y.step("rollback; begin; savepoint cohort_step"); err == nil {
		if err := y.vote(); err == nil {
			t.Fatal("the vote was yes for another SQL transaction")
		}
	}
}

// Without it rows could change without the log's knowing.
func TestChangesOutsideOfStepsAreRefused(t *testing.T) {
	b := newBank(t, accounts+"; insert into accounts values ('a', 5)", "accounts")
	for _, sql := range []string{"update accounts set balance = 6", "delete from accounts", "insert into accounts values ('b', 1)", "truncate accounts"} {
		if _, err := b.pool.Exec(t.Context(), sql); code(err) != codeNotInPrerequisite {
			t.Errorf("%s: %v", sql, err)
		}
	}
	if err := b.begin("t1").step("truncate accounts"); code(err) != codeNotInPrerequisite {
		t.Errorf("truncate in a step: %v", err)
	}
	if _, err := b.pool.Exec(t.Context(), "begin; set local cohort.attempt = 'unlogged'; update accounts set balance = 6; commit"); err != nil {
		t.Errorf("maintenance: %v", err)
	}
	b.want("select * from accounts", "a 6")
}

// Without it changes that a deferred trigger makes would be prepared and not
// logged.
func TestDeferredTriggersBelongToTheirStep(t *testing.T) {
	b := newBank(t, accounts+`; create table audit (id text primary key, n int);
		create function note() returns trigger language plpgsql as 'begin insert into audit values (new.id, 1); return null; end';
		create constraint trigger note after insert on accounts deferrable initially deferred for each row execute function note()`, "accounts", "audit")
	x := b.begin("t1").must("insert into accounts values ('a', 1)")
	if err := x.vote(); err == nil {
		t.Fatal("the vote was yes although a deferred trigger changed rows after the step")
	}
	b.apply(b.begin("t2").must("insert into accounts values ('b', 1); set constraints all immediate").yes().commit())
	b.want("select id from audit", "b")
	b.wantRest()
}

// Without it a transaction that only reads would keep its locks for ever.
func TestOnlyReading(t *testing.T) {
	b := newBank(t, accounts+"; insert into accounts values ('a', 5)", "accounts")
	x := b.begin("t1").must("select * from accounts for share").yes()
	if len(x.changes) != 0 {
		t.Fatalf("reading staged %d changes", len(x.changes))
	}
	if err := b.begin("t2").step("update accounts set balance = 6"); !errors.Is(err, participant.ErrConflict) {
		t.Fatalf("what a yes rests on was changed: %v", err)
	}
	b.Ended(participant.Notice{ID: "t1", Begun: x.key.begun, Committed: true, Position: 1})
	eventually(t, "its locks are gone", func() bool { return b.begin("t3").step("update accounts set balance = 6") == nil })
}

// Without it open transactions that nobody ends would hold locks and connections.
func TestOpenTooLong(t *testing.T) {
	s := shared.Get(t)
	b := openBank(t, s.Database(t, accounts+"; insert into accounts values ('a', 5)"), newFakeGroup(), Config{Tables: []string{"accounts"}, AttemptTimeout: 50e6})
	x := b.begin("t1").must("update accounts set balance = 6")
	eventually(t, "its locks are gone", func() bool { return b.begin("t2").step("update accounts set balance = 7") == nil })
	if err := x.vote(); err == nil {
		t.Fatal("the vote was yes")
	}
	if err := x.step("select 1"); !errors.Is(err, participant.ErrConflict) {
		t.Fatalf("another step gave %v, want a conflict", err)
	}
}

// Without it a PostgreSQL that restarts would refuse transactions for good that
// only had to be run again.
func TestVoteWithoutItsConnectionIsAConflict(t *testing.T) {
	b := newBank(t, accounts, "accounts")
	x := b.begin("t1").must("insert into accounts values ('a', 1)")
	b.want("select pg_terminate_backend(pid) from pg_stat_activity where state = 'idle in transaction' and datname = current_database()", "true")
	if err := x.vote(); !errors.Is(err, participant.ErrConflict) {
		t.Fatalf("the vote was %v, want a conflict", err)
	}
	b.begin("t2").must("insert into accounts values ('a', 2)").yes().commit()
	b.follow()
	b.want("select balance from accounts", "2")
	b.wantRest()

	strict := newBank(t, accounts+"; alter table accounts add unique (balance) deferrable initially deferred", "accounts")
	twice := strict.begin("t1").must("insert into accounts values ('a', 1), ('b', 1)")
	if err := twice.vote(); err == nil || errors.Is(err, participant.ErrConflict) {
		t.Fatalf("the vote was %v, want a no that trying again does not change", err)
	}
}

// Without it more prepared transactions than PostgreSQL takes would fail votes
// that only had to wait.
func TestPreparedAreBounded(t *testing.T) {
	b := newBank(t, accounts, "accounts")
	b.attempts.slots = make(chan struct{}, 4)
	var all []*tx
	for i := range 4 {
		all = append(all, b.begin(string(rune('a'+i))).must("insert into accounts values ('"+string(rune('a'+i))+"', 1)").yes())
	}
	x := b.begin("z").must("insert into accounts values ('z', 1)")
	if err := x.vote(); !errors.Is(err, participant.ErrConflict) {
		t.Fatalf("one too many: %v, want a conflict", err)
	}
	for _, x := range all {
		b.apply(x.commit())
	}
	b.want("select count(*) from accounts", "4")
}

// Without it a database that seldom changes would be restored for want of log that
// does not concern it.
func TestAdvance(t *testing.T) {
	b := newBank(t, accounts, "accounts")
	b.apply(b.begin("t1").must("insert into accounts values ('a', 1)").yes().commit())
	to := participant.Point{Incarnation: 1, Position: 900}
	for range 2 {
		if err := b.Advance(t.Context(), to); err != nil {
			t.Fatal(err)
		}
		if p, err := b.Point(t.Context()); err != nil || p != to {
			t.Fatalf("the point is %v, %v", p, err)
		}
	}
	if err := b.Advance(t.Context(), participant.Point{Incarnation: 1, Position: 800}); err != nil {
		t.Fatal(err)
	}
	if p, _ := b.Point(t.Context()); p != to {
		t.Errorf("it went back to %v", p)
	}
}
