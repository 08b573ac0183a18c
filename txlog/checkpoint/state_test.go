package checkpoint

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

// stateOf is a state of n bytes that compresses a little, and of which no two
// pieces are equal.
func stateOf(n int) []byte {
	b := make([]byte, 0, n+32)
	for i := uint64(0); len(b) < n; i++ {
		b = binary.BigEndian.AppendUint64(b, i*0x9e3779b97f4a7c15)
		b = append(b, "a state's "...)
	}
	return b[:n]
}

// stateFile writes a state's file.
func stateFile(t testing.TB, dir string, state []byte) (path string, f SectionFile) {
	t.Helper()
	path = filepath.Join(dir, "stock.state")
	w, err := CreateState(path, StateSection("stock"))
	must(t, err)
	_, err = w.Write(state)
	must(t, err)
	f, err = w.Finish(40)
	must(t, errors.Join(err, w.Close()))
	return path, f
}

func readState(path string, size, offset int) ([]byte, error) {
	r, err := OpenState(path, StateSection("stock"), uint64(size), uint64(offset))
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(r)
	return data, errors.Join(err, r.Close())
}

// stateSizes are those at the edges of pieces and frames.
var stateSizes = []int{0, 1, pieceBytes - 1, pieceBytes, pieceBytes + 1, frameBytes, frameBytes + 1, 2*frameBytes + 3*pieceBytes/2}

// Would break: every restore of a participant's own state, if what is read, from
// any offset, were not what was captured.
func TestStateRoundTrip(t *testing.T) {
	for _, size := range stateSizes {
		state := stateOf(size)
		path, f := stateFile(t, t.TempDir(), state)
		if f.State.Bytes != uint64(size) || f.State.SHA256 != sha256.Sum256(state) || f.State.Position != 40 || f.Name != "state/stock" {
			t.Fatalf("%d bytes: %+v of %+v", size, f.State, f)
		}
		got, err := InspectState(t.Context(), path, f.Section(), *f.State)
		must(t, err)
		if got.FileBytes != f.FileBytes || got.FileSHA256 != f.FileSHA256 {
			t.Fatalf("%d bytes: the file is %+v, written as %+v", size, got, f)
		}
		for _, offset := range []int{0, 1, pieceBytes - 1, pieceBytes, frameBytes - 1, frameBytes, frameBytes + 5, 2*frameBytes + pieceBytes, size - 1, size} {
			if offset < 0 || offset > size {
				continue
			}
			data, err := readState(path, size, offset)
			if err != nil || !bytes.Equal(data, state[offset:]) {
				t.Fatalf("%d bytes from %d on: %d were read, %v", size, offset, len(data), err)
			}
		}
		if _, err := readState(path, size, size+1); err == nil {
			t.Fatalf("%d bytes: read from behind the end", size)
		}
	}
}

// Would break: the digest of a state depends on how it came, and replicas that hold
// the same one take each other's for damaged.
func TestStateDigestDoesNotDependOnItsWay(t *testing.T) {
	state := stateOf(frameBytes + 5*pieceBytes + 17)
	_, want := stateFile(t, t.TempDir(), state)
	for what, split := range map[string]func(io.Reader) io.Reader{
		"halves": iotest.HalfReader,
		"parked": func(r io.Reader) io.Reader { return r },
	} {
		path := filepath.Join(t.TempDir(), "s")
		w, err := CreateState(path, StateSection("stock"))
		must(t, err)
		in := split(bytes.NewReader(state))
		for buf := make([]byte, 100_000); ; {
			n, err := in.Read(buf)
			if err == io.EOF {
				break
			}
			must(t, err)
			_, err = w.Write(buf[:n])
			must(t, err)
			if what == "parked" {
				must(t, w.Park())
			}
		}
		f, err := w.Finish(40)
		must(t, errors.Join(err, w.Close()))
		if f.Section() != want.Section() || *f.State != *want.State {
			t.Errorf("%s: %+v, want %+v", what, f, want)
		}
		data, err := readState(path, len(state), 3*pieceBytes+1)
		if err != nil || !bytes.Equal(data, state[3*pieceBytes+1:]) {
			t.Errorf("%s: read %d bytes, %v", what, len(data), err)
		}
	}
}

