package cluster_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/participant"
)

// diarist is an instance with state of its own that speaks the API by itself: its
// state is the text of all changes, each with its position.
type diarist struct {
	t        *testing.T
	group    string
	instance string
	api      pb.ParticipantsClient
	log      pb.LogClient
	stream   pb.Participants_AttachClient
	running  sync.WaitGroup
	cancel   context.CancelFunc

	sending sync.Mutex // of stream

	mu          sync.Mutex
	changed     chan struct{}
	incarnation uint64
	applied     uint64
	state       []byte
	ready       bool
	captures    []*pb.Capture
	// lie changes what the next capture is said to be.
	lie bool
	// restoredFrom is the position of the captured state that it began with.
	restoredFrom uint64
}

const diaryName = "diary"

// startDiarist attaches an instance to a node, and brings its state up.
func startDiarist(t *testing.T, addr, group, instance string) *diarist {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &diarist{t: t, group: group, instance: instance, api: pb.NewParticipantsClient(conn), log: pb.NewLogClient(conn), cancel: cancel, changed: make(chan struct{})}
	t.Cleanup(func() { r.stop(); conn.Close() })
	r.restore(ctx)
	if r.stream, err = r.api.Attach(ctx); err != nil {
		t.Fatal(err)
	}
	r.send(&pb.InstanceMessage{Message: &pb.InstanceMessage_Hello{Hello: &pb.Hello{
		Group: group, Participant: diaryName, Instance: instance, Votes: true, OwnState: true, Position: r.applied, Incarnation: r.incarnation,
	}}})
	r.running.Go(func() { r.follow(ctx) })
	r.running.Go(func() { r.serve(ctx) })
	r.until("ready", func() bool { return r.ready })
	return r
}

func (r *diarist) stop() {
	r.cancel()
	r.running.Wait()
}

// until waits for a condition, looked at under the lock.
func (r *diarist) until(what string, condition func() bool) {
	r.t.Helper()
	timeout := time.After(patience)
	for {
		r.mu.Lock()
		ok, changed := condition(), r.changed
		r.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			r.t.Fatalf("the instance is not %s", what)
		}
	}
}

// update changes what until looks at.
func (r *diarist) update(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *diarist) send(m *pb.InstanceMessage) {
	r.sending.Lock()
	defer r.sending.Unlock()
	_ = r.stream.Send(m) // Recv tells that it has ended
}

// restore begins with the captured state, if there is one.
func (r *diarist) restore(ctx context.Context) {
	r.t.Helper()
	found, err := r.api.FindState(ctx, &pb.FindStateRequest{Group: r.group, Participant: diaryName})
	if err != nil {
		r.t.Fatal(err)
	}
	r.incarnation, r.applied = found.Incarnation, found.Base
	if c := found.Capture; c != nil {
		r.state, r.applied, r.restoredFrom = readCaptured(r.t, r.api, r.group, found), c.Position, c.Position
	}
	if found.LogFirst > r.applied+1 {
		r.t.Fatalf("the state is as of %d, and the log begins at %d", r.applied, found.LogFirst)
	}
}

// readCaptured reads a captured state in two parts.
func readCaptured(t *testing.T, api pb.ParticipantsClient, group string, found *pb.FindStateResponse) (state []byte) {
	t.Helper()
	c := found.Capture
	for len(state) == 0 || uint64(len(state)) < c.Bytes {
		ctx, cancel := context.WithCancel(t.Context())
		stream, err := api.ReadState(ctx, &pb.ReadStateRequest{
			Group: group, Participant: diaryName, Incarnation: found.Incarnation, Position: c.Position, Digest: c.Digest, Offset: uint64(len(state)),
		})
		first := len(state) == 0
		for err == nil {
			var m *pb.StateChunk
			if m, err = stream.Recv(); err == nil {
				state = append(state, m.Data...)
			}
			if first {
				break // the stream breaks after its first message
			}
		}
		cancel()
		if err != nil && err != io.EOF {
			t.Fatal(err)
		}
	}
	if sha256.Sum256(state) != [32]byte(c.Sha256) {
		t.Fatalf("%d bytes of another state", len(state))
	}
	return state
}

