package participant

import (
	"context"
	"io"
)

// Point is a place in a group's log. Positions of different incarnations are not
// comparable. The zero Point is before everything.
type Point struct {
	Incarnation uint64
	Position    uint64
}

// OwnState is what an application that keeps state of its own, in memory or in a
// database, gives its App by App.State. The SDK brings the state to the group's
// position, keeps it there, and has it captured for checkpoints:
//
//	attached ─▶ Point ─▶ (Restore) ─▶ Apply, Apply, … ─▶ steps come
//	                                        │
//	                                 cut ─▶ Capture ─▶ Apply, …
//
// One path serves normal running, recovery after a crash and a warm standby: the
// log is followed, and each committed transaction that changes this participant
// is applied once, in the log's order.
//
// Its methods are called from one goroutine, one at a time. Handlers and voters
// run beside them and must not change the state, but for StepTx.Log with
// AlreadyApplied. An error of Restore or Apply ends what this instance is good
// for: it is told to the operator, and everything begins anew at Point.
type OwnState interface {
	// Point is how far the state has come. A state that stores it together with
	// its data, atomically, is never applied twice; a state in memory begins at the
	// zero Point and is restored. It is called when an instance attaches.
	Point(ctx context.Context) (Point, error)
	// Restore replaces the whole state by a captured one, as of at. What r gives is
	// what Capture's WriterTo wrote; an error of r other than io.EOF must be
	// returned, and leaves the state to be restored again. A state that stores its
	// Point stores at.
	Restore(ctx context.Context, at Point, r io.Reader) error
	// Apply makes the changes of one committed transaction: those that StepTx.Log
	// staged, in their order. Entries without any are left out, so their positions
	// rise with gaps. What was written into the participant's store is not given. A
	// state that stores its Point stores e.Incarnation and e.Position with the
	// changes. It must not fail for any reason that lies in the changes.
	Apply(ctx context.Context, e Entry) error
	// Capture gives the state as it is now, between one Apply and the next. The
	// group's commits wait for it, so it must be fast: a copy-on-write handle, an
	// open snapshot, a copy of a map. WriteTo of what it returns runs later, beside
	// further Applies, and must give the captured state all the same; it may be
	// called again after an error, and then writes the same bytes. When it is an
	// io.Closer as well it is closed in the end.
	Capture(ctx context.Context) (io.WriterTo, error)
}

// BatchApplier is an OwnState that applies several transactions at once faster than
// one after the other. When it does not return an error, all are applied.
type BatchApplier interface {
	ApplyBatch(ctx context.Context, entries []Entry) error
}

// Advancer is an OwnState that stores its Point and is told, before each Capture, how
// far it has come by entries that do not change it. Without it a participant that
// seldom changes has an old Point, and may be restored where following the log from
// there would do but the log is gone.
type Advancer interface {
	Advance(ctx context.Context, to Point) error
}

// Undoer is an OwnState whose handlers change it before the transaction commits
// (StepTx.Log with AlreadyApplied). Undo takes the changes of an attempt back that
// did not commit. Without it such an attempt costs the instance its state: it is
// restored.
type Undoer interface {
	Undo(ctx context.Context, id string, changes []Change) error
}
