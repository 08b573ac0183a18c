package segment

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"iter"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
)

const streamName = "archived.seg.zst"

// sealedSegment is the first, sealed segment of a log, and the position behind it.
func sealedSegment(t testing.TB) (data []byte, next uint64) {
	t.Helper()
	dir := t.TempDir()
	l := open(t, Options{Dir: dir, SegmentBytes: 200, Incarnation: 3})
	fill(t, l, 20)
	next = l.closed[1].first
	must(t, l.Close())
	data, err := os.ReadFile(filepath.Join(dir, fileName(1)))
	must(t, err)
	return data, next
}

func collect(in iter.Seq2[Record, error]) (records []Record, err error) {
	for r, err := range in {
		if err != nil {
			return records, err
		}
		records = append(records, r)
	}
	return records, nil
}

func wantCorrupt(t testing.TB, err error, what string) {
	t.Helper()
	var corrupt *CorruptError
	if !errors.As(err, &corrupt) || corrupt.File != streamName {
		t.Fatalf("%s: got %v, want a *CorruptError of %s", what, err, streamName)
	}
}

// Would break: a restore from the archive replays other entries than the log had.
func TestReadStream(t *testing.T) {
	data, next := sealedSegment(t)
	for what, in := range map[string]io.Reader{
		"at once":        bytes.NewReader(data),
		"byte by byte":   iotest.OneByteReader(bytes.NewReader(data)),
		"end with bytes": iotest.DataErrReader(bytes.NewReader(data)),
	} {
		got, err := collect(ReadStream(in, streamName))
		must(t, err)
		if uint64(len(got)) != next-1 {
			t.Fatalf("%s: %d records, want %d", what, len(got), next-1)
		}
		// Checked at the end: a payload stays what it was while others are read.
		for i, r := range got {
			if p := uint64(i + 1); r.Position != p || !bytes.Equal(r.Payload, payload(p)) {
				t.Fatalf("%s: record %d is %d, %x", what, p, r.Position, r.Payload)
			}
		}
	}
	must(t, VerifyStream(bytes.NewReader(data), streamName, 1, next))
	for r, err := range ReadStream(bytes.NewReader(data), streamName) {
		must(t, err)
		if r.Position == 2 {
			break
		}
	}
}

// Would break: damage in an archive that is handed on as entries. Every byte and
// every length is tried.
func TestStreamDamageIsFound(t *testing.T) {
	data, next := sealedSegment(t)
	check := func(what string, data []byte) {
		t.Helper()
		err := VerifyStream(bytes.NewReader(data), streamName, 1, next)
		var version *VersionError
		if errors.As(err, &version) && version.File == streamName {
			return
		}
		wantCorrupt(t, err, what)
	}
	for i := range data {
		damaged := bytes.Clone(data)
		damaged[i] ^= 1 << (i % 8)
		check(fmt.Sprintf("byte %d flipped", i), damaged)
	}
	for size := range data {
		check(fmt.Sprintf("cut to %d bytes", size), data[:size])
	}
	check("a byte more", append(bytes.Clone(data), 0))
	check("twice", append(bytes.Clone(data), data...))
	for _, r := range [][2]uint64{{2, next}, {1, next - 1}, {1, next + 1}, {0, next}} {
		wantCorrupt(t, VerifyStream(bytes.NewReader(data), streamName, r[0], r[1]), fmt.Sprintf("read as %v", r))
	}
}

// Would break: an old release reads what it does not know.
func TestStreamOfNewerFormat(t *testing.T) {
	data, next := sealedSegment(t)
	binary.BigEndian.PutUint32(data[8:], version+1)
	var newer *VersionError
	if err := VerifyStream(bytes.NewReader(data), streamName, 1, next); !errors.As(err, &newer) || newer.Found != version+1 {
		t.Fatalf("got %v", err)
	}
}

// Would break: a failing disk taken for a damaged archive.
func TestStreamErrorOfTheSource(t *testing.T) {
	data, next := sealedSegment(t)
	broken := errors.New("disk")
	for size := range data {
		err := VerifyStream(io.MultiReader(bytes.NewReader(data[:size]), iotest.ErrReader(broken)), streamName, 1, next)
		var corrupt *CorruptError
		if !errors.Is(err, broken) || errors.As(err, &corrupt) {
			t.Fatalf("after %d bytes: %v", size, err)
		}
	}
}

