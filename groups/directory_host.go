package groups

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lni/dragonboat/v4"
	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/statemachine"
	"go.uber.org/zap"
)

const (
	// directorySnapshotEntries between snapshots: entries are few and snapshots
	// small, and a node that starts replays at most so many.
	directorySnapshotEntries = 1000
	// directoryCompactionOverhead entries are kept behind a snapshot, for nodes
	// that were away; what is older comes as a snapshot, which is small.
	directoryCompactionOverhead = 1000
	// directoryInMemLog bounds the log that Raft keeps in memory.
	directoryInMemLog = 64 << 20
	// directoryTry is how long one try of a command or read may take before it is
	// sent again: a proposal forwarded to a leader that just died is never
	// answered.
	directoryTry = 2 * time.Second
	// directoryTimeout bounds a call whose context has no deadline.
	directoryTimeout = 15 * time.Second
	// directoryRetryAfter is waited between tries.
	directoryRetryAfter = 50 * time.Millisecond
)

// DirectoryConfig says how the directory runs on this node.
type DirectoryConfig struct {
	// NodeHost runs the shard; it outlives the DirectoryHost.
	NodeHost *dragonboat.NodeHost
	// ReplicaID is this node's replica in the directory's shard.
	ReplicaID uint64
	// Members of a first start are the cluster's initial nodes, replica id to
	// Raft address; nil on a restart, so that a lost log is an error.
	Members map[uint64]string
	// Join starts a replica that was added to a running directory without a vote; it
	// stays set at each start.
	Join bool
	// ElectionRTT and HeartbeatRTT are in round trips of the NodeHost; 0 means 10
	// and 1.
	ElectionRTT, HeartbeatRTT uint64
	// Logger defaults to none.
	Logger *zap.Logger
}

// DirectoryHost is this node's replica of the directory. Its methods are safe
// for concurrent use.
type DirectoryHost struct {
	nodeHost  *dragonboat.NodeHost
	replicaID uint64
	logger    *zap.Logger

	state   atomic.Pointer[DirectoryState]
	applied atomic.Uint64 // Raft index
	changed chan struct{} // holds one token when there is news for watchers
	stop    chan struct{}
	stopped sync.WaitGroup
	closing sync.Once

	mu       sync.Mutex
	watchers map[uint64]*directoryWatcher
	nextID   uint64
}

type directoryWatcher struct {
	fn   func(*DirectoryState)
	seen *DirectoryState // touched by the watching goroutine only
}

// StartDirectory starts this node's replica. It does not wait for a leader; see
// Read. Close stops it.
func StartDirectory(c DirectoryConfig) (*DirectoryHost, error) {
	h := &DirectoryHost{
		nodeHost:  c.NodeHost,
		replicaID: c.ReplicaID,
		logger:    c.Logger,
		changed:   make(chan struct{}, 1),
		stop:      make(chan struct{}),
		watchers:  map[uint64]*directoryWatcher{},
	}
	if h.logger == nil {
		h.logger = zap.NewNop()
	}
	orDefault(&c.ElectionRTT, 10)
	orDefault(&c.HeartbeatRTT, 1)
	if len(c.Members) == 0 && !c.Join && !c.NodeHost.HasNodeInfo(DirectoryShard, c.ReplicaID) {
		// The NodeHost would panic.
		return nil, fmt.Errorf("%w: replica %d of the directory has no Raft log. Put the data directory back, or rebuild the node with `cohort node replace`: it must not vote again without it", ErrAmnesia, c.ReplicaID)
	}
	directory := NewDirectory()
	h.state.Store(directory.State())
	machine := &directoryMachine{directory: directory, publish: h.publish, applied: &h.applied}
	known := c.NodeHost.HasNodeInfo(DirectoryShard, c.ReplicaID)
	err := c.NodeHost.StartReplica(maps.Clone(c.Members), c.Join && !known,
		func(uint64, uint64) statemachine.IStateMachine { return machine },
		config.Config{
			ShardID:             DirectoryShard,
			ReplicaID:           c.ReplicaID,
			IsNonVoting:         c.Join,
			ElectionRTT:         c.ElectionRTT,
			HeartbeatRTT:        c.HeartbeatRTT,
			CheckQuorum:         true,
			PreVote:             true,
			OrderedConfigChange: true,
			SnapshotEntries:     directorySnapshotEntries,
			CompactionOverhead:  directoryCompactionOverhead,
			MaxInMemLogSize:     directoryInMemLog,
		})
	if err != nil {
		return nil, fmt.Errorf("start the directory's replica %d: %w", c.ReplicaID, err)
	}
	h.stopped.Add(1)
	go h.watch()
	return h, nil
}

