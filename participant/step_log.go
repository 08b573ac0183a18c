package participant

import (
	"context"
	"errors"
	"fmt"
	"slices"

	cohortv1 "github.com/cohort-tx/cohort/api/cohort/v1"
)

type changeOptions struct{ alreadyApplied bool }

// ChangeOption changes what StepTx.Log stages.
type ChangeOption func(*changeOptions)

// AlreadyApplied says that the handler itself makes the change in the state, right
// after Log has returned: the state's Apply does not get it at this instance. When
// the transaction does not commit, Undo does. The App needs AppliesFirst.
func AlreadyApplied() ChangeOption { return func(o *changeOptions) { o.alreadyApplied = true } }

// Log stages a change of the participant's own state: OwnState.Apply gets it, as
// the Value of a ChangeLog, when the transaction has committed. change is as in
// Store.Put: bytes, strings and protobuf messages as they are, everything else as
// JSON.
func (tx *StepTx) Log(change any, opts ...ChangeOption) error {
	if err := tx.usable(); err != nil {
		return err
	}
	var o changeOptions
	for _, opt := range opts {
		opt(&o)
	}
	data, _, err := encode(change)
	if err == nil {
		err = checkSize(len(tx.buffer.ops), len(data))
	}
	switch {
	case err != nil:
		return tx.buffer.doom(err)
	case tx.own == nil:
		return tx.buffer.doom(fmt.Errorf("%w: Log is for a participant with state of its own: give the App one with State", ErrInvalid))
	case o.alreadyApplied && !tx.own.appliesFirst:
		return tx.buffer.doom(fmt.Errorf("%w: AlreadyApplied needs the option AppliesFirst of App.State", ErrInvalid))
	}
	if o.alreadyApplied {
		c := Change{Kind: ChangeLog, Participant: tx.participant, Value: data, AppliedEpoch: tx.attempt.epoch}
		if err := tx.own.changed(tx.attempt, tx, c); err != nil {
			return tx.buffer.doom(tx.lost("", err))
		}
	}
	tx.buffer.stage(&cohortv1.Op{Participant: tx.participant, Op: &cohortv1.Op_Log{Log: &cohortv1.LogChange{Change: data, AlreadyApplied: o.alreadyApplied}}})
	return nil
}

// Lock takes exclusive locks on keys of the application's own choosing, for the
// whole transaction: they are held until its changes are applied here, or it is
// known not to commit. What is read of the state under a lock thus stays true.
//
// An attempt waits for younger ones that hold a key, and for any that is just
// being decided. When an older one holds it, the error matches ErrConflict at once:
// return it, and the workflow is run again. Whatever the handler makes of an error
// of Lock, its step fails. Take all locks that are known at the beginning in one
// call.
func (tx *StepTx) Lock(keys ...string) error { return tx.lock(lockExclusive, keys) }

// RLock takes shared locks: as Lock, but any number of attempts may have one. Lock
// on a key that the attempt has shared makes it exclusive.
func (tx *StepTx) RLock(keys ...string) error { return tx.lock(lockShared, keys) }

func (tx *StepTx) lock(mode lockMode, keys []string) error {
	if err := tx.usable(); err != nil {
		return err
	}
	if tx.own == nil {
		return tx.buffer.doom(fmt.Errorf("%w: locks are for a participant with state of its own: give the App one with State", ErrInvalid))
	}
	for _, key := range keys {
		if err := checkKey(key); err != nil {
			return tx.buffer.doom(err)
		}
	}
	// One order for all makes conflicts rarer.
	for _, key := range slices.Compact(slices.Sorted(slices.Values(keys))) {
		if err := tx.own.lock(tx.buffer.ctx, tx.attempt, key, mode); err != nil {
			return tx.buffer.doom(tx.lost(key, err))
		}
	}
	return nil
}

// lost is the error of a lock that was not to be had.
func (tx *StepTx) lost(key string, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("lock %s: %w", printable(key), err)
	}
	return &AbortError{ID: tx.ID(), Reason: ReasonConflict, Participant: tx.participant, Key: key, Detail: err.Error()}
}
