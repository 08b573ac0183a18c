package cluster_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/internal/cluster"
	"github.com/cohort-tx/cohort/participant"
)

// Would break: a node that comes back without the checkpoints that the others took
// and kept meanwhile, so that one more loss would be one too many.
func TestNodeThatWasDownGetsCheckpoints(t *testing.T) {
	const group = `group: vault
participants: [{name: left}, {name: right}]
checkpoint: {interval: 1h, log_bytes: 0, log_entries: 0, min_gap: 1ms}
retention: {checkpoints: 2}
`
	b := startBench(t, cluster.Options{Nodes: 3, RTT: 20 * time.Millisecond}, group)
	o := dialOperators(t, b.cluster.Members())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	leader := b.coordinator(t)
	down := b.names()[(slices.Index(b.names(), leader)+1)%3]
	commit := func(n int) {
		for i := range n {
			_, err := b.group("vault").Run(ctx, func(tx *participant.Tx) error {
				return errors.Join(tx.Store("left").Add(account(i%vaultAccounts), -1), tx.Store("right").Add(account(i%vaultAccounts), 1))
			})
			want(t, nil, err)
		}
	}
	commit(20)
	before, err := o.create(ctx, "vault", "")
	want(t, nil, err)
	want(t, nil, b.cluster.Kill(down))
	for range 4 {
		commit(60)
		_, err := o.create(ctx, "vault", "")
		want(t, nil, err)
	}
	b.start(t, down)
	var kept []*pb.CheckpointInfo
	b.eventually(t, "the node has both checkpoints that are kept", func() bool {
		all, err := o.list(ctx, "vault")
		want(t, nil, err)
		kept = slices.DeleteFunc(all, func(c *pb.CheckpointInfo) bool { return c.State != "complete" })
		return len(kept) == 2 && !slices.ContainsFunc(kept, func(c *pb.CheckpointInfo) bool {
			return !slices.ContainsFunc(c.Copies, func(copy *pb.CheckpointCopy) bool { return copy.Node == down && copy.State == "written" })
		})
	})
	for _, c := range kept {
		if c.Id <= before.Id {
			t.Errorf("checkpoint %d is of before the node went down", c.Id)
		}
		result, err := verify(ctx, o[down], "vault", c.Id)
		want(t, nil, err)
		if own := slices.IndexFunc(result.Copies, func(v *pb.VerifiedCopy) bool { return v.Node == down }); own < 0 || !result.Copies[own].Whole {
			t.Errorf("checkpoint %d on %s: %v", c.Id, down, result.Copies)
		}
		// Its own copy comes before those of others.
		m, held, err := export(ctx, t, o[down], "vault", c.Id)
		want(t, nil, err)
		past, err := replay(ctx, b.client, "vault", 0, balances{})
		want(t, nil, err)
		if diff := held.differs(past.at(c.Position)); diff != "" || m.Position != c.Position || m.Digest != [32]byte(c.Digest) {
			t.Errorf("checkpoint %d of %s, at position %d and not %d: %s as the log says", c.Id, down, m.Position, c.Position, diff)
		}
	}
	checkEqualReplicas(ctx, t, b.client, "vault", b.cluster.Members())
}
