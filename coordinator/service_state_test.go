package coordinator

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/groups"
	"github.com/cohort-tx/cohort/txlog"
	"github.com/cohort-tx/cohort/txlog/checkpoint"
	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/machine"
)

// capturing is a cluster of a node with a real replica and keeper, one without a
// replica, and one that does what a coordinator does for captures.
type capturing struct {
	t       testing.TB
	replica *txlog.Replica
	keeper  *txlog.Keeper
	// with has the replica, without has none.
	with, without pb.ParticipantsClient
	peers         pb.PeersClient
	number        int
}

// peersOfCoordinator proposes what is reported.
type peersOfCoordinator struct {
	pb.UnimplementedPeersServer
	c *capturing
}

func (p *peersOfCoordinator) ReportCapture(_ context.Context, req *pb.ReportCaptureRequest) (*pb.ReportCaptureResponse, error) {
	report := &command.ReportCapture{
		Number: req.GetCheckpoint(), Participant: req.GetParticipant(), Epoch: req.GetActivationEpoch(), Position: req.GetPosition(), Failure: req.GetFailure(),
	}
	if report.Failure == "" {
		report.Node = req.GetNode()
		report.Section = command.Section{Name: checkpoint.StateSection(req.GetParticipant()), Keys: req.GetRecords(), Bytes: req.GetSectionBytes(), Digest: [32]byte(req.GetDigest())}
		report.Bytes, report.SHA256 = req.GetBytes(), [32]byte(req.GetSha256())
	}
	p.c.propose(report)
	return &pb.ReportCaptureResponse{}, nil
}

