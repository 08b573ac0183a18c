package txlog

import (
	"errors"

	"github.com/cohort-tx/cohort/participant/store"
	"github.com/cohort-tx/cohort/txlog/segment"
)

var (
	// ErrDropped: the proposal is certainly not in the log.
	//
	// dragonboat drops a proposal in one place, raft's handling of it on this
	// replica, before it is appended or sent on: there is no leader, or leadership
	// is being transferred. A leader elsewhere that drops a forwarded proposal says
	// nothing, which ends as ErrUnknown.
	ErrDropped = errors.New("txlog: the proposal was dropped before it got into the log")
	// ErrUnknown: the proposal may be in the log, or get there, and may be applied.
	ErrUnknown = errors.New("txlog: it is not known whether the proposal gets applied")
	// ErrOverloaded: not proposed, because the shard's queue or memory is full.
	ErrOverloaded = errors.New("txlog: the shard takes no more proposals now")
	// ErrTooLarge: a transaction or a batch does not fit one entry.
	ErrTooLarge = errors.New("txlog: too large for one entry")
	// ErrClosed: the replica or its host is closed.
	ErrClosed = errors.New("txlog: the replica is closed")
	// ErrHalted: an error of the disk has halted the replica; Status tells it.
	ErrHalted = errors.New("txlog: the replica has halted")
	// ErrNoCopy: the node has no whole copy of the checkpoint.
	ErrNoCopy = errors.New("txlog: no whole copy of the checkpoint is here")
	// ErrNoState: the node has no file of the captured state.
	ErrNoState = errors.New("txlog: the captured state is not here")
	// ErrNoRoom: the node's disk is about to be full.
	ErrNoRoom = errors.New("txlog: no room for a captured state")
	// ErrQuarantined: the replica's state differs from that of the others; it is
	// being replaced, and not read until then.
	ErrQuarantined = errors.New("txlog: the replica's state is not the group's")
	// ErrLogLost: the replica was started before, and its Raft log is gone. It must
	// not vote again; replace it by a replica with a new id.
	ErrLogLost = errors.New("txlog: the replica was started before, but its Raft log is not here: it must not vote again; replace the node")
	// ErrNotReady: no leader, or the replica has not caught up; try again.
	ErrNotReady = errors.New("txlog: the shard has no leader, or this replica is not ready")
	// ErrTruncated: the position is below the first kept one.
	ErrTruncated = segment.ErrTruncated
	// ErrSnapshotTooOld: the versions of that index may be discarded.
	ErrSnapshotTooOld = store.ErrSnapshotTooOld
	// ErrNotApplied: the index is above what is published here.
	ErrNotApplied = store.ErrNotApplied
)