// Would break: an upload that goes on after a crash of its node makes another state
// of it; and one that promises more than the disk has.
func TestStateWritingInterrupted(t *testing.T) {
	state := stateOf(2*frameBytes + pieceBytes + 100)
	var durable uint64
	write := func(parent string) error {
		durable = 0
		w, err := CreateState(filepath.Join(parent, "s"), StateSection("stock"))
		if err != nil {
			return err
		}
		for at := 0; err == nil && at < len(state); at += 1 << 20 {
			_, err = w.Write(state[at:min(at+1<<20, len(state))])
			durable = w.Durable()
		}
		if err == nil {
			err = w.Park()
			durable = w.Durable()
		}
		if err == nil {
			_, err = w.Finish(40)
		}
		return errors.Join(err, w.Close())
	}
	_, want := stateFile(t, t.TempDir(), state)
	interruptions(t, func(string) {}, write, func(t *testing.T, parent string, _ bool, _ error) {
		path := filepath.Join(parent, "s")
		promised := durable
		// What a crash leaves behind the durable part: nothing, or anything.
		for _, tail := range []string{"", "torn", strings.Repeat("\x00", 1000)} {
			f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
			must(t, err)
			_, err = f.WriteString(tail)
			must(t, errors.Join(err, f.Close()))
			w, err := ResumeState(path, StateSection("stock"))
			must(t, err)
			if w.Taken() < promised || w.Taken()%pieceBytes != 0 || w.Taken() > uint64(len(state)) {
				t.Fatalf("with the tail %q it goes on at %d, and %d were promised", tail, w.Taken(), promised)
			}
			_, err = w.Write(state[w.Taken():])
			must(t, err)
			got, err := w.Finish(40)
			must(t, errors.Join(err, w.Close()))
			if got.Section() != want.Section() || *got.State != *want.State {
				t.Fatalf("gone on with: %+v, want %+v", got, want)
			}
			again, err := InspectState(t.Context(), path, got.Section(), *got.State)
			if err != nil || again.FileSHA256 != got.FileSHA256 {
				t.Fatalf("%+v, %v", again, err)
			}
			promised = uint64(len(state)) / pieceBytes * pieceBytes / frameBytes * frameBytes
		}
	})
}

