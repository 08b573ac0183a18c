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
	stream cohortv1.Participants_AttachClient

	// send is held to send: a stream takes one message at a time.
	send     sync.Mutex
	slots    chan struct{}
	handlers sync.WaitGroup
}

// run attaches and answers until the stream breaks or ctx ends. attached tells
// whether the cluster took the instance.
func (at *attachment) run(ctx context.Context) (attached bool, err error) {
	addr := at.client.target("")
	conn, err := at.client.conn(addr)
	if err != nil {
		return false, err
	}
	// The stream outlives ctx by the grace, to send what handlers still answer.
	streamCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	// Handlers whose answers cannot count any more are told by their context.
	workCtx, cancelWork := context.WithCancel(streamCtx)
	defer at.handlers.Wait()
	defer cancelWork()

	connectTimer := time.AfterFunc(at.client.opts.patience, cancel)
	if at.stream, err = cohortv1.NewParticipantsClient(conn).Attach(streamCtx); err == nil {
		err = at.sendMessage(&cohortv1.InstanceMessage{Message: &cohortv1.InstanceMessage_Hello{Hello: at.app.hello()}})
	}
	connectTimer.Stop()
	if err != nil {
		at.client.failed("", addr)
		return false, err
	}
	leave := context.AfterFunc(ctx, func() { at.leave(cancel) })
	defer leave()
	for {
		m, err := at.stream.Recv()
		if err != nil {
			at.client.failed("", addr)
			return attached, requestError(ctx, "attach", at.app.group, err)
		}
		if err := at.receive(workCtx, m); err != nil {
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

// leave says goodbye, lets the handlers finish within the grace and ends the
// stream.
func (at *attachment) leave(cancel context.CancelFunc) {
	_ = at.sendMessage(&cohortv1.InstanceMessage{Message: &cohortv1.InstanceMessage_Goodbye{Goodbye: &cohortv1.Goodbye{Reason: "the application ends"}}})
	finished := make(chan struct{})
	go func() {
		at.handlers.Wait()
		close(finished)
	}()
	t := time.NewTimer(leaveGrace)
	defer t.Stop()
	select {
	case <-finished:
	case <-t.C:
	}
	cancel()
}

func (at *attachment) sendMessage(m *cohortv1.InstanceMessage) error {
	at.send.Lock()
	defer at.send.Unlock()
	return at.stream.Send(m)
}

func (at *attachment) receive(ctx context.Context, m *cohortv1.NodeMessage) error {
	a := at.app
	switch m := m.Message.(type) {
	case *cohortv1.NodeMessage_Activated:
		a.activated(m.Activated.Epoch)
		a.tell(Active)
	case *cohortv1.NodeMessage_Standby:
		a.activated(0)
		a.tell(Standby)
	case *cohortv1.NodeMessage_Fenced:
		a.activated(0)
		a.tell(Standby)
	case *cohortv1.NodeMessage_Refused:
		code := strings.ToLower(strings.TrimPrefix(m.Refused.Code.String(), "CODE_"))
		return &RefusedError{Group: a.group, Participant: a.participant, Code: code, Detail: m.Refused.Detail}
	case *cohortv1.NodeMessage_Step:
		at.work(ctx, m.Step.TimeoutMs, func(ctx context.Context) { at.step(ctx, m.Step) })
	case *cohortv1.NodeMessage_Prepare:
		at.work(ctx, m.Prepare.TimeoutMs, func(ctx context.Context) { at.prepare(ctx, m.Prepare) })
	case *cohortv1.NodeMessage_Notice:
		a.notice(keyOf(m.Notice.Attempt), Notice{
			ID: m.Notice.Attempt.GetId(), Begun: m.Notice.Attempt.GetBegun(),
			Committed: m.Notice.Position > 0, Position: m.Notice.Position,
		})
	}
	return nil
}

// work runs fn in a goroutine, when there is room for it.
func (at *attachment) work(ctx context.Context, timeoutMs int64, fn func(context.Context)) {
	select {
	case at.slots <- struct{}{}:
	case <-ctx.Done():
		return
	}
	at.handlers.Go(func() {
		defer func() { <-at.slots }()
		if timeoutMs > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, time.Duration(timeoutMs)*time.Millisecond)
			defer cancel()
		}
		fn(ctx)
	})
}

// activated sets the epoch under which this instance is active, 0 when it is not.
func (a *App) activated(epoch uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.epoch = epoch
}

func (a *App) active(epoch uint64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.epoch == epoch
}

// step runs a handler and sends its result, unless another epoch has begun.
func (at *attachment) step(ctx context.Context, s *cohortv1.Step) {
	a := at.app
	if !a.active(s.ActivationEpoch) {
		return
	}
	key := stepKey{keyOf(s.Attempt), s.Step, s.ActivationEpoch}
	a.mu.Lock()
	result := a.results.get(key)
	a.mu.Unlock()
	if result == nil {
		result = at.bounded(at.runHandler(ctx, s))
		a.mu.Lock()
		a.results.put(key, result)
		a.mu.Unlock()
	}
	if !a.active(s.ActivationEpoch) {
		return
	}
	again := &cohortv1.StepResult{Call: s.Call, Result: result.Result, Reads: result.Reads, Scans: result.Scans, Ops: result.Ops}
	// A broken stream is the receiver's to notice.
	_ = at.sendMessage(&cohortv1.InstanceMessage{Message: &cohortv1.InstanceMessage_StepResult{StepResult: again}})
}

// runHandler runs a step's handler.
func (at *attachment) runHandler(ctx context.Context, s *cohortv1.Step) *cohortv1.StepResult {
	h := at.app.handlers[s.Method]
	if h == nil {
		return at.failure(cohortv1.StepFailure_CODE_UNKNOWN_METHOD, fmt.Sprintf("no handler for method %q", s.Method))
	}
	tx := newStepTx(ctx, at.client.Group(at.app.group), at.app.participant, s)
	out, panicked, err := safely(ctx, h, tx, Payload{Data: s.Payload, ContentType: s.ContentType})
	tx.end()
	var bad *badPayload
	switch {
	case panicked != "":
		return at.failure(cohortv1.StepFailure_CODE_PANIC, panicked)
	case errors.As(err, &bad):
		return at.failure(cohortv1.StepFailure_CODE_BAD_PAYLOAD, bad.Error())
	case err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
		return at.failure(cohortv1.StepFailure_CODE_TIMEOUT, err.Error())
	case err != nil:
		return at.failure(cohortv1.StepFailure_CODE_HANDLER, err.Error())
	}
	return &cohortv1.StepResult{
		Result: &cohortv1.StepResult_Reply{Reply: &cohortv1.StepReply{Payload: out.Data, ContentType: out.ContentType}},
		Reads:  tx.buffer.readList(), Scans: tx.buffer.scans, Ops: tx.buffer.takeOps(),
	}
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

// safely calls a handler and survives its panic.
func safely(ctx context.Context, h Handler, tx *StepTx, in Payload) (out Payload, panicked string, err error) {
	defer func() {
		if p := recover(); p != nil {
			panicked = fmt.Sprintf("%v", p)
			fmt.Fprintf(os.Stderr, "participant: handler panicked: %v\n%s", p, debug.Stack())
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
