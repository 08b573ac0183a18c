package participant

import (
	"context"
	"errors"
	"fmt"
	"time"

	cohortv1 "github.com/cohort-tx/cohort/api/cohort/v1"
)

const (
	// askAfter is how long a voter that said yes waits for a notice before it asks.
	askAfter = 5 * time.Second
	// askTimeout bounds one asking.
	askTimeout = 5 * time.Second
)

// prepare votes. A yes is remembered until its outcome is known.
func (at *attachment) prepare(p *cohortv1.Prepare, slot func(context.Context) error) {
	// What is in the way of a vote is of this moment; a voter's own no is not, unless
	// it says so.
	vote := &cohortv1.Vote{Call: p.Call, Yes: true}
	term, ok := at.app.termOf(p.ActivationEpoch, p.CoordinatorEpoch)
	if !ok {
		vote.Yes, vote.Reason, vote.Conflict = false, notActive(p.ActivationEpoch), true
		at.vote(vote)
		return
	}
	ctx, cancel := within(term, p.TimeoutMs)
	defer cancel()
	k, own := keyOf(p.Attempt), at.app.own
	if slot(ctx) != nil {
		vote.Yes, vote.Reason, vote.Conflict = false, "no voter became free in time", true
	} else if own == nil && !at.app.voting(k) {
		vote.Yes, vote.Reason, vote.Conflict = false, fmt.Sprintf("more than %d votes wait for their outcome", maxPendingVotes), true
	} else if err := at.ask(ctx, p); err != nil {
		vote.Yes, vote.Reason, vote.Conflict = false, sendable(err.Error()), errors.Is(err, ErrConflict)
		if own == nil {
			at.app.saidNo(k)
		}
	} else if own == nil {
		at.app.saidYes(at.client, k)
	} else if vote.Reason = own.votes(at.client, p); vote.Reason != "" {
		// The voter's yes comes too late: it is told so, since nobody else will.
		vote.Yes, vote.Conflict = false, true
		own.tell([]Notice{{ID: k.id, Begun: k.begun, Nonce: k.nonce}})
	}
	if !vote.Yes && own != nil {
		own.refuses(k)
	}
	at.vote(vote)
}

func (at *attachment) vote(vote *cohortv1.Vote) {
	_ = at.sendMessage(&cohortv1.InstanceMessage{Message: &cohortv1.InstanceMessage_Vote{Vote: vote}})
}

// ask calls the voter; its panic is a no.
func (at *attachment) ask(ctx context.Context, p *cohortv1.Prepare) (err error) {
	if at.app.vote == nil {
		return nil
	}
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("the voter panicked: %v", r)
		}
	}()
	return at.app.vote(ctx, &Prepare{ID: p.Attempt.GetId(), Begun: p.Attempt.GetBegun(), Nonce: p.Attempt.GetNonce()})
}

// pendingVote is an attempt that is voted on, or was voted for.
type pendingVote struct {
	// timer asks for the outcome; nil while the voter thinks.
	timer *time.Timer
	// early is an outcome that came while it did.
	early *Notice
}

// voting makes room for a vote, so that a notice that comes before it finds it.
func (a *App) voting(k attemptKey) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.pending[k] != nil {
		return true
	}
	if len(a.pending) >= maxPendingVotes {
		return false
	}
	a.pending[k] = &pendingVote{}
	return true
}

func (a *App) saidNo(k attemptKey) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if v := a.pending[k]; v != nil && v.timer == nil {
		delete(a.pending, k)
	}
}

// saidYes arms the question for an outcome that nobody tells.
func (a *App) saidYes(c *Client, k attemptKey) {
	a.mu.Lock()
	v := a.pending[k]
	if v == nil || v.timer != nil { // another Prepare of the attempt came first
		a.mu.Unlock()
		return
	}
	v.timer = time.AfterFunc(askAfter, func() { a.settle(c, k) })
	early := v.early
	a.mu.Unlock()
	if early != nil {
		a.notice(k, *early)
	}
}

// settle asks for an outcome. Only an attempt that no coordinator has open is
// ended by the question: looking never kills a live one.
func (a *App) settle(c *Client, k attemptKey) {
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	out, err := c.Group(a.group).Outcome(ctx, k.id, Begun(k.begun))
	if err == nil && out.State == Unknown {
		out, err = c.Group(a.group).Outcome(ctx, k.id, Begun(k.begun), Settle())
	}
	switch {
	case err != nil || out.State == Pending:
		a.mu.Lock()
		if v := a.pending[k]; v != nil {
			v.timer.Reset(askAfter)
		}
		a.mu.Unlock()
	default:
		a.notice(k, Notice{ID: k.id, Begun: k.begun, Nonce: k.nonce, Committed: out.State == Committed && out.Receipt.Begun == k.begun, Position: out.Receipt.Position})
	}
}

// notice ends the waiting for an outcome and tells the application, once.
func (a *App) notice(k attemptKey, n Notice) {
	a.mu.Lock()
	v := a.pending[k]
	switch {
	case v == nil:
		a.mu.Unlock()
		return
	case v.timer == nil:
		v.early = &n // told once the voter has answered
		a.mu.Unlock()
		return
	}
	delete(a.pending, k)
	a.mu.Unlock()
	v.timer.Stop()
	if a.outcome != nil {
		a.outcome(n)
	}
}
