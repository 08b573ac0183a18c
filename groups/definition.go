package groups

import (
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/cohort-tx/cohort/txlog/command"
)

// namePattern is what groups, participants and nodes may be called: safe as a
// path element, a metric label and a part of a DNS name.
var namePattern = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)

// ValidName reports whether s may name a group, a participant or a node: a
// lower-case letter, then up to 62 lower-case letters, digits and hyphens.
func ValidName(s string) bool { return namePattern.MatchString(s) }

// Definition is a consistency group as its file declares it, with defaults
// filled in. It is plain data: copy with Clone, compare with Equal.
//
// The yaml tags are the names in group files and in JSON; see Parse, MarshalJSON
// and Decode.
type Definition struct {
	// Group is the group's name.
	Group string `yaml:"group" example:"checkout"`
	// Replicas lists the nodes that keep the log and the checkpoints; nil means
	// all nodes of the cluster.
	Replicas []string `yaml:"replicas,all" example:"[n1, n2, n3]"`
	// Participants are the applications of the group, at least one.
	Participants []Participant `yaml:"participants" example:"[{name: orders}]"`
	Checkpoint   Checkpoint    `yaml:"checkpoint" example:"{interval: 2h, log_bytes: 64MiB}"`
	Outcomes     Outcomes      `yaml:"outcomes" example:"{age: 24h, count: 1000000}"`
	Retention    Retention     `yaml:"retention" example:"{checkpoints: 2}"`
	Failover     Failover      `yaml:"failover" example:"{mode: auto, fail_after: 3s}"`
	Failback     Failback      `yaml:"failback" example:"{mode: manual}"`
	Limits       Limits        `yaml:"limits" example:"{value_bytes: 1MiB, timeout: 30s}"`
}

// Participant is one application of a group.
type Participant struct {
	Name string `yaml:"name" example:"orders"`
	// Nodes where it may run, in order of preference; nil means any node. They
	// need not be replicas of the group.
	Nodes []string `yaml:"nodes" example:"[n1, n2]"`
	// Command is started and stopped by the node that runs the participant; nil
	// means that the application attaches by itself.
	Command []string `yaml:"command" example:"[./orders, --verbose]"`
	// Health is how a hung instance is found beyond its own keepalives; nil means
	// by those alone.
	Health *Health `yaml:"health" example:"{http: \"http://127.0.0.1:8080/healthz\", every: 1s, fail_after: 3}"`
}

// Health is a probe of a participant; exactly one of HTTP, TCP and Exec is set.
type Health struct {
	// HTTP is a URL that answers with a 2xx status.
	HTTP string `yaml:"http" example:"\"http://127.0.0.1:8080/healthz\""`
	// TCP is a host:port that accepts connections.
	TCP string `yaml:"tcp" example:"\"127.0.0.1:8080\""`
	// Exec is a command that exits with 0.
	Exec []string `yaml:"exec" example:"[./check, --quick]"`
	// Every is the time between probes, and the time one may take.
	Every time.Duration `yaml:"every" example:"1s"`
	// FailAfter is how many failures in a row make the instance unhealthy.
	FailAfter uint64 `yaml:"fail_after" example:"3"`
}

// WaitFor says which transactions a checkpoint's gate lets finish first.
type WaitFor string

const (
	// WaitForPrepared waits for transactions that have begun to prepare.
	WaitForPrepared WaitFor = "prepared"
	// WaitForStarted waits also for those that executed a step.
	WaitForStarted WaitFor = "started"
)

// Values lists what a file may say.
func (WaitFor) Values() []string { return []string{string(WaitForPrepared), string(WaitForStarted)} }