// Would break: a length that takes memory which no content stands for.
func TestStreamLengthsAreBounded(t *testing.T) {
	for _, length := range []uint32{MaxPayloadBytes, MaxPayloadBytes + 1, 1<<32 - 1} {
		data := appendHeader(nil, 1, 1)
		data = binary.BigEndian.AppendUint32(data, length)
		data = append(data, make([]byte, 100)...)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		wantCorrupt(t, VerifyStream(bytes.NewReader(data), streamName, 1, 2), fmt.Sprintf("a length of %d", length))
		runtime.ReadMemStats(&after)
		if used := after.TotalAlloc - before.TotalAlloc; used > 4<<20 {
			t.Errorf("a length of %d took %d MB", length, used>>20)
		}
	}
}

func FuzzReadStream(f *testing.F) {
	data, _ := sealedSegment(f)
	f.Add(data)
	f.Add(data[:len(data)-RecordOverhead])
	f.Add(appendHeader(nil, 0, 1<<64-1))
	f.Add(appendRecord(appendHeader(nil, 1, 5), 5, nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		// Checksums right, so that what is behind them is reached.
		if len(data) >= HeaderBytes {
			data = bytes.Clone(data)
			binary.BigEndian.PutUint32(data[HeaderBytes-4:], crc32.Checksum(data[:HeaderBytes-4], castagnoli))
		}
		got, err := collect(ReadStream(bytes.NewReader(data), streamName))
		if err != nil {
			return
		}
		again := data[:HeaderBytes:HeaderBytes]
		position := headerFirst(data)
		for _, r := range got {
			again = appendRecord(again, r.Position, r.Payload)
			position = r.Position + 1
		}
		if again = appendRecord(again, position, nil); !bytes.Equal(again, data) {
			t.Fatalf("what was read makes %x, not %x", again, data)
		}
	})
}

// longLog has several closed segments, synced, and where it ends.
func longLog(t testing.TB) (l *Log, o Options) {
	t.Helper()
	o = Options{Dir: t.TempDir(), SegmentBytes: 300}
	l = open(t, o)
	fill(t, l, 50)
	must(t, l.Sync())
	if len(l.closed) < 5 {
		t.Fatalf("only %d closed segments", len(l.closed))
	}
	o.End = l.End()
	return l, o
}

// reopened opens a copy of the log's directory: what a crash now would leave.
func reopened(t testing.TB, o Options) *Log {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "log")
	must(t, os.CopyFS(dir, os.DirFS(o.Dir)))
	o.Dir = dir
	return open(t, o)
}

func wantWhole(t testing.TB, l *Log) {
	t.Helper()
	wantRecords(t, l, l.First(), 50)
}

// Would break: a segment that goes before it is copied, or is not given whole to
// who copies it.
func TestTruncateCopiesFirst(t *testing.T) {
	l, o := longLog(t)
	var copied []ClosedSegment
	removed := 0
	must(t, l.TruncateBeforeFunc(40, func(s ClosedSegment) error {
		data, err := os.ReadFile(s.Path)
		must(t, err)
		must(t, VerifyStream(bytes.NewReader(data), s.Path, s.First, s.Next))
		if l.First() != s.First || removed != len(copied) {
			t.Fatalf("%v is copied when the log begins at %d and %d are removed", s, l.First(), removed)
		}
		wantWhole(t, l)
		copied = append(copied, s)
		return nil
	}, func(path string) error {
		removed++
		return os.Remove(path)
	}))
	if len(copied) < 3 || removed != len(copied) || copied[len(copied)-1].Next != l.First() || l.First() > 40 {
		t.Fatalf("copied %v and removed %d; the log begins at %d", copied, removed, l.First())
	}
	for i := 1; i < len(copied); i++ {
		if copied[i].First != copied[i-1].Next {
			t.Fatalf("%v does not follow %v", copied[i], copied[i-1])
		}
	}
	wantWhole(t, l)
	wantWhole(t, reopened(t, o))
}

// Would break: an archive that is full loses what was to go there.
func TestTruncateStopsAtCopyError(t *testing.T) {
	l, o := longLog(t)
	full := errors.New("no space left in the archive")
	calls := 0
	err := l.TruncateBeforeFunc(40, func(ClosedSegment) error {
		if calls++; calls == 3 {
			return full
		}
		return nil
	}, os.Remove)
	if !errors.Is(err, full) || calls != 3 {
		t.Fatalf("got %v after %d calls", err, calls)
	}
	at := l.First()
	if at == 1 || at > 30 {
		t.Fatalf("the log begins at %d", at)
	}
	wantWhole(t, l)
	wantWhole(t, reopened(t, o))
	must(t, l.TruncateBefore(40))
	if l.First() <= at {
		t.Fatal("the next truncation did not go on")
	}
	wantWhole(t, reopened(t, o))
}

