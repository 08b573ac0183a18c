package participant

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	cohortv1 "github.com/cohort-tx/cohort/api/cohort/v1"
)

const (
	// maxResultBytes of one step: above the largest transaction that a group may
	// allow, below what nodes take in one message.
	maxResultBytes = 20<<20 - 1<<10
	// maxTextBytes of an application's error: it travels with every abort.
	maxTextBytes = 16 << 10
)

// attachment is one stream between the instance and a node's agent.
type attachment struct {
	app    *App
	client *Client
	work   *work
	// instance is who attached.
	instance string
	stream   cohortv1.Participants_AttachClient
	cancel   context.CancelFunc

	// send is held to send: a stream takes one message at a time.
	send sync.Mutex
}

// run attaches and answers until the stream breaks or ctx ends. attached tells
// whether the cluster took the instance. Handlers outlive the stream: the same
// instance may be asked for their results again.
func (at *attachment) run(ctx context.Context) (attached bool, err error) {
	addr := at.client.target("")
	conn, err := at.client.conn(addr)
	if err != nil {
		return false, err
	}
	// The stream outlives ctx by the grace, to send what handlers still answer.
	streamCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	at.cancel, at.instance = cancel, at.app.instance()
	connecting := context.AfterFunc(ctx, cancel)
	tooLong := time.AfterFunc(at.client.opts.patience, cancel)
	if at.stream, err = cohortv1.NewParticipantsClient(conn).Attach(streamCtx); err == nil {
		err = at.sendMessage(&cohortv1.InstanceMessage{Message: &cohortv1.InstanceMessage_Hello{Hello: at.app.hello(at.instance)}})
	}
	connecting()
	tooLong.Stop()
	if err != nil {
		at.client.failed("", addr)
		return false, requestError(ctx, "attach", at.app.group, err)
	}
	at.app.setAttachment(nil, at)
	defer at.app.setAttachment(at, nil)
	left := make(chan struct{})
	leave := context.AfterFunc(ctx, func() { defer close(left); at.leave(streamCtx, cancel) })
	defer func() {
		cancel()
		if !leave() {
			<-left
		}
	}()
	for {
		m, err := at.stream.Recv()
		if err != nil {
			at.client.failed("", addr)
			return attached, requestError(ctx, "attach", at.app.group, err)
		}
		if err := at.receive(m); err != nil {
			return attached, err
		}
		attached = true
	}
}

// setAttachment puts a stream in the place of the one there was.
func (a *App) setAttachment(before, at *attachment) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.at == before {
		a.at = at
	}
}

func (a *App) hello(instance string) *cohortv1.Hello {
	description := a.description
	if description == "" {
		host, _ := os.Hostname()
		description = fmt.Sprintf("%s pid %d on %s", filepath.Base(os.Args[0]), os.Getpid(), host)
	}
	h := &cohortv1.Hello{Group: a.group, Participant: a.participant, Instance: instance, Votes: a.vote != nil, Description: description}
	if a.own != nil {
		at := a.own.progress()
		h.OwnState, h.AppliesFirst, h.Position, h.Incarnation = true, a.own.appliesFirst, at.Position, at.Incarnation
	}
	return h
}

// renew ends the stream for another instance of this process to attach.
func (at *attachment) renew(reason string) {
	_ = at.sendMessage(&cohortv1.InstanceMessage{Message: &cohortv1.InstanceMessage_Goodbye{Goodbye: &cohortv1.Goodbye{Reason: sendable(reason)}}})
	at.send.Lock()
	_ = at.stream.CloseSend()
	at.send.Unlock()
	time.AfterFunc(closeGrace, at.cancel)
}

// leave says goodbye, lets the handlers finish within the grace, and ends the
// stream from this side, so that what was sent last arrives.
func (at *attachment) leave(stream context.Context, cancel context.CancelFunc) {
	_ = at.sendMessage(&cohortv1.InstanceMessage{Message: &cohortv1.InstanceMessage_Goodbye{Goodbye: &cohortv1.Goodbye{Reason: "the application ends"}}})
	grace := time.NewTimer(leaveGrace)
	defer grace.Stop()
	select {
	case <-at.work.drain():
	case <-grace.C:
	case <-stream.Done():
	}
	at.send.Lock()
	_ = at.stream.CloseSend()
	at.send.Unlock()
	closing := time.AfterFunc(closeGrace, cancel)
	defer closing.Stop()
	<-stream.Done()
}

func (at *attachment) sendMessage(m *cohortv1.InstanceMessage) error {
	at.send.Lock()
	defer at.send.Unlock()
	return at.stream.Send(m)
}

