package bench

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/pprof"
	"time"
)

// Step tells how far a run is.
type Step struct {
	Name string
	// Bytes of OfBytes are done, or Elapsed of Of, where the one or the other is
	// known.
	Bytes, OfBytes uint64
	Elapsed, Of    time.Duration
}

// ErrNothingMeasured says that a run was interrupted too early.
var ErrNothingMeasured = errors.New("nothing was measured")

// Run measures. When ctx ends it ends too, and reports what was measured until
// then; ErrNothingMeasured when that is nothing. tell may be nil; it is called
// from one goroutine at a time.
func Run(ctx context.Context, c Config, tell func(Step)) (*Report, error) {
	c.EnsureDefaults()
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if tell == nil {
		tell = func(Step) {}
	}
	t, err := openTarget(ctx, &c, tell)
	if err != nil {
		return nil, notMeasured(ctx, err)
	}
	report := newReport(&c)
	err = t.measure(ctx, report, tell)
	return report, errors.Join(notMeasured(ctx, err), t.close())
}

// notMeasured tells a failure that the interrupt caused from others.
func notMeasured(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("%w: %w", ErrNothingMeasured, ctx.Err())
	}
	return err
}

func (t *target) measure(ctx context.Context, report *Report, tell func(Step)) error {
	groups, err := t.connect()
	if err != nil {
		return err
	}
	s := newScene(t.config, groups)
	switch t.config.Workload {
	case Raw:
		return t.measureRaw(ctx, report, tell)
	case Checkpoint:
		return t.measureCheckpoints(ctx, s, report, tell)
	case Restore:
		return t.measureRestores(ctx, s, report, tell)
	}
	if t.config.Workload == Call {
		if err := t.serve(ctx, s.participants); err != nil {
			return err
		}
	}
	if err := s.prepare(ctx, t.config.Workload, tell); err != nil {
		return err
	}
	if t.config.Workload == Soak {
		return t.soak(ctx, s, report, tell)
	}
	return t.measureOperations(ctx, s.operationOf(t.config.Workload), report, tell)
}

func (t *target) load() Load {
	c := t.config
	return Load{InFlight: c.InFlight, Rate: c.Rate, Warmup: c.Warmup, Duration: c.Duration}
}

// measureOperations measures op, and raw entries before and after it when they are
// compared: the machine's noise is in both.
func (t *target) measureOperations(ctx context.Context, op operation, report *Report, tell func(Step)) error {
	if !t.config.CompareRaw {
		m, err := t.profiled(ctx, op, tell)
		if err != nil {
			return err
		}
		return report.operations(m)
	}
	raw, err := t.startRaw(ctx)
	if err != nil {
		return err
	}
	half := t.load()
	half.Duration = max(half.Duration/2, 1)
	before := loaded(ctx, half, "raw entries", raw.propose, tell)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	m, err := t.profiled(ctx, op, tell)
	if err != nil {
		return err
	}
	if err := report.operations(m); err != nil || m.interrupted {
		return err
	}
	after := loaded(ctx, half, "raw entries", raw.propose, tell)
	if after.interrupted {
		report.Interrupted = true
		return nil
	}
	return report.compare(merge(before, after))
}

// profiled runs the load on the workload's operation, under the profile if one is
// asked for.
func (t *target) profiled(ctx context.Context, op operation, tell func(Step)) (measurement, error) {
	if w := t.config.CPUProfile; w != nil {
		if err := pprof.StartCPUProfile(w); err != nil {
			return measurement{}, err
		}
		defer pprof.StopCPUProfile()
	}
	return loaded(ctx, t.load(), string(t.config.Workload), op, tell), nil
}

func (t *target) measureRaw(ctx context.Context, report *Report, tell func(Step)) error {
	raw, err := t.startRaw(ctx)
	if err != nil {
		return err
	}
	return report.operations(loaded(ctx, t.load(), string(Raw), raw.propose, tell))
}

// loaded runs a load and tells of it.
func loaded(ctx context.Context, load Load, name string, op operation, tell func(Step)) measurement {
	// What came before has left garbage that is not the load's.
	runtime.GC()
	return run(ctx, load, op, func(elapsed time.Duration) {
		if elapsed < load.Warmup {
			tell(Step{Name: name + ", warming up", Elapsed: elapsed, Of: load.Warmup})
			return
		}
		tell(Step{Name: name, Elapsed: min(elapsed-load.Warmup, load.Duration), Of: load.Duration})
	})
}

// merge makes one measurement of two of the same.
func merge(a, b measurement) measurement {
	a.latency.Merge(b.latency)
	a.failed += b.failed
	for kind, n := range b.errors {
		a.errors[kind] += n
	}
	if a.first == nil {
		a.first = b.first
	}
	a.window += b.window
	a.completed += b.completed
	a.retries += b.retries
	a.notStarted += b.notStarted
	a.interrupted = a.interrupted || b.interrupted
	return a
}
