package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"time"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
)

const (
	// echoPauseMin and echoPauseMax bound the pause before a lost attachment is
	// made again; it doubles from one to the other.
	echoPauseMin = 50 * time.Millisecond
	echoPauseMax = 2 * time.Second
	// maxEchoMethodBytes is how long a method may be that the wire lets through.
	maxEchoMethodBytes = 128
)

// echoInstance is an instance that answers any method. It speaks the Attach
// stream itself, since the SDK serves only methods that are named beforehand.
type echoInstance struct {
	group, participant string
	// nonce tells the coordinator that it is the same instance after a broken
	// stream.
	nonce string
	// attached is told the state whenever the coordinator has set it.
	attached func(state string)
}

func newEchoInstance(group, participant string, attached func(string)) (*echoInstance, error) {
	nonce := make([]byte, 16)
	if _, err := rand.Read(nonce); err != nil {
		return nil, err
	}
	return &echoInstance{group: group, participant: participant, nonce: hex.EncodeToString(nonce), attached: attached}, nil
}

// refusedError is the cluster's word that there is no such participant.
type refusedError struct{ detail string }

func (e *refusedError) Error() string { return "attach: " + e.detail }

// serve answers until ctx ends, attaching again when the stream is lost.
func (i *echoInstance) serve(ctx context.Context, client pb.ParticipantsClient) error {
	pause := echoPauseMin
	for {
		was, err := i.attach(ctx, client)
		var refused *refusedError
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.As(err, &refused):
			return err
		}
		if was {
			pause = echoPauseMin
		}
		select {
		case <-time.After(pause):
			pause = min(2*pause, echoPauseMax)
		case <-ctx.Done():
			return nil
		}
	}
}

// attach serves one stream until it ends.
func (i *echoInstance) attach(ctx context.Context, client pb.ParticipantsClient) (was bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := client.Attach(ctx)
	if err != nil {
		return false, err
	}
	hello := &pb.Hello{
		Group: i.group, Participant: i.participant, Instance: i.nonce,
		Description: fmt.Sprintf("cohort participant echo, pid %d", os.Getpid()),
	}
	if err := stream.Send(&pb.InstanceMessage{Message: &pb.InstanceMessage_Hello{Hello: hello}}); err != nil {
		return false, err
	}
	for {
		message, err := stream.Recv()
		if err != nil {
			return was, err
		}
		switch m := message.Message.(type) {
		case *pb.NodeMessage_Refused:
			return was, &refusedError{detail: m.Refused.GetDetail()}
		case *pb.NodeMessage_Activated:
			was = true
			i.attached("active")
		case *pb.NodeMessage_Standby:
			was = true
			i.attached("standby")
		case *pb.NodeMessage_Step:
			result := &pb.InstanceMessage_StepResult{StepResult: echoStep(i.participant, m.Step)}
			if err := stream.Send(&pb.InstanceMessage{Message: result}); err != nil {
				return was, err
			}
		}
	}
}

// echoStep stores the payload under last/METHOD and returns it. The same step
// sent again gets the same answer, without any memory.
func echoStep(participant string, step *pb.Step) *pb.StepResult {
	if len(step.GetMethod()) > maxEchoMethodBytes {
		return &pb.StepResult{Call: step.GetCall(), Result: &pb.StepResult_Failure{Failure: &pb.StepFailure{
			Code: pb.StepFailure_CODE_UNKNOWN_METHOD, Participant: participant,
			Message: fmt.Sprintf("the method's name has more than %d bytes", maxEchoMethodBytes),
		}}}
	}
	return &pb.StepResult{
		Call:   step.GetCall(),
		Result: &pb.StepResult_Reply{Reply: &pb.StepReply{Payload: step.GetPayload(), ContentType: step.GetContentType()}},
		Ops: []*pb.Op{{
			Participant: participant, Key: []byte("last/" + step.GetMethod()),
			Op: &pb.Op_Put{Put: &pb.Put{Value: step.GetPayload()}},
		}},
	}
}
