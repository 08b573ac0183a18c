package participant

import (
	"context"
	"fmt"
	"time"

	cohortv1 "github.com/cohort-tx/cohort/api/cohort/v1"
)

// defaultLease is an attempt's where a step does not tell: limits.timeout's default.
const defaultLease = 30 * time.Second

// stepped notes that a step of an attempt has come, in the order of the stream. A
// step that it refuses does not run.
func (o *ownState) stepped(s *cohortv1.Step) (a *attempt, refused string) {
	k := keyOf(s.Attempt)
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.activation == nil || o.activation.Epoch != s.ActivationEpoch {
		return nil, notActive(s.ActivationEpoch)
	}
	a, refused = o.attempts.find(k, s.ActivationEpoch, s.CoordinatorEpoch)
	if a == nil {
		return nil, refused
	}
	if a.state == attemptOpen {
		lease := time.Duration(max(s.LeaseMs, s.TimeoutMs)) * time.Millisecond
		if lease <= 0 {
			lease = defaultLease
		}
		o.armLocked(a, lease, func() { o.expired(a) })
	}
	return a, ""
}

// armLocked sets an attempt's one timer anew.
func (o *ownState) armLocked(a *attempt, d time.Duration, fn func()) {
	if a.timer != nil {
		a.timer.Stop()
	}
	a.timer = time.AfterFunc(d, fn)
}

// enter begins a handler of an attempt; leave ends it. kept tells whether what it
// staged counts.
func (o *ownState) enter(a *attempt) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if a.state != attemptOpen {
		return false
	}
	a.running++
	return true
}

// leave takes back what a step changed first that failed, and waits for that: the
// caller may go on with the attempt.
func (o *ownState) leave(ctx context.Context, a *attempt, step *StepTx, kept bool) (err error) {
	o.mu.Lock()
	a.running--
	if a.state == attemptOver {
		if a.running == 0 && a.lingers {
			a.lingers = false
			o.lingering--
			o.takeBackLocked(a)
		}
		o.mu.Unlock()
		return nil
	}
	if kept {
		o.mu.Unlock()
		return nil
	}
	var mine []Change
	rest := a.changes[:0:0]
	for _, f := range a.changes {
		if f.step == step {
			mine = append(mine, f.change)
		} else {
			rest = append(rest, f)
		}
	}
	a.changes = rest
	if len(mine) == 0 {
		o.mu.Unlock()
		return nil
	}
	done := make(chan bool, 1)
	o.undoLocked(undo{id: a.key.id, changes: mine, then: func(undone bool) { done <- undone }})
	o.mu.Unlock()
	select {
	case undone := <-done:
		if !undone {
			return fmt.Errorf("the failed step's changes could not be taken back")
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// changed notes a change that a handler makes before the decision.
func (o *ownState) changed(a *attempt, step *StepTx, c Change) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if a.state != attemptOpen {
		return errLockOver
	}
	a.changes = append(a.changes, firstChange{step, c})
	return nil
}

// votes tells whether a yes may be given, and binds it: why is the reason for a no.
func (o *ownState) votes(c *Client, p *cohortv1.Prepare) (why string) {
	k := keyOf(p.Attempt)
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.activation == nil || o.activation.Epoch != p.ActivationEpoch {
		return notActive(p.ActivationEpoch)
	}
	a := o.attempts.byKey[k]
	switch {
	case a == nil && o.attempts.dead[k]:
		return timeOverHere
	case a == nil:
		return "the attempt is over here" // its abort was heard while the voter thought
	case a.state == attemptVoted:
		return ""
	case a.epoch != p.ActivationEpoch:
		return notActive(a.epoch)
	}
	a.state = attemptVoted
	o.locks.vote(k)
	o.armLocked(a, askAfter, func() { o.ask(c, a) })
	return ""
}

// refuses ends an attempt that was voted against: it cannot commit.
func (o *ownState) refuses(k attemptKey) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if a := o.attempts.byKey[k]; a != nil && a.state == attemptOpen {
		o.abortedLocked(a, nil)
	}
}

// expired ends an attempt whose lease is over: its coordinator has ended it too, or
// will hear a no.
func (o *ownState) expired(a *attempt) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if a.state == attemptOpen {
		o.attempts.bury(a.key)
		o.abortedLocked(a, nil)
	}
}

// heard takes a notice. That an attempt committed counts when its entry comes.
func (o *ownState) heard(k attemptKey, position uint64) {
	o.mu.Lock()
	a := o.attempts.byKey[k]
	var notices []Notice
	switch {
	case a == nil:
	case position > 0:
		a.toldCommitted = true
	default:
		notices = o.abortedLocked(a, nil)
	}
	o.mu.Unlock()
	o.tell(notices)
}

