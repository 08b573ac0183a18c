package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"go.uber.org/zap"

	"github.com/cohort-tx/cohort/groups"
)

// current is the newest record of a group that this node knows.
func (m *manager) current(record *groups.GroupRecord) *groups.GroupRecord {
	if now, ok := m.directory.State().Group(record.Name); ok {
		return now
	}
	return record
}

// adopt gives a replica of a restored incarnation the files it starts from. A
// node without them starts without a state, and takes that of another member
// before it applies anything.
func (m *manager) adopt(record *groups.GroupRecord, member groups.Member) error {
	if record.Origin == nil || !slices.Contains(record.Origin.Hydrated, m.node) {
		return nil
	}
	err := m.hydrator.adopt(record.Origin.Token, m.host.ReplicaDir(record.ShardID, member.ReplicaID))
	if errors.Is(err, os.ErrNotExist) && len(record.Origin.Hydrated) > 1 {
		m.logger.Warn("the files of a restore are gone; another member has them", zap.String("group", record.Name), zap.Error(err))
		return nil
	}
	return err
}

// endIncarnation stops what runs of an incarnation that is over, and clears it:
// its checkpoints stay.
func (m *manager) endIncarnation(hosted *hostedGroup) {
	hosted.close()
	m.mu.Lock()
	delete(m.hosted, hosted.record.Name)
	m.mu.Unlock()
	if err := m.host.StopReplica(hosted.record.ShardID); err != nil {
		m.logger.Warn("stopping a replica of an earlier incarnation", zap.String("group", hosted.record.Name), zap.Error(err))
	}
	m.logger.Info("incarnation over", zap.String("group", hosted.record.Name), zap.Uint64("incarnation", hosted.record.Incarnation))
}

// clearPast removes the replicas of incarnations that are over, once the present
// one runs here.
func (m *manager) clearPast(record *groups.GroupRecord) {
	for _, past := range record.Past {
		for _, local := range m.data.Replicas() {
			if local.ShardID != past.ShardID {
				continue
			}
			if err := m.host.RemoveReplica(local.ShardID, local.ReplicaID); err != nil {
				m.logger.Warn("removing a replica of an earlier incarnation", zap.String("group", record.Name), zap.Error(err))
				continue
			}
			if err := m.data.Forget(local.ShardID, local.ReplicaID); err != nil {
				m.logger.Warn("forgetting a replica of an earlier incarnation", zap.String("group", record.Name), zap.Error(err))
			}
		}
	}
}

// origin is what an incarnation that a restore has made begins with.
func (m *manager) origin(ctx context.Context, record *groups.GroupRecord) (digest [32]byte, carried [][]byte, err error) {
	state, err := m.directory.Read(ctx)
	if err != nil {
		return digest, nil, err
	}
	now, ok := state.Group(record.Name)
	if !ok || now.Origin == nil || now.ShardID != record.ShardID {
		return digest, nil, fmt.Errorf("the directory has no origin of group %s, incarnation %d", record.Name, record.Incarnation)
	}
	copy(digest[:], now.Origin.Digest)
	return digest, now.Origin.Carried, nil
}

// plannedRestore is the token of the restore of an incarnation that is under way,
// as far as this node has heard.
func (m *manager) plannedRestore(record *groups.GroupRecord) string {
	now := m.current(record)
	if now.Restoring == nil || now.ShardID != record.ShardID {
		return ""
	}
	return now.Restoring.Token
}

// cancelRestore takes a restore back, if it has not happened.
func (m *manager) cancelRestore(ctx context.Context, group, token string) (bool, error) {
	_, err := m.directory.CancelRestore(ctx, group, token)
	var refused *groups.RefusedError
	if errors.As(err, &refused) {
		return false, nil
	}
	return err == nil, err
}

// close ends what runs of a group but its replica.
func (h *hostedGroup) close() {
	if h.coordinator != nil {
		h.coordinator.Close()
	}
	if h.keeper != nil {
		h.keeper.Close()
	}
}

// needsRestore tells whether a group may still start from what a restore made.
func needsRestore(state *groups.DirectoryState, token string) bool {
	return slices.ContainsFunc(state.Groups(), func(g *groups.GroupRecord) bool {
		return g.Origin != nil && g.Origin.Token == token || g.Restoring != nil && g.Restoring.Token == token
	})
}
