package segment

import (
	"errors"
	"fmt"
	"os"
)

// TruncateBefore unlinks the segments that hold nothing at or above position; the
// active one stays. First tells what is kept. Readers of an unlinked segment read
// on.
func (l *Log) TruncateBefore(position uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usableLocked(); err != nil {
		return err
	}
	for len(l.closed) > 0 && l.afterLocked(0) <= position {
		// Oldest first and out of the list only when gone: a crash, or an error,
		// leaves a log without holes.
		if err := os.Remove(l.closed[0].path); err != nil {
			return fmt.Errorf("segment: %w", err)
		}
		l.closed = l.closed[1:]
		l.dirDirty = true
	}
	return nil
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