// Checkpoint says when checkpoints are taken and what they may cost.
type Checkpoint struct {
	// Interval between checkpoints; 0 for none by time passed.
	Interval time.Duration `yaml:"interval" example:"2h"`
	// At are times of day, in UTC.
	At []TimeOfDay `yaml:"at" example:"[\"03:00\"]"`
	// LogBytes and LogEntries since the last checkpoint trigger one; 0 for never.
	LogBytes   uint64 `yaml:"log_bytes,size" example:"64MiB"`
	LogEntries uint64 `yaml:"log_entries" example:"100000"`
	// MinGap is kept between checkpoints whatever triggers them.
	MinGap  time.Duration `yaml:"min_gap" example:"5s"`
	WaitFor WaitFor       `yaml:"wait_for" example:"prepared"`
	// MaxWait after its trigger a checkpoint that found no quiescence gives up.
	MaxWait time.Duration `yaml:"max_wait" example:"10s"`
	// MaxPause bounds one closing of the gate.
	MaxPause time.Duration `yaml:"max_pause" example:"500ms"`
	// MinCopies is how many replicas must hold a checkpoint for it to be
	// complete, besides a majority; where all nodes are replicas and there are
	// fewer, all of them.
	MinCopies uint64 `yaml:"min_copies" example:"2"`
}

// Outcomes bounds how long outcomes are remembered: the window in which a
// transaction id commits at most once.
type Outcomes struct {
	Age   time.Duration `yaml:"age" example:"24h"`
	Count uint64        `yaml:"count" example:"1000000"`
}

// LogRetention says what becomes of log that no checkpoint needs.
type LogRetention string

const (
	// LogDelete deletes it.
	LogDelete LogRetention = "delete"
	// LogArchive moves it, compressed, to the archive directory.
	LogArchive LogRetention = "archive"
)

// Values lists what a file may say.
func (LogRetention) Values() []string { return []string{string(LogDelete), string(LogArchive)} }

// Retention says what is kept.
type Retention struct {
	// Checkpoints is how many complete ones are kept, and the log since the
	// oldest of them.
	Checkpoints uint64       `yaml:"checkpoints" example:"2"`
	Log         LogRetention `yaml:"log" example:"delete"`
	// ArchiveDir is a directory on every replica; a relative one is below the
	// node's data directory.
	ArchiveDir string `yaml:"archive_dir" example:"/var/lib/cohort/archive"`
	// MaxDisk bounds what the group's log and checkpoints take on one node; 0
	// means no bound.
	MaxDisk uint64 `yaml:"max_disk,size" example:"20GiB"`
	// Erase overwrites files before they are deleted.
	Erase bool `yaml:"erase" example:"false"`
}

// Mode says whether something happens by itself or waits for an operator.
type Mode string

const (
	// ModeAuto happens by itself.
	ModeAuto Mode = "auto"
	// ModeManual waits for an operator.
	ModeManual Mode = "manual"
)

// Values lists what a file may say.
func (Mode) Values() []string { return []string{string(ModeAuto), string(ModeManual)} }

// Choice is a rule for choosing the node a participant moves to.
type Choice string

const (
	// ChooseOrder prefers nodes in the order of the participant's list.
	ChooseOrder Choice = "order"
	// ChooseInstalled prefers nodes that have the application's code.
	ChooseInstalled Choice = "installed"
	// ChooseMostCurrent prefers the node whose replica has applied most.
	ChooseMostCurrent Choice = "most_current"
)

// Values lists what a file may say.
func (Choice) Values() []string {
	return []string{string(ChooseOrder), string(ChooseInstalled), string(ChooseMostCurrent)}
}

// Failover says when and where participants of a dead node come back.
type Failover struct {
	Mode Mode `yaml:"mode" example:"auto"`
	// Choose ranks candidates; the first rule that tells two apart decides.
	Choose []Choice `yaml:"choose" example:"[order, installed, most_current]"`
	// FailAfter without an answered heartbeat a node's lease has ended.
	FailAfter time.Duration `yaml:"fail_after" example:"3s"`
	// Grace is waited on top before anything moves.
	Grace time.Duration `yaml:"grace" example:"2s"`
}

// Failback says when participants return to their preferred node.
type Failback struct {
	Mode Mode `yaml:"mode" example:"manual"`
	// StableFor is how long that node must have been healthy.
	StableFor time.Duration `yaml:"stable_for" example:"5m"`
}

