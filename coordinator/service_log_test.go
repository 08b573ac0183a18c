package coordinator

import (
	"context"
	"errors"
	"io"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/txlog"
	"github.com/cohort-tx/cohort/txlog/command"
)

func follow(t *testing.T, n *testNode, req *pb.FollowRequest) pb.Log_FollowClient {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	req.Group = "checkout"
	stream, err := pb.NewLogClient(n.conn).Follow(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

func someEntry(id string) command.Entry {
	return command.Entry{ID: id, Changes: []command.Change{
		{Kind: command.OpPut, Participant: "orders", Key: "k", Value: []byte("v")},
		{Kind: command.OpAdd, Participant: "ledger", Key: "n", Value: []byte("5"), Delta: 2},
	}}
}

// Without it followers would miss entries, or see them out of place.
func TestFollow(t *testing.T) {
	c := newTestCluster(t, 2, 1)
	replica := c.lead(0, &fakeTransactor{})[0]
	replica.append(someEntry("a"), someEntry("b"))
	for _, n := range c.nodes { // n2 has no replica and passes the stream on
		stream := follow(t, n, &pb.FollowRequest{From: 2, Participants: []string{"ledger"}})
		m, err := stream.Recv()
		if err != nil || len(m.GetEntries()) != 1 || m.GetIncarnation() != 1 {
			t.Fatalf("%s: %v, %v", n.name, m, err)
		}
		e := m.GetEntries()[0]
		if e.GetId() == "" || len(e.GetChanges()) != 1 || e.GetChanges()[0].GetKind() != pb.Change_KIND_ADD || e.GetChanges()[0].GetDelta() != 2 || string(e.GetChanges()[0].GetValue()) != "5" {
			t.Fatalf("%s: entry %v", n.name, e)
		}
		next := e.GetPosition() + 1
		replica.append(someEntry("later"))
		if m, err = stream.Recv(); err != nil || m.GetEntries()[0].GetPosition() != next || m.GetEnd() != next {
			t.Fatalf("%s: %v, %v", n.name, m, err)
		}
		replica.mu.Lock()
		replica.entries = replica.entries[:2]
		replica.mu.Unlock()
	}
}

func TestFollowWithoutWaiting(t *testing.T) {
	c := newTestCluster(t, 2, 1)
	replica := c.lead(0, &fakeTransactor{})[0]
	for range 600 { // more than one message
		replica.append(someEntry("x"))
	}
	for _, n := range c.nodes {
		stream := follow(t, n, &pb.FollowRequest{NoWait: true})
		next := uint64(1)
		for {
			m, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range m.GetEntries() {
				if e.GetPosition() != next {
					t.Fatalf("%s: position %d, want %d", n.name, e.GetPosition(), next)
				}
				next++
			}
		}
		if next != 601 {
			t.Fatalf("%s: it ended before %d", n.name, next)
		}
		// From beyond the end there is nothing, and that is said.
		stream = follow(t, n, &pb.FollowRequest{From: 601, NoWait: true})
		if m, err := stream.Recv(); err != nil || len(m.GetEntries()) != 0 || m.GetEnd() != 600 {
			t.Fatalf("%s: %v, %v", n.name, m, err)
		}
		if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
			t.Fatalf("%s: %v", n.name, err)
		}
	}
}

// Without it a replica that is behind would pass its own end off as the log's.
func TestFollowEndsWhereTheLogDoes(t *testing.T) {
	c := newTestCluster(t, 1, 1)
	replica := c.lead(0, &fakeTransactor{})[0]
	replica.append(someEntry("x"))
	replica.mu.Lock()
	replica.readIndex = func(context.Context) (uint64, error) { return 0, txlog.ErrNotReady }
	replica.mu.Unlock()
	if m, err := follow(t, c.nodes[0], &pb.FollowRequest{NoWait: true}).Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("without a leader: %v, %v", m, err)
	}
	m, err := follow(t, c.nodes[0], &pb.FollowRequest{NoWait: true, Stale: true}).Recv()
	if err != nil || len(m.GetEntries()) != 1 {
		t.Errorf("stale: %v, %v", m, err)
	}
}

// Without it a follower would take another log's entries for the ones it wants.
func TestFollowRefuses(t *testing.T) {
	c := newTestCluster(t, 2, 1)
	replica := c.lead(0, &fakeTransactor{})[0]
	replica.first, replica.incarnation = 10, 2
	for _, n := range c.nodes {
		_, err := follow(t, n, &pb.FollowRequest{Incarnation: 1, From: 10}).Recv()
		if info := wantFailure(t, err, codes.FailedPrecondition, reasonIncarnation); info.GetMetadata()["incarnation"] != "2" {
			t.Errorf("%s: %v", n.name, info)
		}
		_, err = follow(t, n, &pb.FollowRequest{From: 3}).Recv()
		if info := wantFailure(t, err, codes.OutOfRange, reasonTruncated); info.GetMetadata()["first_position"] != "10" {
			t.Errorf("%s: %v", n.name, info)
		}
		_, err = follow(t, n, &pb.FollowRequest{Participants: []string{"stock"}}).Recv()
		wantFailure(t, err, codes.InvalidArgument, reasonInvalid)
	}
}

// Without it entries of a new life of the log would follow those of the old one.
func TestFollowEndsWithTheIncarnation(t *testing.T) {
	c := newTestCluster(t, 1, 1)
	replica := c.lead(0, &fakeTransactor{})[0]
	replica.append(someEntry("a"))
	stream := follow(t, c.nodes[0], &pb.FollowRequest{})
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	replica.mu.Lock()
	replica.incarnation = 2
	replica.mu.Unlock()
	replica.append(someEntry("b"))
	for {
		m, err := stream.Recv()
		if err == nil && m.GetIncarnation() == 1 && m.GetEntries()[0].GetId() == "b" {
			t.Fatal("an entry of incarnation 2 came as one of incarnation 1")
		}
		if err != nil {
			wantFailure(t, err, codes.FailedPrecondition, reasonIncarnation)
			return
		}
	}
}