// Close stops the replica and waits for watchers to return. It must not be
// called from one.
func (h *DirectoryHost) Close() error {
	var err error
	h.closing.Do(func() {
		close(h.stop)
		h.stopped.Wait()
		err = h.nodeHost.StopReplica(DirectoryShard, h.replicaID)
		if errors.Is(err, dragonboat.ErrShardNotFound) || errors.Is(err, dragonboat.ErrClosed) {
			err = nil
		}
	})
	return err
}

// State returns what this node has applied; it may be behind.
func (h *DirectoryHost) State() *DirectoryState { return h.state.Load() }

// Applied is the Raft index up to which this node has applied the directory, as
// far as commands tell.
func (h *DirectoryHost) Applied() uint64 { return h.applied.Load() }

// ReplicaID is this node's replica of the directory.
func (h *DirectoryHost) ReplicaID() uint64 { return h.replicaID }

// Read returns a state that contains every command answered before the call.
func (h *DirectoryHost) Read(ctx context.Context) (*DirectoryState, error) {
	var state *DirectoryState
	err := h.try(ctx, ErrDirectoryUnavailable, func(ctx context.Context) error {
		v, err := h.nodeHost.SyncRead(ctx, DirectoryShard, nil)
		if err == nil {
			state = v.(*DirectoryState)
		}
		return err
	})
	return state, err
}

// RegisterNode adds this node or changes its API address.
func (h *DirectoryHost) RegisterNode(ctx context.Context, n RegisterNode) (*Node, error) {
	result, err := h.propose(ctx, directoryCommand{RegisterNode: &n})
	return result.Node, err
}

// CreateGroup adds a group with its first definition and replicas on the given
// nodes; see DirectoryState.Placement. The same again returns the same record.
func (h *DirectoryHost) CreateGroup(ctx context.Context, d *Definition, nodes []string) (*GroupRecord, error) {
	data, err := d.MarshalJSON()
	if err != nil {
		return nil, err
	}
	result, err := h.propose(ctx, directoryCommand{CreateGroup: &CreateGroup{Group: d.Group, DefinitionJSON: data, Members: nodes}})
	return result.Group, err
}

// SetDefinition moves a group's definition from version expect to version,
// which is above it.
func (h *DirectoryHost) SetDefinition(ctx context.Context, d *Definition, expect, version uint64) (*GroupRecord, error) {
	data, err := d.MarshalJSON()
	if err != nil {
		return nil, err
	}
	result, err := h.propose(ctx, directoryCommand{SetDefinition: &SetDefinition{Group: d.Group, Expect: expect, Version: version, DefinitionJSON: data}})
	return result.Group, err
}

// MarkStarted records that a replica is about to start for the first time. The
// node's own record has to be on disk before; see DataDir.Plan.
func (h *DirectoryHost) MarkStarted(ctx context.Context, shardID, replicaID uint64) (*GroupRecord, error) {
	result, err := h.propose(ctx, directoryCommand{MarkStarted: &MarkStarted{ShardID: shardID, ReplicaID: replicaID}})
	return result.Group, err
}

