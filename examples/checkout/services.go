package checkout

import (
	"context"
	"errors"
	"fmt"

	"github.com/cohort-tx/cohort/participant"
)

// Reserve asks inventory for the items of an order.
type Reserve struct {
	OrderID string `json:"order_id"`
	Items   []Item `json:"items"`
}

// Reserved is what they cost together, in cents.
type Reserved struct {
	Total int64 `json:"total"`
}

// Charge asks payments to charge a customer, in cents.
type Charge struct {
	OrderID  string `json:"order_id"`
	Customer string `json:"customer"`
	Amount   int64  `json:"amount"`
}

// Charged tells what the customer owes now, in cents.
type Charged struct {
	Owed int64 `json:"owed"`
}

// Place asks orders to record an order at its price.
type Place struct {
	Order Order `json:"order"`
	Total int64 `json:"total"`
}

// Placed is the answer of orders: there is nothing to say.
type Placed struct{}

// Account is a customer's standing at payments, in cents.
type Account struct {
	Owed  int64 `json:"owed"`
	Limit int64 `json:"limit"`
}

// Inventory serves the participant that holds stock and prices.
//
//	price/SKU   cents
//	stock/SKU   pieces left
//	held/ORDER  the items reserved for an order
func Inventory() *participant.App {
	app := participant.New(Group, "inventory")
	app.Handle("reserve", participant.Func(func(ctx context.Context, tx *participant.StepTx, in Reserve) (Reserved, error) {
		store := tx.Store()
		var out Reserved
		for _, item := range in.Items {
			var price int64
			found, err := store.Get("price/"+item.SKU, &price)
			if err != nil {
				return out, err
			}
			if !found {
				return out, fmt.Errorf("no product %s", item.SKU)
			}
			out.Total += price * item.Quantity
			// A conditional add does not read, so orders for one product do not
			// conflict with each other until the last piece is gone.
			if err := store.Add("stock/"+item.SKU, -item.Quantity, participant.AtLeast(0)); err != nil {
				return out, err
			}
		}
		return out, store.Put("held/"+in.OrderID, in.Items)
	}))
	return app
}

// Payments serves the participant that holds the customers' accounts.
//
//	account/CUSTOMER  Account
//	charge/ORDER      cents
func Payments() *participant.App {
	app := participant.New(Group, "payments")
	app.Handle("charge", participant.Func(func(ctx context.Context, tx *participant.StepTx, in Charge) (Charged, error) {
		store := tx.Store()
		var account Account
		found, err := store.Get("account/"+in.Customer, &account)
		if err != nil {
			return Charged{}, err
		}
		if !found {
			return Charged{}, fmt.Errorf("no account for %s", in.Customer)
		}
		account.Owed += in.Amount
		if account.Owed > account.Limit {
			return Charged{}, fmt.Errorf("%s would owe %d of at most %d cents", in.Customer, account.Owed, account.Limit)
		}
		if err := store.Put("account/"+in.Customer, account); err != nil {
			return Charged{}, err
		}
		return Charged{Owed: account.Owed}, store.Put("charge/"+in.OrderID, in.Amount)
	}))
	return app
}

// Bookkeeping serves the participant that holds the orders.
//
//	order/ORDER  the order as it was placed
//	revenue      cents over all orders
//	count        number of orders
func Bookkeeping() *participant.App {
	app := participant.New(Group, "orders")
	app.Handle("place", participant.Func(func(ctx context.Context, tx *participant.StepTx, in Place) (Placed, error) {
		store := tx.Store()
		found, err := store.Get("order/"+in.Order.ID, nil)
		if err != nil {
			return Placed{}, err
		}
		if found {
			return Placed{}, fmt.Errorf("order %s was placed before", in.Order.ID)
		}
		return Placed{}, errors.Join(
			store.Add("revenue", in.Total),
			store.Add("count", 1),
			store.Put("order/"+in.Order.ID, in))
	}))
	return app
}
