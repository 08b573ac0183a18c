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

	"github.com/cohort-tx/cohort/txlog/checkpoint"
	"github.com/cohort-tx/cohort/txlog/machine"
)

// capturesDir, beside the checkpoints, holds captured states that are in none yet.
const capturesDir = "captures"

// gather sees to it that the captured states of a checkpoint are here, and gives
// what its manifest says of them. decided is false while one is still to come.
func (k *Keeper) gather(ctx context.Context, c *machine.Checkpoint) (states []checkpoint.SectionFile, decided bool, err error) {
	for i := range c.Captures {
		if c.Captures[i].State == machine.CaptureWanted {
			return nil, false, nil
		}
	}
	for i := range c.Captures {
		s := &c.Captures[i]
		if !s.Exists() {
			continue
		}
		f, err := k.ensureState(ctx, s)
		if err != nil {
			return nil, false, fmt.Errorf("the state of %s: %w", s.Participant, err)
		}
		states = append(states, f)
	}
	slices.SortFunc(states, func(a, b checkpoint.SectionFile) int { return strings.Compare(a.Name, b.Name) })
	return states, true, nil
}

// ensureState gives the file of a captured state, whole: the one that is here, that
// of a checkpoint here, or another node's. The error is ErrNoState when no node has
// it.
func (k *Keeper) ensureState(ctx context.Context, s *machine.Capture) (checkpoint.SectionFile, error) {
	id := stateID(s)
	if _, ok := k.captures.has(id); !ok {
		if err := k.shareState(id); err != nil {
			return checkpoint.SectionFile{}, err
		}
	}
	if _, ok := k.captures.has(id); ok {
		f, err := k.captures.inspect(ctx, s)
		var corrupt *checkpoint.CorruptError
		if !errors.As(err, &corrupt) {
			return f, err
		}
		k.damagedState(id, err)
	}
	return k.fetchState(ctx, s)
}

// shareState takes a captured state from a checkpoint that is here, if one has it.
func (k *Keeper) shareState(id checkpoint.StateID) error {
	path, release, ok := k.stateInCopies(id)
	if !ok {
		return nil
	}
	defer release()
	if err := checkpoint.ShareState(path, k.captures.dir, id); err != nil {
		return err
	}
	k.captures.add(id)
	return nil
}

// stateInCopies finds a captured state in a checkpoint that is here, and keeps that
// until release is called.
func (k *Keeper) stateInCopies(id checkpoint.StateID) (path string, release func(), ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for n, local := range k.copies {
		if f := local.captured(id); f != nil {
			k.inUse[n]++
			return filepath.Join(k.path(n), f.File), k.releaser(n), true
		}
	}
	return "", nil, false
}

// releaser ends one use of a copy's files.
func (k *Keeper) releaser(number uint64) func() {
	return sync.OnceFunc(func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.inUse[number]--; k.inUse[number] == 0 {
			delete(k.inUse, number)
		}
	})
}

// fetchState takes another node's file, from where an earlier try ended.
func (k *Keeper) fetchState(ctx context.Context, s *machine.Capture) (checkpoint.SectionFile, error) {
	id := stateID(s)
	path := filepath.Join(k.captures.dir, id.FetchName())
	start := time.Now()
	k.captures.fetching(id)
	if err := k.fetchInto(ctx, path, s); err != nil {
		return checkpoint.SectionFile{}, err
	}
	f, err := checkpoint.InspectState(ctx, path, s.Section, stateOf(s))
	if err != nil {
		var corrupt *checkpoint.CorruptError
		if errors.As(err, &corrupt) {
			err = errors.Join(err, checkpoint.RemoveState(path, false))
		}
		return f, err
	}
	if err := checkpoint.StoreState(k.captures.dir, id.FetchName(), id); err != nil {
		return f, err
	}
	k.captures.put(id, f)
	k.log.Info("captured state fetched from another node", zap.String("participant", s.Participant), zap.Uint64("position", s.Position),
		zap.Uint64("bytes", f.FileBytes), zap.Duration("took", time.Since(start)))
	return f, nil
}

// maxStateFile bounds the file of a captured state: what does not compress grows a
// little.
func maxStateFile(s *machine.Capture) int64 {
	return int64(s.Section.Bytes + s.Section.Bytes/64 + 1<<20)
}

func (k *Keeper) fetchInto(ctx context.Context, path string, s *machine.Capture) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	in, err := k.config.FetchState(ctx, s, uint64(info.Size()))
	if err != nil {
		return errors.Join(fmt.Errorf("%w: %w", ErrNoState, err), f.Close())
	}
	_, err = io.Copy(f, io.LimitReader(in, max(maxStateFile(s)-info.Size(), 1)))
	return errors.Join(err, in.Close(), f.Sync(), f.Close())
}

// addState puts a captured state that is here into a checkpoint.
func (k *Keeper) addState(w *checkpoint.Writer, f checkpoint.SectionFile) error {
	participant, _ := f.StateOf()
	id := checkpoint.StateID{Participant: participant, Position: f.State.Position, Digest: f.Digest}
	path, release, ok := k.captures.hold(id)
	if !ok {
		return fmt.Errorf("%w: the state of %s at position %d", ErrNoState, participant, f.State.Position)
	}
	defer release()
	return w.AddState(path, f)
}

