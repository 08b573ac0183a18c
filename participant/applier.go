package participant

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	cohortv1 "github.com/cohort-tx/cohort/api/cohort/v1"
)

const (
	// followBatches bounds messages of the log that are read ahead: beyond them the
	// stream's flow control holds the node back.
	followBatches = 4
	// maxStateTries bounds tries to bring the state up that fail by the state's own
	// fault, or the log's, with nothing applied in between. Then Serve ends: another
	// process or instance may do better.
	maxStateTries = 8
	// progressEvery is how often progress is told at most.
	progressEvery = 250 * time.Millisecond
	// findTimeout bounds one asking where the state comes from.
	findTimeout = 10 * time.Second
)

// run is the applier: it brings the state up, follows the log with it, and begins
// anew when something breaks, until ctx ends or it is no use.
func (o *ownState) run(ctx context.Context, point Point) error {
	select {
	case <-o.told:
	case <-ctx.Done():
		return nil
	}
	pause, tries := newBackoff(50*time.Millisecond, 5*time.Second), 0
	for first := true; ; first = false {
		var err error
		if !first {
			point, err = o.point(ctx)
			if err != nil {
				err = o.stateError("point", err)
			}
		}
		before := o.progress()
		if err == nil {
			err = o.bringUp(ctx, point)
		}
		if ctx.Err() != nil {
			return nil
		}
		if o.progress() != before {
			pause, tries = newBackoff(50*time.Millisecond, 5*time.Second), 0
		}
		if !errors.Is(err, ErrUnavailable) {
			tries++
		}
		if tries >= maxStateTries {
			return err
		}
		o.client.opts.logger.Warn("own state begins anew", "group", o.app.group, "participant", o.app.participant, "position", o.progress().Position, "error", err)
		if pause.wait(ctx) != nil {
			return nil
		}
	}
}

func (o *ownState) progress() Point {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.applied
}

// bringUp finds where the state comes from, restores it if need be, and follows
// the log until that breaks.
func (o *ownState) bringUp(ctx context.Context, point Point) error {
	found, err := o.find(ctx)
	if err != nil {
		return err
	}
	o.mu.Lock()
	plan, err := planState(stateFacts{point: point, touched: o.touched, lost: o.lost, maxLag: o.maxLag, found: found})
	served := o.served
	o.mu.Unlock()
	if err != nil {
		return o.stateError("find", err)
	}
	if plan.restore != nil {
		if served {
			o.renew("its state has to be restored")
		}
		if err := o.restore(ctx, found.Incarnation, plan.restore); err != nil {
			return err
		}
	}
	if o.awaitCapture(found) {
		asking, stop := context.WithCancel(ctx)
		var asked sync.WaitGroup
		asked.Go(func() { o.captureOnce(asking) })
		defer asked.Wait()
		defer stop()
	}
	return o.follow(ctx, Point{Incarnation: found.Incarnation, Position: plan.from - 1})
}

func (o *ownState) find(ctx context.Context) (*cohortv1.FindStateResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, findTimeout)
	defer cancel()
	found, err := call(ctx, o.client, "find state", o.app.group, &cohortv1.FindStateRequest{Group: o.app.group, Participant: o.app.participant}, findStateMethod)
	if err != nil && errors.Is(err, context.DeadlineExceeded) {
		// The question's own time, not the caller's: nobody answered.
		err = &RequestError{Op: "find state", Group: o.app.group, kind: ErrUnavailable, Message: "no node answered in time"}
	}
	return found, err
}

// renew makes this process another instance: what it held in memory for the
// transactions under way is gone.
func (o *ownState) renew(reason string) {
	o.mu.Lock()
	o.newTermLocked(0, 0)
	o.activation, o.ready, o.served, o.capture = nil, false, false, nil
	o.uploads.cancel()
	o.mu.Unlock()
	o.app.renew(reason)
}

// piece is what the follower hands the applier: entries, or what ended it.
type piece struct {
	entries []Entry
	err     error
}

