package txlog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/cohort-tx/cohort/txlog/checkpoint"
	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/machine"
	"github.com/cohort-tx/cohort/txlog/segment"
)

// cuts takes n checkpoints with commits before each.
func (k *keeping) cutMany(n int) (cuts []machine.Checkpoint) {
	k.t.Helper()
	for range n {
		for range 3 {
			k.transact(15)
		}
		cuts = append(cuts, k.complete(k.cut(), 1))
	}
	k.transact(15)
	return cuts
}

// Would break: an export or a restore that loses its files half-way, because
// retention drops them; and files that stay for ever after it.
func TestFilesInUseStay(t *testing.T) {
	k := newKeeping(t, 1, KeepPolicy{})
	k.keep(1)
	cuts := k.cutMany(4)
	keeper := k.keepers[1]
	source, closeSource, err := keeper.Source(cuts[0].Number, filepath.Join(t.TempDir(), "none"))
	if err != nil {
		t.Fatal(err)
	}
	entries, err := keeper.EntriesFrom(1)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := entries.Next(t.Context()); err != nil {
		t.Fatal(err)
	}
	// What is dropped later goes in a later turn: the first one is over by then.
	for i := range 3 {
		k.do(&command.Retain{Drop: []uint64{cuts[i].Number}, LogFrom: cuts[i+1].Position + 1})
		if i > 0 {
			k.eventually("the files that nobody uses to go", func() bool {
				_, err := os.Lstat(k.copyDir(1, cuts[i].Number))
				return os.IsNotExist(err)
			})
		}
	}
	if err := source.Verify(t.Context(), nil); err != nil {
		t.Errorf("the files of a checkpoint in use: %v", err)
	}
	for p := uint64(2); ; p++ {
		e, _, err := entries.Next(t.Context())
		if errors.Is(err, io.EOF) && p > cuts[3].Position {
			break
		}
		if err != nil || e.Position != p {
			t.Fatalf("position %d of a log in use: %v", p, err)
		}
	}
	if first := k.firstPosition(1); first != 1 {
		t.Errorf("the log was cut to %d while it was read from 1", first)
	}
	closeSource()
	if err := entries.Close(); err != nil {
		t.Fatal(err)
	}
	k.eventually("the files to go once nobody uses them", func() bool {
		_, err := os.Lstat(k.copyDir(1, cuts[0].Number))
		return os.IsNotExist(err) && k.firstPosition(1)+segmentPositions > cuts[3].Position
	})
}

