package checkout

import (
	"bufio"
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
)

// Group is the consistency group of the shop, as group.yaml declares it.
const Group = "checkout"

// GroupYAML declares the group.
//
//go:embed group.yaml
var GroupYAML []byte

// Orders is a file of orders to place, one JSON object a line: realistic baskets
// of which some ask for more than is in stock or more than the customer's credit.
//
//go:generate go run ./generate
//go:embed orders.jsonl
var Orders []byte

// Order is what a customer asks for.
type Order struct {
	ID       string  `json:"id"`
	Customer string  `json:"customer"`
	PlacedAt string  `json:"placed_at"`
	Items    []Item  `json:"items"`
	ShipTo   Address `json:"ship_to"`
}

// Item is a line of an order.
type Item struct {
	SKU      string `json:"sku"`
	Name     string `json:"name"`
	Quantity int64  `json:"quantity"`
}

// Address is where an order goes.
type Address struct {
	Name     string `json:"name"`
	Street   string `json:"street"`
	City     string `json:"city"`
	Postcode string `json:"postcode"`
}

// ReadOrders reads orders, one JSON object a line. An error names the line.
func ReadOrders(r io.Reader) ([]Order, error) {
	var orders []Order
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for n := 1; lines.Scan(); n++ {
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 {
			continue
		}
		var o Order
		dec := json.NewDecoder(bytes.NewReader(line))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&o); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if err := o.validate(); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		orders = append(orders, o)
	}
	return orders, lines.Err()
}

func (o Order) validate() error {
	switch {
	case o.ID == "":
		return fmt.Errorf("an order needs an id")
	case o.Customer == "":
		return fmt.Errorf("order %s needs a customer", o.ID)
	case len(o.Items) == 0:
		return fmt.Errorf("order %s needs at least one item", o.ID)
	}
	for _, item := range o.Items {
		if item.SKU == "" || item.Quantity < 1 {
			return fmt.Errorf("order %s: an item needs a sku and a quantity of at least 1", o.ID)
		}
	}
	return nil
}
