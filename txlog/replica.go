package txlog

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lni/dragonboat/v4"
	"github.com/lni/dragonboat/v4/raftio"
	"go.uber.org/zap"

	"github.com/cohort-tx/cohort/participant/store"
	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/machine"
	"github.com/cohort-tx/cohort/txlog/segment"
)

// Replica is one group's shard on this node: its state, its log, and the way to
// propose. Its methods may be called from any goroutine.
type Replica struct {
	host   *Host
	config ReplicaConfig
	log    *zap.Logger
	dir    string

	// mu guards the files, which Open sets and an installed snapshot replaces.
	mu     sync.RWMutex
	store  *store.Store
	files  *logFiles
	closed bool

	// applying is held while entries are applied, a snapshot is installed, or the
	// state is rebuilt; it guards what follows down to located.
	applying sync.Mutex
	// empty: the replica started without a state that its entries could be applied
	// to, and gets one from another replica first.
	empty   bool
	machine *machine.Machine
	limits  command.Limits
	// segmentBytes and keepVersions are those of the host's configuration.
	segmentBytes int64
	keepVersions time.Duration
	// located is false until the state says where the log ends: after the first
	// start and after an install, the next entry does.
	located  bool
	position atomic.Uint64 // of the published state
	cuts     cuts
	// published is closed, and another one made, when more is published.
	published atomic.Pointer[chan struct{}]

	failure atomic.Pointer[haltError]
	// quarantine says why the state must not be read.
	quarantine atomic.Pointer[haltError]
	// stop is closed when the replica is being stopped: who waits gives up.
	stop    chan struct{}
	stopped sync.Once
	// left is closed once the replica has left its shard: see Host.leave.
	left      chan struct{}
	leaveOnce sync.Once
	// fileClosed is closed when dragonboat has let go of the state machine and its
	// files are closed, with closeErr.
	fileClosed chan struct{}
	closeErr   error
	// tasks are the goroutines of proposals, and that of a halt.
	tasks sync.WaitGroup
}

type haltError struct{ err error }

func newReplica(h *Host, c ReplicaConfig) *Replica {
	c.Limits = c.Limits.WithDefaults()
	r := &Replica{
		host:    h,
		config:  c,
		log:     h.log.With(zap.String("group", c.Group), zap.Uint64("replica", c.ReplicaID)),
		dir:     h.ReplicaDir(c.ShardID, c.ReplicaID),
		machine: machine.New(),
		limits:  c.Limits,

		segmentBytes: h.config.segmentBytes,
		keepVersions: h.config.keepVersions,

		stop: make(chan struct{}),

		left:       make(chan struct{}),
		fileClosed: make(chan struct{}),
	}
	ch := make(chan struct{})
	r.published.Store(&ch)
	return r
}

// ReplicaDir is where the files of a replica are.
func (h *Host) ReplicaDir(shardID, replicaID uint64) string {
	return filepath.Join(h.config.Dir, fmt.Sprintf("shard-%04d-%04d", shardID, replicaID))
}

// RemoveReplica removes what a replica that is stopped, and never comes back, has
// left: its files, and its part of the Raft log.
func (h *Host) RemoveReplica(shardID, replicaID uint64) error {
	if h.nh.HasNodeInfo(shardID, replicaID) {
		if err := h.nh.RemoveData(shardID, replicaID); err != nil && !errors.Is(err, dragonboat.ErrShardNotStopped) {
			return fmt.Errorf("txlog: remove the Raft log of shard %d: %w", shardID, err)
		}
	}
	return os.RemoveAll(h.ReplicaDir(shardID, replicaID))
}

// ReplicaID is this replica's id in its shard.
func (r *Replica) ReplicaID() uint64 { return r.config.ReplicaID }

// ShardID is the group's shard.
func (r *Replica) ShardID() uint64 { return r.config.ShardID }

// Leadership is the last known one of the replica's shard.
func (r *Replica) Leadership() Leadership { return r.host.Leadership(r.config.ShardID) }

