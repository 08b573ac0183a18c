package txlog

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lni/dragonboat/v4"

	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/machine"
)

// readIndexTimeout bounds one try of ReadIndex: longer than an election.
const readIndexTimeout = 2 * time.Second

// Proposal is a batch on its way through Raft.
type Proposal struct {
	done    chan struct{}
	index   uint64
	results []command.Result
	err     error
}

// Done is closed when the result is there: at the latest after the timeout.
func (p *Proposal) Done() <-chan struct{} { return p.done }

// Result gives, after Done, one result per command and the index of the Raft
// entry. A nil error means that the batch is applied here. Errors: ErrDropped,
// ErrUnknown.
func (p *Proposal) Result() ([]command.Result, uint64, error) { return p.results, p.index, p.err }

// Propose sends a batch to the log as one entry. It returns at once; then, if
// then is not nil, is called when the result is there, from a goroutine of its
// own. Errors, with nothing proposed: ErrOverloaded, ErrTooLarge, ErrNotReady,
// ErrHalted, ErrClosed.
func (r *Replica) Propose(batch *command.Batch, timeout time.Duration) (*Proposal, error) {
	if r.Err() != nil || r.Quarantined() != nil {
		return nil, ErrHalted
	}
	data := command.AppendBatch(nil, batch)
	rs, err := r.host.nh.Propose(r.host.nh.GetNoOPSession(r.config.ShardID), data, timeout)
	if err != nil {
		return nil, proposeError(err, len(data))
	}
	p := &Proposal{done: make(chan struct{})}
	r.tasks.Go(func() { p.wait(rs) })
	return p, nil
}

func proposeError(err error, size int) error {
	switch {
	case errors.Is(err, dragonboat.ErrSystemBusy):
		return ErrOverloaded
	case errors.Is(err, dragonboat.ErrPayloadTooBig):
		return fmt.Errorf("%w (%d bytes)", ErrTooLarge, size)
	case errors.Is(err, dragonboat.ErrShardNotReady), errors.Is(err, dragonboat.ErrShardNotInitialized), errors.Is(err, dragonboat.ErrTimeoutTooSmall):
		return ErrNotReady
	case errors.Is(err, dragonboat.ErrClosed), errors.Is(err, dragonboat.ErrShardClosed), errors.Is(err, dragonboat.ErrShardNotFound):
		return ErrClosed
	}
	return err
}

func (p *Proposal) wait(rs *dragonboat.RequestState) {
	r := <-rs.ResultC()
	switch {
	case r.Completed():
		p.index = r.GetResult().Value
		if p.results, p.err = command.DecodeResults(r.GetResult().Data); p.err != nil {
			// Never seen: a replica that halts gives nothing back while anybody waits.
			p.err = ErrUnknown
		}
	case r.Dropped():
		p.err = ErrDropped
	default:
		// Timeout, terminated, aborted: the entry may be in the log.
		p.err = ErrUnknown
	}
	rs.Release()
	close(p.done)
}

// ReadIndex returns a published index that contains everything acknowledged
// before the call, as the shard's leader confirmed with a quorum. Errors:
// ErrNotReady (try again), ErrHalted, ErrClosed and those of ctx.
func (r *Replica) ReadIndex(ctx context.Context) (uint64, error) {
	if r.Err() != nil {
		return 0, ErrHalted
	}
	timeout := readIndexTimeout
	if deadline, ok := ctx.Deadline(); ok {
		timeout = max(min(timeout, time.Until(deadline)), 10*time.Millisecond)
	}
	rs, err := r.host.nh.ReadIndex(r.config.ShardID, timeout)
	if err != nil {
		return 0, proposeError(err, 0)
	}
	select {
	case res := <-rs.ResultC():
		rs.Release()
		if !res.Completed() {
			return 0, ErrNotReady
		}
		// dragonboat answers once Update returned for the index, and Update returns
		// after it published.
		return r.Published(), nil
	case <-r.stop:
		return 0, ErrClosed
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// Fits returns what a transaction counts for in an entry, or ErrTooLarge with
// what is too large.
func (r *Replica) Fits(limits command.Limits, d *command.Decide) (machine.Size, error) {
	if t := machine.CheckSize(limits, d); t != nil {
		return machine.Size{}, fmt.Errorf("%w: %w", ErrTooLarge, t)
	}
	return machine.CommandSize(d), nil
}
