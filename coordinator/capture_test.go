package coordinator

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	cohortv1 "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/coordinator/protocol"
	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/machine"
)

// ownAgent is an agent of one instance with state of its own, which is ready as
// soon as it is activated and captures as soon as it is asked.
type ownAgent struct {
	*playedAgent
	mu sync.Mutex
	// failure that captures end with, and silent for none that are answered.
	failure string
	silent  bool
}

func (c *testCoordinator) ownAgent(node, participant, instance string) *ownAgent {
	c.t.Helper()
	a := &ownAgent{}
	a.playedAgent = c.agent(node, func(to *cohortv1.ToInstance) []*cohortv1.InstanceMessage {
		a.mu.Lock()
		defer a.mu.Unlock()
		switch m := to.GetMessage().GetMessage().(type) {
		case *cohortv1.NodeMessage_Activated:
			return []*cohortv1.InstanceMessage{{Message: &cohortv1.InstanceMessage_Ready{Ready: &cohortv1.Ready{ActivationEpoch: m.Activated.GetEpoch(), Position: m.Activated.GetPosition()}}}}
		case *cohortv1.NodeMessage_Capture:
			if a.silent {
				return nil
			}
			return []*cohortv1.InstanceMessage{{Message: &cohortv1.InstanceMessage_Captured{Captured: &cohortv1.Captured{
				Checkpoint: m.Capture.GetCheckpoint(), Position: m.Capture.GetPosition(), ActivationEpoch: m.Capture.GetActivationEpoch(), Failure: a.failure,
			}}}}
		}
		return nil
	})
	c.attachOwn(a.playedAgent, participant, instance)
	return a
}

func (c *testCoordinator) attachOwn(a *playedAgent, participant, instance string) {
	c.t.Helper()
	err := a.session.Receive(&cohortv1.AgentMessage{Message: &cohortv1.AgentMessage_Attached{Attached: &cohortv1.InstanceAttached{
		Hello: &cohortv1.Hello{Group: "shop", Participant: participant, Instance: instance, OwnState: true, Incarnation: 6, Position: 99},
	}}})
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *testCoordinator) participant(name string) ParticipantInfo {
	c.t.Helper()
	all, err := c.Participants(context.Background())
	if err != nil {
		c.t.Fatal(err)
	}
	for _, p := range all {
		if p.Name == name {
			return p
		}
	}
	c.t.Fatal("no participant " + name)
	return ParticipantInfo{}
}

// ready waits until steps of a participant can run.
func (c *testCoordinator) ready(name string) {
	c.t.Helper()
	c.until(name+" ready", func() bool { p := c.participant(name); return p.State == "active" && p.Reason == "" })
}

func (c *testCoordinator) checkpoint() machine.Checkpoint {
	c.t.Helper()
	done, err := c.RequestCheckpoint(context.Background(), CheckpointRequest{Trigger: command.TriggerOperator, By: "n1"})
	if err != nil {
		c.t.Fatal(err)
	}
	return done
}

// record reads a checkpoint's, which is there.
func (c *testCoordinator) record(number uint64) machine.Checkpoint {
	c.t.Helper()
	all, err := c.Checkpoints()
	if err != nil {
		c.t.Fatal(err)
	}
	for _, r := range all {
		if r.Number == number {
			return r
		}
	}
	c.t.Fatalf("no checkpoint %d", number)
	return machine.Checkpoint{}
}

func stored(r *machine.Checkpoint) command.ReportCapture {
	p := &r.Captures[0]
	return command.ReportCapture{
		Number: r.Number, Participant: p.Participant, Epoch: p.Epoch, Position: p.Position, Node: "n1",
		Section: command.Section{Name: "state/" + p.Participant, Keys: 1, Bytes: 12}, Bytes: 4, SHA256: [32]byte{1},
	}
}

