package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// testOptions are small, with no barrier but those that a test asks for and no
// version kept but for a pin.
func testOptions(dir string) Options {
	return Options{
		Dir: dir, MaxEntryBytes: 1 << 20, MaxEntryKeys: 2000,
		BarrierEvery: time.Hour, KeepVersions: time.Nanosecond,
	}
}

func open(t testing.TB, o Options) *Store {
	t.Helper()
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// writes are what an entry sets; nil deletes.
type writes map[string][]byte

func apply(t testing.TB, s *Store, index uint64, w writes) {
	t.Helper()
	u := s.Begin(index)
	defer u.Discard()
	set(u, w)
	must(t, u.Commit(index))
	must(t, u.Finish())
}

func set(u *Update, w writes) {
	keys := make([]string, 0, len(w))
	for k := range w {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		if w[k] == nil {
			u.Delete([]byte(k))
		} else {
			u.Set([]byte(k), w[k])
		}
	}
}

// script is a sequence of entries that depends on nothing but the index, and what
// the state must be after each.
func script(index uint64) writes {
	r := rand.New(rand.NewPCG(1, index))
	w := make(writes)
	for range 1 + r.IntN(8) {
		key := fmt.Sprintf("k%03d", r.IntN(200))
		w[key] = fmt.Appendf(nil, "%d/%0*d", index, 1+r.IntN(300), 0)
		if r.IntN(5) == 0 {
			w[key] = nil
		}
	}
	return w
}

func stateAt(index uint64) map[string]string {
	state := make(map[string]string)
	for i := uint64(1); i <= index; i++ {
		advance(state, script(i))
	}
	return state
}

func advance(state map[string]string, w writes) {
	for k, v := range w {
		if v == nil {
			delete(state, k)
		} else {
			state[k] = string(v)
		}
	}
}

type scanner interface {
	Scan(start, end []byte, fn func(key, value []byte) (bool, error)) error
}

func contents(t testing.TB, v scanner) map[string]string {
	t.Helper()
	got := make(map[string]string)
	last := ""
	must(t, v.Scan(nil, nil, func(k, val []byte) (bool, error) {
		if string(k) <= last {
			t.Errorf("key %q after %q", k, last)
		}
		last = string(k)
		got[last] = string(val)
		return true, nil
	}))
	return got
}

func wantState(t testing.TB, got, want map[string]string) {
	t.Helper()
	for k, v := range want {
		if g, ok := got[k]; !ok || g != v {
			t.Fatalf("key %q: got %.40q (%v), want %.40q", k, g, ok, v)
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%d keys, want %d", len(got), len(want))
	}
}

func wantAt(t testing.TB, s *Store, index uint64, want map[string]string) {
	t.Helper()
	v, err := s.View(index)
	must(t, err)
	defer v.Close()
	wantState(t, contents(t, v), want)
}

// ownKeys lists the live keys of one of the store's own tables.
func ownKeys(t testing.TB, s *Store, table byte) (keys [][]byte) {
	t.Helper()
	txn := s.current.db.NewTransactionAt(s.Published(), false)
	defer txn.Discard()
	it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte{ownPrefix, table}})
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		keys = append(keys, it.Item().KeyCopy(nil))
	}
	return keys
}

// Would break: commands of one Raft batch that do not see one another, or see
// half of a key; and the state after.
func TestUpdateSeesItsOwnEffects(t *testing.T) {
	s := open(t, testOptions(t.TempDir()))
	apply(t, s, 1, writes{"a": []byte("1"), "b": []byte("1"), "d": []byte("1")})
	u := s.Begin(2)
	defer u.Discard()
	want := map[string]string{"a": "1", "b": "1", "d": "1"}
	wantState(t, contents(t, u), want)
	for index := uint64(2); index < 6; index++ {
		w := writes{fmt.Sprintf("c%d", index): []byte("x"), "b": []byte{byte(index)}, "a": nil}
		if index%2 == 1 {
			w["a"] = []byte("again")
		}
		set(u, w)
		advance(want, w)
		wantState(t, contents(t, u), want)
		must(t, u.Commit(index))
		wantState(t, contents(t, u), want)
		for k := range w {
			got, found, err := u.Get([]byte(k))
			must(t, err)
			if v, ok := want[k]; ok != found || string(got) != v {
				t.Fatalf("%s: %q %v, want %q %v", k, got, found, v, ok)
			}
		}
		if s.Published() != 1 {
			t.Fatal("published before Finish")
		}
	}
	must(t, u.Commit(9)) // sets nothing, and counts
	must(t, u.Finish())
	if s.Published() != 9 {
		t.Fatalf("published %d, want 9", s.Published())
	}
	wantAt(t, s, 9, want)
	if _, err := s.View(10); !errors.Is(err, ErrNotApplied) {
		t.Fatalf("a view above published: %v", err)
	}
}

