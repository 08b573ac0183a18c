// Command generate writes orders.jsonl: a fixed set of orders, the same at each
// run.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"time"

	"github.com/cohort-tx/cohort/examples/checkout"
)

const count = 1200

var (
	first   = []string{"Ada", "Barbara", "Edsger", "Grace", "Jim", "Leslie", "Nancy", "Pat", "Robin", "Tony"}
	last    = []string{"Berg", "Costa", "Dubois", "Eriksen", "Fischer", "Haas", "Jansen", "Kowalski", "Moreau", "Novak"}
	streets = []string{"Hafenstraat", "Lindenallee", "Rue du Port", "Via Roma", "Mill Lane", "Calle Mayor"}
	cities  = []string{"Antwerpen", "Bremen", "Cork", "Gdansk", "Lyon", "Porto", "Trieste", "Turku"}
)

func main() {
	f, err := os.Create("orders.jsonl")
	if err != nil {
		log.Fatal(err)
	}
	out := bufio.NewWriter(f)
	enc := json.NewEncoder(out)
	for _, o := range orders() {
		if err := enc.Encode(o); err != nil {
			log.Fatal(err)
		}
	}
	if err := out.Flush(); err != nil {
		log.Fatal(err)
	}
	if err := f.Close(); err != nil {
		log.Fatal(err)
	}
}

func orders() []checkout.Order {
	rnd := rand.New(rand.NewPCG(1, 2))
	at := time.Date(2026, 3, 2, 8, 0, 0, 0, time.UTC)
	all := make([]checkout.Order, count)
	for i := range all {
		at = at.Add(time.Duration(1+rnd.IntN(240)) * time.Second)
		customer := rnd.IntN(checkout.Customers)
		all[i] = checkout.Order{
			ID:       fmt.Sprintf("ord-%s-%05d", at.Format("20060102"), i+1),
			Customer: checkout.CustomerID(customer),
			PlacedAt: at.Format(time.RFC3339),
			Items:    items(rnd),
			ShipTo: checkout.Address{
				Name:     first[customer%len(first)] + " " + last[customer/len(first)%len(last)],
				Street:   fmt.Sprintf("%s %d", streets[customer%len(streets)], 1+customer%90),
				City:     cities[customer%len(cities)],
				Postcode: fmt.Sprintf("%05d", 10000+customer*37),
			},
		}
	}
	return all
}

// items fills a basket with one to five different products; scarce ones are
// asked for more often than there are.
func items(rnd *rand.Rand) []checkout.Item {
	order := rnd.Perm(len(checkout.Catalog))
	basket := make([]checkout.Item, 0, 5)
	for _, n := range order[:1+rnd.IntN(5)] {
		p := checkout.Catalog[n]
		basket = append(basket, checkout.Item{SKU: p.SKU, Name: p.Name, Quantity: int64(1 + rnd.IntN(3))})
	}
	return basket
}
