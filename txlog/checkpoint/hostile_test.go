package checkpoint

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/cohort-tx/cohort/txlog/command"
)

// forged is a section as somebody who wants to do harm writes it: its digests are
// right as far as they are not the harm.
type forged struct {
	compressed  []byte
	keys, bytes uint64
}

// compress makes a section's file of what repeat gives n times.
func compress(t testing.TB, repeat []byte, n int) []byte {
	t.Helper()
	var b bytes.Buffer
	encoder, err := zstd.NewWriter(&b, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(windowBytes))
	must(t, err)
	for range n {
		_, err := encoder.Write(repeat)
		must(t, err)
	}
	must(t, encoder.Close())
	return b.Bytes()
}

func head(key, value uint64) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(nil, key), value)
}

// forge makes a directory whose only section is meta, as f has it.
func forge(t testing.TB, f forged) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "cp")
	must(t, os.Mkdir(dir, 0o755))
	m := smallManifest()
	m.Format = formatPlain
	m.Sections = []SectionFile{{
		Name: "meta", File: "meta.zst", FileBytes: uint64(len(f.compressed)), FileSHA256: sha256.Sum256(f.compressed),
		Keys: f.keys, Bytes: f.bytes,
	}}
	m.Digest = command.CheckpointDigest(m.Summary())
	data, err := m.encode()
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, manifestFile), data, 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "meta.zst"), f.compressed, 0o644))
	return dir
}

// bounded fails when what is allocated while do runs is more than limit, or when
// it takes long.
func bounded(t *testing.T, limit uint64, do func()) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	do()
	took := time.Since(start)
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > limit {
		t.Errorf("%d MB were allocated, more than %d", used>>20, limit>>20)
	}
	if took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
}

// Would break: a checkpoint from elsewhere takes the node's memory, or keeps it
// busy for ever.
func TestHostileSections(t *testing.T) {
	const limit = 24 << 20 // a decoder's window and buffers
	ascending := func(n int) (b []byte) {
		for i := range n {
			b = binary.BigEndian.AppendUint32(append(b, head(4, 0)...), uint32(i))
		}
		return b
	}
	zeros := make([]byte, 1<<20)
	for what, f := range map[string]forged{
		"key too long":             {compressed: compress(t, head(maxKey+1, 0), 1), keys: 1, bytes: math.MaxUint64},
		"key of all":               {compressed: compress(t, head(math.MaxUint64, 0), 1), keys: 1, bytes: math.MaxUint64},
		"value too long":           {compressed: compress(t, head(1, maxValue+1), 1), keys: 1, bytes: math.MaxUint64},
		"lengths that wrap":        {compressed: compress(t, head(2, math.MaxUint64-1), 1), keys: 1, bytes: math.MaxUint64},
		"longest value, not there": {compressed: compress(t, head(0, maxValue), 1), keys: 1, bytes: math.MaxUint64},
		"more than promised":       {compressed: compress(t, append(head(1, 5), "kvalue"...), 1), keys: 1, bytes: 5},
		"varint without end":       {compressed: compress(t, bytes.Repeat([]byte{0xff}, 100), 1), keys: 1, bytes: 5},
		"bomb behind the end":      {compressed: compress(t, zeros, 512), keys: 0, bytes: 0},
		"bomb of empty records":    {compressed: compress(t, zeros, 4096), keys: math.MaxUint64, bytes: math.MaxUint64},
		"keys twice":               {compressed: compress(t, ascending(2), 2), keys: 4, bytes: 16},
		"window too large":         {compressed: wideWindow(), keys: 1, bytes: math.MaxUint64},
		"no zstd":                  {compressed: []byte("no zstd at all"), keys: 1, bytes: 1},
		"empty":                    {keys: 1, bytes: 1},
	} {
		t.Run(what, func(t *testing.T) {
			dir := forge(t, f)
			bounded(t, limit, func() { wantCorrupt(t, verify(dir), filepath.Join(dir, "meta.zst"), "meta", what) })
		})
	}
}

// wideWindow is a frame that asks for a window of 2 GB.
func wideWindow() []byte {
	// Magic, no flags, a window of 2^31; a last block, run-length, 100 bytes.
	frame := []byte{0x28, 0xb5, 0x2f, 0xfd, 0, 21 << 3, 0x23, 0x03, 0, 'x'}
	return frame
}

// signed appends the checksum line that a manifest needs.
func signed(body string) []byte {
	sum := sha256.Sum256([]byte(body))
	return []byte(body + sumPrefix + hex.EncodeToString(sum[:]) + "\n")
}

