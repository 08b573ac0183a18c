package bench

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// WriteText writes the report for people, in cells that end in tabs as a
// tabwriter takes them.
func (r *Report) WriteText(w io.Writer) {
	s := r.Settings
	where := "a running cluster"
	if s.Nodes > 0 {
		where = fmt.Sprintf("%d node(s) in this process", s.Nodes)
	}
	fmt.Fprintf(w, "%s: %s, via %s, %d in flight", r.Workload, where, s.Via, s.InFlight)
	if s.RatePerSecond > 0 {
		fmt.Fprintf(w, ", %.0f/s asked for", s.RatePerSecond)
	}
	fmt.Fprintln(w)
	if r.Interrupted {
		fmt.Fprintln(w, "interrupted: what was measured until then")
	}
	if r.Figures != nil {
		r.writeFigures(w)
	}
	if r.RatioToRaw != nil {
		fmt.Fprintf(w, "  raw entries\t%.0f/s\tp50 %s\tp99 %s\n", r.Raw.Throughput, seconds(r.Raw.Latency.P50Seconds), seconds(r.Raw.Latency.P99Seconds))
		fmt.Fprintf(w, "  ratio to raw\t%.2f\tp50 %.2f\tp99 %.2f\n", r.RatioToRaw.Throughput, r.RatioToRaw.P50, r.RatioToRaw.P99)
	}
	for _, c := range r.Checkpoints {
		fmt.Fprintf(w, "  %s\tpause %s\t(longest %s)\twritten in %s\t%.0f/s before\t%.0f/s during\tratio %.2f\n", size(c.SizeBytes),
			seconds(c.PauseSeconds), seconds(c.MaxPauseSeconds), seconds(c.WriteSeconds), c.ThroughputBefore, c.ThroughputDuring, c.ThroughputRatio)
	}
	for _, c := range r.Restores {
		fmt.Fprintf(w, "  %s\trestored in %s\tload %s (%s/s)\treplay %s (%d entries, %.0f/s)\n", size(c.SizeBytes), seconds(c.Seconds),
			seconds(c.LoadSeconds), size(uint64(c.LoadBytesPerSecond)), seconds(c.ReplaySeconds), c.EntriesReplayed, c.ReplayEntriesPerSecond)
	}
	if r.Soak != nil {
		r.Soak.writeText(w)
	}
}

func (r *Report) writeFigures(w io.Writer) {
	l := r.Latency
	fmt.Fprintf(w, "  throughput\t%.0f/s\t%d operations in %s\n", r.Throughput, r.Operations, seconds(r.Seconds))
	fmt.Fprintf(w, "  latency\tp50 %s\tp90 %s\tp99 %s\tp99.9 %s\tmax %s\n",
		seconds(l.P50Seconds), seconds(l.P90Seconds), seconds(l.P99Seconds), seconds(l.P999Seconds), seconds(l.MaxSeconds))
	if r.Retries > 0 {
		fmt.Fprintf(w, "  retries\t%d\n", r.Retries)
	}
	if r.Failed > 0 {
		var kinds []string
		for _, kind := range slices.Sorted(maps.Keys(r.Errors)) {
			kinds = append(kinds, fmt.Sprintf("%s %d", kind, r.Errors[kind]))
		}
		fmt.Fprintf(w, "  FAILED\t%d\t%s\n", r.Failed, strings.Join(kinds, ", "))
	}
	if r.NotStarted > 0 {
		fmt.Fprintf(w, "  NOT STARTED\t%d\tthe rate is more than goes: raise --in-flight, or lower --rate\n", r.NotStarted)
	}
}

func (f *SoakFigures) writeText(w io.Writer) {
	for _, r := range f.Resources {
		mark := "flat"
		if !r.Flat {
			mark = "GROWS"
		}
		amount := func(v float64) string { return fmt.Sprintf("%.0f", v) }
		if strings.HasSuffix(r.Name, "_bytes") {
			amount = func(v float64) string { return size(uint64(v)) }
		}
		fmt.Fprintf(w, "  %s\t%s\t%s, then %s\t(at most %s counts as flat)\n", r.Name, mark, amount(r.Before), amount(r.After), amount(r.Limit))
	}
	verdict := "flat: nothing grows"
	if !f.Flat {
		verdict = "NOT FLAT"
	}
	fmt.Fprintf(w, "  verdict\t%s\n", verdict)
}

// seconds shows a duration with three digits.
func seconds(s float64) string {
	d := time.Duration(s * float64(time.Second))
	unit := time.Nanosecond
	for d/unit >= 1000 {
		unit *= 10
	}
	return d.Round(unit).String()
}

func size(n uint64) string {
	value, unit := float64(n), 0
	for value >= 1024 && unit < 4 {
		value, unit = value/1024, unit+1
	}
	if unit == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGT"[unit-1])
}
