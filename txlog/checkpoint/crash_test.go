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

var errStopped = errors.New("stopped here")

// onSteps makes f what runs before each step, until the returned function is
// called.
func onSteps(t testing.TB, f func(step, path string) error) (restore func()) {
	t.Helper()
	before := beforeStep
	restore = func() { beforeStep = before }
	t.Cleanup(restore)
	beforeStep = f
	return restore
}

// torn does half of a step that is not done at once.
func torn(step, path string) {
	entries, _ := os.ReadDir(path)
	switch info, err := os.Stat(path); {
	case err != nil:
	case step == "remove" && len(entries) > 0:
		_ = os.RemoveAll(filepath.Join(path, entries[len(entries)/2].Name()))
	case step == "overwrite":
		if f, err := os.OpenFile(path, os.O_WRONLY, 0); err == nil {
			_, _ = f.Write(make([]byte, info.Size()/2))
			_ = f.Close()
		}
	}
}

// interruptions runs do against a new directory once for each of its steps: with
// all steps from that one on not done, as when the process ends there, then with
// only that one failing. check is told whether do said that it succeeded.
func interruptions(t *testing.T, prepare func(parent string), do func(parent string) error, check func(t *testing.T, parent string, ended bool, err error)) {
	for _, ended := range []bool{true, false} {
		last := false
		for stop := 1; !last; stop++ {
			parent := t.TempDir()
			prepare(parent)
			steps, at := 0, ""
			restore := onSteps(t, func(step, path string) error {
				if steps++; steps < stop || steps > stop && !ended {
					return nil
				}
				if steps == stop {
					at = step + " " + filepath.Base(path)
					torn(step, path)
				}
				return errStopped
			})
			err := do(parent)
			restore()
			if last = at == ""; last {
				must(t, err)
				if stop < 3 {
					t.Fatalf("only %d steps", stop)
				}
				at = "nothing"
			} else if !errors.Is(err, errStopped) {
				t.Fatalf("stopped before %s: the error is %v", at, err)
			}
			t.Run(fmt.Sprintf("%d before %s, ended %v", stop, at, ended), func(t *testing.T) { check(t, parent, ended, err) })
		}
	}
}

// wantWholeOrTmp checks that everything in parent is a whole checkpoint or named
// as temporary, that Recover leaves the former alone, and gives their number.
func wantWholeOrTmp(t testing.TB, parent string) int {
	t.Helper()
	whole := 0
	for _, name := range names(t, parent) {
		if strings.HasSuffix(name, tmpSuffix) {
			continue
		}
		whole++
		wantContents(t, filepath.Join(parent, name), small())
	}
	numbers, err := Recover(parent)
	must(t, err)
	if len(numbers) != whole || len(names(t, parent)) != whole {
		t.Fatalf("Recover finds %v and leaves %v of %d", numbers, names(t, parent), whole)
	}
	return whole
}

// Would break: a crash while a checkpoint is written, at any step, leaves a part of
// one under its name, or something that keeps the next try from succeeding.
func TestWritingInterrupted(t *testing.T) {
	create := func(parent string) error {
		w, err := Create(filepath.Join(parent, DirName(7)), smallManifest(), Options{})
		if err != nil {
			return err
		}
		if _, err = fillAndFinish(w, small()); err != nil {
			return errors.Join(err, w.Abort())
		}
		return nil
	}
	interruptions(t, func(string) {}, create, func(t *testing.T, parent string, ended bool, err error) {
		if !ended && err != nil {
			for _, name := range names(t, parent) {
				if strings.HasSuffix(name, tmpSuffix) && !strings.Contains(t.Name(), "remove") {
					t.Errorf("Abort left %s", name)
				}
			}
		}
		if wantWholeOrTmp(t, parent) == 0 {
			must(t, create(parent))
			wantContents(t, filepath.Join(parent, DirName(7)), small())
		}
	})
}

// Would break: the same of an import.
func TestImportInterrupted(t *testing.T) {
	dir, _ := smallCheckpoint(t)
	data := export(t, dir)
	read := func(parent string) error {
		_, err := ReadExport(bytes.NewReader(data), filepath.Join(parent, DirName(7)), nil)
		return err
	}
	interruptions(t, func(string) {}, read, func(t *testing.T, parent string, _ bool, _ error) {
		if wantWholeOrTmp(t, parent) == 0 {
			must(t, read(parent))
			wantContents(t, filepath.Join(parent, DirName(7)), small())
		}
	})
}

