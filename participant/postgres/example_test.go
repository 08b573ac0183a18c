package postgres_test

import (
	"context"
	"log"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/cohort-tx/cohort/participant"
	"github.com/cohort-tx/cohort/participant/postgres"
)

type Deposit struct {
	Account string
	Cents   int64
}

type Balance struct{ Cents int64 }

// A service whose state is a PostgreSQL database.
func Example() {
	ctx := context.Background()
	client, err := participant.Dial("127.0.0.1:7070")
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	pool, err := pgxpool.New(ctx, "postgres://app@127.0.0.1/bank?pool_max_conns=50")
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	db, err := postgres.Open(ctx, pool, client.Group("shop"), "bank", postgres.Config{Tables: []string{"accounts"}})
	if err != nil {
		log.Fatal(err) // it says what to change, in the server or the tables
	}
	defer db.Close()

	app := participant.New("shop", "bank")
	db.Attach(app)
	app.Handle("deposit", postgres.Func(db, func(ctx context.Context, tx *postgres.Tx, in Deposit) (Balance, error) {
		var b Balance
		err := tx.QueryRow(ctx, "update accounts set balance = balance + $2 where id = $1 returning balance", in.Account, in.Cents).Scan(&b.Cents)
		return b, err
	}))
	if err := app.Serve(ctx, "127.0.0.1:7070"); err != nil {
		log.Fatal(err)
	}
}

// A handler that changes the database and the participant's store in the cluster.
func ExampleDB_Step() {
	var db *postgres.DB // of Open
	app := participant.New("shop", "bank")
	app.Handle("open", participant.Func(func(ctx context.Context, step *participant.StepTx, in Deposit) (Balance, error) {
		err := db.Step(ctx, step, func(tx *postgres.Tx) error {
			// What a decision rests on is locked.
			var allowed bool
			if err := tx.QueryRow(ctx, "select open from branches where id = 1 for share").Scan(&allowed); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, "insert into accounts values ($1, $2)", in.Account, in.Cents)
			return err
		})
		if err != nil {
			return Balance{}, err
		}
		return Balance{in.Cents}, step.Store().Add("accounts", 1)
	}))
}
