package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	cohortv1 "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/participant"
	"github.com/cohort-tx/cohort/participant/participanttest"
	"github.com/cohort-tx/cohort/participant/postgres"
)

const (
	bankSchema = "create table accounts (id text primary key, balance bigint not null check (balance >= 0))"
	fillBank   = bankSchema + "; insert into accounts select 'a' || n, 1000 from generate_series(1, 5) n"
	// total is what the accounts and the cash desk hold together.
	total = 5000
)

type deposit struct {
	Account string
	Amount  int64
}

// instance is a process that serves the bank on a database.
type instance struct {
	stop   func()
	active chan struct{}
}

func serveBank(t *testing.T, c *participanttest.Cluster, group, dsn string) *instance {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), dsn+" pool_max_conns=10")
	if err != nil {
		t.Fatal(err)
	}
	db, err := postgres.Open(t.Context(), pool, c.Client.Group(group), "bank", postgres.Config{
		Tables: []string{"accounts"}, LockTimeout: time.Second, ResolveEvery: 200 * time.Millisecond,
	})
	if err != nil {
		pool.Close()
		t.Fatal(err)
	}
	app := participant.New(group, "bank")
	db.Attach(app)
	app.Handle("deposit", postgres.Func(db, func(ctx context.Context, tx *postgres.Tx, in deposit) (int64, error) {
		var balance int64
		err := tx.QueryRow(ctx, "update accounts set balance = balance + $2 where id = $1 returning balance", in.Account, in.Amount).Scan(&balance)
		return balance, err
	}))
	i := &instance{active: make(chan struct{})}
	var once sync.Once
	app.OnState(func(s participant.ServeState) {
		if s == participant.Active {
			once.Do(func() { close(i.active) })
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := app.Serve(ctx, c.Addr); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	i.stop = sync.OnceFunc(func() {
		cancel()
		serving.Wait()
		_ = db.Close()
		pool.Close()
	})
	t.Cleanup(i.stop)
	return i
}

func (i *instance) wait(t *testing.T) {
	t.Helper()
	select {
	case <-i.active:
	case <-time.After(60 * time.Second):
		t.Fatal("the bank's instance did not become active")
	}
}

// transfer moves money from the cash desk, in the cluster's store, to an account,
// in PostgreSQL, or back.
func transfer(ctx context.Context, g *participant.Group, id string, d deposit) error {
	_, err := g.Run(ctx, func(tx *participant.Tx) error {
		if err := tx.Store("desk").Add("cash", -d.Amount); err != nil {
			return err
		}
		return tx.Call("bank", "deposit", d, nil)
	}, participant.ID(id))
	return err
}

func bankTotal(t *testing.T, dsn string) int64 {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var sum int64
	if err := conn.QueryRow(t.Context(), "select coalesce(sum(balance), 0)::bigint from accounts").Scan(&sum); err != nil {
		t.Fatal(err)
	}
	return sum
}

func deskTotal(t *testing.T, g *participant.Group) int64 {
	t.Helper()
	var cash int64
	if err := g.View(t.Context(), func(tx *participant.ReadTx) error {
		_, err := tx.Store("desk").Get("cash", &cash)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return cash
}

// wantTotal waits until everything that committed is applied in the database, and
// nothing is in doubt.
func wantTotal(t *testing.T, g *participant.Group, dsn string) {
	t.Helper()
	var bank, desk int64
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if desk, bank = deskTotal(t, g), bankTotal(t, dsn); desk+bank == total && inDoubt(t, dsn) == 0 {
			return
		}
	}
	t.Errorf("the desk has %d and the bank %d, together %d, want %d; %d in doubt", desk, bank, desk+bank, total, inDoubt(t, dsn))
}

func inDoubt(t *testing.T, dsn string) int {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var n int
	if err := conn.QueryRow(t.Context(), "select count(*) from pg_prepared_xacts where database = current_database()").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// Without it a transaction over the cluster's store and PostgreSQL could be half
// done, through crashes of PostgreSQL and of the application, in a checkpoint, and
// in what is restored from it.
func TestTransfersOverStoreAndPostgreSQL(t *testing.T) {
	s := postgres.SharedServer.Get(t)
	dsn := s.Database(t, fillBank)
	c := participanttest.Start(t, "group: shop\nparticipants: [{name: desk}, {name: bank}]\ncheckpoint: {min_gap: 1ms, max_wait: 20s, max_pause: 5s}\n")
	g := c.Client.Group("shop")
	first := serveBank(t, c, "shop", dsn)
	first.wait(t)

	ctx, stop := context.WithCancel(t.Context())
	var committed, failed atomic.Int64
	var running sync.WaitGroup
	for w := range 3 {
		running.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				d := deposit{Account: fmt.Sprintf("a%d", (w+i)%5+1), Amount: int64(1 + (i+w)%7)}
				if i%2 == 1 {
					d.Amount = -d.Amount
				}
				switch err := transfer(ctx, g, fmt.Sprintf("w%d-%d", w, i), d); {
				case err == nil:
					committed.Add(1)
				case ctx.Err() == nil:
					failed.Add(1)
					t.Logf("transfer: %v", err)
				}
			}
		})
	}
	more := func(n int64) {
		t.Helper()
		from := committed.Load()
		for deadline := time.Now().Add(60 * time.Second); committed.Load() < from+n; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%d transfers committed, want %d more", committed.Load()-from, n)
			}
		}
	}
	more(20)
	s.KillAndRestart(t)
	more(20)
	first.stop()
	second := serveBank(t, c, "shop", dsn)
	second.wait(t)
	more(20)
	checkpoint, err := c.Client.Checkpoints().CreateCheckpoint(t.Context(), &cohortv1.CreateCheckpointRequest{Group: "shop", Wait: true})
	if err != nil || checkpoint.State != "complete" {
		t.Fatalf("the checkpoint: %v, %v", checkpoint, err)
	}
	more(20)
	stop()
	running.Wait()
	t.Logf("%d transfers committed, %d failed", committed.Load(), failed.Load())
	// What a client left in the middle is settled too.
	wantTotal(t, g, dsn)
	receipt, err := g.Run(t.Context(), func(tx *participant.Tx) error { return tx.Call("bank", "deposit", deposit{Account: "a1"}, nil) })
	if err != nil {
		t.Fatal(err)
	}

	for as, to := range map[string]*cohortv1.RestoreRequest{
		"at-checkpoint": {Group: "shop", As: "at-checkpoint", To: &cohortv1.RestoreRequest_Checkpoint{Checkpoint: checkpoint.Id}},
		"later":         {Group: "shop", As: "later", To: &cohortv1.RestoreRequest_Position{Position: receipt.Position}},
	} {
		restore(t, c, to)
		fresh := s.Database(t, bankSchema)
		i := serveBank(t, c, as, fresh)
		i.wait(t)
		wantTotal(t, c.Client.Group(as), fresh)
		if err := transfer(t.Context(), c.Client.Group(as), "after", deposit{Account: "a1", Amount: 5}); err != nil {
			t.Errorf("%s: %v", as, err)
		}
		wantTotal(t, c.Client.Group(as), fresh)
		i.stop()
	}
}

func restore(t *testing.T, c *participanttest.Cluster, to *cohortv1.RestoreRequest) {
	t.Helper()
	stream, err := c.Client.Checkpoints().Restore(t.Context(), to)
	for err == nil {
		_, err = stream.Recv()
	}
	if !errors.Is(err, io.EOF) {
		t.Fatalf("restore %s: %v", to.As, err)
	}
}
