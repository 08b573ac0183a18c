package checkpoint

import (
	"errors"
	"fmt"
)

// ErrIncomplete: an export file ends before its end.
var ErrIncomplete = errors.New("checkpoint: the file ends too early: it was cut off")

// CorruptError says that a file is not what was written.
type CorruptError struct {
	// File is the path; Section is empty when it is of none.
	File, Section string
	Detail        string
}

func (e *CorruptError) Error() string {
	if e.Section == "" {
		return fmt.Sprintf("checkpoint: %s is damaged: %s", e.File, e.Detail)
	}
	return fmt.Sprintf("checkpoint: %s (section %s) is damaged: %s", e.File, e.Section, e.Detail)
}

// VersionError says that a file is of a newer format.
type VersionError struct {
	File             string
	Found, Supported int
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("checkpoint: %s has format %d, and this release reads up to %d; use a newer release", e.File, e.Found, e.Supported)
}
