// Package checkpoint keeps checkpoints as files: a directory each, with a
// manifest and a compressed file per section, and as one file for export. It
// also archives closed segments of the log, and erases files.
//
// The formats are in docs/checkpoint-format.md.
//
//	cp-0000000007/
//	  manifest.json        what the files are; ends in its own checksum
//	  meta.zst             one file a section, zstd
//	  outcomes.zst
//	  p-orders.zst         participant/orders
//	  s-stock.zst          state/stock: what stock has captured of its own state
//	captures/
//	  stock-…-….zst        captured states, by participant, position and digest;
//	                       a checkpoint shares the file (a hard link)
//	  ….part, ….zst.fetch  coming from an instance, from another node
//
// # What it guarantees
//
// A checkpoint appears under its name whole and durable, or not at all: it is
// written under a name ending in ".tmp", every file and the directory are
// fsynced, and then it is renamed. Every byte is covered: the files by a SHA-256
// in the manifest and one over their uncompressed records, the manifest by its
// last line.
//
// # Failures
//
//	crash while writing        a *.tmp, which Recover removes
//	crash while removing       likewise: removing begins with a rename. After one
//	                           while erasing, Recover and Remove go on erasing
//	crash while a state comes  a .part, which ResumeState goes on with behind its
//	                           last whole frame
//	erasing a shared state     its name goes; the last name's going overwrites it
//	flipped or missing byte    *CorruptError with file and section
//	newer format               *VersionError, nothing is touched
//	export cut off             ErrIncomplete
//
// A SectionReader hands out records before it has seen the end of the section. Who
// uses them must be ready to throw away what was made of them when the end turns
// out to be wrong, or call Verify before.
package checkpoint
