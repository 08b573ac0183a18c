package participant

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc"

	cohortv1 "github.com/cohort-tx/cohort/api/cohort/v1"
)

// CheckpointError is what RequestCheckpoint returns when there was an attempt and
// no checkpoint came of it. The group goes on as it was; ask again later.
type CheckpointError struct {
	Group string
	// ID of the attempt: 'cohort checkpoint show' tells more of it.
	ID uint64
	// State is abandoned, when the group did not come to rest in time, or failed,
	// when too few nodes wrote the same copy.
	State string
	// Reason tells what was in the way; Transaction and Participant which, if
	// either did.
	Reason, Transaction, Participant string
}

func (e *CheckpointError) Error() string {
	s := fmt.Sprintf("checkpoint %d of group %s was %s", e.ID, e.Group, e.State)
	if e.Reason != "" {
		s += ": " + e.Reason
	}
	if e.Transaction != "" {
		s += " (transaction " + e.Transaction + ")"
	}
	if e.Participant != "" {
		s += " (participant " + e.Participant + ")"
	}
	return s
}

// RequestCheckpoint asks for a checkpoint of the whole group on the participant's
// behalf, after work that would be costly to repeat, say. addrs and opts are those
// of Serve; the App need not serve at that moment. It returns the checkpoint's id
// once its point is recorded in the log: all that committed before the call is in
// it. The nodes write their copies after that. A checkpoint that is being asked for
// by others at the same time may be the same one, and none is taken sooner than
// checkpoint.min_gap after the one before.
//
// Do not call it from a handler: the checkpoint may have to wait for the very
// transaction that the handler is part of.
//
// An answer that got lost is asked for again, at any of the nodes, until ctx ends,
// or without a deadline for WithPatience. The request is in the log by then and
// may still be served.
//
// Errors: *CheckpointError, *RequestError, and those of ctx.
func (a *App) RequestCheckpoint(ctx context.Context, addrs string, opts ...ClientOption) (id uint64, err error) {
	if err := errors.Join(checkName("group", a.group), checkName("participant", a.participant)); err != nil {
		return 0, err
	}
	client, err := Dial(addrs, opts...)
	if err != nil {
		return 0, err
	}
	defer client.Close()
	return requestCheckpoint(ctx, client, a)
}

func requestCheckpoint(ctx context.Context, client *Client, a *App) (id uint64, err error) {
	info, err := call(ctx, client, "request a checkpoint", a.group, &cohortv1.CreateCheckpointRequest{
		Group: a.group, RequestedBy: a.participant, Token: newInstanceNonce(),
	}, createCheckpointMethod)
	if err != nil {
		return 0, err
	}
	switch info.GetState() {
	case "abandoned", "failed":
		return 0, &CheckpointError{
			Group: a.group, ID: info.GetId(), State: info.GetState(), Reason: info.GetReason(),
			Transaction: info.GetTransaction(), Participant: info.GetParticipant(),
		}
	}
	return info.GetId(), nil
}

func createCheckpointMethod(ctx context.Context, cc grpc.ClientConnInterface, in *cohortv1.CreateCheckpointRequest, opts ...grpc.CallOption) (*cohortv1.CheckpointInfo, error) {
	return cohortv1.NewCheckpointsClient(cc).CreateCheckpoint(ctx, in, opts...)
}
