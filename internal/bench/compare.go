package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
)

// Comparison is one report beside another.
type Comparison struct {
	A Workload `json:"a"`
	B Workload `json:"b"`
	// Differences are the settings and machines that are not the same: what is
	// compared across them says something of them as well.
	Differences []Difference `json:"differences"`
	Measures    []Measure    `json:"measures"`
}

// Difference is a setting that is not the same.
type Difference struct {
	Name string `json:"name"`
	A    string `json:"a"`
	B    string `json:"b"`
}

// Measure is a figure that both reports have.
type Measure struct {
	Name string  `json:"name"`
	A    float64 `json:"a"`
	B    float64 `json:"b"`
	// Ratio is B divided by A, 0 when A is 0.
	Ratio float64 `json:"ratio"`
	// Better is "higher" or "lower".
	Better string `json:"better"`
}

const (
	higher = "higher"
	lower  = "lower"
)

// Compare puts b beside a. That they have no figure in common is an error.
func Compare(a, b *Report) (*Comparison, error) {
	c := &Comparison{A: a.Workload, B: b.Workload, Differences: []Difference{}}
	c.differ("workload", a.Workload, b.Workload)
	c.differAll(a.Settings, b.Settings)
	c.differAll(a.Machine, b.Machine)
	c.differ("interrupted", a.Interrupted, b.Interrupted)
	if a.Figures != nil && b.Figures != nil {
		c.figures(a.Figures, b.Figures)
	}
	if x, y := a.RatioToRaw, b.RatioToRaw; x != nil && y != nil {
		c.measure("ratio_to_raw.throughput", x.Throughput, y.Throughput, higher)
		c.measure("ratio_to_raw.p50", x.P50, y.P50, lower)
		c.measure("ratio_to_raw.p99", x.P99, y.P99, lower)
	}
	c.checkpoints(a.Checkpoints, b.Checkpoints)
	c.restores(a.Restores, b.Restores)
	if len(c.Measures) == 0 {
		return nil, fmt.Errorf("%s and %s have no figure in common", a.Workload, b.Workload)
	}
	return c, nil
}

func (c *Comparison) measure(name string, a, b float64, better string) {
	c.Measures = append(c.Measures, Measure{Name: name, A: a, B: b, Ratio: ratio(b, a), Better: better})
}

func (c *Comparison) figures(a, b *Figures) {
	c.measure("throughput", a.Throughput, b.Throughput, higher)
	c.measure("latency.mean_seconds", a.Latency.MeanSeconds, b.Latency.MeanSeconds, lower)
	c.measure("latency.p50_seconds", a.Latency.P50Seconds, b.Latency.P50Seconds, lower)
	c.measure("latency.p90_seconds", a.Latency.P90Seconds, b.Latency.P90Seconds, lower)
	c.measure("latency.p99_seconds", a.Latency.P99Seconds, b.Latency.P99Seconds, lower)
	c.measure("latency.p999_seconds", a.Latency.P999Seconds, b.Latency.P999Seconds, lower)
	c.measure("latency.max_seconds", a.Latency.MaxSeconds, b.Latency.MaxSeconds, lower)
	if a.Failed+b.Failed > 0 {
		c.measure("failed", float64(a.Failed), float64(b.Failed), lower)
	}
	if a.Retries+b.Retries > 0 {
		c.measure("retries", float64(a.Retries), float64(b.Retries), lower)
	}
}

func (c *Comparison) checkpoints(as, bs []CheckpointFigures) {
	for _, a := range as {
		i := slices.IndexFunc(bs, func(b CheckpointFigures) bool { return b.SizeBytes == a.SizeBytes })
		if i < 0 {
			continue
		}
		b, at := bs[i], fmt.Sprintf("checkpoints[%s].", size(a.SizeBytes))
		c.measure(at+"pause_seconds", a.PauseSeconds, b.PauseSeconds, lower)
		c.measure(at+"write_seconds", a.WriteSeconds, b.WriteSeconds, lower)
		c.measure(at+"throughput_ratio", a.ThroughputRatio, b.ThroughputRatio, higher)
	}
}

func (c *Comparison) restores(as, bs []RestoreFigures) {
	for _, a := range as {
		i := slices.IndexFunc(bs, func(b RestoreFigures) bool { return b.SizeBytes == a.SizeBytes })
		if i < 0 {
			continue
		}
		b, at := bs[i], fmt.Sprintf("restores[%s].", size(a.SizeBytes))
		c.measure(at+"seconds", a.Seconds, b.Seconds, lower)
		c.measure(at+"load_bytes_per_second", a.LoadBytesPerSecond, b.LoadBytesPerSecond, higher)
		c.measure(at+"replay_entries_per_second", a.ReplayEntriesPerSecond, b.ReplayEntriesPerSecond, higher)
	}
}

func (c *Comparison) differ(name string, a, b any) {
	if x, y := fmt.Sprint(a), fmt.Sprint(b); x != y {
		c.Differences = append(c.Differences, Difference{Name: name, A: x, B: y})
	}
}

// differAll compares the fields of two structs by the names that they have in
// JSON.
func (c *Comparison) differAll(a, b any) {
	x, y := fieldsOf(a), fieldsOf(b)
	for _, f := range x {
		i := slices.IndexFunc(y, func(g field) bool { return g.name == f.name })
		if i < 0 {
			c.differ(f.name, f.value, "-")
			continue
		}
		c.differ(f.name, f.value, y[i].value)
	}
	for _, f := range y {
		if !slices.ContainsFunc(x, func(g field) bool { return g.name == f.name }) {
			c.differ(f.name, "-", f.value)
		}
	}
}

type field struct{ name, value string }

// fieldsOf lists a struct's fields in the order of their names.
func fieldsOf(v any) []field {
	data, err := json.Marshal(v)
	var all map[string]json.RawMessage
	if err == nil {
		err = json.Unmarshal(data, &all)
	}
	if err != nil {
		panic("a report's part does not go through JSON: " + err.Error())
	}
	var list []field
	for name, value := range all {
		list = append(list, field{name, string(value)})
	}
	slices.SortFunc(list, func(a, b field) int {
		if a.name < b.name {
			return -1
		}
		return 1
	})
	return list
}

// WriteText writes the comparison for people, as Report.WriteText does.
func (c *Comparison) WriteText(w io.Writer) {
	for _, d := range c.Differences {
		fmt.Fprintf(w, "not the same: %s\t%s\t%s\n", d.Name, d.A, d.B)
	}
	fmt.Fprintf(w, "MEASURE\tA\tB\tB/A\t\n")
	for _, m := range c.Measures {
		fmt.Fprintf(w, "%s\t%s\t%s\t%.2f\t%s\n", m.Name, number(m.A), number(m.B), m.Ratio, m.verdict())
	}
}

// number shows four digits, and whole numbers whole.
func number(v float64) string {
	if v >= 1000 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.4g", v)
}

// sameWithin is what two runs of the same may differ by on a quiet machine.
const sameWithin = 0.05

func (m Measure) verdict() string {
	switch {
	case m.A == 0 || m.Ratio > 1-sameWithin && m.Ratio < 1+sameWithin:
		return ""
	case (m.Ratio > 1) == (m.Better == higher):
		return "better"
	}
	return "worse"
}