// keepStates sees to the files of captured states that are in no checkpoint here:
// the newest of each participant is on every node, what was stored is reported, and
// what nobody needs goes.
func (k *Keeper) keepStates(ctx context.Context, rec *records) error {
	var errs []error
	for i := range rec.ownStates {
		last := &rec.ownStates[i].Last
		if !last.Exists() || k.hasState(stateID(last)) {
			continue
		}
		if _, err := k.fetchState(ctx, last); err != nil {
			errs = append(errs, fmt.Errorf("the newest state of %s: %w", last.Participant, err))
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	errs = append(errs, k.captures.endUploads(func(id checkpoint.UploadID) error { return uploadOver(rec, id) }, rec.policy.Erase))
	for _, report := range k.captures.unreported() {
		if err := k.config.ReportState(ctx, report); err != nil && ctx.Err() == nil {
			errs = append(errs, fmt.Errorf("telling the coordinator of the state of %s: %w", report.Participant, err))
		}
	}
	errs = append(errs, k.captures.sweep(time.Now(), func(id checkpoint.StateID) bool { return stateNeeded(rec, id) }, rec.policy.Erase))
	return errors.Join(errs...)
}

// hasState tells whether a captured state is here, in a checkpoint or outside.
func (k *Keeper) hasState(id checkpoint.StateID) bool {
	if _, ok := k.captures.has(id); ok {
		return true
	}
	_, release, ok := k.stateInCopies(id)
	if ok {
		release()
	}
	return ok
}

// uploadOver is why a captured state is not to be waited for any more. A checkpoint
// that the state does not know yet is: after a restart it may be older than what an
// instance was told.
func uploadOver(rec *records, id checkpoint.UploadID) error {
	if id.Checkpoint >= rec.schedule.NextNumber {
		return nil
	}
	s, err := wantedCapture(rec, id)
	if err == nil && s.State != machine.CaptureWanted {
		err = notWanted("the state of %s for checkpoint %d is %s already", id.Participant, id.Checkpoint, s.State)
	}
	return err
}

// stateNeeded tells whether a record needs a captured state, or may, once the
// records are as new as the file.
func stateNeeded(rec *records, id checkpoint.StateID) bool {
	if id.Position >= rec.meta.Position {
		return true
	}
	is := func(s *machine.Capture) bool { return s.Exists() && stateID(s) == id }
	for i := range rec.checkpoints {
		if c := &rec.checkpoints[i]; c.State == machine.CheckpointWriting || c.State == machine.CheckpointComplete {
			for j := range c.Captures {
				if is(&c.Captures[j]) {
					return true
				}
			}
		}
	}
	return slices.ContainsFunc(rec.ownStates, func(o machine.OwnState) bool { return is(&o.Last) })
}

// HoldState gives the path of a captured state's file, which stays until release is
// called. The error is ErrNoState when it is not here.
func (k *Keeper) HoldState(id checkpoint.StateID) (path string, release func(), err error) {
	path, release, ok := k.captures.hold(id)
	if !ok {
		path, release, ok = k.stateInCopies(id)
	}
	if !ok {
		return "", nil, fmt.Errorf("%w (%s at position %d)", ErrNoState, id.Participant, id.Position)
	}
	return path, release, nil
}

// DamagedState says that the file of a captured state was found damaged: it goes,
// with the checkpoints that share it, and is fetched again.
func (k *Keeper) DamagedState(id checkpoint.StateID, err error) {
	k.damagedState(id, err)
	k.Wake()
}

func (k *Keeper) damagedState(id checkpoint.StateID, err error) {
	k.log.Error("a captured state is damaged", zap.String("participant", id.Participant), zap.Uint64("position", id.Position), zap.Error(err))
	if err := k.captures.drop(id, false); err != nil {
		k.log.Warn("removing a damaged state", zap.Error(err))
	}
	k.mu.Lock()
	var numbers []uint64
	for n, local := range k.copies {
		if local.captured(id) != nil {
			numbers = append(numbers, n)
		}
	}
	k.mu.Unlock()
	for _, n := range numbers {
		k.Damaged(n, err)
	}
}

// captured finds a captured state in a whole copy.
func (l *localCopy) captured(id checkpoint.StateID) *checkpoint.SectionFile {
	for i := range l.manifest.Sections {
		f := &l.manifest.Sections[i]
		if f.Name == checkpoint.StateSection(id.Participant) && f.State.Position == id.Position && f.Digest == id.Digest {
			return f
		}
	}
	return nil
}

// checkpointBytes is what checkpoints and captured states take; files that several
// of them share count once.
func (k *Keeper) checkpointBytes() (sum uint64) {
	paths := k.captures.paths()
	k.mu.Lock()
	for n, c := range k.copies {
		sum += c.bytes
		for i := range c.manifest.Sections {
			if f := &c.manifest.Sections[i]; f.State != nil {
				sum -= f.FileBytes
				paths = append(paths, filepath.Join(k.path(n), f.File))
			}
		}
	}
	k.mu.Unlock()
	return sum + diskBytes(paths)
}

// diskBytes sums up the sizes of files, each once whatever its names.
func diskBytes(paths []string) (sum uint64) {
	var seen []os.FileInfo
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil || slices.ContainsFunc(seen, func(other os.FileInfo) bool { return os.SameFile(info, other) }) {
			continue
		}
		seen = append(seen, info)
		sum += uint64(info.Size())
	}
	return sum
}
