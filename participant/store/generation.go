package store

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// generation is one badger database with its S, its floor and its readers. A
// store has one current generation; Restore retires it for a new one, and it
// lives on until its last view is closed.
type generation struct {
	number uint64
	dir    string
	db     *badger.DB
	slots  *syncedSlots
	// synced is S as of the last barrier; slots is the barrier's.
	synced atomic.Uint64

	// large tells that chunks may exist: only then does a write look for the
	// chunks of what it replaces. garbage and large are the open Update's.
	large   bool
	garbage garbage

	mu    sync.Mutex
	floor versionFloor
	// held are the holds of Options.Holds that nobody has taken over.
	held  map[uint64]*Hold
	views int
	// retired is set when another generation has become current; drained is
	// closed when it is and the last view is closed.
	retired bool
	drained chan struct{}

	// ops counts what is inside the database right now; closing adds opsClosed.
	ops      atomic.Int64
	idle     chan struct{}
	idleOnce sync.Once
}

const opsClosed = math.MinInt64 / 2

// createGeneration makes the directory of a generation without data at S = 0,
// durable but for the name of the directory itself.
func createGeneration(o *Options, number uint64) error {
	dir := filepath.Join(o.Dir, generationName(number))
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	db, err := badger.OpenManaged(o.badger(dir))
	if err != nil {
		return err
	}
	if err := db.Close(); err != nil {
		return err
	}
	if err := createSynced(dir, 0); err != nil {
		return err
	}
	return syncTree(dir)
}

func openGeneration(o *Options, number uint64) (*generation, error) {
	dir := filepath.Join(o.Dir, generationName(number))
	slots, err := openSynced(dir)
	if err != nil {
		return nil, err
	}
	if err := removeEmptyLogs(dir); err != nil {
		return nil, errors.Join(err, slots.close())
	}
	db, err := badger.OpenManaged(o.badger(dir))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("store: opening %s: %w", dir, err), slots.close())
	}
	g := &generation{
		number: number, dir: dir, db: db, slots: slots,
		floor:   newVersionFloor(slots.floor, o.KeepVersions),
		drained: make(chan struct{}), idle: make(chan struct{}),
	}
	g.synced.Store(slots.index)
	if err := g.load(o, slots.index); err != nil {
		return nil, errors.Join(err, db.Close(), slots.close())
	}
	if err := g.takeHolds(o, slots.index); err != nil {
		return nil, errors.Join(err, db.Close(), slots.close())
	}
	db.SetDiscardTs(g.floor.index)
	return g, nil
}

// removeEmptyLogs removes files of length 0 that a crash between badger's
// truncating and unlinking, or creating and extending, leaves behind: opening
// them is an error to badger. They hold nothing by definition.
func removeEmptyLogs(dir string) error {
	for _, pattern := range []string{"*.mem", "*.vlog"} {
		paths, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return err
		}
		for _, path := range paths {
			info, err := os.Stat(path)
			if err != nil {
				return err
			}
			if info.Size() == 0 {
				if err := os.Remove(path); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// load reads at index what the store keeps in memory, and checks that every entry
// within the limits fits into a transaction.
func (g *generation) load(o *Options, index uint64) error {
	ownBytes, ownKeys := ownCost(o.MaxEntryKeys)
	if g.db.MaxBatchSize() <= o.MaxEntryBytes+ownBytes || g.db.MaxBatchCount() <= int64(o.MaxEntryKeys)+ownKeys {
		panic(fmt.Sprintf("store: invariant: an entry within its limits fits into a transaction (%d bytes and %d keys do not fit into %d and %d)",
			o.MaxEntryBytes+ownBytes, int64(o.MaxEntryKeys)+ownKeys, g.db.MaxBatchSize(), g.db.MaxBatchCount()))
	}
	return g.reload(index)
}

// reload reads garbage and large as they are at index.
func (g *generation) reload(index uint64) error {
	txn := g.db.NewTransactionAt(index, false)
	defer txn.Discard()
	garbage, err := loadGarbage(txn)
	if err != nil {
		return err
	}
	g.garbage, g.large = garbage, hasChunks(txn)
	return nil
}

// enter begins an operation inside the database, which stays open until leave.
func (g *generation) enter() error {
	if g.ops.Add(1) < 0 {
		g.leave()
		return ErrClosed
	}
	return nil
}

func (g *generation) leave() {
	if g.ops.Add(-1) == opsClosed {
		g.idleOnce.Do(func() { close(g.idle) })
	}
}

// closing tells an operation that takes long to give up.
func (g *generation) closing() bool { return g.ops.Load() < 0 }

// close refuses new operations, waits for those inside and closes the database.
func (g *generation) close() error {
	g.ops.Add(opsClosed)
	// As an operation of its own, so that somebody closes idle.
	g.ops.Add(1)
	g.leave()
	<-g.idle
	return errors.Join(g.db.Close(), g.slots.close())
}

// view pins index for a reader.
func (g *generation) view(index uint64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.floor.pin(index) {
		return fmt.Errorf("%w (asked for %d, the oldest is %d)", ErrSnapshotTooOld, index, g.floor.index)
	}
	g.views++
	return nil
}

func (g *generation) closeView(index uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.floor.unpin(index)
	g.views--
	g.drainLocked()
}

func (g *generation) retire() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.retired = true
	g.drainLocked()
}

func (g *generation) drainLocked() {
	if g.retired && g.views == 0 {
		close(g.drained)
	}
}

// nextFloor is where D goes once that is durable.
func (g *generation) nextFloor(now time.Time, synced uint64) uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.floor.next(now, synced)
}

// raiseFloor moves D.
func (g *generation) raiseFloor(floor uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.floor.raise(floor)
	g.db.SetDiscardTs(g.floor.index)
}
