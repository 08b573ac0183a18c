package checkpoint

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// tinyExport is the export file of two short sections.
func tinyExport(t testing.TB) []byte {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "cp")
	write(t, dir, smallManifest(), []content{small()[0], {"participant/a", []record{{"k", "v"}}}}, Options{})
	return export(t, dir)
}

// Would break: an import that takes damage, or says nothing of where it is. Every
// byte of the export file is tried, through both ways in.
func TestFlippedByteInExportIsFound(t *testing.T) {
	t.Parallel()
	data := tinyExport(t)
	parent := t.TempDir()
	path := filepath.Join(parent, "x.tar")
	for i := range data {
		damaged := bytes.Clone(data)
		damaged[i] ^= 1 << (i % 8)
		into := filepath.Join(parent, "cp")
		_, err := ReadExport(bytes.NewReader(damaged), into, nil)
		if i%16 == 0 {
			must(t, os.WriteFile(path, damaged, 0o644))
			if _, again := VerifyExport(path, nil); fmt.Sprint(again) != fmt.Sprint(err) {
				t.Fatalf("byte %d: VerifyExport gives %v, ReadExport %v", i, again, err)
			}
			must(t, os.Remove(path))
		}
		var corrupt *CorruptError
		if !errors.As(err, &corrupt) && !errors.Is(err, ErrIncomplete) {
			t.Fatalf("byte %d: %v", i, err)
		}
		if corrupt != nil && !strings.HasPrefix(corrupt.File, exportName) {
			t.Fatalf("byte %d: it names the file %q", i, corrupt.File)
		}
		if left := names(t, parent); len(left) != 0 {
			t.Fatalf("byte %d: %v is left", i, left)
		}
	}
	// The content of a section is named.
	at := bytes.LastIndex(data, []byte("p-a.zst")) + tarBlock
	damaged := bytes.Clone(data)
	damaged[at+10] ^= 1
	_, err := ReadExport(bytes.NewReader(damaged), filepath.Join(parent, "cp"), nil)
	wantCorrupt(t, err, exportName, "participant/a", "a byte of a section")
}

// Would break: a download that broke off taken for damage or, worse, for all.
func TestExportCutOff(t *testing.T) {
	t.Parallel()
	data := tinyExport(t)
	parent := t.TempDir()
	for size := range data {
		_, err := ReadExport(bytes.NewReader(data[:size]), filepath.Join(parent, "cp"), nil)
		if !errors.Is(err, ErrIncomplete) {
			t.Fatalf("cut to %d of %d bytes: %v", size, len(data), err)
		}
		if left := names(t, parent); len(left) != 0 {
			t.Fatalf("cut to %d bytes: %v is left", size, left)
		}
	}
	_, err := ReadExport(bytes.NewReader(append(bytes.Clone(data), 0)), filepath.Join(parent, "cp"), nil)
	wantCorrupt(t, err, exportName, "", "a byte more")
}