func manifestJSON(t testing.TB, change func(*Manifest)) []byte {
	t.Helper()
	m := smallManifest()
	change(&m)
	if m.Format == 0 {
		m.Format = m.format()
	}
	m.Digest = command.CheckpointDigest(m.Summary())
	data, err := m.encode()
	must(t, err)
	return data
}

// Would break: names from a manifest that lead out of the directory, and sizes
// that are none.
func TestHostileManifests(t *testing.T) {
	section := func(name, file string) func(*Manifest) {
		return func(m *Manifest) { m.Sections = append(m.Sections, SectionFile{Name: name, File: file}) }
	}
	stated := func(name, file string, state State) func(*Manifest) {
		return func(m *Manifest) { m.Sections = append(m.Sections, SectionFile{Name: name, File: file, State: &state}) }
	}
	for what, data := range map[string][]byte{
		"nothing":           nil,
		"a line feed":       []byte("\n"),
		"only its checksum": signed(""),
		"no JSON":           signed("{\n"),
		"null":              signed("null\n"),
		"an array":          signed("[]\n"),
		"an older format":   signed(`{"format":0}` + "\n"),
		"a broken format":   signed(`{"format":1e99}` + "\n"),
		"deep":              signed(strings.Repeat(`{"format":`, 20_000) + "\n"),
		"an unknown field":  signed(`{"format":1,"more":1}` + "\n"),
		"a file elsewhere":  manifestJSON(t, section("meta", "../meta.zst")),
		"an absolute file":  manifestJSON(t, section("meta", "/etc/passwd")),
		"a name with a way": manifestJSON(t, section("participant/../../x", "p-../../x.zst")),
		"a section twice":   manifestJSON(t, func(m *Manifest) { section("meta", "meta.zst")(m); section("meta", "meta.zst")(m) }),
		"too many sections": manifestJSON(t, func(m *Manifest) {
			for i := range command.MaxSections + 1 {
				section(fmt.Sprintf("participant/p%d", i), fmt.Sprintf("p-p%d.zst", i))(m)
			}
		}),
		"a state that is not described":     manifestJSON(t, section("state/stock", "s-stock.zst")),
		"a description of no state":         manifestJSON(t, stated("meta", "meta.zst", State{})),
		"a state in a plain format":         manifestJSON(t, func(m *Manifest) { stated("state/stock", "s-stock.zst", State{})(m); m.Format = formatPlain }),
		"no state in the format for states": manifestJSON(t, func(m *Manifest) { m.Format = Format }),
		"a state from the future":           manifestJSON(t, stated("state/stock", "s-stock.zst", State{Position: smallManifest().Position + 1})),
		"a state larger than its section":   manifestJSON(t, stated("state/stock", "s-stock.zst", State{Bytes: 1})),
		"a state larger than any":           manifestJSON(t, stated("state/stock", "s-stock.zst", State{Bytes: MaxStateBytes + 1})),
		"a state of another's file":         manifestJSON(t, stated("state/stock", "p-stock.zst", State{})),
		"too large":                         append(bytes.Repeat([]byte(" "), maxManifestBytes), manifestJSON(t, func(*Manifest) {})...),
	} {
		dir := filepath.Join(t.TempDir(), "cp")
		must(t, os.Mkdir(dir, 0o755))
		path := filepath.Join(dir, manifestFile)
		must(t, os.WriteFile(path, data, 0o644))
		_, err := Open(dir)
		wantCorrupt(t, err, path, "", what)
	}
}

// Would break: an old release that changes or removes what a newer one has made.
func TestNewerFormatIsLeftAlone(t *testing.T) {
	dir, _ := smallCheckpoint(t)
	path := filepath.Join(dir, manifestFile)
	must(t, os.WriteFile(path, signed(`{"format":3,"something":"new"}`+"\n"), 0o644))
	before := files(t, dir)
	wantVersion := func(what string, err error) {
		t.Helper()
		var version *VersionError
		if !errors.As(err, &version) || version.Found != 3 || version.Supported != Format {
			t.Fatalf("%s: got %v, want a *VersionError", what, err)
		}
	}
	_, err := Open(dir)
	wantVersion("Open", err)
	numbers, err := Recover(filepath.Dir(dir))
	must(t, err)
	if fmt.Sprint(numbers) != "[7]" || fmt.Sprint(files(t, dir)) != fmt.Sprint(before) {
		t.Fatalf("Recover found %v and left %v", numbers, names(t, dir))
	}
	archive := tarOf(t, entry{name: manifestFile, data: before[manifestFile]}, entry{name: "new", data: "?"})
	parent := t.TempDir()
	_, err = ReadExport(bytes.NewReader(archive), filepath.Join(parent, "cp"), nil)
	wantVersion("ReadExport", err)
	if left := names(t, parent); len(left) != 0 {
		t.Fatalf("ReadExport left %v", left)
	}
	file := filepath.Join(parent, "x.tar")
	must(t, os.WriteFile(file, archive, 0o644))
	_, err = VerifyExport(file, nil)
	wantVersion("VerifyExport", err)
	_, err = PeekExport(file)
	wantVersion("PeekExport", err)
	if fmt.Sprint(files(t, parent)) != fmt.Sprint(map[string]string{"x.tar": string(archive)}) {
		t.Fatal("the export file was touched")
	}
}

