package checkpoint

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/klauspost/compress/zstd"

	"github.com/cohort-tx/cohort/txlog/command"
)

const (
	// maxKey and maxValue bound what a record may claim to hold: beyond anything
	// that the group's limits allow.
	maxKey   = 64 << 10
	maxValue = 128 << 20
	// growBytes is by how much a buffer grows beyond what was read into it.
	growBytes = 1 << 20
)

// Reader reads a checkpoint. It may be used by several goroutines at once.
type Reader struct {
	dir      string
	manifest Manifest
}

// Open reads a checkpoint's manifest. Errors: *CorruptError, *VersionError.
func Open(dir string) (*Reader, error) {
	m, err := readManifest(dir)
	if err != nil {
		return nil, err
	}
	return &Reader{dir: dir, manifest: m}, nil
}

// Manifest of the checkpoint.
func (r *Reader) Manifest() Manifest { return r.manifest }

// Path is where the file of a section is.
func (r *Reader) Path(f *SectionFile) string { return filepath.Join(r.dir, f.File) }

// SectionReader reads a section's records in order.
type SectionReader struct {
	file    *os.File
	path    string
	want    SectionFile
	sum     hash.Hash
	raw     io.Reader // the file, hashed as it is read
	decoder *zstd.Decoder
	in      *bufio.Reader
	digest  *command.SectionHash
	keys    uint64
	left    uint64 // of the bytes that the manifest promises
	key     []byte
	last    []byte // the key before
	value   []byte
	// state is nil but in a section of captured state.
	state *stateCheck
	// inspect takes the file's size and sum as they are.
	inspect bool
}