func (at *attachment) receive(m *cohortv1.NodeMessage) error {
	a := at.app
	switch m := m.Message.(type) {
	case *cohortv1.NodeMessage_Activated:
		if a.activated(at.work.ctx, at.instance, m.Activated) {
			if a.own == nil {
				a.tell(Active)
			} else {
				a.tell(Recovering)
				a.own.activated(m.Activated)
			}
		}
	case *cohortv1.NodeMessage_Standby:
		at.standBy(m.Standby.ActiveEpoch)
	case *cohortv1.NodeMessage_Fenced:
		at.standBy(m.Fenced.Epoch)
	case *cohortv1.NodeMessage_Capture:
		if a.own != nil {
			a.own.asked(m.Capture)
		}
	case *cohortv1.NodeMessage_Refused:
		code := strings.ToLower(strings.TrimPrefix(m.Refused.Code.String(), "CODE_"))
		return &RefusedError{Group: a.group, Participant: a.participant, Code: code, Detail: m.Refused.Detail}
	case *cohortv1.NodeMessage_Step:
		s := m.Step
		var of *attempt
		if a.own != nil {
			var refused string
			if of, refused = a.own.stepped(s); of == nil {
				at.answer(s, at.failure(cohortv1.StepFailure_CODE_INSTANCE_LOST, refused))
				return nil
			}
		}
		if !at.work.start(at.work.handlers, func(slot func(context.Context) error) { at.step(s, of, slot) }) {
			at.answer(s, at.failure(cohortv1.StepFailure_CODE_RECOVERING, "the instance is leaving, or has more steps than it takes"))
		}
	case *cohortv1.NodeMessage_Prepare:
		p := m.Prepare
		if !at.work.start(at.work.voters, func(slot func(context.Context) error) { at.prepare(p, slot) }) {
			at.vote(&cohortv1.Vote{Call: p.Call, Conflict: true, Reason: "the instance is leaving, or has more steps than it takes"})
		}
	case *cohortv1.NodeMessage_Notice:
		if a.own != nil {
			a.own.heard(keyOf(m.Notice.Attempt), m.Notice.Position)
			return nil
		}
		a.notice(keyOf(m.Notice.Attempt), Notice{
			ID: m.Notice.Attempt.GetId(), Begun: m.Notice.Attempt.GetBegun(), Nonce: m.Notice.Attempt.GetNonce(),
			Committed: m.Notice.Position > 0, Position: m.Notice.Position,
		})
	}
	return nil
}

func (at *attachment) standBy(epoch uint64) {
	if !at.app.deactivated(at.instance, epoch) {
		return
	}
	if at.app.own != nil {
		at.app.own.deactivated()
	}
	at.app.tell(Standby)
}

// step answers a step: by running its handler, or with what came of it when it
// was sent before. of is its attempt, where own state is kept.
func (at *attachment) step(s *cohortv1.Step, of *attempt, slot func(context.Context) error) {
	a := at.app
	term, ok := a.termOf(s.ActivationEpoch, s.CoordinatorEpoch)
	if !ok {
		at.answer(s, at.failure(cohortv1.StepFailure_CODE_INSTANCE_LOST, notActive(s.ActivationEpoch)))
		return
	}
	ctx, cancel := within(term, s.TimeoutMs)
	defer cancel()
	key := stepKey{keyOf(s.Attempt), s.Step, s.ActivationEpoch}
	a.mu.Lock()
	run, first := a.results.claim(key)
	a.mu.Unlock()
	if first {
		result, ran := at.runStep(ctx, s, of, slot)
		a.mu.Lock()
		// What an ended activation made of a step is not the step's own result.
		a.results.finish(key, run, result, ran && term.Err() == nil)
		a.mu.Unlock()
	}
	if !first {
		select {
		case <-run.done:
		case <-ctx.Done():
			return // whoever asked has stopped waiting
		}
	}
	if term.Err() != nil {
		at.answer(s, at.failure(cohortv1.StepFailure_CODE_INSTANCE_LOST, notActive(s.ActivationEpoch)))
		return
	}
	at.answer(s, run.result)
}

