package coordinator

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	cohortv1 "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/groups"
	"github.com/cohort-tx/cohort/txlog"
	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/machine"
	"github.com/cohort-tx/cohort/txlog/machine/memstate"
)

// fate is what becomes of a proposal.
type fate int

const (
	applied           fate = iota
	dropped                // certainly not in the log
	lost                   // not in the log, but that is not known
	appliedUnheard         // in the log, but that is not known
	appliedWhenTold        // in the log; the answer waits for release
	overloadedReplica      // not taken
)

// fakeLog is a log in memory: the real state machine, applied at once, and
// whatever a test wants to go wrong.
type fakeLog struct {
	t  testing.TB
	mu sync.Mutex
	// fates of the coming proposals of transactions; none means applied.
	fates []fate
	// officeFates: RaiseEpoch meets them too.
	officeFates bool
	// release lets the answers of appliedWhenTold go.
	release chan struct{}
	store   *memstate.Store
	machine *machine.Machine
	index   uint64
	meta    machine.Meta
	watch   func(txlog.Leadership)
	leads   txlog.Leadership
	// readGate, when not nil, holds ReadIndex back.
	readGate chan struct{}
	readErr  error
	reads    atomic.Int64
	pinned   atomic.Int64 // snapshots that are open
	proposed atomic.Int64
}

func newFakeLog(t testing.TB) *fakeLog {
	return &fakeLog{t: t, store: memstate.New(), machine: machine.New(), release: make(chan struct{})}
}

func (f *fakeLog) fate(batch *command.Batch) fate {
	if _, ok := batch.Commands[0].(*command.RaiseEpoch); ok && !f.officeFates || len(f.fates) == 0 {
		return applied
	}
	next := f.fates[0]
	f.fates = f.fates[1:]
	return next
}

func (f *fakeLog) Propose(ctx context.Context, batch *command.Batch, _ time.Duration) ([]command.Result, error) {
	f.proposed.Add(1)
	f.mu.Lock()
	what := f.fate(batch)
	if what == dropped || what == lost || what == overloadedReplica {
		f.mu.Unlock()
		return nil, map[fate]error{dropped: txlog.ErrDropped, lost: txlog.ErrUnknown, overloadedReplica: txlog.ErrOverloaded}[what]
	}
	results := f.applyLocked(batch)
	f.mu.Unlock()
	switch what {
	case appliedUnheard:
		return nil, txlog.ErrUnknown
	case appliedWhenTold:
		select {
		case <-f.release:
		case <-ctx.Done():
			return nil, txlog.ErrUnknown
		}
	}
	return results, nil
}

func (f *fakeLog) apply(batch *command.Batch) []command.Result {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.applyLocked(batch)
}

func (f *fakeLog) applyLocked(batch *command.Batch) []command.Result {
	f.index++
	results, _, err := f.store.Apply(f.machine, f.index, command.AppendBatch(nil, batch))
	if err != nil {
		f.t.Error(err)
	}
	f.meta = f.machine.Meta()
	return results
}

func (f *fakeLog) set(fates ...fate) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fates = fates
}

func (f *fakeLog) ReadIndex(ctx context.Context) (uint64, error) {
	f.reads.Add(1)
	f.mu.Lock()
	gate, err := f.readGate, f.readErr
	f.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	return f.Published(), err
}

func (f *fakeLog) Published() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.index
}

func (f *fakeLog) Position() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.meta.Position
}

func (f *fakeLog) Watch(fn func(txlog.Leadership)) func() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.watch = fn
	fn(f.leads)
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.watch = nil
	}
}

// lead makes this node lead, or not, in a term.
func (f *fakeLog) lead(term uint64, self bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.leads = txlog.Leadership{LeaderReplica: 1, Term: term, Self: self}
	if f.watch != nil {
		f.watch(f.leads)
	}
}

func (f *fakeLog) Snapshot() (Snapshot, error) {
	f.pinned.Add(1)
	return &fakeSnapshot{View: f.store.Latest(), log: f}, nil
}

