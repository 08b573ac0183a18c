package bench

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"time"
)

const (
	// soakSamples are taken over a soak, evenly.
	soakSamples = 240
	// minSampleEvery is what a look at the disk may cost.
	minSampleEvery = 20 * time.Millisecond
	// growShare of what is used may come on top between the third quarter and the
	// last and still count as flat: what merges, collects garbage and cuts logs
	// does so in waves.
	growShare = 0.1
)

// SoakFigures say whether anything grew.
type SoakFigures struct {
	Flat bool `json:"flat"`
	// Resources are those that were watched; what the system does not tell is not
	// among them.
	Resources []Resource `json:"resources"`
	Samples   int        `json:"samples"`
}

// Resource is one thing that must not grow.
type Resource struct {
	Name string `json:"name"`
	// Before and After are the least use in the third quarter of the time and in the
	// last: use goes up and down, and what leaks raises its lows. Limit is how high
	// After may be.
	Before float64 `json:"before"`
	After  float64 `json:"after"`
	Limit  float64 `json:"limit"`
	Most   float64 `json:"most"`
	Flat   bool    `json:"flat"`
}

// sample is what the process uses at one moment.
type sample map[string]float64

// Names of resources, in the order of a report.
const (
	memoryBytes = "memory_bytes"
	heapBytes   = "heap_bytes"
	goroutines  = "goroutines"
	openFiles   = "open_files"
	diskBytes   = "disk_bytes"
)

// resources with what each may grow by in any case: what a wave of it takes.
var resources = []struct {
	name  string
	slack float64
}{
	{memoryBytes, 32 << 20},
	{heapBytes, 16 << 20},
	{goroutines, 10},
	{openFiles, 10},
	// A segment of the log and a memtable's worth of tables, at each of three nodes.
	{diskBytes, 128 << 20},
}

// soak runs the load for its time and judges.
func (t *target) soak(ctx context.Context, s *scene, report *Report, tell func(Step)) error {
	load := t.load()
	load.Warmup = min(load.Warmup, load.Duration/2)
	load.Duration -= load.Warmup
	watching, stop := context.WithCancel(ctx)
	defer stop()
	var samples []sample
	var watcher sync.WaitGroup
	watcher.Go(func() {
		ticker := time.NewTicker(max(t.config.Duration/soakSamples, minSampleEvery))
		defer ticker.Stop()
		for {
			select {
			case <-watching.Done():
				return
			case <-ticker.C:
				samples = append(samples, t.sample())
			}
		}
	})
	m := loaded(ctx, load, string(Soak), s.mixed, tell)
	stop()
	watcher.Wait()
	if err := report.operations(m); err != nil {
		return err
	}
	report.Soak = judge(samples)
	return nil
}

func (t *target) sample() sample {
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	s := sample{heapBytes: float64(mem.HeapAlloc), goroutines: float64(runtime.NumGoroutine()), diskBytes: float64(diskUse(t.dir))}
	if n, ok := memoryUse(); ok {
		s[memoryBytes] = float64(n)
	}
	if n, ok := openFileCount(); ok {
		s[openFiles] = float64(n)
	}
	return s
}

// judge compares the last quarter of the samples with the one before. Fewer than
// four show nothing.
func judge(samples []sample) *SoakFigures {
	f := &SoakFigures{Samples: len(samples), Resources: []Resource{}}
	if len(samples) < 4 {
		return f
	}
	half, threeQuarters := len(samples)/2, len(samples)*3/4
	f.Flat = true
	for _, kind := range resources {
		var values []float64
		for _, s := range samples {
			if v, ok := s[kind.name]; ok {
				values = append(values, v)
			}
		}
		if len(values) < len(samples) {
			continue
		}
		r := Resource{Name: kind.name, Before: slices.Min(values[half:threeQuarters]), After: slices.Min(values[threeQuarters:]), Most: slices.Max(values)}
		r.Limit = r.Before*(1+growShare) + kind.slack
		r.Flat = r.After <= r.Limit
		f.Flat = f.Flat && r.Flat
		f.Resources = append(f.Resources, r)
	}
	return f
}

// Failure is why a report's command should fail: a soak that grew or whose
// operations failed. Empty when all is well.
func (r *Report) Failure() string {
	switch {
	case r.Soak == nil:
		return ""
	case r.Interrupted:
		return "" // what is too short shows nothing
	case r.Failed > 0:
		return "operations failed: 'errors' tells which"
	case !r.Soak.Flat:
		return "it is not flat: something grows, or the time was too short to tell"
	}
	return ""
}
