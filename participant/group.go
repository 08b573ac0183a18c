package participant

import (
	"context"
	"errors"
	"fmt"
	"time"

	cohortv1 "github.com/cohort-tx/cohort/api/cohort/v1"
)

// defaultMaxAttempts bounds Run when MaxAttempts does not: enough for a hot key
// under many clients, and an end when something else is wrong.
const defaultMaxAttempts = 100

// Group runs transactions on one consistency group.
type Group struct {
	client *Client
	name   string
}

// Name is the group's name.
func (g *Group) Name() string { return g.name }

// Receipt proves that a transaction committed.
type Receipt struct {
	ID string
	// Incarnation and Position say where in the group's log it is.
	Incarnation uint64
	Position    uint64
	// Begun is the Raft index of the snapshot that it read.
	Begun uint64
	// Time of the commit by the coordinator's clock; for display only.
	Time time.Time
}

func receipt(r *cohortv1.Receipt) Receipt {
	return Receipt{ID: r.GetId(), Incarnation: r.GetIncarnation(), Position: r.GetPosition(), Begun: r.GetBegun(), Time: r.GetTime().AsTime()}
}

type txOptions struct {
	id          string
	digest      []byte
	timeout     time.Duration
	maxAttempts int
	stale       bool
	err         error
}

// TxOption changes how a transaction runs.
type TxOption func(*txOptions)

// ID names the transaction by an id of the caller's business, an order's number
// say: 1 to 256 bytes of UTF-8 without control characters. Within the group's
// outcome window the id commits at most once, whoever tries it how often.
// Without it every transaction has an id of its own.
func ID(id string) TxOption {
	return func(o *txOptions) { o.id, o.err = id, errors.Join(o.err, checkID(id)) }
}

// Request guards an ID against being used for two different things: when the id
// has committed with another request, the answer is ErrIDReused. []byte and
// string are taken as they are, everything else as its JSON.
func Request(v any) TxOption {
	return func(o *txOptions) {
		digest, err := requestDigest(v)
		o.digest, o.err = digest, errors.Join(o.err, err)
	}
}

// Timeout bounds each attempt; at most, and by default, the group's
// limits.timeout.
func Timeout(d time.Duration) TxOption { return func(o *txOptions) { o.timeout = d } }

// MaxAttempts bounds how often Run tries. The default is 100.
func MaxAttempts(n int) TxOption { return func(o *txOptions) { o.maxAttempts = n } }

// Stale lets a View read the last state that the answering node has applied,
// without asking the group's leader. It works also when the group has lost its
// quorum, and may be behind what has been acknowledged.
func Stale() TxOption { return func(o *txOptions) { o.stale = true } }

func (g *Group) options(opts []TxOption) (txOptions, error) {
	o := txOptions{maxAttempts: defaultMaxAttempts}
	for _, opt := range opts {
		opt(&o)
	}
	if o.maxAttempts < 1 {
		o.maxAttempts = 1
	}
	return o, errors.Join(o.err, checkName("group", g.name))
}

// Run runs fn as a transaction and returns its receipt once it has committed.
//
// When fn returns an error the attempt is aborted, and Run returns that error.
// When the attempt lost a race or the cluster was in motion (see Retryable), Run
// tries again with a new snapshot, so fn must be able to run more than once.
// When the id of ID committed before, Run returns that receipt and does not run
// fn. An answer that got lost is asked for again until ctx ends.
//
// Errors: fn's own, *AbortError, *CallError, *IndeterminateError, and those of
// ctx and of a request that is wrong in itself.
func (g *Group) Run(ctx context.Context, fn func(*Tx) error, opts ...TxOption) (Receipt, error) {
	o, err := g.options(opts)
	if err != nil {
		return Receipt{}, err
	}
	pause := newBackoff(2*time.Millisecond, time.Second)
	for attempt := 1; ; attempt++ {
		r, err := g.attempt(ctx, fn, o)
		// A cluster that did not answer had its client's patience already.
		again := Retryable(err) && !errors.Is(err, ErrUnavailable)
		if err == nil || attempt >= o.maxAttempts || !again || pause.wait(ctx) != nil {
			return r, err
		}
	}
}

