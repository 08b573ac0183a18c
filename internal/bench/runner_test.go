package bench

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// near tells whether a latency is d, as precise as the histogram.
func near(seconds float64, d time.Duration) bool {
	return seconds > d.Seconds()*0.998 && seconds < d.Seconds()*1.002
}

// stalling takes a millisecond, but for one operation in the middle that takes a
// second.
func stalling() operation {
	var n atomic.Int64
	return func(context.Context, *worker) error {
		if n.Add(1) == 300 {
			time.Sleep(time.Second)
		}
		time.Sleep(time.Millisecond)
		return nil
	}
}

// Without it a stall of a second would cost one operation only, though users who
// come at a rate would all have waited (coordinated omission).
func TestOpenLoopCountsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		load := Load{InFlight: 1, Duration: 5 * time.Second}
		closed := latencyOf(run(t.Context(), load, stalling(), nil).latency)
		if !near(closed.P99Seconds, time.Millisecond) || !near(closed.MaxSeconds, 1001*time.Millisecond) {
			t.Errorf("closed loop: %+v", closed)
		}
		load.Rate = 100
		m := run(t.Context(), load, stalling(), nil)
		open := latencyOf(m.latency)
		// 300 operations at 100 a second, a stall of one second, and the hundred that
		// were due meanwhile, of which the last hardly waits: of 500, 20 % waited.
		if !near(open.P50Seconds, time.Millisecond) || open.P90Seconds < 0.3 || open.P99Seconds < 0.9 || !near(open.MaxSeconds, 1001*time.Millisecond) {
			t.Errorf("open loop: %+v", open)
		}
		if m.completed != 500 || m.notStarted != 0 {
			t.Errorf("open loop: %d completed, %d not started, want all of 500", m.completed, m.notStarted)
		}
	})
}

// Without it a rate beyond what goes would look as if it went.
func TestOpenLoopTellsWhatDidNotStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := func(context.Context, *worker) error { time.Sleep(10 * time.Millisecond); return nil }
		m := run(t.Context(), Load{InFlight: 2, Rate: 1000, Duration: time.Second}, slow, nil)
		// Two workers with 100 a second each.
		if m.completed < 196 || m.completed > 200 || m.notStarted < 798 || m.notStarted > 802 {
			t.Fatalf("%d completed, %d not started", m.completed, m.notStarted)
		}
		if l := latencyOf(m.latency); l.P50Seconds < 0.3 {
			t.Fatalf("those that waited do not count: %+v", l)
		}
	})
}

// Without it a rate that leaves everything behind already while warming up would
// count as nothing measured.
func TestHopelessRateIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := func(context.Context, *worker) error { time.Sleep(10 * time.Millisecond); return nil }
		m := run(t.Context(), Load{InFlight: 1, Rate: 1000, Warmup: time.Second, Duration: time.Second}, slow, nil)
		f, err := figures(m)
		if err != nil || f.Operations != 0 || f.NotStarted != 1000 || f.Throughput < 98 || f.Throughput > 100 {
			t.Fatalf("%+v, %v", f, err)
		}
	})
}

// Without it what happens before a system is warm would be in its figures.
func TestWarmupIsNotMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		cold := func(context.Context, *worker) error {
			if time.Since(began) < time.Second {
				time.Sleep(100 * time.Millisecond)
				return errors.New("cold")
			}
			time.Sleep(time.Millisecond)
			return nil
		}
		m := run(t.Context(), Load{InFlight: 3, Warmup: time.Second, Duration: time.Second}, cold, nil)
		if l := latencyOf(m.latency); m.failed != 0 || !near(l.MaxSeconds, time.Millisecond) || m.completed < 2990 {
			t.Fatalf("%d failed, %d completed, %+v", m.failed, m.completed, l)
		}
	})
}

// Without it an interrupt would throw away what was measured, or leave operations
// behind that nobody waits for.
func TestInterruptKeepsWhatWasMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(2*time.Second, cancel)
		var running atomic.Int64
		op := func(ctx context.Context, _ *worker) error {
			running.Add(1)
			defer running.Add(-1)
			time.Sleep(30 * time.Millisecond)
			return ctx.Err()
		}
		m := run(ctx, Load{InFlight: 4, Duration: time.Hour}, op, nil)
		if !m.interrupted || m.window != 2*time.Second || m.failed != 0 || running.Load() != 0 {
			t.Fatalf("interrupted %v after %s, %d failed, %d running", m.interrupted, m.window, m.failed, running.Load())
		}
		if n := m.latency.TotalCount(); n < 260 || n > 268 {
			t.Fatalf("%d measured, want all that began", n)
		}
	})
}

// Without it an operation that hangs would keep a run from ending.
func TestWhatHangsIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := func(ctx context.Context, _ *worker) error { <-ctx.Done(); return ctx.Err() }
		began := time.Now()
		m := run(t.Context(), Load{InFlight: 2, Duration: time.Second}, hang, nil)
		if m.failed != 2 || m.errors["given_up"] != 2 || time.Since(began) != time.Second+drainTimeout {
			t.Fatalf("%d failed, %v, after %s", m.failed, m.errors, time.Since(began))
		}
	})
}
