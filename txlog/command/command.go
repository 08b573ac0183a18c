package command

// Attempt is one attempt of a transaction: its id and the Raft index of its
// snapshot. Commit is terminal for the id, abort only for attempts begun up to
// the aborted one.
type Attempt struct {
	ID    string
	Begun uint64
}

// OpKind is the kind of a write. Its numbers are in the log: never reuse one.
type OpKind uint8

const (
	OpPut    OpKind = 1
	OpDelete OpKind = 2
	OpAdd    OpKind = 3
	// OpLog is an opaque change of a participant with state of its own; its key
	// is empty and it writes no store data.
	OpLog OpKind = 4
)

// Op is one write of a transaction. Ops apply in program order.
type Op struct {
	Kind        OpKind
	Participant string
	Key         string
	// Value of a put, or the change of an OpLog.
	Value []byte
	// Delta of an add, with its own bounds.
	Delta   int64
	AtLeast *int64
	AtMost  *int64
	// AppliedEpoch of an OpLog is the activation epoch of the instance that
	// changed its state first; 0 when none did.
	AppliedEpoch uint64
}

// Read says that a key was read at a version, 0 being absent.
type Read struct {
	Participant string
	Key         string
	Version     uint64
}

// ScanRead says that the live keys of [Start, End) had this hash over their
// (key, version) pairs; an empty End is the end of the participant's store.
type ScanRead struct {
	Participant string
	Start, End  string
	Hash        [16]byte
}

// Fence says that a step or a vote came from a participant's instance under an
// activation epoch.
type Fence struct {
	Participant string
	Epoch       uint64
}

// Command is one of the pointer types below.
type Command interface{ kind() Kind }

// Kind numbers commands in the log: never reuse one.
type Kind uint8

const (
	KindRaiseEpoch  Kind = 1
	KindDecide      Kind = 2
	KindSettle      Kind = 3
	KindActivate    Kind = 4
	KindConfigure   Kind = 5
	KindMoveHorizon Kind = 6
	KindPurge       Kind = 7
)

// RaiseEpoch is a coordinator's first command: from it on, commands of lower
// epochs are refused. The new epoch is the batch's.
type RaiseEpoch struct {
	// Node that coordinates under the epoch; for display.
	Node string
}

// Decide asks the state machine for the decision on an attempt.
type Decide struct {
	Attempt
	// RequestDigest guards the id against reuse; empty is a digest like any other.
	RequestDigest []byte
	Fences        []Fence
	Reads         []Read
	Scans         []ScanRead
	Ops           []Op
}

// Settle writes a tombstone: attempts of ID begun up to Begun never commit
// after it, unless the id has committed already.
type Settle struct {
	ID    string
	Begun uint64
	// Reason and Detail are recorded as the abort's.
	Reason Reason
	Detail string
}

// Activate makes an instance its participant's active one under the epoch
// Expect+1, if Expect is the current epoch (0 when there never was one). An
// empty Instance deactivates: the epoch rises and no instance is active.
type Activate struct {
	Participant string
	Node        string
	Instance    string
	Expect      uint64
	// OwnState says that the instance keeps state of its own. From feature level 3
	// on.
	OwnState bool
}

// Configure sets the group's definition at its entry. Participants not listed
// any more are dropped with their data when Prune is set; without it the
// command is refused if one of them has data.
type Configure struct {
	// Version must be the current one plus 1.
	Version      uint64
	Incarnation  uint64 // only in Version 1: the incarnation the log begins with
	Participants []string
	Limits       Limits
	// Definition is the whole definition as groups encodes it; opaque here.
	Definition []byte
	Prune      bool
}

// Limits are the bounds that the state machine itself enforces.
type Limits struct {
	ValueBytes       uint64
	TransactionBytes uint64
	TransactionKeys  uint64
	ScanKeys         uint64
}

// MoveHorizon forgets the outcomes of entries below To, at most a fixed number
// of them a command: the horizon ends up where forgetting stopped.
type MoveHorizon struct{ To uint64 }

// Purge deletes keys of dropped participants, at most a fixed number a command.
type Purge struct{}

// Unknown is a command of a kind that this release does not know. The state
// machine refuses it; nothing proposes it.
type Unknown struct{ Kind Kind }

func (*RaiseEpoch) kind() Kind  { return KindRaiseEpoch }
func (*Decide) kind() Kind      { return KindDecide }
func (*Settle) kind() Kind      { return KindSettle }
func (*Activate) kind() Kind    { return KindActivate }
func (*Configure) kind() Kind   { return KindConfigure }
func (*MoveHorizon) kind() Kind { return KindMoveHorizon }
func (*Purge) kind() Kind       { return KindPurge }
func (u *Unknown) kind() Kind   { return u.Kind }

