package coordinator

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	cohortv1 "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/groups"
	"github.com/cohort-tx/cohort/txlog/command"
)

var ctx = context.Background()

func wantAbort(t testing.TB, err error, reason command.Reason) *Aborted {
	t.Helper()
	var ab *Aborted
	if !errors.As(err, &ab) || ab.Reason != reason {
		t.Fatalf("got %v, want an abort with %s", err, ReasonName(reason))
	}
	return ab
}

// Begin reads linearizably, Commit decides, and the same id gives the same
// receipt ever after.
func TestBeginCommitAndAgain(t *testing.T) {
	c := newTestCoordinator(t, nil)
	first, err := c.oneShot("t0", put("inventory", "a", "1"))
	if err != nil {
		t.Fatal(err)
	}
	if first.Position != 1 || first.Incarnation != 7 {
		t.Fatalf("receipt %+v", first)
	}
	o, err := c.Begin(ctx, BeginRequest{ID: "t1"})
	if err != nil {
		t.Fatal(err)
	}
	if o.Position != 1 || o.Epoch != 1 || o.Incarnation != 7 {
		t.Fatalf("opened %+v", o)
	}
	view, ops, release, err := c.AttemptView(ctx, o.Attempt)
	if err != nil || len(ops) != 0 {
		t.Fatal(ops, err)
	}
	_, version, _, err := view.Get("inventory", "a")
	if err != nil || version != 1 {
		t.Fatal(version, err)
	}
	// The view outlives the attempt, for a read that is under way.
	req := CommitRequest{Attempt: o.Attempt, Reads: []command.Read{{Participant: "inventory", Key: "a", Version: 1}}, Ops: []command.Op{put("payments", "b", "2")}}
	r1, err := c.Commit(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := view.Get("inventory", "a"); err != nil {
		t.Fatal(err)
	}
	release()
	r2, err := c.Commit(ctx, req)
	if err != nil || r2 != r1 {
		t.Fatalf("again: %+v, %v; first %+v", r2, err, r1)
	}
	var done *Committed
	if _, err := c.Begin(ctx, BeginRequest{ID: "t1"}); !errors.As(err, &done) || done.Receipt != r1 {
		t.Fatalf("begin of a committed id: %v", err)
	}
}

// A read that changed ends the attempt before the log is asked.
func TestEarlyConflict(t *testing.T) {
	c := newTestCoordinator(t, nil)
	o, err := c.Begin(ctx, BeginRequest{ID: "t1"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.oneShot("other", put("inventory", "a", "1")); err != nil {
		t.Fatal(err)
	}
	before := c.log.proposed.Load()
	_, err = c.Commit(ctx, CommitRequest{Attempt: o.Attempt, Reads: []command.Read{{Participant: "inventory", Key: "a"}}, Ops: []command.Op{put("payments", "b", "2")}})
	ab := wantAbort(t, err, command.ReasonConflict)
	if ab.Participant != "inventory" || ab.Key != "a" {
		t.Fatalf("%+v", ab)
	}
	if c.log.proposed.Load() != before {
		t.Fatal("the log was asked")
	}
}

// An attempt that a newer coordinator committed, unknown to this one, does not
// conflict with its own changes.
func TestEarlyLookKnowsOwnCommit(t *testing.T) {
	c := newTestCoordinator(t, nil)
	o, err := c.Begin(ctx, BeginRequest{ID: "t1"})
	if err != nil {
		t.Fatal(err)
	}
	req := CommitRequest{Attempt: o.Attempt, Reads: []command.Read{{Participant: "inventory", Key: "a"}}, Ops: []command.Op{put("inventory", "a", "1")}}
	c.log.apply(&command.Batch{Epoch: 9, Commands: []command.Command{
		&command.RaiseEpoch{Node: "n2"},
		&command.Decide{Attempt: command.Attempt{ID: "t1", Begun: o.Attempt.Begun}, Reads: req.Reads, Ops: req.Ops},
	}})
	if r, err := c.Commit(ctx, req); err != nil || r.Position != 1 {
		t.Fatal(r, err)
	}
}

// Bad input is refused at the edge, and says what would be right.
func TestInvalidRequests(t *testing.T) {
	c := newTestCoordinator(t, nil)
	_, noID := c.Begin(ctx, BeginRequest{})
	_, noKey := c.oneShot("t", put("inventory", "", "1"))
	_, notBegun := c.Commit(ctx, CommitRequest{Attempt: Attempt{ID: "t"}, Reads: []command.Read{{Participant: "inventory", Key: "a"}}})
	for field, err := range map[string]error{"id": noID, "ops.key": noKey, "attempt.begun": notBegun} {
		var in *Invalid
		if !errors.As(err, &in) || in.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	_, err := c.oneShot("t", put("nobody", "a", "1"))
	wantAbort(t, err, command.ReasonUnknownParticipant)
}

// Steps run at the active instance, their changes commit, and voters have a say.
func TestStepsAndVotes(t *testing.T) {
	for _, yes := range []bool{true, false} {
		c := newTestCoordinator(t, nil)
		a := c.agent("n2", stagesAndVotes(yes))
		if err := a.attach("inventory", "i1", true); err != nil {
			t.Fatal(err)
		}
		o, err := c.Begin(ctx, BeginRequest{ID: "t1"})
		if err != nil {
			t.Fatal(err)
		}
		reply, err := c.Call(ctx, CallRequest{Attempt: o.Attempt, Step: 1, Participant: "inventory", Method: "reserve", Payload: []byte("41")})
		if err != nil || string(reply.Payload) != "41" || reply.ContentType != "text/plain" {
			t.Fatal(reply, err)
		}
		if _, ops, release, err := c.AttemptView(ctx, o.Attempt); err != nil || len(ops) != 1 {
			t.Fatal(ops, err)
		} else {
			release()
		}
		r, err := c.Commit(ctx, CommitRequest{Attempt: o.Attempt, Steps: 1})
		if !yes {
			ab := wantAbort(t, err, command.ReasonVote)
			if ab.Detail != "no stock" || c.value("inventory", "stock") != "" {
				t.Fatalf("%+v", ab)
			}
		} else if err != nil || c.value("inventory", "stock") != "41" {
			t.Fatal(err)
		}
		c.until("a notice", func() bool {
			return a.saw(func(m *cohortv1.CoordinatorMessage) bool {
				n := m.GetToInstance().GetMessage().GetNotice()
				return n.GetAttempt().GetId() == "t1" && n.GetPosition() == r.Position && (n.GetAbort() != nil) == !yes
			})
		})
		infos, err := c.Participants(ctx)
		if err != nil || infos[0].State != "active" || infos[0].Epoch != 1 || infos[0].Node != "n2" || !infos[0].Votes || infos[1].State != "store_only" {
			t.Fatalf("%+v, %v", infos, err)
		}
	}
}

// Whatever becomes of a proposal, the caller gets one true answer, and the
// transaction is in the log once.
func TestFatesOfProposals(t *testing.T) {
	for name, fates := range map[string][]fate{
		"dropped":          {dropped, dropped},
		"overloaded":       {overloadedReplica, overloadedReplica, dropped},
		"lost":             {lost, lost},
		"applied, unheard": {appliedUnheard},
		"all of it":        {dropped, lost, appliedUnheard, lost, dropped},
	} {
		t.Run(name, func(t *testing.T) {
			c := newTestCoordinator(t, nil)
			c.log.set(fates...)
			r, err := c.oneShot("t1", command.Op{Kind: command.OpAdd, Participant: "inventory", Key: "n", Delta: 1})
			if err != nil || r.Position != 1 || c.value("inventory", "n") != "1" {
				t.Fatalf("%+v, %v, n=%s", r, err, c.value("inventory", "n"))
			}
		})
	}
}

// Entries whose answers come in another order than they were proposed in.
func TestAnswersOutOfOrder(t *testing.T) {
	c := newTestCoordinator(t, nil)
	c.log.set(appliedWhenTold)
	first := make(chan error, 1)
	go func() {
		_, err := c.oneShot("first", put("inventory", "a", "1"))
		first <- err
	}()
	c.until("the first is in the log", func() bool { return c.value("inventory", "a") == "1" })
	r, err := c.oneShot("second", put("inventory", "a", "2"))
	if err != nil || r.Position != 2 {
		t.Fatal(r, err)
	}
	c.log.release <- struct{}{}
	if err := <-first; err != nil {
		t.Fatal(err)
	}
}

// Losing the lead: what may be in the log is indeterminate, the rest aborted;
// the next reign answers from the log.
func TestLeadershipLost(t *testing.T) {
	c := newTestCoordinator(t, nil)
	o, err := c.Begin(ctx, BeginRequest{ID: "open"})
	if err != nil {
		t.Fatal(err)
	}
	a := c.agent("n2", nil)
	if err := a.attach("inventory", "i1", false); err != nil {
		t.Fatal(err)
	}
	c.until("an active instance", func() bool { infos, _ := c.Participants(ctx); return infos[0].State == "active" })
	calling := make(chan error, 1)
	go func() {
		_, err := c.Call(ctx, CallRequest{Attempt: o.Attempt, Step: 1, Participant: "inventory", Method: "m"})
		calling <- err
	}()
	c.until("the step runs", func() bool {
		return a.saw(func(m *cohortv1.CoordinatorMessage) bool { return m.GetToInstance().GetMessage().GetStep() != nil })
	})
	c.log.set(appliedWhenTold)
	committing := make(chan error, 1)
	go func() {
		_, err := c.oneShot("t1", put("inventory", "a", "1"))
		committing <- err
	}()
	c.until("the Decide is in the log", func() bool { return c.value("inventory", "a") == "1" })
	c.depose(1)
	wantAbort(t, <-calling, command.ReasonMoved)
	var in *Indeterminate
	if err := <-committing; !errors.As(err, &in) {
		t.Fatalf("got %v, want indeterminate", err)
	}
	<-a.session.Done()
	if _, err := c.Begin(ctx, BeginRequest{ID: "x"}); !errors.Is(err, ErrNotServing) {
		t.Fatal(err)
	}
	c.serve(2)
	r, err := c.oneShot("t1", put("inventory", "a", "1"))
	if err != nil || r.Position != 1 {
		t.Fatal(r, err)
	}
	// The open attempt's steps went with the reign.
	_, err = c.Commit(ctx, CommitRequest{Attempt: o.Attempt, Steps: 1})
	wantAbort(t, err, command.ReasonMoved)
	// One without steps is whole in its request.
	if _, err := c.Commit(ctx, CommitRequest{Attempt: Attempt{ID: "t2", Begun: o.Attempt.Begun, Nonce: o.Attempt.Nonce}, Ops: []command.Op{put("inventory", "b", "1")}}); err != nil {
		t.Fatal(err)
	}
}

// A newer coordinator that this one has not heard of: its commands are refused,
// no outcome comes from here, and the reign ends.
func TestDeposedUnawares(t *testing.T) {
	c := newTestCoordinator(t, nil)
	c.log.apply(&command.Batch{Epoch: 9, Commands: []command.Command{&command.RaiseEpoch{Node: "n2"}}})
	var in *Indeterminate
	if _, err := c.oneShot("t1", put("inventory", "a", "1")); !errors.As(err, &in) {
		t.Fatalf("got %v, want indeterminate", err)
	}
	c.until("out of office", func() bool { _, ok := c.Serving(); return !ok })
	if c.value("inventory", "a") != "" {
		t.Fatal("a deposed coordinator changed something")
	}
}

// An answer that was lost with the last coordinator: no overload of the next one
// makes an abort of it.
func TestAbortIsLookedUpForForeignAttempts(t *testing.T) {
	c := newTestCoordinator(t, func(d *groups.Definition, _ *Params) { d.Limits.InFlight = 1 })
	r1, err := c.oneShot("t1", put("inventory", "a", "1"))
	if err != nil {
		t.Fatal(err)
	}
	c.depose(1)
	c.serve(2)
	c.log.set(appliedWhenTold)
	blocking := make(chan error, 1)
	go func() {
		_, err := c.oneShot("full", put("inventory", "b", "1"))
		blocking <- err
	}()
	c.until("in flight is full", func() bool { return c.value("inventory", "b") == "1" })
	_, err = c.oneShot("t2", put("inventory", "c", "1"))
	wantAbort(t, err, command.ReasonOverloaded)
	r2, err := c.oneShot("t1", put("inventory", "a", "1"))
	if err != nil || r2 != r1 {
		t.Fatalf("%+v, %v", r2, err)
	}
	c.log.release <- struct{}{}
	if err := <-blocking; err != nil {
		t.Fatal(err)
	}
}

// Begins that wait at the same time share one ReadIndex and one snapshot.
func TestBeginsShareReadIndex(t *testing.T) {
	c := newTestCoordinator(t, nil)
	gate := make(chan struct{})
	c.log.mu.Lock()
	c.log.readGate = gate
	c.log.mu.Unlock()
	const n = 100
	errs := make(chan error, n)
	for i := range n {
		go func() {
			_, err := c.Begin(ctx, BeginRequest{ID: fmt.Sprintf("t%d", i)})
			errs <- err
		}()
	}
	c.until("all have arrived", func() bool {
		infos, err := c.Transactions(ctx, 1000)
		return err == nil && len(infos) == n
	})
	close(gate)
	for range n {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	if got := c.log.reads.Load(); got > 2 {
		t.Fatalf("%d ReadIndexes for %d Begins at once", got, n)
	}
	if got := c.log.pinned.Load(); got > 2 {
		t.Fatalf("%d snapshots are pinned", got)
	}
}

// Without a quorum nothing is begun, and no heartbeat is answered.
func TestNoReadIndex(t *testing.T) {
	c := newTestCoordinator(t, nil)
	heartbeat := func(a *playedAgent, n uint64) error {
		return a.session.Receive(&cohortv1.AgentMessage{Message: &cohortv1.AgentMessage_Heartbeat{Heartbeat: &cohortv1.Heartbeat{Sequence: n}}})
	}
	answered := func(a *playedAgent, n uint64) bool {
		return a.saw(func(m *cohortv1.CoordinatorMessage) bool { return m.GetHeartbeat().GetSequence() == n })
	}
	a := c.agent("n2", nil)
	a.mu.Lock()
	a.recordAtOnce = true // so that what was said before an answer has been seen
	a.mu.Unlock()
	if err := heartbeat(a, 1); err != nil {
		t.Fatal(err)
	}
	c.until("an answer", func() bool { return answered(a, 1) })
	c.log.mu.Lock()
	c.log.readErr = errors.New("no quorum")
	c.log.mu.Unlock()
	if err := heartbeat(a, 2); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Begin(ctx, BeginRequest{ID: "t"}); !errors.Is(err, ErrNotServing) {
		t.Fatal(err)
	}
	if answered(a, 2) {
		t.Fatal("a heartbeat was answered without a quorum")
	}
}

// Without its agent an instance is gone, until it is announced again.
func TestSessionCloses(t *testing.T) {
	c := newTestCoordinator(t, nil)
	state := func() string {
		infos, err := c.Participants(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(infos[0].State, infos[0].Epoch)
	}
	for range 2 {
		a := c.agent("n2", nil)
		if err := a.attach("inventory", "i1", false); err != nil {
			t.Fatal(err)
		}
		c.until("active under epoch 1", func() bool { return state() == "active1" })
		a.session.Close()
		c.until("detached", func() bool { return state() == "detached1" })
	}
}

// What is certainly not in the log may be called aborted.
func TestDroppedUntilTimeout(t *testing.T) {
	c := newTestCoordinator(t, nil)
	fates := make([]fate, 1000)
	for i := range fates {
		fates[i] = dropped
	}
	c.log.set(fates...)
	_, err := c.Commit(ctx, CommitRequest{Attempt: Attempt{ID: "t", Nonce: 1}, Timeout: 30 * time.Millisecond, Ops: []command.Op{put("inventory", "a", "1")}})
	wantAbort(t, err, command.ReasonTimeout)
}

// Office is taken also when the answer to its first entry is lost.
func TestOfficeTakenUnheard(t *testing.T) {
	c := newTestCoordinator(t, nil)
	c.depose(1)
	c.log.mu.Lock()
	c.log.officeFates = true
	c.log.fates = []fate{lost, dropped, appliedUnheard, appliedUnheard}
	c.log.mu.Unlock()
	c.serve(2)
	if _, err := c.oneShot("t", put("inventory", "a", "1")); err != nil {
		t.Fatal(err)
	}
}

// Outcome looks without touching, and settles when told to.
func TestOutcome(t *testing.T) {
	c := newTestCoordinator(t, nil)
	look := func(req OutcomeRequest) OutcomeInfo {
		t.Helper()
		info, err := c.Outcome(ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	if _, err := c.oneShot("done", put("inventory", "a", "1")); err != nil {
		t.Fatal(err)
	}
	if info := look(OutcomeRequest{ID: "done"}); info.State != cohortv1.OutcomeResponse_STATE_COMMITTED || info.Receipt.Position != 1 {
		t.Fatalf("%+v", info)
	}
	if info := look(OutcomeRequest{ID: "never"}); info.State != cohortv1.OutcomeResponse_STATE_UNKNOWN {
		t.Fatalf("%+v", info)
	}
	o, err := c.Begin(ctx, BeginRequest{ID: "open"})
	if err != nil {
		t.Fatal(err)
	}
	if info := look(OutcomeRequest{ID: "open"}); info.State != cohortv1.OutcomeResponse_STATE_PENDING {
		t.Fatalf("%+v", info)
	}
	if _, err := c.oneShot("unrelated", put("inventory", "b", "1")); err != nil {
		t.Fatal(err)
	}
	info := look(OutcomeRequest{ID: "open", Settle: true})
	if info.State != cohortv1.OutcomeResponse_STATE_ABORTED || info.Aborted.Reason != command.ReasonSuperseded {
		t.Fatalf("%+v", info)
	}
	_, err = c.Commit(ctx, CommitRequest{Attempt: o.Attempt, Ops: []command.Op{put("inventory", "a", "2")}})
	wantAbort(t, err, command.ReasonSuperseded)
	if info := look(OutcomeRequest{ID: "done", Settle: true}); info.State != cohortv1.OutcomeResponse_STATE_COMMITTED {
		t.Fatalf("%+v", info)
	}
}

// A definition takes effect at once; dropping data needs to be said; the data
// then goes.
func TestConfigure(t *testing.T) {
	c := newTestCoordinator(t, nil)
	if _, err := c.oneShot("t1", put("payments", "a", "1")); err != nil {
		t.Fatal(err)
	}
	more := groups.Default("shop", "inventory", "payments", "shipping")
	if v, err := c.Configure(ctx, more, false); err != nil || v != 2 {
		t.Fatal(v, err)
	}
	if _, err := c.oneShot("t2", put("shipping", "a", "1")); err != nil {
		t.Fatal(err)
	}
	fewer := groups.Default("shop", "inventory", "shipping")
	var in *Invalid
	if _, err := c.Configure(ctx, fewer, false); !errors.As(err, &in) || in.Field != "participants.payments" {
		t.Fatal(err)
	}
	c.log.set(appliedUnheard)
	if v, err := c.Configure(ctx, fewer, true); err != nil || v != 3 {
		t.Fatal(v, err)
	}
	c.until("the data is purged", func() bool {
		snap, err := c.log.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		defer snap.Close()
		config, err := snap.Config()
		return err == nil && len(config.Dropped) == 0
	})
	_, err := c.oneShot("t3", put("payments", "a", "1"))
	wantAbort(t, err, command.ReasonUnknownParticipant)
}

// Outcomes beyond the count are forgotten, and then not called aborted.
func TestHorizonMoves(t *testing.T) {
	c := newTestCoordinator(t, func(d *groups.Definition, p *Params) {
		d.Outcomes.Count = 3
		p.MaintainEvery = time.Millisecond
	})
	first, err := c.oneShot("t0", put("inventory", "a", "1"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		if _, err := c.oneShot(fmt.Sprintf("t%d", i+1), put("inventory", "a", "1")); err != nil {
			t.Fatal(err)
		}
	}
	c.until("the horizon has moved", func() bool {
		info, err := c.Outcome(ctx, OutcomeRequest{ID: "t0", Begun: first.Begun})
		return err == nil && info.State == cohortv1.OutcomeResponse_STATE_UNKNOWN_BEFORE_HORIZON
	})
	var in *Indeterminate
	_, err = c.Commit(ctx, CommitRequest{Attempt: Attempt{ID: "t0", Begun: first.Begun}, Ops: []command.Op{put("inventory", "a", "1")}})
	if !errors.As(err, &in) {
		t.Fatalf("got %v, want indeterminate", err)
	}
}

// A caller that stops waiting for a decision does not know it; the coordinator
// settles it all the same.
func TestCallerGoes(t *testing.T) {
	c := newTestCoordinator(t, nil)
	c.log.set(appliedWhenTold)
	short, cancel := context.WithCancel(ctx)
	gone := make(chan error, 1)
	go func() {
		_, err := c.Commit(short, CommitRequest{Attempt: Attempt{ID: "t1", Nonce: 1}, Ops: []command.Op{put("inventory", "a", "1")}})
		gone <- err
	}()
	c.until("the Decide is in the log", func() bool { return c.value("inventory", "a") == "1" })
	cancel()
	var in *Indeterminate
	if err := <-gone; !errors.As(err, &in) {
		t.Fatal(err)
	}
	c.log.release <- struct{}{}
	if r, err := c.oneShot("t1", put("inventory", "a", "1")); err != nil || r.Position != 1 {
		t.Fatal(r, err)
	}
}

// Draining lets what is open end, and refuses the rest.
func TestDrain(t *testing.T) {
	c := newTestCoordinator(t, nil)
	o, err := c.Begin(ctx, BeginRequest{ID: "open"})
	if err != nil {
		t.Fatal(err)
	}
	drained := make(chan error, 1)
	go func() { drained <- c.Drain(ctx) }()
	c.until("new ones are refused", func() bool {
		early, err := c.Begin(ctx, BeginRequest{ID: "x", Fresh: true})
		if err == nil {
			err = c.Abort(ctx, early.Attempt, "")
		}
		return errors.Is(err, ErrNotServing)
	})
	select {
	case <-drained:
		t.Fatal("drained with an attempt open")
	default:
	}
	if _, err := c.Commit(ctx, CommitRequest{Attempt: o.Attempt, Ops: []command.Op{put("inventory", "a", "1")}}); err != nil {
		t.Fatal(err)
	}
	if err := <-drained; err != nil {
		t.Fatal(err)
	}
}

// The gate makes commits wait; they do not fail.
func TestGate(t *testing.T) {
	c := newTestCoordinator(t, nil)
	if err := c.GateClose(ctx); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := c.oneShot("t1", put("inventory", "a", "1"))
		done <- err
	}()
	c.until("it waits", func() bool {
		infos, err := c.Transactions(ctx, 10)
		return err == nil && len(infos) > 0 && infos[0].State == "waiting"
	})
	if err := c.GateOpen(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	infos, err := c.Transactions(ctx, 10)
	if err != nil || len(infos) != 1 || infos[0].State != "committed" {
		t.Fatalf("%+v, %v", infos, err)
	}
}

// What an operator sees of commits, by outcome and reason.
func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	c := newTestCoordinator(t, func(_ *groups.Definition, p *Params) { p.Metrics = NewMetrics(reg) })
	if _, err := c.oneShot("t1", put("inventory", "a", "x")); err != nil {
		t.Fatal(err)
	}
	_, err := c.oneShot("t2", command.Op{Kind: command.OpAdd, Participant: "inventory", Key: "a", Delta: 1})
	wantAbort(t, err, command.ReasonConstraint)
	m := c.params.Metrics
	if got := testutil.ToFloat64(m.commits.WithLabelValues("shop", "committed", "")); got != 1 {
		t.Errorf("committed: %v", got)
	}
	if got := testutil.ToFloat64(m.commits.WithLabelValues("shop", "aborted", "constraint")); got != 1 {
		t.Errorf("aborted: %v", got)
	}
	if got := testutil.ToFloat64(m.epoch.WithLabelValues("shop")); got != 1 {
		t.Errorf("epoch: %v", got)
	}
}

// Many callers while the lead comes and goes and proposals go wrong: a counter
// says how often each id took effect.
func TestManyCallersThroughReigns(t *testing.T) {
	c := newTestCoordinator(t, nil)
	const callers, each = 16, 30
	var done sync.WaitGroup
	var committed sync.Map
	for i := range callers {
		done.Go(func() {
			for j := range each {
				id := fmt.Sprintf("t%d-%d", i, j)
				for {
					r, err := c.oneShot(id, command.Op{Kind: command.OpAdd, Participant: "inventory", Key: "n", Delta: 1})
					if err == nil {
						if other, twice := committed.LoadOrStore(r.Position, id); twice {
							t.Errorf("%s and %s at position %d", other, id, r.Position)
						}
						break
					}
					var ab *Aborted
					if errors.As(err, &ab) && ab.Reason != command.ReasonMoved {
						t.Errorf("%s: %v", id, err)
						return
					}
				}
			}
		})
	}
	finished := make(chan struct{})
	go func() { done.Wait(); close(finished) }()
	for term := uint64(1); ; term++ {
		select {
		case <-finished:
			if got := c.value("inventory", "n"); got != fmt.Sprint(callers*each) {
				t.Fatalf("the counter is %s, not %d", got, callers*each)
			}
			return
		default:
		}
		c.log.set(dropped, lost, appliedUnheard, applied, lost, applied, dropped, applied, appliedUnheard)
		before := c.log.proposed.Load()
		c.until("some proposals", func() bool {
			select {
			case <-finished:
				return true
			default:
				return c.log.proposed.Load() > before+10
			}
		})
		c.depose(term)
		c.serve(term + 1)
	}
}
