package txlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cohort-tx/cohort/participant/store"
	"github.com/cohort-tx/cohort/txlog/machine"
	"github.com/cohort-tx/cohort/txlog/segment"
)

// locationKey, local to the replica, holds the log's directory and end as of the
// state it is in.
var locationKey = []byte{store.LocalPrefix, 'l'}

const (
	locationVersion = 1
	// endFile, in a log directory that came with a Raft snapshot, holds the
	// location at which the log ended then.
	endFile = "end"
)

func encodeLocation(id uint64, l segment.Location) []byte {
	b := make([]byte, 1, 1+3*8)
	b[0] = locationVersion
	b = binary.BigEndian.AppendUint64(b, id)
	b = binary.BigEndian.AppendUint64(b, l.Segment)
	return binary.BigEndian.AppendUint64(b, l.Offset)
}

func decodeLocation(b []byte) (id uint64, l segment.Location, err error) {
	if len(b) != 1+3*8 || b[0] != locationVersion {
		return 0, l, fmt.Errorf("txlog: the log's location is a record of %d bytes that this release cannot read", len(b))
	}
	return binary.BigEndian.Uint64(b[1:]), segment.Location{Segment: binary.BigEndian.Uint64(b[9:]), Offset: binary.BigEndian.Uint64(b[17:])}, nil
}

func (r *Replica) storeOptions() store.Options {
	bound := machine.EntryBound(r.limits)
	location, keys := store.Cost(len(locationKey), 1+3*8)
	return store.Options{
		Dir:           filepath.Join(r.dir, "store"),
		MaxEntryBytes: int64(bound.Bytes) + location,
		MaxEntryKeys:  int(bound.Keys) + keys,
		Barrier:       r.syncLog,
		Holds:         r.wantedHolds,
		KeepVersions:  r.keepVersions,
		Logger:        r.log,
	}
}

// syncLog is the barrier's part for the log. Records are flushed before their
// index is published, so it covers every index that the barrier will write.
func (r *Replica) syncLog() error {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.files == nil {
		return nil
	}
	return r.files.log.Sync()
}

// open opens the replica's files and returns S, from where Raft replays.
func (r *Replica) open() (index uint64, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("txlog: group %s: %w", r.config.Group, err)
		}
	}()
	if err := os.MkdirAll(r.dir, 0o755); err != nil {
		return 0, err
	}
	st, err := r.openStore()
	if err != nil {
		return 0, err
	}
	files, err := r.openLog(st)
	if err != nil {
		return 0, errors.Join(err, st.Close())
	}
	if err := r.takeHolds(st); err != nil {
		return 0, errors.Join(err, files.log.Close(), st.Close())
	}
	r.mu.Lock()
	r.store, r.files = st, files
	r.mu.Unlock()
	r.empty = st.Synced() < r.config.IndexBase
	r.publish(files.log.Next() - 1)
	return st.Synced(), nil
}

// openStore opens the store and loads the machine from it. The limits in the
// state may be above those that the replica was started with: what Raft replays
// was applied under them, so the store is laid out for them.
func (r *Replica) openStore() (*store.Store, error) {
	for {
		st, err := store.Open(r.storeOptions())
		if err != nil {
			return nil, err
		}
		if err := r.reload(st); err != nil {
			return nil, errors.Join(err, st.Close())
		}
		if !r.raiseLimits() {
			return st, nil
		}
		if err := st.Close(); err != nil {
			return nil, err
		}
	}
}

// reload loads the machine from the published state.
func (r *Replica) reload(st *store.Store) error {
	view, err := st.View(0)
	if err != nil {
		return err
	}
	defer view.Close()
	return r.machine.Reload(view)
}

// raiseLimits raises the limits that the store is laid out for to those of the
// state; true when that needs a larger store.
func (r *Replica) raiseLimits() bool {
	limits := r.machine.Limits().WithDefaults()
	was := machine.EntryBound(r.limits)
	r.limits.ValueBytes = max(r.limits.ValueBytes, limits.ValueBytes)
	r.limits.TransactionBytes = max(r.limits.TransactionBytes, limits.TransactionBytes)
	r.limits.TransactionKeys = max(r.limits.TransactionKeys, limits.TransactionKeys)
	r.limits.ScanKeys = max(r.limits.ScanKeys, limits.ScanKeys)
	return !machine.EntryBound(r.limits).Within(was)
}

// openLog opens the log that belongs to the store's state at S.
func (r *Replica) openLog(st *store.Store) (*logFiles, error) {
	view, err := st.View(0)
	if err != nil {
		return nil, err
	}
	defer view.Close()
	meta, err := machine.ReadMeta(view)
	if err != nil {
		return nil, err
	}
	id, end, err := r.location(view)
	if err != nil {
		return nil, err
	}
	log, err := segment.Open(segment.Options{Dir: r.logDir(id), End: end, Incarnation: meta.Incarnation, SegmentBytes: r.segmentBytes})
	if err != nil {
		return nil, err
	}
	if log.Next() != meta.Position+1 {
		return nil, errors.Join(fmt.Errorf("the log ends at position %d, and the state is at %d", log.Next()-1, meta.Position), log.Close())
	}
	if err := r.removeOtherLogs(id); err != nil {
		return nil, errors.Join(err, log.Close())
	}
	return &logFiles{id: id, dir: r.logDir(id), log: log}, nil
}

// location finds the log of a state: by the record in it; without one, by the
// directory that came with the snapshot the store was restored from; else it is a
// new log.
func (r *Replica) location(view *store.View) (id uint64, end segment.Location, err error) {
	b, found, err := view.Get(locationKey)
	if err != nil {
		return 0, end, err
	}
	if found {
		return decodeLocation(b)
	}
	id = view.Index()
	b, err = os.ReadFile(filepath.Join(r.logDir(id), endFile))
	if errors.Is(err, os.ErrNotExist) {
		return 0, segment.Start(1), nil
	}
	if err != nil {
		return 0, end, err
	}
	if len(b) < 4 || crc32.ChecksumIEEE(b[4:]) != binary.BigEndian.Uint32(b) {
		return 0, end, fmt.Errorf("%s is damaged", filepath.Join(r.logDir(id), endFile))
	}
	return decodeLocation(b[4:])
}

// writeEnd records where a log that was built from a snapshot ends.
func writeEnd(dir string, id uint64, end segment.Location) error {
	b := encodeLocation(id, end)
	b = append(binary.BigEndian.AppendUint32(nil, crc32.ChecksumIEEE(b)), b...)
	f, err := os.OpenFile(filepath.Join(dir, endFile), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	if _, err := f.Write(b); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Sync(); err != nil {
		return errors.Join(err, f.Close())
	}
	return f.Close()
}

// removeOtherLogs removes what a crash around an install left.
func (r *Replica) removeOtherLogs(id uint64) error {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		digits, ok := strings.CutPrefix(e.Name(), "log-")
		if n, err := strconv.ParseUint(digits, 10, 64); !ok || err != nil || n == id {
			continue
		}
		if err := os.RemoveAll(filepath.Join(r.dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// close closes the files, and tells who waits for it.
func (r *Replica) close() error {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	// Without the lock: the store's last barrier syncs the log, and takes it.
	r.closeErr = errors.Join(r.store.Close(), r.files.log.Close())
	close(r.fileClosed)
	return r.closeErr
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
