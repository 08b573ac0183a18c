package participant_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/cohort-tx/cohort/participant"
)

// Taken is the change that the stock logs.
type Taken struct {
	SKU string `json:"sku"`
	N   int    `json:"n"`
}

// Stock keeps its state in memory.
type Stock struct {
	mu   sync.RWMutex
	left map[string]int
}

func (s *Stock) Left(sku string) int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.left[sku]
}

// Point is the zero one: memory knows nothing of the process before.
func (s *Stock) Point(context.Context) (participant.Point, error) { return participant.Point{}, nil }

// Apply makes the changes of one committed transaction.
func (s *Stock) Apply(_ context.Context, e participant.Entry) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range e.Changes {
		var t Taken
		if err := json.Unmarshal(c.Value, &t); err != nil {
			return err
		}
		s.left[t.SKU] -= t.N
	}
	return nil
}

// Capture copies the map: fast, and the copy stays as it is.
func (s *Stock) Capture(context.Context) (io.WriterTo, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return capturedStock(maps.Clone(s.left)), nil
}

type capturedStock map[string]int

// WriteTo runs later. encoding/json writes a map in the order of its keys, so that
// it writes the same bytes each time.
func (c capturedStock) WriteTo(w io.Writer) (int64, error) {
	data, err := json.Marshal(c)
	if err != nil {
		return 0, err
	}
	n, err := w.Write(data)
	return int64(n), err
}

// Restore replaces everything, or changes nothing.
func (s *Stock) Restore(_ context.Context, _ participant.Point, r io.Reader) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	left := map[string]int{}
	if err := json.Unmarshal(data, &left); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left = left
	return nil
}

func ExampleApp_State() {
	addr, stop := exampleNode()
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	stock := &Stock{left: map[string]int{"apple": 5}}
	app := participant.New("shop", "inventory")
	app.State(stock)
	app.Handle("take", participant.Func(func(_ context.Context, tx *participant.StepTx, in Taken) (int, error) {
		if err := tx.Lock(in.SKU); err != nil { // what is read below stays true
			return 0, err
		}
		left := stock.Left(in.SKU) - in.N
		if left < 0 {
			return 0, fmt.Errorf("only %d of %s left", stock.Left(in.SKU), in.SKU)
		}
		return left, tx.Log(in) // Apply takes it off once the transaction has committed
	}))
	ready := make(chan struct{})
	app.OnState(func(s participant.ServeState) {
		if s == participant.Active {
			close(ready)
		}
	})
	serving, leave := context.WithCancel(ctx)
	defer leave()
	served := make(chan error, 1)
	go func() { served <- app.Serve(serving, addr) }()
	<-ready

	client, err := participant.Dial(addr)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	take := func(n int) {
		var left int
		_, err := client.Group("shop").Run(ctx, func(tx *participant.Tx) error {
			return tx.Call("inventory", "take", Taken{SKU: "apple", N: n}, &left)
		})
		fmt.Println(left, err)
	}
	take(2)
	take(2) // waits for the first one's change to be applied
	take(2)
	leave()
	fmt.Println(<-served, stock.Left("apple"))
	// Output:
	// 3 <nil>
	// 1 <nil>
	// 0 call inventory.take failed: refused: only 1 of apple left
	// <nil> 1
}

// balances is a state in a file that holds its Point too: both are replaced by one
// rename.
type balances struct {
	path string

	mu   sync.Mutex
	file balancesFile
}

type balancesFile struct {
	Point    participant.Point
	Balances map[string]int
}

func openBalances(path string) (*balances, error) {
	b := &balances{path: path, file: balancesFile{Balances: map[string]int{}}}
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return b, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &b.file)
	}
	return b, err
}

// save writes the next file beside the old one and puts it in its place: a crash
// leaves one of the two. It takes over what it has written.
func (b *balances) save(next balancesFile) error {
	data, err := json.Marshal(next)
	if err != nil {
		return err
	}
	if err := os.WriteFile(b.path+".tmp", data, 0o600); err != nil {
		return err
	}
	if err := os.Rename(b.path+".tmp", b.path); err != nil {
		return err
	}
	b.file = next
	return nil
}

func (b *balances) Point(context.Context) (participant.Point, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.file.Point, nil
}

func (b *balances) Apply(_ context.Context, e participant.Entry) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	next := balancesFile{Point: participant.Point{Incarnation: e.Incarnation, Position: e.Position}, Balances: maps.Clone(b.file.Balances)}
	for _, c := range e.Changes {
		var d deposit
		if err := json.Unmarshal(c.Value, &d); err != nil {
			return err
		}
		next.Balances[d.Account] += int(d.Amount)
	}
	return b.save(next)
}

func (b *balances) Restore(_ context.Context, at participant.Point, r io.Reader) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	next := balancesFile{Point: at, Balances: map[string]int{}}
	if err := json.Unmarshal(data, &next.Balances); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.save(next)
}

func (b *balances) Capture(context.Context) (io.WriterTo, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return capturedStock(maps.Clone(b.file.Balances)), nil
}

