package txlog

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/lni/dragonboat/v4"
	"go.uber.org/zap"
)

// ErrMembersChanged: the shard's members are not those that a change was decided
// for; nothing was changed.
var ErrMembersChanged = errors.New("txlog: the shard's members have changed meanwhile")

const (
	// removeEvery and removeMost bound the wait until dragonboat has let go of a
	// replica whose files are to be removed.
	removeEvery = 10 * time.Millisecond
	removeMost  = 5 * time.Second
)

// Members are a shard's replicas as its log has them.
type Members struct {
	Voters, Learners, Removed []uint64
	// ConfigID is that of the last change.
	ConfigID uint64
}

// Members asks the shard for its members; the answer is as of the call or newer,
// so it needs a quorum. ctx has a deadline.
func (h *Host) Members(ctx context.Context, shardID uint64) (Members, error) {
	m, err := h.nh.SyncGetShardMembership(ctx, shardID)
	if err != nil {
		return Members{}, memberError(err)
	}
	return Members{
		Voters:   slices.Sorted(maps.Keys(m.Nodes)),
		Learners: slices.Sorted(maps.Keys(m.NonVotings)),
		Removed:  slices.Sorted(maps.Keys(m.Removed)),
		ConfigID: m.ConfigChangeID,
	}, nil
}

// AddLearner adds a replica without a vote. configID is what the change was
// decided for. Errors: ErrMembersChanged, ErrNotReady, ErrUnknown, ErrClosed.
func (h *Host) AddLearner(ctx context.Context, shardID, replicaID uint64, address string, configID uint64) error {
	return memberError(h.nh.SyncRequestAddNonVoting(ctx, shardID, replicaID, address, configID))
}

// Promote gives a replica that was added without a vote one.
func (h *Host) Promote(ctx context.Context, shardID, replicaID uint64, address string, configID uint64) error {
	return memberError(h.nh.SyncRequestAddReplica(ctx, shardID, replicaID, address, configID))
}

// RemoveMember removes a replica from its shard, for good.
func (h *Host) RemoveMember(ctx context.Context, shardID, replicaID, configID uint64) error {
	return memberError(h.nh.SyncRequestDeleteReplica(ctx, shardID, replicaID, configID))
}

func memberError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, dragonboat.ErrRejected):
		return ErrMembersChanged
	case errors.Is(err, dragonboat.ErrTimeout), errors.Is(err, dragonboat.ErrCanceled), errors.Is(err, dragonboat.ErrAborted), errors.Is(err, dragonboat.ErrShardClosed):
		return fmt.Errorf("%w (%w)", ErrUnknown, err)
	}
	return proposeError(err, 0)
}

// Compact drops the shard's Raft log here up to what is applied, so that a new
// replica gets the state as a snapshot and never entries that need an older one.
func (h *Host) Compact(ctx context.Context, shardID uint64) error {
	_, err := h.nh.SyncRequestSnapshot(ctx, shardID, dragonboat.SnapshotOption{OverrideCompactionOverhead: true, CompactionOverhead: compactKeep})
	if errors.Is(err, dragonboat.ErrRejected) {
		return nil // there is one at this index
	}
	return err
}

// compactKeep entries stay behind a compaction for replicas that are a little
// behind.
const compactKeep = 1000

// Retire stops a replica that its shard has removed, or that is not to run again,
// and removes what it has left: its files, and its part of the Raft log.
func (h *Host) Retire(ctx context.Context, shardID, replicaID uint64) error {
	h.mu.Lock()
	r := h.replicas[shardID]
	h.mu.Unlock()
	if r != nil && r.config.ReplicaID == replicaID {
		if err := h.StopReplica(shardID); err != nil {
			h.log.Warn("stopping a replica that has left", zap.String("group", r.config.Group), zap.Error(err))
		}
	}
	ctx, cancel := context.WithTimeout(ctx, removeMost)
	defer cancel()
	for h.nh.HasNodeInfo(shardID, replicaID) {
		err := h.nh.RemoveData(shardID, replicaID)
		if err == nil {
			break
		}
		if !errors.Is(err, dragonboat.ErrShardNotStopped) {
			return fmt.Errorf("txlog: remove the Raft log of shard %d: %w", shardID, err)
		}
		select {
		case <-time.After(removeEvery):
		case <-ctx.Done():
			return fmt.Errorf("txlog: remove the Raft log of shard %d: %w", shardID, err)
		}
	}
	return h.RemoveReplica(shardID, replicaID)
}

// AppliedRaft is the Raft index up to which the replica has applied its shard's
// log; 0 while it has no state that it could have been applied to.
func (r *Replica) AppliedRaft() uint64 { return r.raftIndex(r.Published()) }
