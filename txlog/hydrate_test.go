package txlog

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap"

	"github.com/cohort-tx/cohort/participant/store"
	"github.com/cohort-tx/cohort/txlog/checkpoint"
	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/machine"
)

// testBase is the index base of a first restore.
const testBase = 1 << 44

// hydrateLimits keep the stores that are made small.
var hydrateLimits = command.Limits{TransactionBytes: 64 << 10, TransactionKeys: 64, ValueBytes: 32 << 10}

// hydrate makes a state of the source that a keeper locates, and gives its
// directory.
func hydrate(t testing.TB, keeper *Keeper, target Target, dir string) Hydrated {
	t.Helper()
	point, err := keeper.Locate(t.Context(), target)
	if err != nil {
		t.Fatalf("locate %+v: %v", target, err)
	}
	scratch := dir + ".source"
	source, release, err := keeper.Source(point.Checkpoint, scratch)
	if err != nil {
		t.Fatalf("checkpoint %d: %v", point.Checkpoint, err)
	}
	defer release()
	h, err := Hydrate(t.Context(), hydrateSpec(keeper, source, point, dir))
	if err != nil {
		t.Fatalf("from checkpoint %d to position %d: %v", point.Checkpoint, point.Position, err)
	}
	return h
}

func hydrateSpec(keeper *Keeper, source *checkpoint.Reader, point Point, dir string) HydrateSpec {
	return HydrateSpec{
		Dir: dir, Checkpoint: source, Entries: keeper.EntriesFrom, Position: point.Position, Limits: hydrateLimits,
		Image: machine.ImageSpec{
			Incarnation: 2, IndexBase: testBase, Participants: []string{"a", "b"}, Limits: hydrateLimits, Definition: []byte("{}"),
			SourceGroup: "g", SourceIncarnation: source.Manifest().Incarnation, SourceCheckpoint: point.Checkpoint, Token: "r",
		},
	}
}

// contentsOfDir reads the state that Hydrate made.
func contentsOfDir(t testing.TB, dir string) contents {
	t.Helper()
	r := &Replica{dir: dir, limits: hydrateLimits.WithDefaults(), log: zap.NewNop()}
	st, err := store.Open(r.storeOptions())
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	view, err := st.View(0)
	if err != nil {
		t.Fatal(err)
	}
	defer view.Close()
	return contentsOf(t, view)
}

// restorable checks that a keeper restores a target as the model has the position
// that is meant.
func (k *keeping) restorable(t *testing.T, keeper *Keeper, target Target, position uint64) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "state")
	h := hydrate(t, keeper, target, dir)
	if h.Meta.Position != position {
		t.Errorf("asked for %+v, which is position %d, and made %d", target, position, h.Meta.Position)
	}
	if d := k.history.at(position).difference(contentsOfDir(t, dir)); d != "" {
		t.Errorf("%+v, which is position %d: %s", target, position, d)
	}
}

// allRestorable checks several positions.
func (k *keeping) allRestorable(keeper *Keeper, positions []uint64) {
	k.t.Run("positions", func(t *testing.T) {
		for _, p := range positions {
			t.Run(fmt.Sprint(p), func(t *testing.T) {
				t.Parallel()
				k.restorable(t, keeper, Target{Position: &p}, p)
			})
		}
	})
}

// firstPosition is the first position in a replica's own log.
func (k *keeping) firstPosition(id uint64) uint64 { return k.replicas[id].Status().FirstPosition }

// segmentPositions is more than one of the tests' segments holds.
const segmentPositions = 40

// retain drops a checkpoint and the log before the next one, and waits until the
// nodes have done so.
func (k *keeping) retain(drop uint64, next *machine.Checkpoint, nodes ...uint64) {
	k.t.Helper()
	k.do(&command.Retain{Drop: []uint64{drop}, LogFrom: next.Position + 1})
	for _, keeper := range k.keepers {
		keeper.Wake() // not needed, but quicker
	}
	for _, id := range nodes {
		k.eventually("a dropped checkpoint's files and log to go", func() bool {
			_, err := os.Lstat(k.copyDir(id, drop))
			// The segment that holds the first position stays whole.
			return os.IsNotExist(err) && k.firstPosition(id)+segmentPositions > next.Position
		})
	}
}

