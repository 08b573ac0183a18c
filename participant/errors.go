package participant

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	cohortv1 "github.com/cohort-tx/cohort/api/cohort/v1"
)

// Reason says why an attempt was aborted. Its values are the names that the
// command line and the documentation use.
type Reason string

const (
	// ReasonUnknown is a reason that this version of the package does not know.
	ReasonUnknown Reason = "unknown"
	// ReasonConflict: something that was read has changed. Retryable.
	ReasonConflict Reason = "conflict"
	// ReasonConstraint: the bound of an Add failed, or its target is no integer.
	ReasonConstraint Reason = "constraint"
	// ReasonVote: a participant refused.
	ReasonVote Reason = "vote"
	// ReasonTimeout: the attempt, or a participant's answer, ran out of time.
	ReasonTimeout Reason = "timeout"
	// ReasonMoved: a participant's activation or the coordinator changed. Retryable.
	ReasonMoved Reason = "moved"
	// ReasonRecovering: a participant has no active instance ready. Retryable.
	ReasonRecovering Reason = "recovering"
	// ReasonExpired: the attempt began before the outcome horizon.
	ReasonExpired Reason = "expired"
	// ReasonOverloaded: an admission bound was reached. Retryable.
	ReasonOverloaded Reason = "overloaded"
	// ReasonIDReused: the id was committed for another request.
	ReasonIDReused Reason = "id_reused"
	// ReasonCancelled: the caller gave the attempt up.
	ReasonCancelled Reason = "cancelled"
	// ReasonSuperseded: a settled Outcome, or a later attempt, ended this one.
	ReasonSuperseded Reason = "superseded"
	// ReasonTooLarge: the transaction breaks a limit of the group.
	ReasonTooLarge Reason = "too_large"
	// ReasonUnknownParticipant: the group has no such participant.
	ReasonUnknownParticipant Reason = "unknown_participant"
	// ReasonSnapshotTooOld: the snapshot is no longer kept. Retryable.
	ReasonSnapshotTooOld Reason = "snapshot_too_old"
)

// Sentinels for errors.Is; an *AbortError matches the one of its Reason.
var (
	ErrConflict           = errors.New("conflict")
	ErrConstraint         = errors.New("constraint")
	ErrVote               = errors.New("vote")
	ErrTimeout            = errors.New("timeout")
	ErrMoved              = errors.New("moved")
	ErrRecovering         = errors.New("recovering")
	ErrExpired            = errors.New("expired")
	ErrOverloaded         = errors.New("overloaded")
	ErrIDReused           = errors.New("id reused")
	ErrCancelled          = errors.New("cancelled")
	ErrSuperseded         = errors.New("superseded")
	ErrTooLarge           = errors.New("too large")
	ErrUnknownParticipant = errors.New("unknown participant")
	ErrSnapshotTooOld     = errors.New("snapshot too old")
)

// Sentinels of requests that no attempt stands behind.
var (
	// ErrUnavailable: no node answered in time, or none could serve the group.
	// Nothing was decided.
	ErrUnavailable = errors.New("unavailable")
	// ErrInvalid: the request is wrong and will be wrong again.
	ErrInvalid = errors.New("invalid request")
	// ErrNotFound: the group does not exist.
	ErrNotFound = errors.New("not found")
	// ErrTxDone: the transaction was used after it ended.
	ErrTxDone = errors.New("participant: the transaction is over; use it inside its function, before Commit or Abort")
	// ErrClosed: the client was closed.
	ErrClosed = errors.New("participant: the client is closed")
	// ErrIncarnation: the group's log is in another incarnation than the one
	// being followed; positions of the two cannot be compared.
	ErrIncarnation = errors.New("another incarnation")
	// ErrTruncated: the log no longer holds the position asked for.
	ErrTruncated = errors.New("log truncated")
)

