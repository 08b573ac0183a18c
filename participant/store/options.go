package store

import (
	"errors"
	"fmt"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/dgraph-io/badger/v4/skl"
	"go.uber.org/zap"
)

const (
	// MaxKeyBytes bounds a key: four times the longest key of a participant with
	// what the state machine puts before it. Badger's own bound is 65,000.
	MaxKeyBytes = 4096
	// LargeValueBytes is the longest value stored in one piece, and the size of
	// the pieces of longer ones. A quarter of badger's value threshold, so that a
	// chunk never dominates a memtable or a table.
	LargeValueBytes = 256 << 10

	// DefaultMaxEntryBytes is 4 MiB of a transaction's data and what 20,000 keys
	// count beside it.
	DefaultMaxEntryBytes = 4<<20 + 512<<10
	// DefaultMaxEntryKeys is 20,000 keys of a transaction and what the state
	// machine records beside them.
	DefaultMaxEntryKeys = 20_480
	// DefaultBarrierEvery bounds what a restart after a power loss replays.
	DefaultBarrierEvery = 300 * time.Millisecond
	// DefaultKeepVersions lets a reader open a view of an index it was told a
	// moment ago.
	DefaultKeepVersions = 5 * time.Second

	// largestEntryBytes bounds MaxEntryBytes: badger addresses a memtable with 32
	// bits and maps twice its size, which is 6.7 times an entry.
	largestEntryBytes = 128 << 20
	// largestEntryKeys bounds MaxEntryKeys by the same: a key costs a memtable 640
	// bytes of its size.
	largestEntryKeys = 1 << 20

	// badgerValueThreshold is the largest badger allows; nothing reaches it.
	badgerValueThreshold = 1 << 20
	// keyOverhead is what badger counts for a key beside the key and the value.
	keyOverhead = 12
	// minMemTableBytes keeps tables from becoming tiny when entries are; it is also
	// what makes badgerValueThreshold fit into a transaction.
	minMemTableBytes = 8 << 20
	// vlogFileBytes is the smallest badger allows: nothing is ever written to it.
	vlogFileBytes = 1 << 20
)

// Options of a Store. Only Dir is required.
type Options struct {
	// Dir is the store's directory, made when missing.
	Dir string
	// MaxEntryBytes bounds what the keys and values of one entry count, as Cost
	// counts them. The memtable is sized from it. 0 is DefaultMaxEntryBytes.
	MaxEntryBytes int64
	// MaxEntryKeys bounds the keys of one entry as Cost counts them. 0 is
	// DefaultMaxEntryKeys.
	MaxEntryKeys int
	// BarrierEvery is the time between barriers. 0 is DefaultBarrierEvery.
	BarrierEvery time.Duration
	// KeepVersions is how long superseded versions stay readable without a pin.
	// 0 is DefaultKeepVersions.
	KeepVersions time.Duration
	// Logger gets badger's messages and failures of the periodic barrier. nil logs
	// nothing.
	Logger *zap.Logger
	// Holds tells, with the state at S, which indexes must stay readable from the
	// beginning: see Store.Held. nil means none.
	Holds func(r *View) ([]uint64, error)
	// Barrier is further work of each barrier, done before S is written: the fsync
	// of what S also promises. It must not call the store. nil does nothing.
	Barrier func() error
}

