package participant

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	cohortv1 "github.com/cohort-tx/cohort/api/cohort/v1"
)

// Bounds of an App.
const (
	// maxHandlers bounds handlers that run at once; more steps wait.
	maxHandlers = 256
	// maxStepResults bounds the answers kept for steps that are sent again.
	maxStepResults = 1024
	// maxPendingVotes bounds attempts that are voted on, or were voted for and have no
	// outcome yet; beyond it the vote is a no of the moment.
	maxPendingVotes = 4096
	// maxStepResultBytes bounds them together.
	maxStepResultBytes = 64 << 20
	// maxWaitingSteps bounds steps and votes that run or wait for room; beyond it
	// they are refused. It is the default of limits.in_flight.
	maxWaitingSteps = 4096
	// leaveGrace bounds how long Serve waits for its handlers when it ends, and
	// closeGrace how long the node may take to hear of it.
	leaveGrace = 10 * time.Second
	closeGrace = time.Second
)

// App serves one participant of a group. Give it its handlers, then Serve.
type App struct {
	group, participant string
	description        string
	// own is nil for a participant without state of its own.
	own *ownState

	mu sync.Mutex
	// nonce names the instance; at is its stream, nil while there is none.
	nonce    string
	at       *attachment
	handlers map[string]Handler
	any      Handler
	vote     func(context.Context, *Prepare) error
	outcome  func(Notice)
	stateFn  func(ServeState)
	serving  bool
	// epoch is the activation under which this instance is active, 0 when it is
	// not; newest and coordinator are the highest heard of. term ends with the
	// activation.
	epoch, newest, coordinator uint64
	incarnation                uint64
	term                       context.Context
	endTerm                    context.CancelFunc
	results                    stepResults
	pending                    map[attemptKey]*pendingVote
}

// New makes the application that serves a participant of a group.
func New(group, participant string) *App {
	return &App{
		group: group, participant: participant, nonce: newInstanceNonce(),
		handlers: make(map[string]Handler), pending: make(map[attemptKey]*pendingVote),
		results: newStepResults(maxStepResults, maxStepResultBytes),
	}
}

// Payload is a call's request or reply as it travels.
type Payload struct {
	Data        []byte
	ContentType string
}

// Handler answers one method. ctx ends with the step's time, or when the result
// can no longer count. It runs in a goroutine of its own, beside other steps of
// other transactions; steps of one transaction come one after the other. It may
// run more than once for a call that the caller makes once, each time with a
// StepTx of its own, and must change nothing but through it. An error is the
// participant's refusal: the caller gets its text.
type Handler func(ctx context.Context, tx *StepTx, in Payload) (Payload, error)

// Func makes a handler of a typed function: In and Out are structs for JSON,
// pointers to protobuf messages, or []byte.
func Func[In, Out any](fn func(ctx context.Context, tx *StepTx, in In) (Out, error)) Handler {
	return func(ctx context.Context, tx *StepTx, p Payload) (Payload, error) {
		var in In
		if err := decode(p.Data, p.ContentType, target(&in)); err != nil {
			return Payload{}, &badPayload{err}
		}
		out, err := fn(ctx, tx, in)
		if err != nil {
			return Payload{}, err
		}
		data, contentType, err := encodePayload(out)
		if err != nil {
			return Payload{}, &badPayload{err}
		}
		return Payload{Data: data, ContentType: contentType}, nil
	}
}

// target is where to decode into: for an In that is a pointer to a message, a new
// message.
func target[In any](in *In) any {
	if _, ok := any(*in).(proto.Message); ok {
		message := reflect.New(reflect.TypeOf(in).Elem().Elem())
		*in = message.Interface().(In)
		return message.Interface()
	}
	return in
}

type badPayload struct{ err error }

func (e *badPayload) Error() string { return e.err.Error() }
func (e *badPayload) Unwrap() error { return e.err }

// Handle gives a method its handler. It panics on a wrong or repeated name: that
// is a mistake in the program.
func (a *App) Handle(method string, h Handler) {
	if err := checkMethod(method); err != nil {
		panic(err)
	}
	a.configure()
	if a.handlers[method] != nil {
		panic(fmt.Sprintf("participant: method %q has a handler already", method))
	}
	a.handlers[method] = h
}

// HandleAny gives all methods without a handler of their own one; StepTx.Method
// tells which it is.
func (a *App) HandleAny(h Handler) {
	a.configure()
	a.any = h
}

func (a *App) configure() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.serving {
		panic("participant: configure an App before it serves")
	}
}

// Prepare asks for a vote on an attempt that called this participant.
type Prepare struct {
	// ID of the transaction, and Begun of its attempt. Nonce tells apart attempts with
	// the same Begun.
	ID           string
	Begun, Nonce uint64
}

