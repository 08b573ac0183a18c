package segment

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// ClosedSegment is a sealed segment: it holds the positions from First to Next-1.
type ClosedSegment struct {
	First, Next uint64
	Path        string
}

// goneSuffix is what the name of a segment gets that is the log's no more, until
// it is removed: a file that is half destroyed must not look like a segment.
const goneSuffix = ".gone"

// TruncateBefore unlinks the segments that hold nothing at or above position; the
// active one stays. First tells what is kept. Readers of an unlinked segment read
// on.
func (l *Log) TruncateBefore(position uint64) error {
	return l.truncate(position, func(ClosedSegment) error { return nil }, os.Remove, true)
}

// TruncateBeforeFunc is TruncateBefore for an owner that wants a segment copied
// elsewhere before it goes, and removed its own way. copy is called while the
// segment can still be read; the first error ends the truncation. What could not
// be removed is no part of the log, and is given to remove again by the next
// truncation. remove may destroy the content: the truncation ends before a segment
// that is being read, or not synced.
func (l *Log) TruncateBeforeFunc(position uint64, copy func(ClosedSegment) error, remove func(path string) error) error {
	return l.truncate(position, copy, remove, false)
}

// truncate needs to know whether remove leaves readers what they read.
func (l *Log) truncate(position uint64, copy func(ClosedSegment) error, remove func(path string) error, keepsContent bool) error {
	if err := l.dropGone(remove); err != nil {
		return err
	}
	for {
		s, f, err := l.oldest(position)
		if err != nil || f == nil {
			return err
		}
		// Without a lock: it may take long.
		if err := copy(s); err != nil {
			return err
		}
		if more, err := l.dropOldest(f, remove, keepsContent); err != nil || !more {
			return err
		}
	}
}

// dropOldest removes a segment; it is out of the log on disk before the next one
// goes: what a crash or an error leaves is a log without holes.
func (l *Log) dropOldest(f *file, remove func(path string) error, keepsContent bool) (more bool, err error) {
	// Reset and Close stay away, which may be about to make or unlink files.
	l.syncMu.Lock()
	defer l.syncMu.Unlock()
	more, err = l.takeOldest(f, keepsContent)
	if err != nil || !more {
		return false, err
	}
	if err := syncDir(l.dir); err != nil {
		return false, fmt.Errorf("segment: %w", err)
	}
	if err := l.removeGone(remove); err != nil {
		return false, err
	}
	return true, nil
}

// takeOldest takes a segment out of the log, unless it must wait. One that a reset
// has removed meanwhile is out of it.
func (l *Log) takeOldest(f *file, keepsContent bool) (more bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usableLocked(); err != nil {
		return false, err
	}
	if len(l.closed) == 0 || l.closed[0].file != f {
		return true, nil
	}
	// Nobody begins to read it while the lock is held, and nobody does after it is
	// out of the list.
	if !keepsContent && f.used() {
		return false, nil
	}
	if err := os.Rename(f.path, f.path+goneSuffix); err != nil {
		return false, fmt.Errorf("segment: %w", err)
	}
	l.closed = l.closed[1:]
	return true, nil
}

// dropGone removes what an earlier truncation could not, or was kept from.
func (l *Log) dropGone(remove func(path string) error) error {
	l.syncMu.Lock()
	defer l.syncMu.Unlock()
	l.mu.RLock()
	err := l.usableLocked()
	l.mu.RUnlock()
	if err != nil {
		return err
	}
	return l.removeGone(remove)
}

func (l *Log) removeGone(remove func(path string) error) error {
	entries, err := os.ReadDir(l.dir)
	if err != nil {
		return fmt.Errorf("segment: %w", err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".log"+goneSuffix) {
			continue
		}
		if err := remove(filepath.Join(l.dir, e.Name())); err != nil {
			return fmt.Errorf("segment: %w", err)
		}
	}
	return nil
}

// oldest is the first segment, if it holds nothing at or above position; a nil
// file when there is none.
func (l *Log) oldest(position uint64) (ClosedSegment, *file, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if err := l.usableLocked(); err != nil {
		return ClosedSegment{}, nil, err
	}
	if len(l.closed) == 0 || l.afterLocked(0) > position {
		return ClosedSegment{}, nil, nil
	}
	f := l.closed[0].file
	return ClosedSegment{First: f.first, Next: l.afterLocked(0), Path: f.path}, f, nil
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
