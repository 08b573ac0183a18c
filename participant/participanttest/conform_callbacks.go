package participanttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/cohort-tx/cohort/participant"
)

// conformSteps is how many things happen in one history, conformEntries at most
// are in its log.
const (
	conformSteps   = 40
	conformEntries = 200
)

// history is one random run of callbacks, as the SDK would call them.
type history struct {
	*subject
	r     *rand.Rand
	state participant.OwnState
	ctx   context.Context
	// log is the group's, from position 1 on; changes are those up to a position.
	log         []participant.Entry
	incarnation uint64
	// at is where the state is; lost that only a restore can say.
	at       uint64
	lost     bool
	captures []*conformCapture
	done     []string
}

// conformCapture is a captured state and what it must hold. data is what WriteTo
// gave, once it has.
type conformCapture struct {
	state io.WriterTo
	at    uint64
	data  []byte
}

// callbacks calls the state's methods directly.
func (s *subject) callbacks(seed uint64) error {
	h := &history{subject: s, r: rand.New(rand.NewPCG(seed, 1)), state: s.newState(s.TB), ctx: s.Context(), incarnation: 1}
	err := h.run()
	for _, c := range h.captures {
		if closing := c.close(); err == nil && closing != nil {
			err = closing
		}
	}
	if err != nil {
		return fmt.Errorf("%w\nafter: %s", err, strings.Join(h.done, ", "))
	}
	return nil
}

func (h *history) did(format string, args ...any) {
	h.done = append(h.done, fmt.Sprintf(format, args...))
}

func (h *history) run() error {
	if p, err := h.state.Point(h.ctx); err != nil || p != (participant.Point{}) {
		return fmt.Errorf("the Point of a new state is %v, %w; want the zero Point", p, orNil(err))
	}
	for range conformSteps {
		if err := h.step(); err != nil {
			return err
		}
		if h.lost {
			continue
		}
		if err := h.check(); err != nil {
			return err
		}
	}
	return nil
}

// orNil makes a nil error printable by %w.
func orNil(err error) error {
	if err == nil {
		return errors.New("no error")
	}
	return err
}

func (h *history) step() error {
	type action struct {
		weight int
		do     func() error
	}
	actions := []action{
		{8, h.apply},
		{3, h.capture},
		{2, h.write},
		{1, h.writeBroken},
		{1, h.writeBesideApplies},
		{2, h.restore},
		{1, h.restoreBroken},
		{1, h.cancelled},
	}
	if h.options.reopen != nil {
		actions = append(actions, action{2, h.reopen}, action{1, h.restoreCrashed})
	}
	if _, ok := h.content.(FirstContent); ok {
		actions = append(actions, action{3, h.first})
	}
	if h.lost {
		return h.recover()
	}
	total := 0
	for _, a := range actions {
		total += a.weight
	}
	n := h.r.IntN(total)
	for _, a := range actions {
		if n -= a.weight; n < 0 {
			return a.do()
		}
	}
	return nil
}

// changesTo are all changes up to a position.
func (h *history) changesTo(position uint64) (out [][]byte) {
	for _, e := range h.log[:position] {
		for _, c := range e.Changes {
			out = append(out, c.Value)
		}
	}
	return out
}

// check compares the state with the model at where it is.
func (h *history) check() error { return h.compare(h.state, h.at) }

func (h *history) compare(s participant.OwnState, at uint64) error {
	got, err := h.content.Dump(s)
	if err != nil {
		return fmt.Errorf("its Dump: %w", err)
	}
	want, err := h.want(h.changesTo(at))
	if err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("as of position %d the state is not what its transactions make of it:\n got %s\nwant %s", at, short(got), short(want))
	}
	return nil
}

func short(s string) string {
	if len(s) > 600 {
		return s[:600] + "…"
	}
	return s
}

// next are the entries that come next, made if the log has no more.
func (h *history) next(n int) []participant.Entry {
	for len(h.log) < int(h.at)+n && len(h.log) < conformEntries {
		e := participant.Entry{Incarnation: h.incarnation, Position: uint64(len(h.log) + 1), ID: fmt.Sprintf("t-%d", len(h.log)+1), Begun: uint64(1000 + len(h.log))}
		for range h.r.IntN(4) {
			e.Changes = append(e.Changes, participant.Change{Kind: participant.ChangeLog, Participant: conformParticipant, Value: h.content.Change(h.r)})
		}
		h.log = append(h.log, e)
	}
	entries := slices.Clone(h.log[h.at:min(len(h.log), int(h.at)+n)])
	for i := range entries {
		entries[i].Incarnation = h.incarnation
	}
	return entries
}

