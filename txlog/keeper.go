package txlog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/cohort-tx/cohort/txlog/checkpoint"
	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/machine"
)

const (
	// keepEvery is how often a keeper compares its files with the group's records;
	// a cut wakes it at once.
	keepEvery = 250 * time.Millisecond
	// reportEvery is how often disk usage is told to the coordinator when nothing
	// else is.
	reportEvery = time.Second
	// keepRetry is waited after something failed: a full disk does not get better
	// by trying often.
	keepRetry = 2 * time.Second
)

// KeepPolicy is what a group's definition says about what is dropped.
type KeepPolicy struct {
	// ArchiveDir is where checkpoints and log go before they are dropped; empty
	// means that they are deleted.
	ArchiveDir string
	// Erase overwrites files before they are deleted.
	Erase bool
}

// KeeperConfig configures a Keeper. Adopt, MinFree and Logger may be left out.
type KeeperConfig struct {
	Replica *Replica
	// Node is this node's name.
	Node string
	// Dir holds the group's checkpoints on this node.
	Dir string
	// Policy gives the policy in force, as the state that is handed over has it.
	Policy func(definition []byte) (KeepPolicy, error)
	// Report tells the group's coordinator. It is called again until the group's
	// records say the same.
	Report func(ctx context.Context, report Report) error
	// Fetch gets another node's copy of a checkpoint as an export file.
	Fetch func(ctx context.Context, number uint64) (io.ReadCloser, error)
	// FetchState gets another node's file of a captured state, from an offset on.
	FetchState func(ctx context.Context, state *machine.Capture, offset uint64) (io.ReadCloser, error)
	// ReportState tells the group's coordinator of a captured state that is stored
	// here. It is called again until the records say the same.
	ReportState func(ctx context.Context, report command.ReportCapture) error
	// MinFree is how many bytes must be free on the disk for a captured state to be
	// taken from an instance; 0 means that it is always taken.
	MinFree uint64
	// Adopt is a directory with captured states to take over; it need not be there.
	Adopt  string
	Logger *zap.Logger
}

// Report is what a keeper tells the group's coordinator.
type Report struct {
	Copies []command.ReportCopy
	// GroupBytes is what log and checkpoints take here, StoreBytes the database,
	// and FreeBytes what the file system has left.
	GroupBytes, StoreBytes, FreeBytes uint64
}

// Keeper keeps the checkpoints of a group on one node. It makes the files agree
// with the records in the group's state:
//
//	a cut that has no files         write them from the state at the cut, or fetch
//	                                another node's once the checkpoint is complete
//	files that have no record       archive, erase, remove
//	log before Schedule.LogFrom     archive, erase, remove
//	a copy that was found different quarantine the replica, rebuild it, fetch
//	a captured state without a file fetch another node's
//	a file of a captured state that
//	no record needs                 erase, remove
//
// Everything is decided anew from state and files at each turn, so that a crash
// anywhere is followed by the same steps.
type Keeper struct {
	config  KeeperConfig
	replica *Replica
	log     *zap.Logger

	mu     sync.Mutex
	copies map[uint64]*localCopy
	// inUse counts who reads a copy's files; they are not removed meanwhile.
	inUse map[uint64]int
	// logHolds keep log from being cut, by their first position.
	logHolds map[uint64]int
	// problem is what the last turn failed with, nil when it did not.
	problem  error
	reported time.Time
	// reclaimed and swept are the run's: swept tells that nothing is left of the log
	// that was taken out of it and not removed.
	reclaimed, reclaimAt time.Time
	swept                bool
	captures             *captures
	// erase is checkpoint.Erase but in tests.
	erase func(path string) error

	wake   chan struct{}
	cancel context.CancelFunc
	done   chan struct{}
}

// localCopy is a whole copy on this node, or what became of it.
type localCopy struct {
	state    command.CopyState
	manifest checkpoint.Manifest
	bytes    uint64
	took     time.Duration
	detail   string
	rebuilt  bool
	archived bool
}