// Limits bound what transactions may take. Beyond one the answer is a typed
// error, at once.
type Limits struct {
	// InFlight is how many commits may be between their arrival and their answer.
	InFlight uint64 `yaml:"in_flight" example:"4096"`
	// Open is how many transactions may be open at the coordinator.
	Open uint64 `yaml:"open" example:"10000"`
	// StagedBytes bounds what all open transactions have staged together.
	StagedBytes uint64 `yaml:"staged_bytes,size" example:"256MiB"`
	// ValueBytes bounds one value.
	ValueBytes uint64 `yaml:"value_bytes,size" example:"1MiB"`
	// TransactionBytes and TransactionKeys bound what one transaction writes.
	TransactionBytes uint64 `yaml:"transaction_bytes,size" example:"4MiB"`
	TransactionKeys  uint64 `yaml:"transaction_keys" example:"20000"`
	// ScanKeys bounds the keys that the scans of one read-write transaction read.
	ScanKeys uint64 `yaml:"scan_keys" example:"10000"`
	// Timeout is the longest life of an attempt.
	Timeout time.Duration `yaml:"timeout" example:"30s"`
}

// TimeOfDay is a time of day in UTC, in minutes since midnight.
type TimeOfDay uint16

// TimeOfDayAt returns the time of day at hour:minute UTC.
func TimeOfDayAt(hour, minute int) TimeOfDay { return TimeOfDay(hour*60 + minute) }

// String gives hours and minutes, as in 03:00.
func (t TimeOfDay) String() string { return fmt.Sprintf("%02d:%02d", t/60, t%60) }

// MarshalText is String.
func (t TimeOfDay) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reads hours and minutes, two digits each, 00:00 to 23:59.
func (t *TimeOfDay) UnmarshalText(text []byte) error {
	parsed, err := time.Parse("15:04", string(text))
	if err != nil || len(text) != len("15:04") {
		return fmt.Errorf("%q is not a time of day; write hours and minutes in UTC, as in \"03:00\"", text)
	}
	*t = TimeOfDayAt(parsed.Hour(), parsed.Minute())
	return nil
}

// Next returns the first instant after now at this time of day.
func (t TimeOfDay) Next(now time.Time) time.Time {
	now = now.UTC()
	next := time.Date(now.Year(), now.Month(), now.Day(), int(t)/60, int(t)%60, 0, 0, time.UTC)
	if !next.After(now) {
		next = next.AddDate(0, 0, 1)
	}
	return next
}

// ParticipantNames returns the names in the file's order.
func (d *Definition) ParticipantNames() []string {
	names := make([]string, len(d.Participants))
	for i, p := range d.Participants {
		names[i] = p.Name
	}
	return names
}

// Participant returns the participant of that name.
func (d *Definition) Participant(name string) (Participant, bool) {
	for _, p := range d.Participants {
		if p.Name == name {
			return p, true
		}
	}
	return Participant{}, false
}

// MachineConfig returns what the replicated state machine enforces itself.
func (d *Definition) MachineConfig() (participants []string, limits command.Limits) {
	return d.ParticipantNames(), command.Limits{
		ValueBytes:       d.Limits.ValueBytes,
		TransactionBytes: d.Limits.TransactionBytes,
		TransactionKeys:  d.Limits.TransactionKeys,
		ScanKeys:         d.Limits.ScanKeys,
	}
}

// Clone returns a copy that shares nothing with d.
func (d *Definition) Clone() Definition {
	c := *d
	c.Replicas = slices.Clone(d.Replicas)
	c.Participants = slices.Clone(d.Participants)
	for i := range c.Participants {
		p := &c.Participants[i]
		p.Nodes = slices.Clone(p.Nodes)
		p.Command = slices.Clone(p.Command)
		if p.Health != nil {
			h := *p.Health
			h.Exec = slices.Clone(h.Exec)
			p.Health = &h
		}
	}
	c.Checkpoint.At = slices.Clone(d.Checkpoint.At)
	c.Failover.Choose = slices.Clone(d.Failover.Choose)
	return c
}

// Equal reports whether two definitions say the same; a nil list equals an
// empty one.
func (d *Definition) Equal(other *Definition) bool { return len(Diff(d, other)) == 0 }
