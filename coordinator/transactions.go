package coordinator

import (
	"bytes"
	"context"
	"sync"
	"time"

	cohortv1 "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/coordinator/protocol"
	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/machine"
)

// Attempt names one attempt of a transaction as its client does.
type Attempt = protocol.Attempt

// BeginRequest asks for an attempt. ID must be set; Timeout 0 means the group's.
type BeginRequest struct {
	ID            string
	RequestDigest []byte
	Timeout       time.Duration
	// Fresh says that the id was made just now and cannot have an outcome.
	Fresh bool
}

// Opened is an attempt that began.
type Opened struct {
	Attempt     Attempt
	Epoch       uint64
	Incarnation uint64
	// Position is the last one in the attempt's snapshot.
	Position uint64
}

// Begin opens an attempt on a linearizable snapshot. Errors: *Committed,
// *Aborted, *Invalid, ErrNotServing.
func (c *Coordinator) Begin(ctx context.Context, req BeginRequest) (Opened, error) {
	if err := checkRequest(req.ID, req.RequestDigest); err != nil {
		return Opened{}, err
	}
	ans, g, err := c.ask(ctx, func(request uint64) protocol.Event {
		return &protocol.Begin{Request: request, ID: req.ID, RequestDigest: req.RequestDigest, Timeout: req.Timeout, Fresh: req.Fresh}
	})
	if err != nil {
		return Opened{}, err
	}
	if o, ok := ans.(*protocol.Opened); ok {
		return Opened{Attempt: o.Attempt, Epoch: g.epoch, Incarnation: g.incarnation, Position: o.Position}, nil
	}
	return Opened{}, errorOf(ans)
}

func checkRequest(id string, digest []byte) error {
	if err := command.CheckID(id); err != nil {
		return &Invalid{Field: "id", Detail: err.Error()}
	}
	if len(digest) > command.MaxDigestBytes {
		return &Invalid{Field: "request_digest", Detail: "a digest has at most 64 bytes: give a SHA-256, say"}
	}
	return nil
}

// CallRequest asks for one step.
type CallRequest struct {
	Attempt     Attempt
	Step        uint32
	Participant string
	Method      string
	Payload     []byte
	ContentType string
	// Ops are the client's direct writes since the last call.
	Ops     []command.Op
	Timeout time.Duration
}

// StepReply is what a handler answered.
type StepReply struct {
	Payload     []byte
	ContentType string
}

// Call runs a step. A context that ends ends the waiting, not the step: sent
// again, the same number gives its answer. Errors: *StepFailure, *Aborted,
// *Invalid, ErrNotServing.
func (c *Coordinator) Call(ctx context.Context, req CallRequest) (StepReply, error) {
	if err := checkOps(req.Ops); err != nil {
		return StepReply{}, err
	}
	ans, _, err := c.ask(ctx, func(request uint64) protocol.Event {
		return &protocol.Call{
			Request: request, Attempt: req.Attempt, Step: req.Step, Participant: req.Participant, Method: req.Method,
			Payload: req.Payload, ContentType: req.ContentType, Ops: req.Ops, Timeout: req.Timeout,
		}
	})
	if err != nil {
		return StepReply{}, err
	}
	if d, ok := ans.(*protocol.StepDone); ok {
		c.metrics.stepsDone.Inc()
		return StepReply{Payload: d.Payload, ContentType: d.ContentType}, nil
	}
	c.metrics.stepsFailed.Inc()
	return StepReply{}, errorOf(ans)
}

func checkOps(ops []command.Op) error {
	for i := range ops {
		if ops[i].Kind == command.OpLog {
			continue
		}
		if err := command.CheckKey(ops[i].Key); err != nil {
			return &Invalid{Field: "ops.key", Detail: err.Error()}
		}
	}
	return nil
}

func stepFailure(f *protocol.StepFailed) *StepFailure {
	return &StepFailure{Code: cohortv1.StepFailure_Code(f.Code), Participant: f.Participant, Message: f.Message}
}

// CommitRequest asks for the decision on an attempt. One without Begun takes the
// last published index as its snapshot: only for what read nothing and called
// nobody.
type CommitRequest struct {
	Attempt       Attempt
	RequestDigest []byte
	Reads         []command.Read
	Scans         []command.ScanRead
	// Ops are the client's direct writes since the last call.
	Ops []command.Op
	// Steps is the number of calls the attempt made.
	Steps   uint32
	Timeout time.Duration
}