// StartKeeper looks at the files that are there and starts to keep them.
func StartKeeper(c KeeperConfig) (*Keeper, error) {
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("txlog: %w", err)
	}
	k := &Keeper{
		config: c, replica: c.Replica,
		log:    c.Logger.Named("keeper").With(zap.String("group", c.Replica.config.Group)),
		copies: make(map[uint64]*localCopy), inUse: make(map[uint64]int), logHolds: make(map[uint64]int),
		erase: checkpoint.Erase, wake: make(chan struct{}, 1), done: make(chan struct{}),
	}
	numbers, err := checkpoint.Recover(c.Dir)
	if err != nil {
		return nil, fmt.Errorf("txlog: the checkpoints in %s: %w", c.Dir, err)
	}
	k.captures, err = openCaptures(filepath.Join(c.Dir, capturesDir))
	if err == nil && c.Adopt != "" {
		err = k.captures.adopt(c.Adopt)
	}
	if err != nil {
		return nil, fmt.Errorf("txlog: the captured states in %s: %w", c.Dir, err)
	}
	for _, n := range numbers {
		k.copies[n] = k.look(n)
	}
	// What fails here fails in the first turn too, which tells of it.
	if rec, err := k.read(); err == nil {
		k.quarantine(&rec)
	}
	k.replica.onCut(k.Wake)
	ctx, cancel := context.WithCancel(context.Background())
	k.cancel = cancel
	go func() {
		defer close(k.done)
		k.run(ctx)
	}()
	return k, nil
}

// Close ends the keeper and waits for it. A file that is being written is given
// up; the next start begins it again.
func (k *Keeper) Close() {
	k.replica.onCut(nil)
	k.cancel()
	<-k.done
	k.captures.closeUploads()
}

// Wake makes the keeper look at once.
func (k *Keeper) Wake() {
	select {
	case k.wake <- struct{}{}:
	default: // it is about to
	}
}

// look reads what is there of a checkpoint.
func (k *Keeper) look(number uint64) *localCopy {
	r, err := checkpoint.Open(k.path(number))
	if err != nil {
		return &localCopy{state: command.CopyLost, detail: err.Error()}
	}
	m := r.Manifest()
	return &localCopy{state: command.CopyWritten, manifest: m, bytes: m.FileBytes()}
}

func (k *Keeper) path(number uint64) string {
	return filepath.Join(k.config.Dir, checkpoint.DirName(number))
}

func (k *Keeper) run(ctx context.Context) {
	ticker := time.NewTicker(keepEvery)
	defer ticker.Stop()
	var notBefore time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.wake:
		case <-ticker.C:
		}
		if time.Now().Before(notBefore) {
			continue
		}
		err := k.turn(ctx)
		if ctx.Err() != nil {
			return
		}
		k.mu.Lock()
		changed := (err == nil) != (k.problem == nil) || err != nil && err.Error() != k.problem.Error()
		k.problem = err
		k.mu.Unlock()
		if err != nil {
			notBefore = time.Now().Add(keepRetry)
			if changed {
				k.log.Warn("keeping checkpoints", zap.Error(err))
			}
		}
	}
}

// records is what a turn goes by.
type records struct {
	meta        machine.Meta
	schedule    machine.Schedule
	checkpoints []machine.Checkpoint
	ownStates   []machine.OwnState
	policy      KeepPolicy
}

func (k *Keeper) read() (records, error) {
	var rec records
	snap, err := k.replica.snapshot(0)
	if err != nil {
		return rec, err
	}
	defer snap.Close()
	if rec.meta, err = snap.Meta(); err != nil {
		return rec, err
	}
	if rec.meta.ConfigVersion == 0 {
		return rec, nil
	}
	if rec.schedule, err = machine.ReadSchedule(snap.Reader()); err != nil {
		return rec, err
	}
	if rec.checkpoints, err = machine.ReadCheckpoints(snap.Reader()); err != nil {
		return rec, err
	}
	if rec.ownStates, err = machine.ReadOwnStates(snap.Reader()); err != nil {
		return rec, err
	}
	config, err := snap.Config()
	if err != nil {
		return rec, err
	}
	rec.policy, err = k.config.Policy(config.Definition)
	return rec, err
}

