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
	stream cohortv1.Participants_AttachClient

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
	connecting := context.AfterFunc(ctx, cancel)
	tooLong := time.AfterFunc(at.client.opts.patience, cancel)
	if at.stream, err = cohortv1.NewParticipantsClient(conn).Attach(streamCtx); err == nil {
		err = at.sendMessage(&cohortv1.InstanceMessage{Message: &cohortv1.InstanceMessage_Hello{Hello: at.app.hello()}})
	}
	connecting()
	tooLong.Stop()
	if err != nil {
		at.client.failed("", addr)
		return false, requestError(ctx, "attach", at.app.group, err)
	}
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

func (a *App) hello() *cohortv1.Hello {
	description := a.description
	if description == "" {
		host, _ := os.Hostname()
		description = fmt.Sprintf("%s pid %d on %s", filepath.Base(os.Args[0]), os.Getpid(), host)
	}
	return &cohortv1.Hello{Group: a.group, Participant: a.participant, Instance: a.nonce, Votes: a.vote != nil, Description: description}
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
		if a.activated(at.work.ctx, m.Activated) {
			a.tell(Active)
		}
	case *cohortv1.NodeMessage_Standby:
		if a.deactivated(m.Standby.ActiveEpoch) {
			a.tell(Standby)
		}
	case *cohortv1.NodeMessage_Fenced:
		if a.deactivated(m.Fenced.Epoch) {
			a.tell(Standby)
		}
	case *cohortv1.NodeMessage_Refused:
		code := strings.ToLower(strings.TrimPrefix(m.Refused.Code.String(), "CODE_"))
		return &RefusedError{Group: a.group, Participant: a.participant, Code: code, Detail: m.Refused.Detail}
	case *cohortv1.NodeMessage_Step:
		s := m.Step
		if !at.work.start(at.work.handlers, func(slot func(context.Context) error) { at.step(s, slot) }) {
			at.answer(s, at.failure(cohortv1.StepFailure_CODE_RECOVERING, "the instance is leaving, or has more steps than it takes"))
		}
	case *cohortv1.NodeMessage_Prepare:
		p := m.Prepare
		if !at.work.start(at.work.voters, func(slot func(context.Context) error) { at.prepare(p, slot) }) {
			at.vote(&cohortv1.Vote{Call: p.Call, Reason: "the instance is leaving, or has more steps than it takes"})
		}
	case *cohortv1.NodeMessage_Notice:
		a.notice(keyOf(m.Notice.Attempt), Notice{
			ID: m.Notice.Attempt.GetId(), Begun: m.Notice.Attempt.GetBegun(),
			Committed: m.Notice.Position > 0, Position: m.Notice.Position,
		})
	}
	return nil
}

// step answers a step: by running its handler, or with what came of it when it
// was sent before.
func (at *attachment) step(s *cohortv1.Step, slot func(context.Context) error) {
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
		var result *cohortv1.StepResult
		ran := slot(ctx) == nil
		if ran {
			result = at.bounded(at.runHandler(ctx, s))
		} else {
			result = at.failure(cohortv1.StepFailure_CODE_TIMEOUT, "no handler became free in time")
		}
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
func (at *attachment) runHandler(ctx context.Context, s *cohortv1.Step) *cohortv1.StepResult {
	h := at.app.handlers[s.Method]
	if h == nil {
		h = at.app.any
	}
	if h == nil {
		return at.failure(cohortv1.StepFailure_CODE_UNKNOWN_METHOD, fmt.Sprintf("no handler for method %q", s.Method))
	}
	tx := newStepTx(ctx, at.client.Group(at.app.group), at.app.participant, s)
	out, panicked, err := at.safely(ctx, h, tx, Payload{Data: s.Payload, ContentType: s.ContentType})
	tx.end()
	if err == nil {
		err = tx.buffer.doomed
	}
	var bad *badPayload
	switch {
	case panicked != "":
		return at.failure(cohortv1.StepFailure_CODE_PANIC, panicked)
	case errors.As(err, &bad):
		return at.failure(cohortv1.StepFailure_CODE_BAD_PAYLOAD, bad.Error())
	case err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
		return at.failure(cohortv1.StepFailure_CODE_TIMEOUT, err.Error())
	case errors.Is(err, ErrTooLarge):
		return at.failure(cohortv1.StepFailure_CODE_TOO_LARGE, err.Error())
	case err != nil:
		return at.failure(cohortv1.StepFailure_CODE_HANDLER, err.Error())
	}
	return &cohortv1.StepResult{
		Result: &cohortv1.StepResult_Reply{Reply: &cohortv1.StepReply{Payload: out.Data, ContentType: out.ContentType}},
		Reads:  tx.buffer.readList(), Scans: tx.buffer.scans, Ops: tx.buffer.takeOps(),
	}
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
