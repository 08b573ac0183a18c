package participant

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	cohortv1 "github.com/cohort-tx/cohort/api/cohort/v1"
)

// Entry is one committed transaction in a group's log.
type Entry struct {
	// Incarnation and Position: positions are dense, from 1.
	Incarnation uint64
	Position    uint64
	ID          string
	Begun       uint64
	// Time of the commit by the coordinator's clock; for display only.
	Time    time.Time
	Changes []Change
}

// ChangeKind says what a change did.
type ChangeKind string

// Values of ChangeKind.
const (
	ChangePut    ChangeKind = "put"
	ChangeDelete ChangeKind = "delete"
	ChangeAdd    ChangeKind = "add"
	ChangeLog    ChangeKind = "log"
)

var changeKinds = map[cohortv1.Change_Kind]ChangeKind{
	cohortv1.Change_KIND_PUT:    ChangePut,
	cohortv1.Change_KIND_DELETE: ChangeDelete,
	cohortv1.Change_KIND_ADD:    ChangeAdd,
	cohortv1.Change_KIND_LOG:    ChangeLog,
}

// Change is one write of a committed transaction, as it was applied.
type Change struct {
	Kind        ChangeKind
	Participant string
	Key         string
	// Value after the change; of ChangeLog, the change itself.
	Value []byte
	// Delta of a ChangeAdd.
	Delta int64
	// AppliedEpoch of a ChangeLog is the activation epoch of the instance that had
	// made the change before it was logged (AlreadyApplied); 0 when none had.
	AppliedEpoch uint64
}

type logOptions struct {
	noWait       bool
	participants []string
}

// LogOption changes what Log gives.
type LogOption func(*logOptions)

// NoWait ends at the log's end instead of waiting for more.
func NoWait() LogOption { return func(o *logOptions) { o.noWait = true } }

// OnlyParticipants leaves the changes of other participants out. Entries without
// any change left are still given, so that positions stay dense.
func OnlyParticipants(names ...string) LogOption {
	return func(o *logOptions) { o.participants = names }
}

// Log follows the group's committed transactions from a position on, 0 being the
// first, each once and in order, until ctx ends. A broken connection is made
// again, and the log continued where it was; with NoWait no longer than the client's
// patience. An error ends it: ctx's, ErrTruncated
// when the position is no longer kept, ErrIncarnation when the group was restored
// in place meanwhile.
func (g *Group) Log(ctx context.Context, from uint64, opts ...LogOption) iter.Seq2[Entry, error] {
	var o logOptions
	for _, opt := range opts {
		opt(&o)
	}
	return func(yield func(Entry, error) bool) {
		f := follow{group: g, options: o, next: max(from, 1)}
		err := f.walk(ctx, func(entries []Entry) bool {
			for i := range entries {
				if !yield(entries[i], nil) {
					return false
				}
			}
			return true
		})
		if err != nil {
			yield(Entry{}, err)
		}
	}
}

// follow is a walk over the log, across streams.
type follow struct {
	group       *Group
	options     logOptions
	next        uint64
	incarnation uint64
}

// walk gives the log in the pieces that it comes in, until take has enough, the
// end is reached, or something other than the connection breaks.
func (f *follow) walk(ctx context.Context, take func([]Entry) bool) error {
	pause := newBackoff(20*time.Millisecond, time.Second)
	progress := time.Now()
	for {
		before := f.next
		done, err := f.stream(ctx, take)
		if done {
			return nil
		}
		if !errors.Is(err, ErrUnavailable) || ctx.Err() != nil {
			return err
		}
		if f.options.noWait && f.next == before && time.Since(progress) > f.group.client.opts.patience {
			return err
		}
		if f.next > before {
			progress = time.Now()
			pause = newBackoff(20*time.Millisecond, time.Second)
		}
		if pause.wait(ctx) != nil {
			return requestError(ctx, "log", f.group.name, ctx.Err())
		}
	}
}

// stream follows one stream until it breaks. done means that the walk is over
// without an error: the caller had enough, or the end is reached.
func (f *follow) stream(ctx context.Context, take func([]Entry) bool) (done bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := f.group.client
	addr := c.target(f.group.name)
	conn, err := c.conn(addr)
	if err != nil {
		return false, err
	}
	stream, err := cohortv1.NewLogClient(conn).Follow(ctx, &cohortv1.FollowRequest{
		Group: f.group.name, From: f.next, NoWait: f.options.noWait, Participants: f.options.participants, Incarnation: f.incarnation,
	})
	for err == nil {
		var resp *cohortv1.FollowResponse
		if resp, err = stream.Recv(); err != nil {
			break
		}
		if f.incarnation == 0 {
			f.incarnation = resp.Incarnation
		} else if resp.Incarnation != f.incarnation {
			return false, &RequestError{Op: "log", Group: f.group.name, kind: ErrIncarnation, Message: "the group was restored in place; begin again"}
		}
		entries := make([]Entry, 0, len(resp.Entries))
		for _, e := range resp.Entries {
			if e.Position < f.next {
				continue
			}
			if e.Position > f.next {
				if len(entries) > 0 && !take(entries) {
					return true, nil
				}
				return false, &RequestError{Op: "log", Group: f.group.name, kind: ErrTruncated, Message: fmt.Sprintf("the node left out positions %d to %d", f.next, e.Position-1)}
			}
			f.next = e.Position + 1
			entries = append(entries, entry(resp.Incarnation, e))
		}
		if !take(entries) {
			return true, nil
		}
	}
	if errors.Is(err, io.EOF) {
		return f.options.noWait, &RequestError{Op: "log", Group: f.group.name, kind: ErrUnavailable, Message: "the node ended the stream"}
	}
	err = requestError(ctx, "log", f.group.name, err)
	if errors.Is(err, ErrUnavailable) {
		c.failed(f.group.name, addr)
	}
	return false, err
}

func entry(incarnation uint64, e *cohortv1.LogEntry) Entry {
	out := Entry{Incarnation: incarnation, Position: e.Position, ID: e.Id, Begun: e.Begun, Time: e.GetTime().AsTime(), Changes: make([]Change, len(e.Changes))}
	for i, c := range e.Changes {
		out.Changes[i] = Change{Kind: changeKinds[c.Kind], Participant: c.Participant, Key: string(c.Key), Value: c.Value, Delta: c.Delta, AppliedEpoch: c.AppliedEpoch}
	}
	return out
}