// apply applies some entries, those without changes left out.
func (h *history) apply() error {
	entries := h.next(1 + h.r.IntN(6))
	h.did("apply to %d", int(h.at)+len(entries))
	if err := h.applyAll(h.ctx, entries); err != nil {
		return err
	}
	return nil
}

func (h *history) applyAll(ctx context.Context, entries []participant.Entry) error {
	changing := slices.DeleteFunc(slices.Clone(entries), func(e participant.Entry) bool { return len(e.Changes) == 0 })
	if batch, ok := h.state.(participant.BatchApplier); ok && len(changing) > 1 && h.r.IntN(2) == 0 {
		if err := batch.ApplyBatch(ctx, changing); err != nil {
			return fmt.Errorf("its ApplyBatch of %d entries: %w", len(changing), err)
		}
	} else {
		for _, e := range changing {
			if err := h.state.Apply(ctx, e); err != nil {
				return fmt.Errorf("its Apply of position %d: %w", e.Position, err)
			}
		}
	}
	h.at += uint64(len(entries))
	return nil
}

// cancelled applies an entry under a context that ends while it is applied. Done
// or not, the state must be one or the other.
func (h *history) cancelled() error {
	entries := slices.DeleteFunc(h.next(3), func(e participant.Entry) bool { return len(e.Changes) == 0 })
	if len(entries) == 0 {
		return nil
	}
	e := entries[0]
	// Those before it change nothing.
	looks := h.r.IntN(6)
	ctx := newEnding(h.ctx, looks)
	err := h.state.Apply(ctx, e)
	h.did("apply %d under a context that ends after %d looks: %v", e.Position, looks, err)
	if err == nil {
		h.at = e.Position
		return nil
	}
	return h.anew(h.at, e.Position)
}

// anew is what the SDK does after a failure: Point says where the state is.
// It may be anywhere from a position to another.
func (h *history) anew(from, to uint64) error {
	if h.options.reopen != nil {
		h.drop()
		h.state = h.options.reopen(h.TB, h.state)
	}
	p, err := h.state.Point(h.ctx)
	if err != nil {
		return fmt.Errorf("its Point: %w", err)
	}
	h.did("Point %d/%d", p.Incarnation, p.Position)
	switch {
	case p == participant.Point{}:
		// In memory, or nothing stored yet.
		h.lost = true
		if h.options.reopen != nil && len(h.changesTo(to)) > 0 {
			if got, err := h.content.Dump(h.state); err != nil {
				return fmt.Errorf("its Dump: %w", err)
			} else if empty, err := h.want(nil); err != nil {
				return err
			} else if got != empty && !h.restoring() {
				return fmt.Errorf("the state holds changes and its Point is the zero one, so they would be applied again:\n%s", short(got))
			}
		}
		return nil
	case p.Incarnation != h.incarnation:
		return fmt.Errorf("its Point says incarnation %d, the state is in %d", p.Incarnation, h.incarnation)
	case p.Position > to:
		return fmt.Errorf("its Point says position %d, applied were at most %d", p.Position, to)
	}
	h.at = p.Position
	if err := h.check(); err != nil {
		return fmt.Errorf("after a crash the state is not that of its Point (%d; it was asked for %d to %d): %w", p.Position, from, to, err)
	}
	return nil
}

// restoring tells whether the last thing done was a restore that broke.
func (h *history) restoring() bool {
	return slices.ContainsFunc(h.done[max(0, len(h.done)-3):], func(s string) bool { return strings.HasPrefix(s, "restore") })
}

// reopen kills the process between two callbacks.
func (h *history) reopen() error {
	h.did("killed at %d", h.at)
	h.drop()
	return h.anew(0, h.at)
}

// drop forgets captures that died with their process.
func (h *history) drop() {
	h.captures = h.captured()
	for _, c := range h.captures {
		c.state = nil
	}
}

// recover brings a state up whose memory is gone: from a captured one, or anew.
func (h *history) recover() error {
	if len(h.captured()) > 0 {
		return h.restore()
	}
	h.did("new")
	h.drop()
	h.state, h.at, h.lost = h.newState(h.TB), 0, false
	h.incarnation = 1
	return nil
}

