package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	cohortv1 "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/participant"
)

// RestoreFigures are those of one restore to a new group.
type RestoreFigures struct {
	SizeBytes       uint64 `json:"size_bytes"`
	EntriesReplayed uint64 `json:"entries_replayed"`
	// Seconds until the new group serves; LoadSeconds and ReplaySeconds are the
	// slowest node's part of it.
	Seconds                float64 `json:"seconds"`
	LoadSeconds            float64 `json:"load_seconds"`
	ReplaySeconds          float64 `json:"replay_seconds"`
	LoadBytesPerSecond     float64 `json:"load_bytes_per_second"`
	ReplayEntriesPerSecond float64 `json:"replay_entries_per_second"`
}

func (t *target) measureRestores(ctx context.Context, s *scene, report *Report, tell func(Step)) error {
	var from uint64
	for i, size := range t.config.Sizes {
		figures, err := t.restoreAt(ctx, s, from, size, i, tell)
		if err == nil {
			from = size
			report.Restores = append(report.Restores, figures)
			continue
		}
		if ctx.Err() != nil && len(report.Restores) > 0 {
			report.Interrupted = true
			return nil
		}
		return err
	}
	return nil
}

// restoreAt grows the data, takes a checkpoint, commits what is to be replayed, and
// restores to a group of its own.
func (t *target) restoreAt(ctx context.Context, s *scene, from, size uint64, number int, tell func(Step)) (RestoreFigures, error) {
	var f RestoreFigures
	if err := s.grow(ctx, from, size, tell); err != nil {
		return f, err
	}
	tell(Step{Name: fmt.Sprintf("%d MiB: taking a checkpoint", size>>20)})
	if _, err := t.takeCheckpoint(ctx); err != nil {
		return f, err
	}
	tell(Step{Name: fmt.Sprintf("%d MiB: committing %d entries after it", size>>20, t.config.Entries)})
	if err := t.commitEntries(ctx, s); err != nil {
		return f, err
	}
	if err := t.settle(ctx, size, tell); err != nil {
		return f, err
	}
	var position uint64
	err := t.operator.Group(groupName).View(ctx, func(tx *participant.ReadTx) error {
		position = tx.Position()
		return nil
	})
	if err != nil {
		return f, err
	}
	result, err := t.restore(ctx, fmt.Sprintf("%s-restored-%d", groupName, number+1), position, tell)
	if err != nil {
		return f, err
	}
	return RestoreFigures{
		SizeBytes: size, EntriesReplayed: result.EntriesReplayed, Seconds: result.Seconds,
		LoadSeconds: result.LoadSeconds, ReplaySeconds: result.ReplaySeconds,
		LoadBytesPerSecond:     ratio(float64(result.Bytes), result.LoadSeconds),
		ReplayEntriesPerSecond: ratio(float64(result.EntriesReplayed), result.ReplaySeconds),
	}, nil
}

func (t *target) commitEntries(ctx context.Context, s *scene) error {
	if t.config.Entries == 0 {
		return nil
	}
	committing, stop := context.WithCancel(ctx)
	defer stop()
	var next atomic.Int64
	load := Load{InFlight: min(t.config.InFlight, t.config.Entries), Duration: MaxDuration}
	m := run(committing, load, func(ctx context.Context, w *worker) error {
		if next.Add(1) > int64(t.config.Entries) {
			stop()
			return nil
		}
		return s.write(ctx, w)
	}, nil)
	if m.first != nil {
		return fmt.Errorf("commit what is to be replayed: %w", m.first)
	}
	return ctx.Err()
}

func (t *target) restore(ctx context.Context, as string, position uint64, tell func(Step)) (*cohortv1.RestoreResult, error) {
	stream, err := t.operator.Checkpoints().Restore(ctx, &cohortv1.RestoreRequest{
		Group: groupName, As: as, To: &cohortv1.RestoreRequest_Position{Position: position},
	})
	if err != nil {
		return nil, err
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil, errors.New("the node ended the restore without a result")
		}
		if err != nil {
			return nil, err
		}
		if m.Result != nil {
			return m.Result, nil
		}
		tell(Step{Name: "restoring: " + m.Phase, Bytes: m.BytesDone, OfBytes: m.BytesTotal})
	}
}