// Would break: ranges that lose or add their ends, and the store's own keys
// showing through.
func TestScanBounds(t *testing.T) {
	s := open(t, testOptions(t.TempDir()))
	apply(t, s, 1, writes{"\x01local": []byte("l"), "a": []byte("1"), "ab": []byte("2"), "b": []byte("3"), "\xff\xff": []byte("4")})
	v, err := s.View(0)
	must(t, err)
	defer v.Close()
	u := s.Begin(2)
	defer u.Discard()
	for _, c := range []struct{ start, end, want string }{
		{"", "", "\x01local a ab b \xff\xff"}, {"a", "b", "a ab"}, {"ab", "", "ab b \xff\xff"}, {"ab", "ab\x00", "ab"},
		{"a\x00", "b\x00", "ab b"}, {"c", "d", ""}, {"b", "a", ""}, {"\xff", "", "\xff\xff"}, {"\x00", "\x02", "\x01local"},
	} {
		for _, r := range []scanner{v, u} {
			var got [][]byte
			must(t, r.Scan([]byte(c.start), []byte(c.end), func(k, _ []byte) (bool, error) {
				got = append(got, bytes.Clone(k))
				return true, nil
			}))
			if g := string(bytes.Join(got, []byte(" "))); g != c.want {
				t.Errorf("[%q, %q): %q, want %q", c.start, c.end, g, c.want)
			}
		}
	}
	n := 0
	must(t, v.Scan(nil, nil, func(_, _ []byte) (bool, error) { n++; return n < 2, nil }))
	if n != 2 {
		t.Errorf("a scan that was told to stop after 2 keys gave %d", n)
	}
}

// Would break: an entry that cannot be written, at every replica and at every
// restart. Each is exactly at a limit, and badger must take it.
func TestEntriesAtTheLimitsFit(t *testing.T) {
	o := testOptions(t.TempDir())
	o.MaxEntryBytes, o.MaxEntryKeys = 4<<20, 20_000
	s := open(t, o)
	many, big, large := make(writes), make(writes), make(writes)
	for i := range o.MaxEntryKeys {
		many[fmt.Sprintf("m%06d", i)] = make([]byte, 100)
	}
	left := o.MaxEntryBytes
	for i := 0; left > 0; i++ {
		k := fmt.Sprintf("b%06d", i)
		v := min(left-keyOverhead-int64(len(k)), LargeValueBytes)
		cost, _ := Cost(len(k), int(v))
		left -= cost
		big[k] = make([]byte, v)
		if left < 100 {
			break
		}
	}
	largeValue := o.MaxEntryBytes
	for cost := largeValue + 1; cost > o.MaxEntryBytes; cost, _ = Cost(1, int(largeValue)) {
		largeValue--
	}
	large["l"] = make([]byte, largeValue)
	apply(t, s, 1, many)
	apply(t, s, 2, big)
	apply(t, s, 3, large)
	for k := range many {
		many[k] = nil
	}
	apply(t, s, 4, many)

	u := s.Begin(5)
	defer u.Discard()
	large["l"] = make([]byte, largeValue+1)
	set(u, large)
	var tooLarge *EntryTooLargeError
	if err := u.Commit(5); !errors.As(err, &tooLarge) {
		t.Fatalf("above the limit: %v", err)
	}
	if err := u.Finish(); !errors.As(err, &tooLarge) || s.Published() != 4 || s.Err() != nil {
		t.Fatalf("Finish: %v, published %d, %v", err, s.Published(), s.Err())
	}
}

// Would break: the same as above for every limit: what badger allows must cover
// the limits and the store's own records.
func TestMemTableHoldsEveryLimit(t *testing.T) {
	for _, size := range []int64{1, 1 << 20, DefaultMaxEntryBytes, 64 << 20, largestEntryBytes} {
		for _, keys := range []int{1, 1000, DefaultMaxEntryKeys, 200_000, largestEntryKeys} {
			o := Options{Dir: "x", MaxEntryBytes: size, MaxEntryKeys: keys}
			must(t, o.Validate())
			mem := o.memTableBytes()
			ownBytes, ownKeys := ownCost(keys)
			batch := 15 * mem / 100
			if batch <= size+ownBytes+30 || batch/96 <= int64(keys)+ownKeys+1 || 2*mem > math.MaxUint32 {
				t.Errorf("%d bytes, %d keys: a memtable of %d", size, keys, mem)
			}
		}
	}
	o := Options{Dir: "x"}
	o.EnsureDefaults()
	if mem := o.memTableBytes() >> 20; mem > 40 {
		t.Errorf("the default memtable is %d MiB", mem)
	}
}