func (h *history) captured() []*conformCapture {
	return slices.DeleteFunc(slices.Clone(h.captures), func(c *conformCapture) bool { return c.data == nil })
}

// capture captures the state, to be written later.
func (h *history) capture() error {
	h.did("capture at %d", h.at)
	if len(h.captures) > 4 {
		if err := h.captures[0].close(); err != nil {
			return err
		}
		h.captures = h.captures[1:]
	}
	w, err := h.state.Capture(h.ctx)
	if err != nil || w == nil {
		return fmt.Errorf("its Capture: %v, %w", w, orNil(err))
	}
	h.captures = append(h.captures, &conformCapture{state: w, at: h.at})
	return nil
}

// close closes a capture once, as the SDK does in the end.
func (c *conformCapture) close() error {
	closer, ok := c.state.(io.Closer)
	c.state = nil
	if !ok {
		return nil
	}
	if err := closer.Close(); err != nil {
		return fmt.Errorf("close a captured state: %w", err)
	}
	return nil
}

// pick is a capture that was not written yet, or is to be written again.
func (h *history) pick() *conformCapture {
	open := slices.DeleteFunc(slices.Clone(h.captures), func(c *conformCapture) bool { return c.state == nil })
	if len(open) == 0 {
		return nil
	}
	return open[h.r.IntN(len(open))]
}

// write has a capture written, twice, and looks at what was.
func (h *history) write() error {
	c := h.pick()
	if c == nil {
		return nil
	}
	h.did("write the capture of %d", c.at)
	for range 2 {
		var b bytes.Buffer
		n, err := c.state.WriteTo(&b)
		if err != nil {
			return fmt.Errorf("its WriteTo: %w", err)
		}
		if n != int64(b.Len()) {
			return fmt.Errorf("its WriteTo says %d bytes and wrote %d", n, b.Len())
		}
		if err := h.wrote(c, b.Bytes()); err != nil {
			return err
		}
	}
	return c.close()
}

// wrote takes what a WriteTo gave.
func (h *history) wrote(c *conformCapture, data []byte) error {
	if c.data != nil {
		if !bytes.Equal(c.data, data) {
			return fmt.Errorf("its WriteTo of the capture of position %d gave %d bytes, and before %d other ones", c.at, len(data), len(c.data))
		}
		return nil
	}
	c.data = append([]byte{}, data...)
	fresh := h.newState(h.TB)
	if err := h.restoreInto(fresh, c, h.incarnation); err != nil {
		return fmt.Errorf("into a new state: %w", err)
	}
	if err := h.compare(fresh, c.at); err != nil {
		return fmt.Errorf("a new state that was restored from the capture of position %d: %w", c.at, err)
	}
	return nil
}

// writeBroken has a capture written to somebody who breaks it off.
func (h *history) writeBroken() error {
	c := h.pick()
	if c == nil {
		return nil
	}
	w := &breakingWriter{left: h.r.IntN(200)}
	if c.data != nil {
		w.left = h.r.IntN(len(c.data) + 1)
	}
	h.did("write the capture of %d, broken off after %d bytes", c.at, w.left)
	if _, err := c.state.WriteTo(w); err == nil && w.broke {
		return errors.New("its WriteTo keeps the writer's error to itself")
	}
	return nil
}

// writeBesideApplies runs WriteTo and Applies at once: the race detector sees what
// they share, the dump what they mix.
func (h *history) writeBesideApplies() error {
	c := h.pick()
	if c == nil {
		return nil
	}
	h.did("write the capture of %d beside applies", c.at)
	var b bytes.Buffer
	w := &handingWriter{to: &b, hand: make(chan struct{})}
	written := make(chan error, 1)
	go func() {
		_, err := c.state.WriteTo(w)
		close(w.hand)
		written <- err
	}()
	var applying error
	for range w.hand {
		if entries := h.next(1); applying == nil && len(entries) > 0 {
			applying = h.applyAll(h.ctx, entries)
		}
	}
	if err := errors.Join(<-written, applying); err != nil {
		return fmt.Errorf("its WriteTo beside Apply: %w", err)
	}
	return h.wrote(c, b.Bytes())
}

