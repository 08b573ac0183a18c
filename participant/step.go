package participant

import (
	"context"

	cohortv1 "github.com/cohort-tx/cohort/api/cohort/v1"
)

// StepTx is what a handler does its part of a transaction with. It belongs to the
// handler's goroutine and ends with it.
type StepTx struct {
	group       *Group
	participant string
	step        *cohortv1.Step
	buffer      *buffer
	err         error
}

func newStepTx(ctx context.Context, g *Group, participant string, s *cohortv1.Step) *StepTx {
	tx := &StepTx{group: g, participant: participant, step: s}
	tx.buffer = newBuffer(ctx, tx)
	return tx
}

// ID is the transaction's id: the same at each attempt of it.
func (tx *StepTx) ID() string { return tx.step.Attempt.GetId() }

// Position is the last one in the transaction's snapshot.
func (tx *StepTx) Position() uint64 { return tx.step.Position }

// Store is the participant's own store. What the transaction did before this
// step, here or at other participants, is seen.
func (tx *StepTx) Store() Store { return Store{buffer: tx.buffer, participant: tx.participant} }

func (tx *StepTx) end() { tx.err = ErrTxDone }

func (tx *StepTx) usable() error { return tx.err }

func (tx *StepTx) get(ctx context.Context, participant string, keys [][]byte) (*cohortv1.GetResponse, error) {
	return getAt(ctx, tx.group, &cohortv1.GetRequest{
		Group: tx.group.name, Participant: participant, Keys: keys, At: &cohortv1.GetRequest_Attempt{Attempt: tx.step.Attempt},
	})
}

func (tx *StepTx) scan(ctx context.Context, participant string, prefix, after []byte, limit uint32) (*cohortv1.ScanResponse, error) {
	return scanAt(ctx, tx.group, &cohortv1.ScanRequest{
		Group: tx.group.name, Participant: participant, Prefix: prefix, After: after, Limit: limit,
		At: &cohortv1.ScanRequest_Attempt{Attempt: tx.step.Attempt},
	})
}

// attemptKey names an attempt in maps.
type attemptKey struct {
	id           string
	begun, nonce uint64
}

func keyOf(a *cohortv1.Attempt) attemptKey {
	return attemptKey{a.GetId(), a.GetBegun(), a.GetNonce()}
}

type stepKey struct {
	attempt attemptKey
	step    uint32
	epoch   uint64
}

// stepResults keeps the newest answers, for steps that are sent again.
type stepResults struct {
	most   int
	byStep map[stepKey]*cohortv1.StepResult
	order  []stepKey // a ring, oldest at next when full
	next   int
}

func newStepResults(most int) stepResults {
	return stepResults{most: most, byStep: make(map[stepKey]*cohortv1.StepResult)}
}

func (r *stepResults) get(k stepKey) *cohortv1.StepResult { return r.byStep[k] }

func (r *stepResults) put(k stepKey, result *cohortv1.StepResult) {
	if r.byStep[k] != nil {
		r.byStep[k] = result
		return
	}
	if len(r.order) < r.most {
		r.order = append(r.order, k)
	} else {
		delete(r.byStep, r.order[r.next])
		r.order[r.next] = k
		r.next = (r.next + 1) % r.most
	}
	r.byStep[k] = result
}
