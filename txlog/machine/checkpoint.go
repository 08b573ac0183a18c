package machine

import (
	"fmt"

	"github.com/cohort-tx/cohort/txlog/command"
)

// CheckpointState is where a checkpoint is in its life. Stored: never reuse a
// number.
type CheckpointState uint8

const (
	// CheckpointWriting: the cut is recorded, and replicas write it to files.
	CheckpointWriting CheckpointState = 1
	// CheckpointComplete: enough replicas hold equal copies.
	CheckpointComplete CheckpointState = 2
	// CheckpointAbandoned: there was no cut, or one without the state of a
	// participant that keeps its own.
	CheckpointAbandoned CheckpointState = 3
	// CheckpointFailed: there was a cut, and a newer one was completed before it.
	CheckpointFailed CheckpointState = 4
)

func (s CheckpointState) String() string {
	switch s {
	case CheckpointWriting:
		return "writing"
	case CheckpointComplete:
		return "complete"
	case CheckpointAbandoned:
		return "abandoned"
	case CheckpointFailed:
		return "failed"
	}
	return fmt.Sprintf("checkpoint state %d", uint8(s))
}

// Checkpoint is the record of one attempt to take a checkpoint.
type Checkpoint struct {
	// Number counts the group's attempts, from 1, over all incarnations.
	Number uint64
	State  CheckpointState
	// Request is what it was taken for; its token tells repetitions.
	Request command.CheckpointRequest
	// Incarnation, Index, Position and LogHash of the cut, and the time of its
	// entry; of one that was abandoned, as of its record.
	Incarnation  uint64
	Index        uint64
	Position     uint64
	LogHash      [32]byte
	TimeUnixNano int64
	WaitNanos    uint64
	PauseNanos   uint64
	Members      []string
	MinCopies    uint64
	Copies       []Copy
	// Digest and Sections of the complete checkpoint.
	Digest            [32]byte
	Sections          []command.Section
	CompletedUnixNano int64
	// Detail, Transaction and Participant say why it was abandoned.
	Detail      string
	Transaction string
	Participant string

	// What follows is from feature level 3 on.

	// Captures are of the participants with state of their own that the checkpoint
	// is of, in order of their names.
	Captures []Capture
	// LogFrom is the first position of the log that it takes to bring to the cut what
	// was not captured at it; 0 when all was.
	LogFrom uint64
	// Before is the cut before one of all participants with captures.
	Before Cut
}

// Cut is where a checkpoint of all participants was cut.
type Cut struct {
	Number   uint64
	UnixNano int64 // by the proposer's clock
	Position uint64
	LogBytes uint64
}

// Copy is one replica's copy of a checkpoint, as last reported.
type Copy struct {
	Node         string
	State        command.CopyState
	Digest       [32]byte
	Bytes        uint64
	WriteNanos   uint64
	TimeUnixNano int64
	Detail       string
	// Rebuilt counts how often the node's replica was rebuilt for this checkpoint.
	Rebuilt uint64
}

// Whole tells whether the checkpoint is of all participants.
func (c *Checkpoint) Whole() bool { return len(c.Request.Participants) == 0 }

// Schedule is what the state machine keeps about checkpoints as a whole.
type Schedule struct {
	// Times are the proposers' clocks as they were: what is due is judged by clocks,
	// and one that was wrong must not count for ever.

	// NextNumber is that of the next attempt.
	NextNumber uint64
	// LogBytes is the size of all log entries so far, as they are encoded.
	LogBytes uint64
	// SinceUnixNano is when checkpoints became possible: what is due by time counts
	// from there until there is a first one.
	SinceUnixNano int64
	// Cut is the last one of all participants, zero before the first. Those whose
	// checkpoint was abandoned do not count.
	Cut Cut
	// AttemptUnixNano is the time of the last attempt, whatever came of it.
	AttemptUnixNano int64
	// Pending are the requests without an attempt yet, oldest first.
	Pending []command.CheckpointRequest
	// LogFrom is the first position that retention keeps.
	LogFrom uint64
	// Dropped are the participants that the group lost with data since the last
	// log entry; the next one names them.
	Dropped []string
}

// Origin says what an incarnation was made from; the first one has none.
type Origin struct {
	// Digest over the state as it was made: see ImageDigest.
	Digest [32]byte
	// Group, Incarnation and Position of the source, and the number of the
	// checkpoint that it began with.
	Group       string
	Incarnation uint64
	Position    uint64
	Checkpoint  uint64
	// Token of the restore.
	Token string
	// Begun is set by Begin.
	Begun bool
}
