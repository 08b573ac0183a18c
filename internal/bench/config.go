package bench

import (
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/cohort-tx/cohort/groups"
	"github.com/cohort-tx/cohort/participant"
)

// Workload names what is measured.
type Workload string

// Values of Workload.
const (
	// Transfer reads a key at each of two participants and writes both.
	Transfer Workload = "transfer"
	// Add adds to a counter at each of two participants, blindly.
	Add Workload = "add"
	// Write puts a value at each of N participants, blindly.
	Write Workload = "write"
	// Read reads a key at each of N participants, in one snapshot.
	Read Workload = "read"
	// Mixed is one half Read, one quarter Add and one quarter Transfer.
	Mixed Workload = "mixed"
	// Call calls a service of each of two participants, which adds to a counter.
	Call Workload = "call"
	// Checkpoint takes checkpoints of growing data while Write goes on.
	Checkpoint Workload = "checkpoint"
	// Restore restores growing data to new groups.
	Restore Workload = "restore"
	// Raw proposes plain entries to dragonboat, to a machine that does nothing.
	Raw Workload = "raw"
	// Soak runs Mixed for long and looks whether anything grows.
	Soak Workload = "soak"
)

// Workloads are all of them.
func Workloads() []Workload {
	return []Workload{Transfer, Add, Write, Read, Mixed, Call, Checkpoint, Restore, Raw, Soak}
}

// Via is how a transaction gets to its coordinator.
type Via string

// Values of Via.
const (
	// ViaAPI calls the coordinator in process.
	ViaAPI Via = "api"
	// ViaGRPC uses the SDK over loopback or the network.
	ViaGRPC Via = "grpc"
)

// Bounds, each with its reason.
const (
	// MaxNodes is what fits on one machine.
	MaxNodes = 9
	// MaxClients: each has a connection to every node it talks to.
	MaxClients = 256
	// MaxInFlight is what a group admits by default; more would be refused.
	MaxInFlight = 4096
	// MaxKeys: all of them are written before some workloads.
	MaxKeys = 10_000_000
	// MaxSkew: beyond it nearly all draws are the first key.
	MaxSkew = 5
	// MaxValueBytes is a group's default limit of a value.
	MaxValueBytes = 1 << 20
	// maxTransactionBytes is a group's default limit of a transaction, less what
	// keys and framing take.
	maxTransactionBytes = 4<<20 - 64<<10
	// MaxDuration of one measurement; a soak may be as long.
	MaxDuration = 7 * 24 * time.Hour
	// minSoak has enough samples to compare.
	minSoak = time.Second
	// MaxRate keeps the times between two operations above a nanosecond by far.
	MaxRate = 10_000_000
	// MaxSizes and MaxRounds bound how long checkpoint and restore take.
	MaxSizes  = 16
	MaxRounds = 1000
	// MaxEntries that a restore replays.
	MaxEntries = 10_000_000
	// minSize has at least one value.
	minSize = fillValueBytes
)

// Config says what to measure. Zero fields become defaults.
type Config struct {
	Workload Workload
	// Via is ViaAPI by default on an embedded cluster, ViaGRPC on a running one.
	Via Via
	// Running is a cluster to measure; nil starts one in this process.
	Running *Running
	// Nodes of the embedded cluster; 3.
	Nodes int
	// Clients are the SDK's that the operations are spread over, each with its own
	// connections; 1. Only ViaGRPC has them.
	Clients int
	// InFlight is how many operations may be under way at once; 64, and 16 for
	// Checkpoint and Soak.
	InFlight int
	// Keys of each participant; 10,000.
	Keys uint64
	// Skew of the zipfian choice of keys; 0 is uniform.
	Skew float64
	// ValueBytes of what Write puts and Read reads; 100.
	ValueBytes int
	// Participants of Write and Read; 2.
	Participants int
	// Rate is operations a second of an open loop; 0 is a closed one.
	Rate float64
	// Warmup before what is measured, 2 s, negative for none, and Duration of it,
	// 10 s. A soak's Duration is all of it, 10 minutes, and it warms up in its first
	// half.
	Warmup, Duration time.Duration
	// CompareRaw measures Raw under the same load too: half of the time before, half
	// after.
	CompareRaw bool
	// Sizes of the data of Checkpoint and Restore, growing, in bytes; 10 MiB and
	// 100 MiB.
	Sizes []uint64
	// Rounds of Checkpoint at each size; 5.
	Rounds int
	// Entries that Restore replays after its checkpoint; 10,000.
	Entries int
	// CPUProfile takes a profile of the process while operations are measured, raw
	// ones not among them; nil for none.
	CPUProfile io.Writer
	// Version of the program.
	Version string

	// rtt is Raft's in tests, for fast elections; 0 is a node's default.
	rtt time.Duration
}

// Running is a cluster that was there before.
type Running struct {
	// Addrs are its nodes, Options what clients need beside.
	Addrs   string
	Options []participant.ClientOption
}

