package checkpoint

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"

	"github.com/cohort-tx/cohort/txlog/command"
)

// StateWriter writes the file of a captured state as the state comes in. What is
// in whole frames survives the writer: ResumeState goes on behind them. It is for
// one goroutine at a time.
type StateWriter struct {
	file    *os.File
	section string
	encoder *zstd.Encoder
	// piece is not a whole one yet; frame are the records of the next frame.
	piece, frame []byte
	framed       int // pieces in frame
	compressed   []byte

	sum     hash.Hash // of the state
	fileSum hash.Hash
	digest  *command.SectionHash
	bytes   uint64 // of the state, taken in
	pieces  uint64 // in whole
	written uint64 // bytes of the file
	synced  uint64 // of them, durable
	// framedBytes of the state are in written frames, durable of them on the disk.
	framedBytes, durable uint64
	// failed is why the file may not be what is above any more.
	failed error
}

// CreateState begins the file of a captured state. What is there is overwritten.
func CreateState(path, section string) (*StateWriter, error) {
	return openStateWriter(path, section, os.O_TRUNC)
}

// ResumeState goes on with a file that CreateState has begun: behind the last
// frame that is whole. Taken tells how much of the state that is.
func ResumeState(path, section string) (*StateWriter, error) {
	w, err := openStateWriter(path, section, 0)
	if err != nil {
		return nil, err
	}
	if err := w.resume(); err != nil {
		return nil, errors.Join(err, w.file.Close())
	}
	return w, nil
}

func openStateWriter(path, section string, mode int) (*StateWriter, error) {
	if _, err := fileOf(section); err != nil {
		return nil, err
	}
	f, err := createFile(path, mode)
	if err != nil {
		return nil, err
	}
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(windowBytes), zstd.WithEncoderCRC(true), zstd.WithZeroFrames(true))
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &StateWriter{file: f, section: section, encoder: encoder, sum: sha256.New(), fileSum: sha256.New(), digest: command.NewSectionHash(section)}, nil
}

// resume takes in the frames that are whole, and cuts off what follows.
func (w *StateWriter) resume() error {
	in, err := os.Open(w.file.Name())
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxFrameBytes), zstd.WithDecoderMaxWindow(8*windowBytes))
	if err != nil {
		return err
	}
	defer decoder.Close()
	var records []byte
	for at := int64(0); at < info.Size(); {
		f, err := frameAt(in, at, info.Size())
		if err != nil || f.end-at > 2*maxFrameBytes {
			break // it was not finished
		}
		w.compressed = append(w.compressed[:0], make([]byte, f.end-at)...)
		if _, err := in.ReadAt(w.compressed, at); err != nil {
			return err
		}
		if records, err = decoder.DecodeAll(w.compressed, records[:0]); err != nil || !w.takeFrame(records) {
			break
		}
		w.fileSum.Write(w.compressed)
		at = f.end
		w.written = uint64(at)
	}
	if err := w.file.Truncate(int64(w.written)); err != nil {
		return err
	}
	if _, err := w.file.Seek(int64(w.written), io.SeekStart); err != nil {
		return err
	}
	// It was written, and perhaps not synced.
	return w.Sync()
}

// takeFrame takes in the records of a frame that is written; false when it is not
// one of whole pieces only: the state may go on in another way.
func (w *StateWriter) takeFrame(records []byte) bool {
	n := len(records) / recordBytes
	if n == 0 || n*recordBytes != len(records) {
		return false
	}
	head := 0
	for i := range n {
		record := records[i*recordBytes : (i+1)*recordBytes]
		want := pieceHead(nil, w.pieces+uint64(i), pieceBytes)
		if head = len(want); string(record[:head]) != string(want) {
			return false
		}
	}
	for i := range n {
		record := records[i*recordBytes : (i+1)*recordBytes]
		w.sum.Write(record[head:])
		w.digest.Add(record[head-pieceKeyBytes:head], record[head:])
	}
	w.pieces += uint64(n)
	w.bytes += uint64(n) * pieceBytes
	w.framedBytes = w.bytes
	return true
}

