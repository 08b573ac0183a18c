package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"go.uber.org/zap"
)

// Store is the storage of one group replica. One goroutine at a time updates and
// restores it; everything else may be called from any.
type Store struct {
	options Options
	lock    *os.File

	// mu guards which generation is current and published together, and closed.
	mu        sync.RWMutex
	current   *generation
	published atomic.Uint64
	closed    bool

	// updating is set while an Update is open; the updating goroutine's.
	updating atomic.Bool

	// barrierMu holds barriers apart from one another and from the swap of
	// generations.
	barrierMu sync.Mutex
	failure   atomic.Pointer[failure]

	stop  chan struct{}
	tasks sync.WaitGroup
}

type failure struct{ err error }

// Open opens the store in Options.Dir, or makes a new one there. What is
// published begins at S, whatever badger holds beyond.
func Open(o Options) (*Store, error) {
	o.EnsureDefaults()
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	lock, err := lockDir(o.Dir)
	if err != nil {
		return nil, err
	}
	g, err := openCurrent(&o)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	s := &Store{options: o, lock: lock, current: g, stop: make(chan struct{})}
	s.published.Store(g.synced.Load())
	s.tasks.Go(s.runBarriers)
	return s, nil
}

func openCurrent(o *Options) (*generation, error) {
	number, ok, err := readCurrent(o.Dir)
	if err != nil {
		return nil, err
	}
	if !ok {
		number = 1
		if err := checkNothingLost(o.Dir); err != nil {
			return nil, err
		}
	}
	if err := removeLeftovers(o.Dir, number, ok); err != nil {
		return nil, err
	}
	if !ok {
		if err := createGeneration(o, number); err != nil {
			return nil, err
		}
		if err := writeCurrent(o.Dir, number); err != nil {
			return nil, err
		}
		if err := syncPath(filepath.Dir(o.Dir)); err != nil {
			return nil, err
		}
	}
	return openGeneration(o, number)
}

// generations lists the numbers of the generation directories.
func generations(dir string) ([]uint64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var numbers []uint64
	for _, e := range entries {
		if digits, ok := strings.CutPrefix(e.Name(), "gen-"); ok && e.IsDir() {
			if n, err := strconv.ParseUint(digits, 10, 64); err == nil && generationName(n) == e.Name() {
				numbers = append(numbers, n)
			}
		}
	}
	return numbers, nil
}

// checkNothingLost refuses to begin anew where CURRENT is gone but data is not: a
// crash while the first generation was made leaves one at S = 0 at most.
func checkNothingLost(dir string) error {
	numbers, err := generations(dir)
	if err != nil {
		return err
	}
	for _, n := range numbers {
		slots, err := openSynced(filepath.Join(dir, generationName(n)))
		if err != nil {
			continue // never finished
		}
		index := slots.index
		if err := slots.close(); err != nil {
			return err
		}
		if index > 0 || n > 1 {
			return &CorruptError{File: filepath.Join(dir, currentFile),
				Detail: fmt.Sprintf("it is missing, but %s holds data up to index %d", generationName(n), index)}
		}
	}
	return nil
}

// removeLeftovers removes what a crash during Restore or the first Open left.
func removeLeftovers(dir string, current uint64, keep bool) error {
	numbers, err := generations(dir)
	if err != nil {
		return err
	}
	for _, n := range numbers {
		if keep && n == current {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, generationName(n))); err != nil {
			return err
		}
	}
	if err := os.Remove(filepath.Join(dir, currentTmp)); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}

// Synced returns S, the index that survives a power loss.
func (s *Store) Synced() uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.current.synced.Load()
}

// Published returns the last index published as applied; Synced at first.
func (s *Store) Published() uint64 { return s.published.Load() }

// Err returns why the store refuses writes, nil when it does not.
func (s *Store) Err() error {
	if f := s.failure.Load(); f != nil {
		return f.err
	}
	return nil
}

// fail makes the first failure final and returns err.
func (s *Store) fail(err error) error {
	s.failure.CompareAndSwap(nil, &failure{err: fmt.Errorf("%w: %w", ErrFailed, err)})
	return err
}

// Close runs a last barrier and closes the store. Operations inside are waited
// for, long ones give up with ErrClosed; views left open are of no use after it.
// There must be no open Update.
func (s *Store) Close() error {
	if !s.markClosed() {
		return nil
	}
	close(s.stop)
	s.tasks.Wait()

	s.barrierMu.Lock()
	defer s.barrierMu.Unlock()
	var err error
	if s.Err() == nil {
		err = s.barrierLocked()
	}
	return errors.Join(err, s.current.close(), s.lock.Close())
}

// markClosed closes the store to what has not begun. Under barrierMu, because a
// barrier or a swap of generations goes through or does not begin.
func (s *Store) markClosed() bool {
	s.barrierMu.Lock()
	defer s.barrierMu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.closed
	s.closed = true
	return !was
}

func (s *Store) isClosed() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.closed
}

// dispose closes and deletes a retired generation when its views are closed, or
// the store is.
func (s *Store) dispose(g *generation) {
	select {
	case <-g.drained:
	case <-s.stop:
	}
	// What fails here costs disk space until the next Open and nothing else.
	if err := g.close(); err != nil {
		s.options.Logger.Warn("closing a retired generation", zap.String("dir", g.dir), zap.Error(err))
	}
	if err := os.RemoveAll(g.dir); err != nil {
		s.options.Logger.Warn("removing a retired generation", zap.String("dir", g.dir), zap.Error(err))
	}
}