var reasonOfWire = map[cohortv1.Reason]Reason{
	cohortv1.Reason_REASON_CONFLICT:            ReasonConflict,
	cohortv1.Reason_REASON_CONSTRAINT:          ReasonConstraint,
	cohortv1.Reason_REASON_VOTE:                ReasonVote,
	cohortv1.Reason_REASON_TIMEOUT:             ReasonTimeout,
	cohortv1.Reason_REASON_MOVED:               ReasonMoved,
	cohortv1.Reason_REASON_RECOVERING:          ReasonRecovering,
	cohortv1.Reason_REASON_EXPIRED:             ReasonExpired,
	cohortv1.Reason_REASON_OVERLOADED:          ReasonOverloaded,
	cohortv1.Reason_REASON_ID_REUSED:           ReasonIDReused,
	cohortv1.Reason_REASON_CANCELLED:           ReasonCancelled,
	cohortv1.Reason_REASON_SUPERSEDED:          ReasonSuperseded,
	cohortv1.Reason_REASON_TOO_LARGE:           ReasonTooLarge,
	cohortv1.Reason_REASON_UNKNOWN_PARTICIPANT: ReasonUnknownParticipant,
	cohortv1.Reason_REASON_SNAPSHOT_TOO_OLD:    ReasonSnapshotTooOld,
}

var sentinelOfReason = map[Reason]error{
	ReasonConflict:           ErrConflict,
	ReasonConstraint:         ErrConstraint,
	ReasonVote:               ErrVote,
	ReasonTimeout:            ErrTimeout,
	ReasonMoved:              ErrMoved,
	ReasonRecovering:         ErrRecovering,
	ReasonExpired:            ErrExpired,
	ReasonOverloaded:         ErrOverloaded,
	ReasonIDReused:           ErrIDReused,
	ReasonCancelled:          ErrCancelled,
	ReasonSuperseded:         ErrSuperseded,
	ReasonTooLarge:           ErrTooLarge,
	ReasonUnknownParticipant: ErrUnknownParticipant,
	ReasonSnapshotTooOld:     ErrSnapshotTooOld,
}

// AbortError says that an attempt did not and will not commit. It matches the
// sentinel of its Reason: errors.Is(err, participant.ErrConflict).
type AbortError struct {
	// ID is the transaction's id, empty when it had none yet.
	ID string
	// Reason tells why.
	Reason Reason
	// Participant and Key name the place, where there is one.
	Participant string
	Key         string
	// Detail is for people.
	Detail string
}

func (e *AbortError) Error() string {
	var b strings.Builder
	b.WriteString("aborted: ")
	b.WriteString(string(e.Reason))
	if e.Participant != "" {
		b.WriteString(" at " + e.Participant)
		if e.Key != "" {
			fmt.Fprintf(&b, "/%s", printable(e.Key))
		}
	}
	if e.Detail != "" {
		b.WriteString(": " + e.Detail)
	}
	return b.String()
}

// Is makes errors.Is match the sentinel of the reason.
func (e *AbortError) Is(target error) bool { return sentinelOfReason[e.Reason] == target }

// retryable tells whether a new attempt may succeed without anything else being
// done about it.
func (e *AbortError) retryable() bool {
	switch e.Reason {
	case ReasonConflict, ReasonMoved, ReasonRecovering, ReasonOverloaded, ReasonSnapshotTooOld:
		return true
	}
	return false
}

func abortFromWire(a *cohortv1.Abort) *AbortError {
	reason, ok := reasonOfWire[a.GetReason()]
	if !ok {
		reason = ReasonUnknown
	}
	return &AbortError{ID: a.GetId(), Reason: reason, Participant: a.GetParticipant(), Key: string(a.GetKey()), Detail: a.GetDetail()}
}

// IndeterminateError says that Commit was asked for and its answer is not known:
// the transaction may have committed, may still commit, or may not. It is never
// an abort. Group.Outcome with Settle ends the doubt; running the same id again
// is safe as well, because an id commits at most once.
type IndeterminateError struct {
	ID string
	// Begun names the attempt for Group.Outcome, 0 when it is not known.
	Begun uint64
	// Detail is for people.
	Detail string
	cause  error
}

