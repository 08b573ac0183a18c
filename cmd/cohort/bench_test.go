package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/cohort-tx/cohort/internal/bench"
)

// Without it a benchmark with a wrong flag would measure something else.
func TestBenchRefusesWrongUsage(t *testing.T) {
	for _, tt := range []struct{ line, says string }{
		{"bench", "needs a command"},
		{"bench ad", `did you mean "add"`},
		{"bench add now", "unknown command"},
		{"bench add --in-flight 0", "at least 1"},
		{"bench add --in-flight 100000", "in-flight 100000: give 1 to 4096"},
		{"bench add --duration -1s", "duration"},
		{"bench add --warmup -1s", "--warmup"},
		{"bench add --skew -1", "0.99 is usual"},
		{"bench add --rate -5", "rate -5"},
		{"bench add --via pigeon", "api or grpc"},
		{"bench add --clients 4", "clients are gRPC's"},
		{"bench add --nodes 3 --addr 127.0.0.1:1", "leave it out"},
		{"bench add --compare-raw --addr 127.0.0.1:1", "raw entries need"},
		{"bench restore --addr 127.0.0.1:1", "cohort drill"},
		{"bench soak --addr 127.0.0.1:1", "its own process"},
		{"bench soak --for 1ms", "shows nothing"},
		{"bench checkpoint --sizes 1MB", "like 100MiB"},
		{"bench checkpoint --sizes 2MiB,1MiB", "sizes must grow"},
		{"bench transfer --value-size 10", "unknown flag"},
		{"bench compare a.json", "accepts 2 arg"},
	} {
		t.Run(tt.line, func(t *testing.T) {
			code, stdout, stderr := runCLI(t, strings.Fields(tt.line)...)
			if code != exitUsage || !strings.Contains(stderr, tt.says) || stdout != "" {
				t.Fatalf("exit %d, stdout %q, stderr %q; want exit 2 and %q", code, stdout, stderr, tt.says)
			}
		})
	}
}

// Without it a size could be read as another one.
func TestParseSize(t *testing.T) {
	for text, want := range map[string]uint64{"8192": 8192, "64KiB": 64 << 10, "10MiB": 10 << 20, "3GiB": 3 << 30} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("%s: %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "MiB", "1.5GiB", "-1", "10 MiB", "99999999999GiB"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("%q was read as %d", text, got)
		}
	}
}

// Without it an interrupt would lose what was measured, and two reports could not
// be compared by the command.
func TestBenchInterruptedAndCompared(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	p := startProgram(t, "bench", "add", "--nodes", "1", "--in-flight", "4", "--warmup", "0s", "--duration", "1h", "-o", "json")
	eventually(t, "it measures", func() bool { return strings.Contains(p.stderr.String(), "add\n") })
	// What began before the interrupt is waited for and counts.
	p.signal(syscall.SIGINT)
	line := p.line()
	if code := p.wait(); code != exitDone {
		t.Fatalf("exit %d: %s", code, p.stderr)
	}
	var report bench.Report
	if err := json.Unmarshal([]byte(line), &report); err != nil || !report.Interrupted || report.Operations == 0 || report.Latency.P50Seconds <= 0 {
		t.Fatalf("%s: %v", line, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}

	file := filepath.Join(t.TempDir(), "a.json")
	if err := os.WriteFile(file, []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	var same bench.Comparison
	if err := json.Unmarshal([]byte(mustCLI(t, "bench", "compare", file, file, "-o", "json")), &same); err != nil {
		t.Fatal(err)
	}
	alike := slices.ContainsFunc(same.Measures, func(m bench.Measure) bool { return m.Name == "latency.p50_seconds" && m.Ratio == 1 })
	if len(same.Differences) > 0 || !alike {
		t.Errorf("compared with itself: %+v", same)
	}
	if code, _, stderr := runCLI(t, "bench", "compare", file, os.Args[0]); code != exitFailed || !strings.Contains(stderr, filepath.Base(os.Args[0])) {
		t.Errorf("a file that is no report: exit %d, %s", code, stderr)
	}
	if code, _, stderr := runCLI(t, "bench", "add", "--addr", "127.0.0.1:1", "--timeout", "200ms"); code != exitFailed || stderr == "" {
		t.Errorf("nobody there: exit %d, %s", code, stderr)
	}
}
