// Package bank is payments of the shop on PostgreSQL: the accounts are rows of a
// database, and a charge is part of the group's transaction.
package bank

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/cohort-tx/cohort/examples/checkout"
	"github.com/cohort-tx/cohort/participant"
	"github.com/cohort-tx/cohort/participant/postgres"
)

// Schema is what the application's migrations make.
const Schema = `
create table account (customer text primary key, owed bigint not null default 0, max_owed bigint not null, check (owed <= max_owed));
create table charge (order_id text primary key, cents bigint not null);
`

// Seed are the customers' accounts before the first order.
func Seed() string {
	rows := make([]string, checkout.Customers)
	for n := range rows {
		rows[n] = fmt.Sprintf("('%s', %d)", checkout.CustomerID(n), checkout.CreditLimit(n))
	}
	return "insert into account (customer, max_owed) values " + strings.Join(rows, ", ")
}

// Books is what payments answers to "books".
type Books struct {
	Accounts map[string]checkout.Account `json:"accounts"`
	Charges  map[string]int64            `json:"charges"`
}

// Payments serves the participant whose database pool connects to. close it after
// App.Serve has ended.
func Payments(ctx context.Context, pool *pgxpool.Pool, group *participant.Group) (app *participant.App, close func() error, err error) {
	db, err := postgres.Open(ctx, pool, group, "payments", postgres.Config{Tables: []string{"account", "charge"}})
	if err != nil {
		return nil, nil, err
	}
	app = participant.New(group.Name(), "payments")
	db.Attach(app)
	app.Handle("charge", postgres.Func(db, charge))
	app.Handle("books", postgres.Func(db, books))
	return app, db.Close, nil
}

func charge(ctx context.Context, tx *postgres.Tx, in checkout.Charge) (out checkout.Charged, err error) {
	var limit int64
	err = tx.QueryRow(ctx, `select owed, max_owed from account where customer = $1 for update`, in.Customer).Scan(&out.Owed, &limit)
	if errors.Is(err, pgx.ErrNoRows) {
		return out, fmt.Errorf("no account for %s", in.Customer)
	}
	if err != nil {
		return out, err
	}
	if out.Owed += in.Amount; out.Owed > limit {
		return out, fmt.Errorf("%s would owe %d of at most %d cents", in.Customer, out.Owed, limit)
	}
	if _, err := tx.Exec(ctx, `update account set owed = $2 where customer = $1`, in.Customer, out.Owed); err != nil {
		return out, err
	}
	_, err = tx.Exec(ctx, `insert into charge (order_id, cents) values ($1, $2)`, in.OrderID, in.Amount)
	return out, err
}

func books(ctx context.Context, tx *postgres.Tx, _ struct{}) (Books, error) {
	out := Books{Accounts: make(map[string]checkout.Account), Charges: make(map[string]int64)}
	rows, err := tx.Query(ctx, `select customer, owed, max_owed from account for share`)
	if err != nil {
		return out, err
	}
	var customer string
	var a checkout.Account
	if _, err := pgx.ForEachRow(rows, []any{&customer, &a.Owed, &a.Limit}, func() error { out.Accounts[customer] = a; return nil }); err != nil {
		return out, err
	}
	if rows, err = tx.Query(ctx, `select order_id, cents from charge for share`); err != nil {
		return out, err
	}
	var order string
	var cents int64
	_, err = pgx.ForEachRow(rows, []any{&order, &cents}, func() error { out.Charges[order] = cents; return nil })
	return out, err
}

// ReadBooks reads all three services in one transaction: the store of orders, the
// warehouse's memory and the bank's database.
func ReadBooks(ctx context.Context, group *participant.Group) (*checkout.Books, error) {
	var b *checkout.Books
	receipt, err := group.Run(ctx, func(tx *participant.Tx) error {
		b = &checkout.Books{Orders: make(map[string]checkout.Place)}
		orders := tx.Store("orders")
		_, errRevenue := orders.Get("revenue", &b.Revenue)
		_, errCount := orders.Get("count", &b.Count)
		if err := errors.Join(errRevenue, errCount); err != nil {
			return err
		}
		for item, err := range orders.Scan("order/") {
			if err != nil {
				return err
			}
			var place checkout.Place
			if err := item.Decode(&place); err != nil {
				return err
			}
			b.Orders[strings.TrimPrefix(item.Key, "order/")] = place
		}
		var held checkout.WarehouseBooks
		if err := tx.Call("inventory", "books", struct{}{}, &held); err != nil {
			return err
		}
		var paid Books
		if err := tx.Call("payments", "books", struct{}{}, &paid); err != nil {
			return err
		}
		b.Held, b.Stock, b.Charges, b.Accounts = held.Held, held.Pieces, paid.Charges, paid.Accounts
		return nil
	})
	if err != nil {
		return nil, err
	}
	b.Position = receipt.Position
	return b, nil
}