// Would break: a checkpoint of which a crash has removed a part, under its name; or
// content that was to be erased and is only unlinked, as after a crash in between.
func TestRemovingInterrupted(t *testing.T) {
	for _, erase := range []bool{false, true} {
		links := t.TempDir()
		prepare := func(parent string) {
			dir := filepath.Join(parent, DirName(7))
			write(t, dir, smallManifest(), small(), Options{})
			must(t, os.RemoveAll(links))
			must(t, os.Mkdir(links, 0o755))
			for name := range files(t, dir) {
				must(t, os.Link(filepath.Join(dir, name), filepath.Join(links, name)))
			}
		}
		remove := func(parent string) error { return Remove(filepath.Join(parent, DirName(7)), erase) }
		for _, after := range []string{"Recover", "Remove"} {
			t.Run(fmt.Sprintf("erase %v, then %s", erase, after), func(t *testing.T) {
				interruptions(t, prepare, remove, func(t *testing.T, parent string, _ bool, _ error) {
					for _, name := range names(t, parent) {
						if !strings.HasSuffix(name, tmpSuffix) {
							wantContents(t, filepath.Join(parent, name), small())
						}
					}
					if after == "Recover" {
						_ = wantWholeOrTmp(t, parent)
					}
					must(t, remove(parent))
					if left := names(t, parent); len(left) != 0 {
						t.Fatalf("%v is left", left)
					}
					for name, data := range files(t, links) {
						if zeros := strings.Trim(data, "\x00") == ""; zeros != (erase || data == "") {
							t.Errorf("%s: overwritten is %v", name, zeros)
						}
					}
				})
			})
		}
	}
}

// Would break: a segment is dropped from the log whose copy in the archive is not
// whole.
func TestArchivingInterrupted(t *testing.T) {
	src := filepath.Join(t.TempDir(), "segment")
	must(t, os.WriteFile(src, []byte("content"), 0o644))
	dir, _ := smallCheckpoint(t)
	r, err := Open(dir)
	must(t, err)
	for what, archive := range map[string]func(parent string) error{
		"segment":    func(parent string) error { return ArchiveSegment(src, parent, 1, 9, checkContent) },
		"checkpoint": func(parent string) error { return ArchiveCheckpoint(r, parent) },
	} {
		t.Run(what, func(t *testing.T) {
			interruptions(t, func(string) {}, archive, func(t *testing.T, parent string, _ bool, _ error) {
				check := func() {
					t.Helper()
					for _, name := range names(t, parent) {
						path := filepath.Join(parent, name)
						switch filepath.Ext(name) {
						case ".zst":
							in, err := ReadArchived(path)
							must(t, err)
							must(t, errors.Join(checkContent(in), in.Close()))
						case ".tar":
							_, err := VerifyExport(path, nil)
							must(t, err)
						case tmpSuffix:
						default:
							t.Fatalf("what is %s?", name)
						}
					}
				}
				check()
				must(t, archive(parent))
				check()
				_, err := Recover(parent)
				must(t, err)
				if left := names(t, parent); len(left) != 1 || strings.HasSuffix(left[0], tmpSuffix) {
					t.Fatalf("there is %v", left)
				}
			})
		})
	}
}

func checkContent(in io.Reader) error {
	data, err := io.ReadAll(in)
	if err == nil && string(data) != "content" {
		err = fmt.Errorf("it is %q", data)
	}
	return err
}

// Would break: a power loss takes what a rename has promised. Every file and the
// directory are synced before it, and the directory above after it.
func TestSyncedBeforeRenamed(t *testing.T) {
	dir, _ := smallCheckpoint(t)
	data := export(t, dir)
	r, err := Open(dir)
	must(t, err)
	src := filepath.Join(t.TempDir(), "segment")
	must(t, os.WriteFile(src, []byte("content"), 0o644))
	for what, do := range map[string]func(parent string) error{
		"Finish": func(parent string) error {
			w, err := Create(filepath.Join(parent, "cp"), smallManifest(), Options{})
			must(t, err)
			_, err = fillAndFinish(w, small())
			return err
		},
		"ReadExport": func(parent string) error {
			_, err := ReadExport(bytes.NewReader(data), filepath.Join(parent, "cp"), nil)
			return err
		},
		"ArchiveSegment":    func(parent string) error { return ArchiveSegment(src, parent, 1, 9, checkContent) },
		"ArchiveCheckpoint": func(parent string) error { return ArchiveCheckpoint(r, parent) },
	} {
		parent := t.TempDir()
		var unsynced []string
		renamed := false
		restore := onSteps(t, func(step, path string) error {
			if !strings.HasPrefix(path, parent) {
				return nil
			}
			switch step {
			case "mkdir", "create":
				if path != parent {
					unsynced = append(unsynced, path)
				}
			case "sync":
				unsynced = slices.DeleteFunc(unsynced, func(p string) bool { return p == path })
			case "rename":
				if len(unsynced) > 0 {
					t.Errorf("%s: %v is not synced before it gets its name", what, unsynced)
				}
				renamed, unsynced = true, []string{parent}
			}
			return nil
		})
		must(t, do(parent))
		restore()
		if !renamed || len(unsynced) > 0 {
			t.Errorf("%s: renamed is %v, not synced %v", what, renamed, unsynced)
		}
	}
}

