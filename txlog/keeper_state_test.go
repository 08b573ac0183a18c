package txlog

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cohort-tx/cohort/txlog/checkpoint"
	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/machine"
)

// ownState brings the group to the level of captured states, and makes participant
// a one with state of its own.
func (k *keeping) ownState() {
	k.t.Helper()
	k.do(&command.FeatureLevel{Level: 3})
	k.do(&command.Activate{Participant: "a", Node: "n1", Instance: "i1", OwnState: true})
}

// cutStates records a checkpoint of all participants that asks for states.
func (k *keeping) cutStates(asked ...string) machine.Checkpoint {
	k.t.Helper()
	k.ids++
	c := &command.Checkpoint{CheckpointRequest: command.CheckpointRequest{Token: fmt.Sprintf("c%d", k.ids), Trigger: command.TriggerOperator}, Captures: asked}
	for id := range k.addrs {
		c.Members = append(c.Members, nodeName(id))
	}
	number := k.do(c)[0].Number
	r, _ := k.office()
	return k.record(r, number)
}

// randomState does not compress, so that its file has several blocks.
func randomState(n int, seed uint64) []byte {
	b := make([]byte, n)
	random := rand.NewChaCha8([32]byte{byte(seed)})
	_, _ = random.Read(b)
	return b
}

// capture brings the state of a to a node, as an instance does.
func (k *keeping) capture(id uint64, c *machine.Checkpoint, state []byte) command.ReportCapture {
	k.t.Helper()
	keeper := k.keepers[id]
	wanted := c.Captures[0]
	upload := checkpoint.UploadID{Participant: wanted.Participant, Checkpoint: c.Number, Position: wanted.Position, Epoch: wanted.Epoch}
	k.eventually("the node to know the checkpoint", func() bool {
		_, err := keeper.Captured(c.Incarnation, upload)
		return err == nil
	})
	_, u, release, err := keeper.Upload(k.t.Context(), upload)
	if err != nil {
		k.t.Fatal(err)
	}
	defer release()
	if _, err := u.Write(state[u.Offset():]); err != nil {
		k.t.Fatal(err)
	}
	report, err := u.Store(nodeName(id), uint64(len(state)), sha256.Sum256(state))
	if err != nil {
		k.t.Fatal(err)
	}
	return report
}

// captured takes a checkpoint with the state of a, which is brought to node 1.
func (k *keeping) captured(state []byte, nodes ...uint64) machine.Checkpoint {
	k.t.Helper()
	c := k.cutStates("a")
	k.do(new(k.capture(1, &c, state)))
	return k.complete(c.Number, nodes...)
}

// fetchState gives another node's file.
func (k *keeping) fetchState(id uint64, s *machine.Capture, offset uint64) (io.ReadCloser, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	err := ErrNoState
	for n, keeper := range k.keepers {
		if n == id {
			continue
		}
		path, release, holdErr := keeper.HoldState(stateID(s))
		if holdErr != nil {
			err = holdErr
			continue
		}
		defer release()
		f, openErr := os.Open(path)
		if openErr != nil {
			return nil, openErr
		}
		_, err = f.Seek(int64(offset), io.SeekStart)
		return f, err
	}
	return nil, err
}

// reportState proposes what a keeper says, at the leader.
func (k *keeping) reportState(ctx context.Context, report command.ReportCapture) error {
	for _, r := range k.others(0) {
		l := r.Leadership()
		if !l.Self {
			continue
		}
		_, _, err := propose(r, &command.Batch{Epoch: l.Term, Commands: []command.Command{&report}})
		return err
	}
	return errors.New("no leader")
}

func readAllState(keeper *Keeper, id checkpoint.StateID, size int) ([]byte, error) {
	path, release, err := keeper.HoldState(id)
	if err != nil {
		return nil, err
	}
	defer release()
	in, err := checkpoint.OpenState(path, checkpoint.StateSection(id.Participant), uint64(size), 0)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(in)
	return data, errors.Join(err, in.Close())
}