func ExampleOwnState() {
	dir, err := os.MkdirTemp("", "balances-")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()
	path := filepath.Join(dir, "balances.json")

	first, _ := openBalances(path)
	entry := participant.Entry{Incarnation: 1, Position: 7, ID: "t-1", Changes: []participant.Change{{
		Kind: participant.ChangeLog, Participant: "bank", Value: []byte(`{"Account":"ann","Amount":5}`),
	}}}
	fmt.Println(first.Apply(ctx, entry))

	// The process ends; another one finds both, or neither.
	second, _ := openBalances(path)
	point, err := second.Point(ctx)
	fmt.Println(point, second.file.Balances, err)
	// Output:
	// <nil>
	// {1 7} map[ann:5] <nil>
}

// preparing is a store with a prepare of its own, as many databases and queues
// have one: what is prepared under a name outlives its process, and is committed
// or rolled back by name.
type preparing struct {
	mu        sync.Mutex
	point     participant.Point
	rows      map[string]int
	prepared  map[string][]Taken // by nameOf
	committed map[string]bool    // ids whose rows are in, kept with them
}

// nameOf an attempt. Two attempts of a transaction may have begun at one index: only
// the nonce tells them apart.
func nameOf(id string, begun, nonce uint64) string { return fmt.Sprintf("%s/%d/%d", id, begun, nonce) }

// row is a change that says which attempt made it, since an Entry does not.
type row struct {
	Taken
	Nonce uint64
}

func (p *preparing) put(rows []Taken) {
	for _, t := range rows {
		p.rows[t.SKU] += t.N
	}
}

// prepare is the yes: from here on the rows can be committed whatever happens.
func (p *preparing) prepare(name string, rows []Taken) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.prepared[name] = rows
}

// rollback is for an attempt that did not commit.
func (p *preparing) rollback(n participant.Notice) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !n.Committed {
		delete(p.prepared, nameOf(n.ID, n.Begun, n.Nonce))
	}
}

func (p *preparing) Point(context.Context) (participant.Point, error) { return p.point, nil }

// Apply commits what is prepared, passes over what is in, and makes anew what a
// crash before the vote's end has lost: the entry holds it.
func (p *preparing) Apply(_ context.Context, e participant.Entry) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var nonce uint64
	var logged []Taken
	for _, c := range e.Changes {
		var r row
		if err := json.Unmarshal(c.Value, &r); err != nil {
			return err
		}
		nonce, logged = r.Nonce, append(logged, r.Taken)
	}
	name := nameOf(e.ID, e.Begun, nonce)
	rows, ok := p.prepared[name]
	switch {
	case p.committed[e.ID]:
	case ok:
		p.put(rows)
	default:
		p.put(logged)
	}
	delete(p.prepared, name)
	p.committed[e.ID] = true
	p.point = participant.Point{Incarnation: e.Incarnation, Position: e.Position}
	return nil
}

func (p *preparing) Restore(_ context.Context, at participant.Point, r io.Reader) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	rows := map[string]int{}
	if err := json.Unmarshal(data, &rows); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rows, p.point, p.prepared, p.committed = rows, at, map[string][]Taken{}, map[string]bool{}
	return nil
}

func (p *preparing) Capture(context.Context) (io.WriterTo, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return capturedStock(maps.Clone(p.rows)), nil
}

func ExampleApp_OnPrepare() {
	addr, stop := exampleNode()
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	store := &preparing{rows: map[string]int{}, prepared: map[string][]Taken{}, committed: map[string]bool{}}
	var mu sync.Mutex
	staged := map[string][]Taken{} // what each attempt's steps did so far

	app := participant.New("shop", "inventory")
	app.State(store)
	app.Handle("add", participant.Func(func(_ context.Context, tx *participant.StepTx, in Taken) (any, error) {
		if err := tx.Lock(in.SKU); err != nil {
			return nil, err
		}
		if err := tx.Log(row{in, tx.Nonce()}); err != nil {
			return nil, err
		}
		name := nameOf(tx.ID(), tx.Begun(), tx.Nonce())
		mu.Lock()
		defer mu.Unlock()
		if staged[name] == nil {
			tx.WhenOver(func() { // it may never come to a vote
				mu.Lock()
				defer mu.Unlock()
				delete(staged, name)
			})
		}
		staged[name] = append(staged[name], in)
		return nil, nil
	}))
	app.OnPrepare(func(_ context.Context, p *participant.Prepare) error {
		name := nameOf(p.ID, p.Begun, p.Nonce)
		mu.Lock()
		rows := staged[name]
		delete(staged, name)
		mu.Unlock()
		store.prepare(name, rows)
		return nil
	})
	settled := make(chan participant.Notice, 10)
	app.OnOutcome(func(n participant.Notice) { store.rollback(n); settled <- n })
	ready := make(chan struct{})
	app.OnState(func(s participant.ServeState) {
		if s == participant.Active {
			close(ready)
		}
	})
	serving, leave := context.WithCancel(ctx)
	defer leave()
	served := make(chan error, 1)
	go func() { served <- app.Serve(serving, addr) }()
	<-ready

	client, _ := participant.Dial(addr)
	defer client.Close()
	_, err := client.Group("shop").Run(ctx, func(tx *participant.Tx) error {
		return tx.Call("inventory", "add", Taken{SKU: "apple", N: 2}, nil)
	})
	notice := <-settled
	fmt.Println(err, notice.Committed, store.rows, len(store.prepared))
	leave()
	fmt.Println(<-served)
	// Output:
	// <nil> true map[apple:2] 0
	// <nil>
}
