package checkpoint

import (
	"bytes"
	"path/filepath"
	"testing"
)

// Would break: the writer makes what the reader cannot use.
func TestWriterRefuses(t *testing.T) {
	parent := t.TempDir()
	w, err := Create(filepath.Join(parent, "cp"), smallManifest(), Options{})
	must(t, err)
	for _, name := range []string{"", "other", "participant/", "participant/../x", "participant/A", "participant/a/b", "meta.zst"} {
		if _, err := w.Section(name); err == nil {
			t.Errorf("section %q was begun", name)
		}
	}
	s, err := w.Section("meta")
	must(t, err)
	must(t, s.Add([]byte("b"), nil))
	for _, key := range []string{"", "a", "b", "aa"} {
		if s.Add([]byte(key), nil) == nil {
			t.Errorf("key %q was taken behind b", key)
		}
	}
	if s.Add(append([]byte("c"), make([]byte, maxKey)...), nil) == nil || s.Add([]byte("c"), make([]byte, maxValue+1)) == nil {
		t.Error("a record was taken that no reader takes")
	}
	must(t, s.Add([]byte("b\x00"), nil))
	_, err = s.Close()
	must(t, err)
	if _, err := w.Section("meta"); err == nil {
		t.Error("a section was begun twice")
	}
	must(t, w.Abort())
	if left := names(t, parent); len(left) != 0 {
		t.Errorf("Abort left %v", left)
	}
	for what, change := range map[string]func(*Manifest){
		"no number": func(m *Manifest) { m.Number = 0 },
		"no group":  func(m *Manifest) { m.Group = "" },
	} {
		m := smallManifest()
		change(&m)
		w, err := Create(filepath.Join(parent, "cp"), m, Options{})
		must(t, err)
		if _, err := w.Finish(); err == nil {
			t.Errorf("a checkpoint with %s was finished", what)
		}
		must(t, w.Abort())
	}
	write(t, filepath.Join(parent, "cp"), smallManifest(), small(), Options{})
	if _, err := Create(filepath.Join(parent, "cp"), smallManifest(), Options{}); err == nil {
		t.Error("a checkpoint was begun over another")
	}
	if _, err := ReadExport(bytes.NewReader(export(t, filepath.Join(parent, "cp"))), filepath.Join(parent, "cp"), nil); err == nil {
		t.Error("a checkpoint was imported over another")
	}
}
