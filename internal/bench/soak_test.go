package bench

import (
	"strings"
	"testing"
)

// Without it a leak would pass for flat, or waves for a leak.
func TestSoakTellsGrowthFromWaves(t *testing.T) {
	for _, tt := range []struct {
		name string
		at   func(n int) sample
		flat bool
	}{
		{"constant", func(int) sample { return sample{goroutines: 200, heapBytes: 50 << 20} }, true},
		{"warms up, then constant", func(n int) sample { return sample{goroutines: float64(min(n, 100))} }, true},
		{"waves", func(n int) sample { return sample{diskBytes: float64(1<<30 + n%20*(50<<20))} }, true},
		{"waves that rise", func(n int) sample { return sample{diskBytes: float64(n*(10<<20) + n%20*(50<<20))} }, false},
		{"one goroutine a sample", func(n int) sample { return sample{goroutines: float64(100 + n)} }, false},
		{"one of several grows", func(n int) sample { return sample{openFiles: float64(50 + n), goroutines: 10} }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var samples []sample
			for n := range soakSamples {
				samples = append(samples, tt.at(n))
			}
			f := judge(samples)
			if f.Flat != tt.flat || len(f.Resources) == 0 {
				t.Fatalf("%+v", f)
			}
			report := &Report{Figures: &Figures{}, Soak: f}
			if failure := report.Failure(); (failure == "") != tt.flat {
				t.Fatalf("failure %q", failure)
			}
		})
	}
	if f := judge([]sample{{goroutines: 1}}); f.Flat {
		t.Error("a single sample shows nothing")
	}
	failed := &Report{Figures: &Figures{Failed: 1}, Soak: &SoakFigures{Flat: true}}
	if !strings.Contains(failed.Failure(), "failed") {
		t.Error("operations that failed do not fail a soak")
	}
}
