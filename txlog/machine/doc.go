// Package machine is the replicated state machine of a group: the one place
// where transactions are decided. It is pure. It reads and writes through the
// State it is given and knows no clock, no randomness, no goroutine, no order of
// a map: every replica that applied the same entries has the same state, the
// same results and the same log.
//
// # One entry
//
// Apply runs the batch of one Raft entry, command after command, against the
// state before the entry plus what the entry's earlier commands did. A Decide
// goes through these rules, and the first that speaks has the last word:
//
//	   the command makes no sense           refused    malformed
//	a  its id is committed                  its receipt, or refused id_reused
//	b  its coordinator's epoch is not the
//	   current one                          refused    stale_epoch
//	   the group has no definition yet      refused    unconfigured
//	c  the attempt began before the horizon refused    expired
//	   the attempt is recorded as aborted   aborted    as recorded
//	   it breaks a limit                    aborted    too_large
//	   it names an unknown participant      aborted    unknown_participant
//	   the entry is full                    refused    overloaded
//	d  a step's or vote's activation epoch
//	   is not the participant's             aborted    moved
//	e  a read key or range has changed      aborted    conflict
//	f  an add cannot be done                aborted    constraint
//	g  otherwise                            committed at the next position
//
// While the group is sealed for a restore, what is not decided yet is refused as
// sealed, before the limits are looked at.
//
// Refused means that nothing was recorded; aborted that the attempt, and every
// earlier one of its id, never commits. The recorded abort comes after c because
// an attempt from before the horizon may have committed and been forgotten: an
// old unknown is not an abort. A transaction's writes are staged until rule g
// has spoken, so one that aborts has no effect.
//
// # State
//
// Keys are a table's byte and a name within it; 0x00 belongs to the store and
// 0x01 to the replica, and neither is part of the logical state. Records begin
// with a version byte; numbers are big-endian in keys, varints in records.
//
//	0x02                            meta         once per entry that changes it
//	0x03                            config
//	0x04 participant                activation
//	0x05 transaction id             outcome      the newest of the id
//	0x06 index:8                    decided      time, and the ids decided at index
//	0x07 participant id:4 key       data         version:8 value
//	0x08 number:8                   checkpoint   from feature level 2 on
//	0x09                            schedule     once per entry that commits, likewise
//	0x0a                            origin       only after a restore
//	0x0b participant                own state    from feature level 3 on
//
// An id that is decided again (a later attempt after an abort) stays listed at
// its older index; forgetting looks at the outcome's own index and passes over it.
//
// # State of participants' own
//
// From feature level 3 on a participant whose instance keeps state of its own has a
// record: Base, the position of its first such activation, and Last, the state
// captured for the newest complete checkpoint that has any. A Checkpoint names the
// participants that are asked to capture; of the others it has the last state and
// needs the log from there:
//
//	asked      wanted ─ReportCapture─▶ captured
//	              └────── with Failure ──▶ failed: the checkpoint is abandoned, and its
//	                                       cut does not count for what is due
//	not asked  inherited, if there is a last one; LogFrom is where the log must begin
//
// No written copy counts while a state is wanted, and one whose sections are not
// what was captured never does. What is complete makes what it captured the
// participants' last. LogNeed says what log all this needs; Retain goes by it. Such a
// record is data: Configure drops a participant that has one with Prune alone.
//
// # Failures
//
//	undecodable batch       one result, refused as malformed; counted in Meta
//	unknown command         refused as malformed; counted in Meta
//	another origin          Apply returns ErrOriginMismatch; the replica must halt
//	an error of the State   Apply returns it; discard what it did and apply again
//	a damaged record        *CorruptError, likewise
package machine