// Would break: own state that no checkpoint has, or that is never complete; a
// position of another incarnation believed; an operator who does not see how far
// an instance is.
func TestOwnStateIsCaptured(t *testing.T) {
	c := newTestCoordinator(t, nil)
	a := c.ownAgent("n1", "inventory", "i1")
	c.ready("inventory")
	standby := c.ownAgent("n2", "inventory", "i2")
	if _, err := c.oneShot("o1", put("payments", "k", "v")); err != nil {
		t.Fatal(err)
	}
	progress := func(a *ownAgent, instance string, phase cohortv1.Progress_Phase, incarnation, position uint64) {
		t.Helper()
		if err := a.session.Receive(&cohortv1.AgentMessage{Message: &cohortv1.AgentMessage_FromInstance{FromInstance: &cohortv1.FromInstance{
			Participant: "inventory", Instance: instance,
			Message: &cohortv1.InstanceMessage{Message: &cohortv1.InstanceMessage_Progress{Progress: &cohortv1.Progress{Phase: phase, Incarnation: incarnation, Position: position}}},
		}}}); err != nil {
			t.Fatal(err)
		}
	}
	progress(a, "i1", cohortv1.Progress_PHASE_FOLLOWING, 7, 1)
	progress(standby, "i2", cohortv1.Progress_PHASE_RESTORING, 6, 99)
	c.until("progress", func() bool {
		p := c.participant("inventory")
		return p.Phase == "following" && p.Position == 1 && len(p.Standbys) == 1 && p.Standbys[0].Phase == "restoring"
	})
	wire := participantToWire("shop", c.participant("inventory"), 1)
	if s := wire.Standbys[0]; !wire.OwnState || wire.Lag != 0 || s.Position != 0 || s.Lag != 1 || !s.OwnState {
		t.Errorf("an instance that is in another incarnation: %v", wire)
	}

	cut := c.checkpoint()
	if len(cut.Captures) != 1 || cut.Captures[0].State != machine.CaptureWanted || cut.Captures[0].Participant != "inventory" {
		t.Fatalf("captures %+v", cut.Captures)
	}
	report := stored(&cut)
	wrong := report
	wrong.Epoch++
	if err := c.ReportCapture(context.Background(), wrong); err == nil || !strings.Contains(err.Error(), "activation epoch") {
		t.Errorf("of another activation: %v", err)
	}
	for range 2 { // whoever does not hear the answer tells it again
		if err := c.ReportCapture(context.Background(), report); err != nil {
			t.Fatal(err)
		}
	}
	copied := command.ReportCopy{Number: cut.Number, State: command.CopyWritten, Digest: [32]byte{1}}
	if err := c.ReportReplica(context.Background(), "n1", []command.ReportCopy{copied}, DiskReport{}); err != nil {
		t.Fatal(err)
	}
	done := c.record(cut.Number)
	if done.State != machine.CheckpointComplete {
		t.Fatalf("checkpoint %+v", done)
	}
	info := checkpointToWire("shop", &done)
	if p := info.Participants[0]; len(info.Participants) != 1 || p.Name != "inventory" || p.State.GetState() != "captured" || p.State.GetPosition() != 1 || p.State.GetBytes() != 4 {
		t.Errorf("shown as %v", info.Participants)
	}
	if p := c.participant("inventory"); p.CapturedPosition != 1 || p.Reason != "" {
		t.Errorf("participant %+v", p)
	}
}

