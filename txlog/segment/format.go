package segment

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

const (
	version = 1
	// HeaderBytes is the length of a segment's header: the offset of its first
	// record.
	HeaderBytes = 8 + 4 + 8 + 8 + 4
	// RecordOverhead is what a record takes beside its payload.
	RecordOverhead = 4 + 4 + 8
	// MaxPayloadBytes bounds a payload: far above any entry, and low enough to tell
	// a length from garbage.
	MaxPayloadBytes = 256 << 20
)

var (
	magic      = [8]byte{'C', 'H', 'T', 'S', 'E', 'G', 'M', 'T'}
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// Location is a place between two records: an offset in the segment that begins
// with position Segment. The zero Location is Start(1).
type Location struct {
	Segment uint64
	Offset  uint64
}

// Start is the end of an empty log whose next position is next.
func Start(next uint64) Location { return Location{Segment: next, Offset: HeaderBytes} }

func (l Location) String() string { return fmt.Sprintf("%d+%d", l.Segment, l.Offset) }

func fileName(first uint64) string { return fmt.Sprintf("%020d.log", first) }

func appendHeader(b []byte, incarnation, first uint64) []byte {
	from := len(b)
	b = append(b, magic[:]...)
	b = binary.BigEndian.AppendUint32(b, version)
	b = binary.BigEndian.AppendUint64(b, incarnation)
	b = binary.BigEndian.AppendUint64(b, first)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b[from:], castagnoli))
}

// checkHeader says what is wrong with a header; incarnations of 0 match all.
func checkHeader(b []byte, file string, incarnation, first uint64) error {
	if [8]byte(b) != magic {
		return &CorruptError{File: file, Detail: "it does not begin like a segment"}
	}
	// Before the checksum: a newer header may be longer.
	if found := binary.BigEndian.Uint32(b[8:]); found > version {
		return &VersionError{File: file, Found: found, Supported: version}
	}
	if crc32.Checksum(b[:HeaderBytes-4], castagnoli) != binary.BigEndian.Uint32(b[HeaderBytes-4:]) {
		return &CorruptError{File: file, Detail: "the header's checksum"}
	}
	if found := binary.BigEndian.Uint64(b[12:]); found != 0 && incarnation != 0 && found != incarnation {
		return &CorruptError{File: file, Detail: fmt.Sprintf("it belongs to incarnation %d, not to %d", found, incarnation)}
	}
	if found := binary.BigEndian.Uint64(b[20:]); found != first {
		return &CorruptError{File: file, Detail: fmt.Sprintf("its header says that it begins with position %d", found)}
	}
	return nil
}

// appendRecord appends a record, or a seal when payload is empty.
func appendRecord(b []byte, position uint64, payload []byte) []byte {
	from := len(b)
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
	b = append(b, 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint64(b, position)
	b = append(b, payload...)
	binary.BigEndian.PutUint32(b[from+4:], recordSum(b[from:]))
	return b
}

// recordSum is the checksum of a whole record.
func recordSum(b []byte) uint32 {
	sum := crc32.Update(0, castagnoli, b[:4])
	return crc32.Update(sum, castagnoli, b[8:])
}

func headerFirst(b []byte) uint64    { return binary.BigEndian.Uint64(b[20:]) }
func recordLength(b []byte) uint32   { return binary.BigEndian.Uint32(b) }
func recordPosition(b []byte) uint64 { return binary.BigEndian.Uint64(b[8:]) }

func recordValid(b []byte) bool { return recordSum(b) == binary.BigEndian.Uint32(b[4:]) }
