package store

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
)

func save(t testing.TB, s *Store, w io.Writer) {
	t.Helper()
	v, err := s.View(0)
	must(t, err)
	defer v.Close()
	must(t, s.Save(v, w, nil))
}

// saved makes a store with small, large, deleted and local keys, and its snapshot.
func saved(t *testing.T) (s *Store, want map[string]string, snapshot []byte) {
	t.Helper()
	s = open(t, testOptions(t.TempDir()))
	want = make(map[string]string)
	for i := uint64(1); i <= 300; i++ {
		w := crashScript(i)
		advance(want, w)
		w["\x01local"] = fmt.Append(nil, i)
		apply(t, s, i, w)
	}
	var b bytes.Buffer
	save(t, s, &b)
	return s, want, b.Bytes()
}

func versions(t *testing.T, s *Store) map[string]uint64 {
	t.Helper()
	got := make(map[string]uint64)
	v := rawView(s, s.Published())
	c := openCursor(v.generation, v.txn, []byte{LocalPrefix + 1}, nil)
	defer c.close()
	for c.valid() {
		got[string(c.key())] = c.version()
		must(t, c.next())
	}
	return got
}

func generationsOf(t *testing.T, dir string) []uint64 {
	t.Helper()
	numbers, err := generations(dir)
	must(t, err)
	return numbers
}

// Would break: a replica that joins by snapshot and differs: in content, in the
// versions of keys, by a local key of the sender; or that cannot go on.
func TestSaveAndRestore(t *testing.T) {
	from, want, snapshot := saved(t)
	dir := t.TempDir()
	to := open(t, testOptions(dir))
	apply(t, to, 7, writes{"old": []byte("x"), "\x01local": []byte("y"), "big": bigValue(1, LargeValueBytes+1)})

	behind := []byte("what the caller wrote behind")
	r := bytes.NewReader(append(slices.Clone(snapshot), behind...))
	must(t, to.Restore(r, 300, nil))
	if rest, _ := io.ReadAll(r); !bytes.Equal(rest, behind) {
		t.Fatalf("Restore left %q", rest)
	}
	check := func() {
		t.Helper()
		if to.Published() != 300 || to.Synced() != 300 {
			t.Fatalf("published %d, S %d", to.Published(), to.Synced())
		}
		wantAt(t, to, 300, want)
		if got, is := versions(t, to), versions(t, from); fmt.Sprint(got) != fmt.Sprint(is) {
			t.Fatal("the versions of keys differ")
		}
		wantNoStrayChunks(t, to)
		var again bytes.Buffer
		save(t, to, &again)
		if !bytes.Equal(again.Bytes(), snapshot) {
			t.Fatal("the snapshot of the restored store is another")
		}
		if _, err := to.View(299); !errors.Is(err, ErrSnapshotTooOld) {
			t.Fatalf("below the restored index: %v", err)
		}
	}
	check()
	must(t, to.Close())
	to = open(t, testOptions(dir))
	check()
	if got := generationsOf(t, dir); !slices.Equal(got, []uint64{2}) {
		t.Fatalf("generations %v are left", got)
	}
	for i := uint64(301); i < 400; i++ {
		w := crashScript(i)
		apply(t, to, i, w)
		advance(want, w)
	}
	wantAt(t, to, 399, want)
	wantNoStrayChunks(t, to)
}

// Would break: an empty group's snapshot.
func TestSaveAndRestoreNothing(t *testing.T) {
	from, to := open(t, testOptions(t.TempDir())), open(t, testOptions(t.TempDir()))
	var b bytes.Buffer
	apply(t, from, 3, writes{"\x01local": []byte("x")})
	save(t, from, &b)
	must(t, to.Restore(&b, 0, nil))
	wantAt(t, to, 3, map[string]string{})
}

