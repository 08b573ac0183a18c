package checkpoint

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/cohort-tx/cohort/txlog/command"
)

// Would break: a manifest that makes the reader panic, or that it takes without
// being able to give it back.
func FuzzDecodeManifest(f *testing.F) {
	dir, _ := smallCheckpoint(f)
	data := []byte(files(f, dir)[manifestFile])
	body := data[:bytes.LastIndex(data, []byte(sumPrefix))]
	f.Add(body)
	f.Add(manifestJSON(f, func(m *Manifest) { m.Sections = nil }))
	f.Add([]byte(`{"format":2}` + "\n"))
	f.Add([]byte("null"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, data := range [][]byte{body, signed(string(body) + "\n")} {
			m, err := decodeManifest("path", data)
			if err != nil {
				var corrupt *CorruptError
				var version *VersionError
				if !errors.As(err, &corrupt) && !errors.As(err, &version) {
					t.Fatalf("got %v", err)
				}
				continue
			}
			for _, s := range m.Sections {
				if filepath.Base(s.File) != s.File || s.File == manifestFile {
					t.Fatalf("section %q has the file %q", s.Name, s.File)
				}
			}
			again, err := m.encode()
			must(t, err)
			if back, err := decodeManifest("path", again); err != nil || back.Digest != m.Digest || len(back.Sections) != len(m.Sections) {
				t.Fatalf("%+v reads back as %+v, %v", m, back, err)
			}
		}
	})
}

// Would break: an export file that makes an import panic, write beside its
// directory, or take what it would not write itself.
func FuzzUnpack(f *testing.F) {
	dir, m := smallCheckpoint(f)
	f.Add(export(f, dir))
	f.Add(sparseExport(f))
	f.Add(tarOf(f, entry{name: manifestFile, data: "{}"}))
	f.Add(tarOf(f, entry{name: manifestFile, data: files(f, dir)[manifestFile]}, entry{name: "../" + m.Sections[0].File}))
	f.Fuzz(func(t *testing.T, data []byte) {
		parent := t.TempDir()
		into := filepath.Join(parent, "cp")
		_, err := ReadExport(bytes.NewReader(data), into, nil)
		if err == nil {
			if !bytes.Equal(export(t, into), data) {
				t.Fatal("it makes another export file")
			}
			return
		}
		var corrupt *CorruptError
		var version *VersionError
		if !errors.As(err, &corrupt) && !errors.As(err, &version) && !errors.Is(err, ErrIncomplete) {
			t.Fatalf("got %v", err)
		}
		if left := names(t, parent); len(left) != 0 {
			t.Fatalf("%v is left", left)
		}
	})
}

// Would break: a section that makes a restore panic, or give more or other records
// than its manifest says. records are compressed, or taken as the file if raw.
func FuzzSectionReader(f *testing.F) {
	f.Add([]byte("\x01\x01kv"), uint64(1), uint64(2), false)
	f.Add([]byte("\x01\x01kv\x01\x00l"), uint64(2), uint64(3), false)
	f.Add([]byte("\x01\x01kv\x01\x00k"), uint64(2), uint64(3), false)
	f.Add([]byte("\x00\x00\x00\x00"), uint64(2), uint64(0), false)
	f.Add(head(1<<63, 1<<63), uint64(1), uint64(0), false)
	f.Add(head(1, 1<<20), uint64(1), uint64(1<<21), false)
	f.Add(compress(f, []byte("\x01\x01kv"), 1), uint64(1), uint64(2), true)
	f.Add(wideWindow(), uint64(1), uint64(1), true)
	f.Add([]byte{}, uint64(0), uint64(0), true)
	f.Fuzz(func(t *testing.T, records []byte, keys, size uint64, raw bool) {
		file := records
		if !raw {
			file = compress(t, records, 1)
		}
		dir := t.TempDir()
		must(t, os.WriteFile(filepath.Join(dir, "meta.zst"), file, 0o644))
		section := SectionFile{Name: "meta", File: "meta.zst", FileBytes: uint64(len(file)), FileSHA256: sha256.Sum256(file), Keys: keys, Bytes: size}
		if !raw {
			section.Digest = sha256.Sum256(records) // that of its records, if that is what they are
		}
		r := &Reader{dir: dir, manifest: Manifest{Sections: []SectionFile{section}}}
		s, err := r.Section("meta")
		must(t, err)
		digest := command.NewSectionHash("meta")
		var last []byte
		for err == nil {
			var key, value []byte
			if key, value, err = s.Next(); err != nil {
				break
			}
			if got := digest.Section(); got.Keys > 0 && bytes.Compare(key, last) <= 0 {
				t.Fatalf("key %x follows %x", key, last)
			}
			last = bytes.Clone(key)
			digest.Add(key, value)
		}
		must(t, s.Close())
		got := digest.Section()
		if got.Keys > keys || got.Bytes > size {
			t.Fatalf("%d records of %d bytes, promised were %d of %d", got.Keys, got.Bytes, keys, size)
		}
		var corrupt *CorruptError
		switch {
		case errors.Is(err, io.EOF):
			if got.Keys != keys || got.Bytes != size || Digest(got.Digest) != section.Digest {
				t.Fatalf("it ends well with %+v", got)
			}
		case !errors.As(err, &corrupt) || corrupt.Section != "meta":
			t.Fatalf("got %v", err)
		}
	})
}