// Taken is how many bytes of the state were taken in.
func (w *StateWriter) Taken() uint64 { return w.bytes }

// Durable is how many of them a crash leaves.
func (w *StateWriter) Durable() uint64 { return w.durable }

// Write takes the next bytes of the state.
func (w *StateWriter) Write(p []byte) (int, error) {
	if w.failed != nil {
		return 0, w.failed
	}
	if uint64(len(p)) > MaxStateBytes-w.bytes {
		return 0, fmt.Errorf("checkpoint: section %s: a state has at most %d bytes", w.section, uint64(MaxStateBytes))
	}
	w.sum.Write(p)
	for rest := p; len(rest) > 0; {
		n := min(len(rest), pieceBytes-len(w.piece))
		piece := rest[:n]
		if n < pieceBytes {
			w.piece = append(w.piece, piece...)
			piece = w.piece
		}
		rest = rest[n:]
		w.bytes += uint64(n)
		if len(piece) == pieceBytes {
			w.piece = w.piece[:0]
			if err := w.endPiece(piece); err != nil {
				return 0, err
			}
		}
	}
	return len(p), nil
}

func (w *StateWriter) endPiece(piece []byte) error {
	if w.frame == nil {
		w.frame = make([]byte, 0, maxFrameBytes)
	}
	from := len(w.frame)
	w.frame = pieceHead(w.frame, w.pieces, len(piece))
	w.digest.Add(w.frame[len(w.frame)-pieceKeyBytes:], piece)
	w.frame = append(w.frame, piece...)
	if len(piece) == pieceBytes && len(w.frame)-from != recordBytes {
		panic("checkpoint: invariant: a whole piece takes recordBytes")
	}
	w.pieces++
	w.framed++
	if w.framed < framePieces {
		return nil
	}
	return w.endFrame()
}

func (w *StateWriter) endFrame() error {
	w.compressed = w.encoder.EncodeAll(w.frame, w.compressed[:0])
	w.frame, w.framed = w.frame[:0], 0
	w.fileSum.Write(w.compressed)
	if _, err := w.file.Write(w.compressed); err != nil {
		w.failed = err
		return err
	}
	w.written += uint64(len(w.compressed))
	w.framedBytes = w.bytes - uint64(len(w.piece))
	if w.written-w.synced < syncBytes {
		return nil
	}
	return w.Sync()
}

// Sync makes durable what is in whole frames.
func (w *StateWriter) Sync() error {
	if w.failed == nil {
		w.failed = syncHandle(w.file)
	}
	if w.failed != nil {
		return w.failed
	}
	w.synced, w.durable = w.written, w.framedBytes
	return nil
}

// Park gives back what the writer takes of memory, until it is written to again:
// what it holds but less than a piece goes into the file, durably.
func (w *StateWriter) Park() error {
	if w.failed != nil {
		return w.failed
	}
	if w.framed > 0 {
		if err := w.endFrame(); err != nil {
			return err
		}
	}
	w.frame, w.compressed = nil, nil
	return w.Sync()
}

// Finish ends the state, as of position, durably. The file keeps its name.
func (w *StateWriter) Finish(position uint64) (SectionFile, error) {
	if w.failed != nil {
		return SectionFile{}, w.failed
	}
	if piece := w.piece; len(piece) > 0 {
		w.piece = nil
		if err := w.endPiece(piece); err != nil {
			return SectionFile{}, err
		}
	}
	if w.framed > 0 || w.written == 0 {
		if err := w.endFrame(); err != nil {
			return SectionFile{}, err
		}
	}
	if err := w.Sync(); err != nil {
		return SectionFile{}, err
	}
	section := w.digest.Section()
	return SectionFile{
		Name: section.Name, FileBytes: w.written, FileSHA256: Digest(w.fileSum.Sum(nil)),
		Keys: section.Keys, Bytes: section.Bytes, Digest: section.Digest,
		State: &State{Position: position, Bytes: w.bytes, SHA256: Digest(w.sum.Sum(nil))},
	}, nil
}

// Close closes the file and leaves it as it is.
func (w *StateWriter) Close() error {
	return errors.Join(w.encoder.Close(), w.file.Close())
}
