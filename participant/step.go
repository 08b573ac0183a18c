package participant

import (
	"context"
	"slices"

	"google.golang.org/protobuf/proto"

	cohortv1 "github.com/cohort-tx/cohort/api/cohort/v1"
)

// StepTx is what a handler does its part of a transaction with. It belongs to the
// handler's goroutine and ends with it.
type StepTx struct {
	group       *Group
	participant string
	step        *cohortv1.Step
	buffer      *buffer
	// own and attempt are set where own state is kept.
	own     *ownState
	attempt *attempt
	err     error
}

func newStepTx(ctx context.Context, g *Group, participant string, s *cohortv1.Step) *StepTx {
	tx := &StepTx{group: g, participant: participant, step: s}
	tx.buffer = newBuffer(ctx, tx)
	return tx
}

// ID is the transaction's id: the same at each attempt of it.
func (tx *StepTx) ID() string { return tx.step.Attempt.GetId() }

// Begun and Nonce tell the attempts of a transaction apart, as in Prepare.
func (tx *StepTx) Begun() uint64 { return tx.step.Attempt.GetBegun() }

// Nonce tells apart attempts with the same Begun.
func (tx *StepTx) Nonce() uint64 { return tx.step.Attempt.GetNonce() }

// Number is the step's within its attempt. One that is sent again has the same.
func (tx *StepTx) Number() uint32 { return tx.step.Step }

// WhenOver has fn called, in a goroutine of its own, when the attempt is over at this
// instance: it committed and that is applied, it did not commit, or its time has run
// out. What an application holds for an attempt that it has not voted for it lets go
// then; of those with a yes OnOutcome tells more. stop, if it returns true, means
// that fn will not be called. Without state of its own a participant hears nothing.
func (tx *StepTx) WhenOver(fn func()) (stop func() bool) {
	if tx.attempt == nil {
		return func() bool { return true }
	}
	return context.AfterFunc(tx.attempt.ctx, fn)
}

// Method is the one that was called.
func (tx *StepTx) Method() string { return tx.step.Method }

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

// stepRun is the run of one step: its handler's, and what came of it.
type stepRun struct {
	done   chan struct{}
	result *cohortv1.StepResult // set before done is closed
	size   int
}

// stepResults keeps the newest runs, for steps that are sent again: bounded in
// number and in bytes, the oldest go first. The App's lock guards it.
type stepResults struct {
	most, mostBytes, bytes int
	byStep                 map[stepKey]*stepRun
	order                  []stepKey
}

func newStepResults(most, mostBytes int) stepResults {
	return stepResults{most: most, mostBytes: mostBytes, byStep: make(map[stepKey]*stepRun)}
}

// claim gives a step's run; first tells that it is the caller's to perform.
func (r *stepResults) claim(k stepKey) (run *stepRun, first bool) {
	if run := r.byStep[k]; run != nil {
		return run, false
	}
	run = &stepRun{done: make(chan struct{})}
	r.byStep[k] = run
	r.order = append(r.order, k)
	r.trim()
	return run, true
}

// finish ends a run; without keep a step that is sent again runs again.
func (r *stepResults) finish(k stepKey, run *stepRun, result *cohortv1.StepResult, keep bool) {
	run.result, run.size = result, proto.Size(result)
	close(run.done)
	if r.byStep[k] != run {
		return // gone already
	}
	r.bytes += run.size
	if !keep {
		r.drop(k)
		r.order = slices.DeleteFunc(r.order, func(o stepKey) bool { return o == k })
	}
	r.trim()
}

func (r *stepResults) trim() {
	for len(r.order) > r.most || r.bytes > r.mostBytes && len(r.order) > 0 {
		r.drop(r.order[0])
		r.order = r.order[1:]
	}
}

func (r *stepResults) drop(k stepKey) {
	r.bytes -= r.byStep[k].size
	delete(r.byStep, k)
}
