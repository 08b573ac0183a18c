package checkout

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"sync"

	"github.com/cohort-tx/cohort/participant"
)

// Warehouse is inventory as a service that keeps its stock in memory instead of in
// its store: a participant with state of its own.
type Warehouse struct {
	mu    sync.Mutex
	stock stock
}

// stock is what a warehouse holds; it is captured as JSON.
type stock struct {
	Pieces map[string]int64  `json:"pieces"`
	Held   map[string][]Item `json:"held"`
}

// WarehouseBooks is what a warehouse answers to "books".
type WarehouseBooks struct {
	Pieces map[string]int64  `json:"pieces"`
	Held   map[string][]Item `json:"held"`
}

// NewWarehouse gives one with the catalog's stock, before the first order.
func NewWarehouse() *Warehouse {
	w := &Warehouse{stock: stock{Pieces: make(map[string]int64), Held: make(map[string][]Item)}}
	for _, p := range Catalog {
		w.stock.Pieces[p.SKU] = p.Stock
	}
	return w
}

// App serves the warehouse as the inventory of a group.
func (w *Warehouse) App(group string) *participant.App {
	app := participant.New(group, "inventory")
	app.State(w)
	app.Handle("reserve", participant.Func(w.reserve))
	app.Handle("books", participant.Func(w.books))
	return app
}

// reserve looks whether all of an order is there, under locks that keep it there
// until the order is placed or not, and stages what Apply does then.
func (w *Warehouse) reserve(_ context.Context, tx *participant.StepTx, in Reserve) (out Reserved, err error) {
	wanted := make(map[string]int64)
	var skus []string
	for _, item := range in.Items {
		price, ok := priceOf(item.SKU)
		if !ok {
			return out, fmt.Errorf("no product %s", item.SKU)
		}
		out.Total += price * item.Quantity
		wanted[item.SKU] += item.Quantity
		skus = append(skus, item.SKU)
	}
	if err := tx.Lock(skus...); err != nil {
		return out, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for sku, pieces := range wanted {
		if left := w.stock.Pieces[sku]; left < pieces {
			return out, fmt.Errorf("%d of %s are left, not %d", left, sku, pieces)
		}
	}
	return out, tx.Log(in)
}

func (w *Warehouse) books(_ context.Context, tx *participant.StepTx, _ struct{}) (WarehouseBooks, error) {
	var skus []string
	for _, p := range Catalog {
		skus = append(skus, p.SKU)
	}
	if err := tx.RLock(skus...); err != nil {
		return WarehouseBooks{}, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	data, err := json.Marshal(w.stock)
	if err != nil {
		return WarehouseBooks{}, err
	}
	var copied WarehouseBooks
	err = json.Unmarshal(data, &copied)
	return copied, err
}

func priceOf(sku string) (cents int64, ok bool) {
	for _, p := range Catalog {
		if p.SKU == sku {
			return p.Price, true
		}
	}
	return 0, false
}

// Point is zero: memory begins anew with each process.
func (w *Warehouse) Point(context.Context) (participant.Point, error) {
	return participant.Point{}, nil
}

// Capture copies the stock.
func (w *Warehouse) Capture(context.Context) (io.WriterTo, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return participant.CaptureJSON(w.stock)
}

// Restore takes captured stock.
func (w *Warehouse) Restore(_ context.Context, _ participant.Point, r io.Reader) error {
	captured := stock{Pieces: make(map[string]int64), Held: make(map[string][]Item)}
	if err := participant.RestoreJSON(r, &captured); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stock = captured
	return nil
}

// Apply reserves what committed orders asked for.
func (w *Warehouse) Apply(_ context.Context, e participant.Entry) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range e.Changes {
		if c.Kind != participant.ChangeLog {
			continue
		}
		var in Reserve
		if err := json.Unmarshal(c.Value, &in); err != nil {
			return fmt.Errorf("position %d: %w", e.Position, err)
		}
		for _, item := range in.Items {
			w.stock.Pieces[item.SKU] -= item.Quantity
		}
		w.stock.Held[in.OrderID] = in.Items
	}
	return nil
}
