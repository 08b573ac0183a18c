// Package segment keeps a group's log: append-only files of checksummed records
// with dense positions.
//
// # What it guarantees
//
// The owner of a Log knows where it ends: a Location, which it stores atomically
// with the state that the records belong to. Open goes back to such a Location.
// Whatever lies beyond, torn or whole, is gone after it and written again by the
// replay of the same records; whatever lies before and is not what was written is
// a *CorruptError that names file and offset. So a crash costs nothing as long as
// Sync has run before the Location was made durable.
//
// One goroutine appends. Any number read at the same time, also while the files
// they read are unlinked.
//
// # Files
//
// A segment is a file named by its first position, 20 digits and ".log". A new one
// begins when a record is appended to one of Options.SegmentBytes or more; the
// old one is sealed. Integers are big-endian.
//
//	header  magic [8] | version u32 | incarnation u64 | first position u64 | crc32c u32
//	record  length u32 | crc32c u32 | position u64 | payload [length]
//	seal    0 u32      | crc32c u32 | next position u64
//
// A record's checksum covers length, position and payload. A payload is never
// empty, so that a length of 0 is a seal: the segment is complete, and the next
// one begins with the position it names.
//
//	  closed               closed               active
//	┌────────┬─────┬────┐ ┌────────┬─────┬────┐ ┌────────┬─────┐
//	│header 1│1..40│seal│ │header41│41..9│seal│ │header97│97.. │ ← End
//	└────────┴─────┴────┘ └────────┴─────┴────┘ └────────┴─────┘
//
// An empty log has no files: its Location is Start of its next position, and its
// first segment is made by the first Append.
//
// # Failures
//
//	torn or unsynced tail beyond End     ignored, overwritten by the replay
//	segments that begin beyond End       removed by Open
//	crash in TruncateBefore              fewer old segments; the rest is whole. One
//	                                     that was going is named *.log.gone, and goes
//	                                     with the next TruncateBefore
//	crash in Reset                       any of the old segments; Reset again
//	failed write or fsync                the log refuses appends until opened again
//	file of a newer format               *VersionError
package segment