// Would break: damage of a captured state that is handed out or passed on as whole.
func TestDamagedStateIsFound(t *testing.T) {
	const size = 3 * pieceBytes / 2
	state := stateOf(size)
	path, f := stateFile(t, t.TempDir(), state)
	data, err := os.ReadFile(path)
	must(t, err)
	hurt := filepath.Join(t.TempDir(), "hurt")
	for at := 0; at < len(data); at += len(data)/40 + 1 {
		for what, changed := range map[string][]byte{
			"flipped": slices.Concat(data[:at], []byte{data[at] ^ 4}, data[at+1:]),
			"cut off": data[:at],
			"twice":   slices.Concat(data, data[:at+1]),
		} {
			must(t, os.WriteFile(hurt, changed, 0o644))
			_, err := InspectState(t.Context(), hurt, f.Section(), *f.State)
			// Nothing says how the frames are laid out, so that a changed header may pass
			// here; the file's own sum, in the manifest, is there for it.
			if err == nil {
				if got, _ := InspectState(t.Context(), hurt, f.Section(), *f.State); got.FileSHA256 == f.FileSHA256 {
					t.Fatalf("byte %d %s: whole", at, what)
				}
				continue
			}
			wantCorrupt(t, err, hurt, f.Name, fmt.Sprint(what, " at ", at))
			got, err := readState(hurt, size, 0)
			if err == nil && !bytes.Equal(got, state) {
				t.Fatalf("byte %d %s: another state was read", at, what)
			}
		}
	}
	for what, change := range map[string]func(s *State){
		"another sum":  func(s *State) { s.SHA256[0] ^= 1 },
		"another size": func(s *State) { s.Bytes-- },
	} {
		wrong := *f.State
		change(&wrong)
		_, err := InspectState(t.Context(), path, f.Section(), wrong)
		wantCorrupt(t, err, path, f.Name, what)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := InspectState(ctx, path, f.Section(), *f.State); !errors.Is(err, context.Canceled) {
		t.Fatalf("it cannot be stopped: %v", err)
	}
}

// withState is small, and a captured state.
func withState(state []byte) []content {
	c := content{section: StateSection("stock")}
	for i := 0; i*pieceBytes < len(state); i++ {
		c.records = append(c.records, record{string(binary.BigEndian.AppendUint64(nil, uint64(i))), string(state[i*pieceBytes : min((i+1)*pieceBytes, len(state))])})
	}
	return append(small(), c)
}

// createWithState writes a checkpoint of small and the state in path.
func createWithState(dir, path string, f SectionFile) error {
	w, err := Create(dir, smallManifest(), Options{})
	if err != nil {
		return err
	}
	for _, c := range small() {
		s, err := w.Section(c.section)
		for _, r := range c.records {
			if err == nil {
				err = s.Add([]byte(r.key), []byte(r.value))
			}
		}
		if err == nil {
			_, err = s.Close()
		}
		if err != nil {
			return errors.Join(err, w.Abort())
		}
	}
	if err := w.AddState(path, f); err != nil {
		return errors.Join(err, w.Abort())
	}
	if _, err := w.Finish(); err != nil {
		return errors.Join(err, w.Abort())
	}
	return nil
}

// Would break: checkpoints of participants with state of their own, as directories
// or as export files, and the reading of them by releases that know none.
func TestCheckpointWithState(t *testing.T) {
	for _, size := range stateSizes {
		state := stateOf(size)
		parent := t.TempDir()
		path, f := stateFile(t, parent, state)
		dir := filepath.Join(parent, DirName(7))
		must(t, createWithState(dir, path, f))
		must(t, os.Remove(path))
		wantContents(t, dir, withState(state))
		r, err := Open(dir)
		must(t, err)
		m := r.Manifest()
		if m.Format != Format || *m.Sections[3].State != *f.State {
			t.Fatalf("format %d, %+v", m.Format, m.Sections[3])
		}
		copied := filepath.Join(t.TempDir(), DirName(7))
		_, err = ReadExport(bytes.NewReader(export(t, dir)), copied, nil)
		must(t, err)
		wantContents(t, copied, withState(state))
		data, err := readState(filepath.Join(copied, "s-stock.zst"), size, 0)
		if err != nil || !bytes.Equal(data, state) {
			t.Fatalf("%d bytes: %d were read back, %v", size, len(data), err)
		}
	}
	if _, m := smallCheckpoint(t); m.Format != formatPlain {
		t.Errorf("a checkpoint without captured states has format %d, which older releases refuse", m.Format)
	}
}

// Would break: a crash while a checkpoint with a captured state is written leaves a
// part of it under its name, or takes the captured state with it.
func TestWritingWithStateInterrupted(t *testing.T) {
	state := stateOf(pieceBytes + 5)
	path, f := stateFile(t, t.TempDir(), state)
	create := func(parent string) error { return createWithState(filepath.Join(parent, DirName(7)), path, f) }
	check := func(t *testing.T, parent string, _ bool, _ error) {
		for range 2 {
			numbers, err := Recover(parent)
			must(t, err)
			if len(numbers) == 1 {
				break
			}
			must(t, create(parent))
		}
		wantContents(t, filepath.Join(parent, DirName(7)), withState(state))
		_, err := InspectState(t.Context(), path, f.Section(), *f.State)
		must(t, err)
	}
	interruptions(t, func(string) {}, create, check)
}

// Would break: erasing one checkpoint destroys the state that a newer one shares
// with it; or the last that refers to it leaves it on the disk.
func TestSharedStateIsErasedLast(t *testing.T) {
	state := stateOf(100)
	prepare := func(parent string) {
		path, f := stateFile(t, parent, state)
		must(t, createWithState(filepath.Join(parent, "cp-a"), path, f))
		must(t, createWithState(filepath.Join(parent, "cp-b"), path, f))
		must(t, os.Remove(path))
	}
	remove := func(parent string) error { return Remove(filepath.Join(parent, "cp-a"), true) }
	interruptions(t, prepare, remove, func(t *testing.T, parent string, _ bool, _ error) {
		wantContents(t, filepath.Join(parent, "cp-b"), withState(state))
		_, err := Recover(parent)
		must(t, err)
		must(t, remove(parent))
		wantContents(t, filepath.Join(parent, "cp-b"), withState(state))
		open, err := os.Open(filepath.Join(parent, "cp-b", "s-stock.zst"))
		must(t, err)
		defer open.Close()
		must(t, Remove(filepath.Join(parent, "cp-b"), true))
		data, err := io.ReadAll(open)
		if err != nil || len(data) == 0 || strings.Trim(string(data), "\x00") != "" {
			t.Fatalf("%d bytes are left, not all zero, %v", len(data), err)
		}
		if left := names(t, parent); len(left) != 0 {
			t.Fatalf("%v is left", left)
		}
	})
}

// Would break: a restore of a state that takes longer than the disk needs.
func BenchmarkReadState(b *testing.B) {
	const size = 64 << 20
	path, _ := stateFile(b, b.TempDir(), stateOf(size))
	b.SetBytes(size)
	for b.Loop() {
		r, err := OpenState(path, StateSection("stock"), size, 0)
		must(b, err)
		_, err = io.Copy(io.Discard, r)
		must(b, errors.Join(err, r.Close()))
	}
}

func BenchmarkWriteState(b *testing.B) {
	const size = 64 << 20
	dir, state := b.TempDir(), stateOf(size)
	b.SetBytes(size)
	for b.Loop() {
		_, _ = stateFile(b, dir, state)
	}
}

func BenchmarkInspectState(b *testing.B) {
	const size = 64 << 20
	path, f := stateFile(b, b.TempDir(), stateOf(size))
	b.SetBytes(size)
	for b.Loop() {
		_, err := InspectState(b.Context(), path, f.Section(), *f.State)
		must(b, err)
	}
}

// Would break: a crash while a captured state gets its name, or is shared with a
// checkpoint, leaves a part of it under its name, or keeps the next try from it.
func TestKeepingStatesInterrupted(t *testing.T) {
	state := stateOf(pieceBytes + 7)
	source, f := stateFile(t, t.TempDir(), state)
	data, err := os.ReadFile(source)
	must(t, err)
	id := StateID{Participant: "stock", Position: 40, Digest: f.Digest}
	upload := UploadID{Participant: "stock", Checkpoint: 7, Position: 40, Epoch: 3}
	for what, keep := range map[string]func(parent string) error{
		"named":  func(parent string) error { return StoreState(parent, upload.PartName(), id) },
		"shared": func(parent string) error { return ShareState(source, parent, id) },
	} {
		t.Run(what, func(t *testing.T) {
			prepare := func(parent string) {
				must(t, os.WriteFile(filepath.Join(parent, upload.PartName()), data, 0o644))
			}
			interruptions(t, prepare, keep, func(t *testing.T, parent string, _ bool, _ error) {
				found, err := ListStates(parent)
				must(t, err)
				for _, got := range found.Whole {
					if got != id {
						t.Fatalf("found %+v", got)
					}
				}
				if what == "named" && len(found.Whole)+len(found.Uploads) != 1 {
					t.Fatalf("found %+v", found)
				}
				if len(found.Whole) == 0 {
					must(t, keep(parent))
				}
				_, err = InspectState(t.Context(), filepath.Join(parent, id.FileName()), f.Section(), *f.State)
				must(t, err)
				for _, name := range names(t, parent) {
					if strings.HasSuffix(name, tmpSuffix) {
						t.Errorf("%s is left", name)
					}
				}
			})
		})
	}
}

// Would break: a file of one participant's state is taken for another's, or one
// that is not Cohort's is removed.
func TestNamesOfStates(t *testing.T) {
	dir := t.TempDir()
	id := StateID{Participant: "a-b-7", Position: 1<<64 - 1, Digest: Digest{0xab, 31: 1}}
	upload := UploadID{Participant: "a-00000000000000000001", Checkpoint: 1<<64 - 1, Position: 5, Epoch: 1 << 40}
	other := []string{
		"notes", "cp-0000000001.tmp", "-00000000000000000001-" + strings.Repeat("0", 64) + ".zst", "Stock-00000000000000000001-" + strings.Repeat("0", 64) + ".zst",
		"stock-1-" + strings.Repeat("0", 64) + ".zst", "stock-00000000000000000001-" + strings.Repeat("A", 64) + ".zst", "stock-00000000001-00000000000000000005-1.part",
		"stock-0000000001-00000000000000000005-01.part", "stock-99999999999999999999-00000000000000000005-1.part",
	}
	for _, name := range append(other, id.FileName(), id.FetchName(), id.FileName()+tmpSuffix, upload.PartName()) {
		must(t, os.WriteFile(filepath.Join(dir, name), nil, 0o644))
	}
	found, err := ListStates(dir)
	must(t, err)
	if len(found.Whole) != 1 || found.Whole[0] != id || len(found.Fetches) != 1 || found.Fetches[0] != id || len(found.Uploads) != 1 || found.Uploads[0] != upload {
		t.Fatalf("found %+v", found)
	}
	if left := len(names(t, dir)); left != len(other)+3 {
		t.Fatalf("%d files are left: %v", left, names(t, dir))
	}
	must(t, RemoveState(filepath.Join(dir, "none"), true))
	if found, err := ListStates(filepath.Join(dir, "new", "one")); err != nil || len(found.Whole) != 0 {
		t.Fatal(found, err)
	}
}