// EnsureDefaults fills what is zero.
func (o *Options) EnsureDefaults() {
	if o.MaxEntryBytes == 0 {
		o.MaxEntryBytes = DefaultMaxEntryBytes
	}
	if o.MaxEntryKeys == 0 {
		o.MaxEntryKeys = DefaultMaxEntryKeys
	}
	if o.BarrierEvery == 0 {
		o.BarrierEvery = DefaultBarrierEvery
	}
	if o.KeepVersions == 0 {
		o.KeepVersions = DefaultKeepVersions
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if o.Barrier == nil {
		o.Barrier = func() error { return nil }
	}
}

// Validate returns every fault at once.
func (o *Options) Validate() error {
	var faults []error
	if o.Dir == "" {
		faults = append(faults, errors.New("no Dir; it must name the store's directory"))
	}
	if o.MaxEntryBytes < 1 || o.MaxEntryBytes > largestEntryBytes {
		faults = append(faults, fmt.Errorf("MaxEntryBytes is %d; it must be 1 to %d", o.MaxEntryBytes, int64(largestEntryBytes)))
	}
	if o.MaxEntryKeys < 1 || o.MaxEntryKeys > largestEntryKeys {
		faults = append(faults, fmt.Errorf("MaxEntryKeys is %d; it must be 1 to %d", o.MaxEntryKeys, largestEntryKeys))
	}
	if o.BarrierEvery < 0 {
		faults = append(faults, fmt.Errorf("BarrierEvery is %v; it must be positive", o.BarrierEvery))
	}
	if o.KeepVersions < 0 {
		faults = append(faults, fmt.Errorf("KeepVersions is %v; it must be positive", o.KeepVersions))
	}
	if len(faults) > 0 {
		return fmt.Errorf("store: options: %w", errors.Join(faults...))
	}
	return nil
}

// Cost is what setting a value counts toward MaxEntryBytes and MaxEntryKeys; a
// delete counts as an empty value. What an entry sets under one key several
// times counts once, as last set. The store's own records are not the caller's
// concern: room for them is kept beside the limits.
func Cost(keyBytes, valueBytes int) (bytes int64, keys int) {
	if valueBytes <= LargeValueBytes {
		return int64(keyBytes) + int64(valueBytes) + keyOverhead, 1
	}
	chunks := chunkCount(valueBytes)
	return int64(keyBytes) + referenceBytes + keyOverhead +
		int64(chunks)*(chunkKeyBytes+keyOverhead) + int64(valueBytes), 1 + chunks
}

// ownCost is what the store's own records can count in an entry of maxKeys keys,
// beyond what Cost counts.
func ownCost(maxKeys int) (bytes, keys int64) {
	parts := int64(maxKeys)/garbagePartBlobs + 1
	// The applied index; the chunks swept; records of garbage rewritten or deleted,
	// at most one for each chunk swept; records of new garbage.
	keys = 1 + 2*sweepChunks + parts
	bytes = (2 + 8 + keyOverhead) +
		sweepChunks*(chunkKeyBytes+keyOverhead) +
		sweepChunks*(garbageKeyBytes+keyOverhead) + garbagePartBlobs*garbageBlobBytes +
		parts*(garbageKeyBytes+keyOverhead) + int64(maxKeys)*garbageBlobBytes
	return bytes, keys
}

// memTableBytes is the smallest memtable whose transactions hold every entry
// within the limits: badger allows a transaction 15% of it, and one key for each
// skiplist node that fits into those.
func (o *Options) memTableBytes() int64 {
	ownBytes, ownKeys := ownCost(o.MaxEntryKeys)
	// 64: badger's record of the transaction's end, and that it wants strictly less.
	need := o.MaxEntryBytes + ownBytes + 64
	need = max(need, (int64(o.MaxEntryKeys)+ownKeys+3)*int64(skl.MaxNodeSize))
	size := need*100/15 + 1
	const mib = 1 << 20
	return max(minMemTableBytes, (size+mib-1)/mib*mib)
}

// badger gives the database's options for a generation's directory.
func (o *Options) badger(dir string) badger.Options {
	return badger.DefaultOptions(dir).
		WithLogger(badgerLogger{o.Logger.Named("badger").Sugar()}).
		// The barrier syncs, once for many entries.
		WithSyncWrites(false).
		// Raft has ordered the entries already.
		WithDetectConflicts(false).
		// One version below the floor; pins hold the floor back.
		WithNumVersionsToKeep(1).
		WithMemTableSize(o.memTableBytes()).
		WithValueThreshold(badgerValueThreshold).
		WithValueLogFileSize(vlogFileBytes).
		WithCompression(options.None).
		WithBlockCacheSize(0).
		WithIndexCacheSize(0).
		WithNumCompactors(2).
		WithNumGoroutines(1).
		WithMetricsEnabled(false).
		// The default returns flipped bytes as values; the block modes panic.
		WithChecksumVerificationMode(options.OnTableRead)
}
