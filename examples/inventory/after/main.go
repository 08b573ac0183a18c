// Command after keeps the stock of a shop: in memory, and in a file to which each
// movement is appended. It is ../before as a participant of a consistency group: the
// group's checkpoints and log are what counts, and the file is only what this process
// has tried, also of transactions that did not commit.
//
//	curl -d 10 localhost:8080/mug      ten mugs come in
//	curl -d -2 localhost:8080/mug      two go out
//	curl localhost:8080/mug            how many there are
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"sync"

	"github.com/cohort-tx/cohort/participant"
)

// Stock is how many pieces there are of what.
type Stock struct {
	mu      sync.Mutex
	pieces  map[string]int
	journal *os.File
}

// Movement of some pieces, in or out.
type Movement struct {
	SKU    string
	Pieces int
}

// OpenStock reads the journal, and goes on with it.
func OpenStock(path string) (*Stock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	s := &Stock{pieces: make(map[string]int), journal: f}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var m Movement
		if _, err := fmt.Sscan(lines.Text(), &m.SKU, &m.Pieces); err != nil {
			return nil, fmt.Errorf("%s: %q: %w", path, lines.Text(), err)
		}
		s.pieces[m.SKU] += m.Pieces
	}
	return s, nil
}

// Move makes a movement and tells how many pieces are left. More than there are
// cannot go out.
func (s *Stock) Move(m Movement) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pieces[m.SKU]+m.Pieces < 0 {
		return 0, fmt.Errorf("there are %d of %s, not %d", s.pieces[m.SKU], m.SKU, -m.Pieces)
	}
	if _, err := fmt.Fprintln(s.journal, m.SKU, m.Pieces); err != nil {
		return 0, err
	}
	s.pieces[m.SKU] += m.Pieces
	return s.pieces[m.SKU], nil
}

// Pieces tells how many there are.
func (s *Stock) Pieces(sku string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pieces[sku]
}

// App makes the stock a participant: a movement is a step of a transaction.
func App(s *Stock) *participant.App {
	app := participant.New("shop", "inventory")
	app.State(s, participant.AppliesFirst(), participant.CaptureFirst())
	app.Handle("move", participant.Func(func(_ context.Context, tx *participant.StepTx, m Movement) (int, error) {
		if err := tx.Lock(m.SKU); err != nil {
			return 0, err
		}
		left, err := s.Move(m)
		if err == nil {
			if err = tx.Log(m, participant.AlreadyApplied()); err != nil {
				s.Move(Movement{m.SKU, -m.Pieces}) // nobody else takes back what is not logged
			}
		}
		return left, err
	}))
	return app
}

// Point is zero: a new process is restored from the group's checkpoint and log.
func (s *Stock) Point(context.Context) (participant.Point, error) { return participant.Point{}, nil }

// Capture copies the stock for a checkpoint.
func (s *Stock) Capture(context.Context) (io.WriterTo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return participant.CaptureJSON(s.pieces)
}

// Restore takes the stock of a checkpoint.
func (s *Stock) Restore(_ context.Context, _ participant.Point, r io.Reader) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.pieces)
	return participant.RestoreJSON(r, &s.pieces)
}

// Apply makes movements that this process has not made.
func (s *Stock) Apply(_ context.Context, e participant.Entry) error { return s.add(e.Changes, +1) }

// Undo takes those back that did not commit.
func (s *Stock) Undo(_ context.Context, _ string, c []participant.Change) error { return s.add(c, -1) }

func (s *Stock) add(changes []participant.Change, sign int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range changes {
		var m Movement
		if err := json.Unmarshal(c.Value, &m); err != nil {
			return err
		}
		s.pieces[m.SKU] += sign * m.Pieces
	}
	return nil
}

// Handler serves the stock to people and programs.
func Handler(s *Stock, group *participant.Group) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{sku}", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, s.Pieces(r.PathValue("sku")))
	})
	mux.HandleFunc("POST /{sku}", func(w http.ResponseWriter, r *http.Request) {
		m := Movement{SKU: r.PathValue("sku")}
		if _, err := fmt.Fscan(io.LimitReader(r.Body, 32), &m.Pieces); err != nil {
			http.Error(w, "say how many pieces come in, or with a minus go out", http.StatusBadRequest)
			return
		}
		var left int
		_, err := group.Run(r.Context(), func(tx *participant.Tx) error { return tx.Call("inventory", "move", m, &left) })
		if err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
			return
		}
		fmt.Fprintln(w, left)
	})
	return mux
}

func main() {
	listen := flag.String("listen", "127.0.0.1:8080", "address to serve HTTP at")
	journal := flag.String("journal", "stock.journal", "file of all movements")
	addrs := flag.String("addr", "127.0.0.1:7070", "nodes of the cluster")
	flag.Parse()
	stock, err := OpenStock(*journal)
	if err != nil {
		log.Fatal(err)
	}
	client, err := participant.Dial(*addrs)
	if err != nil {
		log.Fatal(err)
	}
	go func() { log.Fatal(App(stock).Serve(context.Background(), *addrs)) }()
	log.Fatal(http.ListenAndServe(*listen, Handler(stock, client.Group("shop"))))
}