// restore brings the state to a capture, whatever it holds.
func (h *history) restore() error {
	from := h.captured()
	if len(from) == 0 {
		return nil
	}
	c := from[h.r.IntN(len(from))]
	incarnation := h.incarnation
	if h.r.IntN(4) == 0 {
		incarnation++ // the group was restored in place
	}
	h.did("restore to %d/%d", incarnation, c.at)
	if err := h.restoreInto(h.state, c, incarnation); err != nil {
		return err
	}
	h.at, h.incarnation, h.lost = c.at, incarnation, false
	if h.options.reopen == nil {
		return nil
	}
	if p, err := h.state.Point(h.ctx); err != nil || p != (participant.Point{Incarnation: incarnation, Position: c.at}) {
		return fmt.Errorf("its Point after a restore to %d/%d is %d/%d, %w", incarnation, c.at, p.Incarnation, p.Position, orNil(err))
	}
	return nil
}

func (h *history) restoreInto(s participant.OwnState, c *conformCapture, incarnation uint64) error {
	r := &piecesReader{data: c.data, r: h.r}
	if err := s.Restore(h.ctx, participant.Point{Incarnation: incarnation, Position: c.at}, r); err != nil {
		return fmt.Errorf("its Restore: %w", err)
	}
	if !r.ended {
		return errors.New("its Restore returned without reading to the end: the sum of the bytes is only known there")
	}
	return nil
}

// restoreBroken breaks a restore off, at any byte up to the very end.
func (h *history) restoreBroken() error {
	from := h.captured()
	if len(from) == 0 {
		return nil
	}
	c := from[h.r.IntN(len(from))]
	at := h.r.IntN(len(c.data) + 1)
	if h.r.IntN(3) == 0 {
		at = len(c.data)
	}
	broken := errors.New("the stream broke")
	h.did("restore to %d, broken at byte %d of %d", c.at, at, len(c.data))
	err := h.state.Restore(h.ctx, participant.Point{Incarnation: h.incarnation, Position: c.at}, &piecesReader{data: c.data[:at], r: h.r, end: broken})
	if !errors.Is(err, broken) {
		return fmt.Errorf("its Restore from a reader that fails at byte %d of %d returns %w, and not the reader's error", at, len(c.data), orNil(err))
	}
	return h.afterBroken(c)
}

// restoreCrashed kills the process while it restores.
func (h *history) restoreCrashed() error {
	from := h.captured()
	if len(from) == 0 {
		return nil
	}
	c := from[h.r.IntN(len(from))]
	at := h.r.IntN(len(c.data) + 1)
	h.did("restore to %d, killed at byte %d of %d", c.at, at, len(c.data))
	func() {
		defer func() { recover() }()
		_ = h.state.Restore(h.ctx, participant.Point{Incarnation: h.incarnation, Position: c.at}, &piecesReader{data: c.data[:at], r: h.r, killed: true})
	}()
	h.drop()
	return h.afterBroken(c)
}

// afterBroken is what the SDK finds after a restore that did not end: a state that
// stores its Point must be that of it, or have the zero Point.
func (h *history) afterBroken(c *conformCapture) error {
	if h.options.reopen == nil {
		h.lost = true
		return nil
	}
	return h.anew(0, max(h.at, c.at))
}

// first makes changes before the decision, which then goes either way.
func (h *history) first() error {
	content := h.content.(FirstContent)
	undoer, undoes := h.state.(participant.Undoer)
	e := participant.Entry{Incarnation: h.incarnation, Position: uint64(len(h.log) + 1), ID: fmt.Sprintf("f-%d", len(h.done)), Begun: uint64(5000 + len(h.done))}
	if int(h.at) != len(h.log) {
		return h.apply()
	}
	for range 1 + h.r.IntN(3) {
		change := h.content.Change(h.r)
		if err := content.Make(h.state, change); err != nil {
			return fmt.Errorf("its Make: %w", err)
		}
		e.Changes = append(e.Changes, participant.Change{Kind: participant.ChangeLog, Participant: conformParticipant, Value: change, AppliedEpoch: 1})
	}
	if undoes && h.r.IntN(2) == 0 {
		h.did("%d changes first, undone", len(e.Changes))
		if err := undoer.Undo(h.ctx, e.ID, e.Changes); err != nil {
			return fmt.Errorf("its Undo: %w", err)
		}
		return nil
	}
	h.did("%d changes first, committed at %d", len(e.Changes), e.Position)
	h.log = append(h.log, e)
	h.at++
	return nil
}
