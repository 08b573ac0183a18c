package protocol

import (
	"time"

	"github.com/cohort-tx/cohort/txlog/command"
)

// Attempt names one attempt of a transaction as its client does: Begun is 0 for
// one that asks for begin and commit in one round.
type Attempt struct {
	ID    string
	Begun uint64
	// Nonce tells apart attempts of one id with the same Begun; 0 when unknown.
	Nonce uint64
}

// Event is something that happened. A Request in it is a number of the driver's
// for whoever asked; Core answers it with exactly one Reply.
type Event interface{ event() }

// Begin asks for an attempt.
type Begin struct {
	Request       uint64
	ID            string
	RequestDigest []byte
	// Timeout is the attempt's lease; 0, or more than the group's, is the group's.
	Timeout time.Duration
	// Fresh: the id was made just now and has no outcome.
	Fresh bool
}

// Pinned answers Pin: the attempt's snapshot, and what it says of the id.
type Pinned struct {
	Handle          uint64
	Begun, Position uint64
	// Committed is set when the id has committed, under CommittedDigest.
	Committed       *command.Receipt
	CommittedDigest []byte
}

// PinFailed answers Pin: there is no linearizable snapshot now.
type PinFailed struct {
	Handle uint64
	Detail string
}

// Call asks for a step.
type Call struct {
	Request     uint64
	Attempt     Attempt
	Step        uint32
	Participant string
	Method      string
	Payload     []byte
	ContentType string
	Ops         []command.Op
	Timeout     time.Duration
}

// Commit asks for the decision.
type Commit struct {
	Request       uint64
	Attempt       Attempt
	RequestDigest []byte
	Reads         []command.Read
	Scans         []command.ScanRead
	Ops           []command.Op
	Steps         uint32
	Timeout       time.Duration
	// Published is the last published index: the snapshot of an attempt without
	// Begun.
	Published uint64
	// Conflict is what an early look at the current versions found, nil when
	// nothing. The look was at a state in which the id was not committed.
	Conflict *Aborted
}

// Abort gives an attempt up.
type Abort struct {
	Request uint64
	Attempt Attempt
	Reason  string
}

// View asks for the changes of an open attempt so far.
type View struct {
	Request uint64
	Attempt Attempt
}

// Look asks whether an attempt of the id is open or being decided.
type Look struct {
	Request uint64
	ID      string
}

// Administer asks for a command that is not a client's transaction: a Settle, a
// Configure, maintenance.
type Administer struct {
	Request uint64
	Command command.Command
}

// Attached says that an instance is attached, or is still.
type Attached struct {
	// Session is a number of the driver's for the agent's connection.
	Session     uint64
	Node        string
	Participant string
	Instance    string
	Votes       bool
	OwnState    bool
	// AppliesFirst: its handlers change its state before the commit.
	AppliesFirst bool
	Description  string
	// Position that it has applied, of this incarnation; 0 for none.
	Position uint64
}

// Detached says that an instance is gone: its stream ended.
type Detached struct {
	Session     uint64
	Participant string
	Instance    string
	// Goodbye: it left on purpose.
	Goodbye bool
}

// SessionClosed says that an agent is gone, and with it the word of its
// instances.
type SessionClosed struct{ Session uint64 }

// Ready says that an instance applied the log up to its activation.
type Ready struct {
	Session     uint64
	Participant string
	Instance    string
	Epoch       uint64
	Position    uint64
}

// StepResult is an instance's answer to a Step. Failure is nil when it went
// well; an op whose AppliedEpoch is not 0 was applied already.
type StepResult struct {
	Session     uint64
	Participant string
	Instance    string
	Call        uint64
	Failure     *StepFailed
	Payload     []byte
	ContentType string
	Reads       []command.Read
	Scans       []command.ScanRead
	Ops         []command.Op
}

// Vote is an instance's answer to a Prepare.
type Vote struct {
	Session     uint64
	Participant string
	Instance    string
	Call        uint64
	Yes         bool
	Reason      string
	// Conflict: a no of the moment.
	Conflict bool
}