type entry struct {
	name, link, data string
	kind             byte
	size             int64 // beyond data, for headers that lie
	pax              map[string]string
}

func tarOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := tarHeader(e.name, int64(len(e.data))+e.size, time.Unix(0, smallManifest().TimeUnixNano))
		if e.kind != 0 {
			h.Typeflag, h.Linkname = e.kind, e.link
		}
		if e.pax != nil {
			h.Format, h.PAXRecords = tar.FormatPAX, e.pax
		}
		must(t, w.WriteHeader(h))
		_, err := io.WriteString(w, e.data)
		must(t, err)
	}
	if len(entries) == 0 || entries[len(entries)-1].size == 0 {
		must(t, w.Close())
	}
	return b.Bytes()
}

// Would break: an export file from elsewhere that writes beside its directory.
func TestHostileExports(t *testing.T) {
	dir, m := smallCheckpoint(t)
	parts := []entry{{name: manifestFile, data: files(t, dir)[manifestFile]}}
	for _, s := range m.Sections {
		parts = append(parts, entry{name: s.File, data: files(t, dir)[s.File]})
	}
	if !bytes.Equal(tarOf(t, parts...), export(t, dir)) {
		t.Fatal("the parts do not make the export file")
	}
	with := func(i int, e entry) []byte {
		changed := append([]entry(nil), parts...)
		changed[i] = e
		return tarOf(t, changed...)
	}
	named := func(i int, name string) []byte { return with(i, entry{name: name, data: parts[i].data}) }
	for what, data := range map[string][]byte{
		"nothing in it":          tarOf(t),
		"no manifest":            tarOf(t, parts[1:]...),
		"a manifest elsewhere":   named(0, "../"+manifestFile),
		"an absolute manifest":   named(0, "/"+manifestFile),
		"a section elsewhere":    named(1, "../meta.zst"),
		"an absolute section":    named(1, filepath.Join(t.TempDir(), "meta.zst")),
		"a section's long name":  named(1, strings.Repeat("../", 200)+"meta.zst"),
		"a link for a manifest":  with(0, entry{name: manifestFile, kind: tar.TypeSymlink, link: "/etc/passwd"}),
		"a link for a section":   with(2, entry{name: "outcomes.zst", kind: tar.TypeSymlink, link: "/etc/passwd"}),
		"a hard link":            with(2, entry{name: "outcomes.zst", kind: tar.TypeLink, link: "meta.zst"}),
		"a directory":            with(2, entry{name: "outcomes.zst", kind: tar.TypeDir}),
		"a pipe":                 with(2, entry{name: "outcomes.zst", kind: tar.TypeFifo}),
		"sections exchanged":     tarOf(t, parts[0], parts[2], parts[1], parts[3]),
		"a section missing":      tarOf(t, parts[:3]...),
		"a section twice":        tarOf(t, append(parts[:4:4], parts[3])...),
		"a file more":            tarOf(t, append(parts[:4:4], entry{name: "more"})...),
		"a link more":            tarOf(t, append(parts[:4:4], entry{name: "more", kind: tar.TypeSymlink, link: "/"})...),
		"another tar dialect":    with(3, entry{name: parts[3].name, data: parts[3].data, pax: map[string]string{"COHORT.x": "y"}}),
		"two of them":            append(export(t, dir), export(t, dir)...),
		"a manifest of no end":   tarOf(t, entry{name: manifestFile, size: 1 << 40}),
		"a manifest too large":   tarOf(t, entry{name: manifestFile, data: strings.Repeat("x", maxManifestBytes+1)}),
		"a manifest, half":       with(0, entry{name: manifestFile, data: parts[0].data[:100]}),
		"a section, longer":      with(1, entry{name: "meta.zst", data: parts[1].data + "x"}),
		"a sparse section":       sparseExport(t),
		"nothing like it":        bytes.Repeat([]byte("no export file. "), 1000),
		"zeros":                  make([]byte, 10_000),
		"a manifest by its tail": append(tarOf(t, entry{name: "x", data: "y"})[:tarBlock*2], export(t, dir)...),
	} {
		t.Run(what, func(t *testing.T) {
			parent := t.TempDir()
			outside := filepath.Join(parent, "outside")
			must(t, os.Mkdir(outside, 0o755))
			into := filepath.Join(parent, "inside", "cp")
			bounded(t, 24<<20, func() {
				_, err := ReadExport(bytes.NewReader(data), into, nil)
				var corrupt *CorruptError
				if !errors.As(err, &corrupt) && !errors.Is(err, ErrIncomplete) {
					t.Fatalf("got %v", err)
				}
			})
			if a, b := names(t, parent), names(t, filepath.Dir(into)); len(a) != 2 || len(b) != 0 || len(names(t, outside)) != 0 {
				t.Fatalf("it left %v and %v", a, b)
			}
		})
	}
}

