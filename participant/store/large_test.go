package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

func resum(slot []byte) {
	binary.BigEndian.PutUint32(slot[syncedSlotBytes-4:], crc32.Checksum(slot[:syncedSlotBytes-4], castagnoli))
}

func bigValue(seed uint64, size int) []byte {
	v := make([]byte, size)
	r := rand.New(rand.NewPCG(5, seed))
	for i := 0; i+8 <= size; i += 4099 {
		binary.BigEndian.PutUint64(v[i:], r.Uint64())
	}
	return v
}

// wantNoStrayChunks checks that the live chunks are those of live large values and
// of blobs that wait to be deleted, and no others.
func wantNoStrayChunks(t *testing.T, s *Store) {
	t.Helper()
	want := 0
	v := rawView(s, s.Published())
	c := openCursor(v.generation, v.txn, nil, nil)
	defer c.close()
	for c.valid() {
		b, _, err := itemBlob(c.it.Item())
		must(t, err)
		want += int(b.chunks)
		must(t, c.next())
	}
	queue, err := loadGarbage(v.txn)
	must(t, err)
	for _, r := range queue.records {
		for _, b := range r.blobs {
			want += int(b.chunks)
		}
	}
	if got := len(ownKeys(t, s, tableChunk)); got != want {
		t.Fatalf("%d chunks live, want %d", got, want)
	}
}

// Would break: large values that come back cut, or in the caller's sight as what
// they are stored as; chunks left behind by what replaced or deleted them.
func TestLargeValues(t *testing.T) {
	dir := t.TempDir()
	s := open(t, testOptions(dir))
	want := make(map[string]string)
	do := func(index uint64, w writes) {
		t.Helper()
		apply(t, s, index, w)
		advance(want, w)
		wantAt(t, s, index, want)
		wantNoStrayChunks(t, s)
	}
	do(1, writes{"a": []byte("small")})
	if s.current.large {
		t.Fatal("without large values every write would read first")
	}
	for i, size := range []int{LargeValueBytes - 1, LargeValueBytes, LargeValueBytes + 1, 2 * LargeValueBytes, 3*LargeValueBytes + 7} {
		do(uint64(2+i), writes{"a": bigValue(uint64(i), size), "b": []byte("x")})
	}
	old, err := s.View(6)
	must(t, err)
	defer old.Close()
	do(7, writes{"a": bigValue(9, 2*LargeValueBytes)})
	do(8, writes{"a": []byte("small")})
	if n := len(ownKeys(t, s, tableChunk)); n != 0 {
		t.Fatalf("replaced by a small value: %d chunks left", n)
	}
	do(9, writes{"a": bigValue(10, LargeValueBytes*2), "c": bigValue(11, LargeValueBytes+1)})
	do(10, writes{"a": nil, "c": nil})
	if n := len(ownKeys(t, s, tableChunk)); n != 0 {
		t.Fatalf("deleted: %d chunks left", n)
	}
	got, _, err := old.Get([]byte("a"))
	must(t, err)
	if !bytes.Equal(got, bigValue(4, 3*LargeValueBytes+7)) {
		t.Fatal("a pinned view lost a large value that was replaced later")
	}
	logs, err := filepath.Glob(filepath.Join(s.current.dir, "*.vlog"))
	must(t, err)
	must(t, s.Close())
	for _, path := range logs {
		if info, err := os.Stat(path); err == nil && info.Size() > 100 {
			t.Errorf("the value log is in use: %s has %d bytes", path, info.Size())
		}
	}
	if back := open(t, testOptions(dir)); back.current.large {
		t.Error("no large value is left, and every write would read first")
	}
}

// Would break: an entry that deletes many large values and does not fit, and the
// chunks that it leaves for the entries after it, also over a restart.
func TestManyLargeValuesDeletedAtOnce(t *testing.T) {
	dir := t.TempDir()
	o := testOptions(dir)
	s := open(t, o)
	const count = 90 // of 3 chunks: more than one entry sweeps
	kill := make(writes)
	index := uint64(0)
	for i := range count {
		index++
		k := fmt.Sprintf("k%02d", i)
		apply(t, s, index, writes{k: bigValue(uint64(i), 2*LargeValueBytes+1)})
		kill[k] = nil
	}
	must(t, s.Barrier())
	index++
	given := s.Begin(index)
	set(given, kill)
	must(t, given.Commit(index))
	given.Discard()
	wantNoStrayChunks(t, s)
	apply(t, s, index, kill)
	wantAt(t, s, index, map[string]string{})
	wantNoStrayChunks(t, s)
	if n := len(ownKeys(t, s, tableChunk)); n != 3*count-sweepChunks {
		t.Fatalf("%d chunks live after the entry, want %d", n, 3*count-sweepChunks)
	}
	index++
	u := s.Begin(index)
	set(u, writes{"x": []byte("1")})
	must(t, u.Commit(index))
	u.Discard() // sent, not published: it will be applied again
	crashClose(t, s)

	s = open(t, o) // at S, before the deletion, with versions from the future
	apply(t, s, index-1, kill)
	for i := index; len(ownKeys(t, s, tableChunk)) > 0; i++ {
		if i > index+2 {
			t.Fatalf("%d chunks left after %d entries", len(ownKeys(t, s, tableChunk)), i-index)
		}
		apply(t, s, i, writes{"x": []byte("1")})
		wantNoStrayChunks(t, s)
	}
	if n := len(ownKeys(t, s, tableGarbage)); n != 0 {
		t.Fatalf("%d records of garbage left", n)
	}
}

// Would break: any mixture of large and small values, of entries in one update and
// updates that are given up.
func TestLargeValuesAgainstModel(t *testing.T) {
	dir := t.TempDir()
	o := testOptions(dir)
	s := open(t, o)
	o.MaxEntryBytes = 4 << 20
	must(t, s.Close())
	s = open(t, o)
	sizes := []int{0, 10, LargeValueBytes, LargeValueBytes + 1, 2*LargeValueBytes + 3}
	// An entry applied again must be the same, so it depends on its index alone.
	entry := func(index uint64) []writes {
		r := rand.New(rand.NewPCG(6, index))
		var out []writes
		for range 1 + r.IntN(4) { // the same key may come several times
			k := fmt.Sprint(r.IntN(6))
			if r.IntN(4) == 0 {
				out = append(out, writes{k: nil})
			} else {
				out = append(out, writes{k: bigValue(r.Uint64(), sizes[r.IntN(len(sizes))])})
			}
		}
		return out
	}
	r := rand.New(rand.NewPCG(7, 1))
	want := make(map[string]string)
	for index := uint64(1); index < 150; {
		u := s.Begin(index)
		next := maps.Clone(want)
		end := index + 1 + r.Uint64N(3)
		for i := index; i < end; i++ {
			for _, w := range entry(i) {
				set(u, w)
				advance(next, w)
			}
			must(t, u.Commit(i))
		}
		wantState(t, contents(t, u), next)
		if r.IntN(4) == 0 {
			u.Discard()
			wantAt(t, s, 0, want)
			wantNoStrayChunks(t, s)
			continue
		}
		must(t, u.Finish())
		want, index = next, end
		if r.IntN(10) == 0 {
			must(t, s.Close())
			s = open(t, o)
		}
		wantAt(t, s, 0, want)
		wantNoStrayChunks(t, s)
	}
}
