package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

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

// voteError makes a no that PostgreSQL's state of the moment is to blame for a
// conflict: a lost lock, or that it is away. A constraint's no stays one.
func voteError(ctx context.Context, err error) error {
	if errors.Is(away(ctx, err), participant.ErrUnavailable) {
		return conflict("prepare: %w", err)
	}
	return stepError(fmt.Errorf("postgres: prepare: %w", err))
}

// away makes an error that comes of PostgreSQL's being down, or being reached no
// more, one that is tried again for as long as it takes.
func away(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil {
		return err
	}
	var connect *pgconn.ConnectError
	down := errors.As(err, &connect)
	switch c := code(err); {
	case strings.HasPrefix(c, "57P"), strings.HasPrefix(c, "08"), strings.HasPrefix(c, "53"):
		down = true // shutting down, starting up; connections broken; no room
	case c == "":
		var network net.Error
		down = down || errors.As(err, &network) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF)
	}
	if !down {
		return err
	}
	return fmt.Errorf("%w: %w", participant.ErrUnavailable, err)
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
