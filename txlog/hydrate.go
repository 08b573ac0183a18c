package txlog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/cohort-tx/cohort/participant/store"
	"github.com/cohort-tx/cohort/txlog/checkpoint"
	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/machine"
	"github.com/cohort-tx/cohort/txlog/segment"
)

const (
	// hydrateStepBytes and hydrateStepRecords bound what is committed at once while
	// a state is made.
	hydrateStepBytes   = 2 << 20
	hydrateStepRecords = 4096
	// hydrateSteps is how many steps fit before the index base: they take the
	// indexes below it.
	hydrateSteps = 1 << 40
)

// HydrateSpec says what to make a state from.
type HydrateSpec struct {
	// Dir is where the files go; it must not exist.
	Dir string
	// Image says what the state becomes.
	Image machine.ImageSpec
	// Checkpoint is where it begins.
	Checkpoint *checkpoint.Reader
	// Entries gives the log entries from a position on, in order and without a gap;
	// nil when there are none but what the checkpoint holds.
	Entries func(from uint64) (EntryReader, error)
	// Position is where it ends.
	Position uint64
	Limits   command.Limits
	// Progress, if not nil, is told of the work done so far, now and then.
	Progress func(HydrateProgress)
	Logger   *zap.Logger
}

// EntryReader gives the next log entry and the size of its encoding; io.EOF after
// the last.
type EntryReader interface {
	Next(ctx context.Context) (e command.Entry, encoded int, err error)
	Close() error
}

// HydrateProgress is how far a state has come.
type HydrateProgress struct {
	// BytesDone of BytesTotal of the checkpoint are loaded; then the log is replayed
	// up to Position.
	BytesDone, BytesTotal uint64
	Position              uint64
}

// Hydrated describes a state that was made.
type Hydrated struct {
	machine.ImageResult
	Entries uint64
	// LogFirst is the first position in the new log: what the captured states of
	// participants need to be brought forward from is there.
	LogFirst uint64
	// Bytes of keys and values that were loaded.
	Bytes        uint64
	Load, Replay time.Duration
}

// Hydrate makes the files of a replica from a checkpoint and the log after it.
// When it returns without an error they are durable, and StartReplica can start
// from them once they are at the replica's place; otherwise nothing is left of
// them. The checkpoint is verified before anything is made of it.
func Hydrate(ctx context.Context, s HydrateSpec) (h Hydrated, err error) {
	if s.Logger == nil {
		s.Logger = zap.NewNop()
	}
	if s.Image.IndexBase <= hydrateSteps {
		panic("txlog: invariant: a restored incarnation's indexes begin far above 0")
	}
	if err := s.Checkpoint.Verify(ctx, nil); err != nil {
		return h, err
	}
	if err := os.Mkdir(s.Dir, 0o755); err != nil {
		return h, fmt.Errorf("txlog: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(s.Dir))
		}
	}()
	r := &Replica{limits: s.Limits.WithDefaults(), dir: s.Dir, log: s.Logger}
	st, err := store.Open(r.storeOptions())
	if err != nil {
		return h, err
	}
	s.Image.Captures = capturesIn(s.Checkpoint.Manifest())
	hy := &hydration{spec: &s, store: st, next: s.Image.IndexBase - hydrateSteps, result: &h}
	err = hy.run(ctx)
	if err == nil {
		err = st.Barrier()
	}
	if err == nil {
		h.LogFirst, err = hydratedLogFirst(st, s.Position)
	}
	if err = errors.Join(err, st.Close()); err != nil {
		return h, err
	}
	if err := hydrateStates(&s); err != nil {
		return h, err
	}
	return h, hydrateLog(ctx, &s, h.Meta.Incarnation, h.LogFirst)
}

// hydration is one run of Hydrate.
type hydration struct {
	spec   *HydrateSpec
	store  *store.Store
	update *store.Update
	image  *machine.Image
	// next is the index of the next step; the last one is the index base.
	next    uint64
	records int
	bytes   int
	result  *Hydrated
}