func (g *Group) attempt(ctx context.Context, fn func(*Tx) error, o txOptions) (Receipt, error) {
	tx := g.newTx(ctx, o)
	returned := false
	defer func() {
		if !returned {
			tx.giveUp("the workflow panicked")
		}
		tx.end()
	}()
	if o.id != "" {
		// A chosen id may have committed already: look before running fn.
		var before *CommittedError
		if err := tx.begin(); errors.As(err, &before) {
			returned = true
			return before.Receipt, nil
		} else if err != nil {
			returned = true
			return Receipt{}, err
		}
	}
	err := fn(tx)
	returned = true
	if err != nil {
		tx.giveUp("the workflow returned an error")
		if Retryable(tx.err) {
			// Whatever fn made of it, this is why it could not go on.
			return Receipt{}, tx.err
		}
		return Receipt{}, err
	}
	return tx.Commit(ctx)
}

// Begin opens an attempt by hand; end it with Commit or Abort. Most callers want
// Run. When the id of ID committed before, the error is a *CommittedError with
// the receipt.
func (g *Group) Begin(ctx context.Context, opts ...TxOption) (*Tx, error) {
	o, err := g.options(opts)
	if err != nil {
		return nil, err
	}
	tx := g.newTx(ctx, o)
	if err := tx.begin(); err != nil {
		return nil, err
	}
	return tx, nil
}

// State is what is known of a transaction's outcome.
type State int

// Values of State.
const (
	// Committed: Outcome.Receipt is set.
	Committed State = iota + 1
	// Aborted: Outcome.Abort is set.
	Aborted
	// Pending: open or being decided at this moment.
	Pending
	// Unknown: no trace of it. It may still commit.
	Unknown
	// UnknownBeforeHorizon: older than what the group remembers. Not an abort.
	UnknownBeforeHorizon
)

var states = [...]string{"", "committed", "aborted", "pending", "unknown", "unknown_before_horizon"}

func (s State) String() string {
	if s > 0 && int(s) < len(states) {
		return states[s]
	}
	return fmt.Sprintf("State(%d)", int(s))
}

// Outcome says what became of an id.
type Outcome struct {
	State   State
	Receipt Receipt
	Abort   *AbortError
	// Horizon is the Raft index before which outcomes are forgotten.
	Horizon uint64
}

// OutcomeOption changes what Outcome asks.
type OutcomeOption func(*cohortv1.OutcomeRequest)

// Settle ends the doubt: attempts of the id that have begun and are not decided
// can never commit any more. A later attempt with the same id can.
func Settle() OutcomeOption { return func(r *cohortv1.OutcomeRequest) { r.Settle = true } }

// Begun asks only about attempts begun up to here, as IndeterminateError tells.
func Begun(index uint64) OutcomeOption {
	return func(r *cohortv1.OutcomeRequest) { r.Begun = index }
}

// Outcome tells what became of a transaction's id. By default it only looks.
func (g *Group) Outcome(ctx context.Context, id string, opts ...OutcomeOption) (Outcome, error) {
	req := &cohortv1.OutcomeRequest{Group: g.name, Id: id}
	for _, opt := range opts {
		opt(req)
	}
	if err := checkID(id); err != nil {
		return Outcome{}, err
	}
	resp, err := call(ctx, g.client, "outcome", g.name, req, outcomeMethod)
	if err != nil {
		return Outcome{}, err
	}
	out := Outcome{State: State(resp.GetState()), Horizon: resp.GetHorizon()}
	if resp.Receipt != nil {
		out.Receipt = receipt(resp.Receipt)
	}
	if resp.Abort != nil {
		out.Abort = abortFromWire(resp.Abort)
	}
	return out, nil
}
