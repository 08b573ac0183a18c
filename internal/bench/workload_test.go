package bench

import (
	"context"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cohort-tx/cohort/participant"
	"github.com/cohort-tx/cohort/participant/participanttest"
)

// measureSome runs a workload for a moment, and again for longer when the machine
// was too busy for an operation to end in it.
func measureSome(t *testing.T, c Config) *Report {
	t.Helper()
	orDefault(&c.Duration, 150*time.Millisecond)
	c.Warmup = -1
	for {
		r, err := Run(t.Context(), c, nil)
		if err == nil && enough(r) {
			return r
		}
		if err != nil && !errors.Is(err, ErrNothingMeasured) {
			t.Fatal(err)
		}
		if c.Duration *= 4; c.Duration > 30*time.Second {
			t.Fatalf("no operation ended in %s: %+v, %v", c.Duration/4, r, err)
		}
	}
}

// enough tells whether something ended in each part of a run.
func enough(r *Report) bool {
	for _, f := range []*Figures{r.Figures, r.Raw} {
		if f != nil && (f.Operations == 0 || f.Throughput == 0) {
			return false
		}
	}
	return !slices.ContainsFunc(r.Checkpoints, func(c CheckpointFigures) bool { return c.ThroughputBefore == 0 })
}

// Without it a workload could stop working, and nobody would know before they
// need a figure. Each runs for a moment.
func TestEveryWorkload(t *testing.T) {
	for _, c := range []Config{
		{Workload: Transfer, Skew: 0.99, CompareRaw: true},
		{Workload: Transfer, Via: ViaGRPC, Clients: 2},
		{Workload: Add, Nodes: 3, CompareRaw: true},
		{Workload: Write, Participants: 5, ValueBytes: 1000, Rate: 200},
		{Workload: Read, Participants: 1},
		{Workload: Mixed, Via: ViaGRPC},
		{Workload: Call},
		{Workload: Checkpoint, Sizes: []uint64{64 << 10, 128 << 10}, Rounds: 2},
		{Workload: Restore, Sizes: []uint64{64 << 10}, Entries: 50},
		{Workload: Raw},
		{Workload: Soak, Duration: time.Second},
	} {
		t.Run(string(c.Workload)+string(c.Via), func(t *testing.T) {
			dir := t.TempDir()
			t.Setenv("TMPDIR", dir)
			orDefault(&c.Nodes, 1)
			c.Keys, c.InFlight = 200, 8
			if c.Nodes == 1 {
				c.rtt = 10 * time.Millisecond // one node has nobody to wait for
			}
			r := measureSome(t, c)
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
			if f := r.Figures; f != nil && (f.Failed > 0 || f.Latency.P50Seconds <= 0) {
				t.Errorf("figures %+v", f)
			}
			switch c.Workload {
			case Checkpoint:
				if len(r.Checkpoints) != 2 || r.Checkpoints[0].PauseSeconds <= 0 || r.Checkpoints[1].CopyBytes < 128<<10 || r.Checkpoints[1].ThroughputBefore <= 0 {
					t.Errorf("checkpoints %+v", r.Checkpoints)
				}
			case Restore:
				if len(r.Restores) != 1 || r.Restores[0].EntriesReplayed < 50 || r.Restores[0].Seconds <= 0 {
					t.Errorf("restores %+v", r.Restores)
				}
			case Soak:
				if r.Soak == nil || len(r.Soak.Resources) < 3 {
					t.Errorf("soak %+v", r.Soak)
				}
			}
			if c.CompareRaw && (r.RatioToRaw == nil || r.RatioToRaw.Throughput <= 0 || r.RatioToRaw.P50 <= 0 || r.RatioToRaw.P99 <= 0) {
				t.Errorf("ratio %+v", r.RatioToRaw)
			}
		})
	}
}

// Without it transfer and call could make money, and their figures would be those
// of something else than transactions. It runs on a cluster that was there before.
func TestTransfersAndCallsKeepTheSum(t *testing.T) {
	c := participanttest.Start(t)
	sum := func() (sum, changed int64) {
		err := c.Client.Group(groupName).View(t.Context(), func(tx *participant.ReadTx) error {
			for _, p := range []string{participantName(0), participantName(1)} {
				for item, err := range tx.Store(p).Scan(countPrefix) {
					if err != nil {
						return err
					}
					n, err := strconv.ParseInt(string(item.Value), 10, 64)
					if err != nil {
						return err
					}
					sum += n
					if n != opening {
						changed++
					}
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return sum, changed
	}
	const keys = 20
	for _, w := range []Workload{Transfer, Call} {
		r := measureSome(t, Config{Workload: w, Running: &Running{Addrs: c.Addr}, Keys: keys, Skew: 1, InFlight: 8})
		total, changed := sum()
		if total != 2*keys*opening || changed == 0 || r.Settings.Via != ViaGRPC || r.Operations == 0 {
			t.Errorf("%s: the sum is %d, want %d; %d balances changed by %d operations", w, total, 2*keys*opening, changed, r.Operations)
		}
	}
}

// Without it a benchmark could write into an application's group.
func TestForeignGroupIsLeftAlone(t *testing.T) {
	c := participanttest.Start(t, "group: bench\nparticipants: [{name: orders}, {name: bench-1}]\n")
	_, err := Run(t.Context(), Config{Workload: Add, Running: &Running{Addrs: c.Addr}, Duration: time.Second}, nil)
	if err == nil || !strings.Contains(err.Error(), "will not write") {
		t.Fatal(err)
	}
}

// Without it an interrupt during the start would show as some failure.
func TestInterruptedBeforeAnything(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	_, err := Run(ctx, Config{Workload: Add, Nodes: 1, rtt: 10 * time.Millisecond}, func(s Step) {
		if s.Name == "add, warming up" {
			cancel()
		}
	})
	if !errors.Is(err, ErrNothingMeasured) {
		t.Fatal(err)
	}
}