type fakeSnapshot struct {
	*memstate.View
	log    *fakeLog
	closed atomic.Bool
}

func (s *fakeSnapshot) Meta() (machine.Meta, error)     { return machine.ReadMeta(s.View) }
func (s *fakeSnapshot) Config() (machine.Config, error) { return machine.ReadConfig(s.View) }
func (s *fakeSnapshot) Get(participant, key string) ([]byte, uint64, bool, error) {
	if s.closed.Load() {
		s.log.t.Error("a snapshot is read after it was let go")
	}
	c, err := s.Config()
	if err != nil {
		return nil, 0, false, err
	}
	return machine.GetValue(s.View, c, participant, key)
}

func (s *fakeSnapshot) Scan(participant, start, end string, limit int, fn func(string, []byte, uint64) (bool, error)) (command.ScanRead, bool, error) {
	c, err := s.Config()
	if err != nil {
		return command.ScanRead{}, false, err
	}
	return machine.ScanValues(s.View, c, participant, start, end, limit, fn)
}

func (s *fakeSnapshot) Decision(id string, begun uint64) (machine.Decision, machine.Outcome, error) {
	return machine.ReadDecision(s.View, id, begun)
}
func (s *fakeSnapshot) Activations() ([]machine.Activation, error) {
	return machine.ReadActivations(s.View)
}
func (s *fakeSnapshot) RecentOutcomes(limit int) ([]machine.Outcome, error) {
	return machine.RecentOutcomes(s.View, limit)
}
func (s *fakeSnapshot) Reader() machine.Reader { return s.View }
func (s *fakeSnapshot) Close() {
	if s.closed.Swap(true) {
		s.log.t.Error("a snapshot was let go twice")
	}
	s.log.pinned.Add(-1)
}

// testCoordinator is a coordinator over a fake log, in office under epoch 1.
type testCoordinator struct {
	*Coordinator
	log *fakeLog
	t   testing.TB
}

func newTestCoordinator(t testing.TB, tune func(*groups.Definition, *Params)) *testCoordinator {
	t.Helper()
	def := groups.Default("shop", "inventory", "payments")
	log := newFakeLog(t)
	p := Params{Group: "shop", NodeName: "n1", Replica: log, MaintainEvery: time.Hour}
	p.InitialDefinition = func(context.Context) (groups.Definition, uint64, error) { return def, 7, nil }
	if tune != nil {
		tune(&def, &p)
	}
	c := &testCoordinator{Coordinator: New(p), log: log, t: t}
	t.Cleanup(func() {
		c.Close()
		if n := log.pinned.Load(); n != 0 {
			t.Errorf("%d snapshots are pinned after Close", n)
		}
	})
	c.serve(1)
	return c
}

// serve makes the node lead in a term and waits until it is in office.
func (c *testCoordinator) serve(term uint64) {
	c.t.Helper()
	c.log.lead(term, true)
	c.until("in office", func() bool { epoch, ok := c.Serving(); return ok && epoch == term })
}

// depose takes the lead away and waits until office is left.
func (c *testCoordinator) depose(term uint64) {
	c.t.Helper()
	c.log.lead(term, false)
	c.until("out of office", func() bool { _, ok := c.Serving(); return !ok })
}

func (c *testCoordinator) until(what string, cond func() bool) {
	c.t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for !cond() {
		if time.Now().After(deadline) {
			c.t.Fatalf("not in time: %s", what)
		}
		time.Sleep(100 * time.Microsecond) // between looks at a condition
	}
}

func put(participant, key, value string) command.Op {
	return command.Op{Kind: command.OpPut, Participant: participant, Key: key, Value: []byte(value)}
}

func (c *testCoordinator) value(participant, key string) string {
	c.t.Helper()
	snap, err := c.log.Snapshot()
	if err != nil {
		c.t.Fatal(err)
	}
	defer snap.Close()
	v, _, _, err := snap.Get(participant, key)
	if err != nil {
		c.t.Fatal(err)
	}
	return string(v)
}