func (h *hydration) run(ctx context.Context) error {
	h.update = h.store.Begin(h.next)
	defer func() { h.update.Discard() }()
	h.image = machine.NewImage(&imageState{h}, h.spec.Image)
	start := time.Now()
	if err := h.load(ctx); err != nil {
		return err
	}
	h.result.Load = time.Since(start)
	start = time.Now()
	if err := h.replay(ctx); err != nil {
		return err
	}
	if err := h.step(h.next); err != nil {
		return err
	}
	result, err := h.image.Finish()
	if err != nil {
		return err
	}
	h.result.ImageResult = result
	h.result.Replay = time.Since(start)
	if err := h.update.Commit(h.spec.Image.IndexBase); err != nil {
		return err
	}
	return h.update.Finish()
}

// imageState is the state that the image is made in: always the update that is
// open.
type imageState struct{ h *hydration }

func (s *imageState) Get(key []byte) ([]byte, bool, error) { return s.h.update.Get(key) }

func (s *imageState) Scan(start, end []byte, fn func(key, value []byte) (bool, error)) error {
	return s.h.update.Scan(start, end, fn)
}

func (s *imageState) Set(key, value []byte) { s.h.update.Set(key, value) }

func (s *imageState) Delete(key []byte) { s.h.update.Delete(key) }

// load puts the checkpoint's sections into the state.
func (h *hydration) load(ctx context.Context) error {
	var total uint64
	sections := slices.DeleteFunc(slices.Clone(h.spec.Checkpoint.Manifest().Sections), func(f checkpoint.SectionFile) bool { return f.State != nil })
	for _, s := range sections {
		total += s.Bytes
	}
	for _, s := range sections {
		section, err := h.spec.Checkpoint.Section(s.Name)
		if err != nil {
			return err
		}
		err = h.loadSection(ctx, section, s.Name, total)
		if err = errors.Join(err, section.Close()); err != nil {
			return err
		}
	}
	return nil
}

func (h *hydration) loadSection(ctx context.Context, section *checkpoint.SectionReader, name string, total uint64) error {
	for {
		key, value, err := section.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := h.image.Load(name, key, value); err != nil {
			return err
		}
		h.result.Bytes += uint64(len(key) + len(value))
		if err := h.wrote(ctx, len(key)+len(value)); err != nil {
			return err
		}
		if h.records == 0 {
			h.progress(HydrateProgress{BytesDone: h.result.Bytes, BytesTotal: total})
		}
	}
}

// replay applies the log after the checkpoint.
func (h *hydration) replay(ctx context.Context) error {
	from := h.spec.Checkpoint.Manifest().Position + 1
	if from > h.spec.Position {
		return nil
	}
	entries, err := h.spec.Entries(from)
	if err != nil {
		return err
	}
	defer entries.Close()
	for p := from; p <= h.spec.Position; p++ {
		e, size, err := entries.Next(ctx)
		if err == nil && e.Position != p {
			err = fmt.Errorf("it gives position %d", e.Position)
		}
		if err != nil {
			return fmt.Errorf("txlog: the log at position %d: %w", p, err)
		}
		if err := h.image.Replay(e, size); err != nil {
			return err
		}
		h.result.Entries++
		if err := h.wrote(ctx, size); err != nil {
			return err
		}
		if h.records == 0 {
			h.progress(HydrateProgress{BytesDone: h.result.Bytes, BytesTotal: h.result.Bytes, Position: p})
		}
	}
	return nil
}

