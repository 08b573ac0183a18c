package participant_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cohort-tx/cohort/participant"
)

// Without it a request that found no coordinator until its time was up would only
// say that its time was up, and a deadline that the node saw first would not be the
// caller's own.
func TestLateRequestSaysWhatWasWrongBefore(t *testing.T) {
	asked := 0
	answers := func(context.Context, string, any, any, *grpc.ClientConn, grpc.UnaryInvoker, ...grpc.CallOption) error {
		if asked++; asked == 1 {
			return status.Error(codes.Unavailable, "nobody coordinates the group")
		}
		return status.Error(codes.DeadlineExceeded, "too late")
	}
	client, err := participant.Dial("127.0.0.1:1", participant.WithDialOptions(grpc.WithUnaryInterceptor(answers)))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	_, err = client.Group(groupName).Begin(ctx)
	if !errors.Is(err, participant.ErrTimeout) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want a timeout that is the caller's deadline", err)
	}
	if !strings.Contains(err.Error(), "before that: nobody coordinates the group") {
		t.Errorf("%v, want why the try before failed", err)
	}
}
