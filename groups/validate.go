package groups

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/cohort-tx/cohort/internal/strictyaml"
)

// HeartbeatInterval is the time between a node's heartbeats to the coordinators
// of its groups. A lease shorter than two of them would end when a single one is
// late.
const HeartbeatInterval = 500 * time.Millisecond

// Bounds of a definition, each with its reason.
const (
	// MaxParticipants: every prepare asks all that a transaction touches, and
	// status shows them all.
	MaxParticipants = 256
	// MaxCommandArgs and MaxTextBytes keep definitions small enough to travel in
	// the log.
	MaxCommandArgs = 64
	MaxTextBytes   = 1024
	// MaxTimesOfDay is one an hour.
	MaxTimesOfDay = 24

	// MaxTransactionBytes: an entry is never split, and the store's memtable has to
	// be about seven times the largest, in memory on every replica; Raft's
	// transport also bounds a message to 64 MiB.
	MaxTransactionBytes = 16 << 20
	// MaxTransactionKeys: the memtable has to hold about 640 bytes for each.
	MaxTransactionKeys = 100_000
	// transactionOverhead is room that a value needs beside itself in a
	// transaction: its key and framing.
	transactionOverhead = 2 << 10
	// MaxScanKeys: scans run again at every replica when their transaction is
	// decided, and everything behind waits.
	MaxScanKeys = 100_000
	// MaxOpen and MaxInFlight: a coordinator keeps some kilobytes for each.
	MaxOpen     = 1 << 20
	MaxInFlight = 1 << 16
	// MaxStagedBytes is held in the coordinator's memory.
	MaxStagedBytes = 16 << 30
	// MaxOutcomes are kept on every replica, about 200 bytes each.
	MaxOutcomes = 100_000_000
	// MaxCheckpoints kept, each with the whole data of the group.
	MaxCheckpoints = 1000
	// MaxProbeFailures in a row; beyond it a probe finds nothing.
	MaxProbeFailures = 1000

	minTimeout = 10 * time.Millisecond
	// maxTimeout: an open attempt pins its snapshot, and with it what the store may
	// not discard.
	maxTimeout  = time.Hour
	minInterval = time.Second
	// maxInterval and the like keep sums of durations far from overflow.
	maxInterval = 10 * 365 * 24 * time.Hour
	minPause    = time.Millisecond
	// maxPause: commits wait behind the gate.
	maxPause      = time.Minute
	maxWait       = time.Hour
	minProbeEvery = 10 * time.Millisecond
	maxProbeEvery = time.Hour
	maxFailAfter  = time.Hour
	maxGrace      = time.Hour
	minOutcomeAge = time.Second
	// minLogTrigger: a smaller log_bytes would take a checkpoint for each
	// transaction.
	minLogTrigger = 4 << 10
)

const nameForm = "use a lower-case letter, then lower-case letters, digits and hyphens, 63 at most"

// Validate returns an *InvalidError with everything wrong, or nil. What depends
// on the cluster, as whether listed nodes exist, is Placement's to say.
func (d *Definition) Validate() error {
	if problems := d.problems(); len(problems) > 0 {
		return &InvalidError{Group: d.Group, Problems: problems}
	}
	return nil
}

func (d *Definition) problems() strictyaml.Problems {
	var p strictyaml.Problems
	switch {
	case d.Group == "":
		p.Add("group", "the group has no name; write one, as in `group: checkout`")
	case !ValidName(d.Group):
		p.Add("group", "%s is no name for a group; %s", strictyaml.Show(d.Group), nameForm)
	}
	if len(d.Replicas) > MaxMembers {
		p.Add("replicas", "%d replicas, at most %d: a quorum of more is slow and no safer", len(d.Replicas), MaxMembers)
	} else {
		nodeList(&p, "replicas", d.Replicas)
	}
	d.participantProblems(&p)
	d.checkpointProblems(&p)
	between(&p, "outcomes.age", d.Outcomes.Age, minOutcomeAge, maxInterval)
	between(&p, "outcomes.count", d.Outcomes.Count, 1, MaxOutcomes)
	if d.Outcomes.Age < d.Limits.Timeout && d.Outcomes.Age >= minOutcomeAge {
		p.AddWith("outcomes.age", "limits.timeout", "%s is less than limits.timeout, %s: an id could be forgotten while its transaction is tried again, and commit twice; raise the one or lower the other",
			duration(d.Outcomes.Age), duration(d.Limits.Timeout))
	}
	d.retentionProblems(&p)
	d.failoverProblems(&p)
	d.limitProblems(&p)
	if len(p) == 0 {
		if data, err := d.MarshalJSON(); err != nil || len(data) > MaxDefinitionBytes {
			p.Add("participants", "the whole definition takes %d bytes, at most %d; shorten commands or split the group", len(data), MaxDefinitionBytes)
		}
	}
	return p
}

