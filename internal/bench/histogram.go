package bench

import (
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

const (
	// Latencies are kept to three digits from 100 ns up; longer ones than maxLatency
	// count as that long.
	minLatency    = 100 * time.Nanosecond
	maxLatency    = 10 * time.Minute
	latencyDigits = 3
	// recorderShards keep workers from waiting for each other; a histogram each
	// worker would take some 200 KiB for each.
	recorderShards = 16
	// maxErrorKinds bounds what is told apart; the rest is "other".
	maxErrorKinds = 32
)

// Latency sums up how long operations took.
type Latency struct {
	MeanSeconds float64 `json:"mean_seconds"`
	P50Seconds  float64 `json:"p50_seconds"`
	P90Seconds  float64 `json:"p90_seconds"`
	P99Seconds  float64 `json:"p99_seconds"`
	P999Seconds float64 `json:"p999_seconds"`
	MaxSeconds  float64 `json:"max_seconds"`
}

// recorder gathers what workers measured. It is safe for concurrent use.
type recorder struct {
	shards [recorderShards]recorderShard
}

type recorderShard struct {
	mu      sync.Mutex
	latency *hdrhistogram.Histogram
	failed  uint64
	errors  map[string]uint64
	first   error
}

func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(int64(minLatency), int64(maxLatency), latencyDigits)
}

func newRecorder() *recorder {
	r := &recorder{}
	for i := range r.shards {
		r.shards[i].latency, r.shards[i].errors = newHistogram(), map[string]uint64{}
	}
	return r
}

func (r *recorder) succeeded(worker int, took time.Duration) {
	s := &r.shards[worker%recorderShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	record(s.latency, took)
}

// record clamps, so that the histogram takes every value.
func record(h *hdrhistogram.Histogram, took time.Duration) {
	if err := h.RecordValue(int64(min(max(took, 0), maxLatency))); err != nil {
		panic("a latency within the histogram's bounds was refused: " + err.Error())
	}
}

func (r *recorder) failed(worker int, err error) {
	s := &r.shards[worker%recorderShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed++
	kind := errorKind(err)
	if _, known := s.errors[kind]; !known && len(s.errors) >= maxErrorKinds {
		kind = "other"
	}
	s.errors[kind]++
	if s.first == nil {
		s.first = err
	}
}

// recorded is all shards as one.
type recorded struct {
	latency *hdrhistogram.Histogram
	failed  uint64
	errors  map[string]uint64
	first   error
}

func (r *recorder) sum() recorded {
	all := recorded{latency: newHistogram(), errors: map[string]uint64{}}
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		all.latency.Merge(s.latency)
		all.failed += s.failed
		for kind, n := range s.errors {
			all.errors[kind] += n
		}
		if all.first == nil {
			all.first = s.first
		}
		s.mu.Unlock()
	}
	return all
}

func latencyOf(h *hdrhistogram.Histogram) Latency {
	if h.TotalCount() == 0 {
		return Latency{}
	}
	at := func(quantile float64) float64 { return time.Duration(h.ValueAtQuantile(quantile)).Seconds() }
	return Latency{
		MeanSeconds: h.Mean() / float64(time.Second),
		P50Seconds:  at(50), P90Seconds: at(90), P99Seconds: at(99), P999Seconds: at(99.9),
		MaxSeconds: time.Duration(h.Max()).Seconds(),
	}
}
