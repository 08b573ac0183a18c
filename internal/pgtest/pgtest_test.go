package pgtest

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Without it a killed server would not come back with what it had, and every
// crash test on it would test nothing.
func TestServerSurvivesItsKill(t *testing.T) {
	s := Start(t, "max_prepared_transactions = 5")
	dsn := s.Database(t, "create table t (n int); insert into t values (7)")
	s.Exec(t, dsn, "begin; insert into t values (8); prepare transaction 'x'")
	s.KillAndRestart(t)
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var sum, prepared int
	if err := conn.QueryRow(t.Context(), "select (select sum(n) from t), (select count(*) from pg_prepared_xacts)").Scan(&sum, &prepared); err != nil {
		t.Fatal(err)
	}
	if sum != 7 || prepared != 1 {
		t.Fatalf("sum %d and %d prepared, want 7 and 1", sum, prepared)
	}
}