func (d *Definition) participantProblems(p *strictyaml.Problems) {
	if len(d.Participants) == 0 {
		p.Add("participants", "the group has no participants; name at least one, as in `participants: [{name: orders}]`")
	}
	if len(d.Participants) > MaxParticipants {
		p.Add("participants", "%d participants, at most %d; split the group", len(d.Participants), MaxParticipants)
		return
	}
	labels := strictyaml.Labels(d.ParticipantNames())
	for i := range d.Participants {
		one, path := &d.Participants[i], "participants["+labels[i]+"]"
		switch {
		case one.Name == "":
			p.Add(path+".name", "the participant has no name; write one, as in `name: orders`")
		case !ValidName(one.Name):
			p.Add(path+".name", "%s is no name for a participant; %s", strictyaml.Show(one.Name), nameForm)
		case labels[i] != one.Name:
			p.Add(path+".name", "participant %s is listed twice; leave one", strictyaml.Show(one.Name))
		}
		if len(one.Nodes) > MaxNodes {
			p.Add(path+".nodes", "%d nodes, at most %d", len(one.Nodes), MaxNodes)
		} else {
			nodeList(p, path+".nodes", one.Nodes)
		}
		if one.Nodes != nil && len(one.Nodes) == 0 {
			p.Add(path+".nodes", "the list is empty; name a node, or leave the key out for any node")
		}
		if one.Command != nil {
			argumentProblems(p, path+".command", one.Command)
		}
		if one.Health != nil {
			one.Health.problems(p, path+".health")
		}
	}
}

func (h *Health) problems(p *strictyaml.Problems, path string) {
	given := 0
	if h.HTTP != "" {
		given++
		if u, err := url.Parse(h.HTTP); err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || len(h.HTTP) > MaxTextBytes {
			p.Add(path+".http", "%s is not a URL to probe; write one, as in \"http://127.0.0.1:8080/healthz\"", strictyaml.Show(h.HTTP))
		}
	}
	if h.TCP != "" {
		given++
		host, port, err := net.SplitHostPort(h.TCP)
		if number, portErr := strconv.ParseUint(port, 10, 16); err != nil || portErr != nil || number == 0 || host == "" || len(h.TCP) > maxAddressBytes {
			p.Add(path+".tcp", "%s is not an address to probe; write host:port, as in \"127.0.0.1:8080\"", strictyaml.Show(h.TCP))
		}
	}
	if h.Exec != nil {
		given++
		argumentProblems(p, path+".exec", h.Exec)
	}
	if given != 1 {
		p.Add(path, "%d probes are given; want exactly one of http, tcp and exec", given)
	}
	between(p, path+".every", h.Every, minProbeEvery, maxProbeEvery)
	between(p, path+".fail_after", h.FailAfter, 1, MaxProbeFailures)
}