// Watch is Host.Watch for the replica's shard.
func (r *Replica) Watch(fn func(Leadership)) (cancel func()) {
	return r.host.Watch(r.config.ShardID, fn)
}

// giveUpLeadership makes another member lead, if this one does.
func (r *Replica) giveUpLeadership() error {
	if !r.Leadership().Self {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), readIndexTimeout)
	defer cancel()
	m, err := r.host.nh.SyncGetShardMembership(ctx, r.config.ShardID)
	if err != nil {
		return fmt.Errorf("txlog: the members of group %s: %w", r.config.Group, err)
	}
	for id := range m.Nodes {
		if id != r.config.ReplicaID {
			return r.TransferLeadership(id)
		}
	}
	return nil
}

// TransferLeadership asks the shard to make another replica its leader; it does
// not wait for it.
func (r *Replica) TransferLeadership(target uint64) error {
	return r.host.nh.RequestLeaderTransfer(r.config.ShardID, target)
}

// Published is the last published index.
func (r *Replica) Published() uint64 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.store == nil {
		return 0
	}
	return r.store.Published()
}

// Status describes a replica.
type Status struct {
	Published   uint64
	Synced      uint64
	Position    uint64
	Incarnation uint64
	// FirstPosition is the first position kept; one more than Position when none
	// is.
	FirstPosition uint64
	LogBytes      int64
	// Err is why the replica has halted, nil when it has not.
	Err error
}

// Status describes the replica as of now. Before it is open only Err is set.
func (r *Replica) Status() Status {
	s := Status{Err: r.Err()}
	snap, err := r.Snapshot(0)
	if err != nil {
		if s.Err == nil {
			s.Err = err
		}
		return s
	}
	defer snap.Close()
	s.Published = snap.Index()
	if meta, err := snap.Meta(); err == nil {
		s.Position, s.Incarnation = meta.Position, meta.Incarnation
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	s.Synced = r.store.Synced()
	s.FirstPosition, s.LogBytes = r.files.log.First(), r.files.log.Bytes()
	return s
}

// Err is why the replica has halted, nil when it has not.
func (r *Replica) Err() error {
	if f := r.failure.Load(); f != nil {
		return f.err
	}
	return nil
}

// Quarantine says that the replica's state is not the group's: nothing reads it
// from now on, until Rebuild has replaced it, and the replica gives its
// leadership away.
func (r *Replica) Quarantine(err error) {
	if !r.quarantine.CompareAndSwap(nil, &haltError{fmt.Errorf("%w: %w", ErrQuarantined, err)}) {
		return
	}
	r.log.Error("replica quarantined", zap.Error(err))
}

// Quarantined is why the replica's state is not to be read, nil when it may.
func (r *Replica) Quarantined() error {
	if q := r.quarantine.Load(); q != nil {
		return q.err
	}
	return nil
}

// halt records the first failure, leaves the shard, so that another replica can
// lead it, and returns once that is done. It is called by the state machine,
// which dragonboat waits for; leaving does not wait for the state machine.
func (r *Replica) halt(err error) {
	if r.failure.CompareAndSwap(nil, &haltError{fmt.Errorf("%w: %w", ErrHalted, err)}) {
		r.log.Error("replica halted; restart the node once the cause is gone", zap.Error(err))
		r.host.failed.Store(raftio.GetNodeInfo(r.config.ShardID, r.config.ReplicaID), true)
		r.tasks.Go(func() {
			if err := r.host.leave(r); err != nil {
				r.log.Warn("leaving the shard", zap.Error(err))
			}
		})
	}
	<-r.left
}

// markClosed lets go of who waits.
func (r *Replica) markClosed() {
	r.stopped.Do(func() { close(r.stop) })
}

// logFiles is one log directory.
type logFiles struct {
	// id names the directory: the index of the Raft snapshot it came from.
	id  uint64
	dir string
	log *segment.Log
}

func (r *Replica) logDir(id uint64) string {
	return filepath.Join(r.dir, fmt.Sprintf("log-%d", id))
}
