package postgres

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// The stream of a captured database. Integers are big-endian.
//
//	stream   "cohortpg" | version u32 | blocks
//	block    kind u8 | length u32 | payload | crc32c u32 over all before it
//	blocks   header, then for each table: table, rows…, and at last end
//
// header, table and end are JSON; rows are what COPY … TO STDOUT gives in its text
// format, cut anywhere.
const (
	streamMagic   = "cohortpg"
	streamVersion = 1
	// blockBytes is what one block of rows holds at most, and what a reader allows.
	blockBytes = 128 << 10
	// maxBlockBytes is what a reader takes: a header names every table.
	maxBlockBytes = 16 << 20
)

type blockKind uint8

const (
	blockHeader blockKind = iota + 1
	blockTable
	blockRows
	blockEnd
)

func (k blockKind) String() string {
	if k >= blockHeader && k <= blockEnd {
		return [...]string{"", "header", "table", "rows", "end"}[k]
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// streamHeader says what follows.
type streamHeader struct {
	Group       string `json:"group"`
	Participant string `json:"participant"`
	// Incarnation and Position are what the database had stored. What it is restored
	// as may be later: entries between do not change it.
	Incarnation uint64           `json:"incarnation"`
	Position    uint64           `json:"position"`
	Server      string           `json:"server"`
	Tables      []string         `json:"tables"`
	Sequences   []streamSequence `json:"sequences"`
}

type streamSequence struct {
	Table  string `json:"table"`
	Column string `json:"column"`
	Last   int64  `json:"last"`
	Called bool   `json:"called"`
}

type streamTable struct {
	Table   string   `json:"table"`
	Columns []string `json:"columns"`
}

type streamEnd struct {
	Tables int    `json:"tables"`
	Bytes  uint64 `json:"bytes"` // of rows
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// streamWriter writes blocks.
type streamWriter struct {
	w    io.Writer
	rows []byte
	end  streamEnd
}

func newStreamWriter(w io.Writer) (*streamWriter, error) {
	s := &streamWriter{w: w, rows: make([]byte, 0, blockBytes)}
	_, err := w.Write(binary.BigEndian.AppendUint32([]byte(streamMagic), streamVersion))
	return s, err
}

func (s *streamWriter) block(kind blockKind, payload []byte) error {
	frame := binary.BigEndian.AppendUint32([]byte{byte(kind)}, uint32(len(payload)))
	sum := crc32.Update(crc32.Checksum(frame, castagnoli), castagnoli, payload)
	for _, part := range [][]byte{frame, payload, binary.BigEndian.AppendUint32(nil, sum)} {
		if _, err := s.w.Write(part); err != nil {
			return err
		}
	}
	return nil
}

func (s *streamWriter) json(kind blockKind, v any) error {
	payload, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return s.block(kind, payload)
}

// Write takes rows of the table under way.
func (s *streamWriter) Write(p []byte) (int, error) {
	n := len(p)
	s.end.Bytes += uint64(n)
	for len(p) > 0 {
		room := min(len(p), blockBytes-len(s.rows))
		s.rows = append(s.rows, p[:room]...)
		p = p[room:]
		if len(s.rows) == blockBytes {
			if err := s.flush(); err != nil {
				return 0, err
			}
		}
	}
	return n, nil
}

func (s *streamWriter) flush() error {
	if len(s.rows) == 0 {
		return nil
	}
	err := s.block(blockRows, s.rows)
	s.rows = s.rows[:0]
	return err
}

func (s *streamWriter) finish() error { return s.json(blockEnd, s.end) }

// streamReader reads blocks.
type streamReader struct {
	r    *bufio.Reader
	rows []byte // of the table under way, not given yet
	buf  []byte
	// next is a block that was read and is not rows.
	next    blockKind
	payload []byte
	end     streamEnd
	failed  error
}

func newStreamReader(r io.Reader) (*streamReader, error) {
	s := &streamReader{r: bufio.NewReaderSize(r, blockBytes)}
	var head [len(streamMagic) + 4]byte
	if _, err := io.ReadFull(s.r, head[:]); err != nil {
		return nil, short(err)
	}
	if string(head[:len(streamMagic)]) != streamMagic {
		return nil, &StreamError{Detail: "it is not one"}
	}
	if v := binary.BigEndian.Uint32(head[len(streamMagic):]); v != streamVersion {
		return nil, &StreamError{Detail: fmt.Sprintf("it has format version %d, this release reads %d: use the release that wrote it or a newer one", v, streamVersion)}
	}
	return s, nil
}

// short makes an end where none should be an error that says so.
func short(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return &StreamError{Detail: "it ends too soon"}
	}
	return err
}

// read reads one block. Its payload is valid until the next.
func (s *streamReader) read() (blockKind, []byte, error) {
	var frame [5]byte
	if _, err := io.ReadFull(s.r, frame[:]); err != nil {
		return 0, nil, short(err)
	}
	kind, size := blockKind(frame[0]), binary.BigEndian.Uint32(frame[1:])
	if size > maxBlockBytes {
		return 0, nil, &StreamError{Detail: fmt.Sprintf("a block of %d bytes", size)}
	}
	if cap(s.buf) < int(size)+4 {
		s.buf = make([]byte, int(size)+4)
	}
	buf := s.buf[:int(size)+4]
	if _, err := io.ReadFull(s.r, buf); err != nil {
		return 0, nil, short(err)
	}
	payload := buf[:size]
	if crc32.Update(crc32.Checksum(frame[:], castagnoli), castagnoli, payload) != binary.BigEndian.Uint32(buf[size:]) {
		return 0, nil, &StreamError{Detail: "a checksum is wrong"}
	}
	return kind, payload, nil
}

// header reads the first block.
func (s *streamReader) header() (streamHeader, error) {
	var h streamHeader
	kind, payload, err := s.read()
	if err != nil {
		return h, err
	}
	if kind != blockHeader {
		return h, &StreamError{Detail: "it begins with " + kind.String()}
	}
	if err := json.Unmarshal(payload, &h); err != nil {
		return h, &StreamError{Detail: "its header: " + err.Error()}
	}
	return h, nil
}

// table moves to the next table; false at the end, which is checked.
func (s *streamReader) table() (streamTable, bool, error) {
	var t streamTable
	if s.failed != nil {
		return t, false, s.failed
	}
	if s.next == 0 {
		if err := s.advance(); err != nil {
			return t, false, err
		}
	}
	kind, payload := s.next, s.payload
	s.next = 0
	switch kind {
	case blockTable:
		if err := json.Unmarshal(payload, &t); err != nil {
			return t, false, &StreamError{Detail: "a table: " + err.Error()}
		}
		s.end.Tables++
		return t, true, nil
	case blockEnd:
		var end streamEnd
		if err := json.Unmarshal(payload, &end); err != nil {
			return t, false, &StreamError{Detail: "its end: " + err.Error()}
		}
		if end != s.end {
			return t, false, &StreamError{Detail: fmt.Sprintf("it has %d bytes of %d tables, its end says %d of %d", s.end.Bytes, s.end.Tables, end.Bytes, end.Tables)}
		}
		if _, err := s.r.ReadByte(); !errors.Is(err, io.EOF) {
			if err == nil {
				err = &StreamError{Detail: "it goes on after its end"}
			}
			return t, false, err
		}
		return t, false, nil
	}
	return t, false, &StreamError{Detail: kind.String() + " where a table should be"}
}

func (s *streamReader) advance() error {
	kind, payload, err := s.read()
	if err != nil {
		return err
	}
	s.next, s.payload = kind, payload
	return nil
}

// Read gives the rows of the table under way, and io.EOF at their end.
func (s *streamReader) Read(p []byte) (int, error) {
	for len(s.rows) == 0 {
		if s.failed != nil {
			return 0, s.failed
		}
		if s.next == 0 {
			if s.failed = s.advance(); s.failed != nil {
				return 0, s.failed
			}
		}
		if s.next != blockRows {
			return 0, io.EOF
		}
		s.rows, s.next = s.payload, 0
		s.end.Bytes += uint64(len(s.rows))
	}
	n := copy(p, s.rows)
	s.rows = s.rows[n:]
	return n, nil
}
