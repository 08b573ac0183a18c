package checkout

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cohort-tx/cohort/participant"
)

// Books is what the three services hold, read at one position of the group.
type Books struct {
	Position uint64
	Orders   map[string]Place
	Held     map[string][]Item
	Charges  map[string]int64
	Accounts map[string]Account
	Stock    map[string]int64
	Revenue  int64
	Count    int64
}

// ReadBooks reads all three services in one read-only transaction.
func ReadBooks(ctx context.Context, group *participant.Group) (*Books, error) {
	var b *Books
	err := group.View(ctx, func(tx *participant.ReadTx) error {
		b = &Books{
			Position: tx.Position(), Orders: map[string]Place{}, Held: map[string][]Item{}, Charges: map[string]int64{},
			Accounts: map[string]Account{}, Stock: map[string]int64{},
		}
		orders, inventory, payments := tx.Store("orders"), tx.Store("inventory"), tx.Store("payments")
		_, errRevenue := orders.Get("revenue", &b.Revenue)
		_, errCount := orders.Get("count", &b.Count)
		return errors.Join(errRevenue, errCount,
			collect(orders, "order/", b.Orders),
			collect(inventory, "held/", b.Held),
			collect(inventory, "stock/", b.Stock),
			collect(payments, "charge/", b.Charges),
			collect(payments, "account/", b.Accounts))
	})
	return b, err
}

// collect reads all keys with a prefix into m, without the prefix.
func collect[V any](store participant.ReadStore, prefix string, m map[string]V) error {
	for item, err := range store.Scan(prefix) {
		if err != nil {
			return err
		}
		var v V
		if err := item.Decode(&v); err != nil {
			return fmt.Errorf("%s: %w", item.Key, err)
		}
		m[strings.TrimPrefix(item.Key, prefix)] = v
	}
	return nil
}

// HalfDone lists the orders that are at some of the services only.
func (b *Books) HalfDone() []string {
	var wrong []string
	ids := make(map[string]struct{})
	for _, of := range []([]string){slices.Collect(maps.Keys(b.Orders)), slices.Collect(maps.Keys(b.Held)), slices.Collect(maps.Keys(b.Charges))} {
		for _, id := range of {
			ids[id] = struct{}{}
		}
	}
	for _, id := range slices.Sorted(maps.Keys(ids)) {
		_, ordered := b.Orders[id]
		_, held := b.Held[id]
		_, charged := b.Charges[id]
		if !ordered || !held || !charged {
			wrong = append(wrong, fmt.Sprintf("order %s is half done: orders %t, inventory %t, payments %t", id, ordered, held, charged))
		}
	}
	return wrong
}

// Check lists what does not add up.
func (b *Books) Check() []string {
	var wrong []string
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	b.checkStock(say)
	b.checkMoney(say)
	if int(b.Count) != len(b.Orders) {
		say("orders counted %d orders and has %d", b.Count, len(b.Orders))
	}
	return wrong
}

func (b *Books) checkStock(say func(string, ...any)) {
	taken := make(map[string]int64)
	for _, items := range b.Held {
		for _, item := range items {
			taken[item.SKU] += item.Quantity
		}
	}
	for _, p := range Catalog {
		if left := b.Stock[p.SKU]; left != p.Stock-taken[p.SKU] || left < 0 {
			say("%s: %d in stock, %d at first, %d reserved", p.SKU, left, p.Stock, taken[p.SKU])
		}
	}
}

func (b *Books) checkMoney(say func(string, ...any)) {
	var charged, total int64
	owed := make(map[string]int64)
	for id, amount := range b.Charges {
		charged += amount
		place := b.Orders[id]
		total += place.Total
		owed[place.Order.Customer] += amount
		if amount != place.Total {
			say("order %s costs %d and was charged %d", id, place.Total, amount)
		}
	}
	if charged != b.Revenue || total != b.Revenue {
		say("payments charged %d, the orders cost %d, the revenue is %d", charged, total, b.Revenue)
	}
	for _, customer := range slices.Sorted(maps.Keys(b.Accounts)) {
		a := b.Accounts[customer]
		if a.Owed != owed[customer] || a.Owed > a.Limit {
			say("%s owes %d of at most %d, and was charged %d", customer, a.Owed, a.Limit, owed[customer])
		}
	}
}
