package store

import (
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"
)

// Barrier makes everything published durable; see the package's documentation
// for its steps and what a crash between them leaves. A failure is final.
func (s *Store) Barrier() error {
	s.barrierMu.Lock()
	defer s.barrierMu.Unlock()
	if s.isClosed() {
		return ErrClosed
	}
	return s.barrierLocked()
}

func (s *Store) barrierLocked() error {
	if err := s.Err(); err != nil {
		return err
	}
	g := s.current // only the holder of barrierMu swaps it
	// Before the files are listed: a memtable that comes later holds nothing of it.
	synced := g.synced.Load()
	if target := s.published.Load(); target > synced {
		if err := syncMemtables(g.dir); err != nil {
			return s.fail(fmt.Errorf("store: syncing the memtables of %s: %w", g.dir, err))
		}
		if err := s.options.Barrier(); err != nil {
			return s.fail(fmt.Errorf("store: the barrier's further work: %w", err))
		}
		// A write that failed meanwhile may have left a hole below target.
		if err := s.Err(); err != nil {
			return err
		}
		synced = target
	}
	// D is durable before badger may throw anything below it away: after a restart
	// reads above it must still be exact.
	floor := g.nextFloor(time.Now(), synced)
	if synced > g.slots.index || floor > g.slots.floor {
		if err := g.slots.write(synced, floor); err != nil {
			return s.fail(fmt.Errorf("store: writing S of %s: %w", g.dir, err))
		}
		g.synced.Store(synced)
	}
	g.raiseFloor(floor)
	return nil
}

// runBarriers runs a barrier every BarrierEvery until the store closes or fails.
func (s *Store) runBarriers() {
	ticker := time.NewTicker(s.options.BarrierEvery)
	defer ticker.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-ticker.C:
		}
		if err := s.Barrier(); errors.Is(err, ErrClosed) || errors.Is(err, ErrFailed) {
			return // whoever failed it has the error
		} else if err != nil {
			s.options.Logger.Error("barrier", zap.Error(err))
			return
		}
	}
}