// Applied answers Propose: one result per command.
type Applied struct {
	Entry   uint64
	Results []command.Result
	// Position is the last one as of the entry.
	Position uint64
}

// NotProposed answers Propose: the entry is certainly not in the log.
type NotProposed struct {
	Entry uint64
	// TooLarge: it never will be, as it is.
	TooLarge bool
}

// Doubtful answers Propose: the entry may be in the log, or get there.
type Doubtful struct{ Entry uint64 }

// ActivationRead answers ReadActivation with what the log says.
type ActivationRead struct{ Activation Activation }

// Configured says that the group's definition changed.
type Configured struct{ Config Config }

// TakeCheckpoint asks for a checkpoint, or that an attempt to take one is
// recorded as abandoned. One is taken at a time.
type TakeCheckpoint struct {
	Request uint64
	Wish    command.CheckpointRequest
	// Serves, Members, MinCopies, Seal and SealToken are command.Checkpoint's. With
	// Seal the gate stays closed after the cut.
	Serves    []string
	Members   []string
	MinCopies uint64
	Seal      bool
	SealToken string
	// Waited is the time since the trigger.
	Waited time.Duration
}

// Phase of an instance with state of its own; its numbers are those of cohort.v1.
type Phase uint8

const (
	PhaseRestoring Phase = 1 // a captured state is being loaded
	PhaseFollowing Phase = 2 // the log is applied
)

func (p Phase) String() string {
	switch p {
	case PhaseRestoring:
		return "restoring"
	case PhaseFollowing:
		return "following"
	}
	return ""
}

// Progress says how far an instance with state of its own has come, in this
// incarnation.
type Progress struct {
	Session     uint64
	Participant string
	Instance    string
	Phase       Phase
	Position    uint64
}

// Leveled says that the group's feature level was raised.
type Leveled struct{ Level uint64 }

// Captured answers Capture; with a Failure also later, when captured state could
// not be stored.
type Captured struct {
	Session     uint64
	Participant string
	Instance    string
	Number      uint64
	Position    uint64
	Epoch       uint64
	Failure     string
}

// Unsealed says that transactions may commit again after a sealing checkpoint.
type Unsealed struct{}

// Refuse makes new commits with writes abort for want of disk space, with this
// detail; an empty one ends it. Those past admission go on.
type Refuse struct{ Detail string }

// CloseGate makes commits wait before they prepare; OpenGate lets them on, also
// after a sealing checkpoint, but not through the gate of one that is being taken.
type (
	CloseGate struct{}
	OpenGate  struct{}
)

// Tick says that time passed.
type Tick struct{}

// Flush ends a burst of events: what they queued is proposed, as far as batching
// lets it. Nothing new is proposed without it.
type Flush struct{}

// Drain refuses what begins anew; what is open may end.
type Drain struct{}

// Deposed ends the reign: every attempt ends here.
type Deposed struct{ Detail string }

func (*Begin) event()          {}
func (*Pinned) event()         {}
func (*PinFailed) event()      {}
func (*Call) event()           {}
func (*Commit) event()         {}
func (*Abort) event()          {}
func (*View) event()           {}
func (*Look) event()           {}
func (*Administer) event()     {}
func (*Attached) event()       {}
func (*Detached) event()       {}
func (*SessionClosed) event()  {}
func (*Ready) event()          {}
func (*StepResult) event()     {}
func (*Vote) event()           {}
func (*Applied) event()        {}
func (*NotProposed) event()    {}
func (*Doubtful) event()       {}
func (*ActivationRead) event() {}
func (*Configured) event()     {}
func (*TakeCheckpoint) event() {}
func (*Captured) event()       {}
func (*Progress) event()       {}
func (Leveled) event()         {}
func (Unsealed) event()        {}
func (*Refuse) event()         {}
func (CloseGate) event()       {}
func (OpenGate) event()        {}
func (Tick) event()            {}
func (Flush) event()           {}
func (Drain) event()           {}
func (*Deposed) event()        {}