func (e *IndeterminateError) Error() string {
	s := fmt.Sprintf("indeterminate: transaction %s may or may not have committed; ask Outcome with Settle, or run the same id again", e.ID)
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	if e.cause != nil {
		s += ": " + e.cause.Error()
	}
	return s
}

// Unwrap gives the error that hid the answer, a context's end for example.
func (e *IndeterminateError) Unwrap() error { return e.cause }

// CommittedError is returned by Begin for an id that was committed before.
type CommittedError struct{ Receipt Receipt }

func (e *CommittedError) Error() string {
	return fmt.Sprintf("transaction %s was committed before, at position %d", e.Receipt.ID, e.Receipt.Position)
}

// CallCode says how a call failed.
type CallCode string

const (
	// CallUnknown is a code that this version of the package does not know.
	CallUnknown CallCode = "unknown"
	// CallRefused: the handler returned an error, the application's own refusal.
	CallRefused CallCode = "refused"
	// CallPanic: the handler panicked.
	CallPanic CallCode = "panic"
	// CallUnknownMethod: the participant has no such method.
	CallUnknownMethod CallCode = "unknown_method"
	// CallTimeout: the handler did not answer in time.
	CallTimeout CallCode = "timeout"
	// CallInstanceLost: the instance went away while the handler ran. Retryable.
	CallInstanceLost CallCode = "instance_lost"
	// CallRecovering: no active instance in time. Retryable.
	CallRecovering CallCode = "recovering"
	// CallBadPayload: the handler could not read the request, or the caller the reply.
	CallBadPayload CallCode = "bad_payload"
	// CallTooLarge: the handler staged more than a limit allows.
	CallTooLarge CallCode = "too_large"
)

var callCodeOfWire = map[cohortv1.StepFailure_Code]CallCode{
	cohortv1.StepFailure_CODE_HANDLER:        CallRefused,
	cohortv1.StepFailure_CODE_PANIC:          CallPanic,
	cohortv1.StepFailure_CODE_UNKNOWN_METHOD: CallUnknownMethod,
	cohortv1.StepFailure_CODE_TIMEOUT:        CallTimeout,
	cohortv1.StepFailure_CODE_INSTANCE_LOST:  CallInstanceLost,
	cohortv1.StepFailure_CODE_RECOVERING:     CallRecovering,
	cohortv1.StepFailure_CODE_BAD_PAYLOAD:    CallBadPayload,
	cohortv1.StepFailure_CODE_TOO_LARGE:      CallTooLarge,
}

// CallError says that a participant's handler failed. The attempt is still open:
// its changes made no difference and the caller may go on without them.
// It matches ErrVote when the handler refused, ErrTimeout when it was too slow,
// and ErrRecovering when there was no instance.
type CallError struct {
	Participant string
	Method      string
	Code        CallCode
	// Message is the handler's own.
	Message string
}

func (e *CallError) Error() string {
	s := fmt.Sprintf("call %s.%s failed: %s", e.Participant, e.Method, e.Code)
	if e.Message != "" {
		s += ": " + e.Message
	}
	return s
}

// Is maps the code to the sentinel that an abort for the same cause would match.
func (e *CallError) Is(target error) bool {
	switch e.Code {
	case CallRefused:
		return target == ErrVote
	case CallTimeout:
		return target == ErrTimeout
	case CallInstanceLost, CallRecovering:
		return target == ErrRecovering
	case CallTooLarge:
		return target == ErrTooLarge
	}
	return false
}

// RequestError says that a request failed outside of any attempt: it matches
// ErrUnavailable, ErrInvalid or ErrNotFound, and its cause (a gRPC status, a
// context's end).
type RequestError struct {
	// Op is the request's name: "begin", "get", …
	Op    string
	Group string
	// Reason is the server's, in UPPER_SNAKE; may be empty.
	Reason string
	// Message says what is wrong and what would be right.
	Message string
	kind    error
	cause   error
}

func (e *RequestError) Error() string {
	s := e.Op
	if e.Group != "" {
		s += " (group " + e.Group + ")"
	}
	if e.kind != nil {
		s += ": " + e.kind.Error()
	}
	return s + ": " + e.Message
}

