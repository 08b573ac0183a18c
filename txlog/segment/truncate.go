package segment

import (
	"errors"
	"fmt"
	"os"
)

// ClosedSegment is a sealed segment: it holds the positions from First to Next-1.
type ClosedSegment struct {
	First, Next uint64
	Path        string
}

// TruncateBefore unlinks the segments that hold nothing at or above position; the
// active one stays. First tells what is kept. Readers of an unlinked segment read
// on.
func (l *Log) TruncateBefore(position uint64) error {
	return l.TruncateBeforeFunc(position, func(ClosedSegment) error { return nil }, os.Remove)
}

// TruncateBeforeFunc is TruncateBefore for an owner that wants a segment copied
// elsewhere before it goes, and removed its own way: remove must leave a file that
// has its name as it was. copy is called while the
// segment can still be read; the first error ends the truncation, and what was not
// removed stays.
func (l *Log) TruncateBeforeFunc(position uint64, copy func(ClosedSegment) error, remove func(path string) error) error {
	for {
		s, ok, err := l.oldest(position)
		if err != nil || !ok {
			return err
		}
		// Without a lock: it may take long.
		if err := copy(s); err != nil {
			return err
		}
		if err := l.dropOldest(s, remove); err != nil {
			return err
		}
	}
}

// dropOldest removes a segment, on disk before the next one goes: what a crash or
// an error leaves is a log without holes.
func (l *Log) dropOldest(s ClosedSegment, remove func(path string) error) error {
	// Reset and Close stay away, which may be about to make or unlink files.
	l.syncMu.Lock()
	defer l.syncMu.Unlock()
	l.mu.Lock()
	if err := l.usableLocked(); err != nil {
		l.mu.Unlock()
		return err
	}
	if len(l.closed) == 0 || l.closed[0].path != s.Path {
		l.mu.Unlock()
		return nil // reset meanwhile
	}
	// Nobody begins to read what is no longer in the list.
	oldest := l.closed[0]
	l.closed = l.closed[1:]
	l.mu.Unlock()
	if err := remove(s.Path); err != nil {
		if _, statErr := os.Lstat(s.Path); statErr == nil {
			// It is still the log's: without it in the list the next one would go
			// before it, and leave a hole.
			l.mu.Lock()
			l.closed = append([]closedFile{oldest}, l.closed...)
			l.mu.Unlock()
		}
		return fmt.Errorf("segment: %w", err)
	}
	if err := syncDir(l.dir); err != nil {
		return fmt.Errorf("segment: %w", err)
	}
	return nil
}

// oldest is the first segment, if it holds nothing at or above position.
func (l *Log) oldest(position uint64) (ClosedSegment, bool, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if err := l.usableLocked(); err != nil {
		return ClosedSegment{}, false, err
	}
	if len(l.closed) == 0 || l.afterLocked(0) > position {
		return ClosedSegment{}, false, nil
	}
	return ClosedSegment{First: l.closed[0].first, Next: l.afterLocked(0), Path: l.closed[0].path}, true, nil
}

// afterLocked is the position behind the i-th closed segment.
func (l *Log) afterLocked(i int) uint64 {
	switch {
	case i+1 < len(l.closed):
		return l.closed[i+1].first
	case l.active != nil:
		return l.active.first
	}
	return l.next
}

// Reset drops all records: the log is empty, durably, and goes on at next. What
// was appended and not read is lost.
func (l *Log) Reset(next uint64) error {
	l.syncMu.Lock()
	defer l.syncMu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.isClosed {
		return ErrClosed
	}
	if next == 0 {
		return errors.New("segment: positions begin at 1")
	}
	if err := l.dropFilesLocked(); err != nil {
		return l.failLocked(fmt.Errorf("segment: %w", err))
	}
	l.pending, l.flushed, l.next, l.readable = nil, HeaderBytes, next, next
	firsts, err := list(l.dir)
	if err == nil {
		err = l.remove(firsts)
	}
	if err == nil {
		err = syncDir(l.dir)
	}
	if err != nil {
		return l.failLocked(err)
	}
	// What failed before concerned files that are gone.
	l.failure, l.dirDirty = nil, false
	return nil
}
