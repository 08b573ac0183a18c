package bench

import (
	"context"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// drainTimeout is what operations under way may take when nothing more begins;
	// then they are given up, and count as failed.
	drainTimeout = 15 * time.Second
	// tellEvery is the time between two tellings of how far it is.
	tellEvery = 200 * time.Millisecond
)

// Load says how operations are to come.
type Load struct {
	// InFlight is how many may be under way at once.
	InFlight int
	// Rate per second at which operations are to begin, whether earlier ones have
	// ended or not, as far as InFlight allows. 0 is a closed loop: each worker begins
	// its next operation when its last one has ended.
	Rate float64
	// Warmup is not measured, Duration is.
	Warmup, Duration time.Duration
}

// worker is one of those that perform operations, one at a time each.
type worker struct {
	index int
	rand  *rand.Rand
	// retries are the attempts beyond the first of each operation.
	retries uint64
}

// operation does one thing and tells whether it succeeded. Its context ends only
// when the run gives up.
type operation func(ctx context.Context, w *worker) error

// measurement is what came of a load.
type measurement struct {
	recorded
	// window is how long was measured: Duration, or less when interrupted.
	window time.Duration
	// completed counts the operations that ended well within the window, whenever
	// they began.
	completed uint64
	retries   uint64
	// notStarted were due within the window of an open loop, and never begun. Their
	// latencies are recorded as what they had waited by the window's end, which is
	// too little.
	notStarted  uint64
	interrupted bool
}

// run puts a load on op until its duration is over or ctx ends, and waits for what
// is under way.
//
// The latency of an open loop is counted from the time at which an operation was
// to begin: what waits behind a slow one has its wait counted, where a closed loop
// would just begin less (coordinated omission). Latencies are those of operations
// that were to begin within the window.
func run(ctx context.Context, load Load, op operation, tell func(elapsed time.Duration)) measurement {
	r := &loadRun{load: load, op: op, recorder: newRecorder(), began: time.Now()}
	r.from = r.began.Add(load.Warmup)
	r.until = r.from.Add(load.Duration)
	beginning, stop := context.WithDeadline(ctx, r.until)
	defer stop()
	working, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	r.beginning, r.working = beginning, working

	workers := make([]*worker, load.InFlight)
	var running sync.WaitGroup
	for i := range workers {
		workers[i] = &worker{index: i, rand: rand.New(rand.NewPCG(uint64(i), 0))}
		running.Go(func() { r.work(workers[i]) })
	}
	r.tellUntilOver(tell)
	end := time.Now()
	if end.After(r.until) {
		end = r.until
	}
	giving := time.AfterFunc(drainTimeout, giveUp)
	running.Wait()
	giving.Stop()
	m := r.measured(end)
	for _, w := range workers {
		m.retries += w.retries
	}
	m.interrupted = end.Before(r.until)
	return m
}

type loadRun struct {
	load     Load
	op       operation
	recorder *recorder
	// began is when the warm-up did; the window is [from, until).
	began, from, until time.Time
	// beginning ends when nothing more begins, working when what runs is given up.
	beginning, working context.Context

	// slots of an open loop are numbered from began; begun are those whose
	// operation has begun.
	slots, begun atomic.Uint64
	completed    atomic.Uint64
}

func (r *loadRun) tellUntilOver(tell func(time.Duration)) {
	ticker := time.NewTicker(tellEvery)
	defer ticker.Stop()
	for {
		select {
		case <-r.beginning.Done():
			return
		case <-ticker.C:
			if tell != nil {
				tell(time.Since(r.began))
			}
		}
	}
}

func (r *loadRun) work(w *worker) {
	for r.beginning.Err() == nil {
		due := time.Now()
		if r.load.Rate > 0 {
			due = r.slot(r.slots.Add(1) - 1)
			if !r.waitFor(due) {
				return
			}
		}
		if !due.Before(r.until) {
			return
		}
		r.begun.Add(1)
		err := r.op(r.working, w)
		r.ended(w, due, err)
	}
}

// slot is when the n-th operation of an open loop is to begin.
func (r *loadRun) slot(n uint64) time.Time {
	return r.began.Add(time.Duration(float64(n) / r.load.Rate * float64(time.Second)))
}

func (r *loadRun) waitFor(due time.Time) bool {
	if pause := time.Until(due); pause > 0 {
		t := time.NewTimer(pause)
		defer t.Stop()
		select {
		case <-t.C:
		case <-r.beginning.Done():
		}
	}
	return r.beginning.Err() == nil
}

func (r *loadRun) ended(w *worker, due time.Time, err error) {
	at := time.Now()
	if err == nil && !at.Before(r.from) && at.Before(r.until) && r.beginning.Err() == nil {
		r.completed.Add(1)
	}
	if due.Before(r.from) {
		return
	}
	if err != nil {
		r.recorder.failed(w.index, err)
		return
	}
	r.recorder.succeeded(w.index, at.Sub(due))
}

func (r *loadRun) measured(end time.Time) measurement {
	m := measurement{recorded: r.recorder.sum(), window: max(end.Sub(r.from), 0), completed: r.completed.Load()}
	if r.load.Rate == 0 || m.window == 0 {
		return m
	}
	// Slots are taken in order, so those that never began are the last ones.
	due := uint64(math.Ceil(end.Sub(r.began).Seconds() * r.load.Rate))
	for n := r.begun.Load(); n < due; n++ {
		if at := r.slot(n); !at.Before(r.from) && at.Before(end) {
			m.notStarted++
			record(m.latency, end.Sub(at))
		}
	}
	return m
}
