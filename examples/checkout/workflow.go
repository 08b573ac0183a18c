package checkout

import (
	"context"
	"errors"
	"fmt"

	"github.com/cohort-tx/cohort/participant"
)

// Shop places orders.
type Shop struct{ group *participant.Group }

// NewShop gives the workflow of the shop whose group client knows.
func NewShop(client *participant.Client) *Shop { return &Shop{group: client.Group(Group)} }

// seedBatch bounds the accounts that one transaction of Seed writes.
const seedBatch = 500

// Seed puts prices, stock and accounts in place, once: it may be called again.
func (s *Shop) Seed(ctx context.Context) error {
	_, err := s.group.Run(ctx, func(tx *participant.Tx) error {
		inventory := tx.Store("inventory")
		for _, p := range Catalog {
			if err := errors.Join(inventory.Put("price/"+p.SKU, p.Price), inventory.Put("stock/"+p.SKU, p.Stock)); err != nil {
				return err
			}
		}
		return nil
	}, participant.ID("seed-inventory"))
	if err != nil {
		return fmt.Errorf("seed inventory: %w", err)
	}
	for first := 0; first < Customers; first += seedBatch {
		_, err := s.group.Run(ctx, func(tx *participant.Tx) error {
			payments := tx.Store("payments")
			for n := first; n < min(first+seedBatch, Customers); n++ {
				if err := payments.Put("account/"+CustomerID(n), Account{Limit: CreditLimit(n)}); err != nil {
					return err
				}
			}
			return nil
		}, participant.ID(fmt.Sprintf("seed-accounts-%d", first)))
		if err != nil {
			return fmt.Errorf("seed accounts: %w", err)
		}
	}
	return nil
}

// Place places an order as one transaction over the three services. The order's
// id is the transaction's, so placing it twice places it once. When a service
// refuses, or the stock does not suffice, the error says so and nothing of the
// order is anywhere; see Declined.
func (s *Shop) Place(ctx context.Context, o Order) (participant.Receipt, error) {
	return s.group.Run(ctx, func(tx *participant.Tx) error {
		var reserved Reserved
		if err := tx.Call("inventory", "reserve", Reserve{OrderID: o.ID, Items: o.Items}, &reserved); err != nil {
			return err
		}
		var charged Charged
		if err := tx.Call("payments", "charge", Charge{OrderID: o.ID, Customer: o.Customer, Amount: reserved.Total}, &charged); err != nil {
			return err
		}
		return tx.Call("orders", "place", Place{Order: o, Total: reserved.Total}, nil)
	}, participant.ID(o.ID), participant.Request(o))
}