// wantState checks that a node has a captured state, in a checkpoint's files and by
// itself.
func (k *keeping) wantState(id uint64, c *machine.Checkpoint, state []byte) {
	k.t.Helper()
	s := &c.Captures[0]
	got, err := readAllState(k.keepers[id], stateID(s), len(state))
	if err != nil || !bytes.Equal(got, state) {
		k.t.Fatalf("node %d has %d bytes of the state, %v", id, len(got), err)
	}
	r, err := checkpoint.Open(k.copyDir(id, c.Number))
	if err == nil {
		err = r.Verify(k.t.Context(), nil)
	}
	if err != nil {
		k.t.Fatal(err)
	}
	f := r.Manifest().Sections[len(r.Manifest().Sections)-1]
	if f.Section() != s.Section || *f.State != (checkpoint.State{Position: s.Position, Bytes: uint64(len(state)), SHA256: sha256.Sum256(state)}) {
		k.t.Fatalf("node %d: checkpoint %d holds %+v, %+v", id, c.Number, f, f.State)
	}
}

// Would break: a checkpoint that is complete without the state that a participant
// keeps by itself, or with another one on some of the nodes.
func TestCapturedStateReachesEveryNode(t *testing.T) {
	k := newKeeping(t, 3, KeepPolicy{})
	k.keep(1, 2, 3)
	k.ownState()
	k.transact(20)
	state := randomState(5<<20+99, 1)
	c := k.cutStates("a")
	if c.Captures[0].State != machine.CaptureWanted {
		t.Fatalf("%+v", c.Captures)
	}
	report := k.capture(2, &c, state)
	// The instance is gone before the log has it: the node sees to it.
	c = k.complete(c.Number, 1, 2, 3)
	if c.Captures[0].State != machine.CaptureStored || c.Captures[0].Section != report.Section || c.Captures[0].Node != "n2" {
		t.Fatalf("%+v", c.Captures)
	}
	for id := range k.replicas {
		k.wantState(id, &c, state)
		k.exactFiles(id, &c)
	}
	// Nothing is taken that is not wanted.
	upload := checkpoint.UploadID{Participant: "a", Checkpoint: c.Number, Position: c.Position, Epoch: c.Captures[0].Epoch}
	if s, err := k.keepers[1].Captured(1, upload); err != nil || s.State != machine.CaptureStored {
		t.Fatalf("%+v, %v", s, err)
	}
	for what, change := range map[string]func(*uint64, *checkpoint.UploadID){
		"another incarnation": func(incarnation *uint64, _ *checkpoint.UploadID) { *incarnation = 2 },
		"another checkpoint":  func(_ *uint64, id *checkpoint.UploadID) { id.Checkpoint++ },
		"another activation":  func(_ *uint64, id *checkpoint.UploadID) { id.Epoch++ },
		"another position":    func(_ *uint64, id *checkpoint.UploadID) { id.Position-- },
		"another participant": func(_ *uint64, id *checkpoint.UploadID) { id.Participant = "b" },
	} {
		incarnation, id := uint64(1), upload
		change(&incarnation, &id)
		var not *NotWantedError
		if _, err := k.keepers[1].Captured(incarnation, id); !errors.As(err, &not) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// Would break: a participant that is down costs the group its checkpoints; or its
// state goes, with the checkpoint that it was captured for, while newer ones need it.
func TestInheritedStateOutlivesItsCheckpoint(t *testing.T) {
	k := newKeeping(t, 3, KeepPolicy{Erase: true})
	k.keep(1, 2, 3)
	k.ownState()
	k.transact(20)
	state := randomState(200_000, 2)
	first := k.captured(state, 1, 2, 3)
	k.transact(20)
	second := k.cutStates()
	if second.Captures[0].State != machine.CaptureInherited || second.Captures[0].Position != first.Position {
		t.Fatalf("%+v", second.Captures)
	}
	second = k.complete(second.Number, 1, 2, 3)
	for id, keeper := range k.keepers {
		k.wantState(id, &second, state)
		if used := keeper.Usage().CheckpointBytes; used > 2*uint64(len(state)) {
			t.Errorf("node %d: %d bytes are counted, and the state has %d", id, used, len(state))
		}
	}
	k.do(&command.Retain{Drop: []uint64{first.Number}})
	for id := range k.keepers {
		k.eventually("the first checkpoint's files to go", func() bool {
			_, err := os.Lstat(k.copyDir(id, first.Number))
			return os.IsNotExist(err)
		})
		k.wantState(id, &second, state)
	}
	// A node that has lost all of it gets it again.
	k.unkeep(3)
	if err := os.RemoveAll(k.checkpointsDir(3)); err != nil {
		t.Fatal(err)
	}
	k.keep(3)
	k.eventually("node 3 to have it again", func() bool {
		_, err := readAllState(k.keepers[3], stateID(&second.Captures[0]), len(state))
		_, openErr := checkpoint.Open(k.copyDir(3, second.Number))
		return err == nil && openErr == nil
	})
	k.wantState(3, &second, state)
}

// Would break: damage of a captured state that is found while it is read stays, or
// costs the group the state.
func TestDamagedStateIsFetchedAgain(t *testing.T) {
	k := newKeeping(t, 3, KeepPolicy{})
	k.keep(1, 2, 3)
	k.ownState()
	k.transact(5)
	state := randomState(300_000, 3)
	c := k.captured(state, 1, 2, 3)
	id := stateID(&c.Captures[0])
	path, release, err := k.keepers[2].HoldState(id)
	if err != nil {
		t.Fatal(err)
	}
	release()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(path, data, 0o644); err != nil { // the checkpoint shares it
		t.Fatal(err)
	}
	_, err = readAllState(k.keepers[2], id, len(state))
	var corrupt *checkpoint.CorruptError
	if !errors.As(err, &corrupt) {
		t.Fatalf("damaged, and read: %v", err)
	}
	k.keepers[2].DamagedState(id, err)
	k.eventually("node 2 to have it whole again", func() bool {
		got, err := readAllState(k.keepers[2], id, len(state))
		_, openErr := checkpoint.Open(k.copyDir(2, c.Number))
		return err == nil && bytes.Equal(got, state) && openErr == nil
	})
	k.wantState(2, &c, state)
}

// Would break: what has come of a state whose checkpoint was given up fills the
// disk, or the next checkpoint waits for it.
func TestFailedCaptureLeavesNothing(t *testing.T) {
	k := newKeeping(t, 1, KeepPolicy{})
	k.keep(1)
	k.ownState()
	k.transact(5)
	c := k.cutStates("a")
	upload := checkpoint.UploadID{Participant: "a", Checkpoint: c.Number, Position: c.Position, Epoch: c.Captures[0].Epoch}
	streaming, u, release, err := k.keepers[1].Upload(t.Context(), upload)
	if err != nil {
		t.Fatal(err)
	}
	write(t, u, randomState(5<<20, 4))
	k.do(&command.ReportCapture{Number: c.Number, Participant: "a", Epoch: c.Captures[0].Epoch, Position: c.Position, Failure: "no memory"})
	<-streaming.Done()
	if err := context.Cause(streaming); !strings.Contains(err.Error(), "no memory") {
		t.Errorf("the stream ends with: %v", err)
	}
	release()
	dir := filepath.Join(k.checkpointsDir(1), capturesDir)
	k.eventually("nothing to be left of it", func() bool {
		left, err := os.ReadDir(dir)
		return err == nil && len(left) == 0
	})
	next := k.captured(randomState(1000, 5), 1)
	k.wantState(1, &next, randomState(1000, 5))
}

// Would break: a crash of a node at any moment of a capture makes a checkpoint with
// another state, or one that is never complete.
func TestCrashWhileStateIsCaptured(t *testing.T) {
	state := randomState(6<<20, 6)
	for _, moment := range []string{"while it comes", "stored and not reported", "reported and not recorded", "complete"} {
		t.Run(moment, func(t *testing.T) {
			k := newKeeping(t, 1, KeepPolicy{})
			k.keep(1)
			k.ownState()
			k.transact(5)
			c := k.cutStates("a")
			dir := filepath.Join(k.dir, "1")
			crash := func() {
				t.Helper()
				copied := filepath.Join(t.TempDir(), "1")
				if err := k.replicas[1].store.Barrier(); err != nil {
					t.Fatal(err)
				}
				copyTree(t, filepath.Join(dir, "checkpoints"), copied)
				k.down(1)
				if err := errors.Join(os.RemoveAll(filepath.Join(dir, "checkpoints")), os.Rename(copied, filepath.Join(dir, "checkpoints"))); err != nil {
					t.Fatal(err)
				}
				k.up(1)
				k.office()
				k.keep(1)
			}
			if moment == "while it comes" {
				upload := checkpoint.UploadID{Participant: "a", Checkpoint: c.Number, Position: c.Position, Epoch: c.Captures[0].Epoch}
				_, u, release, err := k.keepers[1].Upload(t.Context(), upload)
				if err != nil {
					t.Fatal(err)
				}
				write(t, u, state[:5<<20])
				copied := filepath.Join(t.TempDir(), "captures")
				copyTree(t, filepath.Join(dir, "checkpoints", capturesDir), copied)
				release()
				k.unkeep(1)
				if err := errors.Join(os.RemoveAll(filepath.Join(dir, "checkpoints", capturesDir)), os.Rename(copied, filepath.Join(dir, "checkpoints", capturesDir))); err != nil {
					t.Fatal(err)
				}
				k.keep(1)
			}
			k.keepers[1].config.ReportState = k.reportState
			report := k.capture(1, &c, state)
			switch moment {
			case "stored and not reported":
				crash()
				report = k.capture(1, &c, state)
			case "reported and not recorded":
				k.do(&report)
				crash()
			case "complete":
				k.do(&report)
				c = k.complete(c.Number, 1)
				crash()
			}
			k.do(&report)
			c = k.complete(c.Number, 1)
			k.wantState(1, &c, state)
		})
	}
}

// Would break: a group that is restored to a later position cannot bring a
// participant's own state there: the state or the log after it is not with it.
func TestRestoreWithOwnState(t *testing.T) {
	source := newKeeping(t, 1, KeepPolicy{})
	source.keep(1)
	source.ownState()
	source.transact(20)
	state := randomState(100_000, 7)
	first := source.captured(state, 1)
	source.transact(20)
	inherits := source.cutStates()
	inherits = source.complete(inherits.Number, 1)
	source.transact(20)
	position := source.history.last() - 4

	k, digest := newRestored(t, source, Target{Position: &position}, 3)
	for id := range k.addrs {
		k.upRestored(id, k.addrs)
	}
	k.do(&command.Begin{Incarnation: 2, Digest: digest})
	for _, id := range []uint64{1, 2} {
		if at := k.firstPosition(id); at != first.Position+1 {
			t.Fatalf("the log of node %d begins at %d, and the state is as of %d", id, at, first.Position)
		}
	}
	k.transact(5)
	k.agree()
	k.keep(1, 2, 3)
	var last machine.Capture
	for id, r := range k.replicas {
		k.holds(r)
		snap, err := r.snapshot(0)
		if err != nil {
			t.Fatal(err)
		}
		states, err := machine.ReadOwnStates(snap.Reader())
		snap.Close()
		if err != nil || len(states) != 1 || states[0].Last.Checkpoint != 0 || states[0].Last.Position != first.Position {
			t.Fatalf("node %d: %+v, %v", id, states, err)
		}
		last = states[0].Last
		k.eventually("the state to be on every node", func() bool {
			got, err := readAllState(k.keepers[id], stateID(&last), len(state))
			return err == nil && bytes.Equal(got, state)
		})
	}
	// The log leads from the state to what was committed since.
	entries, err := k.keepers[1].EntriesFrom(last.Position + 1)
	if err != nil {
		t.Fatal(err)
	}
	defer entries.Close()
	for p := last.Position + 1; p <= k.history.last(); p++ {
		if e, _, err := entries.Next(t.Context()); err != nil || k.history.at(p).outcomes[e.ID] != p {
			t.Fatalf("position %d: %+v, %v", p, e, err)
		}
	}
	// The first checkpoint of the incarnation inherits.
	c := k.cutStates()
	if c.Captures[0].State != machine.CaptureInherited {
		t.Fatalf("%+v", c.Captures)
	}
	c = k.complete(c.Number, 1, 2, 3)
	for id := range k.keepers {
		k.wantState(id, &c, state)
	}
}
