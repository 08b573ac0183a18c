package txlog

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/lni/dragonboat/v4"
	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/raftio"
	"github.com/lni/dragonboat/v4/statemachine"
	"go.uber.org/zap"

	"github.com/cohort-tx/cohort/txlog/command"
)

// Defaults and bounds of a host.
const (
	// DefaultRTT is dragonboat's tick. With the two below it a follower hears from
	// its leader every 50 ms and a dead leader is replaced within 0.5 to 1 s.
	DefaultRTT          = 10 * time.Millisecond
	DefaultHeartbeatRTT = 5
	DefaultElectionRTT  = 50
	// maxInMemLogBytes bounds a replica's Raft log in memory: several of the
	// largest entries. Beyond it proposals are refused as overloaded.
	maxInMemLogBytes = 256 << 20
	// snapshotEntries is how often dragonboat compacts its log: a snapshot of an
	// on-disk machine is only metadata.
	snapshotEntries = 50_000
	// compactionOverhead is how many entries stay for a replica that is behind.
	// It must exceed the entries applied while a snapshot is sent, or the receiver
	// needs the next snapshot as soon as it has this one.
	compactionOverhead = 100_000
	// sendQueueBytes and receiveQueueBytes bound what waits for the network, each
	// way, per connection and replica. What does not fit is dropped, and Raft sends
	// it again.
	sendQueueBytes    = 256 << 20
	receiveQueueBytes = 256 << 20
	// logWriteBufferBytes is what tan allocates for each of its 16 writers; a larger
	// update gets a buffer of its own.
	logWriteBufferBytes = 1 << 20
	// deploymentID keeps clusters of other software out.
	deploymentID = 0x436f686f7274
)

// TLSFiles names PEM files for mutual TLS between nodes.
type TLSFiles struct{ CAFile, CertFile, KeyFile string }

// HostConfig configures a Host. Dir and RaftAddress are required.
type HostConfig struct {
	// Dir is the node's data directory.
	Dir string
	// RaftAddress is what other nodes connect to; ListenAddress is where to listen,
	// when it is another.
	RaftAddress   string
	ListenAddress string
	// RTT is the length of a tick: about the round trip time between the nodes.
	// 0 is DefaultRTT. Whole milliseconds.
	RTT time.Duration
	// ElectionRTT and HeartbeatRTT are in ticks; 0 is the default.
	ElectionRTT  uint64
	HeartbeatRTT uint64
	// TLS secures the traffic between nodes; nil leaves it in the clear.
	TLS    *TLSFiles
	Logger *zap.Logger

	// What follows is for tests. segmentBytes and keepVersions are passed to segment
	// and store.
	snapshotEntries, compactionOverhead uint64
	segmentBytes                        int64
	keepVersions                        time.Duration
}

func (c *HostConfig) ensureDefaults() {
	orDefault(&c.RTT, DefaultRTT)
	orDefault(&c.ElectionRTT, DefaultElectionRTT)
	orDefault(&c.HeartbeatRTT, DefaultHeartbeatRTT)
	orDefault(&c.snapshotEntries, snapshotEntries)
	orDefault(&c.compactionOverhead, compactionOverhead)
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
}

func orDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// Host runs the Raft replicas of one node.
type Host struct {
	config  HostConfig
	log     *zap.Logger
	nh      *dragonboat.NodeHost
	leaders *leaders

	mu       sync.Mutex
	replicas map[uint64]*Replica
	closed   bool

	// failed has a raftio.NodeInfo for each replica that has halted.
	failed sync.Map
}

// NewHost starts dragonboat. It takes the directory's lock and the address.
func NewHost(c HostConfig) (*Host, error) {
	c.ensureDefaults()
	if c.Dir == "" || c.RaftAddress == "" {
		return nil, errors.New("txlog: a host needs a directory and a Raft address")
	}
	dir := filepath.Join(c.Dir, "raft")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("txlog: %w", err)
	}
	h := &Host{config: c, log: c.Logger.Named("txlog"), leaders: newLeaders(), replicas: make(map[uint64]*Replica)}
	nc := config.NodeHostConfig{
		DeploymentID:      deploymentID,
		NodeHostDir:       dir,
		RTTMillisecond:    uint64(max(c.RTT/time.Millisecond, 1)),
		RaftAddress:       c.RaftAddress,
		ListenAddress:     c.ListenAddress,
		RaftEventListener: h.leaders,
	}
	if c.TLS != nil {
		nc.MutualTLS, nc.CAFile, nc.CertFile, nc.KeyFile = true, c.TLS.CAFile, c.TLS.CertFile, c.TLS.KeyFile
	}
	nc.MaxSendQueueSize, nc.MaxReceiveQueueSize = sendQueueBytes, receiveQueueBytes
	nc.Expert.LogDBFactory = logDBFactory{refuseSnapshots: h.halted}
	nc.Expert.LogDB = config.GetTinyMemLogDBConfig()
	nc.Expert.LogDB.KVWriteBufferSize = logWriteBufferBytes
	quietDragonboat()
	nh, err := dragonboat.NewNodeHost(nc)
	if err != nil {
		return nil, fmt.Errorf("txlog: start Raft on %s in %s: %w", c.RaftAddress, dir, err)
	}
	h.nh = nh
	return h, nil
}

// NodeHost is for the directory's shard, which is not a Replica.
func (h *Host) NodeHost() *dragonboat.NodeHost { return h.nh }

