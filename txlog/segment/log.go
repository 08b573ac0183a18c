package segment

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

const (
	// DefaultSegmentBytes makes truncation fine enough and keeps files few.
	DefaultSegmentBytes = 16 << 20
	// flushBytes bounds what Append keeps in memory: beyond it, it writes.
	flushBytes = 1 << 20
	// rollBytes is the least that a segment holds when Roll ends it: files stay few.
	rollBytes = 64 << 10
)

// Options of a Log. Only Dir is required.
type Options struct {
	// Dir is the log's own directory, made when missing.
	Dir string
	// End is where the log ends; what is beyond is dropped. Zero is Start(1).
	End Location
	// Incarnation goes into the headers of new segments, and those of the others
	// must agree. 0 is not known yet: SetIncarnation tells it later.
	Incarnation uint64
	// SegmentBytes is the size from which on a new segment begins. 0 is
	// DefaultSegmentBytes.
	SegmentBytes int64
}

// Log is an open log. Append, Flush, TruncateBefore and Reset are for one
// goroutine at a time, everything else for any.
type Log struct {
	dir          string
	segmentBytes uint64

	// mu guards everything below but what the appending goroutine alone uses.
	mu          sync.RWMutex
	incarnation uint64
	// closed segments in ascending order, each sealed.
	closed []closedFile
	// active is nil while the log is empty.
	active       *file
	activeHandle *os.File
	// flushed is the length of active that is written and may be read; pending
	// follows it. next is the position after pending, readable after flushed.
	flushed  uint64
	pending  []byte
	next     uint64
	readable uint64
	// dirty are segments written since the last Sync, acquired; dirDirty tells that
	// one was made.
	dirty    []*file
	dirDirty bool
	failure  error
	isClosed bool
	// roll: the next Append begins a new segment.
	roll bool

	syncMu sync.Mutex
}

type closedFile struct {
	*file
	size uint64
}

// Open opens the log in Options.Dir as it was at Options.End.
func Open(o Options) (*Log, error) {
	if o.SegmentBytes == 0 {
		o.SegmentBytes = DefaultSegmentBytes
	}
	if o.End == (Location{}) {
		o.End = Start(1)
	}
	if o.Dir == "" || o.SegmentBytes < 0 || o.End.Segment == 0 || o.End.Offset < HeaderBytes {
		return nil, fmt.Errorf("segment: options: Dir must be given, SegmentBytes positive, End a location of this log (got %q, %d, %v)",
			o.Dir, o.SegmentBytes, o.End)
	}
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("segment: %w", err)
	}
	l := &Log{
		dir: o.Dir, segmentBytes: uint64(o.SegmentBytes), incarnation: o.Incarnation,
		next: o.End.Segment, readable: o.End.Segment, flushed: HeaderBytes,
		// Whatever made the files before may not have synced their names.
		dirDirty: true,
	}
	firsts, err := list(o.Dir)
	if err != nil {
		return nil, err
	}
	if o.End.Offset == HeaderBytes {
		// An empty log. Files are from before a Reset, or from beyond the end.
		if err := l.remove(firsts); err != nil {
			return nil, err
		}
		return l, nil
	}
	kept := 0
	for kept < len(firsts) && firsts[kept] <= o.End.Segment {
		kept++
	}
	if err := l.remove(firsts[kept:]); err != nil {
		return nil, err
	}
	if err := l.openClosed(firsts[:kept], o.End.Segment); err != nil {
		return nil, err
	}
	if err := l.openActive(o.End); err != nil {
		return nil, err
	}
	return l, nil
}

// list returns the first positions of the segments in dir, ascending.
func list(dir string) ([]uint64, error) {
	entries, err := os.ReadDir(dir) // sorted by name, which is by number
	if err != nil {
		return nil, fmt.Errorf("segment: %w", err)
	}
	var firsts []uint64
	for _, e := range entries {
		digits, ok := strings.CutSuffix(e.Name(), ".log")
		if !ok {
			continue
		}
		if first, err := strconv.ParseUint(digits, 10, 64); err == nil && fileName(first) == e.Name() {
			firsts = append(firsts, first)
		}
	}
	return firsts, nil
}

func (l *Log) remove(firsts []uint64) error {
	for _, first := range firsts {
		if err := os.Remove(filepath.Join(l.dir, fileName(first))); err != nil {
			return fmt.Errorf("segment: %w", err)
		}
	}
	return nil
}