// follow applies the log.
func (r *diarist) follow(ctx context.Context) {
	stream, err := r.log.Follow(ctx, &pb.FollowRequest{Group: r.group, From: r.applied + 1, Participants: []string{diaryName}, Incarnation: r.incarnation})
	for err == nil {
		var m *pb.FollowResponse
		if m, err = stream.Recv(); err != nil {
			break
		}
		r.update(func() {
			for _, e := range m.Entries {
				if e.Position != r.applied+1 {
					r.t.Errorf("position %d follows %d", e.Position, r.applied)
				}
				r.applied = e.Position
				for _, c := range e.Changes {
					r.state = fmt.Appendf(r.state, "%d %s\n", e.Position, c.Value)
				}
			}
		})
	}
	if ctx.Err() == nil {
		r.t.Errorf("following: %v", err)
	}
}

// reached waits until the state is as of a position.
func (r *diarist) reached(ctx context.Context, position uint64) {
	for {
		r.mu.Lock()
		ok, changed := r.applied >= position, r.changed
		r.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

func (r *diarist) serve(ctx context.Context) {
	for {
		m, err := r.stream.Recv()
		if err != nil {
			return
		}
		switch m := m.Message.(type) {
		case *pb.NodeMessage_Activated:
			r.running.Go(func() {
				r.reached(ctx, m.Activated.Position)
				r.send(&pb.InstanceMessage{Message: &pb.InstanceMessage_Ready{Ready: &pb.Ready{ActivationEpoch: m.Activated.Epoch, Position: m.Activated.Position}}})
				r.update(func() { r.ready = true })
			})
		case *pb.NodeMessage_Step:
			r.send(&pb.InstanceMessage{Message: &pb.InstanceMessage_StepResult{StepResult: &pb.StepResult{
				Call:   m.Step.Call,
				Result: &pb.StepResult_Reply{Reply: &pb.StepReply{}},
				Ops:    []*pb.Op{{Participant: diaryName, Op: &pb.Op_Log{Log: &pb.LogChange{Change: m.Step.Payload}}}},
			}}})
		case *pb.NodeMessage_Prepare:
			r.send(&pb.InstanceMessage{Message: &pb.InstanceMessage_Vote{Vote: &pb.Vote{Call: m.Prepare.Call, Yes: true}}})
		case *pb.NodeMessage_Capture:
			r.running.Go(func() { r.capture(ctx, m.Capture) })
		case *pb.NodeMessage_Refused:
			r.t.Errorf("refused: %v", m.Refused)
		}
	}
}

// capture answers with the state as of the position, and brings it.
func (r *diarist) capture(ctx context.Context, c *pb.Capture) {
	r.reached(ctx, c.Position)
	r.mu.Lock()
	state, applied, lie := r.state, r.applied, r.lie
	r.lie = false
	r.mu.Unlock()
	captured := &pb.Captured{Checkpoint: c.Checkpoint, Position: c.Position, ActivationEpoch: c.ActivationEpoch}
	if applied != c.Position {
		captured.Failure = fmt.Sprintf("the state is as of %d", applied)
	}
	r.send(&pb.InstanceMessage{Message: &pb.InstanceMessage_Captured{Captured: captured}})
	sum := sha256.Sum256(state)
	if lie {
		sum[0]++
	}
	header := &pb.CaptureHeader{
		Group: r.group, Participant: diaryName, Instance: r.instance, Checkpoint: c.Checkpoint, Position: c.Position, ActivationEpoch: c.ActivationEpoch, Incarnation: r.incarnation,
	}
	for half := true; ; half = false {
		done, err := r.upload(ctx, header, state, sum, half)
		if done || ctx.Err() != nil || lie && !half {
			return
		}
		if err != nil {
			r.t.Errorf("bringing the state: %v", err)
			return
		}
	}
}

// upload brings the state, or the first half of what is wanted of it.
func (r *diarist) upload(ctx context.Context, header *pb.CaptureHeader, state []byte, sum [32]byte, half bool) (done bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := r.api.WriteCapture(ctx)
	if err != nil {
		return false, err
	}
	_ = stream.Send(&pb.CaptureChunk{Header: header})
	p, err := stream.Recv()
	if err != nil {
		return false, err
	}
	rest := state[p.Offset:]
	if half {
		rest = rest[:len(rest)/2]
	}
	for offset := p.Offset; len(rest) > 0; {
		n := min(len(rest), 256<<10)
		_ = stream.Send(&pb.CaptureChunk{Offset: offset, Data: rest[:n]})
		offset, rest = offset+uint64(n), rest[n:]
	}
	if half {
		return false, nil // the stream breaks
	}
	_ = stream.Send(&pb.CaptureChunk{End: &pb.CaptureEnd{Bytes: uint64(len(state)), Sha256: sum[:]}})
	for {
		if p, err = stream.Recv(); err != nil || p.Done {
			return err == nil, err
		}
	}
}

func (r *diarist) text() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return string(r.state)
}

const diaryGroup = `group: vault
participants: [{name: left}, {name: right}, {name: diary}]
checkpoint: {interval: 1h, log_bytes: 0, log_entries: 0, min_gap: 1ms, max_wait: 10s, max_pause: 2s}
`

// eventually waits for what nobody tells of.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited for %s", what)
		}
	}
}

