package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
)

// Report is what was measured. Its fields in JSON are stable: durations are in
// seconds, sizes in bytes, throughput is a second.
type Report struct {
	Workload Workload `json:"workload"`
	Settings Settings `json:"settings"`
	Machine  Machine  `json:"machine"`
	// Interrupted: it ended before its time, and the figures are those of until then.
	Interrupted bool `json:"interrupted"`
	// Figures of the operations; absent for Checkpoint and Restore.
	*Figures
	// Raw are the figures of plain entries under the same load, and RatioToRaw those
	// of the operations divided by them. Present with CompareRaw.
	Raw        *Figures `json:"raw,omitempty"`
	RatioToRaw *Ratio   `json:"ratio_to_raw,omitempty"`

	Checkpoints []CheckpointFigures `json:"checkpoints,omitempty"`
	Restores    []RestoreFigures    `json:"restores,omitempty"`
	Soak        *SoakFigures        `json:"soak,omitempty"`
}

// Settings are those under which it was measured.
type Settings struct {
	Via Via `json:"via"`
	// Nodes of the embedded cluster; 0 for a running one.
	Nodes           int      `json:"nodes"`
	Clients         int      `json:"clients"`
	InFlight        int      `json:"in_flight"`
	Keys            uint64   `json:"keys"`
	Skew            float64  `json:"skew"`
	ValueBytes      int      `json:"value_bytes"`
	Participants    int      `json:"participants"`
	RatePerSecond   float64  `json:"rate_per_second"`
	WarmupSeconds   float64  `json:"warmup_seconds"`
	DurationSeconds float64  `json:"duration_seconds"`
	SizesBytes      []uint64 `json:"sizes_bytes,omitempty"`
	Entries         int      `json:"entries,omitempty"`
}

// Machine is where it was measured.
type Machine struct {
	Version    string `json:"version"`
	Go         string `json:"go"`
	OS         string `json:"os"`
	Arch       string `json:"arch"`
	CPUs       int    `json:"cpus"`
	GOMAXPROCS int    `json:"gomaxprocs"`
}

// Figures sum up many operations.
type Figures struct {
	// Operations are those whose latency was measured: they were to begin within
	// Seconds, and succeeded. Failed did not.
	Operations uint64            `json:"operations"`
	Failed     uint64            `json:"failed"`
	Errors     map[string]uint64 `json:"errors"`
	// Retries are the attempts of transactions beyond their first.
	Retries uint64 `json:"retries"`
	// NotStarted were due at the given rate and could not begin by the end.
	NotStarted uint64  `json:"not_started"`
	Seconds    float64 `json:"seconds"`
	// Throughput is what ended well within Seconds, a second.
	Throughput float64 `json:"throughput"`
	Latency    Latency `json:"latency"`
}

// Ratio is one measurement divided by another.
type Ratio struct {
	Throughput float64 `json:"throughput"`
	P50        float64 `json:"p50"`
	P99        float64 `json:"p99"`
}

func newReport(c *Config) *Report {
	r := &Report{
		Workload: c.Workload,
		Settings: Settings{
			Via: c.Via, Nodes: c.Nodes, Clients: c.Clients, InFlight: c.InFlight, Keys: c.Keys, Skew: c.Skew,
			ValueBytes: c.ValueBytes, Participants: len(c.participants()), RatePerSecond: c.Rate,
			WarmupSeconds: c.Warmup.Seconds(), DurationSeconds: c.Duration.Seconds(),
		},
		Machine: Machine{
			Version: c.Version, Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH,
			CPUs: runtime.NumCPU(), GOMAXPROCS: runtime.GOMAXPROCS(0),
		},
	}
	if c.Workload == Write || c.Workload == Read {
		r.Settings.Participants = c.Participants
	}
	if c.Workload == Checkpoint || c.Workload == Restore {
		r.Settings.SizesBytes = c.Sizes
	}
	if c.Workload == Restore {
		r.Settings.Entries = c.Entries
	}
	return r
}

// operations takes what was measured of the workload. That nothing succeeded is an
// error.
func (r *Report) operations(m measurement) error {
	r.Interrupted = m.interrupted
	f, err := figures(m)
	if err != nil {
		return fmt.Errorf("%s: %w", r.Workload, err)
	}
	r.Figures = f
	return nil
}

// compare takes what was measured of raw entries.
func (r *Report) compare(m measurement) error {
	raw, err := figures(m)
	if err != nil {
		return fmt.Errorf("raw entries: %w", err)
	}
	r.Raw = raw
	r.RatioToRaw = &Ratio{
		Throughput: ratio(r.Throughput, raw.Throughput),
		P50:        ratio(r.Latency.P50Seconds, raw.Latency.P50Seconds),
		P99:        ratio(r.Latency.P99Seconds, raw.Latency.P99Seconds),
	}
	return nil
}

// ratio is 0 where there is nothing to divide by.
func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

func figures(m measurement) (*Figures, error) {
	succeeded := uint64(m.latency.TotalCount()) - m.notStarted
	switch {
	case m.notStarted > 0:
		// A rate far beyond what goes: that nothing due in the window began is what
		// there is to say.
	case succeeded == 0 && m.first != nil:
		return nil, fmt.Errorf("all of %d operations failed, the first one: %w", m.failed, m.first)
	case succeeded == 0 && m.interrupted:
		return nil, fmt.Errorf("%w: interrupted", ErrNothingMeasured)
	case succeeded == 0:
		return nil, fmt.Errorf("%w: no operation began within %s; give a longer duration, or a higher rate", ErrNothingMeasured, m.window)
	}
	return &Figures{
		Operations: succeeded, Failed: m.failed, Errors: m.errors, Retries: m.retries, NotStarted: m.notStarted,
		Seconds: m.window.Seconds(), Throughput: ratio(float64(m.completed), m.window.Seconds()),
		Latency: latencyOf(m.latency),
	}, nil
}

// maxReportBytes is far more than a report has.
const maxReportBytes = 1 << 20

// ReadReport reads a report as JSON.
func ReadReport(r io.Reader) (*Report, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxReportBytes+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxReportBytes {
		return nil, fmt.Errorf("it has more than %d bytes, which no report has", maxReportBytes)
	}
	report := &Report{}
	if err := json.Unmarshal(data, report); err != nil {
		return nil, fmt.Errorf("it is no report of a benchmark: %w", err)
	}
	if report.Workload == "" {
		return nil, errors.New("it is no report of a benchmark, which names its workload: make one with -o json")
	}
	return report, nil
}
