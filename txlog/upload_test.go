package txlog

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cohort-tx/cohort/txlog/checkpoint"
)

var anUpload = checkpoint.UploadID{Participant: "stock", Checkpoint: 7, Position: 40, Epoch: 3}

// capturing opens a directory of captured states.
func capturing(t *testing.T, dir string) *captures {
	t.Helper()
	c, err := openCaptures(dir)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// stream makes the test a stream of an upload.
func (c *captures) stream(t *testing.T, id checkpoint.UploadID) (context.Context, *Upload, func()) {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	u, err := c.take(ctx, id, cancel)
	if err == nil {
		err = u.open()
	}
	if err != nil {
		t.Fatal(err)
	}
	return ctx, u, func() { u.release(); cancel(nil) }
}

func pattern(n int) []byte {
	return bytes.Repeat([]byte("0123456789abcdef-"), n/17+1)[:n]
}

func write(t *testing.T, u *Upload, p []byte) {
	t.Helper()
	if _, err := u.Write(p); err != nil {
		t.Fatal(err)
	}
}

// Would break: an instance whose stream breaks sends a whole state again, or parts
// of it twice.
func TestUploadGoesOnOnAnotherStream(t *testing.T) {
	state := pattern(5<<20 + 333)
	c := capturing(t, t.TempDir())
	for at := 0; at < len(state); at += 1_000_001 {
		_, u, release := c.stream(t, anUpload)
		if u.Offset() != uint64(at) {
			t.Fatalf("it goes on at %d, and %d bytes came", u.Offset(), at)
		}
		write(t, u, state[at:min(at+1_000_001, len(state))])
		release()
	}
	_, u, release := c.stream(t, anUpload)
	report, err := u.Store("n1", uint64(len(state)), sha256.Sum256(state))
	if err != nil {
		t.Fatal(err)
	}
	release()
	// The answer may be lost: asked again, it is the same.
	_, u, release = c.stream(t, anUpload)
	if u.Offset() != uint64(len(state)) {
		t.Fatalf("a stored one goes on at %d", u.Offset())
	}
	again, err := u.Store("n1", uint64(len(state)), sha256.Sum256(state))
	release()
	if err != nil || again != report || report.Number != 7 || report.Epoch != 3 || report.Bytes != uint64(len(state)) {
		t.Fatalf("%+v, then %+v, %v", report, again, err)
	}
	id := checkpoint.StateID{Participant: "stock", Position: 40, Digest: report.Section.Digest}
	if _, err := checkpoint.InspectState(t.Context(), c.path(id), report.Section, checkpoint.State{Position: 40, Bytes: report.Bytes, SHA256: report.SHA256}); err != nil {
		t.Fatal(err)
	}
	if got := c.unreported(); len(got) != 1 || got[0] != report {
		t.Fatalf("to be reported: %v", got)
	}
	c.closeUploads()
}

// Would break: after a crash of the node an upload goes on from bytes that are not
// on its disk, or not at all.
func TestUploadGoesOnAfterACrash(t *testing.T) {
	state := pattern(9<<20 + 5)
	dir := t.TempDir()
	c := capturing(t, dir)
	_, u, release := c.stream(t, anUpload)
	write(t, u, state[:6<<20])
	crashed := filepath.Join(t.TempDir(), "captures")
	copyTree(t, dir, crashed)
	release()
	c.closeUploads()
	c = capturing(t, crashed)
	_, u, release = c.stream(t, anUpload)
	at := u.Offset()
	if at == 0 || at > 6<<20 {
		t.Fatalf("after the crash it goes on at %d", at)
	}
	write(t, u, state[at:])
	if _, err := u.Store("n1", uint64(len(state)), sha256.Sum256(state)); err != nil {
		t.Fatal(err)
	}
	release()
	c.closeUploads()
}

// Would break: a state that is not what its instance says becomes part of a
// checkpoint, or stays on the disk.
func TestUploadThatLies(t *testing.T) {
	state := pattern(100_000)
	for what, lie := range map[string]struct {
		bytes uint64
		sum   [32]byte
	}{
		"less": {99_999, sha256.Sum256(state)},
		"more": {100_001, sha256.Sum256(state)},
		"else": {100_000, sha256.Sum256(state[1:])},
	} {
		dir := t.TempDir()
		c := capturing(t, dir)
		_, u, release := c.stream(t, anUpload)
		write(t, u, state)
		_, err := u.Store("n1", lie.bytes, lie.sum)
		release()
		var wrong *StateMismatchError
		if !errors.As(err, &wrong) {
			t.Fatalf("%s: %v", what, err)
		}
		if left, _ := os.ReadDir(dir); len(left) != 0 || len(c.unreported()) != 0 {
			t.Fatalf("%s: %v is left", what, left)
		}
		// Stored, and then said to be another one.
		_, u, release = c.stream(t, anUpload)
		write(t, u, state)
		if _, err := u.Store("n1", uint64(len(state)), sha256.Sum256(state)); err != nil {
			t.Fatal(err)
		}
		if _, err := u.Store("n1", lie.bytes, lie.sum); !errors.As(err, &wrong) {
			t.Fatalf("%s, said again: %v", what, err)
		}
		if _, err := u.Write([]byte("x")); !errors.As(err, &wrong) {
			t.Fatalf("%s, and more: %v", what, err)
		}
		release()
		c.closeUploads()
	}
}

// Would break: two streams of one instance write into one file, or the older one
// keeps the newer out for ever.
func TestNewerStreamTakesTheUpload(t *testing.T) {
	c := capturing(t, t.TempDir())
	older, u, release := c.stream(t, anUpload)
	write(t, u, pattern(70_000))
	taken := make(chan uint64)
	go func() {
		ctx, cancel := context.WithCancelCause(context.Background())
		defer cancel(nil)
		u, err := c.take(ctx, anUpload, cancel)
		if err != nil || u.open() != nil {
			close(taken)
			return
		}
		taken <- u.Offset()
		u.release()
	}()
	<-older.Done()
	if err := context.Cause(older); !errors.Is(err, ErrReplaced) {
		t.Fatal(err)
	}
	select {
	case <-taken:
		t.Fatal("both hold it")
	default:
	}
	release()
	if at := <-taken; at != 70_000 {
		t.Fatalf("the newer one goes on at %d", at)
	}
	c.closeUploads()
}

// Would break: what nobody waits for any more fills the disk, or a stream writes on
// into what was removed.
func TestUploadIsOver(t *testing.T) {
	for _, erase := range []bool{false, true} {
		dir := t.TempDir()
		c := capturing(t, dir)
		ctx, u, release := c.stream(t, anUpload)
		write(t, u, pattern(5<<20))
		kept := checkpoint.UploadID{Participant: "other", Checkpoint: 7, Position: 40, Epoch: 1}
		_, _, releaseKept := c.stream(t, kept)
		releaseKept()
		given := errors.New("the checkpoint was given up")
		over := func(id checkpoint.UploadID) error {
			if id == anUpload {
				return given
			}
			return nil
		}
		if err := c.endUploads(over, erase); err != nil {
			t.Fatal(err)
		}
		<-ctx.Done()
		if !errors.Is(context.Cause(ctx), given) {
			t.Fatal(context.Cause(ctx))
		}
		open, err := os.Open(filepath.Join(dir, anUpload.PartName()))
		if err != nil {
			t.Fatal("the file went while a stream held it: ", err)
		}
		release()
		if err := c.endUploads(over, erase); err != nil {
			t.Fatal(err)
		}
		if left, _ := os.ReadDir(dir); len(left) != 1 || left[0].Name() != kept.PartName() {
			t.Fatalf("%v is left", left)
		}
		data := make([]byte, 1000)
		if _, err := open.Read(data); err != nil || (strings.Trim(string(data), "\x00") == "") != erase {
			t.Errorf("erase %v: %q, %v", erase, data[:20], err)
		}
		open.Close()
		c.closeUploads()
	}
}

// Would break: instances that bring their states at once take the node's memory.
func TestUploadsAreBounded(t *testing.T) {
	c := capturing(t, t.TempDir())
	var releases []func()
	for n := range maxUploads {
		id := anUpload
		id.Participant = fmt.Sprintf("p%d", n)
		_, _, release := c.stream(t, id)
		releases = append(releases, release)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	if _, err := c.take(ctx, anUpload, cancel); !errors.Is(err, ErrOverloaded) {
		t.Fatalf("one more: %v", err)
	}
	releases[0]()
	_, _, release := c.stream(t, anUpload)
	release()
	for _, release := range releases[1:] {
		release()
	}
	c.closeUploads()
	if _, err := c.take(ctx, anUpload, cancel); !errors.Is(err, ErrClosed) {
		t.Fatalf("after the end: %v", err)
	}
}

// Would break: a captured state that is needed, or read, is removed; or one that is
// not stays for ever.
func TestUnneededStatesGo(t *testing.T) {
	c := capturing(t, t.TempDir())
	ids := map[string]checkpoint.StateID{}
	for n, name := range []string{"needed", "read", "unneeded"} {
		upload := checkpoint.UploadID{Participant: name, Checkpoint: 1, Position: uint64(n), Epoch: 1}
		_, u, release := c.stream(t, upload)
		write(t, u, []byte(name))
		report, err := u.Store("n1", uint64(len(name)), sha256.Sum256([]byte(name)))
		if err != nil {
			t.Fatal(err)
		}
		release()
		ids[name] = checkpoint.StateID{Participant: name, Position: upload.Position, Digest: report.Section.Digest}
	}
	needed := func(id checkpoint.StateID) bool { return id == ids["needed"] }
	now := time.Now()
	sweep := func() {
		t.Helper()
		for range 2 {
			now = now.Add(sweepAfter)
			if err := c.sweep(now, needed, true); err != nil {
				t.Fatal(err)
			}
		}
	}
	sweep()
	for name, id := range ids {
		if _, ok := c.has(id); !ok {
			t.Fatalf("%s went before it was reported", name)
		}
	}
	if err := c.endUploads(func(checkpoint.UploadID) error { return errors.New("recorded") }, false); err != nil {
		t.Fatal(err)
	}
	_, release, _ := c.hold(ids["read"])
	sweep()
	if _, ok := c.has(ids["unneeded"]); ok {
		t.Error("an unneeded one is still there")
	}
	for _, name := range []string{"needed", "read"} {
		if _, err := os.Lstat(c.path(ids[name])); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	release()
	sweep()
	if left, _ := os.ReadDir(c.dir); len(left) != 1 {
		t.Errorf("%v is left", left)
	}
}
