package coordinator

import (
	"context"
	"io"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/groups"
	"github.com/cohort-tx/cohort/txlog"
	"github.com/cohort-tx/cohort/txlog/checkpoint"
	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/machine"
)

// Groups is what a node knows of the cluster's groups by itself, without asking
// anybody. Its methods are called for each request and must not block.
type Groups interface {
	// Directory is the directory as this node has applied it.
	Directory() *groups.DirectoryState
	// Group is what runs of a group on this node; nothing does of one that the
	// directory does not know.
	Group(name string) LocalGroup
}

// LocalGroup is what runs of one group on this node at a moment.
type LocalGroup struct {
	// Coordinator is nil where none runs; where one runs it may not serve yet.
	Coordinator Transactor
	// Replica is nil where the node has none, and Keeper where it does not run.
	Replica LocalReplica
	Keeper  LocalKeeper
	// Err is why a replica that should run here does not; nil while it starts.
	Err error
	// Leader is the node that leads as far as the replica knows; empty when it
	// knows none.
	Leader string
	// Changed is closed when any of this, or whether the coordinator serves, may
	// have changed. Nil means that nobody tells; then it is looked at again after
	// a pause.
	Changed <-chan struct{}
}

// Transactor is a group's coordinator as its API services use it; see
// TransactorOf.
type Transactor interface {
	Serving() (epoch uint64, ok bool)
	Begin(ctx context.Context, req BeginRequest) (Opened, error)
	Call(ctx context.Context, req CallRequest) (StepReply, error)
	Commit(ctx context.Context, req CommitRequest) (command.Receipt, error)
	Abort(ctx context.Context, attempt Attempt, reason string) error
	Outcome(ctx context.Context, req OutcomeRequest) (OutcomeInfo, error)
	AttemptView(ctx context.Context, attempt Attempt) (view Snapshot, ops []command.Op, release func(), err error)
	Transactions(ctx context.Context, limit int) ([]TransactionInfo, error)
	Participants(ctx context.Context) ([]ParticipantInfo, error)
	Configure(ctx context.Context, def groups.Definition, prune bool) (version uint64, err error)
	RequestCheckpoint(ctx context.Context, req CheckpointRequest) (machine.Checkpoint, error)
	ReportReplica(ctx context.Context, node string, copies []command.ReportCopy, disk DiskReport) error
	ReportCapture(ctx context.Context, report command.ReportCapture) error
	Restoring(token string) (done func())
	Seal(ctx context.Context, token string) (machine.Checkpoint, error)
	Unseal(ctx context.Context, token string) error
	OpenSession(node string, send func(*pb.CoordinatorMessage)) (AgentSession, error)
}

// AgentSession is a coordinator's end of one Peers.Session. *Session is one.
type AgentSession interface {
	Receive(m *pb.AgentMessage) error
	Done() <-chan struct{}
	Close()
}

// LocalReplica is a group's replica on this node as the services read it; see
// LocalReplicaOf.
type LocalReplica interface {
	// ReadIndex returns a published index that contains everything acknowledged
	// before the call.
	ReadIndex(ctx context.Context) (uint64, error)
	// View pins the state at index, 0 being the last published one.
	View(index uint64) (View, error)
	// Follow reads the log from a position on.
	Follow(from uint64) (Follower, error)
	Status() txlog.Status
	ShardID() uint64
	// SaveState writes the state at exactly an index, and the log that leads to it.
	SaveState(ctx context.Context, index uint64, w io.Writer) error
}

// LocalKeeper keeps a group's checkpoints on this node. *txlog.Keeper is one.
type LocalKeeper interface {
	Open(number uint64) (r *checkpoint.Reader, close func(), err error)
	Verify(ctx context.Context, number uint64, progress func(done, total uint64)) ([]txlog.Verified, error)
	Locate(ctx context.Context, t txlog.Target) (txlog.Point, error)
	RestorableFrom() (position uint64, ok bool)
	Usage() txlog.Usage
	// HoldState, DamagedState, Captured and Upload are for captured states.
	HoldState(id checkpoint.StateID) (path string, release func(), err error)
	DamagedState(id checkpoint.StateID, err error)
	Captured(incarnation uint64, id checkpoint.UploadID) (*machine.Capture, error)
	Upload(ctx context.Context, id checkpoint.UploadID) (streaming context.Context, u *txlog.Upload, release func(), err error)
	Problem() error
}

// View is a group's state at one index. It pins that state: close it.
// *txlog.Snapshot is one.
type View interface {
	Index() uint64
	Meta() (machine.Meta, error)
	Config() (machine.Config, error)
	Get(participant, key string) (value []byte, version uint64, found bool, err error)
	Scan(participant, start, end string, limit int, fn func(key string, value []byte, version uint64) (bool, error)) (command.ScanRead, bool, error)
	RecentOutcomes(limit int) ([]machine.Outcome, error)
	Digest() (sum [32]byte, keys uint64, err error)
	Reader() machine.Reader
	Close()
}

// Follower reads the log in order. *txlog.Follower is one.
type Follower interface {
	Next(ctx context.Context, maxEntries int, maxBytes int64) ([]command.Entry, error)
}

// Directory is what declaring groups needs of the directory's host.
// *groups.DirectoryHost is one.
type Directory interface {
	Read(ctx context.Context) (*groups.DirectoryState, error)
	CreateGroup(ctx context.Context, d *groups.Definition, nodes []string) (*groups.GroupRecord, error)
	SetDefinition(ctx context.Context, d *groups.Definition, expect, version uint64) (*groups.GroupRecord, error)
	CreateGroupFrom(ctx context.Context, d *groups.Definition, nodes []string, incarnation uint64, origin groups.Origin) (*groups.GroupRecord, error)
	PlanRestore(ctx context.Context, group, token string, incarnation uint64) (*groups.GroupRecord, error)
	CancelRestore(ctx context.Context, group, token string) (*groups.GroupRecord, error)
	BeginIncarnation(ctx context.Context, c groups.BeginIncarnation) (*groups.GroupRecord, error)
	AddNode(ctx context.Context, c groups.AddNode) (*groups.Node, error)
	ReplaceNode(ctx context.Context, c groups.ReplaceNode) (*groups.Node, error)
	LeaveNode(ctx context.Context, c groups.LeaveNode) (*groups.Node, error)
}

var (
	_ View      = (*txlog.Snapshot)(nil)
	_ Follower  = (*txlog.Follower)(nil)
	_ Directory = (*groups.DirectoryHost)(nil)
)

// LocalReplicaOf gives a replica to the services.
func LocalReplicaOf(r *txlog.Replica) LocalReplica { return logReplica{r} }

type logReplica struct{ *txlog.Replica }

func (r logReplica) View(index uint64) (View, error) {
	view, err := r.Snapshot(index)
	if err != nil {
		return nil, err
	}
	return view, nil
}

func (r logReplica) Follow(from uint64) (Follower, error) {
	follower, err := r.Replica.Follow(from)
	if err != nil {
		return nil, err
	}
	return follower, nil
}

// TransactorOf gives a coordinator to the services.
func TransactorOf(c *Coordinator) Transactor { return localTransactor{c} }

type localTransactor struct{ *Coordinator }

func (t localTransactor) OpenSession(node string, send func(*pb.CoordinatorMessage)) (AgentSession, error) {
	session, err := t.Coordinator.OpenSession(node, send)
	if err != nil {
		return nil, err
	}
	return session, nil
}
