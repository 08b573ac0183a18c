package command

import "fmt"

// Kinds of feature level 2: see FeatureLevel.
const (
	KindFeatureLevel      Kind = 8
	KindRequestCheckpoint Kind = 9
	KindCheckpoint        Kind = 10
	KindAbandonCheckpoint Kind = 11
	KindNotePause         Kind = 12
	KindReportCopy        Kind = 13
	KindRetain            Kind = 14
	KindUnseal            Kind = 15
	KindBegin             Kind = 16
)

// KindReportCapture is of feature level 3, which also brings Activate.OwnState and
// Checkpoint.Captures.
const KindReportCapture Kind = 17

// MaxFeatureLevel is the newest level of commands and records that this release
// knows; level 1 is what every release knows, 2 brings checkpoints, 3 the
// captured state of participants that keep state of their own.
const MaxFeatureLevel = 3

// Bounds of checkpoint commands.
const (
	// MaxCopies bounds the replicas whose copies of a checkpoint are recorded: the
	// largest number of members a group has.
	MaxCopies = 15
	// MaxSections: store data and captured state of every participant, and the two
	// that every checkpoint has.
	MaxSections = 2*MaxParticipants + 2
	// MaxRequests bounds the requests for a checkpoint that wait; one more is taken
	// as served by the checkpoint that they are waiting for.
	MaxRequests = 16
)

// FeatureLevel allows what the level brings: kinds of commands, and what the
// state machine records. It is proposed when every member supports the level,
// and never goes down. Refused when it is above MaxFeatureLevel; a lower or equal
// one changes nothing.
type FeatureLevel struct{ Level uint64 }

// Trigger says why a checkpoint is taken. Its numbers are stored: never reuse one.
type Trigger uint8

const (
	TriggerInterval    Trigger = 1
	TriggerAt          Trigger = 2
	TriggerLogBytes    Trigger = 3
	TriggerLogEntries  Trigger = 4
	TriggerParticipant Trigger = 5
	TriggerOperator    Trigger = 6
	// TriggerDisk: retention.max_disk comes near.
	TriggerDisk Trigger = 7
	// TriggerRestore: after, or to come back to from, a restore.
	TriggerRestore Trigger = 8
	// TriggerFailback: before a participant goes home.
	TriggerFailback Trigger = 9
)

func (t Trigger) String() string {
	switch t {
	case TriggerInterval:
		return "interval"
	case TriggerAt:
		return "at"
	case TriggerLogBytes:
		return "log_bytes"
	case TriggerLogEntries:
		return "log_entries"
	case TriggerParticipant:
		return "participant"
	case TriggerOperator:
		return "operator"
	case TriggerDisk:
		return "max_disk"
	case TriggerRestore:
		return "restore"
	case TriggerFailback:
		return "failback"
	}
	return fmt.Sprintf("trigger %d", uint8(t))
}

// Valid tells whether the trigger is one of the above.
func (t Trigger) Valid() bool { return t >= TriggerInterval && t <= TriggerFailback }

// CheckpointRequest is somebody's wish for a checkpoint. Token tells two wishes
// apart and one that is sent twice not: 1 to MaxIDBytes bytes, as an id.
type CheckpointRequest struct {
	Token   string
	Trigger Trigger
	// By is the participant that asked, or the node at which the operator did.
	By string
	// Participants whose data is wanted; empty means all of the group.
	Participants []string
	// TimeUnixNano of the trigger, by the coordinator's clock.
	TimeUnixNano int64
}

// RequestCheckpoint records a wish, so that it outlives the coordinator. It is
// taken from the pending ones by the Checkpoint or AbandonCheckpoint that names
// its token.
type RequestCheckpoint struct{ CheckpointRequest }

// Checkpoint records the cut: the group's data as of this entry is a checkpoint
// under the next number, which Result.Number tells. It must be alone in its
// entry. One that names the token of the newest recorded checkpoint is that one
// again.
type Checkpoint struct {
	CheckpointRequest
	// Serves are the tokens of further pending requests that this one serves too.
	Serves []string
	// WaitNanos is the time from the trigger to the closing of the gate.
	WaitNanos uint64
	// Members are the nodes with a replica, of which a majority, and MinCopies at
	// least, must hold equal copies for the checkpoint to be complete.
	Members   []string
	MinCopies uint64
	// Seal ends the incarnation with this entry: no transaction commits after it,
	// until an Unseal. SealToken names the restore that it is for.
	Seal      bool
	SealToken string
	// Captures are the participants with state of their own, in order of their
	// names, whose instances are asked to capture it at the cut. From feature level 3
	// on.
	Captures []string
}

