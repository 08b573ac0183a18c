package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/txlog/checkpoint"
)

// fakeNode answers what operators ask about checkpoints. What it answers goes by
// the group's name: checkout is well, busy never comes to rest, sick has damaged
// copies and restores to something else, new has no checkpoint, and flaky loses
// its answers or ends in the middle.
type fakeNode struct {
	pb.UnimplementedCheckpointsServer
	pb.UnimplementedClusterServer
	addr string
	file []byte // an export

	mu       sync.Mutex
	tokens   []string
	restores []*pb.RestoreRequest
	received bytes.Buffer
	// looked is closed when somebody lists the checkpoints of slow.
	looked chan struct{}
}

func startFakeNode(t *testing.T) *fakeNode {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &fakeNode{addr: lis.Addr().String(), file: exportFile(t), looked: make(chan struct{})}
	server := grpc.NewServer()
	pb.RegisterCheckpointsServer(server, n)
	pb.RegisterClusterServer(server, n)
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(lis) }()
	t.Cleanup(func() { server.Stop(); <-done })
	return n
}

// exportFile is a checkpoint of group checkout as a file.
func exportFile(t *testing.T) []byte {
	t.Helper()
	dir := filepath.Join(t.TempDir(), checkpoint.DirName(7))
	w, err := checkpoint.Create(dir, checkpoint.Manifest{
		Group: "checkout", Number: 7, Incarnation: 1, Position: 120, Index: 345, TimeUnixNano: at.AsTime().UnixNano(), Node: "n1",
	}, checkpoint.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, section := range []string{"meta", "outcomes", "participant/orders", "participant/stock"} {
		s, err := w.Section(section)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Add([]byte("a key of "+section), bytes.Repeat([]byte(section), 20)); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Finish(); err != nil {
		t.Fatal(err)
	}
	r, err := checkpoint.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	var file bytes.Buffer
	if err := checkpoint.WriteExport(&file, r); err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}

var at = timestamppb.New(time.Date(2026, 3, 1, 9, 30, 0, 0, time.UTC))

func participantParts() []*pb.CheckpointParticipant {
	return []*pb.CheckpointParticipant{
		{Name: "orders", Keys: 2, Bytes: 40, Digest: []byte{0x0d, 0x01}},
		{Name: "stock", Keys: 1, Bytes: 2048, Digest: []byte{0x0d, 0x02}},
	}
}

func checkpointsOf(group string) []*pb.CheckpointInfo {
	complete := &pb.CheckpointInfo{
		Group: group, Id: 7, State: "complete", Incarnation: 1, Position: 120, Time: at, Completed: at, Trigger: "operator", RequestedBy: "n1",
		PauseSeconds: 0.0012, WaitSeconds: 0.003, WriteSeconds: 1.25, Bytes: 3000, Digest: []byte{0xab, 0xcd}, MinCopies: 2,
		Participants: participantParts(),
		Copies: []*pb.CheckpointCopy{
			{Node: "n1", State: "written", Bytes: 3000, WriteSeconds: 1.25},
			{Node: "n2", State: "written", Bytes: 3000, WriteSeconds: 0.5, Rebuilt: 1},
			{Node: "n3", State: "different", Bytes: 2990, WriteSeconds: 0.5, Reason: "its digest is another one"},
		},
	}
	abandoned := &pb.CheckpointInfo{
		Group: group, Id: 8, State: "abandoned", Incarnation: 1, Position: 120, Time: at, Trigger: "interval",
		Reason: "still preparing after 10s", Transaction: "t-9", Participant: "stock", WaitSeconds: 10,
	}
	switch group {
	case "checkout":
		return []*pb.CheckpointInfo{abandoned, complete}
	case "busy":
		return []*pb.CheckpointInfo{abandoned}
	}
	return nil
}

func (n *fakeNode) CreateCheckpoint(ctx context.Context, r *pb.CreateCheckpointRequest) (*pb.CheckpointInfo, error) {
	n.mu.Lock()
	n.tokens = append(n.tokens, r.Token)
	first := len(n.tokens) == 1
	n.mu.Unlock()
	switch r.Group {
	case "flaky":
		if first {
			return nil, status.Error(codes.Unavailable, "the coordinator is gone")
		}
	case "busy":
		return checkpointsOf("busy")[0], nil
	case "sick":
		return &pb.CheckpointInfo{Group: "sick", Id: 3, State: "failed", Trigger: "operator", Reason: "n2 and n3 wrote other copies than n1", Incarnation: 1}, nil
	case "slow":
		select {
		case <-n.looked:
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		}
	case "hung":
		<-ctx.Done()
		return nil, status.FromContextError(ctx.Err()).Err()
	case "nothing":
		return nil, noGroup()
	}
	info := checkpointsOf("checkout")[1]
	info.Group, info.Only = r.Group, r.Participants
	if !r.Wait {
		info.State, info.Participants, info.Copies, info.Bytes, info.WriteSeconds = "writing", nil, nil, 0, 0
	}
	return info, nil
}

func noGroup() error {
	return status.Error(codes.NotFound, "there is no group \"nothing\"; declare it with `cohort apply -f FILE`")
}

func (n *fakeNode) ListCheckpoints(_ context.Context, r *pb.ListCheckpointsRequest) (*pb.ListCheckpointsResponse, error) {
	switch r.Group {
	case "nothing":
		return nil, noGroup()
	case "slow":
		n.mu.Lock()
		defer n.mu.Unlock()
		select {
		case <-n.looked:
		default:
			close(n.looked)
		}
		return &pb.ListCheckpointsResponse{Checkpoints: []*pb.CheckpointInfo{{
			Id: 7, State: "writing", Position: 120, Copies: []*pb.CheckpointCopy{{Node: "n1", State: "written"}, {Node: "n2", State: "none"}},
		}}}, nil
	case "":
		return &pb.ListCheckpointsResponse{Checkpoints: append(checkpointsOf("busy"), checkpointsOf("checkout")...)}, nil
	}
	out := &pb.ListCheckpointsResponse{}
	for _, c := range checkpointsOf(r.Group) {
		if r.Id == 0 || c.Id == r.Id {
			out.Checkpoints = append(out.Checkpoints, c)
		}
	}
	return out, nil
}

func (n *fakeNode) VerifyCheckpoint(r *pb.VerifyCheckpointRequest, stream grpc.ServerStreamingServer[pb.VerifyProgress]) error {
	result := &pb.VerifyResult{Whole: true}
	switch r.Group {
	case "nothing":
		return noGroup()
	case "new":
		return stream.Send(&pb.VerifyProgress{Result: result})
	case "flaky":
		return nil
	}
	for _, node := range []string{"n1", "n2"} {
		result.Copies = append(result.Copies, &pb.VerifiedCopy{Node: node, Id: 7, Whole: true, Bytes: 3000})
	}
	if r.Id == 0 {
		result.Copies = append(result.Copies, &pb.VerifiedCopy{Node: "n1", Whole: true, Bytes: 4096})
	}
	if r.Group == "sick" {
		result.Whole, result.Copies[1].Whole = false, false
		result.Copies[1].File, result.Copies[1].Section, result.Copies[1].Reason = "cp-0000000007/p-stock.zst", "participant/stock", "its SHA-256 is not that of the manifest"
	}
	for done := range uint64(3) {
		if err := stream.Send(&pb.VerifyProgress{BytesDone: done * 3000, BytesTotal: 6000}); err != nil {
			return err
		}
	}
	return stream.Send(&pb.VerifyProgress{Result: result})
}

func (n *fakeNode) ExportCheckpoint(r *pb.ExportCheckpointRequest, stream grpc.ServerStreamingServer[pb.FileChunk]) error {
	file := bytes.Clone(n.file)
	switch r.Group {
	case "nothing":
		return noGroup()
	case "sick":
		// In the data of the section, which begins a block after its name.
		file[bytes.LastIndex(file, []byte("p-stock.zst"))+530] ^= 1
	}
	half := len(file) / 2
	if err := stream.Send(&pb.FileChunk{Data: file[:half], TotalBytes: uint64(len(file))}); err != nil {
		return err
	}
	if r.Group == "flaky" {
		return status.Error(codes.DataLoss, "the copy cannot be read any more")
	}
	return stream.Send(&pb.FileChunk{Data: file[half:]})
}

func (n *fakeNode) ImportCheckpoint(stream grpc.BidiStreamingServer[pb.ImportCheckpointRequest, pb.RestoreProgress]) error {
	m, err := stream.Recv()
	if err != nil {
		return err
	}
	header := m.GetHeader()
	if header.GetAs() == "checkout" {
		return status.Error(codes.AlreadyExists, "there is a group \"checkout\" already; give a name that is free")
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		n.mu.Lock()
		n.received.Write(m.GetData())
		n.mu.Unlock()
	}
	n.mu.Lock()
	same := bytes.Equal(n.received.Bytes(), n.file) && header.GetTotalBytes() == uint64(len(n.file))
	n.received.Reset()
	n.mu.Unlock()
	if !same {
		return status.Error(codes.InvalidArgument, "the file cannot be imported: it is another one")
	}
	return tellPhases(stream.Send, restored(header.GetAs(), false))
}

func (n *fakeNode) Restore(r *pb.RestoreRequest, stream grpc.ServerStreamingServer[pb.RestoreProgress]) error {
	n.mu.Lock()
	n.restores = append(n.restores, r)
	n.mu.Unlock()
	switch r.Group {
	case "nothing":
		return noGroup()
	case "flaky":
		if err := stream.Send(&pb.RestoreProgress{Phase: "planning"}); err != nil {
			return err
		}
		return status.Error(codes.Unavailable, "the node is stopping")
	case "new":
		return nil
	case "sick":
		return status.Error(codes.FailedPrecondition, "group \"sick\": position 3 is not kept any more; the first that can be reached is 100")
	}
	group := r.As
	if r.InPlace {
		group = r.Group
	}
	return tellPhases(stream.Send, restored(group, r.InPlace))
}

func restored(group string, inPlace bool) *pb.RestoreResult {
	result := &pb.RestoreResult{
		Group: group, Incarnation: 2, Checkpoint: 7, Position: 125, Seconds: 3.5, LoadSeconds: 0.5, ReplaySeconds: 0.25,
		EntriesReplayed: 5, Bytes: 2048, Participants: participantParts(), Nodes: []string{"n1", "n2"},
	}
	if inPlace {
		result.ComeBackCheckpoint = 9
	}
	return result
}

func tellPhases(send func(*pb.RestoreProgress) error, result *pb.RestoreResult) error {
	for _, p := range []*pb.RestoreProgress{
		{Phase: "planning"}, {Phase: "hydrating"},
		{Phase: "hydrating", BytesDone: 1024, BytesTotal: 2048}, {Phase: "hydrating", BytesDone: 2048, BytesTotal: 2048},
		{Phase: "switching"}, {Result: result},
	} {
		if err := send(p); err != nil {
			return err
		}
	}
	return nil
}

func (n *fakeNode) Drill(r *pb.DrillRequest, stream grpc.ServerStreamingServer[pb.RestoreProgress]) error {
	result := restored(r.Group, false)
	result.Incarnation, result.Equal = 1, true
	switch r.Group {
	case "nothing":
		return noGroup()
	case "sick":
		result.Equal, result.Differences = false, []string{"participant stock: 1 keys with digest 0d02 were restored, 2 keys with digest 0d03 are live"}
	case "flaky":
		return nil
	}
	return tellPhases(stream.Send, result)
}

func (n *fakeNode) ListGroups(context.Context, *pb.ListGroupsRequest) (*pb.ListGroupsResponse, error) {
	return &pb.ListGroupsResponse{Groups: []*pb.GroupInfo{
		{Name: "checkout", Incarnation: 1, Replicas: []string{"n1", "n2"}, Coordinator: "n1", Version: 1, Position: 130, Participants: []string{"orders", "stock"}},
		{Name: "new", Incarnation: 1, Replicas: []string{"n1"}, Coordinator: "n1", Version: 1, Participants: []string{"orders"}},
	}}, nil
}

func (n *fakeNode) Status(context.Context, *pb.StatusRequest) (*pb.StatusResponse, error) {
	return &pb.StatusResponse{Healthy: true, Groups: []*pb.GroupStatus{
		{
			Name: "checkout", Healthy: true, Coordinator: "n1", CoordinatorEpoch: 1, Incarnation: 1, Position: 130, FirstPosition: 100, Version: 1,
			Checkpoint: 7, CheckpointPosition: 120, CheckpointTime: at, CheckpointAgeSeconds: 3723.4, CheckpointBytes: 3000, RestorableFrom: 100,
		},
		{Name: "new", Healthy: true, Coordinator: "n1", CoordinatorEpoch: 1, Incarnation: 1, Version: 1},
	}}, nil
}
