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
	f.Add([]byte(`{"format":3}` + "\n"))
	f.Add(manifestJSON(f, func(m *Manifest) {
		m.Sections = []SectionFile{{Name: "state/stock", File: "s-stock.zst", Keys: 1, Bytes: 11, State: &State{Position: 1, Bytes: 3}}}
	}))
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

// Would break: a file of a captured state from another node, or what a crash has
// left of one, that makes a node panic, take memory without bound, or go on from
// bytes that were never in it.
func FuzzStateFile(f *testing.F) {
	dir := f.TempDir()
	whole, _ := stateFile(f, dir, stateOf(3*pieceBytes/2))
	data, err := os.ReadFile(whole)
	must(f, err)
	f.Add(data, uint64(3*pieceBytes/2), uint64(pieceBytes+1))
	f.Add(data[:len(data)-5], uint64(3*pieceBytes/2), uint64(0))
	f.Add(append(bytes.Clone(data), data...), uint64(3*pieceBytes), uint64(5))
	f.Add(compress(f, pieceHead(nil, 0, pieceBytes), 1), uint64(pieceBytes), uint64(0))
	f.Add(wideWindow(), uint64(100), uint64(50))
	f.Add([]byte{0x50, 0x2a, 0x4d, 0x18, 0xff, 0xff, 0xff, 0xff}, uint64(1), uint64(0))
	f.Fuzz(func(t *testing.T, data []byte, size, offset uint64) {
		path := filepath.Join(t.TempDir(), "s")
		must(t, os.WriteFile(path, data, 0o644))
		size %= 16 << 20
		if r, err := OpenState(path, "state/stock", size, offset); err == nil {
			n, err := io.Copy(io.Discard, r)
			if uint64(n) > size-offset || err == nil && uint64(n) != size-offset {
				t.Fatalf("%d bytes of %d from %d, %v", n, size, offset, err)
			}
			must(t, r.Close())
		}
		w, err := ResumeState(path, "state/stock")
		must(t, err)
		if w.Taken()%pieceBytes != 0 || w.Durable() != w.Taken() {
			t.Fatalf("it goes on at byte %d", w.Taken())
		}
		_, err = w.Write([]byte("end"))
		must(t, err)
		made, err := w.Finish(1)
		must(t, errors.Join(err, w.Close()))
		got, err := InspectState(t.Context(), path, made.Section(), *made.State)
		if err != nil || got.FileSHA256 != made.FileSHA256 || got.FileBytes != made.FileBytes {
			t.Fatalf("what was gone on with reads as %+v, %v; want %+v", got, err, made)
		}
	})
}