func newCapturing(t testing.TB) *capturing {
	t.Helper()
	c := &capturing{t: t, replica: newRealReplica(t)}
	definition := groups.Default("checkout", "orders", "ledger")
	data, err := definition.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	participants, limits := definition.MachineConfig()
	c.propose(&command.Configure{Version: 1, Incarnation: 1, Participants: participants, Limits: limits, Definition: data},
		&command.FeatureLevel{Level: 3})
	c.commit("before")
	cluster := newTestCluster(t, 2, 1)
	c.with, c.without = pb.NewParticipantsClient(cluster.nodes[0].conn), pb.NewParticipantsClient(cluster.nodes[1].conn)
	c.peers = pb.NewPeersClient(cluster.nodes[0].conn)
	c.lead(cluster)
	c.keeper, err = txlog.StartKeeper(txlog.KeeperConfig{
		Replica: c.replica, Node: "n1", Dir: t.TempDir(),
		Policy: func([]byte) (txlog.KeepPolicy, error) { return txlog.KeepPolicy{}, nil },
		Report: func(_ context.Context, r txlog.Report) error {
			for i := range r.Copies {
				c.propose(&r.Copies[i])
			}
			return nil
		},
		ReportState: func(ctx context.Context, r command.ReportCapture) error {
			return cluster.nodes[0].service.ReportCaptured(ctx, "checkout", &r)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.keeper.Close)
	cluster.nodes[0].run(LocalGroup{Replica: LocalReplicaOf(c.replica), Keeper: c.keeper, Leader: "n3"})
	return c
}

// lead makes a server that coordinates, as n3.
func (c *capturing) lead(cluster *testCluster) {
	c.t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	server := grpc.NewServer()
	pb.RegisterPeersServer(server, &peersOfCoordinator{c: c})
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	c.t.Cleanup(func() { server.Stop(); serving.Wait() })
	if _, err := cluster.directory.apply(map[string]any{"register_node": groups.RegisterNode{
		Name: "n3", ReplicaID: 3, APIAddress: listener.Addr().String(), RaftAddress: "127.0.0.1:3", DataID: "n3",
	}}); err != nil {
		c.t.Fatal(err)
	}
}

// propose has commands done.
func (c *capturing) propose(commands ...command.Command) []command.Result {
	c.t.Helper()
	for {
		batch := &command.Batch{Epoch: c.replica.Leadership().Term, TimeUnixNano: time.Now().UnixNano(), Commands: append([]command.Command{&command.RaiseEpoch{Node: "n1"}}, commands...)}
		if slices.ContainsFunc(commands, func(c command.Command) bool { _, alone := c.(*command.Checkpoint); return alone }) {
			batch.Commands = commands
		}
		results, err := Of(c.replica).Propose(ctx, batch, 5*time.Second)
		if errors.Is(err, txlog.ErrDropped) || errors.Is(err, txlog.ErrNotReady) {
			continue // an election
		}
		if err != nil {
			c.t.Error(err)
			return nil
		}
		return results[len(results)-len(commands):]
	}
}

func (c *capturing) commit(id string) {
	c.t.Helper()
	results := c.propose(&command.Decide{Attempt: command.Attempt{ID: id, Begun: c.replica.Published()}, Ops: []command.Op{put("ledger", id, "x")}})
	if results[0].Status != command.StatusCommitted {
		c.t.Fatalf("%+v", results)
	}
}

// cut records a checkpoint that wants the state of orders, and gives the header
// that its instance sends.
func (c *capturing) cut() *pb.CaptureHeader {
	c.t.Helper()
	c.number++
	number := c.propose(&command.Checkpoint{
		CheckpointRequest: command.CheckpointRequest{Token: uintText(uint64(c.number)), Trigger: command.TriggerOperator},
		Members:           []string{"n1"}, Captures: []string{"orders"},
	})[0].Number
	wanted := c.record(number)
	return &pb.CaptureHeader{
		Group: "checkout", Participant: "orders", Checkpoint: number, Position: wanted.Position, ActivationEpoch: wanted.Captures[0].Epoch, Incarnation: 1,
	}
}

func (c *capturing) record(number uint64) machine.Checkpoint {
	c.t.Helper()
	snap, err := c.replica.Snapshot(0)
	if err != nil {
		c.t.Fatal(err)
	}
	defer snap.Close()
	record, _, err := machine.ReadCheckpoint(snap.Reader(), number)
	if err != nil {
		c.t.Fatal(err)
	}
	return record
}

// someState is a state of n bytes.
func someState(n int) []byte {
	b := make([]byte, 0, n+8)
	for i := uint64(1); len(b) < n; i++ {
		b = binary.BigEndian.AppendUint64(b, i*0x9e3779b97f4a7c15)
	}
	return b[:n]
}

// writing is a stream of WriteCapture.
type writing struct {
	t      testing.TB
	stream grpc.BidiStreamingClient[pb.CaptureChunk, pb.CaptureProgress]
	cancel func()
}

// write opens a stream and gives the offset that the node wants.
func (c *capturing) write(at pb.ParticipantsClient, header *pb.CaptureHeader) (*writing, uint64) {
	c.t.Helper()
	ctx, cancel := context.WithCancel(c.t.Context())
	stream, err := at.WriteCapture(ctx)
	if err != nil {
		c.t.Fatal(err)
	}
	w := &writing{t: c.t, stream: stream, cancel: cancel}
	w.send(&pb.CaptureChunk{Header: header})
	progress, err := stream.Recv()
	if err != nil {
		c.t.Fatal(err)
	}
	return w, progress.GetOffset()
}

func (w *writing) send(m *pb.CaptureChunk) {
	w.t.Helper()
	if err := w.stream.Send(m); err != nil && !isEOF(err) { // Recv tells why
		w.t.Fatal(err)
	}
}

// bytes sends a part of a state, in chunks.
func (w *writing) bytes(state []byte, from, to int) {
	w.t.Helper()
	for from < to {
		n := min(to-from, 256<<10)
		w.send(&pb.CaptureChunk{Offset: uint64(from), Data: state[from : from+n]})
		from += n
	}
}

func (w *writing) end(state []byte) {
	w.t.Helper()
	sum := sha256.Sum256(state)
	w.send(&pb.CaptureChunk{End: &pb.CaptureEnd{Bytes: uint64(len(state)), Sha256: sum[:]}})
}

// done waits for the last answer.
func (w *writing) done() error {
	defer w.cancel()
	for {
		p, err := w.stream.Recv()
		if err != nil || p.GetDone() {
			return err
		}
	}
}

// put captures a whole state.
func (c *capturing) put(at pb.ParticipantsClient, header *pb.CaptureHeader, state []byte) {
	c.t.Helper()
	w, offset := c.write(at, header)
	w.bytes(state, int(offset), len(state))
	w.end(state)
	if err := w.done(); err != nil {
		c.t.Fatal(err)
	}
}

// read reads a state back from an offset on.
func (c *capturing) read(at pb.ParticipantsClient, found *pb.CapturedState, offset uint64) ([]byte, error) {
	stream, err := at.ReadState(c.t.Context(), &pb.ReadStateRequest{
		Group: "checkout", Participant: "orders", Incarnation: 1, Position: found.GetPosition(), Digest: found.GetDigest(), Offset: offset,
	})
	if err != nil {
		return nil, err
	}
	var data []byte
	for {
		m, err := stream.Recv()
		if err == io.EOF {
			return data, nil
		}
		if err != nil {
			return data, err
		}
		if m.GetOffset() != offset+uint64(len(data)) {
			c.t.Fatalf("offset %d after %d bytes from %d", m.GetOffset(), len(data), offset)
		}
		data = append(data, m.GetData()...)
	}
}

func (c *capturing) find(at pb.ParticipantsClient) *pb.FindStateResponse {
	c.t.Helper()
	found, err := at.FindState(c.t.Context(), &pb.FindStateRequest{Group: "checkout", Participant: "orders"})
	if err != nil {
		c.t.Fatal(err)
	}
	return found
}

func (c *capturing) complete(number uint64) {
	c.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for c.record(number).State != machine.CheckpointComplete {
		if time.Now().After(deadline) {
			c.t.Fatalf("checkpoint %d: %+v, keeper: %v", number, c.record(number), c.keeper.Problem())
		}
		c.keeper.Wake()
		time.Sleep(time.Millisecond)
	}
}

func (c *capturing) activate() {
	c.t.Helper()
	c.propose(&command.Activate{Participant: "orders", Node: "n1", Instance: "i1", OwnState: true})
}

// Would break: an instance that begins its state with the wrong position, or is
// given another state than was captured, by whichever node it asks and however
// often its streams break.
func TestCaptureAndReadState(t *testing.T) {
	c := newCapturing(t)
	for _, at := range []pb.ParticipantsClient{c.with, c.without} {
		if found := c.find(at); found.GetIncarnation() != 1 || found.GetLogFirst() != 1 || found.GetLogLast() != 1 || found.GetBase() != 1 || found.GetCapture() != nil {
			t.Fatalf("before any activation: %v", found)
		}
	}
	c.activate()
	c.commit("after")
	if found := c.find(c.without); found.GetLogLast() != 2 || found.GetBase() != 1 || found.GetCapture() != nil {
		t.Fatalf("before any capture: %v", found)
	}
	header, state := c.cut(), someState(9<<20+77)
	// One stream after the other breaks, at whichever node it was.
	for n, to := range []int{3 << 20, 3<<20 + 5, 8 << 20} {
		at := []pb.ParticipantsClient{c.with, c.without}[n%2]
		w, offset := c.write(at, header)
		w.bytes(state, int(offset), to)
		for said := offset; to-int(said) > captureAckBytes; {
			p, err := w.stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			said = p.GetOffset()
		}
		w.cancel()
	}
	w, offset := c.write(c.without, header)
	if offset < 7<<20 {
		t.Errorf("it goes on at %d, and 8 MiB but the last one were acknowledged", offset)
	}
	w.bytes(state, int(offset), len(state))
	w.end(state)
	if err := w.done(); err != nil {
		t.Fatal(err)
	}
	if record := c.record(header.Checkpoint); record.Captures[0].State != machine.CaptureStored || record.Captures[0].Node != "n1" {
		t.Fatalf("done, and the log says %+v", record.Captures)
	}
	// The last answer was lost: it is given again, for nothing.
	w, offset = c.write(c.with, header)
	if offset != uint64(len(state)) {
		t.Errorf("a recorded one is wanted from %d on", offset)
	}
	w.cancel()
	c.complete(header.Checkpoint)
	c.commit("later")
	sum := sha256.Sum256(state)
	for _, at := range []pb.ParticipantsClient{c.with, c.without} {
		found := c.find(at)
		if s := found.GetCapture(); s.GetCheckpoint() != header.Checkpoint || s.GetPosition() != 2 || s.GetBytes() != uint64(len(state)) || !bytes.Equal(s.GetSha256(), sum[:]) || found.GetLogLast() != 3 {
			t.Fatalf("found %v", found)
		}
		for _, offset := range []int{0, 1, 5 << 20, len(state)} {
			data, err := c.read(at, found.GetCapture(), uint64(offset))
			if err != nil || !bytes.Equal(data, state[offset:]) {
				t.Fatalf("from %d: %d bytes, %v", offset, len(data), err)
			}
		}
	}
	// Another node fetches the file, in two parts.
	found := c.find(c.with).GetCapture()
	var file []byte
	for _, offset := range []uint64{0, 100_000} {
		stream, err := c.peers.FetchCapture(t.Context(), &pb.FetchCaptureRequest{Group: "checkout", Participant: "orders", Position: found.GetPosition(), Digest: found.GetDigest(), Offset: offset})
		if err != nil {
			t.Fatal(err)
		}
		part, err := io.ReadAll(&chunkReader{from: stream, cancel: func() {}})
		if err != nil || offset > 0 && !bytes.Equal(part, file[offset:]) {
			t.Fatalf("from %d: %d bytes, %v", offset, len(part), err)
		}
		file = part[:len(part):len(part)]
	}
}

// Would break: an instance of another life of the participant, or of the group,
// has its state taken, or is given one that is not its own.
func TestStateOfAnotherLifeIsRefused(t *testing.T) {
	c := newCapturing(t)
	c.activate()
	header, state := c.cut(), someState(1000)
	for what, change := range map[string]func(h *pb.CaptureHeader){
		"another activation":  func(h *pb.CaptureHeader) { h.ActivationEpoch++ },
		"another incarnation": func(h *pb.CaptureHeader) { h.Incarnation++ },
		"another position":    func(h *pb.CaptureHeader) { h.Position++ },
		"another checkpoint":  func(h *pb.CaptureHeader) { h.Checkpoint++ },
		"another participant": func(h *pb.CaptureHeader) { h.Participant = "ledger" },
	} {
		for _, at := range []pb.ParticipantsClient{c.with, c.without} {
			h := &pb.CaptureHeader{
				Group: header.Group, Participant: header.Participant, Checkpoint: header.Checkpoint, Position: header.Position,
				ActivationEpoch: header.ActivationEpoch, Incarnation: header.Incarnation,
			}
			change(h)
			stream, err := at.WriteCapture(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			_ = stream.Send(&pb.CaptureChunk{Header: h})
			if _, err = stream.Recv(); status.Code(err) != codes.FailedPrecondition {
				t.Fatalf("%s: %v", what, err)
			}
			wantFailure(t, err, codes.FailedPrecondition, reasonNotWanted)
		}
	}
	c.put(c.with, header, state)
	c.complete(header.Checkpoint)
	found := c.find(c.with).GetCapture()
	for what, want := range map[string]struct {
		req    *pb.ReadStateRequest
		code   codes.Code
		reason string
	}{
		"another incarnation": {&pb.ReadStateRequest{Incarnation: 2, Position: found.GetPosition(), Digest: found.GetDigest()}, codes.FailedPrecondition, reasonIncarnation},
		"another position":    {&pb.ReadStateRequest{Incarnation: 1, Position: 9, Digest: found.GetDigest()}, codes.NotFound, reasonUnknownCheckpoint},
		"another digest":      {&pb.ReadStateRequest{Incarnation: 1, Position: found.GetPosition(), Digest: make([]byte, 32)}, codes.NotFound, reasonUnknownCheckpoint},
		"behind its end":      {&pb.ReadStateRequest{Incarnation: 1, Position: found.GetPosition(), Digest: found.GetDigest(), Offset: 1001}, codes.InvalidArgument, reasonInvalid},
		"no digest":           {&pb.ReadStateRequest{Incarnation: 1, Position: found.GetPosition(), Digest: []byte("x")}, codes.InvalidArgument, reasonInvalid},
	} {
		want.req.Group, want.req.Participant = "checkout", "orders"
		stream, err := c.without.ReadState(t.Context(), want.req)
		if err == nil {
			_, err = stream.Recv()
		}
		t.Log(what)
		wantFailure(t, err, want.code, want.reason)
	}
	if _, err := c.with.FindState(t.Context(), &pb.FindStateRequest{Group: "checkout", Participant: "nobody"}); status.Code(err) != codes.InvalidArgument {
		t.Fatal(err)
	}
}

// Would break: a state that is not what its instance says becomes the checkpoint's;
// or the checkpoint waits for one that will never come.
func TestStateThatIsNotWhatItIsSaidToBe(t *testing.T) {
	c := newCapturing(t)
	c.activate()
	state := someState(300_000)
	for what, lie := range map[string]func(w *writing){
		"another sum":  func(w *writing) { w.end(append(slices.Clone(state[:len(state)-1]), 'x')) },
		"another size": func(w *writing) { w.end(state[:len(state)-1]) },
	} {
		header := c.cut()
		w, _ := c.write(c.without, header)
		w.bytes(state, 0, len(state))
		lie(w)
		if err := w.done(); status.Code(err) != codes.InvalidArgument {
			t.Fatalf("%s: %v", what, err)
		}
		record := c.record(header.Checkpoint)
		if record.State != machine.CheckpointAbandoned || record.Participant != "orders" || !strings.Contains(record.Detail, "is said to have") {
			t.Fatalf("%s: %s of %s: %s", what, record.State, record.Participant, record.Detail)
		}
	}
	// What is no state at all is refused, and another stream may go on.
	header := c.cut()
	for what, send := range map[string]func(w *writing){
		"a gap":                func(w *writing) { w.send(&pb.CaptureChunk{Offset: 5, Data: []byte("x")}) },
		"a second header":      func(w *writing) { w.send(&pb.CaptureChunk{Header: header}) },
		"a chunk too large":    func(w *writing) { w.send(&pb.CaptureChunk{Data: make([]byte, maxCaptureChunk+1)}) },
		"an end without a sum": func(w *writing) { w.send(&pb.CaptureChunk{End: &pb.CaptureEnd{}}) },
		"no end":               func(w *writing) { _ = w.stream.CloseSend() },
	} {
		w, offset := c.write(c.with, header)
		if offset != 0 {
			t.Fatalf("%s: begins at %d", what, offset)
		}
		send(w)
		if err := w.done(); status.Code(err) != codes.InvalidArgument {
			t.Fatalf("%s: %v", what, err)
		}
	}
	c.put(c.with, header, state)
	c.complete(header.Checkpoint)
}

// BenchmarkReadState reads a captured state from its file to an instance.
func BenchmarkReadState(b *testing.B) {
	c := newCapturing(b)
	c.activate()
	header, state := c.cut(), someState(64<<20)
	c.put(c.with, header, state)
	c.complete(header.Checkpoint)
	found := c.find(c.with).GetCapture()
	b.SetBytes(int64(len(state)))
	for b.Loop() {
		stream, err := c.with.ReadState(b.Context(), &pb.ReadStateRequest{Group: "checkout", Participant: "orders", Incarnation: 1, Position: found.GetPosition(), Digest: found.GetDigest()})
		if err != nil {
			b.Fatal(err)
		}
		sum := sha256.New()
		for {
			m, err := stream.Recv()
			if err == io.EOF {
				break
			}
			if err != nil {
				b.Fatal(err)
			}
			sum.Write(m.GetData())
		}
		if !bytes.Equal(sum.Sum(nil), found.GetSha256()) {
			b.Fatal("another state")
		}
	}
}

// BenchmarkWriteCapture takes a captured state from an instance, to the record in
// the log.
func BenchmarkWriteCapture(b *testing.B) {
	c := newCapturing(b)
	c.activate()
	state := someState(64 << 20)
	b.SetBytes(int64(len(state)))
	for b.Loop() {
		c.put(c.with, c.cut(), state)
	}
}