// EnsureDefaults fills in what is zero.
func (c *Config) EnsureDefaults() {
	via := ViaAPI
	if c.Running != nil {
		via = ViaGRPC
	}
	orDefault(&c.Via, via)
	if c.Running == nil {
		orDefault(&c.Nodes, 3)
	}
	if c.Via == ViaGRPC {
		orDefault(&c.Clients, 1)
	}
	inFlight, duration := 64, 10*time.Second
	if c.Workload == Checkpoint || c.Workload == Soak {
		inFlight = 16
	}
	if c.Workload == Soak {
		duration = 10 * time.Minute
	}
	orDefault(&c.InFlight, inFlight)
	orDefault(&c.Duration, duration)
	orDefault(&c.Warmup, 2*time.Second)
	c.Warmup = max(c.Warmup, 0)
	orDefault(&c.Keys, 10_000)
	orDefault(&c.ValueBytes, 100)
	orDefault(&c.Participants, 2)
	if len(c.Sizes) == 0 {
		c.Sizes = []uint64{10 << 20, 100 << 20}
	}
	orDefault(&c.Rounds, 5)
	orDefault(&c.Entries, 10_000)
}

func orDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Validate returns everything that is wrong.
func (c *Config) Validate() error {
	var faults []error
	fault := func(wrong bool, format string, args ...any) {
		if wrong {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	fault(!slices.Contains(Workloads(), c.Workload), "workload %q is not known", c.Workload)
	fault(c.Via != ViaAPI && c.Via != ViaGRPC, "via %q: give api or grpc", c.Via)
	if c.Running != nil {
		fault(c.Via == ViaAPI, "via api needs the cluster in this process: leave the address out, or use via grpc")
		fault(c.Nodes != 0, "the number of nodes is that of the running cluster: leave it out")
		fault(c.CompareRaw || c.Workload == Raw, "raw entries need the cluster in this process: leave the address out")
		fault(c.Workload == Restore, "a restore leaves a new group behind: measure it on an embedded cluster, or try a running one with 'cohort drill'")
		fault(c.Workload == Soak, "a soak watches its own process: leave the address out")
	} else {
		between(fault, "nodes", c.Nodes, 1, MaxNodes)
	}
	if c.Via == ViaAPI {
		fault(c.Clients != 0, "clients are gRPC's: via api has none, in-flight says how many operations are under way")
	} else {
		between(fault, "clients", c.Clients, 1, MaxClients)
		fault(c.Clients > c.InFlight, "%d clients for %d operations in flight: some would do nothing", c.Clients, c.InFlight)
	}
	between(fault, "in-flight", c.InFlight, 1, MaxInFlight)
	between(fault, "keys", c.Keys, 1, MaxKeys)
	fault(math.IsNaN(c.Skew) || c.Skew < 0 || c.Skew > MaxSkew, "skew %v: give 0 (uniform) to %d; 0.99 is usual", c.Skew, MaxSkew)
	between(fault, "value-size", c.ValueBytes, 1, MaxValueBytes)
	between(fault, "participants", c.Participants, 1, groups.MaxParticipants)
	fault(c.Participants*c.ValueBytes > maxTransactionBytes, "%d participants with %d bytes each are more than a transaction may have (4 MiB)", c.Participants, c.ValueBytes)
	fault(math.IsNaN(c.Rate) || c.Rate < 0 || c.Rate > MaxRate, "rate %v: give operations a second, up to %d, or 0 for as many as go", c.Rate, MaxRate)
	between(fault, "duration", c.Duration, time.Millisecond, MaxDuration)
	between(fault, "warmup", c.Warmup, 0, MaxDuration)
	fault(c.Workload == Soak && c.Duration < minSoak, "a soak of %s shows nothing: give at least %s, and ten minutes to learn something", c.Duration, minSoak)
	fault(c.CompareRaw && !rawComparable(c.Workload), "%s is not compared with raw", c.Workload)
	fault(c.CPUProfile != nil && !rawComparable(c.Workload), "%s has no profile", c.Workload)
	c.sizeFaults(fault)
	return errors.Join(faults...)
}

func (c *Config) sizeFaults(fault func(bool, string, ...any)) {
	fault(len(c.Sizes) > MaxSizes, "%d sizes, at most %d", len(c.Sizes), MaxSizes)
	last := uint64(0)
	for _, size := range c.Sizes {
		fault(size < minSize, "size %d: give at least %d bytes", size, minSize)
		fault(size <= last, "sizes must grow: %d comes after %d", size, last)
		last = size
	}
	between(fault, "rounds", c.Rounds, 1, MaxRounds)
	between(fault, "entries", c.Entries, 0, MaxEntries)
}

func between[T int | uint64 | time.Duration](fault func(bool, string, ...any), name string, value, least, most T) {
	fault(value < least || value > most, "%s %v: give %v to %v", name, value, least, most)
}

// rawComparable tells whether a workload is operations and nothing else, which
// stand beside raw entries.
func rawComparable(w Workload) bool {
	return slices.Contains([]Workload{Transfer, Add, Write, Read, Mixed, Call}, w)
}

// participants names those that the workload needs.
func (c *Config) participants() []string {
	n := 2
	if c.Workload == Write || c.Workload == Read {
		n = max(n, c.Participants)
	}
	names := make([]string, n)
	for i := range names {
		names[i] = participantName(i)
	}
	return names
}

const (
	groupName         = "bench"
	participantPrefix = "bench-"
)

func participantName(i int) string { return fmt.Sprintf("%s%d", participantPrefix, i+1) }

// ours tells whether a group named like ours is.
func ours(participants []string) bool {
	for _, name := range participants {
		if !strings.HasPrefix(name, participantPrefix) {
			return false
		}
	}
	return true
}
