package checkpoint

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// archivedSegment archives content and gives the file.
func archivedSegment(t testing.TB, content string) (path string) {
	t.Helper()
	src, dir := filepath.Join(t.TempDir(), "segment"), filepath.Join(t.TempDir(), "archive")
	must(t, os.WriteFile(src, []byte(content), 0o644))
	must(t, ArchiveSegment(src, dir, 12, 40, func(io.Reader) error { return nil }))
	return filepath.Join(dir, ArchivedSegmentName(12, 40))
}

func readArchived(path string) (string, error) {
	in, err := ReadArchived(path)
	if err != nil {
		return "", err
	}
	data, err := io.ReadAll(in)
	return string(data), errors.Join(err, in.Close())
}

// Would break: a restore to a point in time, if the archive gave anything else
// than the segment.
func TestArchivedSegmentRoundTrip(t *testing.T) {
	for _, size := range []int{0, 1, 7, 3 << 20} {
		content := strings.Repeat("segment", size/7+1)[:size]
		path := archivedSegment(t, content)
		if filepath.Base(path) != "00000000000000000012-00000000000000000039.seg.zst" {
			t.Fatalf("it is named %s", path)
		}
		if got, err := readArchived(path); err != nil || got != content {
			t.Fatalf("%d bytes: read %d, %v", size, len(got), err)
		}
		if again := archivedSegment(t, content); fmt.Sprint(files(t, filepath.Dir(path))) != fmt.Sprint(files(t, filepath.Dir(again))) {
			t.Fatalf("%d bytes: the same segment gives other bytes", size)
		}
	}
}

// Would break: damage in the archive that is found only by a restore, if at all.
// Every byte and every length is tried.
func TestArchivedSegmentDamageIsFound(t *testing.T) {
	path := archivedSegment(t, strings.Repeat("a segment of the log, ", 5))
	data, err := os.ReadFile(path)
	must(t, err)
	check := func(what string, data []byte) {
		t.Helper()
		must(t, os.WriteFile(path, data, 0o644))
		_, err := ReadArchived(path)
		wantCorrupt(t, err, path, "", what)
	}
	for i := range data {
		damaged := bytes.Clone(data)
		damaged[i] ^= 1 << (i % 8)
		check(fmt.Sprintf("byte %d flipped", i), damaged)
	}
	for size := range data {
		check(fmt.Sprintf("cut to %d bytes", size), data[:size])
	}
	check("a byte more", append(bytes.Clone(data), 0))
	check("twice", append(bytes.Clone(data), data...)[1:])
}

// Would break: a file in the archive that was made to do harm takes the memory of
// who reads it.
func TestHostileArchivedSegment(t *testing.T) {
	path := filepath.Join(t.TempDir(), ArchivedSegmentName(1, 2))
	trailed := func(b []byte) []byte {
		sum := sha256.Sum256(b)
		return append(append(bytes.Clone(b), trailerHead...), sum[:]...)
	}
	for what, data := range map[string][]byte{
		"no zstd":          trailed([]byte("no zstd at all")),
		"window too large": trailed(wideWindow()),
		"half a frame":     trailed(compress(t, []byte("content"), 1000)[:20]),
	} {
		must(t, os.WriteFile(path, data, 0o644))
		bounded(t, 24<<20, func() {
			_, err := readArchived(path)
			wantCorrupt(t, err, path, "", what)
		})
	}
	// It is read as it comes, however much that is.
	must(t, os.WriteFile(path, trailed(compress(t, make([]byte, 1<<20), 512)), 0o644))
	bounded(t, 24<<20, func() {
		in, err := ReadArchived(path)
		must(t, err)
		n, err := io.Copy(io.Discard, in)
		if must(t, errors.Join(err, in.Close())); n != 512<<20 {
			t.Errorf("read %d bytes", n)
		}
	})
}

// Would break: a segment leaves the log though its copy is not what it should be,
// or one that is in the archive is written again.
func TestArchiveChecksAndKeeps(t *testing.T) {
	src, dir := filepath.Join(t.TempDir(), "segment"), filepath.Join(t.TempDir(), "archive")
	must(t, os.WriteFile(src, []byte("content"), 0o644))
	wrong := errors.New("not what it should be")
	if err := ArchiveSegment(src, dir, 1, 9, func(in io.Reader) error { return errors.Join(checkContent(in), wrong) }); !errors.Is(err, wrong) {
		t.Fatalf("got %v", err)
	}
	if left := names(t, dir); len(left) != 0 {
		t.Fatalf("%v is left", left)
	}
	must(t, ArchiveSegment(src, dir, 1, 9, checkContent))
	before := files(t, dir)
	must(t, os.WriteFile(src, []byte("other"), 0o644))
	must(t, ArchiveSegment(src, dir, 1, 9, checkContent))
	if fmt.Sprint(files(t, dir)) != fmt.Sprint(before) {
		t.Fatal("an archived segment was changed")
	}
	if err := ArchiveSegment(filepath.Join(dir, "none"), dir, 9, 12, checkContent); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("got %v", err)
	}
	cp, _ := smallCheckpoint(t)
	must(t, os.WriteFile(filepath.Join(cp, "meta.zst"), []byte("damaged"), 0o644))
	r, err := Open(cp)
	must(t, err)
	err = ArchiveCheckpoint(r, dir)
	wantCorrupt(t, err, filepath.Join(cp, "meta.zst"), "meta", "a damaged checkpoint")
	if fmt.Sprint(files(t, dir)) != fmt.Sprint(before) {
		t.Fatalf("there is %v", names(t, dir))
	}
}

// Would break: a restore that replays what is no segment, or in another order.
func TestListArchive(t *testing.T) {
	dir := t.TempDir()
	name := func(first, last uint64) string { return fmt.Sprintf("%020d-%020d.seg.zst", first, last) }
	for _, n := range []string{
		name(41, 80), name(1, 40), name(81, 81),
		name(9, 8), name(5, math.MaxUint64), "99999999999999999999-99999999999999999999.seg.zst",
		name(1, 40) + ".tmp", "1-40.seg.zst", "cp-0000000001.tar", "x" + name(1, 2),
	} {
		must(t, os.WriteFile(filepath.Join(dir, n), []byte("abc"), 0o644))
	}
	must(t, os.Mkdir(filepath.Join(dir, name(200, 300)), 0o755))
	got, err := ListArchive(dir)
	must(t, err)
	var want []Archived
	for _, r := range [][2]uint64{{1, 40}, {41, 80}, {81, 81}} {
		want = append(want, Archived{First: r[0], Next: r[1] + 1, Path: filepath.Join(dir, name(r[0], r[1])), Bytes: 3})
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("got %v, want %v", got, want)
	}
	if got, err := ListArchive(filepath.Join(dir, "none")); err != nil || got != nil {
		t.Fatalf("got %v, %v", got, err)
	}
}

// discardAll reads a segment and is content with it.
func discardAll(in io.Reader) error {
	_, err := io.Copy(io.Discard, in)
	return err
}