// Would break: a damaged or cut stream installed as state, or one that costs the
// state that is there.
func TestDamagedSnapshotIsRefused(t *testing.T) {
	_, _, snapshot := saved(t)
	dir := t.TempDir()
	to := open(t, testOptions(dir))
	apply(t, to, 7, writes{"old": []byte("x")})
	refuse := func(what string, r io.Reader, index uint64, want func(error) bool) {
		t.Helper()
		if err := to.Restore(r, index, nil); err == nil || want != nil && !want(err) {
			t.Fatalf("%s: %v", what, err)
		}
		if got := generationsOf(t, dir); !slices.Equal(got, []uint64{1}) {
			t.Fatalf("%s: generations %v are left", what, got)
		}
		wantAt(t, to, 7, map[string]string{"old": "x"})
	}
	isCorrupt := func(err error) bool { var c *CorruptError; return errors.As(err, &c) }
	for _, n := range []int{0, 10, snapshotHeaderBytes, snapshotHeaderBytes + 3, len(snapshot) / 2, len(snapshot) - 41, len(snapshot) - 1} {
		refuse(fmt.Sprintf("cut at %d", n), bytes.NewReader(snapshot[:n]), 0, isCorrupt)
	}
	for _, n := range []int{0, 19, snapshotHeaderBytes, snapshotHeaderBytes + 5, snapshotHeaderBytes + 8, len(snapshot) / 2, len(snapshot) - 50, len(snapshot) - 35, len(snapshot) - 1} {
		damaged := slices.Clone(snapshot)
		damaged[n] ^= 1
		refuse(fmt.Sprintf("byte %d flipped", n), bytes.NewReader(damaged), 0, isCorrupt)
	}
	newer := slices.Clone(snapshot)
	newer[11]++
	refuse("newer version", bytes.NewReader(newer), 0, func(err error) bool { var v *VersionError; return errors.As(err, &v) })
	refuse("another index", bytes.NewReader(snapshot), 299, nil)
	broken := errors.New("network")
	refuse("the network", io.MultiReader(bytes.NewReader(snapshot[:len(snapshot)/2]), errReader{broken}), 0,
		func(err error) bool { return errors.Is(err, broken) })

	stop := make(chan struct{})
	close(stop)
	if err := to.Restore(bytes.NewReader(snapshot), 0, stop); !errors.Is(err, ErrStopped) {
		t.Fatalf("stopped: %v", err)
	}
	apply(t, to, 400, writes{"new": []byte("y")})
	if err := to.Restore(bytes.NewReader(snapshot), 0, nil); err == nil {
		t.Fatal("a snapshot behind what is published was installed")
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

// Would break: a replica killed during Restore: before the swap the old state must
// be there, after it the new one, and nothing else on disk.
func TestRestoreCutOffByACrash(t *testing.T) {
	_, want, snapshot := saved(t)
	dir := t.TempDir()
	to := open(t, testOptions(dir))
	apply(t, to, 7, writes{"old": []byte("x")})
	must(t, to.Barrier())
	before := filepath.Join(t.TempDir(), "before")
	in, err := openSnapshot(bytes.NewReader(snapshot))
	must(t, err)
	g, err := to.buildGeneration(filepath.Join(dir, generationName(2)), 2, in, nil)
	must(t, err)
	must(t, os.CopyFS(before, os.DirFS(dir)))
	pinned, err := to.View(7) // keeps the old generation on disk
	must(t, err)
	must(t, to.swap(g))
	after := filepath.Join(t.TempDir(), "after")
	must(t, os.CopyFS(after, os.DirFS(dir)))
	pinned.Close()

	back := open(t, testOptions(before))
	wantAt(t, back, 7, map[string]string{"old": "x"})
	if got := generationsOf(t, before); !slices.Equal(got, []uint64{1}) {
		t.Fatalf("before the swap: generations %v", got)
	}
	back = open(t, testOptions(after))
	wantAt(t, back, 300, want)
	if got := generationsOf(t, after); !slices.Equal(got, []uint64{2}) {
		t.Fatalf("after the swap: generations %v", got)
	}
}

// Would break: readers while a snapshot is installed: theirs is the old state
// until they close, then it goes from the disk.
func TestViewsDuringRestore(t *testing.T) {
	_, want, snapshot := saved(t)
	dir := t.TempDir()
	to := open(t, testOptions(dir))
	old := make(map[string]string)
	for i := uint64(1); i <= 50; i++ {
		apply(t, to, i, script(i))
		advance(old, script(i))
	}
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				v, err := to.View(0)
				if err != nil {
					t.Error(err)
					return
				}
				is := old
				if v.Index() == 300 {
					is = want
				}
				if got := contents(t, v); len(got) != len(is) {
					t.Errorf("at %d: %d keys, want %d", v.Index(), len(got), len(is))
				}
				v.Close()
			}
		})
	}
	pinned, err := to.View(0)
	must(t, err)
	retired := to.current
	must(t, to.Restore(bytes.NewReader(snapshot), 0, nil))
	for range 200 { // as long as a hasty deletion would take
		wantState(t, contents(t, pinned), old)
	}
	wantAt(t, to, 300, want)
	close(stop)
	readers.Wait()
	pinned.Close()
	<-retired.drained
	must(t, to.Close()) // waits for the deletion
	if got := generationsOf(t, dir); !slices.Equal(got, []uint64{2}) {
		t.Fatalf("generations %v are left", got)
	}
}

// Would break: Save that cannot be stopped, or passes over its writer's error.
func TestSaveStops(t *testing.T) {
	s, _, snapshot := saved(t)
	v, err := s.View(0)
	must(t, err)
	defer v.Close()
	stop := make(chan struct{})
	close(stop)
	if err := s.Save(v, io.Discard, stop); !errors.Is(err, ErrStopped) {
		t.Fatalf("stopped: %v", err)
	}
	for _, n := range []int{0, 25, len(snapshot) / 2, len(snapshot) - 1} {
		if err := s.Save(v, &shortWriter{left: n}, nil); !errors.Is(err, io.ErrShortWrite) {
			t.Fatalf("a writer that fails after %d bytes: %v", n, err)
		}
	}
}

type shortWriter struct{ left int }

func (w *shortWriter) Write(b []byte) (int, error) {
	if w.left -= len(b); w.left < 0 {
		return 0, io.ErrShortWrite
	}
	return len(b), nil
}

// Would break: Restore panicking on, or trusting, what the network may bring.
func FuzzSnapshot(f *testing.F) {
	var b bytes.Buffer
	w := snapshotWriter{w: &b, hash: sha256.New()}
	if err := errors.Join(w.header(9), w.record(3, []byte("a"), []byte("1"), nil), w.record(9, []byte("b"), nil, nil), w.end()); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		in, err := openSnapshot(bytes.NewReader(data))
		for err == nil {
			_, err = in.next()
		}
		if err == io.EOF && in.index == 0 && in.count > 0 {
			t.Fatal("records after the index")
		}
	})
}
