package node

import (
	"context"
	"fmt"
	"io"
	"path/filepath"

	"go.uber.org/zap"

	"github.com/cohort-tx/cohort/coordinator"
	"github.com/cohort-tx/cohort/groups"
	"github.com/cohort-tx/cohort/txlog"
	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/machine"
)

// checkpointsDir holds the groups' checkpoints: beside the replicas' files, since
// they outlive a replica.
const checkpointsDir = "checkpoints"

// keepers connects the keepers of a node's checkpoints with the other nodes.
type keepers struct {
	node    string
	dir     string // the node's data directory
	minFree uint64
	service *coordinator.Service
	logger  *zap.Logger
}

// start starts the keeper of a group's checkpoints here. What a restore has left of
// captured states in the replica's directory becomes the keeper's.
func (k *keepers) start(record *groups.GroupRecord, replica *txlog.Replica, replicaDir string) (*txlog.Keeper, error) {
	adopt := txlog.StatesOf(replicaDir)
	return txlog.StartKeeper(txlog.KeeperConfig{
		Replica: replica,
		Node:    k.node,
		Dir:     filepath.Join(k.dir, checkpointsDir, record.Name),
		Policy:  k.policy,
		Report: func(ctx context.Context, report txlog.Report) error {
			return k.service.Report(ctx, record, report, k.refuse(report.FreeBytes))
		},
		Fetch: func(ctx context.Context, number uint64) (io.ReadCloser, error) {
			return k.service.FetchCopy(ctx, record.Name, number)
		},
		FetchState: func(ctx context.Context, state *machine.Capture, offset uint64) (io.ReadCloser, error) {
			return k.service.FetchCaptured(ctx, record, state, offset)
		},
		ReportState: func(ctx context.Context, report command.ReportCapture) error {
			return k.service.ReportCaptured(ctx, record.Name, &report)
		},
		MinFree: k.minFree,
		Adopt:   adopt,
		Logger:  k.logger,
	})
}

// policy reads what a definition says of what is dropped.
func (k *keepers) policy(definition []byte) (txlog.KeepPolicy, error) {
	d, err := groups.Decode(definition)
	if err != nil {
		return txlog.KeepPolicy{}, err
	}
	p := txlog.KeepPolicy{Erase: d.Retention.Erase}
	if d.Retention.Log == groups.LogArchive {
		p.ArchiveDir = d.Retention.ArchiveDir
		if !filepath.IsAbs(p.ArchiveDir) {
			p.ArchiveDir = filepath.Join(k.dir, p.ArchiveDir)
		}
	}
	return p, nil
}

// refuse says that this node's disk is about to be full. A write that finds no
// room would end the process: badger maps its files into memory.
func (k *keepers) refuse(free uint64) string {
	if free == 0 || k.minFree == 0 || free >= k.minFree {
		return ""
	}
	return fmt.Sprintf("%d bytes are free on its disk, and limits.min_free_disk is %d; make room", free, k.minFree)
}

// state is where a replica without a state, or with a wrong one, gets it: from the
// members that the group has by then.
func (k *keepers) state(current func(*groups.GroupRecord) *groups.GroupRecord, record *groups.GroupRecord) txlog.StateSource {
	return func(ctx context.Context, index uint64) (io.ReadCloser, error) {
		now := current(record)
		if now.ShardID != record.ShardID {
			return nil, txlog.ErrClosed // its incarnation is over
		}
		return k.service.FetchReplicaState(ctx, now, index)
	}
}
