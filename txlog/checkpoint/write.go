package checkpoint

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/zstd"

	"github.com/cohort-tx/cohort/txlog/command"
)

const (
	tmpSuffix = ".tmp"
	// paceBytes is how much is written between two calls of Options.Pace.
	paceBytes = 64 << 10
	// syncBytes of a file are made durable at a time: at its end a large one would
	// keep the disk from everybody else.
	syncBytes = 4 << 20
	// windowBytes bounds what zstd refers back to, and with it a reader's memory.
	windowBytes = 1 << 20
)

// Options of a Writer.
type Options struct {
	// Pace, if not nil, is called with the uncompressed bytes written since its
	// last call, every so often; it may take its time.
	Pace func(bytes int)
}

// Writer writes one checkpoint.
type Writer struct {
	dir      string
	manifest Manifest
	options  Options
	open     *SectionWriter
	encoder  *zstd.Encoder
}

// Create begins a checkpoint that will be the directory dir, which must not
// exist. What an earlier try has left is removed.
func Create(dir string, m Manifest, o Options) (*Writer, error) {
	if _, err := os.Lstat(dir); err == nil {
		return nil, fmt.Errorf("checkpoint: %s exists", dir)
	}
	if err := removeAll(dir + tmpSuffix); err != nil {
		return nil, err
	}
	if err := mkdirAll(dir + tmpSuffix); err != nil {
		return nil, err
	}
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(windowBytes), zstd.WithEncoderCRC(true))
	if err != nil {
		return nil, err
	}
	m.Sections = nil
	return &Writer{dir: dir, manifest: m, options: o, encoder: encoder}, nil
}

// SectionWriter writes one section.
type SectionWriter struct {
	w      *Writer
	name   string
	file   *os.File
	buf    *bufio.Writer
	sum    hash.Hash
	size   *counter
	digest *command.SectionHash
	head   []byte
	since  int
	synced uint64
	last   []byte
	any    bool
}

type counter struct{ n uint64 }

func (c *counter) Write(p []byte) (int, error) {
	c.n += uint64(len(p))
	return len(p), nil
}

// Section begins the next section; the one before must be closed.
func (w *Writer) Section(name string) (*SectionWriter, error) {
	if w.open != nil {
		panic("checkpoint: invariant: one section is written at a time")
	}
	file, err := fileOf(name)
	if err != nil {
		return nil, err
	}
	f, err := createFile(filepath.Join(w.dir+tmpSuffix, file), os.O_EXCL)
	if err != nil {
		return nil, err
	}
	s := &SectionWriter{w: w, name: name, file: f, sum: sha256.New(), size: &counter{}, digest: command.NewSectionHash(name)}
	w.encoder.Reset(io.MultiWriter(f, s.sum, s.size))
	s.buf = bufio.NewWriterSize(w.encoder, 64<<10)
	w.open = s
	return s, nil
}

// Add writes the next record; keys ascend. What no reader would take is refused.
func (s *SectionWriter) Add(key, value []byte) error {
	if len(key) > maxKey || len(value) > maxValue {
		return fmt.Errorf("checkpoint: section %s: a record of %d and %d bytes; at most %d and %d", s.name, len(key), len(value), maxKey, maxValue)
	}
	if s.any && string(key) <= string(s.last) {
		return fmt.Errorf("checkpoint: section %s: key %.40q does not follow %.40q", s.name, key, s.last)
	}
	s.any, s.last = true, append(s.last[:0], key...)
	s.head = binary.AppendUvarint(s.head[:0], uint64(len(key)))
	s.head = binary.AppendUvarint(s.head, uint64(len(value)))
	s.head = append(s.head, key...)
	if _, err := s.buf.Write(s.head); err != nil {
		return err
	}
	if _, err := s.buf.Write(value); err != nil {
		return err
	}
	s.digest.Add(key, value)
	if s.since += len(s.head) + len(value); s.since >= paceBytes {
		if s.w.options.Pace != nil {
			s.w.options.Pace(s.since)
		}
		s.since = 0
		if s.size.n-s.synced >= syncBytes {
			s.synced = s.size.n
			return syncHandle(s.file)
		}
	}
	return nil
}

// Close completes the section, durably.
func (s *SectionWriter) Close() (command.Section, error) {
	s.w.open = nil
	err := errors.Join(s.buf.Flush(), s.w.encoder.Close(), syncHandle(s.file), s.file.Close())
	if err != nil {
		return command.Section{}, err
	}
	section := s.digest.Section()
	file, err := fileOf(s.name)
	if err != nil {
		return section, err
	}
	s.w.manifest.Sections = append(s.w.manifest.Sections, SectionFile{
		Name: s.name, File: file, FileBytes: s.size.n, FileSHA256: Digest(s.sum.Sum(nil)),
		Keys: section.Keys, Bytes: section.Bytes, Digest: section.Digest,
	})
	return section, nil
}

// AddState adds a captured state whose file is at path, whole and durable: the
// two share it where the file system can. What f says is not checked again.
func (w *Writer) AddState(path string, f SectionFile) error {
	if w.open != nil {
		panic("checkpoint: invariant: one section is written at a time")
	}
	file, err := fileOf(f.Name)
	if err != nil {
		return err
	}
	if err := linkOrCopy(path, filepath.Join(w.dir+tmpSuffix, file)); err != nil {
		return fmt.Errorf("checkpoint: section %s: %w", f.Name, err)
	}
	f.File = file
	w.manifest.Sections = append(w.manifest.Sections, f)
	return nil
}

// Finish gives the checkpoint its name.
func (w *Writer) Finish() (Manifest, error) {
	w.manifest.Format = w.manifest.format()
	w.manifest.Digest = command.CheckpointDigest(w.manifest.Summary())
	if err := w.manifest.check(); err != nil {
		return Manifest{}, fmt.Errorf("checkpoint: %w", err)
	}
	data, err := w.manifest.encode()
	if err != nil {
		return Manifest{}, err
	}
	if err := writeDurable(filepath.Join(w.dir+tmpSuffix, manifestFile), data); err != nil {
		return Manifest{}, err
	}
	return w.manifest, publish(w.dir)
}

// publish makes the temporary directory durable and gives it its name.
func publish(dir string) error {
	if err := syncPath(dir + tmpSuffix); err != nil {
		return err
	}
	if err := rename(dir+tmpSuffix, dir); err != nil {
		return err
	}
	return syncPath(filepath.Dir(dir))
}

// Abort gives the checkpoint up.
func (w *Writer) Abort() error {
	if w.open != nil {
		_ = w.open.file.Close()
	}
	return removeAll(w.dir + tmpSuffix)
}

func writeDurable(path string, data []byte) error {
	f, err := createFile(path, os.O_TRUNC)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, syncHandle(f), f.Close())
}

// syncFiles makes the files in dir durable.
func syncFiles(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := syncPath(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}