// Would break: a restore to a position that gives another state than the group had
// there, from whatever checkpoint it begins and however long the log after it.
func TestRestoreToAnyPosition(t *testing.T) {
	k := newKeeping(t, 1, KeepPolicy{})
	k.keep(1)
	var kept []machine.Checkpoint
	for range 6 {
		for range 3 {
			k.transact(15)
		}
		kept = append(kept, k.complete(k.cut(), 1))
		if len(kept) > 3 {
			k.retain(kept[0].Number, &kept[1], 1)
			kept = kept[1:]
		}
	}
	k.transact(20)
	if k.firstPosition(1) == 1 {
		t.Fatal("the log was never cut: the test shows nothing")
	}
	oldest, last := kept[0].Position, k.history.last()
	random := rand.New(rand.NewPCG(5, 1))
	positions := []uint64{oldest, last, kept[1].Position, kept[1].Position - 1, kept[1].Position + 1}
	for len(positions) < 50 {
		positions = append(positions, oldest+random.Uint64N(last-oldest+1))
	}
	k.allRestorable(k.keepers[1], positions)
	before := oldest - 1
	if _, err := k.keepers[1].Locate(t.Context(), Target{Position: &before}); err == nil {
		t.Error("a position before the oldest checkpoint was located")
	}
}

// Would break: positions of a group with an archive that cannot be restored once
// the log was cut, or that are restored from a wrong piece of the archive.
func TestRestoreFromTheArchive(t *testing.T) {
	k := newKeeping(t, 1, KeepPolicy{ArchiveDir: t.TempDir()})
	k.keep(1)
	var cuts []machine.Checkpoint
	for range 4 {
		for range 3 {
			k.transact(15)
		}
		cuts = append(cuts, k.complete(k.cut(), 1))
		if n := len(cuts); n > 1 {
			k.retain(cuts[n-2].Number, &cuts[n-1], 1)
		}
	}
	k.transact(20)
	keeper, last := k.keepers[1], k.history.last()
	k.eventually("the first checkpoint to be in the archive only", func() bool {
		_, err := os.Lstat(k.copyDir(1, cuts[0].Number))
		return os.IsNotExist(err)
	})
	first := k.firstPosition(1)
	if first <= cuts[1].Position {
		t.Fatalf("the log begins at %d: the archive is not needed", first)
	}
	k.allRestorable(keeper, []uint64{
		cuts[0].Position, cuts[0].Position + 1, cuts[1].Position - 1, cuts[1].Position, cuts[2].Position + 7, first - 1, first, cuts[3].Position, last,
	})
	// The whole log, archive first, is what was committed.
	entries, err := keeper.EntriesFrom(1)
	if err != nil {
		t.Fatal(err)
	}
	times := map[uint64]int64{}
	for p := uint64(1); ; p++ {
		e, _, err := entries.Next(t.Context())
		if errors.Is(err, io.EOF) && p == last+1 {
			break
		}
		if err != nil || e.Position != p || k.history.at(p).outcomes[e.ID] != p {
			t.Fatalf("position %d: %d, %s, %v", p, e.Position, e.ID, err)
		}
		times[p] = e.TimeUnixNano
	}
	if err := entries.Close(); err != nil {
		t.Fatal(err)
	}
	// An archived checkpoint, by its number; and by times, of which several
	// positions share one.
	k.restorable(t, keeper, Target{Checkpoint: cuts[1].Number}, cuts[1].Position)
	for _, p := range []uint64{cuts[0].Position + 4, cuts[2].Position - 3, last} {
		for times[p+1] == times[p] {
			p++
		}
		k.restorable(t, keeper, Target{TimeUnixNano: times[p]}, p)
	}
	for what, target := range map[string]Target{
		"a position in the future":           {Position: new(uint64(last + 1))},
		"a position before the first":        {Position: new(cuts[0].Position - 1)},
		"a time before the first checkpoint": {TimeUnixNano: cuts[0].TimeUnixNano - 1},
		"a checkpoint that never was":        {Checkpoint: 99},
	} {
		var none *TargetError
		if _, err := keeper.Locate(t.Context(), target); !errors.As(err, &none) {
			t.Errorf("%s: %v", what, err)
		}
	}
	verified, err := keeper.Verify(t.Context(), 0, nil)
	if err != nil || len(verified) < 8 {
		t.Fatal(len(verified), err)
	}
	for _, v := range verified {
		if v.Err != nil {
			t.Errorf("checkpoint %d, %s: %v", v.Number, v.File, v.Err)
		}
		if v.Bytes == 0 || v.Number == 0 && v.File == "" {
			t.Errorf("what was read is not told: %+v", v)
		}
	}
	k.findsMisnamed(keeper, checkpoint.ArchivedCheckpointName(cuts[0].Number), checkpoint.ArchivedCheckpointName(cuts[0].Number+1000))
	k.findsMisnamed(keeper, filepath.Base(k.archived(cuts[1].Position+1)), checkpoint.ArchivedSegmentName(1_000_001, 1_000_009))
	// A gap is found, and not passed over.
	k.removeArchived(cuts[1].Position + 1)
	if _, err := keeper.EntriesFrom(cuts[0].Position); !errors.Is(err, ErrGap) {
		t.Errorf("the archive has a gap: %v", err)
	}
}

