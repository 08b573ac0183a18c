package node

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cohort-tx/cohort/coordinator"
	"github.com/cohort-tx/cohort/txlog/command"
)

const (
	// checkpointInFlight commits are under way all the time.
	checkpointInFlight = 64
	// checkpointValue is the size of the values that fill the store.
	checkpointValue = 8 << 10
	// checkpointRounds are taken at each size; the pause given is their median.
	checkpointRounds = 5
)

// BenchmarkCheckpoint measures what a checkpoint costs a group of 10 MB, 100 MB
// and 1 GB under load: the pause, against the median latency of a commit without
// one, and the throughput of commits while it is written, against that before.
// Run it with -benchtime 1x.
func BenchmarkCheckpoint(b *testing.B) {
	c := newBenchNodes(b)
	filled := 0
	for _, size := range []int{10 << 20, 100 << 20, 1 << 30} {
		filled = c.fill(b, filled, size)
		b.Run(fmt.Sprintf("size=%dMB", size>>20), func(b *testing.B) {
			b.ReportMetric(0, "ns/op")
			before := measure(checkpointInFlight, c.commit(b))
			pauses, during, wrote := c.checkpointed(b)
			slices.Sort(pauses)
			pause := pauses[len(pauses)/2]
			b.ReportMetric(pause.Seconds()*1000, "pause-ms")
			b.ReportMetric(before.p50.Seconds()*1000, "p50-ms")
			b.ReportMetric(pause.Seconds()/before.p50.Seconds(), "pause/p50")
			b.ReportMetric(during/before.perSecond, "throughput-ratio")
			b.ReportMetric(wrote.Seconds(), "write-s")
		})
	}
}

// fill brings the store of participant a to size.
func (c *benchNodes) fill(b *testing.B, from, size int) int {
	value := make([]byte, checkpointValue)
	const perCommit = 64
	for n := from; n < size/checkpointValue; n += perCommit {
		var ops []command.Op
		for i := range perCommit {
			for j := range value {
				value[j] = byte((n + i) * (j%251 + 1)) // not all alike
			}
			ops = append(ops, command.Op{Kind: command.OpPut, Participant: "a", Key: fmt.Sprintf("fill-%08d", n+i), Value: slices.Clone(value)})
		}
		if _, err := c.coordinator.Commit(b.Context(), coordinator.CommitRequest{Attempt: coordinator.Attempt{ID: fmt.Sprintf("fill-%d", n)}, Ops: ops}); err != nil {
			b.Fatal(err)
		}
	}
	return size / checkpointValue
}

// checkpointed takes checkpoints under load and gives their pauses, the commits
// per second while they were written, and how long that took.
func (c *benchNodes) checkpointed(b *testing.B) (pauses []time.Duration, perSecond float64, wrote time.Duration) {
	ctx, cancel := context.WithCancel(b.Context())
	var clients sync.WaitGroup
	var next, done atomic.Int64
	commit := c.commit(b)
	for range checkpointInFlight {
		clients.Go(func() {
			for ctx.Err() == nil {
				if commit(int(next.Add(1))) == nil {
					done.Add(1)
				}
			}
		})
	}
	defer clients.Wait()
	defer cancel()
	var commits int64
	for range checkpointRounds {
		start, at := time.Now(), done.Load()
		taken, err := c.coordinator.RequestCheckpoint(ctx, coordinator.CheckpointRequest{Trigger: command.TriggerOperator, Wait: true})
		if err != nil {
			b.Fatal(err)
		}
		wrote += time.Since(start)
		commits += done.Load() - at
		pauses = append(pauses, time.Duration(taken.PauseNanos))
	}
	return pauses, float64(commits) / wrote.Seconds(), wrote / checkpointRounds
}
