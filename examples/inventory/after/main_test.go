package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/cohort-tx/cohort/participant"
	"github.com/cohort-tx/cohort/participant/participanttest"
)

const group = `group: shop
participants: [{name: inventory}, {name: till}]
checkpoint: {interval: 1h, log_bytes: 0, log_entries: 0, min_gap: 10ms}
`

// process is one life of the program.
type process struct {
	stock *Stock
	web   *httptest.Server
	end   func()
}

// begin starts the program with a journal of its own, as on another node. It may
// hold movements from before the program was in a group.
func begin(t *testing.T, c *participanttest.Cluster, before string) *process {
	t.Helper()
	journal := filepath.Join(t.TempDir(), "stock.journal")
	if err := os.WriteFile(journal, []byte(before), 0o644); err != nil {
		t.Fatal(err)
	}
	stock, err := OpenStock(journal)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := App(stock).Serve(ctx, c.Addr); err != nil {
			t.Error(err)
		}
	})
	web := httptest.NewServer(Handler(stock, c.Client.Group("shop")))
	p := &process{stock: stock, web: web, end: sync.OnceFunc(func() { web.Close(); cancel(); serving.Wait() })}
	t.Cleanup(p.end)
	return p
}

func (p *process) post(t *testing.T, sku string, pieces int) (status int, answer string) {
	t.Helper()
	r, err := http.Post(p.web.URL+"/"+sku, "text/plain", strings.NewReader(fmt.Sprint(pieces)))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, strings.TrimSpace(string(text))
}

// Would break: a program that does not come back from checkpoint and log on
// another disk, that keeps what did not commit, or that loses what it held before
// it was in the group.
func TestInventoryAfter(t *testing.T) {
	c := participanttest.Start(t, group)
	p := begin(t, c, "pot 7\n")
	if status, answer := p.post(t, "mug", 10); status != http.StatusOK || answer != "10" {
		t.Fatalf("ten mugs come in: %d %s", status, answer)
	}
	if status, _ := p.post(t, "mug", -11); status != http.StatusConflict {
		t.Fatalf("eleven of ten mugs go out: %d", status)
	}
	// One transaction with another application; the first is refused there.
	buy := func(price int64) error {
		_, err := c.Client.Group("shop").Run(t.Context(), func(tx *participant.Tx) error {
			if err := tx.Call("inventory", "move", Movement{"mug", -2}, nil); err != nil {
				return err
			}
			return tx.Store("till").Add("cents", price, participant.AtLeast(1))
		})
		return err
	}
	if err := buy(0); err == nil {
		t.Fatal("a sale at no price went through")
	}
	if err := buy(2500); err != nil {
		t.Fatal(err)
	}
	if status, answer := p.post(t, "cup", 3); status != http.StatusOK || answer != "3" {
		t.Fatalf("three cups come in: %d %s", status, answer)
	}
	p.end()
	again := begin(t, c, "")
	if status, answer := again.post(t, "mug", -3); status != http.StatusOK || answer != "5" {
		t.Errorf("of 10-2 mugs three go out at another instance: %d %s", status, answer)
	}
	for sku, want := range map[string]int{"cup": 3, "pot": 7} {
		if n := again.stock.Pieces(sku); n != want {
			t.Errorf("%d of %s after the recovery, want %d", n, sku, want)
		}
	}
}

// Would break: a movement that could not be made, and is taken back all the same.
func TestMovementThatFailsChangesNothing(t *testing.T) {
	c := participanttest.Start(t, group)
	p := begin(t, c, "mug 8\n")
	if status, answer := p.post(t, "mug", -1); status != http.StatusOK || answer != "7" {
		t.Fatalf("one goes out: %d %s", status, answer)
	}
	if err := p.stock.journal.Close(); err != nil { // a full disk, say
		t.Fatal(err)
	}
	for range 2 {
		if status, _ := p.post(t, "mug", -2); status != http.StatusConflict {
			t.Fatalf("a movement that cannot be written down: %d", status)
		}
	}
	if n := p.stock.Pieces("mug"); n != 7 {
		t.Fatalf("%d mugs, want the 7 that there were", n)
	}
}
