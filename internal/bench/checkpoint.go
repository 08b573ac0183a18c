package bench

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	cohortv1 "github.com/cohort-tx/cohort/api/cohort/v1"
)

const (
	// fillPrefix are the keys that make up the data's size, of fillValueBytes each.
	fillPrefix     = "fill-"
	fillValueBytes = 8 << 10
	// checkpointComplete is the state of one that counts.
	checkpointComplete = "complete"
	// settleTimeout bounds the wait until stores have merged what was written.
	settleTimeout = time.Minute
	// settleFrom is the size below which memtables hold all of the data: nothing is
	// merged then.
	settleFrom = 8 << 20
)

// CheckpointFigures are those of checkpoints of one size of data, taken while
// operations went on. What is not said otherwise is the median of the rounds.
type CheckpointFigures struct {
	SizeBytes uint64 `json:"size_bytes"`
	Rounds    int    `json:"rounds"`
	// PauseSeconds is how long commits waited, MaxPauseSeconds the longest.
	PauseSeconds    float64 `json:"pause_seconds"`
	MaxPauseSeconds float64 `json:"max_pause_seconds"`
	// WriteSeconds is how long the slowest node wrote, CopyBytes the size of a copy.
	WriteSeconds float64 `json:"write_seconds"`
	CopyBytes    uint64  `json:"copy_bytes"`
	// Operations a second before checkpoints and while they were taken and written,
	// and the median of the rounds' ratios of the two.
	ThroughputBefore float64 `json:"throughput_before"`
	ThroughputDuring float64 `json:"throughput_during"`
	ThroughputRatio  float64 `json:"throughput_ratio"`
	Failed           uint64  `json:"failed"`
}

// grow brings the data to size.
func (s *scene) grow(ctx context.Context, from, size uint64, tell func(Step)) error {
	return s.fill(ctx, fillPrefix, from/fillValueBytes, size/fillValueBytes, s.participants[:1], fillValue, tell)
}

// fillValue does not compress, and differs from the others.
func fillValue(n uint64) []byte {
	value := make([]byte, fillValueBytes)
	rand.Read(value) // never fails: crypto/rand ends the process instead
	binary.BigEndian.PutUint64(value, n)
	return value
}

func (t *target) measureCheckpoints(ctx context.Context, s *scene, report *Report, tell func(Step)) error {
	var from uint64
	for _, size := range t.config.Sizes {
		err := s.grow(ctx, from, size, tell)
		if err == nil {
			from = size
			err = t.settle(ctx, size, tell)
		}
		if err == nil {
			err = t.checkpointsAt(ctx, s, size, report, tell)
		}
		if err == nil {
			continue
		}
		if ctx.Err() != nil && len(report.Checkpoints) > 0 {
			report.Interrupted = true
			return nil
		}
		return err
	}
	return nil
}

// settle waits until stores have merged what was written, so that it is not in
// what is measured.
func (t *target) settle(ctx context.Context, size uint64, tell func(Step)) error {
	if t.embedded == nil || size < settleFrom {
		return nil
	}
	tell(Step{Name: "letting the stores merge"})
	const look, idle = time.Second, 0.15
	for end := time.Now().Add(settleTimeout); time.Now().Before(end); {
		before := cpuTime()
		if err := sleep(ctx, look); err != nil {
			return err
		}
		if float64(cpuTime()-before) < idle*float64(look) {
			return nil
		}
	}
	return nil // a store that merges for longer does so in practice too
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// checkpointRound is one checkpoint under load.
type checkpointRound struct {
	pause, write   float64
	copy           uint64
	before, during float64
}

// checkpointsAt takes the rounds of one size while operations go on.
func (t *target) checkpointsAt(ctx context.Context, s *scene, size uint64, report *Report, tell func(Step)) error {
	var done atomic.Uint64
	counted := func(ctx context.Context, w *worker) error {
		err := s.write(ctx, w)
		if err == nil {
			done.Add(1)
		}
		return err
	}
	loading, stop := context.WithCancel(ctx)
	ended := make(chan measurement, 1)
	go func() {
		// Its end is the last round's.
		load := t.load()
		load.Warmup, load.Duration = 0, MaxDuration
		ended <- run(loading, load, counted, nil)
	}()
	rounds, err := t.checkpointRounds(ctx, size, &done, tell)
	stop()
	m := <-ended
	if len(rounds) == 0 {
		return err
	}
	if ctx.Err() != nil {
		report.Interrupted, err = true, nil
	}
	if err == nil {
		report.Checkpoints = append(report.Checkpoints, checkpointFigures(size, rounds, m.failed))
	}
	return err
}

func (t *target) checkpointRounds(ctx context.Context, size uint64, done *atomic.Uint64, tell func(Step)) (rounds []checkpointRound, err error) {
	if err := sleep(ctx, t.config.Warmup); err != nil {
		return nil, err
	}
	for n := range t.config.Rounds {
		tell(Step{Name: fmt.Sprintf("%d MiB: checkpoint %d of %d", size>>20, n+1, t.config.Rounds)})
		perSecond := func(from uint64, since time.Time) float64 {
			return ratio(float64(done.Load()-from), time.Since(since).Seconds())
		}
		// A fifth of the duration is not looked at: what the round before left to do.
		if err := sleep(ctx, t.config.Duration/5); err != nil {
			return rounds, err
		}
		from, since := done.Load(), time.Now()
		if err := sleep(ctx, t.config.Duration); err != nil {
			return rounds, err
		}
		r := checkpointRound{before: perSecond(from, since)}
		from, since = done.Load(), time.Now()
		info, err := t.takeCheckpoint(ctx)
		if err != nil {
			return rounds, err
		}
		r.during = perSecond(from, since)
		r.pause, r.write, r.copy = info.PauseSeconds, info.WriteSeconds, info.Bytes
		rounds = append(rounds, r)
	}
	return rounds, nil
}

// takeCheckpoint waits until it is complete.
func (t *target) takeCheckpoint(ctx context.Context) (*cohortv1.CheckpointInfo, error) {
	info, err := t.operator.Checkpoints().CreateCheckpoint(ctx, &cohortv1.CreateCheckpointRequest{Group: groupName, Wait: true})
	if err != nil {
		return nil, err
	}
	if info.State != checkpointComplete {
		return nil, fmt.Errorf("checkpoint %d is %s: %s", info.Id, info.State, info.Reason)
	}
	return info, nil
}

func checkpointFigures(size uint64, rounds []checkpointRound, failed uint64) CheckpointFigures {
	of := func(value func(r checkpointRound) float64) []float64 {
		list := make([]float64, len(rounds))
		for i, r := range rounds {
			list[i] = value(r)
		}
		slices.Sort(list)
		return list
	}
	median := func(value func(r checkpointRound) float64) float64 {
		list := of(value)
		return list[len(list)/2]
	}
	pauses := of(func(r checkpointRound) float64 { return r.pause })
	return CheckpointFigures{
		SizeBytes: size, Rounds: len(rounds),
		PauseSeconds: pauses[len(pauses)/2], MaxPauseSeconds: pauses[len(pauses)-1],
		WriteSeconds:     median(func(r checkpointRound) float64 { return r.write }),
		CopyBytes:        uint64(median(func(r checkpointRound) float64 { return float64(r.copy) })),
		ThroughputBefore: median(func(r checkpointRound) float64 { return r.before }),
		ThroughputDuring: median(func(r checkpointRound) float64 { return r.during }),
		ThroughputRatio:  median(func(r checkpointRound) float64 { return ratio(r.during, r.before) }),
		Failed:           failed,
	}
}
