package segment

import (
	"errors"
	"fmt"
)

var (
	// ErrTruncated means that the position is below the first kept one.
	ErrTruncated = errors.New("segment: the position is no longer kept; begin at First")
	// ErrClosed means that the log is closed.
	ErrClosed = errors.New("segment: the log is closed")
	// ErrFailed is wrapped by what is refused after a write or an fsync failed. What
	// is on disk is known only up to the last successful Sync: open the log again.
	ErrFailed = errors.New("segment: a write failed earlier; open the log again")
)

// CorruptError means that a file does not hold what was written before the log's
// end.
type CorruptError struct {
	File   string
	Offset uint64
	Detail string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("segment: %s is corrupt at offset %d: %s", e.File, e.Offset, e.Detail)
}

// VersionError means that a newer release wrote the file.
type VersionError struct {
	File             string
	Found, Supported uint32
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("segment: %s has format version %d, this release knows versions up to %d: use the release that wrote it or a newer one",
		e.File, e.Found, e.Supported)
}
