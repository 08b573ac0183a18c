package segment

import "os"

// readAheadBytes is what a cursor reads at once.
const readAheadBytes = 256 << 10

// cursor walks the records of one segment up to end, checking all of them.
type cursor struct {
	file   *file
	handle *os.File
	end    uint64
	// offset and position are those of the next record.
	offset, position uint64
	// ahead are bytes of the file from offset on. Payloads that were given out stay
	// valid: a new buffer is made for what follows.
	ahead []byte
	// sealed is set by a seal, which must be the last thing before end.
	sealed bool
}

func (c *cursor) more() bool { return c.offset < c.end && !c.sealed }

// next returns the next record's payload.
func (c *cursor) next() (payload []byte, err error) {
	head, err := c.peek(RecordOverhead)
	if err != nil {
		return nil, err
	}
	length := recordLength(head)
	if length > MaxPayloadBytes {
		return nil, c.file.corrupt(c.offset, "a record of %d bytes", length)
	}
	record, err := c.peek(RecordOverhead + uint64(length))
	if err != nil {
		return nil, err
	}
	if !recordValid(record) {
		return nil, c.file.corrupt(c.offset, "the checksum of position %d", c.position)
	}
	if position := recordPosition(record); position != c.position {
		return nil, c.file.corrupt(c.offset, "position %d where %d should be", position, c.position)
	}
	size := uint64(len(record))
	c.ahead = c.ahead[size:]
	if length == 0 {
		c.sealed = true
		c.offset += size
		if c.offset != c.end {
			return nil, c.file.corrupt(c.offset, "something behind the seal")
		}
		return nil, nil
	}
	c.file.note(c.position, c.offset)
	c.offset += size
	c.position++
	return record[RecordOverhead:size:size], nil
}

// peek returns the next n bytes.
func (c *cursor) peek(n uint64) ([]byte, error) {
	if n > c.end-c.offset {
		return nil, c.file.corrupt(c.offset, "the record of position %d goes beyond the end at %d", c.position, c.end)
	}
	if n > uint64(len(c.ahead)) {
		ahead := make([]byte, min(max(n, readAheadBytes), c.end-c.offset))
		if err := c.file.readAt(c.handle, ahead, c.offset); err != nil {
			return nil, err
		}
		c.ahead = ahead
	}
	return c.ahead[:n:n], nil
}