// Commit decides an attempt. A context that ends ends the waiting, not the
// decision. Errors: *Aborted, *Indeterminate, *Invalid, ErrNotServing.
func (c *Coordinator) Commit(ctx context.Context, req CommitRequest) (command.Receipt, error) {
	if err := checkRequest(req.Attempt.ID, req.RequestDigest); err != nil {
		return command.Receipt{}, err
	}
	if err := checkOps(req.Ops); err != nil {
		return command.Receipt{}, err
	}
	for i := range req.Reads {
		if err := command.CheckKey(req.Reads[i].Key); err != nil {
			return command.Receipt{}, &Invalid{Field: "reads.key", Detail: err.Error()}
		}
	}
	if req.Attempt.Begun == 0 && len(req.Reads)+len(req.Scans) > 0 {
		return command.Receipt{}, &Invalid{Field: "attempt.begun", Detail: "an attempt that read has begun: give its begun"}
	}
	began := time.Now()
	conflict := c.lookEarly(&req)
	ans, g, err := c.ask(ctx, func(request uint64) protocol.Event {
		return &protocol.Commit{
			Request: request, Attempt: req.Attempt, RequestDigest: req.RequestDigest, Reads: req.Reads, Scans: req.Scans,
			Ops: req.Ops, Steps: req.Steps, Timeout: req.Timeout, Published: c.params.Replica.Published(), Conflict: conflict,
		}
	})
	if err != nil {
		if ctx.Err() != nil {
			return command.Receipt{}, &Indeterminate{Detail: "the caller stopped waiting: " + err.Error()}
		}
		return command.Receipt{}, err
	}
	if ab, ok := ans.(*protocol.Aborted); ok {
		ans = c.checkAbort(g, &req, ab)
	}
	c.metrics.commit(ans, time.Since(began))
	if done, ok := ans.(*protocol.Committed); ok {
		return done.Receipt, nil
	}
	return command.Receipt{}, errorOf(ans)
}

// maxEarlyReads bounds what the early look costs; the log looks at all.
const maxEarlyReads = 256

// lookEarly looks whether a read has changed already, which saves the
// participants a prepare and the log an entry. It looks at the id in the same
// state, so that an attempt never conflicts with its own commit.
func (c *Coordinator) lookEarly(req *CommitRequest) *protocol.Aborted {
	if len(req.Reads) == 0 {
		return nil
	}
	snap, err := c.params.Replica.Snapshot()
	if err != nil {
		return nil // the log will tell
	}
	defer snap.Close()
	if d, _, err := snap.Decision(req.Attempt.ID, req.Attempt.Begun); err != nil || d != machine.DecisionNone {
		return nil
	}
	for _, r := range req.Reads[:min(len(req.Reads), maxEarlyReads)] {
		_, version, _, err := snap.Get(r.Participant, r.Key)
		if err != nil {
			return nil
		}
		if version != r.Version {
			return &protocol.Aborted{
				ID: req.Attempt.ID, Reason: command.ReasonConflict, Participant: r.Participant, Key: r.Key,
				Detail: "the key changed since it was read",
			}
		}
	}
	return nil
}

// checkAbort looks once more before an attempt that this reign did not open is
// called aborted: an earlier coordinator may have committed it and not have been
// heard. Its Decides lie before this reign's first entry, so the published state
// knows them all.
func (c *Coordinator) checkAbort(g *reign, req *CommitRequest, ab *protocol.Aborted) protocol.Answer {
	if req.Attempt.Nonce>>32 == g.epoch {
		return ab
	}
	snap, err := c.params.Replica.Snapshot()
	if err != nil {
		return &protocol.Indeterminate{Detail: "the outcome could not be looked up: " + err.Error()}
	}
	defer snap.Close()
	d, o, err := snap.Decision(req.Attempt.ID, max(req.Attempt.Begun, snap.Index()))
	switch {
	case err != nil:
		return &protocol.Indeterminate{Detail: "the outcome could not be looked up: " + err.Error()}
	case d == machine.DecisionCommitted && bytes.Equal(o.RequestDigest, req.RequestDigest):
		return &protocol.Committed{Receipt: o.Receipt}
	}
	return ab
}

// Abort gives an attempt up. Unknown attempts and those that ended before are no
// error. Errors: *Indeterminate when the decision is being made, ErrNotServing.
func (c *Coordinator) Abort(ctx context.Context, attempt Attempt, reason string) error {
	ans, _, err := c.ask(ctx, func(request uint64) protocol.Event {
		return &protocol.Abort{Request: request, Attempt: attempt, Reason: reason}
	})
	if err != nil {
		return err
	}
	if _, ok := ans.(*protocol.Done); ok {
		return nil
	}
	return errorOf(ans)
}

// AttemptView gives what reads of an open attempt need: its pinned snapshot and
// its changes so far, in program order. The caller calls release, and leaves the
// snapshot's Close alone. Errors: *Aborted, *Invalid, ErrNotServing.
func (c *Coordinator) AttemptView(ctx context.Context, attempt Attempt) (view Snapshot, ops []command.Op, release func(), err error) {
	g := c.reign.Load()
	if g == nil {
		return nil, nil, nil, ErrNotServing
	}
	w := &viewing{}
	if err := g.inLoop(ctx, func() { w.open(g, attempt) }); err != nil {
		w.abandon()
		return nil, nil, nil, err
	}
	v, ok := w.answer.(*protocol.Viewed)
	if !ok {
		return nil, nil, nil, errorOf(w.answer)
	}
	return w.snapshot, v.Ops, w.snapshot.release, nil
}

// viewing hands an attempt's snapshot from the loop to a caller who may have
// gone.
type viewing struct {
	mu        sync.Mutex
	abandoned bool
	snapshot  *shared
	answer    protocol.Answer
}

// open runs on the loop.
func (w *viewing) open(g *reign, attempt Attempt) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.abandoned {
		return
	}
	effects := g.core.Step(g.now(), &protocol.View{Attempt: attempt})
	w.answer = effects[0].(*protocol.Reply).Answer
	if v, ok := w.answer.(*protocol.Viewed); ok {
		w.snapshot = g.snapshots[v.Handle]
		w.snapshot.refs.Add(1)
	}
}

func (w *viewing) abandon() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.abandoned = true
	if w.snapshot != nil {
		w.snapshot.release()
	}
}
