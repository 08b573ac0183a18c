package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/examples/checkout"
)

// demoRestored is the group that the checkpoint is restored to.
const demoRestored = "checkout-restored"

// takeCheckpoint takes one while orders are placed.
func (d *demo) takeCheckpoint(ctx context.Context) error {
	d.say("taking a checkpoint under load")
	info, err := d.client.Checkpoints().CreateCheckpoint(ctx, &pb.CreateCheckpointRequest{Group: checkout.Group, Wait: true, Token: "demo"})
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	if info.State != "complete" {
		return fmt.Errorf("checkpoint %d is %s: %s", info.Id, info.State, info.Reason)
	}
	d.view.Checkpoint, d.view.CheckpointPosition, d.view.PauseSeconds = info.Id, info.Position, info.PauseSeconds
	d.say("checkpoint %d is complete at position %d; the pause was %.1f ms", info.Id, info.Position, info.PauseSeconds*1000)
	return nil
}

// checkRestored restores the checkpoint to a new group and looks into that: each
// order is wholly in it or wholly out, as its receipt's position says.
func (d *demo) checkRestored(ctx context.Context, orders []checkout.Order, tally checkout.Tally) error {
	d.say("restoring checkpoint %d to a new group", d.view.Checkpoint)
	stream, err := d.client.Checkpoints().Restore(ctx, &pb.RestoreRequest{
		Group: checkout.Group, To: &pb.RestoreRequest_Checkpoint{Checkpoint: d.view.Checkpoint}, As: demoRestored,
	})
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	var result *pb.RestoreResult
	for {
		progress, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("restore: %w", err)
		}
		if progress.Result != nil {
			result = progress.Result
		}
	}
	if result == nil {
		return errors.New("restore: it ended without a result")
	}
	d.view.RestoreSeconds = result.Seconds
	serving, stop := context.WithCancel(ctx)
	defer stop()
	if err := d.serve(serving, demoRestored, true); err != nil {
		return fmt.Errorf("serve the restored group: %w", err)
	}
	books, err := d.shop.books(ctx, demoRestored)
	if err != nil {
		return fmt.Errorf("read the restored books: %w", err)
	}
	var differ []string
	for _, o := range orders {
		receipt, placed := tally.Receipts[o.ID]
		_, kept := books.Orders[o.ID]
		if want := placed && receipt.Position <= result.Position; want != kept {
			differ = append(differ, fmt.Sprintf("%s: acknowledged %t at position %d; in the checkpoint at %d: %t", o.ID, placed, receipt.Position, result.Position, kept))
		}
	}
	d.held("the restored group holds exactly the orders up to the checkpoint's position", differ)
	d.held("its stock and money add up too, and no order in it is half done", append(books.HalfDone(), books.Check()...))
	return nil
}
