package checkpoint

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"time"
)

// An export file is a tar archive of the manifest and the section files in the
// manifest's order. Its bytes follow from the checkpoint alone, so that a reader
// who has taken it apart can tell whether any byte of it was another one.
const tarBlock = 512

// ExportSize is the size of a checkpoint's export file.
func ExportSize(r *Reader) int64 {
	data, err := r.manifest.encode()
	if err != nil {
		return 0
	}
	size := tarSize(int64(len(data))) + 2*tarBlock
	for _, s := range r.manifest.Sections {
		size += tarSize(int64(s.FileBytes))
	}
	return size
}

func tarSize(n int64) int64 { return tarBlock + (n+tarBlock-1)/tarBlock*tarBlock }

// WriteExport writes a checkpoint as one file.
func WriteExport(w io.Writer, r *Reader) error {
	out := tar.NewWriter(w)
	manifest, err := r.manifest.encode()
	if err != nil {
		return err
	}
	at := time.Unix(0, r.manifest.TimeUnixNano)
	if err := addBytes(out, manifestFile, manifest, at); err != nil {
		return err
	}
	for _, s := range r.manifest.Sections {
		if err := addFile(out, filepath.Join(r.dir, s.File), s, at); err != nil {
			return err
		}
	}
	return out.Close()
}

func tarHeader(name string, size int64, at time.Time) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: at.Truncate(time.Second), Format: tar.FormatGNU}
}

func addBytes(out *tar.Writer, name string, data []byte, at time.Time) error {
	if err := out.WriteHeader(tarHeader(name, int64(len(data)), at)); err != nil {
		return err
	}
	_, err := out.Write(data)
	return err
}

func addFile(out *tar.Writer, path string, s SectionFile, at time.Time) error {
	f, err := os.Open(path)
	if err != nil {
		return &CorruptError{File: path, Section: s.Name, Detail: err.Error()}
	}
	defer f.Close()
	if err := out.WriteHeader(tarHeader(s.File, int64(s.FileBytes), at)); err != nil {
		return err
	}
	if n, err := io.Copy(out, f); err != nil {
		return &CorruptError{File: path, Section: s.Name, Detail: fmt.Sprintf("after %d bytes: %v", n, err)}
	} else if uint64(n) != s.FileBytes {
		return &CorruptError{File: path, Section: s.Name, Detail: fmt.Sprintf("it has %d bytes, not %d", n, s.FileBytes)}
	}
	return nil
}

// hashedReader hashes what is read through it, and counts it. err is what its
// source failed with; that it was cut off is none.
type hashedReader struct {
	in  io.Reader
	sum hash.Hash
	n   int64
	err error
}

func (h *hashedReader) Read(p []byte) (int, error) {
	n, err := h.in.Read(p)
	h.sum.Write(p[:n])
	h.n += int64(n)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		h.err = err
	}
	return n, err
}

// ReadExport makes the directory dir, which must not exist, of an export file.
// Everything is verified before it gets its name. progress, if not nil, is told
// of the bytes as they are taken in. Errors: ErrIncomplete, *CorruptError,
// *VersionError, and those of in as they are.
func ReadExport(in io.Reader, dir string, progress func(bytes int64)) (Manifest, error) {
	if _, err := os.Lstat(dir); err == nil {
		return Manifest{}, fmt.Errorf("checkpoint: %s exists", dir)
	}
	if err := removeAll(dir + tmpSuffix); err != nil {
		return Manifest{}, err
	}
	if err := mkdirAll(dir + tmpSuffix); err != nil {
		return Manifest{}, err
	}
	m, err := unpack(in, dir+tmpSuffix, progress)
	if err == nil {
		err = syncFiles(dir + tmpSuffix)
	}
	if err == nil {
		err = publish(dir)
	}
	if err != nil {
		return Manifest{}, errors.Join(err, removeAll(dir+tmpSuffix))
	}
	return m, nil
}

// VerifyExport reads an export file without keeping anything of it. Errors: as
// ReadExport.
func VerifyExport(path string, progress func(bytes int64)) (Manifest, error) {
	f, err := os.Open(path)
	if err != nil {
		return Manifest{}, err
	}
	defer f.Close()
	dir, err := os.MkdirTemp("", "cohort-verify-")
	if err != nil {
		return Manifest{}, err
	}
	m, err := unpack(bufio.NewReaderSize(f, 1<<20), dir, progress)
	return m, errors.Join(err, os.RemoveAll(dir))
}

// PeekExport reads the manifest of an export file and nothing else.
func PeekExport(path string) (Manifest, error) {
	f, err := os.Open(path)
	if err != nil {
		return Manifest{}, err
	}
	defer f.Close()
	data, err := manifestPart(tar.NewReader(f))
	if err != nil {
		return Manifest{}, err
	}
	return decodeManifest(path, data)
}

