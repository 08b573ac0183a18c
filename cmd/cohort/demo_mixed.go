package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/cohort-tx/cohort/examples/checkout"
	"github.com/cohort-tx/cohort/examples/checkout/bank"
	"github.com/cohort-tx/cohort/internal/pgserver"
	"github.com/cohort-tx/cohort/participant"
)

// shop is where the services of the demo have their data: all in their stores, or
// one of each kind.
type shop interface {
	// seed puts what there is before the first order in place.
	seed(ctx context.Context) error
	// apps are the services of a group; of a restored one they begin with nothing.
	apps(ctx context.Context, group string, restored bool) ([]*participant.App, error)
	books(ctx context.Context, group string) (*checkout.Books, error)
	// close is called when no service runs any more.
	close() error
}

// storeShop has everything in stores.
type storeShop struct{ client *participant.Client }

func (s storeShop) seed(ctx context.Context) error { return checkout.NewShop(s.client).Seed(ctx) }

func (s storeShop) apps(_ context.Context, _ string, restored bool) ([]*participant.App, error) {
	if restored {
		return nil, nil // a store needs no service to be read
	}
	return []*participant.App{checkout.Bookkeeping(), checkout.Inventory(), checkout.Payments()}, nil
}

func (s storeShop) books(ctx context.Context, group string) (*checkout.Books, error) {
	return checkout.ReadBooks(ctx, s.client.Group(group))
}

func (s storeShop) close() error { return nil }

// mixedShop has orders in their store, inventory in memory and payments in a
// PostgreSQL of its own.
type mixedShop struct {
	client *participant.Client
	server *pgserver.Server
	pools  []*pgxpool.Pool
	closes []func() error
}

// newMixedShop starts the PostgreSQL.
func newMixedShop(ctx context.Context, client *participant.Client) (*mixedShop, error) {
	server, err := pgserver.New(ctx, "max_prepared_transactions = 100", "max_connections = 100")
	if errors.Is(err, pgserver.ErrMissing) {
		return nil, fmt.Errorf("--postgres needs PostgreSQL's programs initdb and postgres: %w; install them, or leave the flag out", err)
	}
	if err != nil {
		return nil, err
	}
	return &mixedShop{client: client, server: server}, nil
}

func (s *mixedShop) seed(context.Context) error { return nil }

func (s *mixedShop) apps(ctx context.Context, group string, restored bool) ([]*participant.App, error) {
	pool, err := s.database(ctx, group, restored)
	if err != nil {
		return nil, err
	}
	payments, closing, err := bank.Payments(ctx, pool, s.client.Group(group))
	if err != nil {
		return nil, err
	}
	s.closes = append(s.closes, closing)
	apps := []*participant.App{checkout.NewWarehouse().App(group), payments}
	if !restored {
		apps = append(apps, checkout.Bookkeeping())
	}
	return apps, nil
}

// database makes one for a group's payments, as the application's migrations
// would; what a restored one holds comes from the checkpoint.
func (s *mixedShop) database(ctx context.Context, group string, empty bool) (*pgxpool.Pool, error) {
	name := pgx.Identifier{group}.Sanitize()
	admin, err := pgx.Connect(ctx, s.server.DSN("postgres"))
	if err != nil {
		return nil, err
	}
	_, err = admin.Exec(ctx, "create database "+name)
	if err = errors.Join(err, admin.Close(ctx)); err != nil {
		return nil, err
	}
	pool, err := pgxpool.New(ctx, s.server.DSN(group))
	if err != nil {
		return nil, err
	}
	s.pools = append(s.pools, pool)
	schema := bank.Schema
	if !empty {
		schema += bank.Seed()
	}
	_, err = pool.Exec(ctx, schema, pgx.QueryExecModeSimpleProtocol)
	return pool, err
}

func (s *mixedShop) books(ctx context.Context, group string) (*checkout.Books, error) {
	return bank.ReadBooks(ctx, s.client.Group(group))
}

func (s *mixedShop) close() error {
	var errs []error
	for _, closing := range s.closes {
		errs = append(errs, closing())
	}
	for _, pool := range s.pools {
		pool.Close()
	}
	return errors.Join(append(errs, s.server.Close())...)
}
