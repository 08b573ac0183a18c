package txlog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/cohort-tx/cohort/txlog/machine"
)

// Target is a point in a group's past: exactly one field is set.
type Target struct {
	Checkpoint   uint64
	Position     *uint64
	TimeUnixNano int64
}

// Point is a target that can be restored.
type Point struct {
	Incarnation uint64
	// Checkpoint to begin with, and Position to replay the log to.
	Checkpoint, Position uint64
	// Participants that have a section in the checkpoint.
	Participants []string
}

// TargetError says why a point cannot be restored, and what can.
type TargetError struct{ Detail string }

func (e *TargetError) Error() string { return "txlog: " + e.Detail }

func noTarget(format string, args ...any) error {
	return &TargetError{Detail: fmt.Sprintf(format, args...)}
}

// participantSection begins the names of participants' sections.
const participantSection = "participant/"

// Locate finds where to begin and to end for a target.
func (k *Keeper) Locate(ctx context.Context, t Target) (Point, error) {
	rec, err := k.read()
	if err != nil {
		return Point{}, err
	}
	bases := k.bases(&rec)
	switch {
	case t.Checkpoint != 0:
		return k.locateCheckpoint(&rec, t.Checkpoint)
	case t.Position != nil:
		if *t.Position > rec.meta.Position {
			return Point{}, noTarget("position %d is in the future; the last one is %d", *t.Position, rec.meta.Position)
		}
		return k.locatePosition(bases, rec.meta.Incarnation, *t.Position)
	}
	return k.locateTime(ctx, bases, &rec, t.TimeUnixNano)
}

// base is a checkpoint that a restore may begin with.
type base struct {
	number, position uint64
	timeUnixNano     int64
	participants     []string
	// archived is the path of one in the archive; partial tells of it that it is of
	// some participants only.
	archived string
	partial  bool
}

// bases are the complete checkpoints of all participants in this incarnation,
// those of the archive included, by position.
func (k *Keeper) bases(rec *records) []base {
	out := slices.DeleteFunc(k.archivedBases(rec), func(b base) bool { return b.partial })
	for i := range rec.checkpoints {
		c := &rec.checkpoints[i]
		if c.State == machine.CheckpointComplete && c.Whole() && c.Incarnation == rec.meta.Incarnation {
			out = append(out, baseOf(c))
		}
	}
	return out
}

func baseOf(c *machine.Checkpoint) base {
	b := base{number: c.Number, position: c.Position, timeUnixNano: c.TimeUnixNano}
	for _, s := range c.Sections {
		if name, ok := strings.CutPrefix(s.Name, participantSection); ok {
			b.participants = append(b.participants, name)
		}
	}
	return b
}

func (b *base) to(incarnation, position uint64) Point {
	return Point{Incarnation: incarnation, Checkpoint: b.number, Position: position, Participants: b.participants}
}

func (k *Keeper) locateCheckpoint(rec *records, number uint64) (Point, error) {
	for i := range rec.checkpoints {
		c := &rec.checkpoints[i]
		if c.Number != number {
			continue
		}
		if c.State != machine.CheckpointComplete {
			return Point{}, noTarget("checkpoint %d is %s, not complete", number, c.State)
		}
		b := baseOf(c)
		if !c.Whole() {
			return Point{}, noTarget("checkpoint %d is of %s alone; restore to its position, %d, instead", number, strings.Join(c.Request.Participants, ", "), c.Position)
		}
		// Whatever incarnation it is of, what is made of it comes after this one.
		return b.to(rec.meta.Incarnation, c.Position), nil
	}
	for _, b := range k.archivedBases(rec) {
		if b.number == number && b.partial {
			return Point{}, noTarget("checkpoint %d, in the archive, is of %s alone; restore to its position, %d, instead", number, strings.Join(b.participants, ", "), b.position)
		}
		if b.number == number {
			return b.to(rec.meta.Incarnation, b.position), nil
		}
	}
	return Point{}, noTarget("there is no checkpoint %d", number)
}

func (k *Keeper) locatePosition(bases []base, incarnation, position uint64) (Point, error) {
	var best *base
	for i := range bases {
		if b := &bases[i]; b.position <= position && (best == nil || b.position >= best.position) {
			best = b
		}
	}
	if best == nil {
		return Point{}, tooEarly(bases, fmt.Sprintf("position %d", position))
	}
	return best.to(incarnation, position), nil
}

func tooEarly(bases []base, what string) error {
	if len(bases) == 0 {
		return noTarget("there is no complete checkpoint to begin with; take one with `cohort checkpoint create`")
	}
	first := bases[0]
	for _, b := range bases {
		if b.position < first.position {
			first = b
		}
	}
	return noTarget("%s is before the oldest checkpoint that is kept, at position %d (%s)", what, first.position,
		time.Unix(0, first.timeUnixNano).UTC().Format(time.RFC3339))
}

// locateTime finds the last position that was committed at or before a time.
func (k *Keeper) locateTime(ctx context.Context, bases []base, rec *records, at int64) (Point, error) {
	var best *base
	for i := range bases {
		if b := &bases[i]; b.timeUnixNano <= at && (best == nil || b.position >= best.position) {
			best = b
		}
	}
	if best == nil {
		return Point{}, tooEarly(bases, time.Unix(0, at).UTC().Format(time.RFC3339))
	}
	entries, err := k.EntriesFrom(best.position + 1)
	if err != nil {
		return Point{}, err
	}
	position := best.position
	for {
		e, _, err := entries.Next(ctx)
		if errors.Is(err, io.EOF) || err == nil && e.TimeUnixNano > at {
			break
		}
		if err != nil {
			return Point{}, errors.Join(err, entries.Close())
		}
		position = e.Position
	}
	if err := entries.Close(); err != nil {
		return Point{}, err
	}
	return best.to(rec.meta.Incarnation, position), nil
}
