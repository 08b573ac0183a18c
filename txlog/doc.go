// Package txlog keeps what was decided: it runs a group's state machine as a
// Raft shard and gives readers its states and its log.
//
// A Host is one node's dragonboat NodeHost. A Replica is one group's shard on it:
// the pure machine of txlog/machine over one store (participant/store) and one
// log (txlog/segment).
//
//	Propose ─▶ Raft ─▶ Update, on every replica, in log order:
//	    for each Raft entry
//	        machine.Apply          validates and decides, writes into the update
//	        log.Append             one record per committed transaction
//	        update.Set(location)   where the log ends now; local to this replica
//	        update.Commit(index)   one badger transaction
//	    log.Flush                  records become readable,
//	    update.Finish              then the index is published
//
// # Guarantees
//
// Readers see published states only, and find the log entries of every position
// in the state they read. What survives a power loss is a state at an index S
// and exactly the log up to it: the barrier syncs memtables and segments before S
// is written, and the location of the log's end is in the state itself.
//
// # Files
//
//	DIR/raft                      dragonboat: tan log store, snapshots' metadata
//	DIR/shard-SSSS-RRRR/store     participant/store
//	DIR/shard-SSSS-RRRR/log-NNNN  txlog/segment; NNNN is the index of the Raft
//	                              snapshot that it was installed from, 0 at first
//
// A Raft snapshot carries the log records from the sender's first kept position
// and then the store's snapshot. The receiver builds a new log directory with a
// file "end" in it, durably, and then lets the store swap generations. That
// rename is the point of no return: before it a crash leaves the old store,
// which names the old log; after it the new store, which has no local record of
// its log yet and therefore is at log-<its S>.
//
// # Failures
//
//	crash of the process         opens at S, Raft replays the rest
//	power loss                   the same
//	damaged or locked files      StartReplica fails and says which
//	error of the disk later,     the replica halts: it publishes and acknowledges
//	damaged Raft snapshot        nothing more, leaves its shard, so that another
//	                             replica leads, and Status says why; others go on
//	wiped directory              StartReplica fails with ErrLogLost
package txlog