// oneShot commits a transaction without begin.
func (c *testCoordinator) oneShot(id string, ops ...command.Op) (command.Receipt, error) {
	return c.Commit(context.Background(), CommitRequest{Attempt: Attempt{ID: id, Nonce: 1}, Ops: ops})
}

// playedAgent is an agent whose instance answers by itself.
type playedAgent struct {
	session *Session
	node    string
	// answer gives the instance's answers; nil answers yes and stages nothing.
	answer func(*cohortv1.ToInstance) []*cohortv1.InstanceMessage
	mu     sync.Mutex
	seen   []*cohortv1.CoordinatorMessage
	inbox  chan *cohortv1.CoordinatorMessage
	done   sync.WaitGroup
	// recordAtOnce: before send returns.
	recordAtOnce bool
}

func (c *testCoordinator) agent(node string, answer func(*cohortv1.ToInstance) []*cohortv1.InstanceMessage) *playedAgent {
	c.t.Helper()
	a := &playedAgent{node: node, answer: answer, inbox: make(chan *cohortv1.CoordinatorMessage, 1024)}
	s, err := c.OpenSession(node, a.say)
	if err != nil {
		c.t.Fatal(err)
	}
	a.session = s
	a.done.Go(a.run)
	c.t.Cleanup(func() {
		s.Close()
		close(a.inbox)
		a.done.Wait()
	})
	return a
}

func (a *playedAgent) say(m *cohortv1.CoordinatorMessage) {
	a.mu.Lock()
	at := a.recordAtOnce
	if at {
		a.seen = append(a.seen, m)
	}
	a.mu.Unlock()
	if !at {
		a.inbox <- m
	}
}

func (a *playedAgent) run() {
	for m := range a.inbox {
		a.mu.Lock()
		a.seen = append(a.seen, m)
		a.mu.Unlock()
		to := m.GetToInstance()
		if to == nil || a.answer == nil {
			continue
		}
		for _, answer := range a.answer(to) {
			_ = a.session.Receive(&cohortv1.AgentMessage{Message: &cohortv1.AgentMessage_FromInstance{FromInstance: &cohortv1.FromInstance{
				Participant: to.GetParticipant(), Instance: to.GetInstance(), Message: answer,
			}}})
		}
	}
}

func (a *playedAgent) attach(participant, instance string, votes bool) error {
	return a.session.Receive(&cohortv1.AgentMessage{Message: &cohortv1.AgentMessage_Attached{Attached: &cohortv1.InstanceAttached{
		Hello: &cohortv1.Hello{Group: "shop", Participant: participant, Instance: instance, Votes: votes},
	}}})
}

// saw tells whether the agent got a message that fits.
func (a *playedAgent) saw(fits func(*cohortv1.CoordinatorMessage) bool) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, m := range a.seen {
		if fits(m) {
			return true
		}
	}
	return false
}

// stagesAndVotes is an instance that stages one put a step and votes.
func stagesAndVotes(yes bool) func(*cohortv1.ToInstance) []*cohortv1.InstanceMessage {
	return func(to *cohortv1.ToInstance) []*cohortv1.InstanceMessage {
		switch m := to.GetMessage().GetMessage().(type) {
		case *cohortv1.NodeMessage_Step:
			return []*cohortv1.InstanceMessage{{Message: &cohortv1.InstanceMessage_StepResult{StepResult: &cohortv1.StepResult{
				Call:   m.Step.GetCall(),
				Result: &cohortv1.StepResult_Reply{Reply: &cohortv1.StepReply{Payload: m.Step.GetPayload(), ContentType: "text/plain"}},
				Ops:    []*cohortv1.Op{{Participant: to.GetParticipant(), Key: []byte("stock"), Op: &cohortv1.Op_Put{Put: &cohortv1.Put{Value: m.Step.GetPayload()}}}},
			}}}}
		case *cohortv1.NodeMessage_Prepare:
			return []*cohortv1.InstanceMessage{{Message: &cohortv1.InstanceMessage_Vote{Vote: &cohortv1.Vote{Call: m.Prepare.GetCall(), Yes: yes, Reason: "no stock"}}}}
		}
		return nil
	}
}