// follow applies the log from the position after at on, and attends to everything
// else in between.
func (o *ownState) follow(ctx context.Context, at Point) error {
	reading, stop := context.WithCancel(ctx)
	pieces := make(chan piece, followBatches)
	go func() {
		defer close(pieces)
		f := follow{group: o.client.Group(o.app.group), next: at.Position + 1, incarnation: at.Incarnation}
		f.options.participants = []string{o.app.participant}
		give := func(p piece) bool {
			select {
			case pieces <- p:
				return true
			case <-reading.Done():
				return false
			}
		}
		err := f.walk(reading, func(entries []Entry) bool { return give(piece{entries: entries}) })
		give(piece{err: err})
	}()
	defer func() {
		stop()
		for range pieces {
		}
	}()
	o.mu.Lock()
	o.lost = false
	o.phase = cohortv1.Progress_PHASE_FOLLOWING
	o.setLocked(at)
	o.mu.Unlock()
	if err := o.attend(ctx); err != nil {
		return err
	}
	o.report()
	tick := time.NewTimer(progressEvery)
	defer tick.Stop()
	for {
		select {
		case p := <-pieces:
			if p.err != nil {
				return p.err
			}
			if err := o.applyAll(ctx, p.entries); err != nil {
				return err
			}
		case <-o.wake:
			if err := o.attend(ctx); err != nil {
				return err
			}
		case <-tick.C:
			o.report()
			tick.Reset(progressEvery)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// applyAll applies entries as they came, and stops for a capture on the way.
func (o *ownState) applyAll(ctx context.Context, entries []Entry) error {
	for len(entries) > 0 {
		n := len(entries)
		o.mu.Lock()
		if c := o.capture; c != nil && c.Position >= entries[0].Position && c.Position < entries[n-1].Position {
			n = int(c.Position-entries[0].Position) + 1
		}
		todo, ends := o.sortOutLocked(entries[:n])
		o.mu.Unlock()
		if err := o.apply(ctx, todo); err != nil {
			return err
		}
		o.passed(entries[n-1].Position, ends)
		if err := o.attend(ctx); err != nil {
			return err
		}
		entries = entries[n:]
	}
	return nil
}

// ending is what an entry means for attempts that ran here.
type ending struct {
	position uint64
	winner   *attempt
	losers   []*attempt
	// undo is what the winner's handlers had changed and the entry does not hold.
	undo []Change
}

// sortOutLocked gives the entries that change the state, without what attempts
// here have changed already, and what they mean for the attempts.
func (o *ownState) sortOutLocked(entries []Entry) (todo []Entry, ends []ending) {
	todo = make([]Entry, 0, len(entries))
	for i := range entries {
		e := &entries[i]
		changes := logged(e.Changes)
		if len(o.attempts.byID) > 0 && o.attempts.byID[e.ID] != nil {
			end := ending{position: e.Position}
			if end.winner, end.losers = o.attempts.decided(e); end.winner != nil && len(end.winner.changes) > 0 {
				changes, end.undo = end.winner.match(changes)
			}
			ends = append(ends, end)
		}
		if len(changes) > 0 {
			entry := *e
			entry.Changes = changes
			todo = append(todo, entry)
		}
	}
	return todo, ends
}

// logged are the changes that are the state's: what was written into the
// participant's store is there, and not the state's to keep.
func logged(changes []Change) []Change {
	other := func(c Change) bool { return c.Kind != ChangeLog }
	if !slices.ContainsFunc(changes, other) {
		return changes
	}
	return slices.DeleteFunc(slices.Clone(changes), other)
}

// apply hands entries to the state, several at once if it takes them.
func (o *ownState) apply(ctx context.Context, todo []Entry) error {
	if len(todo) == 0 {
		return nil
	}
	o.mu.Lock()
	o.touched = true
	o.mu.Unlock()
	err := o.safely(func() error {
		if batch, ok := o.state.(BatchApplier); ok && len(todo) > 1 {
			return batch.ApplyBatch(ctx, todo)
		}
		for i := range todo {
			if err := o.state.Apply(ctx, todo[i]); err != nil {
				return fmt.Errorf("position %d: %w", todo[i].Position, err)
			}
		}
		return nil
	})
	if err != nil {
		return o.broken("apply", err)
	}
	return nil
}

// broken ends what this instance is good for: a callback failed, and what the
// state is now only its Point can say.
func (o *ownState) broken(op string, err error) error {
	err = o.stateError(op, err)
	o.mu.Lock()
	served := o.served
	o.mu.Unlock()
	if served {
		o.renew(err.Error())
	}
	return err
}

// passed notes that everything up to a position is applied, and ends the attempts
// that this decides.
func (o *ownState) passed(position uint64, ends []ending) {
	var notices []Notice
	o.mu.Lock()
	o.setLocked(Point{Incarnation: o.applied.Incarnation, Position: position})
	for _, e := range ends {
		if w := e.winner; w != nil {
			notices = o.committedLocked(w, e.position, e.undo, notices)
		}
		for _, l := range e.losers {
			notices = o.abortedLocked(l, notices)
		}
	}
	notices = o.forgottenLocked(notices)
	o.mu.Unlock()
	o.tell(notices)
}

// attend does what was asked for since the last time: it takes changes back, says
// that the instance is ready, and captures.
func (o *ownState) attend(ctx context.Context) error {
	for {
		o.mu.Lock()
		if len(o.undos) == 0 {
			break
		}
		u := o.undos[0]
		o.undos = o.undos[1:]
		o.mu.Unlock()
		if err := o.undo(ctx, u); err != nil {
			return err
		}
	}
	var ready *cohortv1.Ready
	if act := o.activation; act != nil && !o.ready && o.applied.Incarnation == act.Incarnation && o.applied.Position >= act.Position {
		o.ready, o.served = true, true
		ready = &cohortv1.Ready{ActivationEpoch: act.Epoch, Position: o.applied.Position}
	}
	o.mu.Unlock()
	if ready != nil {
		o.app.say(&cohortv1.InstanceMessage{Message: &cohortv1.InstanceMessage_Ready{Ready: ready}})
		o.app.tell(Active)
	}
	return o.attendCapture(ctx)
}

// undo takes changes back that did not commit. Without an Undoer, or when it
// fails, the state is lost.
func (o *ownState) undo(ctx context.Context, u undo) error {
	err := errors.New("an attempt did not commit, and the state has no Undo to take its changes back")
	if undoer, ok := o.state.(Undoer); ok {
		err = o.safely(func() error { return undoer.Undo(ctx, u.id, u.changes) })
	}
	o.mu.Lock()
	o.lost = o.lost || err != nil
	if u.then != nil {
		u.then(err == nil)
	}
	o.mu.Unlock()
	if err != nil {
		return o.broken("undo", fmt.Errorf("transaction %s: %w", u.id, err))
	}
	return nil
}

// report tells how far the state is, if that has changed.
func (o *ownState) report() {
	o.mu.Lock()
	if !o.unreported {
		o.mu.Unlock()
		return
	}
	o.unreported = false
	p := &cohortv1.Progress{Phase: o.phase, Position: o.applied.Position, Incarnation: o.applied.Incarnation}
	o.mu.Unlock()
	o.app.say(&cohortv1.InstanceMessage{Message: &cohortv1.InstanceMessage_Progress{Progress: p}})
}

func (o *ownState) point(ctx context.Context) (p Point, err error) {
	err = o.safely(func() error {
		p, err = o.state.Point(ctx)
		return err
	})
	return p, err
}

// safely calls the state and turns its panic into an error.
func (o *ownState) safely(fn func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
			o.client.opts.logger.Error("own state panicked", "group", o.app.group, "participant", o.app.participant, "panic", p, "stack", string(debug.Stack()))
		}
	}()
	return fn()
}