// wrote counts what was written and commits when it is enough.
func (h *hydration) wrote(ctx context.Context, bytes int) error {
	h.records++
	h.bytes += bytes
	if h.records < hydrateStepRecords && h.bytes < hydrateStepBytes {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return h.step(h.next)
}

// step commits what is written at an index, and goes on after it.
func (h *hydration) step(index uint64) error {
	if err := h.update.Commit(index); err != nil {
		return err
	}
	if err := h.update.Finish(); err != nil {
		return err
	}
	h.next, h.records, h.bytes = index+1, 0, 0
	h.update = h.store.Begin(h.next)
	return nil
}

func (h *hydration) progress(p HydrateProgress) {
	if h.spec.Progress != nil {
		h.spec.Progress(p)
	}
}

// hydrateStates puts the captured states of the checkpoint beside the state: the
// keeper that starts with it takes them over.
func hydrateStates(s *HydrateSpec) error {
	dir := StatesOf(s.Dir)
	for _, f := range s.Checkpoint.Manifest().Sections {
		participant, ok := f.StateOf()
		if !ok {
			continue
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		id := checkpoint.StateID{Participant: participant, Position: f.State.Position, Digest: f.Digest}
		if err := checkpoint.ShareState(s.Checkpoint.Path(&f), dir, id); err != nil {
			return fmt.Errorf("txlog: the state of %s: %w", participant, err)
		}
	}
	return nil
}

// capturesIn are the captured states that a checkpoint holds.
func capturesIn(m checkpoint.Manifest) (out []machine.Capture) {
	for i := range m.Sections {
		f := &m.Sections[i]
		if participant, ok := f.StateOf(); ok {
			out = append(out, machine.Capture{
				Participant: participant, State: machine.CaptureStored, Position: f.State.Position,
				Section: f.Section(), Bytes: f.State.Bytes, SHA256: f.State.SHA256,
			})
		}
	}
	return out
}

// StatesOf is where the captured states are that came with a replica's state: see
// KeeperConfig.Adopt.
func StatesOf(replicaDir string) string { return filepath.Join(replicaDir, capturesDir) }

// hydratedLogFirst is where the new log begins: with what a participant's state,
// captured at an earlier position or never, still lacks.
func hydratedLogFirst(st *store.Store, position uint64) (uint64, error) {
	view, err := st.View(0)
	if err != nil {
		return 0, err
	}
	defer view.Close()
	states, err := machine.ReadOwnStates(view)
	if err != nil {
		return 0, err
	}
	first := position + 1
	for i := range states {
		first = min(first, states[i].From()+1)
	}
	return first, nil
}

// hydrateLog makes the log that goes on after the state's position: what comes
// before is the source's.
func hydrateLog(ctx context.Context, s *HydrateSpec, incarnation, first uint64) error {
	dir := filepath.Join(s.Dir, fmt.Sprintf("log-%d", s.Image.IndexBase))
	log, err := segment.Open(segment.Options{Dir: dir, End: segment.Start(first), Incarnation: incarnation})
	if err != nil {
		return err
	}
	err = copyLog(ctx, s, log, first)
	if err = errors.Join(err, log.Sync()); err != nil {
		return errors.Join(err, log.Close())
	}
	end := log.End()
	if err := log.Close(); err != nil {
		return err
	}
	if err := writeEnd(dir, s.Image.IndexBase, end); err != nil {
		return err
	}
	return errors.Join(syncDir(dir), syncDir(s.Dir), syncDir(filepath.Dir(s.Dir)))
}

// copyLogBytes is how much log is held in memory while it is copied.
const copyLogBytes = 1 << 20

func copyLog(ctx context.Context, s *HydrateSpec, log *segment.Log, first uint64) error {
	if first > s.Position {
		return nil
	}
	if s.Entries == nil {
		return noTarget("a participant's state in the checkpoint is as of position %d, and the log from there to %d is not with it", first-1, s.Position)
	}
	entries, err := s.Entries(first)
	if err != nil {
		return err
	}
	defer entries.Close()
	var payload []byte
	held := 0
	for p := first; p <= s.Position; p++ {
		e, _, err := entries.Next(ctx)
		if err == nil && e.Position != p {
			err = fmt.Errorf("it gives position %d", e.Position)
		}
		if err != nil {
			return fmt.Errorf("txlog: the log at position %d: %w", p, err)
		}
		payload = command.AppendEntry(payload[:0], &e)
		if err := log.Append(p, payload); err != nil {
			return err
		}
		if held += len(payload); held >= copyLogBytes {
			held = 0
			if err := log.Flush(); err != nil {
				return err
			}
		}
	}
	return log.Flush()
}
