package node

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/cohort-tx/cohort/groups"
)

const (
	// definitionsEvery is how often a coordinating node compares its groups'
	// definitions with the directory's.
	definitionsEvery = 5 * time.Second
	// definitionTimeout bounds bringing one up.
	definitionTimeout = 5 * time.Second
)

// followDefinitions brings the directory up to the groups' own logs. The log is
// the truth about a group's definition, and the directory is told right after a
// change of it; a crash in between leaves it behind, until this finds it.
func (m *manager) followDefinitions(ctx context.Context) {
	ticker := time.NewTicker(definitionsEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		m.bringUpDefinitions(ctx)
	}
}

func (m *manager) bringUpDefinitions(ctx context.Context) {
	state := m.directory.State()
	for _, record := range state.Groups() {
		hosted := m.group(record.Name)
		if hosted == nil || hosted.coordinator == nil {
			continue
		}
		// Only the coordinating node, so that not all of them try.
		if _, ok := hosted.coordinator.Serving(); !ok {
			continue
		}
		if err := m.bringUpDefinition(ctx, record, hosted); err != nil && ctx.Err() == nil {
			m.logger.Warn("the directory's definition of a group is behind its log's", zap.String("group", record.Name), zap.Error(err))
		}
	}
}

func (m *manager) bringUpDefinition(ctx context.Context, record *groups.GroupRecord, hosted *hostedGroup) error {
	snap, err := hosted.replica.Snapshot(0)
	if err != nil {
		return err
	}
	defer snap.Close()
	config, err := snap.Config()
	if err != nil || config.Version <= record.Version {
		return err
	}
	definition, err := groups.Decode(config.Definition)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, definitionTimeout)
	defer cancel()
	_, err = m.directory.SetDefinition(ctx, &definition, record.Version, config.Version)
	return err
}