// Would break: what stands beside checkpoints goes when a node starts.
func TestRecoverKeepsWhatIsNotTemporary(t *testing.T) {
	parent := t.TempDir()
	for _, n := range []uint64{12, 3} {
		m := smallManifest()
		m.Number = n
		write(t, filepath.Join(parent, DirName(n)), m, small(), Options{})
	}
	for _, name := range []string{"cp-3", "cp-00000000000", "cp-0000000000", "notes", "cp-0000000005.tmp", "cp-0000000006.gone.tmp"} {
		must(t, os.MkdirAll(filepath.Join(parent, name, "x"), 0o755))
	}
	must(t, os.WriteFile(filepath.Join(parent, "cp-0000000009"), nil, 0o644))
	numbers, err := Recover(parent)
	must(t, err)
	want := "[cp-0000000000 cp-00000000000 cp-0000000003 cp-0000000009 cp-0000000012 cp-3 notes]"
	if got := fmt.Sprint(names(t, parent)); fmt.Sprint(numbers) != "[3 12]" || got != want {
		t.Fatalf("numbers %v, left %v", numbers, got)
	}
	if _, err := Recover(filepath.Join(parent, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("got %v", err)
	}
	must(t, Remove(filepath.Join(parent, "none"), true))
}

// Would break: erased content that is still on the disk.
func TestEraseOverwrites(t *testing.T) {
	for _, size := range []int{0, 1, eraseBytes - 1, eraseBytes, 2*eraseBytes + 5} {
		dir := t.TempDir()
		path, link := filepath.Join(dir, "file"), filepath.Join(dir, "link")
		must(t, os.WriteFile(path, bytes.Repeat([]byte("secret!"), size/7+1)[:size], 0o644))
		must(t, os.Link(path, link))
		must(t, Erase(path))
		data, err := os.ReadFile(link)
		must(t, err)
		if !bytes.Equal(data, make([]byte, size)) {
			t.Fatalf("of %d bytes, %d are there and not all are zero", size, len(data))
		}
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("the file is still there: %v", err)
		}
	}
}

// Would break: erasing a checkpoint destroys what a link in it points to.
func TestEraseFollowsNoLinks(t *testing.T) {
	dir, _ := smallCheckpoint(t)
	outside := filepath.Join(t.TempDir(), "outside")
	must(t, os.WriteFile(outside, []byte("content"), 0o644))
	must(t, os.Symlink(outside, filepath.Join(dir, "link")))
	must(t, os.Mkdir(filepath.Join(dir, "directory"), 0o755))
	must(t, Remove(dir, true))
	if data, err := os.ReadFile(outside); err != nil || string(data) != "content" {
		t.Fatalf("outside is %q, %v", data, err)
	}
	if left := names(t, filepath.Dir(dir)); len(left) != 0 {
		t.Fatalf("%v is left", left)
	}
}

// Would break: reading while a checkpoint is removed must end with an error, never
// with other content.
func TestReadingWhileRemoved(t *testing.T) {
	for _, erase := range []bool{false, true} {
		dir, _ := smallCheckpoint(t)
		r, err := Open(dir)
		must(t, err)
		s, err := r.Section("participant/orders")
		must(t, err)
		must(t, Remove(dir, erase))
		for err == nil {
			_, _, err = s.Next()
		}
		must(t, s.Close())
		if whole := errors.Is(err, io.EOF); erase && whole {
			t.Error("erased, and read as whole")
		}
		if err := r.Verify(context.Background(), nil); err == nil {
			t.Error("what is gone was verified")
		}
	}
}