// write commits an entry of the diary, and gives its line.
func (v *vault) write(group, text string) string {
	v.t.Helper()
	receipt, err := v.b.group(group).Run(v.t.Context(), func(tx *participant.Tx) error {
		if err := tx.Store("left").Add(account(0), 0); err != nil {
			return err
		}
		return tx.Call(diaryName, "write", []byte(text), nil)
	})
	if err != nil {
		v.t.Fatal(err)
	}
	return fmt.Sprintf("%d %s\n", receipt.Position, text)
}

// captured takes a checkpoint that must be complete, and gives the diary's state
// in it.
func (v *vault) captured() (*pb.CheckpointInfo, *pb.CheckpointState) {
	v.t.Helper()
	info := v.create(&pb.CreateCheckpointRequest{Wait: true})
	if info.State != "complete" {
		v.t.Fatalf("checkpoint %d is %s: %s", info.Id, info.State, info.Reason)
	}
	for _, p := range info.Participants {
		if p.Name == diaryName && p.State != nil {
			return info, p.State
		}
	}
	v.t.Fatalf("checkpoint %d has no state of %s: %v", info.Id, diaryName, info.Participants)
	return nil, nil
}

// Would break: participants with state of their own. It is not the group's at the
// cut, or not on every node; a participant that is down costs the group its
// checkpoints, or its state; and a restore to any later position lacks the state,
// or the log from it on.
func TestOwnStateOverTheAPI(t *testing.T) {
	v := openVault(t, diaryGroup)
	var addrs []string
	for _, m := range v.cluster.Members() {
		addrs = append(addrs, m.Addr)
	}
	diary := startDiarist(t, addrs[0], "vault", strings.Repeat("01", 16))
	var want string
	for n := range 40 {
		want += v.write("vault", fmt.Sprintf("%d %s", n, strings.Repeat(fmt.Sprint(n), 60_000)))
	}
	first, state := v.captured()
	if state.State != "captured" || state.Position != first.Position || state.Bytes != uint64(len(want)) {
		t.Fatalf("the checkpoint at %d has %v, and %d bytes were written", first.Position, state, len(want))
	}
	for _, addr := range addrs {
		conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		api := pb.NewParticipantsClient(conn)
		var found *pb.FindStateResponse
		eventually(t, "the node to know the captured state", func() bool {
			found, err = api.FindState(t.Context(), &pb.FindStateRequest{Group: "vault", Participant: diaryName})
			return err == nil && found.Capture != nil
		})
		if got := readCaptured(t, api, "vault", found); string(got) != want {
			t.Fatalf("%s gives another state, of %d bytes", addr, len(got))
		}
		conn.Close()
	}

	// A state that is not what it is said to be: no checkpoint, and a reason.
	diary.mu.Lock()
	diary.lie = true
	diary.mu.Unlock()
	failed := v.create(&pb.CreateCheckpointRequest{Wait: true})
	if failed.State != "abandoned" || failed.Participant != diaryName || failed.Reason == "" {
		t.Fatalf("a lie: %v", failed)
	}
	want += v.write("vault", "after")

	// Down, and the others go on: the state is that of before, with the log.
	diary.stop()
	eventually(t, "the instance to be gone", func() bool {
		_, err := v.b.group("vault").Run(t.Context(), func(tx *participant.Tx) error { return tx.Store("left").Add(account(0), 0) })
		return err == nil
	})
	var second *pb.CheckpointInfo
	eventually(t, "a checkpoint without the instance", func() bool {
		second = v.create(&pb.CreateCheckpointRequest{Wait: true})
		return second.State == "complete"
	})
	for _, p := range second.Participants {
		if s := p.State; p.Name == diaryName && (s.GetState() != "inherited" || s.GetPosition() != first.Position) {
			t.Fatalf("the state of one that is down: %v", s)
		}
	}
	stream, err := v.checkpoints.ExportCheckpoint(t.Context(), &pb.ExportCheckpointRequest{Group: "vault", Id: second.Id})
	if err == nil {
		_, err = stream.Recv()
	}
	mustRefuse(t, err, codes.FailedPrecondition, diaryName, "would not be in the file")

	// Restored to a position after both, from the second one.
	diary = startDiarist(t, addrs[1], "vault", strings.Repeat("02", 16))
	for n := range 3 {
		want += v.write("vault", fmt.Sprint("more ", n))
	}
	position := second.Position + 2
	if _, err := v.restore(&pb.RestoreRequest{To: &pb.RestoreRequest_Position{Position: position}, As: "copy"}); err != nil {
		t.Fatal(err)
	}
	copied := startDiarist(t, addrs[2], "copy", strings.Repeat("03", 16))
	until := strings.SplitAfter(want, "\n")
	wantCopy := strings.Join(until[:len(until)-2], "")
	if got := copied.text(); got != wantCopy || copied.restoredFrom != first.Position || copied.applied != position {
		t.Fatalf("restored from %d and applied to %d: %d bytes, want %d", copied.restoredFrom, copied.applied, len(got), len(wantCopy))
	}
	line := v.write("copy", "in the copy")
	copied.until("at the new entry", func() bool { return strings.HasSuffix(string(copied.state), line) })
	copied.stop()

	// Exported with its state, and imported.
	third, state := v.captured()
	if state.State != "captured" {
		t.Fatal(state)
	}
	if _, err := v.importFile(v.exportFile(third.Id), "moved"); err != nil {
		t.Fatal(err)
	}
	moved := startDiarist(t, addrs[0], "moved", strings.Repeat("04", 16))
	if moved.text() != want || moved.restoredFrom != third.Position {
		t.Fatalf("imported from %d: %d bytes, want %d", moved.restoredFrom, len(moved.text()), len(want))
	}
	moved.stop()

	// A drill, and the way back in place.
	drill, err := v.checkpoints.Drill(t.Context(), &pb.DrillRequest{Group: "vault"})
	if err != nil {
		t.Fatal(err)
	}
	if drilled, err := lastResult(drill); err != nil || !drilled.Equal {
		t.Fatalf("drill: %v, %v", drilled, err)
	}
	diary.stop()
	if _, err := v.restore(&pb.RestoreRequest{To: &pb.RestoreRequest_Position{Position: position}, InPlace: true}); err != nil {
		t.Fatal(err)
	}
	back := startDiarist(t, addrs[1], "vault", strings.Repeat("05", 16))
	if back.text() != wantCopy || back.incarnation != 2 {
		t.Fatalf("in place: %d bytes of incarnation %d, want %d", len(back.text()), back.incarnation, len(wantCopy))
	}
	line = v.write("vault", "again")
	back.until("at the new entry", func() bool { return strings.HasSuffix(string(back.state), line) })
}
