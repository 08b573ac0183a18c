package txlog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/cohort-tx/cohort/participant/store"
	"github.com/cohort-tx/cohort/txlog/checkpoint"
	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/machine"
	"github.com/cohort-tx/cohort/txlog/segment"
)

// archiveDir is where this node's part of a group's archive is: of one
// incarnation, since positions come again in the next.
func (k *Keeper) archiveDir(policy KeepPolicy, incarnation uint64) string {
	return filepath.Join(policy.ArchiveDir, k.replica.config.Group, k.config.Node, fmt.Sprintf("incarnation-%d", incarnation))
}

// archiveComplete puts a complete checkpoint into the archive, long before
// retention drops it: the log in the archive leads on from there.
func (k *Keeper) archiveComplete(ctx context.Context, rec *records, local *localCopy, number uint64) error {
	if rec.policy.ArchiveDir == "" || local.archived {
		return nil
	}
	r, err := checkpoint.Open(k.path(number))
	if err == nil {
		err = r.Verify(ctx, nil)
	}
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		k.Damaged(number, err)
		return nil
	}
	if err := checkpoint.ArchiveCheckpoint(r, k.archiveDir(rec.policy, r.Manifest().Incarnation)); err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	local.archived = true
	return nil
}

// dropLog cuts the log to what retention keeps. A segment is in the archive, read
// back and whole, before it goes.
func (k *Keeper) dropLog(ctx context.Context, rec *records) error {
	from := rec.schedule.LogFrom
	k.mu.Lock()
	for p := range k.logHolds {
		from = min(from, p)
	}
	k.mu.Unlock()
	// Copies here must be able to do without what goes: retention refers to the
	// complete checkpoints of the group, and this node may still lack one.
	for i := range rec.checkpoints {
		c := &rec.checkpoints[i]
		if c.State != machine.CheckpointComplete || !c.Whole() || c.Incarnation != rec.meta.Incarnation {
			continue
		}
		if local := k.copy(c.Number); local == nil || local.state != command.CopyWritten {
			return nil
		}
	}
	log := k.replica.openLogFiles()
	if log == nil || log.First() >= from && k.swept {
		return nil
	}
	before := log.First()
	remove := os.Remove
	if rec.policy.Erase {
		remove = k.erase
	}
	err := log.TruncateBeforeFunc(from, func(s segment.ClosedSegment) error {
		if rec.policy.ArchiveDir == "" || ctx.Err() != nil {
			return ctx.Err()
		}
		check := func(in io.Reader) error { return segment.VerifyStream(in, s.Path, s.First, s.Next) }
		if err := checkpoint.ArchiveSegment(s.Path, k.archiveDir(rec.policy, rec.meta.Incarnation), s.First, s.Next, check); err != nil {
			return fmt.Errorf("archive %s: %w", filepath.Base(s.Path), err)
		}
		return nil
	}, remove)
	if errors.Is(err, segment.ErrClosed) {
		return nil // a Raft snapshot has replaced the log, or the replica stops
	}
	k.swept = err == nil
	if err != nil {
		return err
	}
	if now := log.First(); now > before {
		k.log.Info("log cut", zap.Uint64("first_position", now))
		k.reclaimAt = time.Now().Add(reclaimAfter)
	}
	return nil
}

// openLogFiles gives the log there is now.
func (r *Replica) openLogFiles() *segment.Log {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.closed || r.files == nil {
		return nil
	}
	return r.files.log
}

// reclaimEvery bounds how often the store is merged: it reads and writes much.
const reclaimEvery = 10 * time.Minute

// reclaimAfter is waited after the log was cut: what was held for a checkpoint is
// below the store's discard floor only then, and merging it before would keep it.
const reclaimAfter = 15 * time.Second

// reclaim lets the store give back what nobody can read any more, if that is due.
func (k *Keeper) reclaim() error {
	now := time.Now()
	if k.reclaimAt.IsZero() || now.Before(k.reclaimAt) || now.Sub(k.reclaimed) < reclaimEvery {
		return nil
	}
	k.reclaimed, k.reclaimAt = now, time.Time{}
	k.replica.mu.RLock()
	st, closed := k.replica.store, k.replica.closed
	k.replica.mu.RUnlock()
	if closed || st == nil {
		return nil
	}
	if err := st.Reclaim(); err != nil && !errors.Is(err, store.ErrClosed) {
		return err
	}
	return nil
}

// HoldLog keeps the log from position on until release is called.
func (k *Keeper) HoldLog(position uint64) (release func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.logHolds[position]++
	return sync.OnceFunc(func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.logHolds[position]--; k.logHolds[position] == 0 {
			delete(k.logHolds, position)
		}
	})
}

// Usage is what a group takes on a node's disk.
type Usage struct {
	LogBytes, CheckpointBytes, StoreBytes uint64
	// FreeBytes of the file system that holds the checkpoints; 0 when it cannot be
	// told.
	FreeBytes uint64
}

