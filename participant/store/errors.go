package store

import (
	"errors"
	"fmt"
)

var (
	// ErrSnapshotTooOld means that the versions readable at an index may be gone:
	// read at a newer one.
	ErrSnapshotTooOld = errors.New("store: the snapshot is too old: its versions are being discarded; read at a newer index")
	// ErrNotApplied means that the index is above the last published one.
	ErrNotApplied = errors.New("store: the index is not applied here yet; wait for it to be published")
	// ErrClosed means that the store, or the view, is closed.
	ErrClosed = errors.New("store: closed")
	// ErrStopped means that Save or Restore was told to stop.
	ErrStopped = errors.New("store: stopped")
	// ErrLocked means that another process has the directory open.
	ErrLocked = errors.New("store: the directory is in use by another process")
	// ErrKey means that a key is empty, longer than MaxKeyBytes, or begins with
	// the byte 0x00, which is the store's own.
	ErrKey = errors.New("store: a key must have 1 to MaxKeyBytes bytes and not begin with 0x00")
	// ErrFailed is wrapped by everything refused after a write or an fsync failed.
	// What is on disk is known only up to Synced: open the store again.
	ErrFailed = errors.New("store: a write failed earlier; open the store again")
)

// CorruptError means that a file holds what this package never wrote.
type CorruptError struct {
	// File is a path, or "snapshot" for a stream.
	File   string
	Detail string
}

func (e *CorruptError) Error() string { return "store: " + e.File + " is corrupt: " + e.Detail }

// VersionError means that a newer release wrote the file.
type VersionError struct {
	File             string
	Found, Supported uint32
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("store: %s has format version %d, this release knows versions up to %d: use the release that wrote it or a newer one",
		e.File, e.Found, e.Supported)
}

// EntryTooLargeError means that an entry exceeds the limits that the store was
// opened with. Callers check entries with Cost before they are proposed, so
// seeing it means that a check is missing.
type EntryTooLargeError struct {
	Index           uint64
	Bytes, MaxBytes int64
	Keys, MaxKeys   int
}

func (e *EntryTooLargeError) Error() string {
	return fmt.Sprintf("store: entry %d counts %d bytes in %d keys; at most %d bytes in %d keys fit",
		e.Index, e.Bytes, e.Keys, e.MaxBytes, e.MaxKeys)
}