// Watch calls fn with the leadership of a shard, at once and at each change, from
// one goroutine per host. fn must not block, and must not call the host.
func (h *Host) Watch(shardID uint64, fn func(Leadership)) (cancel func()) {
	return h.leaders.watch(shardID, fn)
}

// Leadership is the last known one of a shard.
func (h *Host) Leadership(shardID uint64) Leadership { return h.leaders.of(shardID) }

// ReplicaConfig places one replica.
type ReplicaConfig struct {
	// Group is for messages.
	Group     string
	ShardID   uint64
	ReplicaID uint64
	// Members are the Raft addresses of the first replicas by id, at the first
	// start; nil when the replica was started before.
	Members map[uint64]string
	// Join says that the replica starts for the first time and was added to a shard
	// that runs, or that its shard has other members than it began with.
	Join bool
	// Learner says that the replica was added without a vote. It stays set for good:
	// a replica that was given a vote learns so from its log at each start, and one
	// started as a voter before it is one would be a fault in dragonboat's eyes.
	Learner bool
	// Limits are those of the group's definition; the zero value is the defaults.
	Limits command.Limits
	// IndexBase and EpochBase are added to the Raft indexes and terms of the shard,
	// so that those of a group's later incarnations, whose shards count from 1
	// again, never meet those of the earlier ones. Everything outside this package
	// sees the sums only.
	IndexBase, EpochBase uint64
	// State is where a replica without a state, or with a wrong one, gets it; nil
	// means nowhere.
	State StateSource
}

// StartReplica opens the replica's files and starts its shard.
func (h *Host) StartReplica(c ReplicaConfig) (*Replica, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, ErrClosed
	}
	if h.replicas[c.ShardID] != nil {
		return nil, fmt.Errorf("txlog: shard %d of group %s runs here already", c.ShardID, c.Group)
	}
	known := h.nh.HasNodeInfo(c.ShardID, c.ReplicaID)
	if c.Members == nil && !c.Join && !known {
		return nil, fmt.Errorf("%w (replica %d of group %s)", ErrLogLost, c.ReplicaID, c.Group)
	}
	r := newReplica(h, c)
	index, err := r.open()
	if err != nil {
		return nil, err
	}
	if index > c.IndexBase && !known {
		// dragonboat would panic, and should: a state without its Raft log.
		return nil, errors.Join(fmt.Errorf("%w (replica %d of group %s, whose state is at index %d)", ErrLogLost, c.ReplicaID, c.Group, index), r.close())
	}
	members := c.Members
	if known {
		members = nil
	}
	h.failed.Delete(raftio.GetNodeInfo(c.ShardID, c.ReplicaID))
	h.leaders.expect(c.ShardID, c.EpochBase)
	err = h.nh.StartOnDiskReplica(members, c.Join && !known, func(uint64, uint64) statemachine.IOnDiskStateMachine { return &shard{r} }, config.Config{
		ShardID:             c.ShardID,
		ReplicaID:           c.ReplicaID,
		IsNonVoting:         c.Learner,
		ElectionRTT:         h.config.ElectionRTT,
		HeartbeatRTT:        h.config.HeartbeatRTT,
		CheckQuorum:         true,
		PreVote:             true,
		OrderedConfigChange: true,
		SnapshotEntries:     h.config.snapshotEntries,
		CompactionOverhead:  h.config.compactionOverhead,
		MaxInMemLogSize:     maxInMemLogBytes,
		WaitReady:           true,
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("txlog: start replica %d of group %s: %w", c.ReplicaID, c.Group, err), r.close())
	}
	h.replicas[c.ShardID] = r
	return r, nil
}

// halted tells of a replica that has failed: its state on disk may be less than
// what dragonboat thinks.
func (h *Host) halted(id raftio.NodeInfo) bool {
	_, halted := h.failed.Load(id)
	return halted
}

// StopReplica stops a shard here and waits until its files are closed.
func (h *Host) StopReplica(shardID uint64) error {
	h.mu.Lock()
	r := h.replicas[shardID]
	h.mu.Unlock()
	if r == nil {
		return nil
	}
	err := h.stop(r)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.replicas[shardID] == r {
		delete(h.replicas, shardID)
	}
	return err
}

// stop stops the replica's shard and waits until dragonboat has let go of it.
func (h *Host) stop(r *Replica) error {
	r.markClosed()
	err := h.leave(r)
	<-r.fileClosed
	r.tasks.Wait()
	return errors.Join(err, r.closeErr)
}

// leave ends the replica's part in its shard. When it returns, dragonboat has
// terminated all that waited for the replica, so that what Update gives back
// from then on reaches nobody; and only then Update may give something back.
func (h *Host) leave(r *Replica) error {
	err := h.nh.StopReplica(r.config.ShardID, r.config.ReplicaID)
	h.leaders.forget(r.config.ShardID)
	r.leaveOnce.Do(func() { close(r.left) })
	if errors.Is(err, dragonboat.ErrShardNotFound) {
		return nil // it has left before, as the replica halted
	}
	return err
}

// Close stops everything and waits for it.
func (h *Host) Close() {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return
	}
	h.closed = true
	replicas := slices.Collect(maps.Values(h.replicas))
	h.mu.Unlock()
	for _, r := range replicas {
		if err := h.stop(r); err != nil {
			h.log.Warn("stopping a replica", zap.String("group", r.config.Group), zap.Error(err))
		}
	}
	h.nh.Close()
}
