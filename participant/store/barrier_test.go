package store

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"
	"time"
)

func syncedOnDisk(t *testing.T, s *Store) uint64 {
	t.Helper()
	slots, err := openSynced(s.current.dir)
	must(t, err)
	defer slots.close()
	return slots.index
}

// Would break: S on disk before what it promises: the log is synced by the hook,
// so a crash in it must leave the former S.
func TestBarrierWritesSLast(t *testing.T) {
	o := testOptions(t.TempDir())
	var s *Store
	var during []uint64
	var fail error
	o.Barrier = func() error {
		during = append(during, syncedOnDisk(t, s))
		return fail
	}
	s = open(t, o)
	for i := uint64(1); i <= 3; i++ {
		apply(t, s, i, script(i))
		must(t, s.Barrier())
		must(t, s.Barrier()) // nothing new: nothing to do
		if s.Synced() != i || syncedOnDisk(t, s) != i {
			t.Fatalf("S is %d, on disk %d, want %d", s.Synced(), syncedOnDisk(t, s), i)
		}
	}
	if len(during) != 3 || during[0] != 0 || during[1] != 1 || during[2] != 2 {
		t.Fatalf("S on disk during the hook: %v", during)
	}
	apply(t, s, 4, script(4))
	fail = errors.New("disk")
	if err := s.Barrier(); !errors.Is(err, fail) {
		t.Fatalf("got %v", err)
	}
	fail = nil
	// Would break: an fsync that failed taken for done when the next one succeeds.
	if err := s.Barrier(); !errors.Is(err, ErrFailed) || syncedOnDisk(t, s) != 3 {
		t.Fatalf("after a failure: %v, S on disk %d", err, syncedOnDisk(t, s))
	}
	u := s.Begin(5)
	if err := u.Finish(); !errors.Is(err, ErrFailed) {
		t.Fatalf("an update after a failure: %v", err)
	}
	wantAt(t, s, 4, stateAt(4)) // reads go on
}

// Would break: S passing an entry that badger failed to write, with later ones in
// place: a hole that a restart would not see.
func TestFailedCommitIsFinal(t *testing.T) {
	s := open(t, testOptions(t.TempDir()))
	apply(t, s, 1, script(1))
	must(t, s.Barrier())
	u := s.Begin(2)
	set(u, script(2))
	must(t, s.current.db.Close()) // it takes no writes any more
	must(t, u.Commit(2))
	if err := u.Finish(); err == nil || s.Published() != 1 {
		t.Fatalf("Finish: %v, published %d", err, s.Published())
	}
	if err := s.Barrier(); !errors.Is(err, ErrFailed) {
		t.Fatalf("Barrier: %v", err)
	}
	u = s.Begin(2)
	if err := u.Commit(2); !errors.Is(err, ErrFailed) {
		t.Fatalf("the next entry: %v", err)
	}
	u.Discard()
}

// Would break: S that moves only on demand, so that a power loss costs a long
// replay and versions pile up.
func TestBarrierRunsByItself(t *testing.T) {
	o := testOptions(t.TempDir())
	o.BarrierEvery = time.Millisecond
	ran := make(chan struct{}, 100)
	o.Barrier = func() error { ran <- struct{}{}; return nil }
	s := open(t, o)
	apply(t, s, 1, script(1))
	<-ran
}

// Would break: start after a torn write of S, which must give the former one; and
// a start at 0 when both slots are gone, which would replay onto the future.
func TestTornSlots(t *testing.T) {
	dir := t.TempDir()
	o := testOptions(dir)
	o.KeepVersions = time.Hour // D does not rise, so that each barrier writes one slot
	s := open(t, o)
	for i := uint64(1); i <= 6; i++ {
		apply(t, s, i, script(i))
		must(t, s.Barrier())
	}
	generation := s.current.dir
	newest := int(s.current.slots.sequence % 2)
	must(t, s.Close())
	path := filepath.Join(generation, syncedFile)
	good, err := os.ReadFile(path)
	must(t, err)
	tear := func(slot, at int) {
		data := append([]byte(nil), good...)
		if at > 0 {
			clear(data[slot*syncedSlotGap+at : min(slot*syncedSlotGap+syncedSlotBytes, len(data))])
		} else {
			data[slot*syncedSlotGap] ^= 1
		}
		must(t, os.WriteFile(path, data, 0o644))
	}
	for at := range syncedSlotBytes {
		for _, slot := range []int{newest, 1 - newest} {
			tear(slot, at)
			slots, err := openSynced(generation)
			must(t, err)
			want := uint64(6)
			if slot == newest {
				want = 5
			}
			if slots.index != want {
				t.Fatalf("slot %d torn at %d: S is %d, want %d", slot, at, slots.index, want)
			}
			must(t, slots.close())
		}
	}
	tear(newest, 5)
	back := open(t, testOptions(dir))
	if back.Synced() != 5 {
		t.Fatalf("S is %d", back.Synced())
	}
	// The next write must go over the torn slot, not the good one.
	apply(t, back, 6, script(6))
	must(t, back.Barrier())
	must(t, back.Close())
	data, err := os.ReadFile(path)
	must(t, err)
	for slot := range 2 {
		if _, _, _, _, ok := decodeSlot(data[slot*syncedSlotGap : slot*syncedSlotGap+syncedSlotBytes]); !ok {
			t.Errorf("slot %d is not valid", slot)
		}
	}
	must(t, os.WriteFile(path, make([]byte, len(good)), 0o644))
	var corrupt *CorruptError
	if _, err := Open(testOptions(dir)); !errors.As(err, &corrupt) {
		t.Errorf("both slots gone: %v", err)
	}
}

// Would break: a file of a newer release taken for an old S.
func TestSyncedOfANewerVersionIsRefused(t *testing.T) {
	dir := t.TempDir()
	must(t, createSynced(dir, 7))
	path := filepath.Join(dir, syncedFile)
	data, err := os.ReadFile(path)
	must(t, err)
	slot := data[syncedSlotGap:]
	slot[11]++
	resum(slot)
	must(t, os.WriteFile(path, data, 0o644))
	var newer *VersionError
	if _, err := openSynced(dir); !errors.As(err, &newer) {
		t.Fatalf("got %v", err)
	}
}

// Would break: the barrier when badger removes a memtable file between the listing
// and the fsync.
func TestSyncMemtablesPassesOverWhatIsGone(t *testing.T) {
	dir := t.TempDir()
	must(t, os.CopyFS(dir, fstest.MapFS{"00001.mem": {Data: []byte("x")}}))
	must(t, os.Symlink(filepath.Join(dir, "gone"), filepath.Join(dir, "00002.mem")))
	must(t, syncMemtables(dir))
	if err := syncMemtables(filepath.Join(dir, "nowhere")); err == nil {
		t.Fatal("a directory that is not there was synced")
	}
}