// Unwrap gives the sentinel and the cause.
func (e *RequestError) Unwrap() []error {
	out := make([]error, 0, 2)
	if e.kind != nil {
		out = append(out, e.kind)
	}
	if e.cause != nil {
		out = append(out, e.cause)
	}
	return out
}

// RefusedError is what Serve returns when the cluster does not take the
// participant: the group or the participant does not exist, say.
type RefusedError struct {
	Group, Participant string
	// Code is one of unknown_group, unknown_participant, bad_hello, too_many.
	Code   string
	Detail string
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("participant %s/%s was refused: %s: %s", e.Group, e.Participant, e.Code, e.Detail)
}

// StateError is what Serve returns when the participant's own state cannot be
// brought to the group's, tried several times.
type StateError struct {
	Group, Participant string
	// Op is what failed: point, find, restore, apply, undo.
	Op  string
	Err error
}

func (e *StateError) Error() string {
	return fmt.Sprintf("own state of %s/%s: %s: %v", e.Group, e.Participant, e.Op, e.Err)
}

// Unwrap gives the state's own error.
func (e *StateError) Unwrap() error { return e.Err }

// Retryable tells whether running the transaction again may succeed without
// anything else being done first. Group.Run does so by itself, within its bounds.
// An indeterminate outcome is not retryable in this sense: settle it first, or
// run the same id again on purpose.
func Retryable(err error) bool {
	var ind *IndeterminateError
	if errors.As(err, &ind) {
		return false
	}
	var abort *AbortError
	if errors.As(err, &abort) {
		return abort.retryable()
	}
	var call *CallError
	if errors.As(err, &call) {
		return call.Code == CallInstanceLost || call.Code == CallRecovering
	}
	return errors.Is(err, ErrUnavailable) && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded)
}

// requestError turns what gRPC returned into a typed error.
func requestError(ctx context.Context, op, group string, err error) error {
	if err == nil {
		return nil
	}
	var already *RequestError
	if errors.As(err, &already) || errors.Is(err, ErrClosed) {
		return err
	}
	st, _ := status.FromError(err)
	e := &RequestError{Op: op, Group: group, Message: st.Message(), Reason: errorReason(st), cause: err}
	switch st.Code() {
	case codes.Unavailable, codes.Aborted:
		// Aborted is a stream's: what served it has gone, another node may go on.
		e.kind = ErrUnavailable
	case codes.InvalidArgument, codes.Unimplemented:
		e.kind = ErrInvalid
	case codes.OutOfRange:
		e.kind = ErrTruncated
	case codes.NotFound:
		e.kind = ErrNotFound
	case codes.ResourceExhausted:
		e.kind = ErrTooLarge
	case codes.DeadlineExceeded:
		e.kind = ErrTimeout
		if _, bounded := ctx.Deadline(); bounded {
			// It goes along with the request, and a node may see its end first.
			e.cause = errors.Join(context.DeadlineExceeded, err)
		}
	}
	if e.Reason == reasonIncarnation {
		e.kind = ErrIncarnation
	}
	if ctxErr := ctx.Err(); ctxErr != nil {
		// The caller's own doing: say so in its own terms.
		e.kind, e.cause, e.Message = nil, ctxErr, ctxErr.Error()
		if st.Code() == codes.DeadlineExceeded || st.Code() == codes.Unavailable {
			e.Message += ": " + st.Message()
		}
	}
	return e
}

// errorDomain is the domain of the google.rpc.ErrorInfo in the server's errors.
const errorDomain = "cohort"

// reasonIncarnation is the server's word for a log that was begun anew.
const reasonIncarnation = "INCARNATION_CHANGED"

func errorReason(st *status.Status) string {
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == errorDomain {
			return info.GetReason()
		}
	}
	return ""
}

// printable shows a key in an error: as it is when it is plain text, quoted if not.
func printable(key string) string {
	q := fmt.Sprintf("%q", key)
	if q == `"`+key+`"` {
		return key
	}
	return q
}
