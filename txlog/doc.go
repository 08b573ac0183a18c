// Package txlog keeps what was decided: it runs a group's state machine as a
// Raft shard and gives readers its states and its log.
//
// A Host is one node's dragonboat NodeHost. A Replica is one group's shard on it:
// the pure machine of txlog/machine over one store (participant/store) and one
// log (txlog/segment). A Keeper sees to the group's checkpoints on the node.
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
// # Checkpoints
//
// A cut is the state at the Raft index of its entry, which the store holds until
// the node has files of it. The Keeper makes the files on this node agree with the
// records in the group's state, and decides anew from both at each turn:
//
//	a cut without files         written from the held state; fetched from another
//	                            node when that is gone and the checkpoint complete
//	a complete checkpoint       put into the archive, if there is one
//	files without a record      erased if the policy says so, removed
//	log before LogFrom          archived, erased, removed, a segment at a time
//	a copy that is different    the replica is quarantined and rebuilt
//
// Files and log that are being read are not removed meanwhile. Hydrate makes a
// replica's files from a checkpoint and the log after it, for a new incarnation:
// its indexes and epochs begin at ReplicaConfig's IndexBase and EpochBase, and a
// member without files starts empty and takes another's state before it applies
// its first entry.
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
//	state differs from others'   ErrQuarantined for readers until it is rebuilt
//	damaged copy                 given up, fetched again; never read from
//	crash while hydrating        nothing: the files have no place yet
package txlog