// Would break: a fault reported one at a time, or none.
func TestOptionsNameEveryFault(t *testing.T) {
	_, err := Open(Options{MaxEntryBytes: -1, MaxEntryKeys: -1, BarrierEvery: -1, KeepVersions: -1})
	for _, name := range []string{"Dir", "MaxEntryBytes", "MaxEntryKeys", "BarrierEvery", "KeepVersions"} {
		if err == nil || !bytes.Contains([]byte(err.Error()), []byte(name)) {
			t.Errorf("%s is not in %v", name, err)
		}
	}
}

// Would break: a caller's mistake that reaches the store's own keys.
func TestKeysOfTheStoreAreRefused(t *testing.T) {
	s := open(t, testOptions(t.TempDir()))
	for _, key := range [][]byte{nil, {0}, []byte("\x00a"), make([]byte, MaxKeyBytes+1)} {
		u := s.Begin(1)
		if _, _, err := u.Get(key); !errors.Is(err, ErrKey) {
			t.Errorf("Get %.10q: %v", key, err)
		}
		u.Set(key, []byte("x"))
		if err := u.Commit(1); !errors.Is(err, ErrKey) {
			t.Errorf("Commit with %.10q: %v", key, err)
		}
		u.Discard()
	}
}

// Would break: an empty value, which badger takes for none in places, before and
// after it has gone through tables and a snapshot.
func TestEmptyValueIsAValue(t *testing.T) {
	dir := t.TempDir()
	s := open(t, testOptions(dir))
	apply(t, s, 1, writes{"k": {}})
	check := func(s *Store) {
		t.Helper()
		wantAt(t, s, 0, map[string]string{"k": ""})
		v, err := s.View(0)
		must(t, err)
		defer v.Close()
		if _, found, err := v.Get([]byte("k")); err != nil || !found {
			t.Fatalf("found %v, %v", found, err)
		}
	}
	check(s)
	var snapshot bytes.Buffer
	save(t, s, &snapshot)
	must(t, s.Close())
	check(open(t, testOptions(dir)))
	other := open(t, testOptions(t.TempDir()))
	must(t, other.Restore(&snapshot, 1, nil))
	check(other)
}

// Would break: two processes on one directory.
func TestDirectoryIsLocked(t *testing.T) {
	dir := t.TempDir()
	s := open(t, testOptions(dir))
	if _, err := Open(testOptions(dir)); !errors.Is(err, ErrLocked) {
		t.Fatalf("got %v", err)
	}
	must(t, s.Close())
	open(t, testOptions(dir))
}

// Would break: files of a newer release, or damaged ones, read as something else.
func TestCurrentIsChecked(t *testing.T) {
	dir := t.TempDir()
	s := open(t, testOptions(dir))
	apply(t, s, 1, writes{"k": []byte("v")})
	must(t, s.Close())
	path := filepath.Join(dir, currentFile)
	good, err := os.ReadFile(path)
	must(t, err)
	var newer *VersionError
	var corrupt *CorruptError
	must(t, os.WriteFile(path, []byte(currentBody(currentVersion+1, 1)), 0o644))
	if _, err := Open(testOptions(dir)); !errors.As(err, &newer) {
		t.Errorf("newer version: %v", err)
	}
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 1
		must(t, os.WriteFile(path, bad, 0o644))
		if _, err := Open(testOptions(dir)); !errors.As(err, &newer) && !errors.As(err, &corrupt) {
			t.Errorf("byte %d flipped: %v", i, err)
		}
	}
	must(t, os.Remove(path))
	if _, err := Open(testOptions(dir)); !errors.As(err, &corrupt) {
		t.Errorf("CURRENT missing beside data: %v", err)
	}
	must(t, os.WriteFile(path, good, 0o644))
	wantAt(t, open(t, testOptions(dir)), 1, map[string]string{"k": "v"})
}

