package segment

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"pgregory.net/rapid"
)

// Would break: any rule of the log, in any order of calls, with crashes that go
// back to an older end and leave a torn tail.
func TestAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "segment")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		m := model{dir: dir, first: 1, segmentBytes: int64(rapid.IntRange(64, 600).Draw(t, "segment bytes"))}
		m.open(t, Location{})
		defer func() { _ = m.log.Close() }()
		t.Repeat(map[string]func(*rapid.T){
			"append": m.append, "flush": m.flush, "sync": m.sync, "truncate": m.truncate,
			"reset": m.reset, "crash": m.crash, "read": m.read, "": m.check,
		})
	})
}

type model struct {
	dir          string
	segmentBytes int64
	log          *Log

	// The records are those of first and up; kept is the log's First.
	first   uint64
	records [][]byte
	flushed int
	kept    uint64
	// marks are ends that a crash may go back to, with the count of records then.
	marks []mark
}

type mark struct {
	end   Location
	count int
}

func (m *model) open(t *rapid.T, end Location) {
	l, err := Open(Options{Dir: m.dir, End: end, SegmentBytes: m.segmentBytes})
	if err != nil {
		t.Fatal(err)
	}
	m.log = l
	m.kept = l.First()
	m.marks = []mark{{end: l.End(), count: len(m.records)}}
}

func (m *model) next() uint64 { return m.first + uint64(len(m.records)) }

func (m *model) append(t *rapid.T) {
	p := rapid.SliceOfN(rapid.Byte(), 1, 200).Draw(t, "payload")
	if err := m.log.Append(m.next(), p); err != nil {
		t.Fatal(err)
	}
	m.records = append(m.records, p)
	m.marks = append(m.marks, mark{end: m.log.End(), count: len(m.records)})
}

func (m *model) flush(t *rapid.T) {
	if err := m.log.Flush(); err != nil {
		t.Fatal(err)
	}
	m.flushed = len(m.records)
}

func (m *model) sync(t *rapid.T) {
	if err := m.log.Sync(); err != nil {
		t.Fatal(err)
	}
	m.flushed = len(m.records)
}

func (m *model) truncate(t *rapid.T) {
	at := rapid.Uint64Range(0, m.next()).Draw(t, "position")
	if err := m.log.TruncateBefore(at); err != nil {
		t.Fatal(err)
	}
	if m.log.First() > max(at, m.kept) {
		t.Fatalf("truncating before %d left %d first", at, m.log.First())
	}
	m.kept = m.log.First()
	// Nobody goes back to before what was truncated: it is in a checkpoint.
	for len(m.marks) > 1 && m.marks[0].end.Segment < m.kept {
		m.marks = m.marks[1:]
	}
}

func (m *model) reset(t *rapid.T) {
	m.first = rapid.Uint64Range(1, 1<<40).Draw(t, "next")
	if err := m.log.Reset(m.first); err != nil {
		t.Fatal(err)
	}
	m.records, m.flushed, m.kept = nil, 0, m.first
	m.marks = []mark{{end: m.log.End()}}
}

// crash goes back to an end, with garbage behind it.
func (m *model) crash(t *rapid.T) {
	if err := m.log.Close(); err != nil {
		t.Fatal(err)
	}
	to := rapid.SampledFrom(m.marks).Draw(t, "end")
	path := filepath.Join(m.dir, fileName(to.end.Segment))
	if f, err := os.OpenFile(path, os.O_RDWR, 0); err == nil {
		garbage := rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "garbage")
		if _, err := f.WriteAt(garbage, int64(to.end.Offset)); err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
	}
	m.records, m.flushed = m.records[:to.count], to.count
	m.open(t, to.end)
}

func (m *model) read(t *rapid.T) {
	from := rapid.Uint64Range(m.first, m.next()).Draw(t, "from")
	budget := rapid.Int64Range(0, 500).Draw(t, "bytes")
	got, err := read(m.log, from, budget)
	if from < m.kept {
		if !errors.Is(err, ErrTruncated) {
			t.Fatalf("from %d, kept from %d: %v", from, m.kept, err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	var want [][]byte
	var sum int64
	for i := int(from - m.first); i < m.readable(); i++ {
		sum += int64(len(m.records[i]))
		if budget > 0 && len(want) > 0 && sum > budget {
			break
		}
		want = append(want, m.records[i])
	}
	// A full buffer flushes by itself, and so does sealing: more may be readable.
	if len(got) < len(want) {
		t.Fatalf("from %d: %d records, want %d", from, len(got), len(want))
	}
	for i, r := range got {
		at := int(from-m.first) + i
		if at >= len(m.records) || r.Position != from+uint64(i) || !bytes.Equal(r.Payload, m.records[at]) {
			t.Fatalf("record %d of the read from %d is wrong", i, from)
		}
	}
}

func (m *model) readable() int { return m.flushed }

func (m *model) check(t *rapid.T) {
	if m.log.Next() != m.next() || m.log.First() != m.kept {
		t.Fatalf("next %d first %d, want %d and %d", m.log.Next(), m.log.First(), m.next(), m.kept)
	}
}

// Would break: Open panicking on, or believing in, what a disk may return.
func FuzzOpen(f *testing.F) {
	whole := appendHeader(nil, 1, 1)
	for p := uint64(1); p < 4; p++ {
		whole = appendRecord(whole, p, payload(p))
	}
	f.Add(whole, uint64(len(whole)))
	f.Add(appendRecord(whole, 4, nil), uint64(len(whole)+RecordOverhead))
	f.Add(whole[:len(whole)-3], uint64(len(whole)))
	f.Add(binary.BigEndian.AppendUint32(bytes.Clone(whole), 1<<31), uint64(len(whole)+4))
	f.Fuzz(func(t *testing.T, data []byte, end uint64) {
		dir := t.TempDir()
		must(t, os.WriteFile(filepath.Join(dir, fileName(1)), data, 0o644))
		l, err := Open(Options{Dir: dir, End: Location{Segment: 1, Offset: end}})
		if err != nil {
			return
		}
		defer l.Close()
		if end == HeaderBytes {
			return // an empty log: the file is dropped
		}
		got, err := read(l, 1, 0)
		must(t, err)
		again := bytes.Clone(data[:HeaderBytes])
		for _, r := range got {
			again = appendRecord(again, r.Position, r.Payload)
		}
		if end != 0 && !bytes.Equal(again, data[:end]) {
			t.Fatal("what was read is not what the file holds")
		}
	})
}