func (d *Definition) checkpointProblems(p *strictyaml.Problems) {
	c := &d.Checkpoint
	if c.Interval == 0 && len(c.At) == 0 && c.LogBytes == 0 && c.LogEntries == 0 {
		p.Add("checkpoint", "nothing triggers a checkpoint, so that the log would grow without end; set one of interval, at, log_bytes and log_entries")
	}
	if c.Interval != 0 {
		between(p, "checkpoint.interval", c.Interval, minInterval, maxInterval)
	}
	if c.LogBytes != 0 {
		size(p, "checkpoint.log_bytes", c.LogBytes, minLogTrigger, strictyaml.MaxSize)
	}
	between(p, "checkpoint.log_entries", c.LogEntries, 0, 1<<53)
	if len(c.At) > MaxTimesOfDay {
		p.Add("checkpoint.at", "%d times of day, at most %d; use interval", len(c.At), MaxTimesOfDay)
	}
	for i, t := range c.At {
		path := fmt.Sprintf("checkpoint.at[%d]", i)
		if t >= 24*60 {
			p.Add(path, "%s is no time of day; want 00:00 to 23:59, in UTC", t)
		}
		if slices.Contains(c.At[:i], t) {
			p.Add(path, "%s is listed twice; leave one", t)
		}
	}
	between(p, "checkpoint.min_gap", c.MinGap, 0, maxInterval)
	if c.Interval >= minInterval && c.MinGap > c.Interval {
		p.AddWith("checkpoint.min_gap", "checkpoint.interval", "%s is more than interval, %s, which could never be kept; lower it", duration(c.MinGap), duration(c.Interval))
	}
	oneOf(p, "checkpoint.wait_for", c.WaitFor)
	between(p, "checkpoint.max_wait", c.MaxWait, minPause, maxWait)
	between(p, "checkpoint.max_pause", c.MaxPause, minPause, maxPause)
	if c.MaxPause > c.MaxWait {
		p.AddWith("checkpoint.max_pause", "checkpoint.max_wait", "%s is more than max_wait, %s, after which the checkpoint gives up; lower it or raise max_wait", duration(c.MaxPause), duration(c.MaxWait))
	}
	between(p, "checkpoint.min_copies", c.MinCopies, 1, MaxMembers)
	if n := uint64(len(d.Replicas)); n > 0 && c.MinCopies > n {
		p.AddWith("checkpoint.min_copies", "replicas", "%d copies can never exist on %d replicas; list more replicas or lower it", c.MinCopies, n)
	}
}

func (d *Definition) retentionProblems(p *strictyaml.Problems) {
	r := &d.Retention
	between(p, "retention.checkpoints", r.Checkpoints, 1, MaxCheckpoints)
	oneOf(p, "retention.log", r.Log)
	switch {
	case r.Log == LogArchive && r.ArchiveDir == "":
		p.AddWith("retention.archive_dir", "retention.log", "log is archive, and there is nowhere to put it; name a directory, or write `log: delete`")
	case r.Log == LogDelete && r.ArchiveDir != "":
		p.AddWith("retention.archive_dir", "retention.log", "log is delete, so that nothing would be put there; write `log: archive`, or leave archive_dir out")
	}
	if message := textProblem(r.ArchiveDir); message != "" {
		p.Add("retention.archive_dir", "%s", message)
	}
	if r.MaxDisk > strictyaml.MaxSize {
		size(p, "retention.max_disk", r.MaxDisk, 0, strictyaml.MaxSize)
	}
	if r.MaxDisk != 0 && r.MaxDisk <= d.Checkpoint.LogBytes {
		p.AddWith("retention.max_disk", "checkpoint.log_bytes", "%s is reached by the log alone before checkpoint.log_bytes, %s, triggers a checkpoint; raise it or lower log_bytes",
			strictyaml.FormatSize(r.MaxDisk), strictyaml.FormatSize(d.Checkpoint.LogBytes))
	}
}

func (d *Definition) failoverProblems(p *strictyaml.Problems) {
	f := &d.Failover
	oneOf(p, "failover.mode", f.Mode)
	if len(f.Choose) == 0 {
		p.Add("failover.choose", "the list is empty; name at least one of %s", strings.Join(ChooseOrder.Values(), ", "))
	}
	for i, c := range f.Choose {
		path := fmt.Sprintf("failover.choose[%d]", i)
		oneOf(p, path, c)
		if slices.Contains(f.Choose[:i], c) {
			p.Add(path, "%s is listed twice; leave one", strictyaml.Show(string(c)))
			return // a list of three words has no more than its first repetition to say
		}
	}
	switch {
	case f.FailAfter < 2*HeartbeatInterval:
		p.Add("failover.fail_after", "%s is less than two heartbeats, so that a single late one would move participants; want at least %s", duration(f.FailAfter), duration(2*HeartbeatInterval))
	default:
		between(p, "failover.fail_after", f.FailAfter, 2*HeartbeatInterval, maxFailAfter)
	}
	between(p, "failover.grace", f.Grace, 0, maxGrace)
	oneOf(p, "failback.mode", d.Failback.Mode)
	between(p, "failback.stable_for", d.Failback.StableFor, 0, maxInterval)
	if d.Failback.Mode == ModeAuto && d.Failback.StableFor < f.FailAfter {
		p.AddWith("failback.stable_for", "failover.fail_after", "%s is less than failover.fail_after, %s: a node that comes and goes would move participants back and forth; raise it", duration(d.Failback.StableFor), duration(f.FailAfter))
	}
}

