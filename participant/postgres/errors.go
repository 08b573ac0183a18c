package postgres

import (
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/cohort-tx/cohort/participant"
)

// SQLSTATEs that mean something here.
const (
	codeLockNotAvailable      = "55P03"
	codeDeadlock              = "40P01"
	codeSerialization         = "40001"
	codeInsufficientPrivilege = "42501"
	codeUndefinedObject       = "42704"
	codeObjectInUse           = "55006"
	codeNotInPrerequisite     = "55000"
	codeUniqueViolation       = "23505"
)

var (
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("postgres: closed")
	// errMismatch: what is prepared is not what the log has.
	errMismatch = errors.New("what is prepared differs from what the log has")
)

// code is the SQLSTATE of an error, empty for none.
func code(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}

// conflict is a retryable failure: the transaction is run again.
func conflict(format string, args ...any) error {
	return fmt.Errorf("%w: postgres: %w", participant.ErrConflict, fmt.Errorf(format, args...))
}

// stepError makes what a handler returns a conflict when it lost a lock: it waited
// too long, or PostgreSQL found a deadlock.
func stepError(err error) error {
	switch code(err) {
	case codeLockNotAvailable, codeDeadlock, codeSerialization:
		return fmt.Errorf("%w: %w", participant.ErrConflict, err)
	}
	return err
}

// needs says what to do about a missing right.
func needs(err error, what, way string) error {
	if code(err) == codeInsufficientPrivilege {
		return fmt.Errorf("postgres: the database's role may not %s: %s: %w", what, way, err)
	}
	return fmt.Errorf("postgres: %s: %w", what, err)
}

// StreamError means that a captured database is not one that this release can load.
type StreamError struct{ Detail string }

func (e *StreamError) Error() string { return "postgres: captured database: " + e.Detail }
