package checkpoint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

type record struct{ key, value string }

type content struct {
	section string
	records []record
}

// small is a checkpoint's content: a section of several records, one of a single
// record with an empty key and an empty value, one of none, and a long value.
func small() []content {
	return []content{
		{"meta", []record{{"", ""}}},
		{"outcomes", nil},
		{"participant/orders", []record{{"a", "1"}, {"a\x00", strings.Repeat("z", 300)}, {"b", ""}}},
	}
}

func smallManifest() Manifest {
	return Manifest{
		Group: "shop", Number: 7, Incarnation: 2, Position: 41, Index: 52,
		LogHash: Digest{1, 2, 3}, TimeUnixNano: 1_790_000_000_123_456_789, Node: "node-a",
	}
}

func write(t testing.TB, dir string, m Manifest, contents []content, o Options) Manifest {
	t.Helper()
	w, err := Create(dir, m, o)
	must(t, err)
	m, err = fillAndFinish(w, contents)
	must(t, err)
	return m
}

func fillAndFinish(w *Writer, contents []content) (Manifest, error) {
	for _, c := range contents {
		s, err := w.Section(c.section)
		if err != nil {
			return Manifest{}, err
		}
		for _, r := range c.records {
			if err := s.Add([]byte(r.key), []byte(r.value)); err != nil {
				return Manifest{}, err
			}
		}
		if _, err := s.Close(); err != nil {
			return Manifest{}, err
		}
	}
	return w.Finish()
}

// smallCheckpoint writes small into a new directory.
func smallCheckpoint(t testing.TB) (dir string, m Manifest) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), DirName(7))
	return dir, write(t, dir, smallManifest(), small(), Options{})
}

func readAll(dir string) (out []content, err error) {
	r, err := Open(dir)
	if err != nil {
		return nil, err
	}
	for _, section := range r.Manifest().Sections {
		c := content{section: section.Name}
		s, err := r.Section(section.Name)
		if err != nil {
			return nil, err
		}
		for {
			key, value, err := s.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return nil, errors.Join(err, s.Close())
			}
			c.records = append(c.records, record{string(key), string(value)})
		}
		if err := s.Close(); err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

func verify(dir string) error {
	r, err := Open(dir)
	if err != nil {
		return err
	}
	return r.Verify(context.Background(), nil)
}

func wantContents(t testing.TB, dir string, want []content) {
	t.Helper()
	must(t, verify(dir))
	got, err := readAll(dir)
	must(t, err)
	if !slices.EqualFunc(got, want, func(a, b content) bool {
		return a.section == b.section && slices.Equal(a.records, b.records)
	}) {
		t.Fatalf("read %v, want %v", got, want)
	}
}

func export(t testing.TB, dir string) []byte {
	t.Helper()
	r, err := Open(dir)
	must(t, err)
	var b bytes.Buffer
	must(t, WriteExport(&b, r))
	if int64(b.Len()) != ExportSize(r) {
		t.Fatalf("the export has %d bytes, ExportSize says %d", b.Len(), ExportSize(r))
	}
	return b.Bytes()
}

// files are the contents of a directory's files by their relative paths.
func files(t testing.TB, dir string) map[string]string {
	t.Helper()
	out := make(map[string]string)
	must(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		rel, _ := filepath.Rel(dir, path)
		out[rel] = string(data)
		return err
	}))
	return out
}