// Would break: a first start that was cut off must not need a human.
func TestFirstOpenCutOff(t *testing.T) {
	dir := t.TempDir()
	o := testOptions(dir)
	o.EnsureDefaults()
	must(t, createGeneration(&o, 1))
	must(t, os.WriteFile(filepath.Join(dir, currentTmp), []byte("cohort"), 0o644))
	s := open(t, testOptions(dir))
	apply(t, s, 1, writes{"k": []byte("v")})
	wantAt(t, s, 1, map[string]string{"k": "v"})
}

// Would break: restart after a crash that left badger files of length 0.
func TestEmptyBadgerFilesAreRemoved(t *testing.T) {
	dir := t.TempDir()
	s := open(t, testOptions(dir))
	apply(t, s, 1, writes{"k": []byte("v")})
	generation := s.current.dir
	must(t, s.Close())
	for _, name := range []string{"00099.mem", "000099.vlog"} {
		must(t, os.WriteFile(filepath.Join(generation, name), nil, 0o644))
	}
	wantAt(t, open(t, testOptions(dir)), 1, map[string]string{"k": "v"})
}

// Would break: flipped bytes in a table handed on as values.
func TestFlippedByteInATableIsNoticed(t *testing.T) {
	dir := t.TempDir()
	s := open(t, testOptions(dir))
	for i := uint64(1); i <= 200; i++ {
		apply(t, s, i, script(i))
	}
	generation := s.current.dir
	must(t, s.Close()) // flushes to a table
	tables, err := filepath.Glob(filepath.Join(generation, "*.sst"))
	must(t, err)
	if len(tables) == 0 {
		t.Fatal("no table")
	}
	data, err := os.ReadFile(tables[0])
	must(t, err)
	data[len(data)/3] ^= 4
	must(t, os.WriteFile(tables[0], data, 0o644))
	if s, err := Open(testOptions(dir)); err == nil {
		_ = s.Close()
		t.Fatal("the flipped byte went unnoticed")
	}
}

// Would break: Close that waits for ever for a reader, or pulls the database from
// under it.
func TestCloseEndsReaders(t *testing.T) {
	s := open(t, testOptions(t.TempDir()))
	for i := uint64(1); i <= 300; i++ {
		apply(t, s, i, writes{fmt.Sprint(i): []byte("v")})
	}
	v, err := s.View(0)
	must(t, err)
	inside, done := make(chan struct{}), make(chan error)
	go func() {
		first := true
		done <- v.Scan(nil, nil, func(_, _ []byte) (bool, error) {
			if first {
				first = false
				close(inside)
			}
			// Goes on only while the store is open.
			if v.generation.closing() {
				_, _, err := v.Get([]byte("1"))
				return true, err
			}
			return true, nil
		})
	}()
	<-inside
	closed := make(chan error)
	go func() { closed <- s.Close() }()
	if err := <-done; err != nil && !errors.Is(err, ErrClosed) {
		t.Errorf("the scan: %v", err)
	}
	must(t, <-closed)
	if _, _, err := v.Get([]byte("1")); !errors.Is(err, ErrClosed) {
		t.Errorf("Get after Close: %v", err)
	}
	v.Close()
	if _, err := s.View(0); !errors.Is(err, ErrClosed) {
		t.Errorf("View after Close: %v", err)
	}
	if err := s.Barrier(); !errors.Is(err, ErrClosed) {
		t.Errorf("Barrier after Close: %v", err)
	}
	u := s.Begin(301)
	if err := u.Finish(); !errors.Is(err, ErrClosed) {
		t.Errorf("Update after Close: %v", err)
	}
}

// BenchmarkUpdate applies entries of 4 keys with values of 100 bytes, in batches
// like those of a busy replica, with the barrier running.
func BenchmarkUpdate(b *testing.B) {
	for _, batch := range []int{1, 64} {
		b.Run(fmt.Sprintf("entries=%d", batch), func(b *testing.B) {
			s := open(b, Options{Dir: b.TempDir()})
			value := make([]byte, 100)
			key := []byte("key-00000000")
			index, n := uint64(0), uint32(0)
			b.ReportAllocs()
			entries := 0
			for b.Loop() {
				u := s.Begin(index + 1)
				for range batch {
					for range 4 {
						n = n*1664525 + 1013904223
						binary.BigEndian.PutUint32(key[4:], n%1_000_000)
						u.Set(key, value)
					}
					index++
					if err := u.Commit(index); err != nil {
						b.Fatal(err)
					}
				}
				if err := u.Finish(); err != nil {
					b.Fatal(err)
				}
				entries += batch
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(entries), "ns/entry")
		})
	}
}
