// Command place is the workflow of the checkout example: it places the orders of
// a file, each as one transaction over the three services, and then checks the
// services' books against each other.
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/cohort-tx/cohort/examples/checkout"
	"github.com/cohort-tx/cohort/participant"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:7070", "nodes of the cluster, separated by commas")
	file := flag.String("orders", "", "JSON lines of orders to place; without it, the example's own 1,200")
	workers := flag.Int("workers", 8, "orders placed at once")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := place(ctx, *addr, *file, *workers, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func place(ctx context.Context, addr, file string, workers int, out io.Writer) error {
	data := checkout.Orders
	if file != "" {
		var err error
		if data, err = os.ReadFile(file); err != nil {
			return err
		}
	}
	orders, err := checkout.ReadOrders(bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	client, err := participant.Dial(addr)
	if err != nil {
		return err
	}
	defer client.Close()
	shop := checkout.NewShop(client)
	if err := shop.Seed(ctx); err != nil {
		return err
	}
	tally, err := shop.Run(ctx, orders, workers, func(t checkout.Tally) {
		if t.Done()%200 == 0 {
			fmt.Fprintf(out, "%d of %d orders\n", t.Done(), t.Total)
		}
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%d placed, %d out of stock, %d without credit, %d placed again with the same receipt\n",
		tally.Placed, tally.OutOfStock, tally.NoCredit, tally.Resubmitted)
	books, err := checkout.ReadBooks(ctx, client.Group(checkout.Group))
	if err != nil {
		return err
	}
	if wrong := append(books.HalfDone(), books.Check()...); len(wrong) > 0 {
		for _, w := range wrong {
			fmt.Fprintln(out, "wrong:", w)
		}
		return fmt.Errorf("the books do not add up")
	}
	fmt.Fprintf(out, "the books add up at position %d: %d orders, revenue %d.%02d\n",
		books.Position, books.Count, books.Revenue/100, books.Revenue%100)
	return nil
}