// Batch is the content of one Raft entry: commands of one coordinator.
type Batch struct {
	// Epoch of the coordinator that proposes.
	Epoch uint64
	// TimeUnixNano is the proposer's clock; the state machine clamps it so that
	// it never decreases. For display, ages and restore --to time only.
	TimeUnixNano int64
	Commands     []Command
}

// Reason says why an attempt was aborted or a command refused. Its numbers are
// those of cohort.v1.Reason up to 99; they are stored, never reuse one.
type Reason uint8

const (
	ReasonNone               Reason = 0
	ReasonConflict           Reason = 1
	ReasonConstraint         Reason = 2
	ReasonVote               Reason = 3
	ReasonTimeout            Reason = 4
	ReasonMoved              Reason = 5
	ReasonRecovering         Reason = 6
	ReasonExpired            Reason = 7
	ReasonOverloaded         Reason = 8
	ReasonIDReused           Reason = 9
	ReasonCancelled          Reason = 10
	ReasonSuperseded         Reason = 11
	ReasonTooLarge           Reason = 12
	ReasonUnknownParticipant Reason = 13
	ReasonSnapshotTooOld     Reason = 14
	// ReasonDiskFull: the group's disk bound or a node's reserve is reached.
	ReasonDiskFull Reason = 15
	// The rest refuse commands and have no outcome.

	// ReasonStaleEpoch refuses a command of a deposed coordinator: no outcome.
	ReasonStaleEpoch Reason = 100
	// ReasonStaleVersion refuses a Configure or Activate that expected another
	// version or epoch.
	ReasonStaleVersion Reason = 101
	// ReasonHasData refuses a Configure without Prune that drops data.
	ReasonHasData Reason = 102
	// ReasonMalformed refuses what cannot be decoded or makes no sense.
	ReasonMalformed Reason = 103
	// ReasonUnconfigured refuses transactions before the first Configure.
	ReasonUnconfigured Reason = 104
	// ReasonSealed refuses transactions of an incarnation that has ended, or is
	// about to.
	ReasonSealed Reason = 105
	// ReasonUnsupported refuses commands above the group's feature level.
	ReasonUnsupported Reason = 106
	// ReasonNeeded refuses to drop what is still needed.
	ReasonNeeded Reason = 107
)

// Status says what became of a command. Its numbers are in results only, which
// are not stored.
type Status uint8

const (
	// StatusDone: a command other than Decide took effect; or a Settle found or
	// wrote an abort.
	StatusDone Status = 1
	// StatusCommitted: the id is committed, by this command or before; Receipt
	// is set.
	StatusCommitted Status = 2
	// StatusAborted: the attempt is aborted, by this command or before, and that
	// is recorded.
	StatusAborted Status = 3
	// StatusRefused: nothing was changed or recorded for this command.
	StatusRefused Status = 4
)

// Receipt proves a commit.
type Receipt struct {
	ID           string
	Incarnation  uint64
	Position     uint64
	Begun        uint64
	TimeUnixNano int64
}

// Result answers one command of a batch, in the batch's order.
type Result struct {
	Status  Status
	Receipt Receipt
	// Reason, Participant, Key and Detail explain an abort or a refusal.
	Reason      Reason
	Participant string
	Key         string
	Detail      string
	// Epoch is the coordinator epoch after a RaiseEpoch, the activation epoch
	// after an Activate; and the current one where another was refused.
	Epoch uint64
	// Remaining tells whether MoveHorizon or Purge left something to do.
	Remaining bool
	// Number of the checkpoint that a Checkpoint or AbandonCheckpoint recorded.
	Number uint64
}

// Change is a write as it was applied: an add carries its result.
type Change struct {
	Kind         OpKind
	Participant  string
	Key          string
	Value        []byte
	Delta        int64
	AppliedEpoch uint64
}

// Entry is a log entry: the changes of one committed transaction.
type Entry struct {
	Position     uint64
	ID           string
	Begun        uint64
	Index        uint64 // Raft index of the entry that carried the decision
	TimeUnixNano int64
	// RequestDigest guards the id against reuse. Nil below feature level 2.
	RequestDigest []byte
	// Dropped are the participants, with their data, that the group lost between
	// the entry before and this one, so that the log alone leads to the state at
	// any position. Nil below feature level 2.
	Dropped []string
	Changes []Change
}