func names(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func wantCorrupt(t testing.TB, err error, file, section, what string) {
	t.Helper()
	var corrupt *CorruptError
	if !errors.As(err, &corrupt) {
		t.Fatalf("%s: got %v, want a *CorruptError", what, err)
	}
	if corrupt.File != file || corrupt.Section != section {
		t.Fatalf("%s: it names file %q and section %q, want %q and %q: %v", what, corrupt.File, corrupt.Section, file, section, err)
	}
}

// Would break: every restore, if what is read were not what was written, from the
// directory or from its export file.
func TestRoundTrip(t *testing.T) {
	dir, m := smallCheckpoint(t)
	wantContents(t, dir, small())
	r, err := Open(dir)
	must(t, err)
	if fmt.Sprint(r.Manifest()) != fmt.Sprint(m) {
		t.Fatalf("opened %v, want %v", r.Manifest(), m)
	}
	copied := filepath.Join(t.TempDir(), DirName(7))
	var progress int64
	got, err := ReadExport(bytes.NewReader(export(t, dir)), copied, func(n int64) { progress += n })
	must(t, err)
	if fmt.Sprint(got) != fmt.Sprint(m) || progress != int64(m.FileBytes()) {
		t.Fatalf("read %v with progress %d, want %v", got, progress, m)
	}
	wantContents(t, copied, small())
	if fmt.Sprint(files(t, copied)) != fmt.Sprint(files(t, dir)) {
		t.Fatal("the imported files are not the exported ones")
	}
	path := filepath.Join(t.TempDir(), "x.tar")
	must(t, os.WriteFile(path, export(t, dir), 0o644))
	for what, read := range map[string]func() (Manifest, error){
		"VerifyExport": func() (Manifest, error) { return VerifyExport(path, nil) },
		"PeekExport":   func() (Manifest, error) { return PeekExport(path) },
	} {
		if got, err := read(); err != nil || fmt.Sprint(got) != fmt.Sprint(m) {
			t.Fatalf("%s: %v, %v, want %v", what, got, err, m)
		}
	}
}

// Would break: replicas that compare their copies, and deduplicating backups.
func TestSameInputSameBytes(t *testing.T) {
	contents := append(small(), content{section: "participant/stock"})
	for i := range 5_000 {
		contents[3].records = append(contents[3].records, record{fmt.Sprintf("k%06d", i), strings.Repeat(fmt.Sprint(i), 30)})
	}
	a, b := filepath.Join(t.TempDir(), "cp"), filepath.Join(t.TempDir(), "cp")
	var paced int
	write(t, a, smallManifest(), contents, Options{})
	m := write(t, b, smallManifest(), contents, Options{Pace: func(n int) { paced += n }})
	if fmt.Sprint(files(t, a)) != fmt.Sprint(files(t, b)) {
		t.Fatal("two checkpoints of the same content differ")
	}
	if !bytes.Equal(export(t, a), export(t, b)) {
		t.Fatal("two exports of the same content differ")
	}
	if total := int(m.Sections[3].Bytes); paced < total-paceBytes || paced > total+16*5_000 {
		t.Fatalf("Pace was told of %d bytes of about %d", paced, total)
	}
}

// Would break: damage that nobody finds is restored. Every byte of every file is
// tried.
func TestFlippedByteIsFound(t *testing.T) {
	dir, m := smallCheckpoint(t)
	section := map[string]string{manifestFile: ""}
	for _, s := range m.Sections {
		section[s.File] = s.Name
	}
	for name, data := range files(t, dir) {
		path := filepath.Join(dir, name)
		for i := range data {
			damaged := []byte(data)
			damaged[i] ^= 1 << (i % 8)
			must(t, os.WriteFile(path, damaged, 0o644))
			wantCorrupt(t, verify(dir), path, section[name], fmt.Sprintf("%s with byte %d flipped", name, i))
		}
		for size := range len(data) {
			must(t, os.WriteFile(path, []byte(data[:size]), 0o644))
			wantCorrupt(t, verify(dir), path, section[name], fmt.Sprintf("%s cut to %d bytes", name, size))
		}
		must(t, os.WriteFile(path, []byte(data+"\x00"), 0o644))
		wantCorrupt(t, verify(dir), path, section[name], name+" with a byte more")
		must(t, os.WriteFile(path, []byte(data), 0o644))
	}
	wantContents(t, dir, small())
}

// Would break: an incomplete directory taken for a checkpoint, or a foreign file
// kept with it.
func TestExtraAndMissingFiles(t *testing.T) {
	dir, m := smallCheckpoint(t)
	section := map[string]string{manifestFile: ""}
	for _, s := range m.Sections {
		section[s.File] = s.Name
	}
	for name, data := range files(t, dir) {
		path := filepath.Join(dir, name)
		must(t, os.Remove(path))
		wantCorrupt(t, verify(dir), path, section[name], "without "+name)
		must(t, os.WriteFile(path, []byte(data), 0o644))
	}
	extra := filepath.Join(dir, "p-other.zst")
	must(t, os.WriteFile(extra, nil, 0o644))
	wantCorrupt(t, verify(dir), extra, "", "with a file more")
	must(t, os.Remove(extra))
	must(t, verify(dir))
}
