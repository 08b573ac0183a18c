package coordinator

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cohort-tx/cohort/groups"
	"github.com/cohort-tx/cohort/txlog/command"
)

// instantLog answers proposals without looking at them.
type instantLog struct {
	*fakeLog
	position atomic.Uint64
}

// Propose leaves all but transactions to the log in memory.
func (l *instantLog) Propose(ctx context.Context, batch *command.Batch, timeout time.Duration) ([]command.Result, error) {
	if _, ok := batch.Commands[0].(*command.Decide); !ok {
		return l.fakeLog.Propose(ctx, batch, timeout)
	}
	results := make([]command.Result, len(batch.Commands))
	for i := range results {
		results[i] = command.Result{Status: command.StatusCommitted, Receipt: command.Receipt{Position: l.position.Add(1)}}
	}
	return results, nil
}

// benchCommits commits blind two-participant adds.
func benchCommits(b *testing.B, c *Coordinator, inFlight int) {
	var next atomic.Int64
	var workers sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	for w := range inFlight {
		workers.Go(func() {
			for {
				i := next.Add(1)
				if i > int64(b.N) {
					return
				}
				_, err := c.Commit(ctx, CommitRequest{Attempt: Attempt{ID: fmt.Sprintf("bench-%d-%d", b.N, i), Nonce: uint64(i)}, Ops: []command.Op{
					{Kind: command.OpAdd, Participant: "inventory", Key: fmt.Sprintf("k%d", w), Delta: 1},
					{Kind: command.OpAdd, Participant: "payments", Key: fmt.Sprintf("k%d", w), Delta: 1},
				}})
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	workers.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tx/s")
}

// BenchmarkDriver is the driver's share: the log answers at once.
func BenchmarkDriver(b *testing.B) {
	for _, inFlight := range []int{1, 64, 512} {
		b.Run(fmt.Sprint(inFlight), func(b *testing.B) {
			var log *instantLog
			c := newTestCoordinator(b, func(_ *groups.Definition, p *Params) {
				log = &instantLog{fakeLog: p.Replica.(*fakeLog)}
				p.Replica = log
			})
			benchCommits(b, c.Coordinator, inFlight)
		})
	}
}

// BenchmarkRealReplica is the whole of one node: Raft, state machine, store.
func BenchmarkRealReplica(b *testing.B) {
	for _, inFlight := range []int{1, 64, 512} {
		b.Run(fmt.Sprint(inFlight), func(b *testing.B) { benchCommits(b, newRealCoordinator(b), inFlight) })
	}
}
