package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"testing"
	"time"
)

// Would break: a cut that is not written to files yet, read wrong after a
// restart, because compaction threw its versions away while nobody remembered to
// hold them; and a hold that is let go and keeps the disk full for ever.
func TestHoldsSurviveARestart(t *testing.T) {
	dir := t.TempDir()
	options := func(holds ...uint64) Options {
		o := testOptions(dir)
		o.KeepVersions = time.Millisecond
		o.Holds = func(*View) ([]uint64, error) { return holds, nil }
		return o
	}
	const keys, cut, last = 50, 100, 3000
	s := open(t, options())
	value := func(index uint64) []byte { return fmt.Appendf(nil, "%d%6000d", index, 0) }
	write := func(s *Store, from, to uint64) {
		for i := from; i <= to; i++ {
			apply(t, s, i, writes{fmt.Sprintf("k%02d", i%keys): value(i)})
			if i%200 == 0 {
				must(t, s.Barrier())
			}
		}
	}
	exact := func(s *Store) {
		t.Helper()
		v, err := s.View(cut)
		must(t, err)
		defer v.Close()
		for k := range uint64(keys) {
			want := cut - (cut-k)%keys
			got, found, err := v.Get(fmt.Appendf(nil, "k%02d", k))
			must(t, err)
			if !found || string(got) != string(value(want)) {
				t.Fatalf("key %d at the cut: found %v, %.10q, want %d", k, found, got, want)
			}
		}
	}
	write(s, 1, cut-1)
	hold, err := s.Hold(cut) // its entry is not published yet
	must(t, err)
	write(s, cut, last)
	must(t, s.Reclaim())
	exact(s)
	must(t, s.Close())

	s = open(t, options(cut))
	defer func() { must(t, s.Close()) }()
	write(s, last+1, 2*last)
	must(t, s.Reclaim())
	exact(s)
	if _, ok := s.Held(cut + 1); ok {
		t.Fatal("an index is held that nobody asked for")
	}
	again, ok := s.Held(cut)
	if !ok {
		t.Fatal("the hold is gone")
	}
	before := s.DiskBytes()
	again.Release()
	again.Release()
	hold.Release() // of the store that is closed: nothing happens
	for i := uint64(2*last + 1); ; i++ {
		write(s, i, i)
		must(t, s.Barrier())
		if _, err := s.View(cut); errors.Is(err, ErrSnapshotTooOld) {
			break
		}
	}
	must(t, s.Reclaim())
	t.Logf("%d bytes before the hold was released, %d after", before, s.DiskBytes())
}

// Would break: an old file refused, or its D taken for 0, where versions are gone.
func TestSyncedOfVersion1IsRead(t *testing.T) {
	b := make([]byte, 0, syncedSlotBytes1)
	b = append(b, syncedMagic[:]...)
	b = append(b, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 77)
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	version, sequence, index, floor, ok := decodeSlot(b)
	if !ok || version != 1 || sequence != 9 || index != 77 || floor != 77 {
		t.Fatal(version, sequence, index, floor, ok)
	}
}