// turn makes files and records agree as far as it can.
func (k *Keeper) turn(ctx context.Context) error {
	rec, err := k.read()
	if err != nil {
		if errors.Is(err, ErrClosed) || errors.Is(err, ErrNotReady) {
			return nil // closing, or not open yet
		}
		return err
	}
	if rec.meta.ConfigVersion == 0 {
		return nil
	}
	var errs []error
	if found := k.quarantine(&rec); !found && k.replica.Quarantined() != nil {
		// Retention has dropped the checkpoint that found it.
		if err := k.rebuildReplica(ctx); err != nil {
			errs = append(errs, err)
		}
	}
	for i := range rec.checkpoints {
		if err := k.keep(ctx, &rec, &rec.checkpoints[i]); err != nil {
			errs = append(errs, fmt.Errorf("checkpoint %d: %w", rec.checkpoints[i].Number, err))
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	errs = append(errs, k.keepStates(ctx, &rec))
	k.replica.releaseHolds(func(number uint64) bool { return k.holdWanted(&rec, number) })
	errs = append(errs, k.dropFiles(ctx, &rec), k.dropLog(ctx, &rec), k.report(ctx, &rec), k.reclaim())
	return errors.Join(errs...)
}

// keep sees to one checkpoint's files.
func (k *Keeper) keep(ctx context.Context, rec *records, c *machine.Checkpoint) error {
	if c.State != machine.CheckpointWriting && c.State != machine.CheckpointComplete {
		return nil
	}
	if mine := findCopy(c, k.config.Node); mine != nil && mine.State == command.CopyDifferent {
		return k.rebuild(ctx, c)
	}
	k.mu.Lock()
	local := k.copies[c.Number]
	k.mu.Unlock()
	if local != nil && local.state == command.CopyWritten {
		switch {
		case c.State != machine.CheckpointComplete:
			return nil
		case local.manifest.Digest == c.Digest:
			return k.archiveComplete(ctx, rec, local, c.Number)
		}
	}
	// Files that are damaged, or of a wrong state, are in the way.
	if local != nil && local.state != command.CopyFailed {
		if err := checkpoint.Remove(k.path(c.Number), false); err != nil {
			return err
		}
	}
	if c.Incarnation == rec.meta.Incarnation && k.replica.Quarantined() == nil {
		states, decided, err := k.gather(ctx, c)
		if err == nil && !decided {
			return nil // an instance is still at it
		}
		if err == nil {
			err = k.write(ctx, c, states)
		}
		if err == nil || ctx.Err() != nil {
			return err
		}
		missing := errors.Is(err, ErrSnapshotTooOld) || errors.Is(err, ErrNoState)
		if !missing || c.State != machine.CheckpointComplete {
			if errors.Is(err, ErrNoState) {
				return err // another node has it, or will say that it failed
			}
			k.set(c.Number, &localCopy{state: command.CopyFailed, detail: err.Error()})
			if missing {
				return nil // there is nothing more to try until others have completed it
			}
			return err
		}
	}
	if c.State != machine.CheckpointComplete {
		return nil
	}
	return k.fetch(ctx, c)
}

func (k *Keeper) set(number uint64, c *localCopy) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if old := k.copies[number]; old != nil && old.rebuilt {
		c.rebuilt = true
	}
	k.copies[number] = c
}

// fetch takes another node's copy.
func (k *Keeper) fetch(ctx context.Context, c *machine.Checkpoint) error {
	start := time.Now()
	in, err := k.config.Fetch(ctx, c.Number)
	if err != nil {
		return err
	}
	defer in.Close()
	m, err := checkpoint.ReadExport(in, k.path(c.Number), nil)
	if err != nil {
		return err
	}
	if m.Digest != c.Digest {
		return errors.Join(errors.New("the copy that was fetched is another one"), checkpoint.Remove(k.path(c.Number), false))
	}
	k.set(c.Number, &localCopy{state: command.CopyWritten, manifest: m, bytes: m.FileBytes(), took: time.Since(start)})
	k.log.Info("checkpoint fetched from another node", zap.Uint64("checkpoint", c.Number), zap.Duration("took", time.Since(start)))
	return nil
}

// quarantine keeps a state from being read that the records know to be wrong. A
// restart forgets it; the records do not, until the replica is rebuilt and its new
// copy recorded. found tells whether they know it.
func (k *Keeper) quarantine(rec *records) (found bool) {
	for i := range rec.checkpoints {
		c := &rec.checkpoints[i]
		if mine := findCopy(c, k.config.Node); mine == nil || mine.State != command.CopyDifferent {
			continue
		}
		if local := k.copy(c.Number); local == nil || !local.rebuilt {
			found = true
			k.replica.Quarantine(fmt.Errorf("its copy of checkpoint %d differs from that of the other replicas", c.Number))
		}
	}
	return found
}

// rebuild answers the finding that this replica's copy differs from the group's:
// the replica's state may be wrong anywhere, so all of it is replaced.
func (k *Keeper) rebuild(ctx context.Context, c *machine.Checkpoint) error {
	k.mu.Lock()
	local := k.copies[c.Number]
	rebuilt := local != nil && local.rebuilt
	k.mu.Unlock()
	if !rebuilt {
		if err := k.rebuildReplica(ctx); err != nil {
			return err
		}
		if err := checkpoint.Remove(k.path(c.Number), false); err != nil {
			return err
		}
		k.mu.Lock()
		k.copies[c.Number] = &localCopy{state: command.CopyFailed, rebuilt: true}
		k.mu.Unlock()
	}
	if local := k.copy(c.Number); local.state == command.CopyWritten {
		return nil // to be reported
	}
	return k.fetch(ctx, c)
}

func (k *Keeper) rebuildReplica(ctx context.Context) error {
	if err := k.replica.giveUpLeadership(); err != nil {
		return err
	}
	return k.replica.Rebuild(ctx)
}

func (k *Keeper) copy(number uint64) *localCopy {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.copies[number]
}

// dropFiles removes what retention has dropped. A number that the state does not
// know yet is kept: after a restart the state may be older than the files.
func (k *Keeper) dropFiles(ctx context.Context, rec *records) error {
	k.mu.Lock()
	var gone []uint64
	for n := range k.copies {
		known := slices.ContainsFunc(rec.checkpoints, func(c machine.Checkpoint) bool {
			return c.Number == n && (c.State == machine.CheckpointWriting || c.State == machine.CheckpointComplete)
		})
		if !known && n < rec.schedule.NextNumber && k.inUse[n] == 0 {
			gone = append(gone, n)
		}
	}
	k.mu.Unlock()
	slices.Sort(gone)
	for _, n := range gone {
		k.mu.Lock()
		if k.inUse[n] > 0 {
			k.mu.Unlock()
			continue
		}
		delete(k.copies, n)
		k.mu.Unlock()
		if err := checkpoint.Remove(k.path(n), rec.policy.Erase); err != nil {
			return err
		}
		k.log.Info("checkpoint dropped", zap.Uint64("checkpoint", n))
	}
	return nil
}

// report tells the coordinator what its records do not say yet.
func (k *Keeper) report(ctx context.Context, rec *records) error {
	var out Report
	k.mu.Lock()
	for n, local := range k.copies {
		i := slices.IndexFunc(rec.checkpoints, func(c machine.Checkpoint) bool { return c.Number == n })
		if i < 0 || !local.news(&rec.checkpoints[i], k.config.Node) {
			continue
		}
		out.Copies = append(out.Copies, local.report(n, k.config.Node))
	}
	due := time.Since(k.reported) >= reportEvery
	k.mu.Unlock()
	if len(out.Copies) == 0 && !due {
		return nil
	}
	slices.SortFunc(out.Copies, func(a, b command.ReportCopy) int { return int(a.Number) - int(b.Number) })
	u := k.Usage()
	out.GroupBytes, out.StoreBytes, out.FreeBytes = u.LogBytes+u.CheckpointBytes, u.StoreBytes, u.FreeBytes
	if err := k.config.Report(ctx, out); err != nil {
		if len(out.Copies) == 0 {
			return nil // it comes again in a second
		}
		return fmt.Errorf("telling the coordinator: %w", err)
	}
	k.mu.Lock()
	k.reported = time.Now()
	k.mu.Unlock()
	return nil
}

// news tells whether the record says something else of the copy.
func (l *localCopy) news(c *machine.Checkpoint, node string) bool {
	if c.State != machine.CheckpointWriting && c.State != machine.CheckpointComplete {
		return false
	}
	said := findCopy(c, node)
	if said == nil {
		return l.state != command.CopyFailed || l.detail != ""
	}
	if said.State == command.CopyDifferent {
		return l.rebuilt && l.state == command.CopyWritten
	}
	return said.State != l.state || l.state == command.CopyWritten && said.Digest != l.manifest.Digest
}

func (l *localCopy) report(number uint64, node string) command.ReportCopy {
	r := command.ReportCopy{Number: number, Node: node, State: l.state, Rebuilt: l.rebuilt, Detail: l.detail}
	if l.state == command.CopyWritten {
		r.Digest, r.Sections, r.Bytes, r.WriteNanos = l.manifest.Digest, l.manifest.Summary(), l.bytes, uint64(l.took)
	}
	return r
}

func findCopy(c *machine.Checkpoint, node string) *machine.Copy {
	for i := range c.Copies {
		if c.Copies[i].Node == node {
			return &c.Copies[i]
		}
	}
	return nil
}
