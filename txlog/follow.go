package txlog

import (
	"context"
	"errors"
	"fmt"

	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/segment"
)

// Follower reads the log in order. It holds no place in memory for entries that
// its owner has not asked for: one that is slow reads files, and one that is too
// slow gets ErrTruncated.
type Follower struct {
	replica *Replica
	next    uint64
}

// Follow begins at position from, 0 being the first. It may lie ahead of the end.
// The error is ErrTruncated when it is no longer kept.
func (r *Replica) Follow(from uint64) (*Follower, error) {
	from = max(from, 1)
	if err := r.Quarantined(); err != nil {
		return nil, err
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.closed || r.files == nil {
		return nil, ErrClosed
	}
	if first := r.files.log.First(); from < first {
		return nil, fmt.Errorf("%w (asked for %d, the first is %d)", ErrTruncated, from, first)
	}
	return &Follower{replica: r, next: from}, nil
}

// Position is the last published position of the replica.
func (r *Replica) Position() uint64 { return r.position.Load() }

// Next returns the next entries, at least one, at most maxEntries and about
// maxBytes; it waits for the first until ctx ends. Errors: ErrTruncated,
// ErrClosed, those of ctx and of damaged files.
func (f *Follower) Next(ctx context.Context, maxEntries int, maxBytes int64) ([]command.Entry, error) {
	for {
		// The channel before the position: what is published in between closes it.
		more := *f.replica.published.Load()
		if end := f.replica.position.Load(); f.next <= end {
			entries, err := f.read(end, maxEntries, maxBytes)
			if !errors.Is(err, segment.ErrClosed) {
				return entries, err
			}
			// An installed snapshot has exchanged the log; the next look gets the new
			// one, or finds the replica closed.
			continue
		}
		select {
		case <-more:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-f.replica.stop:
			return nil, ErrClosed
		}
	}
}

func (f *Follower) read(end uint64, maxEntries int, maxBytes int64) ([]command.Entry, error) {
	if err := f.replica.Quarantined(); err != nil {
		return nil, err
	}
	f.replica.mu.RLock()
	files, closed := f.replica.files, f.replica.closed
	f.replica.mu.RUnlock()
	if closed {
		return nil, ErrClosed
	}
	var entries []command.Entry
	for rec, err := range files.log.Read(f.next, maxBytes) {
		if err != nil {
			if len(entries) > 0 {
				return entries, nil // the next call meets the error again
			}
			return nil, err
		}
		if rec.Position > end || len(entries) == maxEntries {
			break
		}
		e, err := command.DecodeEntry(rec.Payload)
		if err != nil {
			return entries, fmt.Errorf("txlog: position %d: %w", rec.Position, err)
		}
		entries = append(entries, e)
		f.next = rec.Position + 1
	}
	return entries, nil
}
