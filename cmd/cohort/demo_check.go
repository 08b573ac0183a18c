package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/examples/checkout"
	"github.com/cohort-tx/cohort/participant"
)

// demoMaxDetails bounds what one failed check prints.
const demoMaxDetails = 10

// check compares what the workers were told with what the cluster holds.
func (d *demo) check(ctx context.Context, orders []checkout.Order, tally checkout.Tally) error {
	books, err := d.shop.books(ctx, checkout.Group)
	if err != nil {
		return fmt.Errorf("read the books: %w", err)
	}
	d.view.Position, d.view.RevenueCents = books.Position, books.Revenue
	d.view.OK = true
	half, money := books.HalfDone(), books.Check()
	d.held("every order is at orders, inventory and payments, or at none of them", half)
	d.held("stock and money add up, to the piece and the cent", money)
	if err := d.checkLog(ctx, orders, books, tally); err != nil {
		return err
	}
	if err := d.checkReplicas(ctx); err != nil {
		return err
	}
	return d.checkRestored(ctx, orders, tally)
}

func (d *demo) held(name string, wrong []string) {
	if len(wrong) > demoMaxDetails {
		wrong = append(wrong[:demoMaxDetails:demoMaxDetails], fmt.Sprintf("… and %d more", len(wrong)-demoMaxDetails))
	}
	d.view.Checks = append(d.view.Checks, demoCheck{Name: name, OK: len(wrong) == 0, Details: listed(wrong)})
	d.view.OK = d.view.OK && len(wrong) == 0
}

// checkLog reads the whole log: the placed orders are in it, each once and at the
// position of its receipt, and no other order is.
func (d *demo) checkLog(ctx context.Context, orders []checkout.Order, books *checkout.Books, tally checkout.Tally) error {
	positions := make(map[string][]uint64)
	for entry, err := range d.group.Log(ctx, 1, participant.NoWait()) {
		if err != nil {
			return fmt.Errorf("read the log: %w", err)
		}
		positions[entry.ID] = append(positions[entry.ID], entry.Position)
	}
	var twice, differ []string
	for _, o := range orders {
		at := positions[o.ID]
		receipt, placed := tally.Receipts[o.ID]
		_, kept := books.Orders[o.ID]
		if len(at) > 1 {
			twice = append(twice, fmt.Sprintf("%s is in the log at positions %v", o.ID, at))
		}
		if placed != kept || placed != (len(at) > 0) || placed && !slices.Contains(at, receipt.Position) {
			differ = append(differ, fmt.Sprintf("%s: acknowledged %t, position %d; kept by orders %t; in the log at %v", o.ID, placed, receipt.Position, kept, at))
		}
	}
	d.held("no order was placed twice, though some were submitted twice and a leader died", twice)
	d.held("the log holds exactly the orders that were acknowledged, each at its receipt's position", differ)
	return nil
}

// checkReplicas waits until all replicas have applied the same and compares their
// digests.
func (d *demo) checkReplicas(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		digests, wrong := d.digests(ctx)
		if wrong == nil {
			var differ []string
			for _, other := range digests[1:] {
				if string(other.Digest) != string(digests[0].Digest) {
					differ = append(differ, fmt.Sprintf("%s and %s differ at position %d", digests[0].Node, other.Node, other.Position))
				}
			}
			d.held("all replicas, the killed one included, hold the same state", differ)
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("replicas: %w", wrong)
		case <-ticker.C:
		}
	}
}

// digests asks each node; an error as long as they are not at one position.
func (d *demo) digests(ctx context.Context) ([]*pb.DigestResponse, error) {
	var all []*pb.DigestResponse
	for _, m := range d.cluster.Members() {
		answer, err := d.client.Cluster().Digest(ctx, &pb.DigestRequest{Group: checkout.Group, Node: m.Name})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.Name, err)
		}
		if len(all) > 0 && (answer.Position != all[0].Position || answer.AppliedIndex != all[0].AppliedIndex) {
			return nil, fmt.Errorf("%s is at position %d, %s at %d", m.Name, answer.Position, all[0].Node, all[0].Position)
		}
		all = append(all, answer)
	}
	return all, nil
}