// sparseExport is a small file of which a reader of sparse files makes 8 GB.
func sparseExport(t testing.TB) []byte {
	t.Helper()
	const size = 8 << 30
	manifest := manifestJSON(t, func(m *Manifest) {
		m.Sections = []SectionFile{{Name: "meta", File: "meta.zst", FileBytes: size, Keys: 1, Bytes: 1}}
	})
	sparse := "1\n" + fmt.Sprint(size-1) + "\n1\n"
	sparse += strings.Repeat("\x00", tarBlock-len(sparse)) + "x"
	data := tarOf(t,
		entry{name: manifestFile, data: string(manifest)},
		entry{name: "GNUSparseFile.0/meta.zst", data: sparse, pax: map[string]string{
			"COHORT.xyz.major": "1", "COHORT.xyz.minor": "0", "COHORT.xyz.name": "meta.zst", "COHORT.xyz.realsize": fmt.Sprint(size),
		}})
	// The library reads such records but does not write them: they get their names,
	// of the same length, here.
	return bytes.ReplaceAll(data, []byte("COHORT.xyz."), []byte("GNU.sparse."))
}

// Would break: a fetch whose connection broke is reported as damage of the file.
func TestErrorOfTheSourceIsNotDamage(t *testing.T) {
	dir, _ := smallCheckpoint(t)
	data := export(t, dir)
	broken := errors.New("connection reset")
	for size := 0; size < len(data); size += 100 {
		parent := t.TempDir()
		_, err := ReadExport(io.MultiReader(bytes.NewReader(data[:size]), iotest.ErrReader(broken)), filepath.Join(parent, "cp"), nil)
		var corrupt *CorruptError
		if !errors.Is(err, broken) || errors.As(err, &corrupt) || errors.Is(err, ErrIncomplete) {
			t.Fatalf("after %d bytes: %v", size, err)
		}
		if left := names(t, parent); len(left) != 0 {
			t.Fatalf("after %d bytes: %v is left", size, left)
		}
		_, err = ReadExport(io.MultiReader(bytes.NewReader(data[:size]), iotest.ErrReader(io.ErrUnexpectedEOF)), filepath.Join(parent, "cp"), nil)
		if !errors.Is(err, ErrIncomplete) {
			t.Fatalf("cut off after %d bytes: %v", size, err)
		}
	}
}

// endless is a stream without an end.
type endless struct{ read int64 }

func (e *endless) Read(p []byte) (int, error) {
	clear(p)
	e.read += int64(len(p))
	if e.read > 64<<20 {
		return 0, errors.New("it read on and on")
	}
	return len(p), nil
}

// Would break: a sender that never stops holds an import for ever.
func TestExportWithoutEnd(t *testing.T) {
	dir, _ := smallCheckpoint(t)
	var tail endless
	_, err := ReadExport(io.MultiReader(bytes.NewReader(export(t, dir)), &tail), filepath.Join(t.TempDir(), "cp"), nil)
	wantCorrupt(t, err, exportName, "", "a stream without end")
	if tail.read > 1<<20 {
		t.Fatalf("%d bytes behind the end were read", tail.read)
	}
}

// Would break: a check that cannot be stopped holds up a node's end.
func TestVerifyStops(t *testing.T) {
	dir, _ := smallCheckpoint(t)
	r, err := Open(dir)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := r.Verify(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
}
