// Command before keeps the stock of a shop: in memory, and in a file to which each
// movement is appended. This is the program as it was; ../after is the same one as
// a participant of a consistency group.
//
//	curl -d 10 localhost:8080/mug      ten mugs come in
//	curl -d -2 localhost:8080/mug      two go out
//	curl localhost:8080/mug            how many there are
package main

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"sync"
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

// Handler serves the stock to people and programs.
func Handler(s *Stock) http.Handler {
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
		left, err := s.Move(m)
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
	flag.Parse()
	stock, err := OpenStock(*journal)
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(http.ListenAndServe(*listen, Handler(stock)))
}