// PeekMeta reads the manifest of an export file and the section meta, which is its
// first.
func PeekMeta(path string) (m Manifest, records map[string][]byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return m, nil, err
	}
	defer f.Close()
	dir, err := os.MkdirTemp("", "cohort-meta-")
	if err != nil {
		return m, nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	t := tar.NewReader(f)
	data, err := manifestPart(t)
	if err != nil {
		return m, nil, err
	}
	if m, err = decodeManifest(path, data); err != nil {
		return m, nil, err
	}
	if len(m.Sections) == 0 || m.Sections[0].Name != "meta" || m.Sections[0].FileBytes > maxMetaBytes {
		return m, nil, &CorruptError{File: path, Section: "meta", Detail: "it is not the first section, or too large"}
	}
	if err := unpackSection(t, dir, m.Sections[0]); err != nil {
		return m, nil, err
	}
	records, err = (&Reader{dir: dir, manifest: m}).Meta()
	return m, records, err
}

// exportName stands for the file in errors; whoever reads it knows its path.
const exportName = "export file"

// unpack takes an export file apart, and verifies all of it. It does not sync.
func unpack(in io.Reader, dir string, progress func(bytes int64)) (Manifest, error) {
	h := &hashedReader{in: in, sum: sha256.New()}
	m, err := unpackParts(tar.NewReader(h), dir, progress)
	if err == nil {
		err = unpackEnd(h, &Reader{dir: dir, manifest: m})
	}
	switch {
	case err == nil:
		return m, nil
	case h.err != nil: // no fault of the file
		return Manifest{}, h.err
	}
	return Manifest{}, err
}

func unpackParts(t *tar.Reader, dir string, progress func(bytes int64)) (Manifest, error) {
	data, err := manifestPart(t)
	if err != nil {
		return Manifest{}, err
	}
	m, err := decodeManifest(exportName+", "+manifestFile, data)
	if err != nil {
		return Manifest{}, err
	}
	if err := writeFile(filepath.Join(dir, manifestFile), data); err != nil {
		return Manifest{}, err
	}
	for _, s := range m.Sections {
		if err := unpackSection(t, dir, s); err != nil {
			return Manifest{}, err
		}
		if progress != nil {
			progress(int64(s.FileBytes))
		}
	}
	if _, err := t.Next(); err != io.EOF {
		return Manifest{}, partError("", errors.Join(err, errors.New("more follows the last section")))
	}
	return m, nil
}

// unpackEnd checks what came with the parts, and the whole.
func unpackEnd(h *hashedReader, r *Reader) error {
	// A tar reader is content without the end.
	if h.n < ExportSize(r) {
		return ErrIncomplete
	}
	if n, err := io.ReadFull(h, make([]byte, 1)); n != 0 {
		return &CorruptError{File: exportName, Detail: "more follows its end"}
	} else if err != io.EOF {
		return err
	}
	if err := r.Verify(context.Background(), nil); err != nil {
		if corrupt := (*CorruptError)(nil); errors.As(err, &corrupt) {
			// Where it was taken apart is of no use to anybody.
			return &CorruptError{File: exportName, Section: corrupt.Section, Detail: corrupt.Detail}
		}
		return err
	}
	again := sha256.New()
	if err := WriteExport(again, r); err != nil {
		return err
	}
	if string(again.Sum(nil)) != string(h.sum.Sum(nil)) {
		return &CorruptError{File: exportName, Detail: "a byte between its sections was changed"}
	}
	return nil
}

// plain says that an entry is a file of the size given in the dialect that
// WriteExport uses. Others know sparse files, of any size without any content.
func plain(h *tar.Header) bool { return h.Typeflag == tar.TypeReg && h.Format == tar.FormatGNU }

func manifestPart(t *tar.Reader) ([]byte, error) {
	header, err := t.Next()
	if err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, ErrIncomplete
		}
		return nil, &CorruptError{File: exportName, Detail: "it is no export file: " + err.Error()}
	}
	if header.Name != manifestFile || !plain(header) || header.Size > maxManifestBytes {
		return nil, &CorruptError{File: exportName, Detail: fmt.Sprintf("it is no export file: it begins with %.80q", header.Name)}
	}
	data, err := io.ReadAll(t)
	if err != nil {
		return nil, partError("", err)
	}
	return data, nil
}

func unpackSection(t *tar.Reader, dir string, s SectionFile) error {
	header, err := t.Next()
	if err != nil {
		return partError(s.Name, err)
	}
	if header.Name != s.File || !plain(header) || header.Size != int64(s.FileBytes) {
		return &CorruptError{File: exportName, Section: s.Name, Detail: fmt.Sprintf("%.80q with %d bytes is where %s with %d should be", header.Name, header.Size, s.File, s.FileBytes)}
	}
	f, err := createFile(filepath.Join(dir, s.File), os.O_EXCL)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, t)
	if err != nil {
		err = partError(s.Name, err)
	}
	return errors.Join(err, f.Close())
}

func writeFile(path string, data []byte) error {
	f, err := createFile(path, os.O_EXCL)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

func partError(section string, err error) error {
	var path *os.PathError
	switch {
	case errors.As(err, &path):
		return err // of writing, not of the file
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return ErrIncomplete
	}
	return &CorruptError{File: exportName, Section: section, Detail: err.Error()}
}
