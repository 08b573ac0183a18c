package segment

import (
	"errors"
	"fmt"
	"os"
)

// Append adds the record of position, which must be Next. It becomes readable
// with the next Flush, durable with the next Sync. payload is copied and must not
// be empty.
func (l *Log) Append(position uint64, payload []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usableLocked(); err != nil {
		return err
	}
	if position != l.next {
		return fmt.Errorf("segment: position %d does not follow: the next one is %d", position, l.next)
	}
	if len(payload) == 0 || len(payload) > MaxPayloadBytes {
		return fmt.Errorf("segment: a payload of %d bytes; it must have 1 to %d", len(payload), MaxPayloadBytes)
	}
	if size := l.flushed + uint64(len(l.pending)); l.active != nil && (size >= l.segmentBytes || l.roll && size >= rollBytes) {
		if err := l.sealLocked(); err != nil {
			return err
		}
	}
	l.roll = false
	if l.active == nil {
		if err := l.createLocked(); err != nil {
			return err
		}
	}
	l.active.note(position, l.flushed+uint64(len(l.pending)))
	l.pending = appendRecord(l.pending, position, payload)
	l.next++
	if len(l.pending) >= flushBytes {
		return l.flushLocked()
	}
	return nil
}

// Roll lets the next Append begin a new segment, unless the active one is small,
// so that what is before can be truncated by itself. It is a wish: a crash may
// lose it.
func (l *Log) Roll() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.roll = true
}

// Flush hands what was appended to the operating system and makes it readable.
func (l *Log) Flush() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usableLocked(); err != nil {
		return err
	}
	return l.flushLocked()
}

func (l *Log) usableLocked() error {
	if l.isClosed {
		return ErrClosed
	}
	return l.failure
}

// failLocked makes the first failure final: after a write of unknown extent or an
// fsync that may have dropped pages, only Open knows where the log ends.
func (l *Log) failLocked(err error) error {
	if l.failure == nil {
		l.failure = fmt.Errorf("%w: %w", ErrFailed, err)
	}
	return err
}

func (l *Log) flushLocked() error {
	if len(l.pending) == 0 {
		return nil
	}
	if err := l.markDirtyLocked(); err != nil {
		return l.failLocked(err)
	}
	if _, err := l.activeHandle.WriteAt(l.pending, int64(l.flushed)); err != nil {
		return l.failLocked(fmt.Errorf("segment: %w", err))
	}
	l.flushed += uint64(len(l.pending))
	l.pending = l.pending[:0]
	if cap(l.pending) > 4*flushBytes {
		l.pending = nil // one huge record must not hold its memory for ever
	}
	l.readable = l.next
	return nil
}

func (l *Log) markDirtyLocked() error {
	if n := len(l.dirty); n > 0 && l.dirty[n-1] == l.active {
		return nil
	}
	if _, err := l.active.acquire(); err != nil {
		return err
	}
	l.dirty = append(l.dirty, l.active)
	return nil
}

// sealLocked completes the active segment.
func (l *Log) sealLocked() error {
	l.pending = appendRecord(l.pending, l.next, nil)
	if err := l.flushLocked(); err != nil {
		return err
	}
	l.closed = append(l.closed, closedFile{file: l.active, size: l.flushed})
	f := l.active
	l.active, l.activeHandle, l.flushed = nil, nil, HeaderBytes
	if err := f.release(); err != nil {
		return l.failLocked(fmt.Errorf("segment: %w", err))
	}
	return nil
}

// createLocked makes the segment of the next position.
func (l *Log) createLocked() error {
	f := newFile(l.dir, l.next)
	h, err := f.create()
	if err != nil {
		return l.failLocked(err)
	}
	l.active, l.activeHandle, l.flushed = f, h, HeaderBytes
	l.dirDirty = true
	if _, err := h.WriteAt(appendHeader(nil, l.incarnation, f.first), 0); err != nil {
		return l.failLocked(fmt.Errorf("segment: %w", err))
	}
	return nil
}

// Sync writes what is pending and makes everything appended durable. Appends go
// on while it waits for the disk. A failure is final.
func (l *Log) Sync() error {
	l.syncMu.Lock()
	defer l.syncMu.Unlock()
	l.mu.Lock()
	err := l.usableLocked()
	if err == nil {
		err = l.flushLocked()
	}
	dirty, dirDirty := l.dirty, l.dirDirty
	if err == nil {
		l.dirty, l.dirDirty = nil, false
	}
	l.mu.Unlock()
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range dirty {
		// Used since it was marked dirty, so there is a handle.
		errs = append(errs, f.handle.Sync(), f.release())
	}
	if dirDirty {
		errs = append(errs, syncDir(l.dir))
	}
	if err := errors.Join(errs...); err != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.failLocked(fmt.Errorf("segment: %w", err))
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
