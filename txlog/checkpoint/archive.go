package checkpoint

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"

	"github.com/klauspost/compress/zstd"
)

// Archived is a closed segment of the log in the archive: the positions from
// First to Next-1.
type Archived struct {
	First, Next uint64
	Path        string
	Bytes       int64
}

var archivedPattern = regexp.MustCompile(`^(\d{20})-(\d{20})\.seg\.zst$`)

// ArchivedSegmentName is the file of the positions from first to next-1 in the
// archive.
func ArchivedSegmentName(first, next uint64) string {
	return fmt.Sprintf("%020d-%020d.seg.zst", first, next-1)
}

// ArchiveSegment puts a compressed copy of the closed segment src, which holds
// the positions from first to next-1, into dir. The copy is read back and given
// to check before it gets its name. One that is there already is left as it is.
func ArchiveSegment(src, dir string, first, next uint64, check func(io.Reader) error) error {
	path := filepath.Join(dir, ArchivedSegmentName(first, next))
	return archiveFile(path, func(w io.Writer) error {
		in, err := os.Open(src)
		if err != nil {
			return err
		}
		defer in.Close()
		sum := sha256.New()
		encoder, err := zstd.NewWriter(io.MultiWriter(w, sum), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(windowBytes), zstd.WithEncoderCRC(true))
		if err != nil {
			return err
		}
		if _, err := io.Copy(encoder, in); err != nil {
			return errors.Join(err, encoder.Close())
		}
		if err := encoder.Close(); err != nil {
			return err
		}
		_, err = w.Write(sum.Sum(slices.Clone(trailerHead)))
		return err
	}, func(tmp string) error {
		in, err := ReadArchived(tmp)
		if err != nil {
			return err
		}
		return errors.Join(check(in), in.Close())
	})
}

// ArchiveCheckpoint puts a checkpoint's export file into dir.
func ArchiveCheckpoint(r *Reader, dir string) error {
	path := filepath.Join(dir, ArchivedCheckpointName(r.manifest.Number))
	return archiveFile(path, func(w io.Writer) error { return WriteExport(w, r) }, func(tmp string) error {
		_, err := VerifyExport(tmp, nil)
		return err
	})
}

// ArchivedCheckpointName is the file of a checkpoint in the archive.
func ArchivedCheckpointName(number uint64) string { return DirName(number) + ".tar" }

// archiveFile writes a file under a temporary name, verifies it, and gives it its
// name, durably.
func archiveFile(path string, write func(io.Writer) error, verify func(tmp string) error) error {
	dir := filepath.Dir(path)
	if _, err := os.Lstat(path); err == nil {
		// A crash may have come between the rename and the sync of the directory.
		return syncPath(dir)
	}
	if err := makeDirs(dir); err != nil {
		return err
	}
	tmp := path + tmpSuffix
	f, err := createFile(tmp, os.O_TRUNC)
	if err != nil {
		return err
	}
	buf := bufio.NewWriterSize(f, 256<<10)
	err = write(buf)
	if err = errors.Join(err, buf.Flush(), syncHandle(f), f.Close()); err == nil {
		err = verify(tmp)
	}
	if err == nil {
		err = rename(tmp, path)
	}
	if err != nil {
		return errors.Join(err, removeFile(tmp))
	}
	return syncPath(dir)
}

// makeDirs is os.MkdirAll that is durable: what is archived is removed elsewhere.
func makeDirs(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := makeDirs(parent); err != nil {
			return err
		}
	}
	if err := mkdirAll(dir); err != nil {
		return err
	}
	return syncPath(parent)
}

// An archived segment ends in a frame that zstd skips: its head, and the SHA-256
// of all before it.
var trailerHead = []byte{0x50, 0x2a, 0x4d, 0x18, sha256.Size, 0, 0, 0}

// checkTrailer hashes an archived segment's file.
func checkTrailer(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	size := info.Size() - int64(len(trailerHead)+sha256.Size)
	if size < 0 {
		return &CorruptError{File: f.Name(), Detail: "it ends too early"}
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(f, 0, size)); err != nil {
		return err
	}
	trailer := make([]byte, len(trailerHead)+sha256.Size)
	if _, err := f.ReadAt(trailer, size); err != nil {
		return err
	}
	if string(trailer) != string(sum.Sum(slices.Clone(trailerHead))) {
		return &CorruptError{File: f.Name(), Detail: "its SHA-256 is not the one at its end"}
	}
	return nil
}

// archivedReader decompresses a segment.
type archivedReader struct {
	path    string
	file    *os.File
	decoder *zstd.Decoder
}

// ReadArchived reads an archived segment as the segment was, after it has checked
// the whole file. Damage is a *CorruptError.
func ReadArchived(path string) (io.ReadCloser, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := checkTrailer(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	decoder, err := zstd.NewReader(f, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(8*windowBytes), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &archivedReader{path: path, file: f, decoder: decoder}, nil
}

func (r *archivedReader) Read(p []byte) (int, error) {
	n, err := r.decoder.Read(p)
	if err != nil && err != io.EOF {
		err = &CorruptError{File: r.path, Detail: err.Error()}
	}
	return n, err
}

func (r *archivedReader) Close() error {
	r.decoder.Close()
	return r.file.Close()
}

// ListArchive lists the segments in dir by their first positions; none when dir
// is not there.
func ListArchive(dir string) ([]Archived, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil, nil
		}
		return nil, err
	}
	var out []Archived
	for _, e := range entries {
		match := archivedPattern.FindStringSubmatch(e.Name())
		if match == nil || !e.Type().IsRegular() {
			continue
		}
		first, err1 := strconv.ParseUint(match[1], 10, 64)
		last, err2 := strconv.ParseUint(match[2], 10, 64)
		info, err3 := e.Info()
		if errors.Join(err1, err2) != nil || last < first || last == math.MaxUint64 {
			continue
		}
		if err3 != nil {
			return nil, err3
		}
		out = append(out, Archived{First: first, Next: last + 1, Path: filepath.Join(dir, e.Name()), Bytes: info.Size()})
	}
	slices.SortFunc(out, func(a, b Archived) int {
		if a.First < b.First {
			return -1
		}
		return 1
	})
	return out, nil
}