// Would break: a checkpoint that waits for ever for a state that does not come.
func TestCaptureFails(t *testing.T) {
	for name, tell := range map[string]func(*testCoordinator, *ownAgent, machine.Checkpoint){
		"the instance says so": nil,
		"the instance leaves": func(_ *testCoordinator, a *ownAgent, _ machine.Checkpoint) {
			_ = a.session.Receive(&cohortv1.AgentMessage{Message: &cohortv1.AgentMessage_Detached{Detached: &cohortv1.InstanceDetached{Participant: "inventory", Instance: "i1"}}})
		},
		"a node says so": func(c *testCoordinator, _ *ownAgent, cut machine.Checkpoint) {
			p := &cut.Captures[0]
			if err := c.ReportCapture(context.Background(), command.ReportCapture{Number: cut.Number, Participant: p.Participant, Epoch: p.Epoch, Position: p.Position, Failure: "the sum is another one"}); err != nil {
				c.t.Fatal(err)
			}
		},
		"the coordinator changes": func(c *testCoordinator, _ *ownAgent, _ machine.Checkpoint) {
			c.depose(1)
			c.serve(2)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newTestCoordinator(t, nil)
			a := c.ownAgent("n1", "inventory", "i1")
			c.ready("inventory")
			if tell == nil {
				a.mu.Lock()
				a.failure = "it is past the cut"
				a.mu.Unlock()
			}
			cut := c.checkpoint()
			if tell != nil {
				if cut.State != machine.CheckpointWriting {
					t.Fatalf("cut %+v", cut)
				}
				tell(c, a, cut)
			}
			c.until("abandoned", func() bool { return c.record(cut.Number).State == machine.CheckpointAbandoned })
			r := c.record(cut.Number)
			if r.Participant != "inventory" || !strings.HasPrefix(r.Detail, "participant inventory: ") || r.Captures[0].State != machine.CaptureFailed {
				t.Errorf("abandoned as %+v", r)
			}
		})
	}
}

// Would break: a state that is on its way for ever.
func TestCaptureTakesTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCoordinator(t, nil)
		c.ownAgent("n1", "inventory", "i1")
		c.ready("inventory")
		cut := c.checkpoint()
		time.Sleep(captureWait - time.Second) // of the bubble's clock
		if r := c.record(cut.Number); r.State != machine.CheckpointWriting {
			t.Fatalf("given up early: %+v", r)
		}
		time.Sleep(2 * time.Second)
		if r := c.record(cut.Number); r.State != machine.CheckpointAbandoned || !strings.Contains(r.Detail, "not stored within 10m0s") {
			t.Errorf("after its time: %+v", r)
		}
	})
}

// Would break: an operator who hears of nothing, or of what is no trouble.
func TestOwnStateReasons(t *testing.T) {
	complete := func(number, position uint64) machine.Checkpoint {
		return machine.Checkpoint{Number: number, State: machine.CheckpointComplete, Position: position}
	}
	four := []machine.Checkpoint{complete(1, 10), complete(2, 20), complete(3, 30), complete(4, 40)}
	captured := func(number, position uint64) *machine.OwnState {
		return &machine.OwnState{Participant: "a", Last: machine.Capture{State: machine.CaptureStored, Checkpoint: number, Position: position}}
	}
	active := func(position uint64) *protocol.InstanceInfo {
		return &protocol.InstanceInfo{OwnState: true, Ready: true, Position: position}
	}
	for name, c := range map[string]struct {
		active   *protocol.InstanceInfo
		own      *machine.OwnState
		all      []machine.Checkpoint
		position uint64
		want     string
	}{
		"all is well":               {active(40), captured(4, 40), four, 40, ""},
		"two are no reason":         {nil, captured(2, 20), four, 40, ""},
		"three are":                 {nil, captured(1, 10), four, 40, "3 checkpoints were completed without it"},
		"never captured":            {nil, &machine.OwnState{Base: 5}, four, 40, "was never captured, and 4 checkpoints"},
		"nothing has changed since": {nil, captured(0, 40), four, 40, ""},
		"the log grows":             {active(2e6), captured(4, 40), four, 2e6, "1999960 positions ago"},
		"it is far behind":          {active(0), captured(4, 40), four, 20_000, "20000 positions behind"},
		"it has none":               {&protocol.InstanceInfo{Ready: true}, captured(4, 40), four, 40, "says that it has none"},
	} {
		got := ownStateReason(&protocol.ParticipantInfo{Active: c.active}, c.own, c.all, c.position)
		if (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
