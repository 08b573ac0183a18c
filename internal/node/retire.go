package node

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/cohort-tx/cohort/groups"
)

// confirmTimeout bounds asking the directory whether a replica is really gone.
const confirmTimeout = 5 * time.Second

// clearRemoved ends the replicas that are no members any more, and removes what
// they have left: files, checkpoints, their part of the Raft log. What this node
// has applied of the directory may be of the past, so the directory is asked
// before anything goes. It reports whether nothing is left to do.
func (m *manager) clearRemoved(ctx context.Context) bool {
	if !m.anyRemoved(m.directory.State()) {
		return true
	}
	asking, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	state, err := m.directory.Read(asking)
	if err != nil {
		return false
	}
	complete := true
	for _, local := range m.data.Replicas() {
		if m.removed(state, local) {
			complete = m.clear(ctx, state, local) && complete
		}
	}
	return complete
}

func (m *manager) anyRemoved(state *groups.DirectoryState) bool {
	return state.Revision > 0 && slices.ContainsFunc(m.data.Replicas(), func(local groups.LocalReplica) bool { return m.removed(state, local) })
}

// removed tells whether a replica that this node holds is nobody's any more.
// Those of earlier incarnations go when the present one runs here; without a
// replica of that they go at once.
func (m *manager) removed(state *groups.DirectoryState, local groups.LocalReplica) bool {
	if local.ShardID == groups.DirectoryShard {
		return false
	}
	for _, record := range state.Groups() {
		_, here := record.Member(m.node)
		if record.ShardID == local.ShardID {
			return !slices.ContainsFunc(record.Members, func(member groups.Member) bool {
				return member.ReplicaID == local.ReplicaID && member.Node == m.node && !member.Leaving
			})
		}
		if slices.ContainsFunc(record.Past, func(past groups.PastShard) bool { return past.ShardID == local.ShardID }) {
			return !here
		}
	}
	return true
}

func (m *manager) clear(ctx context.Context, state *groups.DirectoryState, local groups.LocalReplica) bool {
	log := m.logger.With(zap.String("group", local.Group), zap.Uint64("shard", local.ShardID), zap.Uint64("replica", local.ReplicaID))
	if hosted := m.group(local.Group); hosted != nil && hosted.record.ShardID == local.ShardID && hosted.member.ReplicaID == local.ReplicaID {
		m.endIncarnation(hosted)
	}
	if err := m.host.Retire(ctx, local.ShardID, local.ReplicaID); err != nil {
		log.Warn("removing a replica that has left its group", zap.Error(err))
		return false
	}
	if record, ok := state.Group(local.Group); ok {
		if _, here := record.Member(m.node); !here {
			if err := os.RemoveAll(filepath.Join(m.keepers.dir, checkpointsDir, local.Group)); err != nil {
				log.Warn("removing the checkpoints of a group that has left", zap.Error(err))
				return false
			}
		}
	}
	if err := m.data.Forget(local.ShardID, local.ReplicaID); err != nil {
		log.Warn("forgetting a replica that has left its group", zap.Error(err))
		return false
	}
	log.Info("replica removed")
	return true
}