// openClosed checks the ends of the segments before the active one: their headers
// and their seals, which chain them. Their records are checked when read.
func (l *Log) openClosed(firsts []uint64, active uint64) error {
	for i, first := range firsts {
		f := newFile(l.dir, first)
		if first == active {
			return nil
		}
		next := active
		if i+1 < len(firsts) {
			next = firsts[i+1]
		}
		size, err := l.checkClosed(f, next)
		if err != nil {
			return err
		}
		l.closed = append(l.closed, closedFile{file: f, size: size})
	}
	return nil
}

func (l *Log) checkClosed(f *file, next uint64) (size uint64, err error) {
	h, err := f.acquire()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.release()) }()
	if err := l.checkFileHeader(f, h); err != nil {
		return 0, err
	}
	info, err := h.Stat()
	if err != nil {
		return 0, fmt.Errorf("segment: %w", err)
	}
	size = uint64(info.Size())
	if size < HeaderBytes+RecordOverhead {
		return 0, f.corrupt(size, "the file ends here, before its seal")
	}
	var seal [RecordOverhead]byte
	if err := f.readAt(h, seal[:], size-RecordOverhead); err != nil {
		return 0, err
	}
	if recordLength(seal[:]) != 0 || !recordValid(seal[:]) {
		return 0, f.corrupt(size-RecordOverhead, "no seal, but the log goes on at position %d", next)
	}
	if named := recordPosition(seal[:]); named != next {
		return 0, f.corrupt(size-RecordOverhead, "the seal names position %d as the next segment's, which is %d", named, next)
	}
	return size, nil
}

func (l *Log) checkFileHeader(f *file, h *os.File) error {
	var header [HeaderBytes]byte
	if err := f.readAt(h, header[:], 0); err != nil {
		return err
	}
	return checkHeader(header[:], f.path, l.incarnation, f.first)
}

// openActive checks every record of the active segment up to end and cuts off
// what is beyond.
func (l *Log) openActive(end Location) error {
	f := newFile(l.dir, end.Segment)
	h, err := f.acquire()
	if errors.Is(err, os.ErrNotExist) {
		return f.corrupt(0, "the file is missing, but the log ends in it")
	}
	if err != nil {
		return err
	}
	c := cursor{file: f, handle: h, end: end.Offset, offset: HeaderBytes, position: f.first}
	err = l.checkFileHeader(f, h)
	for err == nil && c.more() {
		_, err = c.next()
	}
	if err == nil && c.sealed {
		err = f.corrupt(end.Offset, "the log cannot end behind a seal")
	}
	if err == nil {
		if err = h.Truncate(int64(end.Offset)); err != nil {
			err = fmt.Errorf("segment: %w", err)
		}
	}
	if err != nil {
		return errors.Join(err, f.release())
	}
	l.active, l.activeHandle, l.flushed = f, h, end.Offset
	l.next, l.readable = c.position, c.position
	// What was read may be in the page cache only.
	if _, err := f.acquire(); err != nil {
		return err
	}
	l.dirty = append(l.dirty, f)
	return nil
}

// First is the first kept position; Next of an empty log.
func (l *Log) First() uint64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.firstLocked()
}

func (l *Log) firstLocked() uint64 {
	switch {
	case len(l.closed) > 0:
		return l.closed[0].first
	case l.active != nil:
		return l.active.first
	}
	return l.next
}

// Next is the position that Append must be given next.
func (l *Log) Next() uint64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.next
}

// End is where the log ends, what Append holds in memory included.
func (l *Log) End() Location {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.active == nil {
		return Start(l.next)
	}
	return Location{Segment: l.active.first, Offset: l.flushed + uint64(len(l.pending))}
}

// Bytes is the size of the log's files.
func (l *Log) Bytes() int64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	var sum uint64
	for _, f := range l.closed {
		sum += f.size
	}
	if l.active != nil {
		sum += l.flushed + uint64(len(l.pending))
	}
	return int64(sum)
}

// SetIncarnation sets what the headers of segments made from now on carry.
func (l *Log) SetIncarnation(incarnation uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.incarnation = incarnation
}

// Close writes what is pending and closes the files, without syncing them.
func (l *Log) Close() error {
	l.syncMu.Lock()
	defer l.syncMu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.isClosed {
		return nil
	}
	var err error
	if l.failure == nil {
		err = l.flushLocked()
	}
	l.isClosed = true
	return errors.Join(err, l.dropFilesLocked())
}

// dropFilesLocked gives back every file that the log itself uses.
func (l *Log) dropFilesLocked() error {
	var errs []error
	for _, f := range l.dirty {
		errs = append(errs, f.release())
	}
	if l.active != nil {
		errs = append(errs, l.active.release())
	}
	l.dirty, l.active, l.activeHandle, l.closed = nil, nil, nil, nil
	return errors.Join(errs...)
}
