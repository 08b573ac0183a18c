package bench

import (
	"strings"
	"testing"
	"time"

	"github.com/cohort-tx/cohort/groups"
)

// Without it a wrong setting would show as a strange figure.
func TestConfigNamesEveryFault(t *testing.T) {
	running := &Running{Addrs: "127.0.0.1:1"}
	for _, tt := range []struct {
		config Config
		says   []string
	}{
		{Config{Workload: "dance"}, []string{`"dance" is not known`}},
		{Config{Workload: Add, Via: "pigeon"}, []string{"api or grpc"}},
		{Config{Workload: Add, Running: running, Via: ViaAPI, Nodes: 3, CompareRaw: true}, []string{"via api needs", "number of nodes", "raw entries"}},
		{Config{Workload: Restore, Running: running}, []string{"cohort drill"}},
		{Config{Workload: Soak, Running: running}, []string{"its own process"}},
		{Config{Workload: Raw, Running: running}, []string{"raw entries"}},
		{Config{Workload: Add, Nodes: 10, InFlight: 5000, Keys: 1 << 40, Skew: -1, Rate: -1}, []string{"nodes 10", "in-flight 5000", "keys", "skew", "rate"}},
		{Config{Workload: Add, Clients: 2}, []string{"clients are gRPC's"}},
		{Config{Workload: Add, Via: ViaGRPC, Clients: 8, InFlight: 4}, []string{"8 clients for 4"}},
		{Config{Workload: Write, Participants: 100, ValueBytes: 1 << 20}, []string{"more than a transaction may have"}},
		{Config{Workload: Checkpoint, Sizes: []uint64{1 << 20, 1 << 20}, Rounds: -1, CompareRaw: true}, []string{"sizes must grow", "rounds", "not compared"}},
		{Config{Workload: Soak, Duration: time.Millisecond}, []string{"shows nothing"}},
	} {
		tt.config.EnsureDefaults()
		err := tt.config.Validate()
		for _, says := range tt.says {
			if err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("%+v: %v, want %q", tt.config, err, says)
			}
		}
	}
	for _, w := range Workloads() {
		c := Config{Workload: w}
		c.EnsureDefaults()
		if err := c.Validate(); err != nil {
			t.Errorf("%s by default: %v", w, err)
		}
	}
}

// Without it a benchmark could stop at a group file of its own.
func TestDefinitionsAreValid(t *testing.T) {
	for _, w := range Workloads() {
		for _, nodes := range []int{0, 1, 3} {
			c := Config{Workload: w, Nodes: nodes, Participants: groups.MaxParticipants}
			c.EnsureDefaults()
			if _, faults := groups.ParseFiles([]groups.File{{Name: "bench.yaml", Data: []byte(c.definition(c.participants()))}}); len(faults) > 0 {
				t.Errorf("%s on %d nodes: %v", w, nodes, faults)
			}
		}
	}
}
