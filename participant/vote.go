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
	if slot(ctx) != nil {
		vote.Yes, vote.Reason, vote.Conflict = false, "no voter became free in time", true
	} else if err := at.ask(ctx, p); err != nil {
		vote.Yes, vote.Reason, vote.Conflict = false, sendable(err.Error()), errors.Is(err, ErrConflict)
	} else if own := at.app.own; own != nil {
		vote.Reason = own.votes(at.client, p)
		vote.Yes = vote.Reason == ""
		vote.Conflict = !vote.Yes
	} else if !at.remember(p.Attempt) {
		vote.Yes, vote.Reason, vote.Conflict = false, fmt.Sprintf("more than %d votes wait for their outcome", maxPendingVotes), true
	}
	if !vote.Yes && at.app.own != nil {
		at.app.own.refuses(keyOf(p.Attempt))
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

// remember arms the question for an outcome that nobody tells.
func (at *attachment) remember(attempt *cohortv1.Attempt) bool {
	a, k := at.app, keyOf(attempt)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.pending[k] != nil {
		return true
	}
	if len(a.pending) >= maxPendingVotes {
		return false
	}
	a.pending[k] = time.AfterFunc(askAfter, func() { a.settle(at.client, k) })
	return true
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
		if t := a.pending[k]; t != nil {
			t.Reset(askAfter)
		}
		a.mu.Unlock()
	default:
		a.notice(k, Notice{ID: k.id, Begun: k.begun, Nonce: k.nonce, Committed: out.State == Committed && out.Receipt.Begun == k.begun, Position: out.Receipt.Position})
	}
}

// notice ends the waiting for an outcome and tells the application, once.
func (a *App) notice(k attemptKey, n Notice) {
	a.mu.Lock()
	t := a.pending[k]
	delete(a.pending, k)
	a.mu.Unlock()
	if t == nil {
		return
	}
	t.Stop()
	if a.outcome != nil {
		a.outcome(n)
	}
}
