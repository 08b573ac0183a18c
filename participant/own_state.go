package participant

import (
	"context"
	"fmt"
	"sync"
	"time"

	cohortv1 "github.com/cohort-tx/cohort/api/cohort/v1"
)

// defaultMaxLag is how many entries an instance applies at most where a captured
// state would save them: some ten seconds' work.
const defaultMaxLag = 1_000_000

// StateOption changes how an App treats its own state.
type StateOption func(*ownState)

// AppliesFirst says that handlers change the state before the transaction
// commits, and stage what they did by StepTx.Log with AlreadyApplied. No
// checkpoint is cut while one of them is at it. A new process of it must begin with
// the zero Point, unless all that its state holds has committed.
func AppliesFirst() StateOption { return func(o *ownState) { o.appliesFirst = true } }

// MaxLag bounds how far the state may be behind the log and still be brought up by
// applying it: beyond so many entries it is restored from a captured state, where
// there is a newer one. The default is 1,000,000.
func MaxLag(entries uint64) StateOption { return func(o *ownState) { o.maxLag = entries } }

// State gives the App state of its own: see OwnState for how it is called. Steps
// come to the instance only once its state has everything up to its activation,
// and each handler runs only once it has everything in its transaction's snapshot.
func (a *App) State(s OwnState, opts ...StateOption) {
	a.configure()
	if s == nil || a.own != nil {
		panic("participant: State wants one OwnState, once")
	}
	a.own = newOwnState(a, s, opts)
}

// ownState keeps an OwnState at the group's position. One goroutine, the applier,
// owns the state: Point, Restore, Apply, Undo and Capture are called from it only.
// Everybody else leaves word under mu and wakes it.
type ownState struct {
	app          *App
	state        OwnState
	appliesFirst bool
	captureFirst bool
	maxLag       uint64
	client       *Client

	mu       sync.Mutex
	attempts attempts
	locks    *lockTable
	// forgotten counts attempts with abortedFrom set; lingering those that are over
	// and whose handlers may still change the state.
	forgotten, lingering int
	// applied is what the state holds; moved is closed when it changes, nil while
	// nobody waits.
	applied Point
	moved   chan struct{}
	phase   cohortv1.Progress_Phase
	// activation is the last one told, nil while this instance is not active. ready:
	// it was answered. served: steps may have come to this instance.
	activation    *cohortv1.Activated
	ready, served bool
	// capture is one that was asked for and not answered.
	capture *cohortv1.Capture
	// undos are changes to take back, in order.
	undos []undo
	// touched and lost are as in stateFacts.
	touched, lost bool
	// uncaptured: steps are refused until the first captured state; see CaptureFirst.
	uncaptured bool
	// unreported: there is progress to tell.
	unreported bool

	told    chan struct{} // closed once the instance was activated or told to stand by
	isTold  bool
	wake    chan struct{} // holds a token when there is word for the applier
	done    chan struct{} // closed when the applier has ended
	uploads uploads
}

// undo is changes of one attempt to take back. then is called under mu when that
// is done, with whether it is.
type undo struct {
	id      string
	changes []Change
	then    func(undone bool)
}

func newOwnState(a *App, s OwnState, opts []StateOption) *ownState {
	o := &ownState{app: a, state: s, maxLag: defaultMaxLag, attempts: newAttempts()}
	o.locks = newLockTable(maxLocks, func(w *lockWait) { close(w.done) })
	for _, opt := range opts {
		opt(o)
	}
	return o
}

// start asks the state how far it is, and sets the applier going. ctx is the
// applier's life.
func (o *ownState) start(ctx context.Context, c *Client, fail func(error)) error {
	o.client = c
	o.uploads.open()
	o.told, o.isTold = make(chan struct{}), false
	o.wake, o.done = make(chan struct{}, 1), make(chan struct{})
	point, err := o.point(ctx)
	if err != nil {
		close(o.done)
		return o.stateError("point", err)
	}
	o.mu.Lock()
	o.applied = point
	o.mu.Unlock()
	go func() {
		defer close(o.done)
		if err := o.run(ctx, point); err != nil && ctx.Err() == nil {
			fail(err)
		}
		o.uploads.stop()
	}()
	return nil
}

// stopped waits for the applier, whose context has ended, as long as for handlers,
// and lets go of what it knew of attempts.
func (o *ownState) stopped() {
	grace := time.NewTimer(leaveGrace)
	defer grace.Stop()
	select {
	case <-o.done:
	case <-grace.C:
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, a := range o.attempts.byKey {
		o.overLocked(a)
		o.locks.release(a.key)
	}
	o.attempts = newAttempts()
	o.activation, o.ready, o.served, o.capture, o.undos = nil, false, false, nil, nil
}

func (o *ownState) stateError(op string, err error) error {
	return &StateError{Group: o.app.group, Participant: o.app.participant, Op: op, Err: err}
}

// activated hears that this instance is the active one, again on each new stream.
func (o *ownState) activated(m *cohortv1.Activated) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.newTermLocked(m.Epoch, m.CoordinatorEpoch)
	o.activation, o.ready = m, false
	o.tellLocked()
}

// deactivated hears that another one is, or may be soon.
func (o *ownState) deactivated() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.newTermLocked(0, 0)
	o.activation, o.ready, o.capture = nil, false, nil
	o.uploads.cancel()
	o.tellLocked()
}

func (o *ownState) tellLocked() {
	if !o.isTold {
		o.isTold = true
		close(o.told)
	}
	o.wakeUp()
}

func (o *ownState) wakeUp() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// setLocked notes how far the state is.
func (o *ownState) setLocked(p Point) {
	o.applied = p
	o.unreported = true
	if o.moved != nil {
		close(o.moved)
		o.moved = nil
	}
}

// reach waits until the state holds everything up to a position of the
// activation's incarnation.
func (o *ownState) reach(ctx context.Context, position uint64) error {
	for {
		o.mu.Lock()
		there := o.activation != nil && o.applied.Incarnation == o.activation.Incarnation && o.applied.Position >= position
		at := o.applied.Position
		if !there && o.moved == nil {
			o.moved = make(chan struct{})
		}
		moved := o.moved
		o.mu.Unlock()
		if there {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return fmt.Errorf("the state is at position %d, the transaction's snapshot at %d: %w", at, position, ctx.Err())
		}
	}
}
