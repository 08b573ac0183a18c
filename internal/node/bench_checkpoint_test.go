package node

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cohort-tx/cohort/coordinator"
	"github.com/cohort-tx/cohort/txlog/command"
)

const (
	// checkpointInFlight commits are under way all the time: what a machine of two
	// cores can keep up for minutes with three stores that merge.
	checkpointInFlight = 16
	// checkpointValue is the size of the values that fill the store.
	checkpointValue = 8 << 10
	// checkpointRounds are taken at each size; what is given are medians.
	checkpointRounds = 7
	// checkpointBefore is how long commits are counted before each.
	checkpointBefore = 2 * time.Second
)

// BenchmarkCheckpoint measures what a checkpoint costs a group of 10 MB, 100 MB
// and 1 GB under constant load: the pause, against the median latency of the
// commits before it, and the throughput of commits while it is written, against
// that before. Run it with -benchtime 1x.
func BenchmarkCheckpoint(b *testing.B) {
	c := newBenchNodes(b)
	filled := 0
	for _, size := range []int{10 << 20, 100 << 20, 1 << 30} {
		b.Run(fmt.Sprintf("size=%dMB", size>>20), func(b *testing.B) {
			filled = c.fill(b, filled, size)
			settle(b)
			b.ReportMetric(0, "ns/op")
			var pauses, shares, ratios, wrote []float64
			for _, r := range c.checkpointed(b) {
				pauses = append(pauses, r.pause.Seconds()*1000)
				shares = append(shares, r.pause.Seconds()/r.before.p50.Seconds())
				ratios = append(ratios, r.during/r.before.perSecond)
				wrote = append(wrote, r.wrote.Seconds())
			}
			b.ReportMetric(median(pauses), "pause-ms")
			b.ReportMetric(median(shares), "pause/p50")
			b.ReportMetric(median(ratios), "throughput-ratio")
			b.ReportMetric(median(wrote), "write-s")
		})
	}
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

// settle waits until the stores have merged what was written.
func settle(b *testing.B) {
	cpu := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		before := cpu()
		time.Sleep(time.Second)
		if cpu()-before < 150*time.Millisecond {
			return
		}
	}
	b.Log("the stores did not settle within a minute")
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

// round is one checkpoint under load.
type round struct {
	before figures
	pause  time.Duration
	wrote  time.Duration
	during float64 // commits per second while it was written
}

// checkpointed takes checkpoints under load.
func (c *benchNodes) checkpointed(b *testing.B) (rounds []round) {
	ctx, cancel := context.WithCancel(b.Context())
	var clients sync.WaitGroup
	var mu sync.Mutex
	var next int
	var latencies []time.Duration
	commit := c.commit(b)
	for range checkpointInFlight {
		clients.Go(func() {
			for ctx.Err() == nil {
				mu.Lock()
				next++
				n := next
				mu.Unlock()
				at := time.Now()
				if commit(n) == nil {
					mu.Lock()
					latencies = append(latencies, time.Since(at))
					mu.Unlock()
				}
			}
		})
	}
	defer clients.Wait()
	defer cancel()
	since := func(start time.Time) figures {
		mu.Lock()
		defer mu.Unlock()
		all := latencies
		latencies = nil
		if len(all) == 0 {
			return figures{p50: time.Hour}
		}
		slices.Sort(all)
		return figures{perSecond: float64(len(all)) / time.Since(start).Seconds(), p50: all[len(all)/2]}
	}
	for range checkpointRounds {
		time.Sleep(checkpointBefore / 2) // what the one before left to do
		start := time.Now()
		since(start)
		time.Sleep(checkpointBefore)
		r := round{before: since(start)}
		start = time.Now()
		taken, err := c.coordinator.RequestCheckpoint(ctx, coordinator.CheckpointRequest{Trigger: command.TriggerOperator, Wait: true})
		if err != nil {
			b.Fatal(err)
		}
		r.wrote, r.pause = time.Since(start), time.Duration(taken.PauseNanos)
		r.during = since(start).perSecond
		rounds = append(rounds, r)
	}
	return rounds
}
