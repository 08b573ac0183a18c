package coordinator

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cohort-tx/cohort/coordinator/protocol"
	"github.com/cohort-tx/cohort/txlog/machine"
)

// readTimeout bounds one ReadIndex: longer than an election.
const readTimeout = 3 * time.Second

// shared is one snapshot of all attempts whose Begin one ReadIndex served.
type shared struct {
	Snapshot
	refs atomic.Int64
}

func (s *shared) release() {
	if s.refs.Add(-1) == 0 {
		s.Snapshot.Close()
	}
}

// pin is an attempt that waits for its snapshot.
type pin struct {
	handle uint64
	id     string
}

// reader makes linearizable snapshots. What asks while a ReadIndex is under way
// shares the next one.
type reader struct {
	mu   sync.Mutex
	pins []pin
	// confirms are told once a ReadIndex begun after they asked has succeeded, or
	// why not.
	confirms []func(error)
	wake     chan struct{}
}

func newReader() *reader { return &reader{wake: make(chan struct{}, 1)} }

func (r *reader) pin(p pin) {
	r.mu.Lock()
	r.pins = append(r.pins, p)
	r.mu.Unlock()
	r.signal()
}

func (r *reader) confirm(fn func(error)) {
	r.mu.Lock()
	r.confirms = append(r.confirms, fn)
	r.mu.Unlock()
	r.signal()
}

func (r *reader) signal() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *reader) take() ([]pin, []func(error)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pins, confirms := r.pins, r.confirms
	r.pins, r.confirms = nil, nil
	return pins, confirms
}

// read serves pins until the reign ends. What is left then is told.
func (g *reign) read(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			_, confirms := g.reader.take()
			for _, fn := range confirms {
				fn(ErrNotServing)
			}
			return // the loop answers for the pins
		case <-g.reader.wake:
		}
		pins, confirms := g.reader.take()
		if len(pins)+len(confirms) == 0 {
			continue
		}
		readCtx, cancel := context.WithTimeout(ctx, readTimeout)
		_, err := g.replica.ReadIndex(readCtx)
		cancel()
		for _, fn := range confirms {
			fn(err)
		}
		if len(pins) > 0 {
			g.deliver(pins, err)
		}
	}
}

// deliver pins a snapshot for all pins, looks their ids up and tells the loop.
func (g *reign) deliver(pins []pin, err error) {
	var snap Snapshot
	var meta machine.Meta
	if err == nil {
		snap, err = g.replica.Snapshot()
	}
	if err == nil {
		if meta, err = snap.Meta(); err != nil {
			snap.Close()
		}
	}
	if err != nil {
		detail := "no linearizable snapshot: " + err.Error()
		g.inbox.postInside(letter{do: func() {
			for _, p := range pins {
				g.step(&protocol.PinFailed{Handle: p.handle, Detail: detail})
			}
		}})
		return
	}
	s := &shared{Snapshot: snap}
	s.refs.Store(1) // the delivery's own
	events := make([]protocol.Event, len(pins))
	for i, p := range pins {
		events[i] = g.look(snap, p, meta.Position)
	}
	if !g.inbox.postInside(letter{do: func() { g.pinned(s, events) }}) {
		s.release()
	}
}

func (g *reign) look(snap Snapshot, p pin, position uint64) protocol.Event {
	ev := &protocol.Pinned{Handle: p.handle, Begun: snap.Index(), Position: position}
	if p.id == "" {
		return ev
	}
	d, o, err := snap.Decision(p.id, snap.Index())
	if err != nil {
		return &protocol.PinFailed{Handle: p.handle, Detail: "looking the id up: " + err.Error()}
	}
	if d == machine.DecisionCommitted {
		ev.Committed, ev.CommittedDigest = &o.Receipt, o.RequestDigest
	}
	return ev
}

// pinned runs on the loop.
func (g *reign) pinned(s *shared, events []protocol.Event) {
	defer s.release()
	for _, ev := range events {
		if p, ok := ev.(*protocol.Pinned); ok {
			if _, wanted := g.snapshots[p.Handle]; wanted {
				s.refs.Add(1)
				g.snapshots[p.Handle] = s
			}
		}
		g.step(ev)
	}
}

func (g *reign) unpin(handle uint64) {
	s, here := g.snapshots[handle]
	if !here {
		panic("coordinator: an attempt's snapshot was let go twice")
	}
	delete(g.snapshots, handle)
	if s != nil {
		s.release()
	}
}
