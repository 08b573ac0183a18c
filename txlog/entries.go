package txlog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/cohort-tx/cohort/txlog/checkpoint"
	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/segment"
)

// entriesReadBytes is how much log is read at a time.
const entriesReadBytes = 4 << 20

// ErrGap: the archive lacks positions that are not in the log any more.
var ErrGap = errors.New("txlog: the archive has a gap")

// EntriesFrom reads the log of the group's present incarnation from a position
// on, the archive first where the log does not go back that far, up to what is
// published now. Errors: ErrTruncated, ErrGap, damaged files.
func (k *Keeper) EntriesFrom(from uint64) (EntryReader, error) {
	rec, err := k.read()
	if err != nil {
		return nil, err
	}
	e := &entries{keeper: k, next: from, end: rec.meta.Position, release: k.HoldLog(from)}
	if err := e.locate(); err != nil {
		e.release()
		return nil, err
	}
	return e, nil
}

// archivedFrom lists the archive's segments that hold [from, until) without a gap.
func (k *Keeper) archivedFrom(rec *records, from, until uint64) ([]checkpoint.Archived, error) {
	if rec.policy.ArchiveDir == "" {
		return nil, fmt.Errorf("%w (asked for %d, the first is %d, and there is no archive)", ErrTruncated, from, until)
	}
	all, err := checkpoint.ListArchive(k.archiveDir(rec.policy, rec.meta.Incarnation))
	if err != nil {
		return nil, err
	}
	var found []checkpoint.Archived
	next := from
	for _, a := range all {
		if a.Next <= next || next >= until {
			continue
		}
		if a.First > next {
			return nil, fmt.Errorf("%w from position %d to %d", ErrGap, next, a.First-1)
		}
		found = append(found, a)
		next = a.Next
	}
	if next < until {
		return nil, fmt.Errorf("%w from position %d to %d", ErrGap, next, until-1)
	}
	return found, nil
}

// entries reads archived segments and then the log.
type entries struct {
	keeper   *Keeper
	release  func()
	next     uint64
	end      uint64
	archived []checkpoint.Archived
	// log is read after archived.
	log *segment.Log

	// pull gives the records of the part that is being read, stop ends it.
	pull func() (segment.Record, error, bool)
	stop func()
}

func (e *entries) Next(ctx context.Context) (command.Entry, int, error) {
	for {
		if err := ctx.Err(); err != nil {
			return command.Entry{}, 0, err
		}
		if e.next > e.end {
			return command.Entry{}, 0, io.EOF
		}
		if e.pull == nil {
			if err := e.open(); err != nil {
				return command.Entry{}, 0, err
			}
		}
		rec, err, ok := e.pull()
		if !ok {
			e.closePart()
			continue
		}
		if e.moved(err) {
			e.closePart()
			if err := e.locate(); err != nil {
				return command.Entry{}, 0, err
			}
			continue
		}
		if err != nil {
			return command.Entry{}, 0, err
		}
		if rec.Position < e.next {
			continue
		}
		if rec.Position > e.next {
			return command.Entry{}, 0, fmt.Errorf("%w at position %d", ErrGap, e.next)
		}
		entry, err := command.DecodeEntry(rec.Payload)
		if err != nil {
			return command.Entry{}, 0, fmt.Errorf("txlog: position %d: %w", rec.Position, err)
		}
		e.next++
		return entry, len(rec.Payload), nil
	}
}

// locate finds where the next position is: in the archive or in the log.
func (e *entries) locate() error {
	e.archived, e.log = nil, e.keeper.replica.openLogFiles()
	if e.log == nil {
		return ErrClosed
	}
	first := e.log.First()
	if e.next >= first {
		return nil
	}
	rec, err := e.keeper.read()
	if err != nil {
		return err
	}
	e.archived, err = e.keeper.archivedFrom(&rec, e.next, first)
	return err
}

// moved tells whether the next position may be elsewhere by now: the hold came
// while the log was being cut, or a Raft snapshot or a rebuilding has replaced it.
func (e *entries) moved(err error) bool {
	if len(e.archived) > 0 {
		return false
	}
	switch {
	case errors.Is(err, segment.ErrTruncated):
		return e.next < e.log.First()
	case errors.Is(err, segment.ErrClosed):
		return e.keeper.replica.openLogFiles() != e.log
	}
	return false
}

// open begins the next part: an archived segment, or a piece of the log.
func (e *entries) open() error {
	if len(e.archived) == 0 {
		e.pull, e.stop = iter.Pull2(e.log.Read(e.next, entriesReadBytes))
		return nil
	}
	a := e.archived[0]
	e.archived = e.archived[1:]
	in, err := checkpoint.ReadArchived(a.Path)
	if err != nil {
		return err
	}
	pull, stop := iter.Pull2(segment.ReadStream(in, a.Path))
	e.pull, e.stop = pull, func() {
		stop()
		_ = in.Close() // what was read of it was checked record by record
	}
	return nil
}

func (e *entries) closePart() {
	if e.stop != nil {
		e.stop()
	}
	e.pull, e.stop = nil, nil
}

func (e *entries) Close() error {
	e.closePart()
	e.release()
	return nil
}
