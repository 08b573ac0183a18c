package txlog

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/machine"
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
		data, err := os.ReadFile(link)
		if err != nil {
			t.Fatal(err)
		}
		if len(data) == 0 || !bytes.Equal(data, make([]byte, len(data))) {
			t.Errorf("%s went with its content, %d bytes", path, len(data))
		}
	}
	if gone < len(dropped)+2 {
		t.Errorf("%d files went, of %d of the checkpoint and %d of the log: the test shows nothing", gone, len(dropped), len(segments))
	}
}
