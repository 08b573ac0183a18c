package segment

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func open(t testing.TB, o Options) *Log {
	t.Helper()
	l, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// payload is what the tests append at a position: of differing lengths, telling
// its position.
func payload(position uint64) []byte {
	return bytes.Repeat(binary.BigEndian.AppendUint64(nil, position), 1+int(position%7))
}

func fill(t testing.TB, l *Log, to uint64) {
	t.Helper()
	for p := l.Next(); p <= to; p++ {
		must(t, l.Append(p, payload(p)))
	}
	must(t, l.Flush())
}

func read(l *Log, from uint64, maxBytes int64) (records []Record, err error) {
	for r, err := range l.Read(from, maxBytes) {
		if err != nil {
			return records, err
		}
		records = append(records, r)
	}
	return records, nil
}

func wantRecords(t testing.TB, l *Log, from, to uint64) {
	t.Helper()
	got, err := read(l, from, 0)
	must(t, err)
	if uint64(len(got)) != to+1-from {
		t.Fatalf("read %d records from %d, want up to %d", len(got), from, to)
	}
	for i, r := range got {
		if p := from + uint64(i); r.Position != p || !bytes.Equal(r.Payload, payload(p)) {
			t.Fatalf("record %d: got position %d, payload %x", p, r.Position, r.Payload)
		}
	}
}

// Would break: replay after a crash, if what lies beyond the end stayed or was in
// the way, or what lies before was lost; for every place the log can end at.
func TestOpenGoesBackToAnyEnd(t *testing.T) {
	dir := t.TempDir()
	o := Options{Dir: dir, SegmentBytes: 256}
	l := open(t, o)
	ends := map[uint64]Location{0: l.End()}
	const last = 60
	for p := uint64(1); p <= last; p++ {
		must(t, l.Append(p, payload(p)))
		ends[p] = l.End()
	}
	must(t, l.Sync())
	must(t, l.Close())
	for at := range uint64(last + 1) {
		copied := filepath.Join(t.TempDir(), "log")
		must(t, os.CopyFS(copied, os.DirFS(dir)))
		o := Options{Dir: copied, SegmentBytes: 256, End: ends[at]}
		back := open(t, o)
		if back.Next() != at+1 || back.End() != ends[at] {
			t.Fatalf("opened at %d: next %d, end %v, want %v", at, back.Next(), back.End(), ends[at])
		}
		if at > 0 {
			wantRecords(t, back, 1, at)
		}
		fill(t, back, last)
		wantRecords(t, back, 1, last)
		if back.End() != ends[last] {
			t.Fatalf("replayed from %d: the end is %v, want %v", at, back.End(), ends[last])
		}
	}
}

// Would break: a power loss tears the tail; garbage there must not be read as
// records nor stop Open.
func TestTornTailIsIgnored(t *testing.T) {
	dir := t.TempDir()
	l := open(t, Options{Dir: dir})
	fill(t, l, 10)
	end := l.End()
	fill(t, l, 20)
	must(t, l.Close())
	path := filepath.Join(dir, fileName(1))
	data, err := os.ReadFile(path)
	must(t, err)
	for i := end.Offset; i < uint64(len(data)); i++ {
		data[i] ^= byte(i*31) | 1
	}
	for _, size := range []uint64{end.Offset, end.Offset + 1, end.Offset + 20, uint64(len(data))} {
		must(t, os.WriteFile(path, data[:size], 0o644))
		back := open(t, Options{Dir: dir, End: end})
		wantRecords(t, back, 1, 10)
		fill(t, back, 15)
		wantRecords(t, back, 1, 15)
		must(t, back.Close())
	}
}

// Would break: a flipped bit or a missing piece below the end handed on as a
// committed entry. Every byte is tried.
func TestCorruptionBelowEndIsNamed(t *testing.T) {
	dir := t.TempDir()
	l := open(t, Options{Dir: dir, SegmentBytes: 100})
	fill(t, l, 8)
	end := l.End()
	must(t, l.Close())
	firsts, err := list(dir)
	must(t, err)
	if len(firsts) < 3 {
		t.Fatalf("only %d segments", len(firsts))
	}
	check := func(what string) {
		t.Helper()
		l, err := Open(Options{Dir: dir, End: end, Incarnation: 1})
		if err == nil {
			_, err = read(l, 1, 0)
			must(t, l.Close())
		}
		var corrupt *CorruptError
		var newer *VersionError
		if !errors.As(err, &corrupt) && !errors.As(err, &newer) {
			t.Fatalf("%s: got %v", what, err)
		}
		if corrupt != nil && (corrupt.File == "" || !strings.Contains(err.Error(), "offset")) {
			t.Fatalf("%s: the error does not say where: %v", what, err)
		}
	}
	for _, first := range firsts {
		path := filepath.Join(dir, fileName(first))
		data, err := os.ReadFile(path)
		must(t, err)
		for i := range data {
			damaged := bytes.Clone(data)
			damaged[i] ^= 0x40
			must(t, os.WriteFile(path, damaged, 0o644))
			check(fmt.Sprintf("byte %d of %s", i, path))
		}
		must(t, os.WriteFile(path, data[:len(data)-1], 0o644))
		check("last byte of " + path + " missing")
		must(t, os.Remove(path))
		if first != firsts[0] { // without the first it is a truncated log
			if l, err := Open(Options{Dir: dir, End: end}); err == nil {
				_ = l.Close()
				t.Fatalf("Open did not miss %s", path)
			}
		}
		must(t, os.WriteFile(path, data, 0o644))
	}
}

// Would break: a segment that a replay seals earlier than it was before, because the
// size was configured anew, keeping the old tail behind its seal.
func TestReplayWithAnotherSegmentSize(t *testing.T) {
	dir := t.TempDir()
	l := open(t, Options{Dir: dir})
	fill(t, l, 2)
	at := l.End()
	fill(t, l, 60)
	must(t, l.Close())
	l = open(t, Options{Dir: dir, End: at, SegmentBytes: 200})
	fill(t, l, 60)
	end := l.End()
	must(t, l.Close())
	wantRecords(t, open(t, Options{Dir: dir, End: end}), 1, 60)
}

// Would break: an older release reading a newer format wrongly.
func TestNewerVersionIsRefused(t *testing.T) {
	dir := t.TempDir()
	l := open(t, Options{Dir: dir})
	fill(t, l, 3)
	end := l.End()
	must(t, l.Close())
	path := filepath.Join(dir, fileName(1))
	data, err := os.ReadFile(path)
	must(t, err)
	data[11]++
	must(t, os.WriteFile(path, data, 0o644))
	var newer *VersionError
	if _, err := Open(Options{Dir: dir, End: end}); !errors.As(err, &newer) || newer.Found != version+1 {
		t.Fatalf("got %v", err)
	}
}

// Would break: the log of another life of the group mistaken for this one's.
func TestIncarnationsMustAgree(t *testing.T) {
	dir := t.TempDir()
	l := open(t, Options{Dir: dir})
	l.SetIncarnation(7)
	fill(t, l, 3)
	end := l.End()
	must(t, l.Close())
	open(t, Options{Dir: dir, End: end}) // not known yet
	open(t, Options{Dir: dir, End: end, Incarnation: 7})
	if l, err := Open(Options{Dir: dir, End: end, Incarnation: 8}); err == nil {
		_ = l.Close()
		t.Fatal("incarnation 8 opened the log of 7")
	}
}

// Would break: positions with holes, and empty records, which read as seals.
func TestAppendRefusesHolesAndEmptyPayloads(t *testing.T) {
	l := open(t, Options{Dir: t.TempDir()})
	fill(t, l, 3)
	for _, p := range []uint64{0, 3, 5} {
		if l.Append(p, []byte("x")) == nil {
			t.Fatalf("position %d after 3 was taken", p)
		}
	}
	if l.Append(4, nil) == nil {
		t.Fatal("an empty payload was taken")
	}
	fill(t, l, 4)
}

// Would break: a follower that asks for what was truncated must be told, not
// served from the wrong place; and disk space must come back.
func TestTruncateBefore(t *testing.T) {
	dir := t.TempDir()
	l := open(t, Options{Dir: dir, SegmentBytes: 256})
	fill(t, l, 100)
	before := l.Bytes()
	must(t, l.TruncateBefore(50))
	first := l.First()
	if first < 2 || first > 50 || l.Bytes() >= before {
		t.Fatalf("first kept %d, %d of %d bytes", first, l.Bytes(), before)
	}
	if _, err := read(l, first-1, 0); !errors.Is(err, ErrTruncated) {
		t.Fatalf("got %v", err)
	}
	wantRecords(t, l, first, 100)
	end := l.End()
	must(t, l.Close())
	back := open(t, Options{Dir: dir, End: end, SegmentBytes: 256})
	if back.First() != first {
		t.Fatalf("opened again: first %d, want %d", back.First(), first)
	}
	must(t, back.TruncateBefore(1_000))
	wantRecords(t, back, back.First(), 100)
	fill(t, back, 120)
	wantRecords(t, back, back.First(), 120)
}

// Would break: the log of the old state mixed with what follows an installed
// snapshot, now or after a crash that brings old files back.
func TestReset(t *testing.T) {
	dir := t.TempDir()
	l := open(t, Options{Dir: dir, SegmentBytes: 256})
	fill(t, l, 30)
	must(t, l.Reset(1000))
	if l.First() != 1000 || l.Next() != 1000 || l.End() != Start(1000) || l.Bytes() != 0 {
		t.Fatalf("after Reset: first %d, next %d, end %v, %d bytes", l.First(), l.Next(), l.End(), l.Bytes())
	}
	if _, err := read(l, 30, 0); !errors.Is(err, ErrTruncated) {
		t.Fatalf("got %v", err)
	}
	fill(t, l, 1040)
	wantRecords(t, l, 1000, 1040)
	must(t, l.Close())
	back := open(t, Options{Dir: dir, End: Start(1000)})
	if back.Next() != 1000 || back.First() != 1000 {
		t.Fatalf("opened at the start: next %d, first %d", back.Next(), back.First())
	}
}

// Would break: a batch larger than asked for overruns its reader's memory, or one
// long record stops the reader for ever.
func TestReadKeepsToItsBudget(t *testing.T) {
	l := open(t, Options{Dir: t.TempDir(), SegmentBytes: 4096})
	for p := uint64(1); p <= 50; p++ {
		must(t, l.Append(p, make([]byte, 100)))
	}
	must(t, l.Append(51, make([]byte, readAheadBytes+1)))
	must(t, l.Flush())
	for from := uint64(1); from <= 51; from++ {
		got, err := read(l, from, 250)
		must(t, err)
		want := min(2, 51-int(from))
		if from == 51 {
			want = 1
		}
		if len(got) != want || got[0].Position != from {
			t.Fatalf("from %d: %d records, want %d", from, len(got), want)
		}
	}
	if got, err := read(l, 52, 250); err != nil || len(got) != 0 {
		t.Fatalf("beyond the end: %v, %v", got, err)
	}
}

// Would break: what is in memory only is read, and is gone after a crash.
func TestReadsOnlyWhatIsFlushed(t *testing.T) {
	l := open(t, Options{Dir: t.TempDir()})
	fill(t, l, 2)
	must(t, l.Append(3, payload(3)))
	wantRecords(t, l, 1, 2)
	must(t, l.Sync())
	wantRecords(t, l, 1, 3)
}

// Would break: followers while the log grows and is truncated under them; run with
// the race detector.
func TestReadersWhileAppendingAndTruncating(t *testing.T) {
	l := open(t, Options{Dir: t.TempDir(), SegmentBytes: 2048})
	const last = 2000
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			next := uint64(1)
			for next <= last {
				got, err := read(l, next, 4000)
				if errors.Is(err, ErrTruncated) {
					next = l.First()
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				for _, r := range got {
					if r.Position != next || !bytes.Equal(r.Payload, payload(next)) {
						t.Errorf("position %d where %d should be", r.Position, next)
						return
					}
					next++
				}
			}
		})
	}
	readers.Go(func() {
		for l.Next() <= last {
			if err := l.Sync(); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for p := uint64(1); p <= last; p++ {
		must(t, l.Append(p, payload(p)))
		if p%10 == 0 {
			must(t, l.Flush())
		}
		if p%250 == 0 {
			must(t, l.TruncateBefore(p-300))
		}
	}
	must(t, l.Flush())
	readers.Wait()
}

// Would break: a reader that holds a segment while it is unlinked.
func TestReaderOutlivesUnlink(t *testing.T) {
	l := open(t, Options{Dir: t.TempDir(), SegmentBytes: 1 << 20})
	for p := uint64(1); p <= 100; p++ {
		must(t, l.Append(p, make([]byte, 20_000)))
	}
	must(t, l.Flush())
	next := uint64(1)
	for r, err := range l.Read(1, 0) {
		must(t, err)
		if r.Position != next {
			t.Fatalf("position %d where %d should be", r.Position, next)
		}
		if next++; next == 3 {
			must(t, l.TruncateBefore(100))
		}
		if next == l.First() {
			return
		}
	}
	t.Fatalf("the read ended at %d, before %d", next, l.First())
}

// Would break: descriptors of a long log that nobody reads.
func TestIdleSegmentsHoldNoHandles(t *testing.T) {
	l := open(t, Options{Dir: t.TempDir(), SegmentBytes: 256})
	fill(t, l, 200)
	wantRecords(t, l, 1, 200)
	must(t, l.Sync())
	for _, f := range l.closed {
		if f.handle != nil {
			t.Fatalf("%s is open", f.path)
		}
	}
}

// Would break: a failed fsync taken for a success by the next barrier.
func TestFailureIsFinal(t *testing.T) {
	dir := t.TempDir()
	l, err := Open(Options{Dir: dir})
	must(t, err)
	fill(t, l, 3)
	must(t, l.activeHandle.Close()) // the next fsync fails
	if err := l.Sync(); err == nil {
		t.Fatal("Sync did not notice")
	}
	if err := l.Sync(); !errors.Is(err, ErrFailed) {
		t.Fatalf("the next Sync: %v", err)
	}
	if err := l.Append(4, payload(4)); !errors.Is(err, ErrFailed) {
		t.Fatalf("Append: %v", err)
	}
	_ = l.Close()
}

func BenchmarkAppend(b *testing.B) {
	l := open(b, Options{Dir: b.TempDir()})
	record := make([]byte, 256)
	b.SetBytes(int64(len(record)))
	b.ReportAllocs()
	for b.Loop() {
		if err := l.Append(l.Next(), record); err != nil {
			b.Fatal(err)
		}
		if l.Next()%64 == 0 {
			must(b, l.Flush())
		}
		if l.Next()%(1<<20) == 0 {
			must(b, l.TruncateBefore(l.Next()))
		}
	}
}
