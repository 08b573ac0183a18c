package checkpoint

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"

	"github.com/cohort-tx/cohort/txlog/command"
)

// A captured state is any stream of bytes. Its section holds it in pieces, each
// under its number, so that equal states have equal digests everywhere:
//
//	key    number u64, from 0
//	value  64 KiB, the last piece less, none empty
//
// The file is a row of Zstandard frames of framePieces pieces each: writing goes
// on after a crash, and reading begins, at any of them.
const (
	pieceBytes    = 64 << 10
	pieceKeyBytes = 8
	// recordBytes is what a whole piece takes, decompressed: 1 and 3 bytes of
	// lengths, key and value.
	recordBytes = 1 + 3 + pieceKeyBytes + pieceBytes
	// framePieces bounds what a writer holds in memory: 4 MiB.
	framePieces = 64
	frameBytes  = framePieces * pieceBytes
	// maxFrameBytes bounds what a frame may decompress to: a whole one.
	maxFrameBytes = framePieces * recordBytes

	// MaxStateBytes bounds a captured state: larger than what can be restored within
	// hours, and low enough to tell a size from garbage.
	MaxStateBytes = 1 << 40
)

// pieces is how many a state of so many bytes has.
func pieces(bytes uint64) uint64 { return (bytes + pieceBytes - 1) / pieceBytes }

// stateCheck checks the records of a section of captured state as they come.
type stateCheck struct {
	sum    hash.Hash
	number uint64
	left   uint64
}

func newStateCheck(bytes uint64) *stateCheck { return &stateCheck{sum: sha256.New(), left: bytes} }

func (c *stateCheck) add(key, value []byte) error {
	if err := checkPiece(key, value, c.number, min(c.left, pieceBytes)); err != nil {
		return err
	}
	c.number++
	c.left -= uint64(len(value))
	c.sum.Write(value)
	return nil
}

func (c *stateCheck) digest() Digest { return Digest(c.sum.Sum(nil)) }

func checkPiece(key, value []byte, number, size uint64) error {
	if len(key) != pieceKeyBytes || binary.BigEndian.Uint64(key) != number {
		return fmt.Errorf("its key is not that of piece %d", number)
	}
	if uint64(len(value)) != size || size == 0 {
		return fmt.Errorf("piece %d has %d bytes, not %d", number, len(value), size)
	}
	return nil
}

// InspectState reads the file of a captured state to its end, holds it against
// what is known of it, and gives what a manifest says of the file. What is wrong
// is a *CorruptError.
func InspectState(ctx context.Context, path string, section command.Section, state State) (SectionFile, error) {
	want := SectionFile{Name: section.Name, Keys: section.Keys, Bytes: section.Bytes, Digest: section.Digest, State: &state}
	if err := state.check(section.Keys, section.Bytes); err != nil {
		return SectionFile{}, &CorruptError{File: path, Section: section.Name, Detail: err.Error()}
	}
	s, err := openSection(path, want)
	if err != nil {
		return SectionFile{}, err
	}
	s.inspect = true
	err = errors.Join(s.readThrough(ctx), s.Close())
	return s.want, err
}

// StateReader reads a captured state. It checks the sums of the frames and the
// order of the pieces, not the sum over all: who reads checks that.
type StateReader struct {
	path    string
	section string
	file    *os.File
	in      *zstd.Decoder
	number  uint64 // of the next piece
	left    uint64 // bytes from there on
	head    [1 + 3 + pieceKeyBytes]byte
	piece   []byte
	rest    []byte // of piece, not given yet
}

