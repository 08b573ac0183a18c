package bench

import (
	"fmt"
	"strings"
	"time"
)

const (
	// A soak takes this many checkpoints, so that its log is cut many times, though
	// not more often than its group may.
	soakCheckpoints = 20
	minInterval     = time.Second
	// soakOutcomes are reached within a minute, so that forgetting is part of most
	// of it.
	soakOutcomes = 20_000
)

// definition is the group's file. Only a soak's group takes checkpoints by itself:
// others would have them in the middle of what is measured.
func (c *Config) definition(participants []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "group: %s\nparticipants:\n", groupName)
	for _, name := range participants {
		fmt.Fprintf(&b, "  - {name: %s}\n", name)
	}
	copies := 2
	if c.Nodes == 1 {
		copies = 1
	}
	interval := 24 * time.Hour
	if c.Workload == Soak {
		interval = max(c.Duration/soakCheckpoints, minInterval)
		fmt.Fprintf(&b, "outcomes: {age: 24h, count: %d}\n", soakOutcomes)
	}
	fmt.Fprintf(&b, "checkpoint: {interval: %s, log_bytes: 0, log_entries: 0, min_gap: 0s, max_pause: 2s, min_copies: %d}\n", interval, copies)
	return b.String()
}
