package coordinator

import (
	"context"
	"time"

	cohortv1 "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/txlog/command"
)

// Attempt names one attempt of a transaction as its client does.
type Attempt struct {
	ID string
	// Begun is the Raft index of the attempt's snapshot, 0 for one that asks for
	// begin and commit in one round.
	Begun uint64
	// Nonce tells apart attempts of one id begun at the same index.
	Nonce uint64
}

// Definition stands for groups.Definition, which will take its place.
type Definition struct{}

// Coordinator runs the transactions of one group while its node leads it.
type Coordinator struct{}

// Serving tells whether this node runs the group's coordinator now, and under
// which coordinator epoch.
func (c *Coordinator) Serving() (epoch uint64, ok bool) { return 0, false }

// BeginRequest asks for an attempt. ID must be set; Timeout 0 means the group's.
type BeginRequest struct {
	ID            string
	RequestDigest []byte
	Timeout       time.Duration
	// Fresh says that the id was made just now and cannot have an outcome.
	Fresh bool
}

// Opened is an attempt that began.
type Opened struct {
	Attempt     Attempt
	Epoch       uint64
	Incarnation uint64
	// Position is the last one in the attempt's snapshot.
	Position uint64
}

// Begin opens an attempt on a linearizable snapshot. Errors: *Committed,
// *Aborted, *Invalid, ErrNotServing.
func (c *Coordinator) Begin(ctx context.Context, req BeginRequest) (Opened, error) {
	return Opened{}, ErrNotServing
}

// CallRequest asks for one step.
type CallRequest struct {
	Attempt     Attempt
	Step        uint32
	Participant string
	Method      string
	Payload     []byte
	ContentType string
	// Ops are the client's direct writes since the last call.
	Ops     []command.Op
	Timeout time.Duration
}

// StepReply is what a handler answered.
type StepReply struct {
	Payload     []byte
	ContentType string
}

// Call runs a step. Errors: *StepFailure, *Aborted, *Invalid, ErrNotServing.
func (c *Coordinator) Call(ctx context.Context, req CallRequest) (StepReply, error) {
	return StepReply{}, ErrNotServing
}

// CommitRequest asks for the decision on an attempt.
type CommitRequest struct {
	Attempt       Attempt
	RequestDigest []byte
	Reads         []command.Read
	Scans         []command.ScanRead
	// Ops are the client's direct writes since the last call.
	Ops []command.Op
	// Steps is the number of calls the attempt made.
	Steps   uint32
	Timeout time.Duration
}

// Commit decides an attempt. Errors: *Aborted, *Indeterminate, *Invalid,
// ErrNotServing.
func (c *Coordinator) Commit(ctx context.Context, req CommitRequest) (command.Receipt, error) {
	return command.Receipt{}, ErrNotServing
}

// Abort gives an attempt up. Unknown attempts and those aborted before are no
// error. Errors: *Indeterminate when the decision is being made, ErrNotServing.
func (c *Coordinator) Abort(ctx context.Context, attempt Attempt, reason string) error {
	return ErrNotServing
}

// OutcomeRequest asks what became of an id's attempts begun up to Begun; 0 means
// up to now.
type OutcomeRequest struct {
	ID     string
	Begun  uint64
	Settle bool
}

// OutcomeInfo is what is known of an id.
type OutcomeInfo struct {
	State cohortv1.OutcomeResponse_State
	// Receipt is set when it committed, Aborted when it aborted.
	Receipt *command.Receipt
	Aborted *Aborted
	// Horizon is the Raft index before which outcomes are forgotten.
	Horizon uint64
}

// Outcome tells what became of an id, and ends the doubt when asked to.
// Errors: *Indeterminate, *Invalid, ErrNotServing.
func (c *Coordinator) Outcome(ctx context.Context, req OutcomeRequest) (OutcomeInfo, error) {
	return OutcomeInfo{}, ErrNotServing
}

// AttemptView gives what reads of an open attempt need: its pinned snapshot and
// its changes so far, in program order. The caller releases it. Errors:
// *Aborted, ErrNotServing.
func (c *Coordinator) AttemptView(ctx context.Context, attempt Attempt) (view Snapshot, ops []command.Op, release func(), err error) {
	return nil, nil, nil, ErrNotServing
}

// TransactionInfo describes an open or recently decided transaction.
type TransactionInfo struct {
	ID           string
	State        string // open, waiting, preparing, deciding, committed or aborted
	Begun        uint64
	Position     uint64
	Reason       command.Reason
	Detail       string
	Participants []string
	Age          time.Duration
	TimeUnixNano int64
}

// Transactions lists open transactions, oldest first, then recently decided
// ones, newest first; at most limit in all.
func (c *Coordinator) Transactions(ctx context.Context, limit int) ([]TransactionInfo, error) {
	return nil, ErrNotServing
}

// InstanceInfo describes a standby.
type InstanceInfo struct {
	Node, Instance, Description string
	Position                    uint64
}

// ParticipantInfo describes a participant as the coordinator sees it.
type ParticipantInfo struct {
	Name        string
	State       string // store_only, active, detached or activating
	Node        string
	Instance    string
	Description string
	Epoch       uint64
	Position    uint64
	Votes       bool
	OwnState    bool
	Reason      string
	Standbys    []InstanceInfo
}

// Participants describes the group's participants in the definition's order.
func (c *Coordinator) Participants(ctx context.Context) ([]ParticipantInfo, error) {
	return nil, ErrNotServing
}

// Configure makes def the group's definition and returns its version. Errors:
// *Aborted never; *Invalid when the log refuses it (data without prune, say),
// *Indeterminate, ErrNotServing.
func (c *Coordinator) Configure(ctx context.Context, def Definition, prune bool) (version uint64, err error) {
	return 0, ErrNotServing
}

// Session connects one node's agent.
type Session struct{}

// OpenSession connects the agent of a node. send is called from the
// coordinator's loop and must not block; it is not called after Close returned
// or Done is closed.
func (c *Coordinator) OpenSession(node string, send func(*cohortv1.CoordinatorMessage)) (*Session, error) {
	return nil, ErrNotServing
}

// Receive takes a message of the agent. An error is a violation of the protocol;
// the caller ends the stream with it.
func (s *Session) Receive(m *cohortv1.AgentMessage) error { return nil }

// Done is closed when the coordinator's reign ends: the agent connects to the
// next one.
func (s *Session) Done() <-chan struct{} { return nil }

// Close ends the session; instances attached through it are detached.
func (s *Session) Close() {}

// Snapshot is the pinned state that an attempt reads. *txlog.Snapshot is one.
type Snapshot interface {
	Index() uint64
	Get(participant, key string) (value []byte, version uint64, found bool, err error)
	Close()
}