// runStep waits for what a handler needs, and runs it. ran tells whether it did.
func (at *attachment) runStep(ctx context.Context, s *cohortv1.Step, of *attempt, slot func(context.Context) error) (result *cohortv1.StepResult, ran bool) {
	own := at.app.own
	if own != nil {
		if err := own.usable(); err != nil {
			return at.failure(cohortv1.StepFailure_CODE_RECOVERING, err.Error()), false
		}
		if err := own.reach(ctx, s.Position); err != nil {
			return at.failure(cohortv1.StepFailure_CODE_TIMEOUT, err.Error()), false
		}
	}
	if slot(ctx) != nil {
		return at.failure(cohortv1.StepFailure_CODE_TIMEOUT, "no handler became free in time"), false
	}
	if own == nil {
		result, _ = at.runHandler(ctx, s, nil)
		return at.bounded(result), true
	}
	if !own.enter(of) {
		return at.failure(cohortv1.StepFailure_CODE_TIMEOUT, errLockOver.Error()), false
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(of.ctx, cancel)()
	result, tx := at.runHandler(ctx, s, of)
	result = at.bounded(result)
	if err := own.leave(ctx, of, tx, result.GetFailure() == nil); err != nil {
		result = at.failure(cohortv1.StepFailure_CODE_INSTANCE_LOST, err.Error())
	}
	return result, true
}

// bounded replaces a result that no node takes. Sending it would break the stream
// for every step of the instance, and be tried again on the next one.
func (at *attachment) bounded(r *cohortv1.StepResult) *cohortv1.StepResult {
	size := proto.Size(r)
	if size <= maxResultBytes {
		return r
	}
	return at.failure(cohortv1.StepFailure_CODE_TOO_LARGE, fmt.Sprintf("the step's result has %d bytes; at most %d pass", size, maxResultBytes))
}

// answer sends a result. A broken stream is the receiver's to notice.
func (at *attachment) answer(s *cohortv1.Step, r *cohortv1.StepResult) {
	_ = at.sendMessage(&cohortv1.InstanceMessage{Message: &cohortv1.InstanceMessage_StepResult{StepResult: &cohortv1.StepResult{
		Call: s.Call, Result: r.Result, Reads: r.Reads, Scans: r.Scans, Ops: r.Ops,
	}}})
}

// runHandler runs a step's handler.
func (at *attachment) runHandler(ctx context.Context, s *cohortv1.Step, of *attempt) (*cohortv1.StepResult, *StepTx) {
	h := at.app.handlers[s.Method]
	if h == nil {
		h = at.app.any
	}
	if h == nil {
		return at.failure(cohortv1.StepFailure_CODE_UNKNOWN_METHOD, fmt.Sprintf("no handler for method %q", s.Method)), nil
	}
	tx := newStepTx(ctx, at.client.Group(at.app.group), at.app.participant, s)
	tx.own, tx.attempt = at.app.own, of
	out, panicked, err := at.safely(ctx, h, tx, Payload{Data: s.Payload, ContentType: s.ContentType})
	tx.end()
	if err == nil {
		err = tx.buffer.doomed
	}
	if code, text := failureOf(ctx, tx, panicked, err); code != 0 {
		return at.failure(code, text), tx
	}
	return &cohortv1.StepResult{
		Result: &cohortv1.StepResult_Reply{Reply: &cohortv1.StepReply{Payload: out.Data, ContentType: out.ContentType}},
		Reads:  tx.buffer.readList(), Scans: tx.buffer.scans, Ops: tx.buffer.takeOps(),
	}, tx
}

// failureOf says how a handler failed, 0 when it did not.
func failureOf(ctx context.Context, tx *StepTx, panicked string, err error) (cohortv1.StepFailure_Code, string) {
	var bad *badPayload
	switch {
	case panicked != "":
		return cohortv1.StepFailure_CODE_PANIC, panicked
	case errors.Is(tx.buffer.doomed, ErrConflict):
		// A lock was not to be had. Whatever the handler made of it, this is why.
		return cohortv1.StepFailure_CODE_CONFLICT, tx.buffer.doomed.Error()
	case errors.Is(err, ErrConflict):
		// The application's own: a lock in its database, say.
		return cohortv1.StepFailure_CODE_CONFLICT, err.Error()
	case errors.As(err, &bad):
		return cohortv1.StepFailure_CODE_BAD_PAYLOAD, bad.Error()
	case err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
		return cohortv1.StepFailure_CODE_TIMEOUT, err.Error()
	case errors.Is(err, ErrTooLarge):
		return cohortv1.StepFailure_CODE_TOO_LARGE, err.Error()
	case err != nil:
		return cohortv1.StepFailure_CODE_HANDLER, err.Error()
	}
	return 0, ""
}

// safely calls a handler and survives its panic.
func (at *attachment) safely(ctx context.Context, h Handler, tx *StepTx, in Payload) (out Payload, panicked string, err error) {
	defer func() {
		if p := recover(); p != nil {
			panicked = fmt.Sprintf("%v", p)
			at.client.opts.logger.Error("handler panicked", "group", at.app.group, "participant", at.app.participant,
				"method", tx.Method(), "txn_id", tx.ID(), "panic", p, "stack", string(debug.Stack()))
		}
	}()
	out, err = h(ctx, tx, in)
	return out, "", err
}

func (at *attachment) failure(code cohortv1.StepFailure_Code, message string) *cohortv1.StepResult {
	return &cohortv1.StepResult{Result: &cohortv1.StepResult_Failure{Failure: &cohortv1.StepFailure{
		Code: code, Participant: at.app.participant, Message: sendable(message),
	}}}
}

// sendable is an application's text as it can travel: valid UTF-8, and bounded.
func sendable(text string) string {
	if len(text) > maxTextBytes {
		text = text[:maxTextBytes] + "…"
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}