// OpenState opens the file of a captured state of so many bytes, to be read from
// an offset on.
func OpenState(path, section string, size, offset uint64) (*StateReader, error) {
	if offset > size {
		return nil, fmt.Errorf("checkpoint: section %s: offset %d is behind its end, %d", section, offset, size)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	r := &StateReader{path: path, section: section, file: f, piece: make([]byte, pieceBytes)}
	if err := r.seek(size, offset); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return r, nil
}

// seek goes to the piece with the offset: over whole frames by their sizes, then
// by decompressing.
func (r *StateReader) seek(size, offset uint64) error {
	info, err := r.file.Stat()
	if err != nil {
		return err
	}
	r.number = offset / pieceBytes
	r.left = size - r.number*pieceBytes
	var at int64
	skip := r.number * recordBytes
	for skip > 0 {
		f, err := frameAt(r.file, at, info.Size())
		if err != nil {
			return r.corrupt("%v", err)
		}
		if !f.sized || f.content > skip {
			break
		}
		at, skip = f.end, skip-f.content
	}
	r.in, err = zstd.NewReader(io.NewSectionReader(r.file, at, info.Size()-at), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(8*windowBytes), zstd.WithDecoderLowmem(true))
	if err != nil {
		return err
	}
	if n, err := io.CopyN(io.Discard, r.in, int64(skip)); err != nil {
		r.in.Close()
		return r.corrupt("%d bytes are missing before piece %d: %v", int64(skip)-n, r.number, err)
	}
	if offset %= pieceBytes; offset > 0 {
		if err := r.next(); err != nil {
			r.in.Close()
			return err
		}
		r.rest = r.rest[offset:]
	}
	return nil
}

func (r *StateReader) corrupt(format string, args ...any) error {
	return &CorruptError{File: r.path, Section: r.section, Detail: fmt.Sprintf(format, args...)}
}

// next reads a piece.
func (r *StateReader) next() error {
	if r.left == 0 {
		if n, err := io.ReadFull(r.in, r.head[:1]); n > 0 || err != io.EOF {
			return r.corrupt("more follows its end: %v", err)
		}
		return io.EOF
	}
	size := int(min(r.left, pieceBytes))
	head := r.head[:1+len(binary.AppendUvarint(nil, uint64(size)))+pieceKeyBytes]
	if _, err := io.ReadFull(r.in, head); err != nil {
		return r.corrupt("it ends before piece %d: %v", r.number, err)
	}
	if !bytes.Equal(head, pieceHead(nil, r.number, size)) {
		return r.corrupt("what should be piece %d is not", r.number)
	}
	if _, err := io.ReadFull(r.in, r.piece[:size]); err != nil {
		return r.corrupt("it ends in piece %d: %v", r.number, err)
	}
	r.rest = r.piece[:size]
	r.left -= uint64(size)
	r.number++
	return nil
}

// pieceHead appends what stands before a piece's bytes.
func pieceHead(b []byte, number uint64, size int) []byte {
	b = binary.AppendUvarint(b, pieceKeyBytes)
	b = binary.AppendUvarint(b, uint64(size))
	return binary.BigEndian.AppendUint64(b, number)
}

// Read gives the state's bytes; damage is a *CorruptError.
func (r *StateReader) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		if err := r.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// Close closes the file.
func (r *StateReader) Close() error {
	r.in.Close()
	return r.file.Close()
}

// frame is a Zstandard frame in a file: its end, and the size of its content where
// it says it.
type frame struct {
	end     int64
	content uint64
	sized   bool
}

// frameAt finds the frame that begins at an offset, without decompressing it.
func frameAt(in io.ReaderAt, at, size int64) (frame, error) {
	var b [zstd.HeaderMaxSize]byte
	n, err := in.ReadAt(b[:min(int64(len(b)), size-at)], at)
	if err != nil && err != io.EOF {
		return frame{}, err
	}
	var h zstd.Header
	if err := h.Decode(b[:n]); err != nil {
		return frame{}, fmt.Errorf("no frame begins at byte %d: %w", at, err)
	}
	f := frame{end: at + int64(h.HeaderSize), content: h.FrameContentSize, sized: h.HasFCS}
	if h.Skippable {
		f.end, f.content, f.sized = f.end+int64(h.SkippableSize), 0, true
	}
	for last := h.Skippable; !last; {
		// A block's header: last, type and size.
		if n, err := in.ReadAt(b[:3], f.end); n < 3 {
			return frame{}, fmt.Errorf("the frame at byte %d ends early: %w", at, err)
		}
		v := uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16
		last = v&1 == 1
		f.end += 3 + int64(v>>3)
		switch kind := v >> 1 & 3; kind {
		case 1: // one byte, repeated
			f.end += 1 - int64(v>>3)
		case 3:
			return frame{}, fmt.Errorf("the frame at byte %d has a block that is none", at)
		}
	}
	if h.HasCheckSum {
		f.end += 4
	}
	if f.end > size {
		return frame{}, fmt.Errorf("the frame at byte %d ends early", at)
	}
	return f, nil
}
