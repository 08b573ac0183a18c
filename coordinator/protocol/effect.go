package protocol

import (
	"fmt"
	"time"

	"github.com/cohort-tx/cohort/txlog/command"
)

// Effect is something for the driver to do.
type Effect interface{ effect() }

// Pin asks for a linearizable snapshot and what it says of the id, unless that is
// empty. It is kept until Unpin.
type Pin struct {
	Handle uint64
	ID     string
}

// Unpin lets an attempt's snapshot go. One that is still being pinned is let go
// when it comes.
type Unpin struct{ Handle uint64 }

// Propose asks for one Raft entry under the reign's epoch. The commands are not
// changed any more.
type Propose struct {
	Entry    uint64
	Commands []command.Command
}

// Reply answers a request.
type Reply struct {
	Request uint64
	Answer  Answer
}

// Send gives an instance a message.
type Send struct {
	Session     uint64
	Participant string
	Instance    string
	Message     Message
}

// ReadActivation asks what the log says of a participant now; it is answered by
// ActivationRead.
type ReadActivation struct{ Participant string }

// Superseded says that the log knows a newer coordinator: the reign is over.
type Superseded struct{}

func (Pin) effect()            {}
func (Unpin) effect()          {}
func (*Propose) effect()       {}
func (*Reply) effect()         {}
func (*Send) effect()          {}
func (ReadActivation) effect() {}
func (Superseded) effect()     {}

// Answer is what a request comes to.
type Answer interface{ answer() }

// Opened answers Begin.
type Opened struct {
	Attempt  Attempt
	Position uint64
}

// Committed answers Commit, Begin and a settlement.
type Committed struct{ Receipt command.Receipt }

// Aborted: the attempt did not and will not commit.
type Aborted struct {
	ID          string
	Reason      command.Reason
	Participant string
	Key         string
	Detail      string
}

// Indeterminate: the decision is not known here.
type Indeterminate struct{ Detail string }

// StepDone answers Call.
type StepDone struct {
	Payload     []byte
	ContentType string
}

// FailureCode says how a step failed; its numbers are those of cohort.v1.
type FailureCode int32

const (
	FailureHandler       FailureCode = 1
	FailurePanic         FailureCode = 2
	FailureUnknownMethod FailureCode = 3
	FailureTimeout       FailureCode = 4
	FailureInstanceLost  FailureCode = 5
	FailureRecovering    FailureCode = 6
	FailureBadPayload    FailureCode = 7
	FailureTooLarge      FailureCode = 8
	FailureConflict      FailureCode = 9
)

// StepFailed answers Call: the step failed, the attempt goes on.
type StepFailed struct {
	Code        FailureCode
	Participant string
	Message     string
}

// Done answers Abort, and an administrative command with its result.
type Done struct{ Result command.Result }

// Viewed answers View. Ops may be read, not changed.
type Viewed struct {
	Handle uint64
	Ops    []command.Op
}

// Looked answers Look.
type Looked struct{ Pending bool }

// Invalid: the request makes no sense.
type Invalid struct{ Field, Detail string }

// NotServing: this coordinator does not take it; nothing was started.
type NotServing struct{ Detail string }

// CheckpointTaken answers TakeCheckpoint: the cut is recorded, and all own state is
// captured, though not stored yet.
type CheckpointTaken struct {
	Number   uint64
	Position uint64
	Pause    time.Duration // that the gate was closed
	Wait     time.Duration // from the trigger to the closing
}

// CheckpointAbandoned answers TakeCheckpoint: there is no cut, or it lacks own
// state, and this was in the way. Number is 0 when the log did not record it.
type CheckpointAbandoned struct {
	Number      uint64
	Detail      string
	Transaction string
	Participant string
}

// Busy answers TakeCheckpoint: another one is being taken.
type Busy struct{}

func (*Opened) answer()              {}
func (*Committed) answer()           {}
func (*Aborted) answer()             {}
func (*Indeterminate) answer()       {}
func (*StepDone) answer()            {}
func (*StepFailed) answer()          {}
func (*Done) answer()                {}
func (*Viewed) answer()              {}
func (*Looked) answer()              {}
func (*Invalid) answer()             {}
func (*NotServing) answer()          {}
func (*CheckpointTaken) answer()     {}
func (*CheckpointAbandoned) answer() {}
func (*Busy) answer()                {}

// Message goes to an instance.
type Message interface{ message() }

// Activated: the instance is the active one.
type Activated struct{ Epoch uint64 }

// Standby: another is.
type Standby struct{ ActiveEpoch uint64 }

// Fenced: another was activated.
type Fenced struct {
	Epoch  uint64
	Reason string
}

// RefusalCode says why a hello was refused; its numbers are those of cohort.v1.
type RefusalCode int32

const (
	RefusalUnknownParticipant RefusalCode = 2
	RefusalTooMany            RefusalCode = 4
)

// Refused: the hello was.
type Refused struct {
	Code   RefusalCode
	Detail string
}

// Step asks for one handler's run.
type Step struct {
	Call        uint64
	Attempt     Attempt
	Step        uint32
	Method      string
	Payload     []byte
	ContentType string
	Position    uint64
	Epoch       uint64
	Timeout     time.Duration
	// Lease is how long the attempt may stay open.
	Lease time.Duration
}

// Prepare asks for a vote.
type Prepare struct {
	Call    uint64
	Attempt Attempt
	Epoch   uint64
	Timeout time.Duration
}

// Notice tells how an attempt ended. Position is 0 when it did not commit.
type Notice struct {
	Attempt  Attempt
	Position uint64
	Abort    *Aborted
}

// Capture asks for the instance's own state as of a position, which is that of a
// checkpoint's cut.
type Capture struct {
	Checkpoint uint64
	Position   uint64
	Epoch      uint64
}

func (*Capture) message()   {}
func (*Activated) message() {}
func (*Standby) message()   {}
func (*Fenced) message()    {}
func (*Refused) message()   {}
func (*Step) message()      {}
func (*Prepare) message()   {}
func (*Notice) message()    {}

// State of an attempt.
type State uint8

const (
	StateOpening   State = 1 // its snapshot is not there yet
	StateOpen      State = 2 // steps run
	StateWaiting   State = 3 // at the gate
	StatePreparing State = 4 // votes are out
	StateQueued    State = 5 // its Decide is complete
	StateProposed  State = 6 // and may be in the log
	StateEnded     State = 7
)

func (s State) String() string {
	switch s {
	case StateOpening:
		return "opening"
	case StateOpen:
		return "open"
	case StateWaiting:
		return "waiting"
	case StatePreparing:
		return "preparing"
	case StateQueued:
		return "queued"
	case StateProposed:
		return "proposed"
	case StateEnded:
		return "ended"
	}
	return fmt.Sprintf("state %d", uint8(s))
}
