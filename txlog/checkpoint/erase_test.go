package checkpoint

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// Would break: content that a crash saves from being overwritten, because the next
// start only unlinks it.
func TestEraseGoesOnAfterACrash(t *testing.T) {
	parent, kept := t.TempDir(), t.TempDir()
	links := map[string]bool{}
	for _, suffix := range []string{eraseSuffix, goneSuffix} {
		dir := filepath.Join(parent, DirName(1)+suffix)
		link := filepath.Join(kept, suffix)
		links[link] = suffix == eraseSuffix
		file := filepath.Join(dir, "p-a.zst")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte("secret"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Link(file, link); err != nil {
			t.Fatal(err)
		}
	}
	if numbers, err := Recover(parent); err != nil || len(numbers) > 0 {
		t.Fatal(numbers, err)
	}
	if left, err := os.ReadDir(parent); err != nil || len(left) > 0 {
		t.Fatal(left, err)
	}
	for link, erased := range links {
		data, err := os.ReadFile(link)
		if err != nil || bytes.Equal(data, make([]byte, len("secret"))) != erased {
			t.Errorf("%s: %q, %v", link, data, err)
		}
	}
}