// ask settles an attempt that was voted for and of which nothing was heard. Only
// one that no coordinator has open is ended by the question.
func (o *ownState) ask(c *Client, a *attempt) {
	ctx, cancel := context.WithTimeout(a.ctx, askTimeout)
	defer cancel()
	group := c.Group(o.app.group)
	out, err := group.Outcome(ctx, a.key.id, Begun(a.key.begun))
	if err == nil && out.State == Unknown {
		out, err = group.Outcome(ctx, a.key.id, Begun(a.key.begun), Settle())
	}
	var end uint64
	if err == nil && out.State == UnknownBeforeHorizon {
		// It cannot commit any more. If it did, its entry is in the log by now.
		found, findErr := o.find(ctx)
		end, err = max(found.GetLogLast(), 1), findErr
	}
	var notices []Notice
	o.mu.Lock()
	switch {
	case a.state == attemptOver:
	case err != nil || out.State == Pending || out.State == Unknown:
		o.armLocked(a, askAfter, func() { o.ask(c, a) })
	case out.State == UnknownBeforeHorizon:
		if a.abortedFrom == 0 {
			a.abortedFrom = end
			o.forgotten++
		}
		notices = o.forgottenLocked(nil)
	case out.State == Committed && out.Receipt.Begun == a.key.begun:
		// Its entry comes, or has been passed: inside a captured state, say.
		if out.Receipt.Incarnation == o.applied.Incarnation && out.Receipt.Position <= o.applied.Position && o.phase == cohortv1.Progress_PHASE_FOLLOWING {
			notices = o.committedLocked(a, out.Receipt.Position, nil, nil)
		} else {
			o.armLocked(a, askAfter, func() { o.ask(c, a) })
		}
	default:
		notices = o.abortedLocked(a, nil)
	}
	o.mu.Unlock()
	o.tell(notices)
}

// forgottenLocked ends attempts that count as aborted because the log has passed
// where they would be.
func (o *ownState) forgottenLocked(notices []Notice) []Notice {
	if o.forgotten == 0 {
		return notices
	}
	for _, a := range o.attempts.byKey {
		if a.abortedFrom > 0 && o.applied.Position >= a.abortedFrom {
			notices = o.abortedLocked(a, notices)
		}
	}
	return notices
}

// newTermLocked ends what does not count under another activation or coordinator.
// What has voted may have committed all the same: it is known until its outcome is,
// but holds nothing, since what it read is in the log before the new activation.
func (o *ownState) newTermLocked(epoch, coordinator uint64) {
	for _, a := range o.attempts.byKey {
		switch {
		case a.state == attemptOpen && (a.epoch != epoch || a.coordinator < coordinator):
			o.abortedLocked(a, nil)
		case a.state == attemptVoted && a.epoch != epoch && len(a.changes) == 0:
			o.locks.release(a.key)
		}
	}
}

// overLocked ends an attempt, all but its locks and changes.
func (o *ownState) overLocked(a *attempt) {
	a.state = attemptOver
	a.end()
	o.locks.vote(a.key) // it waits for nothing any more: others may wait for it
	if a.timer != nil {
		a.timer.Stop()
	}
	if a.abortedFrom > 0 {
		o.forgotten--
	}
	o.attempts.forget(a)
}

func (o *ownState) committedLocked(a *attempt, position uint64, left []Change, notices []Notice) []Notice {
	notices = append(notices, Notice{ID: a.key.id, Begun: a.key.begun, Nonce: a.key.nonce, Committed: true, Position: position})
	o.overLocked(a)
	a.changes = nil
	if len(left) == 0 {
		o.locks.release(a.key)
		return notices
	}
	o.undoLocked(undo{id: a.key.id, changes: left, then: func(bool) { o.locks.release(a.key) }})
	return notices
}

// abortedLocked ends an attempt that does not commit. While a handler of it runs
// that may have changed the state, its locks stay, and its changes.
func (o *ownState) abortedLocked(a *attempt, notices []Notice) []Notice {
	if a.state == attemptVoted {
		notices = append(notices, Notice{ID: a.key.id, Begun: a.key.begun, Nonce: a.key.nonce})
	}
	o.overLocked(a)
	switch {
	case !o.appliesFirst:
		o.locks.release(a.key)
	case a.running == 0:
		o.takeBackLocked(a)
	default:
		a.lingers = true
		o.lingering++
	}
	return notices
}

// takeBackLocked takes the changes of an aborted attempt back, and then lets its
// locks go.
func (o *ownState) takeBackLocked(a *attempt) {
	changes := changesOf(a.changes)
	a.changes = nil
	if len(changes) == 0 || a.life != o.attempts.life {
		o.locks.release(a.key)
		return
	}
	o.undoLocked(undo{id: a.key.id, changes: changes, then: func(bool) { o.locks.release(a.key) }})
}

func (o *ownState) undoLocked(u undo) {
	o.undos = append(o.undos, u)
	o.wakeUp()
}

// dropChangesLocked is called when the state is replaced: what was changed first
// is gone with it.
func (o *ownState) dropChangesLocked() {
	for _, u := range o.undos {
		if u.then != nil {
			u.then(true)
		}
	}
	o.undos = nil
	o.attempts.life++
	for _, a := range o.attempts.byKey {
		a.changes, a.life = nil, o.attempts.life
		o.locks.release(a.key)
	}
}

func (o *ownState) tell(notices []Notice) {
	if o.app.outcome == nil {
		return
	}
	for _, n := range notices {
		o.app.outcome(n)
	}
}

// lock takes a lock for an attempt, waiting for it if it may.
func (o *ownState) lock(ctx context.Context, a *attempt, key string, mode lockMode) error {
	o.mu.Lock()
	if a.state != attemptOpen {
		o.mu.Unlock()
		return errLockOver
	}
	w, err := o.locks.acquire(a.key, key, mode)
	if w == nil {
		o.mu.Unlock()
		return err
	}
	w.done = make(chan struct{})
	o.mu.Unlock()
	select {
	case <-w.done:
		return w.err
	case <-ctx.Done():
		o.mu.Lock()
		o.locks.cancel(w)
		o.mu.Unlock()
		return ctx.Err()
	}
}
