package machine

import (
	"errors"
	"fmt"
)

// ErrOriginMismatch says that Begin names another digest than that of the state
// that this replica was made from: it must not go on.
var ErrOriginMismatch = errors.New("the incarnation was made from another state than this replica")

var errWrongKey = errors.New("the record is of another number than its key")

// CorruptError says that a record of the state cannot be what the machine wrote.
type CorruptError struct {
	Key []byte
	Err error
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("the record at key %x is damaged: %v", e.Key, e.Err)
}

func (e *CorruptError) Unwrap() error { return e.Err }

// UnknownParticipantError says that a group has no participant of that name.
type UnknownParticipantError struct{ Participant string }

func (e *UnknownParticipantError) Error() string {
	return fmt.Sprintf("the group has no participant %q", e.Participant)
}

// TooLargeError says which limit a transaction breaks, and where. Participant
// and Key are empty when it is the transaction as a whole.
type TooLargeError struct {
	Participant string
	Key         string
	Detail      string
}

func (e *TooLargeError) Error() string { return e.Detail }