// findsMisnamed wants a whole file of the archive under another one's name to be
// found.
func (k *keeping) findsMisnamed(keeper *Keeper, name, other string) {
	k.t.Helper()
	dir := keeper.archiveDir(k.policy, 1)
	rename := func(from, to string) {
		if err := os.Rename(filepath.Join(dir, from), filepath.Join(dir, to)); err != nil {
			k.t.Fatal(err)
		}
	}
	rename(name, other)
	defer rename(other, name)
	verified, err := keeper.Verify(k.t.Context(), 0, nil)
	if err != nil {
		k.t.Fatal(err)
	}
	for _, v := range verified {
		var corrupt *checkpoint.CorruptError
		if named := filepath.Base(v.File) == other; named != (v.Err != nil) || named && !errors.As(v.Err, &corrupt) {
			k.t.Errorf("%s under the name %s: %s: %v", name, other, v.File, v.Err)
		}
	}
}

// archived is the archived segment that holds a position.
func (k *keeping) archived(position uint64) string {
	k.t.Helper()
	all, err := checkpoint.ListArchive(k.keepers[1].archiveDir(k.policy, 1))
	if err != nil {
		k.t.Fatal(err)
	}
	for _, a := range all {
		if a.First <= position && position < a.Next {
			return a.Path
		}
	}
	k.t.Fatalf("position %d is not in the archive", position)
	return ""
}

// removeArchived removes the archived segment that holds a position.
func (k *keeping) removeArchived(position uint64) {
	k.t.Helper()
	if err := os.Remove(k.archived(position)); err != nil {
		k.t.Fatal(err)
	}
}

// Would break: a restore that begins with a checkpoint of some participants alone,
// kept or archived, and gives a group without the data of the others.
func TestPartialCheckpointIsNoBase(t *testing.T) {
	k := newKeeping(t, 1, KeepPolicy{ArchiveDir: t.TempDir()})
	k.keep(1)
	k.transact(15)
	whole := k.complete(k.cut(), 1)
	k.transact(15)
	partial := k.complete(k.cut("a"), 1)
	if partial.Whole() {
		t.Fatal("it is of all participants: the test shows nothing")
	}
	k.transact(15)
	keeper := k.keepers[1]
	refused := func() {
		t.Helper()
		var none *TargetError
		_, err := keeper.Locate(t.Context(), Target{Checkpoint: partial.Number})
		if !errors.As(err, &none) || !strings.Contains(err.Error(), "of a alone") {
			t.Fatalf("checkpoint %d: %v", partial.Number, err)
		}
		k.restorable(t, keeper, Target{Position: &partial.Position}, partial.Position)
		k.restorable(t, keeper, Target{Position: new(partial.Position + 3)}, partial.Position+3)
	}
	refused()
	archived := filepath.Join(keeper.archiveDir(k.policy, 1), checkpoint.ArchivedCheckpointName(partial.Number))
	k.eventually("the partial checkpoint to be archived", func() bool {
		_, err := os.Lstat(archived)
		return err == nil
	})
	k.do(&command.Retain{Drop: []uint64{partial.Number}})
	k.eventually("its files to go", func() bool {
		_, err := os.Lstat(k.copyDir(1, partial.Number))
		return os.IsNotExist(err)
	})
	refused()
	m, meta, err := checkpoint.PeekMeta(archived)
	if err != nil {
		t.Fatal(err)
	}
	if missing, err := MissingParticipants(&m, meta); err != nil || fmt.Sprint(missing) != "[b]" || m.Number != partial.Number {
		t.Fatalf("checkpoint %d lacks %v, %v", m.Number, missing, err)
	}
	k.restorable(t, keeper, Target{Checkpoint: whole.Number}, whole.Position)
}