func (d *Definition) limitProblems(p *strictyaml.Problems) {
	l := &d.Limits
	between(p, "limits.in_flight", l.InFlight, 1, MaxInFlight)
	between(p, "limits.open", l.Open, 1, MaxOpen)
	if l.Open < l.InFlight && l.Open >= 1 {
		p.AddWith("limits.open", "limits.in_flight", "%d is less than in_flight, %d, which could never be reached; raise it or lower in_flight", l.Open, l.InFlight)
	}
	size(p, "limits.value_bytes", l.ValueBytes, 1, MaxTransactionBytes-transactionOverhead)
	size(p, "limits.transaction_bytes", l.TransactionBytes, transactionOverhead, MaxTransactionBytes)
	if l.ValueBytes <= MaxTransactionBytes-transactionOverhead && l.TransactionBytes < l.ValueBytes+transactionOverhead {
		p.AddWith("limits.transaction_bytes", "limits.value_bytes", "%s does not hold one value of value_bytes, %s, with its key; want at least %d bytes, or lower value_bytes",
			strictyaml.FormatSize(l.TransactionBytes), strictyaml.FormatSize(l.ValueBytes), l.ValueBytes+transactionOverhead)
	}
	between(p, "limits.transaction_keys", l.TransactionKeys, 1, MaxTransactionKeys)
	size(p, "limits.staged_bytes", l.StagedBytes, 1, MaxStagedBytes)
	if l.StagedBytes >= 1 && l.StagedBytes < l.TransactionBytes {
		p.AddWith("limits.staged_bytes", "limits.transaction_bytes", "%s is less than transaction_bytes, %s, so that the largest transaction could never be staged; raise it or lower transaction_bytes",
			strictyaml.FormatSize(l.StagedBytes), strictyaml.FormatSize(l.TransactionBytes))
	}
	between(p, "limits.scan_keys", l.ScanKeys, 1, MaxScanKeys)
	between(p, "limits.timeout", l.Timeout, minTimeout, maxTimeout)
}

func duration(d time.Duration) string { return strictyaml.FormatDuration(d) }

// between checks a number or a duration against its range.
func between[T time.Duration | uint64](p *strictyaml.Problems, path string, v, low, high T) {
	if v >= low && v <= high {
		return
	}
	show := func(v T) string {
		if d, ok := any(v).(time.Duration); ok {
			return duration(d)
		}
		return fmt.Sprint(uint64(v))
	}
	p.Add(path, "%s is out of range; want %s to %s", show(v), show(low), show(high))
}

func size(p *strictyaml.Problems, path string, v, low, high uint64) {
	if v < low || v > high {
		p.Add(path, "%s is out of range; want %s to %s", strictyaml.FormatSize(v), strictyaml.FormatSize(low), strictyaml.FormatSize(high))
	}
}

// oneOf catches words that no file could hold, from definitions made in Go.
func oneOf[T interface {
	~string
	Values() []string
}](p *strictyaml.Problems, path string, v T) {
	if !slices.Contains(v.Values(), string(v)) {
		p.Add(path, "%s is none of %s", strictyaml.Show(string(v)), strings.Join(v.Values(), ", "))
	}
}

func nodeList(p *strictyaml.Problems, path string, nodes []string) {
	for i, name := range nodes {
		at := fmt.Sprintf("%s[%d]", path, i)
		if !ValidName(name) {
			p.Add(at, "%s is no name for a node; %s", strictyaml.Show(name), nameForm)
		} else if slices.Contains(nodes[:i], name) {
			p.Add(at, "node %s is listed twice; leave one", strictyaml.Show(name))
		}
	}
}

// argumentProblems checks a command line.
func argumentProblems(p *strictyaml.Problems, path string, args []string) {
	switch {
	case len(args) == 0 || args[0] == "":
		p.Add(path, "the command is empty; name a program, as in [./orders], or leave the key out")
	case len(args) > MaxCommandArgs:
		p.Add(path, "%d words, at most %d; put them into a script", len(args), MaxCommandArgs)
	}
	for i, arg := range args {
		if message := textProblem(arg); message != "" {
			p.Add(fmt.Sprintf("%s[%d]", path, i), "%s", message)
			return
		}
	}
}

// textProblem bounds free text and keeps control characters out of terminals.
func textProblem(s string) string {
	switch {
	case len(s) > MaxTextBytes:
		return fmt.Sprintf("the text has %d bytes, at most %d", len(s), MaxTextBytes)
	case !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl):
		return fmt.Sprintf("%s holds control characters; remove them", strictyaml.Show(s))
	}
	return ""
}
