package segment

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"iter"
)

// ReadStream gives the records of a sealed segment that comes as a stream: from
// an archive, say. path is for messages. It ends after the seal, or with a
// *CorruptError.
func ReadStream(in io.Reader, path string) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		s := stream{in: bufio.NewReaderSize(in, readAheadBytes), path: path}
		if err := s.header(); err != nil {
			yield(Record{}, err)
			return
		}
		for {
			rec, sealed, err := s.next()
			if err != nil {
				yield(Record{}, err)
				return
			}
			if sealed || !yield(rec, nil) {
				return
			}
		}
	}
}

// VerifyStream reads such a segment to its end and checks that it holds the
// positions from first to next-1.
func VerifyStream(in io.Reader, path string, first, next uint64) error {
	at := first
	for rec, err := range ReadStream(in, path) {
		if err != nil {
			return err
		}
		if rec.Position != at {
			return &CorruptError{File: path, Detail: fmt.Sprintf("position %d where %d should be", rec.Position, at)}
		}
		at++
	}
	if at != next {
		return &CorruptError{File: path, Detail: fmt.Sprintf("it ends before position %d, not before %d", at, next)}
	}
	return nil
}

type stream struct {
	in   *bufio.Reader
	path string
	// offset and position are those of the next record.
	offset, position uint64
}

func (s *stream) corrupt(format string, args ...any) error {
	return &CorruptError{File: s.path, Offset: s.offset, Detail: fmt.Sprintf(format, args...)}
}

// read fills b; an end within it is damage.
func (s *stream) read(b []byte) error {
	_, err := io.ReadFull(s.in, b)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return s.corrupt("the file ends here, before its seal")
	}
	return err
}

func (s *stream) header() error {
	var b [HeaderBytes]byte
	if err := s.read(b[:]); err != nil {
		return err
	}
	first := headerFirst(b[:])
	if err := checkHeader(b[:], s.path, 0, first); err != nil {
		return err
	}
	s.offset, s.position = HeaderBytes, first
	return nil
}

// next reads a record, or the seal and that nothing follows it.
func (s *stream) next() (rec Record, sealed bool, err error) {
	var head [RecordOverhead]byte
	if err := s.read(head[:]); err != nil {
		return rec, false, err
	}
	length := recordLength(head[:])
	if length > MaxPayloadBytes {
		return rec, false, s.corrupt("a record of %d bytes", length)
	}
	record := append(make([]byte, 0, RecordOverhead+min(int(length), readAheadBytes)), head[:]...)
	// Memory grows with what is there, not with what the length claims.
	for left := int(length); left > 0; {
		n := min(left, readAheadBytes)
		record = append(record, make([]byte, n)...)
		if err := s.read(record[len(record)-n:]); err != nil {
			return rec, false, err
		}
		left -= n
	}
	if !recordValid(record) {
		return rec, false, s.corrupt("the checksum of position %d", s.position)
	}
	if position := recordPosition(record); position != s.position {
		return rec, false, s.corrupt("position %d where %d should be", position, s.position)
	}
	s.offset += uint64(len(record))
	if length == 0 {
		if _, err := s.in.ReadByte(); err != io.EOF {
			return rec, false, errors.Join(s.corrupt("something behind the seal"), err)
		}
		return rec, true, nil
	}
	rec = Record{Position: s.position, Payload: record[RecordOverhead:]}
	s.position++
	return rec, false, nil
}
