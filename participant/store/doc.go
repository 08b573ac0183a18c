// Package store is the storage engine of one group replica: a multi-version
// key-value store on badger whose versions are Raft indexes.
//
// # What it guarantees
//
// An entry is what one Raft index changes. Each entry is exactly one badger
// transaction, so a crash leaves all of it or nothing; entries are recovered as
// a prefix up to S, the synced index, and what badger holds beyond S is either
// rewritten by the replay of the same entries or never read.
//
// Three indexes order everything:
//
//	D  ≤  S  ≤  P
//	│     │     └ published: the last entry that is applied and may be read
//	│     └ synced: what survives a power loss; Open returns to it
//	└ discard floor: below it versions are being thrown away
//
// Reads at an index in [D, P] are exact. Below D they are ErrSnapshotTooOld,
// above P ErrNotApplied: never silently wrong. An index that a View or a Hold pins
// holds D back until it is let go, and what was superseded less than
// Options.KeepVersions ago holds it back too. D is on disk before badger may act on
// it, so that after a restart reads from it on are still exact.
//
// # The barrier
//
// Badger runs without syncing its writes: an fsync an entry costs more than
// everything else together. Its own Sync covers only the newest memtable, so a
// power loss after it can still leave holes. The barrier that leaves none:
//
//  1. take P as the new S. All of it is in memtable files or in synced tables.
//  2. fsync every *.mem file by path, then the directory. A memtable that is
//     gone by now has been flushed to a table, which badger syncs itself.
//  3. run Options.Barrier: the log's own fsync.
//  4. write S, and how far D goes, into the older slot of SYNCED and fsync it.
//  5. only now may D rise.
//
// A crash between any two steps leaves the former S, and D at or below it. A
// failed fsync may have dropped the pages it could not write, so it is final:
// the store refuses everything but reads until it is opened again.
//
// # Files
//
//	dir/
//	  LOCK            held while the store is open
//	  CURRENT         "cohort-store <version> <generation> <crc32c>\n"
//	  gen-00000001/   one badger database and its SYNCED file
//
//	SYNCED: two slots, 4096 bytes apart, written in turn
//	  magic [8] | version u32 | sequence u64 | S u64 | D u64 | crc32c u32
//	  version 1 has no D: it was S.
//
// Restore builds a new generation beside the living one and swaps CURRENT by
// rename; a generation that CURRENT does not name is removed when the store is
// opened. Integers are big-endian.
//
// # Keys
//
//	0x00 …  the store's own
//	    0x00 'a'                     index of the entry that wrote it
//	    0x00 'c' index u64 | ordinal u32 | n u32   chunk n of a large value
//	    0x00 'g' index u64 | part u32              chunks waiting to be deleted
//	0x01 …  local to this replica: kept out of snapshots, gone after Restore
//	others  the replicated state
//
// A value above LargeValueBytes is stored as chunks under an identity of its own
// (the entry's index and an ordinal), its key holding only the reference: badger
// moves bigger values to its value log, which must stay empty because collecting
// its garbage brings deleted versions back. Replacing or deleting a large value
// deletes its chunks in the same entry, at most sweepChunks of them; the rest is
// recorded under 0x00 'g' and deleted by the entries that follow. That bounds
// what an entry can cost, so that it always fits into a badger transaction.
//
// # Snapshot stream
//
//	header   magic [8] | version u32 | index u64
//	block    length u32 | crc32c u32 | records
//	record   version uvarint | key length uvarint | value length uvarint | key | value
//	end      0 u32 | count u64 | sha256 [32]
//
// The records are the live keys at the index in ascending order, large values
// whole, each at the index that wrote it; no tombstones. The hash covers the
// header and every block's records. Restore reads not a byte more than Save
// wrote, so that a caller may put its own data behind.
//
// # Failures
//
//	crash in Restore before the rename   the old generation; the new one is removed at open
//	crash in Restore after the rename    the new generation; the old one is removed at open
//	torn write of SYNCED                 the other slot
//	zero-length *.mem or *.vlog          removed before opening: badger would refuse
//	flipped byte in a table              refused when badger opens the table
//	file of a newer format               *VersionError, nothing is touched
package store