// Section opens a section.
func (r *Reader) Section(name string) (*SectionReader, error) {
	i := slices.IndexFunc(r.manifest.Sections, func(s SectionFile) bool { return s.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("checkpoint: there is no section %q", name)
	}
	return openSection(filepath.Join(r.dir, r.manifest.Sections[i].File), r.manifest.Sections[i])
}

func openSection(path string, want SectionFile) (*SectionReader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, &CorruptError{File: path, Section: want.Name, Detail: err.Error()}
	}
	s := &SectionReader{file: f, path: path, want: want, sum: sha256.New(), digest: command.NewSectionHash(want.Name), left: want.Bytes}
	if want.State != nil {
		s.state = newStateCheck(want.State.Bytes)
	}
	s.raw = io.TeeReader(f, s.sum)
	s.decoder, err = zstd.NewReader(s.raw, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(8*windowBytes), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	s.in = bufio.NewReaderSize(s.decoder, 256<<10)
	return s, nil
}

func (s *SectionReader) corrupt(format string, args ...any) error {
	return &CorruptError{File: s.path, Section: s.want.Name, Detail: fmt.Sprintf(format, args...)}
}

// Next gives the next record; it holds until the next call. io.EOF comes only
// when everything was as the manifest says.
func (s *SectionReader) Next() (key, value []byte, err error) {
	if s.keys == s.want.Keys {
		return nil, nil, s.end()
	}
	n, err := binary.ReadUvarint(s.in)
	if err != nil {
		return nil, nil, s.corrupt("it ends after %d of %d records: %v", s.keys, s.want.Keys, err)
	}
	m, err := binary.ReadUvarint(s.in)
	if err != nil {
		return nil, nil, s.corrupt("it ends after %d of %d records: %v", s.keys, s.want.Keys, err)
	}
	if n > maxKey || m > maxValue || n+m > s.left {
		return nil, nil, s.corrupt("record %d claims %d and %d bytes", s.keys+1, n, m)
	}
	s.left -= n + m
	s.last, s.key = s.key, s.last
	if s.key, err = s.fill(s.key, int(n)); err != nil {
		return nil, nil, s.corrupt("record %d: %v", s.keys+1, err)
	}
	// Also what bounds the number of records by the bytes promised.
	if s.keys > 0 && string(s.key) <= string(s.last) {
		return nil, nil, s.corrupt("record %d: its key does not follow the one before", s.keys+1)
	}
	if s.value, err = s.fill(s.value, int(m)); err != nil {
		return nil, nil, s.corrupt("record %d: %v", s.keys+1, err)
	}
	if s.state != nil {
		if err := s.state.add(s.key, s.value); err != nil {
			return nil, nil, s.corrupt("record %d: %v", s.keys+1, err)
		}
	}
	s.digest.Add(s.key, s.value)
	s.keys++
	return s.key, s.value, nil
}

// fill reads the next n bytes into b. Memory grows with what is there, not with
// what a length claims.
func (s *SectionReader) fill(b []byte, n int) ([]byte, error) {
	b = b[:0]
	for len(b) < n {
		at := len(b)
		b = slices.Grow(b, min(n-at, growBytes))[:min(n, at+growBytes)]
		if _, err := io.ReadFull(s.in, b[at:]); err != nil {
			return b, err
		}
	}
	return b, nil
}

// end checks what the manifest says of the whole.
func (s *SectionReader) end() error {
	if _, err := s.in.ReadByte(); err != io.EOF {
		return s.corrupt("more follows the %d records: %v", s.want.Keys, err)
	}
	// What zstd did not need of the file counts too.
	if _, err := io.Copy(io.Discard, s.raw); err != nil {
		return s.corrupt("%v", err)
	}
	info, err := s.file.Stat()
	if err != nil {
		return s.corrupt("%v", err)
	}
	got := s.digest.Section()
	if s.inspect {
		s.want.FileBytes, s.want.FileSHA256 = uint64(info.Size()), Digest(s.sum.Sum(nil))
	}
	switch {
	case uint64(info.Size()) != s.want.FileBytes:
		return s.corrupt("it has %d bytes, not %d", info.Size(), s.want.FileBytes)
	case Digest(s.sum.Sum(nil)) != s.want.FileSHA256:
		return s.corrupt("its SHA-256 is not that of the manifest")
	case got.Bytes != s.want.Bytes || got.Digest != s.want.Digest:
		return s.corrupt("its records are not those of the manifest")
	case s.state != nil && s.state.digest() != s.want.State.SHA256:
		return s.corrupt("the state's SHA-256 is not that of the manifest")
	}
	return io.EOF
}

// Close closes the file.
func (s *SectionReader) Close() error {
	s.decoder.Close()
	return s.file.Close()
}

// maxMetaBytes bounds the section meta where it is held in memory: a definition
// and a record for each participant take far less.
const maxMetaBytes = 64 << 20

// Meta reads the records of the section meta.
func (r *Reader) Meta() (map[string][]byte, error) {
	s, err := r.Section("meta")
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if s.want.Bytes > maxMetaBytes {
		return nil, s.corrupt("it has %d bytes; at most %d", s.want.Bytes, maxMetaBytes)
	}
	records := make(map[string][]byte)
	for {
		key, value, err := s.Next()
		if errors.Is(err, io.EOF) {
			return records, nil
		}
		if err != nil {
			return nil, err
		}
		records[string(key)] = bytes.Clone(value)
	}
}

// Verify reads everything. progress, if not nil, is told of the compressed bytes
// as they are read.
func (r *Reader) Verify(ctx context.Context, progress func(bytes int64)) error {
	expected := map[string]bool{manifestFile: true}
	for _, section := range r.manifest.Sections {
		expected[section.File] = true
		if err := r.verifySection(ctx, section, progress); err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return &CorruptError{File: r.dir, Detail: err.Error()}
	}
	for _, e := range entries {
		if !expected[e.Name()] {
			return &CorruptError{File: filepath.Join(r.dir, e.Name()), Detail: "it is not in the manifest"}
		}
	}
	return nil
}

func (r *Reader) verifySection(ctx context.Context, section SectionFile, progress func(bytes int64)) error {
	s, err := r.Section(section.Name)
	if err != nil {
		return err
	}
	if err := errors.Join(s.readThrough(ctx), s.Close()); err != nil {
		return err
	}
	if progress != nil {
		progress(int64(section.FileBytes))
	}
	return ctx.Err()
}

// readThrough reads all records.
func (s *SectionReader) readThrough(ctx context.Context) error {
	for {
		_, _, err := s.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if (s.keys%1024 == 0 || s.state != nil) && ctx.Err() != nil {
			return ctx.Err()
		}
	}
}