// propose sends a command until it is answered or ctx ends. Sending one twice
// is harmless: each is its own repetition's no-op.
func (h *DirectoryHost) propose(ctx context.Context, c directoryCommand) (DirectoryResult, error) {
	data := encodeDirectoryCommand(c)
	if len(data) > maxDirectoryCommandBytes {
		return DirectoryResult{}, &RefusedError{Code: RefusedMalformed, Detail: fmt.Sprintf("the command has %d bytes, at most %d; make the definition smaller", len(data), maxDirectoryCommandBytes)}
	}
	var raw []byte
	err := h.try(ctx, ErrDirectoryUnknown, func(ctx context.Context) error {
		answer, err := h.nodeHost.SyncPropose(ctx, h.nodeHost.GetNoOPSession(DirectoryShard), data)
		raw = answer.Data
		return err
	})
	if err != nil {
		return DirectoryResult{}, err
	}
	var result DirectoryResult
	if err := json.Unmarshal(raw, &result); err != nil {
		return DirectoryResult{}, fmt.Errorf("directory's answer cannot be read: %w", err)
	}
	if result.Refused != 0 {
		return DirectoryResult{}, &RefusedError{Code: result.Refused, Detail: result.Detail}
	}
	return result, nil
}

// try calls fn again until it succeeds, fails for good, or ctx ends. Its error
// is then unanswered when a try was sent and not answered, and
// ErrDirectoryUnavailable when none was.
func (h *DirectoryHost) try(ctx context.Context, unanswered error, fn func(context.Context) error) error {
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, directoryTimeout)
		defer cancel()
	}
	failure := ErrDirectoryUnavailable
	for {
		once, cancel := context.WithTimeout(ctx, directoryTry)
		err := fn(once)
		cancel()
		switch {
		case err == nil:
			return nil
		case errors.Is(err, dragonboat.ErrTimeout), errors.Is(err, dragonboat.ErrCanceled), errors.Is(err, dragonboat.ErrAborted),
			errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
			failure = unanswered
		case errors.Is(err, dragonboat.ErrShardNotReady), errors.Is(err, dragonboat.ErrShardNotInitialized), errors.Is(err, dragonboat.ErrSystemBusy),
			errors.Is(err, dragonboat.ErrTimeoutTooSmall), errors.Is(err, dragonboat.ErrInvalidDeadline), errors.Is(err, dragonboat.ErrRejected):
		case errors.Is(err, dragonboat.ErrShardNotFound), errors.Is(err, dragonboat.ErrShardClosed), errors.Is(err, dragonboat.ErrClosed):
			return ErrDirectoryClosed
		default:
			return fmt.Errorf("directory: %w", err)
		}
		timer := time.NewTimer(directoryRetryAfter)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("%w (%w)", failure, ctx.Err())
		case <-h.stop:
			timer.Stop()
			return ErrDirectoryClosed
		}
	}
}

// Watch calls fn with the present state and then with each newer one; states in
// between may be skipped. Calls come from one goroutine of the host, so fn must
// not block and must not call Close. After cancel fn may be running one last
// time.
func (h *DirectoryHost) Watch(fn func(*DirectoryState)) (cancel func()) {
	h.mu.Lock()
	h.nextID++
	id := h.nextID
	h.watchers[id] = &directoryWatcher{fn: fn}
	h.mu.Unlock()
	h.signal()
	return func() {
		h.mu.Lock()
		delete(h.watchers, id)
		h.mu.Unlock()
	}
}

// publish is called by the state machine.
func (h *DirectoryHost) publish(s *DirectoryState) {
	h.state.Store(s)
	h.signal()
}

func (h *DirectoryHost) signal() {
	select {
	case h.changed <- struct{}{}:
	default: // the token that is there will do
	}
}

func (h *DirectoryHost) watch() {
	defer h.stopped.Done()
	for {
		select {
		case <-h.stop:
			return
		case <-h.changed:
		}
		state := h.state.Load()
		h.mu.Lock()
		watchers := make([]*directoryWatcher, 0, len(h.watchers))
		for _, w := range h.watchers {
			watchers = append(watchers, w)
		}
		h.mu.Unlock()
		for _, w := range watchers {
			if w.seen != state {
				w.seen = state
				w.fn(state)
			}
		}
	}
}