// Would break: a restore that fails because the replica's log is replaced, by a
// Raft snapshot or a rebuilding, while it is read.
func TestReplacedLogIsReadOn(t *testing.T) {
	k := newKeeping(t, 3, KeepPolicy{})
	for range 4 {
		k.transact(20)
	}
	k.agree()
	id, _ := k.leader()
	id = id%3 + 1
	k.keep(id)
	entries, err := k.keepers[id].EntriesFrom(1)
	if err != nil {
		t.Fatal(err)
	}
	defer entries.Close()
	for p := uint64(1); p <= k.history.last(); p++ {
		if p == 5 || p == 40 {
			k.do(&command.Purge{}) // an entry: a state of the same index is not taken twice
			k.agree()
			if err := k.replicas[id].Rebuild(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if e, _, err := entries.Next(t.Context()); err != nil || e.Position != p {
			t.Fatalf("position %d: %d, %v", p, e.Position, err)
		}
	}
}

// Would break: a position that can be restored, and is refused because the log is
// cut into the archive between the opening and the reading.
func TestLogCutWhileItIsOpened(t *testing.T) {
	k := newKeeping(t, 1, KeepPolicy{ArchiveDir: t.TempDir()})
	k.keep(1)
	cuts := k.cutMany(2)
	keeper := k.keepers[1]
	entries, err := keeper.EntriesFrom(1)
	if err != nil {
		t.Fatal(err)
	}
	defer entries.Close()
	// A turn that looked for holds a moment before this one was taken.
	keeper.mu.Lock()
	clear(keeper.logHolds)
	keeper.mu.Unlock()
	k.retain(cuts[0].Number, &cuts[1], 1)
	for p := uint64(1); p <= k.history.last(); p++ {
		if e, _, err := entries.Next(t.Context()); err != nil || e.Position != p {
			t.Fatalf("position %d: %d, %v", p, e.Position, err)
		}
	}
}

// Would break: content that was dropped and can still be read from the disk, where
// a group's definition asks for it to be overwritten.
func TestDroppedFilesAreOverwritten(t *testing.T) {
	k := newKeeping(t, 1, KeepPolicy{Erase: true})
	k.keep(1)
	cuts := k.cutMany(2)
	dropped, err := filepath.Glob(filepath.Join(k.copyDir(1, cuts[0].Number), "*"))
	if err != nil || len(dropped) < 4 {
		t.Fatal(dropped, err)
	}
	segments, err := filepath.Glob(filepath.Join(k.replicas[1].files.dir, "*.log"))
	if err != nil {
		t.Fatal(err)
	}
	links := map[string]string{}
	kept := t.TempDir()
	for _, path := range append(dropped, segments...) {
		links[path] = filepath.Join(kept, filepath.Base(path))
		if err := os.Link(path, links[path]); err != nil {
			t.Fatal(err)
		}
	}
	k.retain(cuts[0].Number, &cuts[1], 1)
	gone := 0
	for path, link := range links {
		if _, err := os.Lstat(path); err == nil {
			continue
		}
		gone++
		k.eventually(path+" to be overwritten", func() bool {
			data, err := os.ReadFile(link)
			return err == nil && len(data) > 0 && bytes.Equal(data, make([]byte, len(data)))
		})
	}
	if gone < len(dropped)+2 {
		t.Errorf("%d files went, of %d of the checkpoint and %d of the log: the test shows nothing", gone, len(dropped), len(segments))
	}
}

// Would break: a log that cannot be opened, or lacks what is neither dropped nor in
// the archive, after a crash at any step of cutting it.
func TestCrashWhileTheLogIsCut(t *testing.T) {
	for name, archive := range map[string]bool{"dropped": false, "archived": true} {
		t.Run(name, func(t *testing.T) { crashWhileCut(t, archive) })
	}
}

func crashWhileCut(t *testing.T, archive bool) {
	policy := KeepPolicy{Erase: true}
	k := newKeeping(t, 1, policy)
	node := filepath.Join(k.dir, "1")
	if archive {
		k.policy.ArchiveDir = filepath.Join(node, "archive")
	}
	k.keep(1)
	cuts := k.cutMany(2)
	var crashes []string
	crash := func() string {
		dir := filepath.Join(t.TempDir(), "1")
		copyTree(t, node, dir)
		crashes = append(crashes, dir)
		return dir
	}
	keeper := k.keepers[1]
	k.unkeep(1)
	k.do(&command.Retain{Drop: []uint64{cuts[0].Number}, LogFrom: cuts[1].Position + 1})
	if err := k.replicas[1].store.Barrier(); err != nil {
		t.Fatal(err)
	}
	if archive {
		crash() // before the first step
		// A file in the archive that was not finished.
		dir := crash()
		segments, err := filepath.Glob(filepath.Join(dir, "shard-*", "log-0", "*.log"))
		if err != nil || len(segments) == 0 {
			t.Fatal(segments, err)
		}
		unfinished := filepath.Join(dir, "archive", "g", "n1", "incarnation-1", "00000000000000000001-00000000000000000026.seg.zst.tmp")
		if err := errors.Join(os.MkdirAll(filepath.Dir(unfinished), 0o755), os.WriteFile(unfinished, []byte("half"), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	// The keeper's own steps, with a copy of the node taken before and amid each
	// overwriting.
	erased := 0
	keeper.erase = func(path string) error {
		erased++
		if erased > 1 {
			return checkpoint.Erase(path)
		}
		crash()
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.Write(make([]byte, info.Size()/2))
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
		crash()
		return checkpoint.Erase(path)
	}
	rec, err := keeper.read()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(keeper.dropFiles(t.Context(), &rec), keeper.dropLog(t.Context(), &rec)); err != nil {
		t.Fatal(err)
	}
	if erased < 2 {
		t.Fatalf("%d segments were cut off: the test shows nothing", erased)
	}
	if archive {
		crash() // after the last step
	}
	k.down(1)
	committed := k.history
	for i, dir := range crashes {
		if err := errors.Join(os.RemoveAll(node), os.Rename(dir, node)); err != nil {
			t.Fatal(err)
		}
		k.history = committed.fork(committed.last())
		k.up(1)
		k.keep(1)
		k.eventually(fmt.Sprintf("after crash %d, what was dropped to go", i), func() bool {
			left, err := filepath.Glob(filepath.Join(k.replicas[1].files.dir, "*.gone"))
			_, statErr := os.Lstat(k.copyDir(1, cuts[0].Number))
			return err == nil && len(left) == 0 && os.IsNotExist(statErr) && k.firstPosition(1)+segmentPositions > cuts[1].Position
		})
		from := cuts[1].Position
		if archive {
			from = 1
		}
		k.readable(from)
		k.transact(5)
		k.down(1)
	}
}

// readable checks that the log of node 1 has every position from one on.
func (k *keeping) readable(from uint64) {
	k.t.Helper()
	entries, err := k.keepers[1].EntriesFrom(from)
	if err != nil {
		k.t.Fatal(err)
	}
	defer entries.Close()
	for p := from; p <= k.history.last(); p++ {
		if e, _, err := entries.Next(k.t.Context()); err != nil || e.Position != p {
			k.t.Fatalf("position %d: %d, %v", p, e.Position, err)
		}
	}
}

// Would break: a log with a hole, which is refused at the next start, after a
// segment could not be removed and the ones behind it could.
func TestSegmentThatCannotBeRemoved(t *testing.T) {
	k := newKeeping(t, 1, KeepPolicy{})
	k.keep(1)
	cuts := k.cutMany(2)
	keeper := k.keepers[1]
	k.unkeep(1)
	k.do(&command.Retain{Drop: []uint64{cuts[0].Number}, LogFrom: cuts[1].Position + 1})
	log := k.replicas[1].files.log
	if err := k.replicas[1].store.Barrier(); err != nil { // a segment that is not synced stays
		t.Fatal(err)
	}
	failed := errors.New("no")
	err := log.TruncateBeforeFunc(cuts[1].Position, func(segment.ClosedSegment) error { return nil }, func(string) error { return failed })
	if !errors.Is(err, failed) {
		t.Errorf("a failure to remove a segment: %v", err)
	}
	rec, err := keeper.read()
	if err != nil {
		t.Fatal(err)
	}
	if err := keeper.dropLog(t.Context(), &rec); err != nil {
		t.Fatal(err)
	}
	k.down(1)
	k.up(1)
	k.keep(1)
	k.readable(cuts[1].Position)
}