// Usage measures, from what is known without reading files.
func (k *Keeper) Usage() Usage {
	var u Usage
	if log := k.replica.openLogFiles(); log != nil {
		u.LogBytes = uint64(log.Bytes())
	}
	u.CheckpointBytes = k.checkpointBytes()
	k.replica.mu.RLock()
	if st := k.replica.store; st != nil && !k.replica.closed {
		u.StoreBytes = uint64(max(st.DiskBytes(), 0))
	}
	k.replica.mu.RUnlock()
	var fs unix.Statfs_t
	if unix.Statfs(k.config.Dir, &fs) == nil {
		u.FreeBytes = fs.Bavail * uint64(fs.Bsize)
	}
	return u
}

// Problem is why the last turn did not do all it should, nil when it did.
func (k *Keeper) Problem() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.problem
}

// Open gives this node's whole copy of a checkpoint; it is not removed until
// close is called. The error is ErrNoCopy when there is none.
func (k *Keeper) Open(number uint64) (r *checkpoint.Reader, close func(), err error) {
	k.mu.Lock()
	local := k.copies[number]
	if local == nil || local.state != command.CopyWritten {
		k.mu.Unlock()
		return nil, nil, fmt.Errorf("%w (checkpoint %d of group %s)", ErrNoCopy, number, k.replica.config.Group)
	}
	k.inUse[number]++
	k.mu.Unlock()
	close = k.releaser(number)
	r, err = checkpoint.Open(k.path(number))
	if err != nil {
		close()
		k.Damaged(number, err)
		return nil, nil, err
	}
	return r, close, nil
}

// Damaged says that a copy was found damaged: it is reported lost, removed, and
// fetched again.
func (k *Keeper) Damaged(number uint64, err error) {
	k.mu.Lock()
	if c := k.copies[number]; c != nil && c.state == command.CopyWritten {
		k.copies[number] = &localCopy{state: command.CopyLost, detail: err.Error()}
		k.log.Error("a copy of a checkpoint is damaged", zap.Uint64("checkpoint", number), zap.Error(err))
	}
	k.mu.Unlock()
	k.Wake()
}

// Copies are the numbers of the whole copies here.
func (k *Keeper) Copies() []uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	var numbers []uint64
	for n, c := range k.copies {
		if c.state == command.CopyWritten {
			numbers = append(numbers, n)
		}
	}
	return numbers
}

// archivedBases are the checkpoints in this node's archive of the present
// incarnation. One that cannot be read is passed over: verify finds it.
func (k *Keeper) archivedBases(rec *records) []base {
	if rec.policy.ArchiveDir == "" {
		return nil
	}
	paths, err := filepath.Glob(filepath.Join(k.archiveDir(rec.policy, rec.meta.Incarnation), "cp-*.tar"))
	if err != nil {
		return nil
	}
	var out []base
	for _, path := range paths {
		m, meta, err := checkpoint.PeekMeta(path)
		if err != nil {
			continue
		}
		missing, err := MissingParticipants(&m, meta)
		if err != nil {
			continue
		}
		out = append(out, base{
			number: m.Number, position: m.Position, timeUnixNano: m.TimeUnixNano, archived: path,
			participants: participantsIn(&m), partial: len(missing) > 0,
		})
	}
	return out
}

// participantsIn are those with data in a checkpoint.
func participantsIn(m *checkpoint.Manifest) (names []string) {
	for _, s := range m.Sections {
		if name, ok := strings.CutPrefix(s.Name, participantSection); ok {
			names = append(names, name)
		}
	}
	return names
}

// MissingParticipants are those of the group that a checkpoint has no section of,
// by the records in its section meta: it was taken of the others alone.
func MissingParticipants(m *checkpoint.Manifest, meta map[string][]byte) (names []string, err error) {
	config, err := machine.DecodeConfig(meta["config"])
	if err != nil {
		return nil, err
	}
	there := participantsIn(m)
	for _, p := range config.Participants {
		if !slices.Contains(there, p.Name) {
			names = append(names, p.Name)
		}
	}
	return names, nil
}

// Source opens a checkpoint to make a state of: this node's copy, or the one in
// its archive, which is taken out of there into dir. The error is ErrNoCopy when
// there is neither.
func (k *Keeper) Source(number uint64, dir string) (r *checkpoint.Reader, close func(), err error) {
	r, close, err = k.Open(number)
	if !errors.Is(err, ErrNoCopy) {
		return r, close, err
	}
	rec, readErr := k.read()
	if readErr != nil {
		return nil, nil, readErr
	}
	for _, b := range k.archivedBases(&rec) {
		if b.number != number {
			continue
		}
		f, err := os.Open(b.archived)
		if err != nil {
			return nil, nil, err
		}
		defer f.Close()
		if _, err := checkpoint.ReadExport(f, dir, nil); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", b.archived, err)
		}
		r, err := checkpoint.Open(dir)
		return r, func() { _ = os.RemoveAll(dir) }, err
	}
	return nil, nil, err
}
