package coordinator

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/cohort-tx/cohort/groups"
	"github.com/cohort-tx/cohort/txlog"
	"github.com/cohort-tx/cohort/txlog/command"
)

// newRealReplica is that of a group's shard of a single node.
func newRealReplica(t testing.TB) *txlog.Replica {
	t.Helper()
	txlog.SetDragonboatLogger(zap.NewNop())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	h, err := txlog.NewHost(txlog.HostConfig{Dir: t.TempDir(), RaftAddress: addr, RTT: 5 * time.Millisecond, HeartbeatRTT: 2, ElectionRTT: 20, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	r, err := h.StartReplica(txlog.ReplicaConfig{Group: "shop", ShardID: 7, ReplicaID: 1, Members: map[uint64]string{1: addr}})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// newRealCoordinator is one over a group's shard of a single node.
func newRealCoordinator(t testing.TB) *Coordinator {
	t.Helper()
	c := New(Params{
		Group: "shop", NodeName: "n1", Replica: Of(newRealReplica(t)),
		InitialDefinition: func(context.Context) (groups.Definition, uint64, error) {
			return groups.Default("shop", "inventory", "payments"), 7, nil
		},
	})
	t.Cleanup(c.Close)
	(&testCoordinator{Coordinator: c, t: t}).until("in office", func() bool { _, ok := c.Serving(); return ok })
	return c
}

// The driver over a real shard: commits, reads at a snapshot, conflicts, and the
// same receipt again.
func TestRealReplica(t *testing.T) {
	c := newRealCoordinator(t)
	var all sync.WaitGroup
	for i := range 64 {
		all.Go(func() {
			_, err := c.Commit(ctx, CommitRequest{Attempt: Attempt{ID: fmt.Sprintf("t%d", i), Nonce: 1}, Ops: []command.Op{
				{Kind: command.OpAdd, Participant: "inventory", Key: "n", Delta: -1}, {Kind: command.OpAdd, Participant: "payments", Key: "n", Delta: 1},
			}})
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	o, err := c.Begin(ctx, BeginRequest{ID: "reader"})
	if err != nil {
		t.Fatal(err)
	}
	if o.Position != 64 {
		t.Fatalf("a linearizable snapshot at position %d", o.Position)
	}
	view, _, release, err := c.AttemptView(ctx, o.Attempt)
	if err != nil {
		t.Fatal(err)
	}
	v, version, _, err := view.Get("payments", "n")
	if err != nil || string(v) != "64" || version != 64 {
		t.Fatalf("%q at %d: %v", v, version, err)
	}
	release()
	req := CommitRequest{Attempt: o.Attempt, Reads: []command.Read{{Participant: "payments", Key: "n", Version: 64}}, Ops: []command.Op{put("payments", "seen", "64")}}
	r1, err := c.Commit(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	if r2, err := c.Commit(ctx, req); err != nil || r2 != r1 {
		t.Fatal(r2, err)
	}
}
