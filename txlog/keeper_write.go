package txlog

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/cohort-tx/cohort/participant/store"
	"github.com/cohort-tx/cohort/txlog/checkpoint"
	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/machine"
)

// cuts are the cuts of a replica whose states are held until their files are
// written. The store forgets holds when it is closed; holdsOf tells it again.
type cuts struct {
	mu   sync.Mutex
	held map[uint64]*heldCut // by checkpoint number
	// fresh: a cut was held since woken was told last.
	fresh bool
	woken func()
}

type heldCut struct {
	index uint64
	hold  *store.Hold
}

// holdCut is called in the entry that recorded a cut, before it is published.
func (r *Replica) holdCut(c *machine.Checkpoint) error {
	hold, err := r.store.Hold(c.Index)
	if err != nil {
		return fmt.Errorf("hold checkpoint %d: %w", c.Number, err)
	}
	r.cuts.mu.Lock()
	defer r.cuts.mu.Unlock()
	if old := r.cuts.held[c.Number]; old != nil {
		old.hold.Release() // the entry is applied again, after an update that failed
	}
	r.cuts.held[c.Number] = &heldCut{index: c.Index, hold: hold}
	r.cuts.fresh = true
	return nil
}

// publishCut tells of a cut once its entry can be read.
func (r *Replica) publishCut() {
	r.cuts.mu.Lock()
	defer r.cuts.mu.Unlock()
	if r.cuts.fresh && r.cuts.woken != nil {
		r.cuts.woken()
	}
	r.cuts.fresh = false
}

// onCut sets who is told of cuts.
func (r *Replica) onCut(fn func()) {
	r.cuts.mu.Lock()
	defer r.cuts.mu.Unlock()
	r.cuts.woken = fn
}

// wantedHolds are the indexes whose states must stay readable when the store is
// opened: those of cuts that may not have files yet.
func (r *Replica) wantedHolds(view *store.View) ([]uint64, error) {
	all, err := machine.ReadCheckpoints(view)
	if err != nil {
		return nil, err
	}
	meta, err := machine.ReadMeta(view)
	if err != nil {
		return nil, err
	}
	var indexes []uint64
	for i := range all {
		if holdable(&all[i], &meta) {
			indexes = append(indexes, all[i].Index)
		}
	}
	return indexes, nil
}

func holdable(c *machine.Checkpoint, meta *machine.Meta) bool {
	return c.Incarnation == meta.Incarnation &&
		(c.State == machine.CheckpointWriting || c.State == machine.CheckpointComplete)
}

// takeHolds takes over what the store holds since it was opened.
func (r *Replica) takeHolds(st *store.Store) error {
	view, err := st.View(0)
	if err != nil {
		return err
	}
	defer view.Close()
	all, err := machine.ReadCheckpoints(view)
	if err != nil {
		return err
	}
	r.cuts.mu.Lock()
	defer r.cuts.mu.Unlock()
	r.cuts.held = make(map[uint64]*heldCut)
	for i := range all {
		if hold, ok := st.Held(all[i].Index); ok {
			r.cuts.held[all[i].Number] = &heldCut{index: all[i].Index, hold: hold}
		}
	}
	return nil
}

// releaseHolds lets go of every cut that is not wanted any more.
func (r *Replica) releaseHolds(wanted func(number uint64) bool) {
	r.cuts.mu.Lock()
	defer r.cuts.mu.Unlock()
	for n, h := range r.cuts.held {
		if !wanted(n) {
			h.hold.Release()
			delete(r.cuts.held, n)
		}
	}
}

// holdWanted: a cut is held until its files are here, or nobody wants them. One
// that the state does not know yet was cut a moment ago.
func (k *Keeper) holdWanted(rec *records, number uint64) bool {
	if number >= rec.schedule.NextNumber {
		return true
	}
	for i := range rec.checkpoints {
		if c := &rec.checkpoints[i]; c.Number == number {
			local := k.copy(number)
			return holdable(c, &rec.meta) && (local == nil || local.state != command.CopyWritten)
		}
	}
	return false
}

// write makes the files of a cut from the state at its index, and from the captured
// states that belong to it.
func (k *Keeper) write(ctx context.Context, c *machine.Checkpoint, states []checkpoint.SectionFile) error {
	start := time.Now()
	snap, err := k.replica.snapshot(c.Index)
	if err != nil {
		return err
	}
	defer snap.Close()
	config, err := snap.Config()
	if err != nil {
		return err
	}
	pace := newPace(ctx, k.replica.Position)
	pace.rest(writeAfter)
	w, err := checkpoint.Create(k.path(c.Number), checkpoint.Manifest{
		Group: k.replica.config.Group, Number: c.Number, Incarnation: c.Incarnation, Position: c.Position,
		Index: c.Index, LogHash: c.LogHash, TimeUnixNano: c.TimeUnixNano, Node: k.config.Node,
	}, checkpoint.Options{Pace: pace.wait})
	if err != nil {
		return err
	}
	m, err := k.writeSections(ctx, w, snap, config, c, states)
	if err != nil {
		return errors.Join(err, w.Abort())
	}
	took := time.Since(start)
	k.set(c.Number, &localCopy{state: command.CopyWritten, manifest: m, bytes: m.FileBytes(), took: took})
	k.log.Info("checkpoint written", zap.Uint64("checkpoint", c.Number), zap.Uint64("position", c.Position),
		zap.Uint64("bytes", m.FileBytes()), zap.Duration("took", took))
	return nil
}

func (k *Keeper) writeSections(ctx context.Context, w *checkpoint.Writer, snap *Snapshot, config machine.Config, c *machine.Checkpoint, states []checkpoint.SectionFile) (checkpoint.Manifest, error) {
	for _, name := range machine.SectionNames(config, c.Request.Participants) {
		section, err := w.Section(name)
		if err != nil {
			return checkpoint.Manifest{}, err
		}
		err = machine.ScanSection(snap.Reader(), config, name, func(key, value []byte) (bool, error) {
			return ctx.Err() == nil, section.Add(key, value)
		})
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return checkpoint.Manifest{}, fmt.Errorf("section %s: %w", name, err)
		}
		if _, err := section.Close(); err != nil {
			return checkpoint.Manifest{}, fmt.Errorf("section %s: %w", name, err)
		}
	}
	for _, f := range states {
		if err := k.addState(w, f); err != nil {
			return checkpoint.Manifest{}, err
		}
	}
	return w.Finish()
}

// pace slows a writer down while transactions commit, so that it takes a bounded
// share of the processor and the disk from them. On a quiet group it goes at full
// speed.
type pace struct {
	ctx      context.Context
	position func() uint64
	last     uint64
	began    time.Time
}

// paceShare is what a writer rests, as a multiple of what it worked, while
// transactions commit.
const paceShare = 9

// writeAfter is waited after a cut before its files are begun: the gate opens, and
// what waited at it goes, while no writer competes for the processor.
const writeAfter = 50 * time.Millisecond

func newPace(ctx context.Context, position func() uint64) *pace {
	return &pace{ctx: ctx, position: position, last: position(), began: time.Now()}
}

func (p *pace) wait(int) {
	now := p.position()
	busy := now != p.last
	p.last = now
	if worked := time.Since(p.began); busy && worked > 0 {
		p.rest(min(paceShare*worked, time.Second))
	}
	p.began = time.Now()
}

func (p *pace) rest(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-p.ctx.Done():
	}
}
