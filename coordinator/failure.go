package coordinator

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cohort-tx/cohort/groups"
	"github.com/cohort-tx/cohort/txlog"
)

// errorDomain is the domain of every ErrorInfo.
const errorDomain = "cohort"

// Reasons in ErrorInfo. Clients may tell errors apart by them: never rename one.
const (
	// reasonInvalid: a field is wrong; the metadata names it.
	reasonInvalid = "INVALID_REQUEST"
	// reasonUnknownGroup: the directory has no such group.
	reasonUnknownGroup = "UNKNOWN_GROUP"
	// reasonUnknownNode: the directory has no such node.
	reasonUnknownNode = "UNKNOWN_NODE"
	// reasonNotServing: the node asked does not coordinate the group. Nothing was
	// done.
	reasonNotServing = "NOT_SERVING"
	// reasonNoCoordinator: no coordinator could be reached in time.
	reasonNoCoordinator = "NO_COORDINATOR"
	// reasonNoReplica: no replica could be reached in time.
	reasonNoReplica = "NO_REPLICA"
	// reasonOverloaded: a bound of the node is reached.
	reasonOverloaded = "OVERLOADED"
	// reasonTooLarge: the request is, or the answer would be, too large.
	reasonTooLarge = "TOO_LARGE"
	// reasonTruncated: the position is not kept any more.
	reasonTruncated = "TRUNCATED"
	// reasonIncarnation: the group's log is another life than asked for.
	reasonIncarnation = "INCARNATION_CHANGED"
	// reasonUnknownCheckpoint: there is no such checkpoint, or it is not complete.
	reasonUnknownCheckpoint = "UNKNOWN_CHECKPOINT"
	// reasonNotWanted: nobody waits for the captured state: its checkpoint was given
	// up, another stream brings it, or it is not of the instance that was asked.
	reasonNotWanted = "CAPTURE_NOT_WANTED"
	// reasonNotRestored: the state could not be made; nothing was changed.
	reasonNotRestored = "NOT_RESTORED"
	// reasonDirectory: the directory refused or could not be asked.
	reasonDirectory = "DIRECTORY"
	// reasonNotSafe: a change of the cluster would cost data or a quorum.
	reasonNotSafe = "NOT_SAFE"
	// reasonIndeterminate: whether the request took effect is not known.
	reasonIndeterminate = "INDETERMINATE"
	// reasonClosing: the node is shutting down.
	reasonClosing = "CLOSING"
	// reasonInternal: a bug or a broken disk; the node's log has more.
	reasonInternal = "INTERNAL"
)

// failure makes a status with its ErrorInfo. pairs are keys and values of the
// info's metadata.
func failure(code codes.Code, reason string, pairs []string, format string, args ...any) error {
	info := &errdetails.ErrorInfo{Domain: errorDomain, Reason: reason, Metadata: make(map[string]string, len(pairs)/2)}
	for i := 0; i+1 < len(pairs); i += 2 {
		info.Metadata[pairs[i]] = pairs[i+1]
	}
	st := status.New(code, fmt.Sprintf(format, args...))
	detailed, err := st.WithDetails(info)
	if err != nil {
		return st.Err() // text that is not UTF-8: the message has it still
	}
	return detailed.Err()
}

// invalid says which field is wrong, how, and what would be right.
func invalid(field, format string, args ...any) error {
	return failure(codes.InvalidArgument, reasonInvalid, []string{"field", field}, "%s: %s", field, fmt.Sprintf(format, args...))
}

// tooMany says that a request is larger than any group allows.
func tooMany(field string, n, most int) error {
	return failure(codes.ResourceExhausted, reasonTooLarge, []string{"field", field}, "%s: there are %d; at most %d in a transaction", field, n, most)
}

// hasReason tells whether an error is a status with that ErrorInfo reason.
func hasReason(err error, reason string) bool {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.GetDomain() == errorDomain {
			return info.GetReason() == reason
		}
	}
	return false
}

// statusOf turns an error of the coordinator or of a replica that has no place
// in a response into a status. What is one already stays.
func statusOf(group string, err error) error {
	var (
		bad     *Invalid
		unknown *Indeterminate
		refused *groups.RefusedError
	)
	pairs := []string{"group", group}
	switch {
	case err == nil:
		return nil
	case errors.As(err, &bad):
		return invalid(bad.Field, "%s", bad.Detail)
	case errors.As(err, &unknown):
		return failure(codes.Unknown, reasonIndeterminate, pairs, "%s; look at the state before asking again", unknown.Error())
	case errors.Is(err, ErrNotServing):
		return failure(codes.Unavailable, reasonNotServing, pairs, "this node does not run the coordinator of group %q now; ask again, or another node", group)
	case errors.Is(err, txlog.ErrNotReady), errors.Is(err, txlog.ErrClosed), errors.Is(err, txlog.ErrHalted), errors.Is(err, txlog.ErrNotApplied),
		errors.Is(err, txlog.ErrOverloaded):
		return failure(codes.Unavailable, reasonNoReplica, pairs, "the replica of group %q on this node cannot answer now (%v); ask again, or another node", group, err)
	case errors.As(err, &refused):
		return failure(codes.FailedPrecondition, reasonDirectory, append(pairs, "code", refused.Code.String()), "%v", refused)
	case errors.Is(err, groups.ErrDirectoryUnavailable), errors.Is(err, groups.ErrDirectoryUnknown), errors.Is(err, groups.ErrDirectoryClosed):
		return failure(codes.Unavailable, reasonDirectory, pairs, "%v", err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return status.FromContextError(err).Err()
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return failure(codes.Internal, reasonInternal, pairs, "group %q: %v", group, err)
}

// plain is the message of an error without its code.
func plain(err error) string { return status.Convert(err).Message() }
