package bench

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/cohort-tx/cohort/coordinator"
	"github.com/cohort-tx/cohort/participant"
)

// group runs transactions on the group that is measured, over gRPC or in process.
type group interface {
	// update runs fn as a transaction, again when it lost a race, and tells how many
	// attempts it took.
	update(ctx context.Context, fn func(tx) error) (attempts int, err error)
	// view runs fn on a snapshot that holds everything acknowledged before.
	view(ctx context.Context, fn func(reader) error) error
}

type reader interface {
	get(participant, key string) (value []byte, found bool, err error)
}

type tx interface {
	reader
	put(participant, key string, value []byte) error
	add(participant, key string, delta int64) error
	call(participant, method string, in any) error
}

const (
	// maxAttempts of one operation, as many as the SDK's.
	maxAttempts = 100
	// firstPause and longestPause between attempts are the SDK's too.
	firstPause   = 2 * time.Millisecond
	longestPause = time.Second
)

// sdkGroup is a group by the SDK, over gRPC.
type sdkGroup struct{ group *participant.Group }

func (g sdkGroup) update(ctx context.Context, fn func(tx) error) (attempts int, err error) {
	_, err = g.group.Run(ctx, func(t *participant.Tx) error {
		attempts++
		return fn(sdkTx{t})
	}, participant.MaxAttempts(maxAttempts))
	return attempts, err
}

func (g sdkGroup) view(ctx context.Context, fn func(reader) error) error {
	return g.group.View(ctx, func(t *participant.ReadTx) error { return fn(sdkReader{t}) })
}

type sdkTx struct{ *participant.Tx }

func (t sdkTx) get(participant, key string) ([]byte, bool, error) {
	return t.Store(participant).GetBytes(key)
}

func (t sdkTx) put(participant, key string, value []byte) error {
	return t.Store(participant).Put(key, value)
}

func (t sdkTx) add(participant, key string, delta int64) error {
	return t.Store(participant).Add(key, delta)
}

func (t sdkTx) call(participant, method string, in any) error {
	return t.Call(participant, method, in, nil)
}

type sdkReader struct{ *participant.ReadTx }

func (t sdkReader) get(participant, key string) ([]byte, bool, error) {
	return t.Store(participant).GetBytes(key)
}

// errorKind names an error in a report: the reason of an abort, or what else it is.
func errorKind(err error) string {
	var (
		abort         *participant.AbortError
		aborted       *coordinator.Aborted
		call          *participant.CallError
		step          *coordinator.StepFailure
		unknown       *participant.IndeterminateError
		indeterminate *coordinator.Indeterminate
	)
	switch {
	case errors.As(err, &abort):
		return string(abort.Reason)
	case errors.As(err, &aborted):
		return coordinator.ReasonName(aborted.Reason)
	case errors.As(err, &call), errors.As(err, &step):
		return "call_failed"
	case errors.As(err, &unknown), errors.As(err, &indeterminate):
		return "indeterminate"
	case errors.Is(err, participant.ErrUnavailable), errors.Is(err, coordinator.ErrNotServing):
		return "unavailable"
	case errors.Is(err, context.Canceled):
		return "given_up"
	}
	return "other"
}

// pause waits between attempts: twice as long each time, and shortened at random.
type pause struct{ next time.Duration }

func (p *pause) wait(ctx context.Context) error {
	t := time.NewTimer(p.next - rand.N(p.next/2+1))
	defer t.Stop()
	p.next = min(2*p.next, longestPause)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
