package participant_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/participant"
)

// fakeCheckpoints is service Checkpoints of a fake node.
type fakeCheckpoints struct {
	pb.UnimplementedCheckpointsServer
	requests chan *pb.CreateCheckpointRequest
	answer   *pb.CheckpointInfo
	err      error
}

func (c *fakeCheckpoints) CreateCheckpoint(_ context.Context, r *pb.CreateCheckpointRequest) (*pb.CheckpointInfo, error) {
	c.requests <- r
	return c.answer, c.err
}

// startCheckpoints runs a node of the fake group that answers requests for
// checkpoints, with the faults that the group plants.
func (g *fakeGroup) startCheckpoints(c *fakeCheckpoints) (addr string, stop func()) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	c.requests = make(chan *pb.CreateCheckpointRequest, 8)
	n := &fakeNode{g: g, addr: lis.Addr().String()}
	n.server = grpc.NewServer(grpc.UnaryInterceptor(n.intercept))
	pb.RegisterCheckpointsServer(n.server, c)
	go n.server.Serve(lis)
	return n.addr, n.server.Stop
}

// Without it a participant's request would look like an operator's, or be two
// requests when an answer was lost.
func TestRequestCheckpoint(t *testing.T) {
	g := newFakeGroup("inventory")
	g.fault = func(method string, count int, after bool) error {
		if method == "CreateCheckpoint" && count == 1 && after {
			return lostAnswer()
		}
		return nil
	}
	c := &fakeCheckpoints{answer: &pb.CheckpointInfo{Group: "shop", Id: 7, State: "writing", Position: 12}}
	addr, stop := g.startCheckpoints(c)
	defer stop()

	id, err := participant.New("shop", "inventory").RequestCheckpoint(t.Context(), "127.0.0.1:1,"+addr)
	if err != nil || id != 7 {
		t.Fatalf("checkpoint %d, %v", id, err)
	}
	first, second := <-c.requests, <-c.requests
	if first.Group != "shop" || first.RequestedBy != "inventory" || first.Wait || len(first.Participants) > 0 {
		t.Fatalf("asked for %v", first)
	}
	if first.Token == "" || first.Token != second.Token {
		t.Fatalf("tokens %q and %q of one request", first.Token, second.Token)
	}
}

// Without it a participant would take an attempt that gave up for a checkpoint,
// or could not tell what is wrong with its request.
func TestRequestCheckpointRefused(t *testing.T) {
	for _, tt := range []struct {
		name   string
		app    *participant.App
		answer *pb.CheckpointInfo
		err    error
		right  func(error) bool
	}{
		{
			name: "abandoned", app: participant.New("shop", "inventory"),
			answer: &pb.CheckpointInfo{Id: 8, State: "abandoned", Reason: "still preparing after 10s", Transaction: "order-17", Participant: "ledger"},
			right: func(err error) bool {
				var no *participant.CheckpointError
				return errors.As(err, &no) && no.ID == 8 && no.State == "abandoned" && no.Transaction == "order-17" && no.Participant == "ledger" &&
					err.Error() == "checkpoint 8 of group shop was abandoned: still preparing after 10s (transaction order-17) (participant ledger)"
			},
		},
		{
			name: "failed", app: participant.New("shop", "inventory"),
			answer: &pb.CheckpointInfo{Id: 9, State: "failed", Reason: "copies differ"},
			right: func(err error) bool {
				var no *participant.CheckpointError
				return errors.As(err, &no) && no.State == "failed"
			},
		},
		{
			name: "no such group", app: participant.New("shop", "inventory"), err: status.Error(codes.NotFound, "there is no group"),
			right: func(err error) bool {
				var wrong *participant.RequestError
				return errors.Is(err, participant.ErrNotFound) && errors.As(err, &wrong) && wrong.Op == "request a checkpoint"
			},
		},
		{
			name: "wrong name", app: participant.New("shop", "Inventory"),
			right: func(err error) bool { return errors.Is(err, participant.ErrInvalid) },
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			addr, stop := newFakeGroup("inventory").startCheckpoints(&fakeCheckpoints{answer: tt.answer, err: tt.err})
			defer stop()
			if id, err := tt.app.RequestCheckpoint(t.Context(), addr); id != 0 || !tt.right(err) {
				t.Fatalf("checkpoint %d, error %v", id, err)
			}
		})
	}
}

// Without it a request to a node that hangs would never come back.
func TestRequestCheckpointEndsWithItsContext(t *testing.T) {
	addr, stop := newFakeGroup("inventory").startCheckpoints(&fakeCheckpoints{})
	defer stop()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := participant.New("shop", "inventory").RequestCheckpoint(ctx, addr); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

func ExampleApp_RequestCheckpoint() {
	addr, stop := newFakeGroup("inventory").startCheckpoints(&fakeCheckpoints{answer: &pb.CheckpointInfo{Id: 3, State: "writing"}})
	defer stop()

	app := participant.New("shop", "inventory")
	id, err := app.RequestCheckpoint(context.Background(), addr)
	var no *participant.CheckpointError
	switch {
	case errors.As(err, &no):
		fmt.Println("none was taken:", no.Reason)
	case err != nil:
		fmt.Println(err)
	default:
		fmt.Println("checkpoint", id)
	}
	// Output:
	// checkpoint 3
}