// AbandonCheckpoint records that an attempt to take a checkpoint gave up, and
// what was in the way. It gets a number too.
type AbandonCheckpoint struct {
	CheckpointRequest
	Serves    []string
	WaitNanos uint64
	// Detail is for people; Transaction and Participant name what was in the way,
	// each empty when it was not one.
	Detail      string
	Transaction string
	Participant string
}

// NotePause records how long the gate was closed for a checkpoint.
type NotePause struct {
	Number     uint64
	PauseNanos uint64
}

// CopyState is what is known of a replica's copy of a checkpoint. Stored: never
// reuse a number.
type CopyState uint8

const (
	// CopyNone: nothing was reported yet. Not in reports.
	CopyNone CopyState = 0
	// CopyWritten: the files are whole and durable.
	CopyWritten CopyState = 1
	// CopyFailed: they could not be written; it is tried again.
	CopyFailed CopyState = 2
	// CopyLost: they were there and are damaged or gone.
	CopyLost CopyState = 3
	// CopyDifferent: the state machine found that the digest differs from that of
	// the complete checkpoint: the replica is quarantined. Not in reports.
	CopyDifferent CopyState = 4
)

func (s CopyState) String() string {
	switch s {
	case CopyNone:
		return "none"
	case CopyWritten:
		return "written"
	case CopyFailed:
		return "failed"
	case CopyLost:
		return "lost"
	case CopyDifferent:
		return "different"
	}
	return fmt.Sprintf("copy state %d", uint8(s))
}

// Section summarises one section of a checkpoint.
type Section struct {
	// Name is "meta", "outcomes", or a participant's with "participant/" before it,
	// for its store data, or SectionState, for its captured state.
	Name string
	Keys uint64
	// Bytes of keys and values, uncompressed.
	Bytes  uint64
	Digest [32]byte
}

// SectionState stands before a participant's name in that of the section that
// holds its captured state.
const SectionState = "state/"

// ReportCopy records what a replica says of its copy of a checkpoint.
type ReportCopy struct {
	Number uint64
	Node   string
	State  CopyState // CopyWritten, CopyFailed or CopyLost
	// Rebuilt says that the node's replica was rebuilt since its copy was found
	// different: it is tried and counted anew.
	Rebuilt bool
	// Digest over all sections; Sections are what it covers. Zero unless written.
	Digest   [32]byte
	Sections []Section
	// Bytes of the files.
	Bytes      uint64
	WriteNanos uint64
	// Detail of a failure.
	Detail string
}

// ReportCapture records what became of the state that a participant was asked to
// capture for a checkpoint. Its epoch and position must be those that the record
// of the checkpoint has for it.
type ReportCapture struct {
	Number      uint64
	Participant string
	// Epoch of the activation that captured, and Position of the cut.
	Epoch    uint64
	Position uint64
	// Node that has stored the state.
	Node string
	// Section, named SectionState and the participant, is the state in records.
	Section Section
	// Bytes and SHA256 of the state itself, as the instance wrote it.
	Bytes  uint64
	SHA256 [32]byte
	// Failure says why there is no captured state; Node to SHA256 are zero then.
	Failure string
}

// Retain drops checkpoints and the log before LogFrom. Refused when that would
// leave no complete checkpoint of all participants, though there is one, or log
// that the oldest one left needs.
type Retain struct {
	Drop []uint64
	// LogFrom is the first position that must be kept, 0 for no change.
	LogFrom uint64
}

// Unseal lets transactions commit again, if the group is sealed for Token.
type Unseal struct{ Token string }

// Begin is the first command of an incarnation that was made by a restore. A
// replica whose state was made from something else than Digest halts.
type Begin struct {
	Incarnation uint64
	// Digest of the state that the replicas were made from: see
	// machine.Origin.
	Digest [32]byte
	// Carried are the records of earlier incarnations' checkpoints that stay
	// usable, as machine.AppendCheckpoint encodes them.
	Carried [][]byte
}

func (*FeatureLevel) kind() Kind      { return KindFeatureLevel }
func (*RequestCheckpoint) kind() Kind { return KindRequestCheckpoint }
func (*Checkpoint) kind() Kind        { return KindCheckpoint }
func (*AbandonCheckpoint) kind() Kind { return KindAbandonCheckpoint }
func (*NotePause) kind() Kind         { return KindNotePause }
func (*ReportCopy) kind() Kind        { return KindReportCopy }
func (*ReportCapture) kind() Kind     { return KindReportCapture }
func (*Retain) kind() Kind            { return KindRetain }
func (*Unseal) kind() Kind            { return KindUnseal }
func (*Begin) kind() Kind             { return KindBegin }
