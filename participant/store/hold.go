package store

import "fmt"

// Hold keeps the state at an index readable, until it is released, the store is
// closed, or another state is restored. Options.Holds asks for it again when the
// store is opened.
type Hold struct {
	generation *generation
	index      uint64
	released   bool
}

// Hold keeps index, which may be that of an entry that is about to be published.
// The error is ErrSnapshotTooOld below the discard floor.
func (s *Store) Hold(index uint64) (*Hold, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return nil, ErrClosed
	}
	g := s.current
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.floor.pin(index) {
		return nil, fmt.Errorf("%w (asked for %d, the oldest is %d)", ErrSnapshotTooOld, index, g.floor.index)
	}
	return &Hold{generation: g, index: index}, nil
}

// Held hands over an index that Options.Holds asked for; once.
func (s *Store) Held(index uint64) (*Hold, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return nil, false
	}
	g := s.current
	g.mu.Lock()
	defer g.mu.Unlock()
	h := g.held[index]
	delete(g.held, index)
	return h, h != nil
}

// Release lets the index go. A second time nothing happens.
func (h *Hold) Release() {
	h.generation.mu.Lock()
	defer h.generation.mu.Unlock()
	if !h.released {
		h.released = true
		h.generation.floor.unpin(h.index)
	}
}

// takeHolds pins what Options.Holds asks for. Nothing has raised the floor since
// it was read.
func (g *generation) takeHolds(o *Options, index uint64) error {
	g.held = make(map[uint64]*Hold)
	if o.Holds == nil {
		return nil
	}
	if err := g.view(index); err != nil {
		return err
	}
	view := &View{generation: g, txn: g.db.NewTransactionAt(index, false), index: index}
	wanted, err := o.Holds(view)
	view.Close()
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, i := range wanted {
		if g.held[i] == nil && g.floor.pin(i) {
			g.held[i] = &Hold{generation: g, index: i}
		}
	}
	return nil
}
