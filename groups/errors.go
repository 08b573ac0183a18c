package groups

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cohort-tx/cohort/internal/strictyaml"
)

// ErrNoGroup: the cluster has agreed on groups, and this is none of them.
var ErrNoGroup = errors.New("no such group")

// FileError is one thing wrong with a group file: file, line, column, key, and
// what would be right.
type FileError = strictyaml.Fault

// Problem is one thing wrong with a definition, whatever it came from.
type Problem = strictyaml.Problem

// InvalidError is a definition's problems, all of them.
type InvalidError struct {
	Group    string
	Problems []Problem
}

// Error lists the problems.
func (e *InvalidError) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.Path + ": " + p.Message
	}
	return fmt.Sprintf("group %q: %s", e.Group, strings.Join(lines, "; "))
}

// RefusalCode says why the directory refused a command. Its numbers are in
// results that old and new nodes exchange: never reuse one.
type RefusalCode uint32

const (
	// RefusedMalformed: the command makes no sense to this version.
	RefusedMalformed RefusalCode = 1
	// RefusedExists: the name is taken, with other content.
	RefusedExists RefusalCode = 2
	// RefusedUnknown: no such node, group or replica.
	RefusedUnknown RefusalCode = 3
	// RefusedVersion: the definition is not at the expected version.
	RefusedVersion RefusalCode = 4
	// RefusedFull: a bound is reached.
	RefusedFull RefusalCode = 5
	// RefusedForeignData: the node is registered with another data directory.
	RefusedForeignData RefusalCode = 6
)

// String names the code.
func (c RefusalCode) String() string {
	switch c {
	case RefusedMalformed:
		return "malformed"
	case RefusedExists:
		return "exists"
	case RefusedUnknown:
		return "unknown"
	case RefusedVersion:
		return "version"
	case RefusedFull:
		return "full"
	case RefusedForeignData:
		return "foreign_data"
	default:
		return fmt.Sprintf("refusal(%d)", uint32(c))
	}
}

// RefusedError is a command that the directory answered with a refusal:
// nothing was changed.
type RefusedError struct {
	Code   RefusalCode
	Detail string
}

// Error is the refusal's detail.
func (e *RefusedError) Error() string { return "directory refused: " + e.Detail }

var (
	// ErrDirectoryUnavailable: the command was certainly not taken, or a read
	// found no quorum; it may be tried again.
	ErrDirectoryUnavailable = errors.New("the directory has no leader or no quorum now; try again")
	// ErrDirectoryUnknown: the command may or may not have taken effect. Every
	// command of the directory may be sent again.
	ErrDirectoryUnknown = errors.New("the directory did not answer in time; the command may have taken effect")
	// ErrDirectoryClosed: the host is closed.
	ErrDirectoryClosed = errors.New("the directory is closed on this node")

	// ErrNoDataDir: the directory was never initialised, or was wiped.
	ErrNoDataDir = errors.New("data directory is not initialised")
	// ErrDataDirExists: the directory is initialised already.
	ErrDataDirExists = errors.New("data directory is initialised already")
	// ErrForeignDataDir: the directory belongs to another node or cluster.
	ErrForeignDataDir = errors.New("data directory belongs to another node")
	// ErrCorrupt: a local record fails its checksum or has an unknown format.
	ErrCorrupt = errors.New("local record is damaged")
	// ErrAmnesia: the replica has run before, and this node has lost its data. It
	// must not vote again.
	ErrAmnesia = errors.New("the replica has run before and its data on this node is gone")
)
