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
	// Reset and Close stay away, which may be about to make or unlink files.
	l.syncMu.Lock()
	defer l.syncMu.Unlock()
	l.mu.Lock()
	if err := l.usableLocked(); err != nil {
		l.mu.Unlock()
		return err
	}
	n := 0
	for n < len(l.closed) && l.afterLocked(n) <= position {
		n++
	}
	// Nobody begins to read what is no longer in the list.
	unlink := l.closed[:n]
	l.closed = l.closed[n:]
	l.mu.Unlock()
	for _, f := range unlink {
		// Oldest first, each on disk before the next: what a crash or an error leaves
		// is a log without holes.
		if err := os.Remove(f.path); err != nil {
			return fmt.Errorf("segment: %w", err)
		}
		if err := syncDir(l.dir); err != nil {
			return fmt.Errorf("segment: %w", err)
		}
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