// Notice tells how an attempt ended.
type Notice struct {
	ID           string
	Begun, Nonce uint64
	// Committed, at Position, or not.
	Committed bool
	Position  uint64
}

// OnPrepare gives the participant a last say before an attempt that called it is
// decided: an error votes no, with its text as the reason. One that matches
// ErrConflict is a no of the moment, a database that is away, say: Run tries the
// transaction again. Yes is a promise: the participant can commit whatever happens, and what its steps read stays true,
// until it hears the outcome.
func (a *App) OnPrepare(vote func(context.Context, *Prepare) error) {
	a.configure()
	a.vote = vote
}

// OnOutcome is told how attempts ended that were voted for. When no notice
// comes, the App asks for itself, so one call comes for each yes, except those
// that a crash forgets. It must not block.
func (a *App) OnOutcome(outcome func(Notice)) {
	a.configure()
	a.outcome = outcome
}

// ServeState says how an App stands with the cluster.
type ServeState string

// Values of ServeState.
const (
	// Connecting: not attached; it tries.
	Connecting ServeState = "connecting"
	// Active: steps come to this instance.
	Active ServeState = "active"
	// Standby: attached, another instance is active.
	Standby ServeState = "standby"
	// Recovering: this instance is to be active, and its own state is brought up to
	// its activation.
	Recovering ServeState = "recovering"
)

// OnState is told each change of how the App stands. It must not block.
func (a *App) OnState(fn func(ServeState)) {
	a.configure()
	a.stateFn = fn
}

// Describe adds a text that operators see beside the instance.
func (a *App) Describe(text string) {
	a.configure()
	a.description = text
}

// Serve attaches to the cluster and answers until ctx ends, which returns nil
// once the handlers that run have finished, or 10 s after; a handler that heeds no
// context is left behind then. addrs are nodes
// as for Dial. A lost connection is made again, at any of them, under the same
// instance. The error is a *RefusedError when the cluster does not know the group
// or the participant, a *StateError when own state cannot be brought up.
func (a *App) Serve(ctx context.Context, addrs string, opts ...ClientOption) error {
	if err := errors.Join(checkName("group", a.group), checkName("participant", a.participant)); err != nil {
		return err
	}
	client, err := Dial(addrs, opts...)
	if err != nil {
		return err
	}
	defer client.Close()
	a.mu.Lock()
	if a.serving {
		a.mu.Unlock()
		return errors.New("participant: the App serves already")
	}
	a.serving = true
	a.mu.Unlock()
	defer a.stopped()
	return a.serve(ctx, client)
}

// stopped lets go of what waits for outcomes.
func (a *App) stopped() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.serving = false
	a.endTermLocked()
	if a.own != nil {
		a.nonce = newInstanceNonce() // what it knew of attempts is gone
	}
	for k, v := range a.pending {
		if v.timer != nil {
			v.timer.Stop()
		}
		delete(a.pending, k)
	}
}

func (a *App) serve(ctx context.Context, client *Client) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	w := newWork(context.WithoutCancel(ctx))
	if a.own != nil {
		defer a.own.stopped()
	}
	defer w.end()
	if a.own != nil {
		if err := a.own.start(w.ctx, client, func(err error) { end(err) }); err != nil {
			return err
		}
	}
	pause := newBackoff(50*time.Millisecond, 2*time.Second)
	for {
		at := attachment{app: a, client: client, work: w}
		attached, err := at.run(ctx)
		if ctx.Err() != nil {
			return stateErrorOf(ctx)
		}
		var no *RefusedError
		if errors.As(err, &no) || errors.Is(err, ErrInvalid) {
			return err
		}
		client.opts.logger.Warn("detached from the cluster, attaching again", "group", a.group, "participant", a.participant, "error", err)
		a.tell(Connecting)
		if attached {
			pause = newBackoff(50*time.Millisecond, 2*time.Second)
		}
		if pause.wait(ctx) != nil {
			return stateErrorOf(ctx)
		}
	}
}

// stateErrorOf is why Serve ends, when own state is the reason.
func stateErrorOf(ctx context.Context) error {
	var err *StateError
	if errors.As(context.Cause(ctx), &err) {
		return err
	}
	return nil
}

// say sends a message on the stream there is; without one it is lost, and what
// matters of it is told again on the next.
func (a *App) say(m *cohortv1.InstanceMessage) {
	a.mu.Lock()
	at := a.at
	a.mu.Unlock()
	if at != nil {
		_ = at.sendMessage(m)
	}
}

// instance is the name of the instance that this process is now.
func (a *App) instance() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.nonce
}

func (a *App) tell(s ServeState) {
	if a.stateFn != nil {
		a.stateFn(s)
	}
}