// Would break: the log does not open after a file could not be removed, or was
// only half destroyed when the process ended, and others went after it.
func TestTruncateRemoveError(t *testing.T) {
	broken := errors.New("input/output error")
	for what, half := range map[string]func(string) error{
		"untouched": func(string) error { return nil },
		"zeroed": func(path string) error {
			info, err := os.Stat(path)
			if err != nil {
				return err
			}
			return os.WriteFile(path, make([]byte, info.Size()), 0o644)
		},
		"gone": os.Remove,
	} {
		t.Run(what, func(t *testing.T) {
			l, o := longLog(t)
			calls := 0
			err := l.TruncateBeforeFunc(40, func(ClosedSegment) error { return nil }, func(path string) error {
				if calls++; calls == 2 {
					return errors.Join(half(path), broken)
				}
				return os.Remove(path)
			})
			if !errors.Is(err, broken) || calls != 2 {
				t.Fatalf("got %v after %d calls", err, calls)
			}
			at := l.First()
			wantWhole(t, l)
			wantWhole(t, reopened(t, o))
			// The next one removes what is left, its own way, and more.
			var removed []string
			must(t, l.TruncateBeforeFunc(40, func(ClosedSegment) error { return nil }, func(path string) error {
				removed = append(removed, path)
				return os.Remove(path)
			}))
			if l.First() <= at {
				t.Fatal("the next truncation did not go on")
			}
			if left := leftovers(t, o.Dir); len(left) != 0 {
				t.Fatalf("%v is left, after %v", left, removed)
			}
			wantWhole(t, l)
			wantWhole(t, reopened(t, o))
		})
	}
}

// leftovers are the files that are no segments.
func leftovers(t testing.TB, dir string) (out []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".log") {
			out = append(out, e.Name())
		}
	}
	return out
}

// Would break: a Raft snapshot that replaces the log while a segment is copied:
// files of the new log removed for old ones, or the log broken.
func TestResetWhileTruncating(t *testing.T) {
	for _, to := range []uint64{1, 100} {
		l, o := longLog(t)
		calls := 0
		must(t, l.TruncateBeforeFunc(40, func(ClosedSegment) error {
			if calls++; calls == 2 {
				must(t, l.Reset(to))
				fill(t, l, to+5)
				must(t, l.Sync())
			}
			return nil
		}, os.Remove))
		wantRecords(t, l, to, to+5)
		o.End = l.End()
		wantRecords(t, reopened(t, o), to, to+5)
	}
}

// Would break: a segment of the new log goes without being copied, since the old
// one that was copied had its name.
func TestResetWhileTruncatingToTheSameName(t *testing.T) {
	l, o := longLog(t)
	var copied []uint64
	must(t, l.TruncateBeforeFunc(40, func(s ClosedSegment) error {
		if copied = append(copied, s.First); len(copied) == 1 {
			must(t, l.Reset(1))
			fill(t, l, 50)
			must(t, l.Sync())
		}
		return nil
	}, os.Remove))
	if len(copied) < 2 || copied[0] != 1 || copied[1] != 1 {
		t.Fatalf("copied the segments of %v", copied)
	}
	o.End = l.End()
	wantWhole(t, reopened(t, o))
}

// Would break: a follower reads zeros, or stops, where an owner destroys what goes
// rather than to unlink it.
func TestReaderBesideDestroyingTruncation(t *testing.T) {
	dir := t.TempDir()
	l := open(t, Options{Dir: dir, SegmentBytes: 1 << 20})
	for p := uint64(1); p <= 300; p++ {
		must(t, l.Append(p, bytes.Repeat([]byte{byte(p)}, 20_000)))
	}
	must(t, l.Sync())
	destroy := func(path string) error {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.Write(make([]byte, info.Size()))
		return errors.Join(err, f.Close(), os.Remove(path))
	}
	truncate := func() {
		must(t, l.TruncateBeforeFunc(300, func(ClosedSegment) error { return nil }, destroy))
	}
	second := l.closed[1].first
	next := second
	for r, err := range l.Read(second, 0) {
		must(t, err)
		if r.Position != next || !bytes.Equal(r.Payload, bytes.Repeat([]byte{byte(next)}, 20_000)) {
			t.Fatalf("position %d where %d should be, or other content", r.Position, next)
		}
		if next++; next == second+2 {
			truncate()
			if l.First() != second {
				t.Fatalf("the log begins at %d while %d is read", l.First(), second)
			}
		}
	}
	if next != 301 {
		t.Fatalf("it ended before %d", next)
	}
	truncate()
	if l.First() <= second {
		t.Fatal("what was being read stays for ever")
	}
}
