package checkpoint_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/cohort-tx/cohort/txlog/checkpoint"
	"github.com/cohort-tx/cohort/txlog/segment"
)

// What follows reads these files by docs/checkpoint-format.md, and uses nothing of
// the packages that write them.

type docManifest struct {
	Format       int          `json:"format"`
	Group        string       `json:"group"`
	Number       uint64       `json:"number"`
	Incarnation  uint64       `json:"incarnation"`
	Position     uint64       `json:"position"`
	Index        uint64       `json:"index"`
	LogHash      string       `json:"log_hash"`
	TimeUnixNano int64        `json:"time_unix_nano"`
	Node         string       `json:"node"`
	Sections     []docSection `json:"sections"`
	Digest       string       `json:"digest"`
}

type docSection struct {
	Name       string    `json:"name"`
	File       string    `json:"file"`
	FileBytes  uint64    `json:"file_bytes"`
	FileSHA256 string    `json:"file_sha256"`
	Keys       uint64    `json:"keys"`
	Bytes      uint64    `json:"bytes"`
	Digest     string    `json:"digest"`
	State      *docState `json:"state,omitempty"`
}

type docState struct {
	Position uint64 `json:"position"`
	Bytes    uint64 `json:"bytes"`
	SHA256   string `json:"sha256"`
}

func hexSum(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func docReadManifest(data []byte) (m docManifest, err error) {
	const lineBytes = len("sha256:") + 64 + 1
	if len(data) < lineBytes {
		return m, errors.New("manifest: too short")
	}
	body, line := data[:len(data)-lineBytes], string(data[len(data)-lineBytes:])
	if line != "sha256:"+hexSum(body)+"\n" {
		return m, errors.New("manifest: checksum")
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&m); err != nil {
		return m, err
	}
	var all []byte
	format := 1
	for _, s := range m.Sections {
		file := s.Name + ".zst"
		if p, ok := strings.CutPrefix(s.Name, "participant/"); ok {
			file = "p-" + p + ".zst"
		}
		p, state := strings.CutPrefix(s.Name, "state/")
		if state {
			file, format = "s-"+p+".zst", 2
		}
		if state != (s.State != nil) {
			return m, fmt.Errorf("section %s: state", s.Name)
		}
		if s.File != file {
			return m, fmt.Errorf("section %s has the file %s", s.Name, s.File)
		}
		digest, err := hex.DecodeString(s.Digest)
		if err != nil {
			return m, err
		}
		all = binary.AppendUvarint(all, uint64(len(s.Name)))
		all = append(all, s.Name...)
		all = binary.BigEndian.AppendUint64(all, s.Keys)
		all = binary.BigEndian.AppendUint64(all, s.Bytes)
		all = append(all, digest...)
	}
	if m.Format != format {
		return m, fmt.Errorf("format %d", m.Format)
	}
	if hexSum(all) != m.Digest {
		return m, errors.New("manifest: digest")
	}
	return m, nil
}

func docDecompress(b []byte) ([]byte, error) {
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(8<<20))
	if err != nil {
		return nil, err
	}
	defer decoder.Close()
	return decoder.DecodeAll(b, nil)
}

type docRecord struct{ key, value string }

func docReadSection(s docSection, file []byte) (records []docRecord, err error) {
	if uint64(len(file)) != s.FileBytes || hexSum(file) != s.FileSHA256 {
		return nil, fmt.Errorf("section %s: its file", s.Name)
	}
	data, err := docDecompress(file)
	if err != nil {
		return nil, err
	}
	if hexSum(data) != s.Digest {
		return nil, fmt.Errorf("section %s: its digest", s.Name)
	}
	var size uint64
	for len(data) > 0 {
		n, a := binary.Uvarint(data)
		if a <= 0 {
			return nil, fmt.Errorf("section %s: a key's length", s.Name)
		}
		m, b := binary.Uvarint(data[a:])
		if b <= 0 || n > 64<<10 || m > 128<<20 || n+m > uint64(len(data)-a-b) {
			return nil, fmt.Errorf("section %s: a value's length", s.Name)
		}
		data = data[a+b:]
		r := docRecord{string(data[:n]), string(data[n : n+m])}
		if len(records) > 0 && r.key <= records[len(records)-1].key {
			return nil, fmt.Errorf("section %s: order", s.Name)
		}
		records, data, size = append(records, r), data[n+m:], size+n+m
	}
	if uint64(len(records)) != s.Keys || size != s.Bytes {
		return nil, fmt.Errorf("section %s: %d records, %d bytes", s.Name, len(records), size)
	}
	return records, nil
}

// docCaptured puts a captured state together again.
func docCaptured(s docSection, records []docRecord) (state string, err error) {
	for i, r := range records {
		if r.key != string(binary.BigEndian.AppendUint64(nil, uint64(i))) || len(r.value) > 64<<10 || r.value == "" ||
			len(r.value) < 64<<10 && i < len(records)-1 {
			return "", fmt.Errorf("section %s: piece %d", s.Name, i)
		}
		state += r.value
	}
	if uint64(len(state)) != s.State.Bytes || hexSum([]byte(state)) != s.State.SHA256 {
		return "", fmt.Errorf("section %s: the state", s.Name)
	}
	return state, nil
}

// docRead reads a checkpoint whose files are given by their names.
func docRead(files map[string][]byte) (docManifest, map[string][]docRecord, error) {
	m, err := docReadManifest(files["manifest.json"])
	if err != nil {
		return m, nil, err
	}
	out := make(map[string][]docRecord)
	for _, s := range m.Sections {
		if out[s.Name], err = docReadSection(s, files[s.File]); err != nil {
			return m, nil, err
		}
	}
	if len(files) != len(m.Sections)+1 {
		return m, nil, errors.New("there are other files")
	}
	return m, out, nil
}

// docHeader is an entry's header in an export file.
func docHeader(name string, size, seconds int64) []byte {
	number := func(v int64) []byte {
		switch {
		case v < 0:
			return binary.BigEndian.AppendUint64([]byte{0xff, 0xff, 0xff, 0xff}, uint64(v))
		case v >= 8<<30:
			return binary.BigEndian.AppendUint64([]byte{0x80, 0, 0, 0}, uint64(v))
		}
		return fmt.Appendf(nil, "%011o\x00", v)
	}
	b := make([]byte, 512)
	copy(b, name)
	for _, at := range []int{100, 108, 116, 329, 337} {
		copy(b[at:], "0000000\x00")
	}
	copy(b[100:], "0000644")
	copy(b[124:], number(size))
	copy(b[136:], number(seconds))
	copy(b[148:], "        ")
	b[156] = '0'
	copy(b[257:], "ustar  \x00")
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

// docWriteExport makes the only export file that a checkpoint has.
func docWriteExport(files map[string][]byte) ([]byte, error) {
	m, err := docReadManifest(files["manifest.json"])
	if err != nil {
		return nil, err
	}
	names := []string{"manifest.json"}
	for _, s := range m.Sections {
		names = append(names, s.File)
	}
	seconds := m.TimeUnixNano / 1e9
	if m.TimeUnixNano%1e9 < 0 {
		seconds--
	}
	var out []byte
	for _, name := range names {
		out = append(out, docHeader(name, int64(len(files[name])), seconds)...)
		out = append(out, files[name]...)
		out = append(out, make([]byte, -len(out)&511)...)
	}
	return append(out, make([]byte, 1024)...), nil
}

// docReadExport takes an export file apart.
func docReadExport(data []byte) (map[string][]byte, error) {
	files := make(map[string][]byte)
	for at := 0; ; {
		if at+512 > len(data) {
			return nil, errors.New("export: cut off")
		}
		header := data[at : at+512]
		if header[0] == 0 {
			break
		}
		name := string(bytes.TrimRight(header[:100], "\x00"))
		size, err := strconv.ParseInt(string(header[124:135]), 8, 64)
		if err != nil || at+512+int(size) > len(data) {
			return nil, fmt.Errorf("export: size: %v", err)
		}
		files[name] = data[at+512 : at+512+int(size)]
		at += 512 + (int(size)+511)/512*512
	}
	again, err := docWriteExport(files)
	if err == nil && !bytes.Equal(again, data) {
		err = errors.New("export: other bytes")
	}
	return files, err
}

type docEntry struct {
	position uint64
	payload  string
}

// docReadArchived reads an archived segment.
func docReadArchived(file []byte) (incarnation uint64, entries []docEntry, err error) {
	at := len(file) - 40
	if at < 0 || binary.LittleEndian.Uint32(file[at:]) != 0x184D2A50 || binary.LittleEndian.Uint32(file[at+4:]) != 32 ||
		hex.EncodeToString(file[at+8:]) != hexSum(file[:at]) {
		return 0, nil, errors.New("archived segment: trailer")
	}
	data, err := docDecompress(file)
	if err != nil {
		return 0, nil, err
	}
	table := crc32.MakeTable(crc32.Castagnoli)
	if len(data) < 32 || string(data[:8]) != "CHTSEGMT" || binary.BigEndian.Uint32(data[8:]) != 1 ||
		binary.BigEndian.Uint32(data[28:]) != crc32.Checksum(data[:28], table) {
		return 0, nil, errors.New("segment: header")
	}
	incarnation = binary.BigEndian.Uint64(data[12:])
	next := binary.BigEndian.Uint64(data[20:])
	for data = data[32:]; ; next++ {
		if len(data) < 16 || uint64(binary.BigEndian.Uint32(data)) > uint64(len(data)-16) {
			return 0, nil, errors.New("segment: no seal")
		}
		payload := data[16 : 16+binary.BigEndian.Uint32(data)]
		covered := append(append(bytes.Clone(data[:4]), data[8:16]...), payload...)
		if binary.BigEndian.Uint32(data[4:]) != crc32.Checksum(covered, table) || binary.BigEndian.Uint64(data[8:]) != next {
			return 0, nil, fmt.Errorf("segment: position %d", next)
		}
		data = data[16+len(payload):]
		if len(payload) > 0 {
			entries = append(entries, docEntry{next, string(payload)})
			continue
		}
		if len(data) > 0 {
			return 0, nil, errors.New("segment: more behind the seal")
		}
		return incarnation, entries, nil
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func versioned(version uint64, value string) string {
	return string(binary.BigEndian.AppendUint64(nil, version)) + value
}

var exampleSections = []string{"meta", "outcomes", "participant/orders"}

// example is the one in the document.
func example() map[string][]docRecord {
	return map[string][]docRecord{
		"meta":               {{"config", "c"}},
		"outcomes":           nil,
		"participant/orders": {{"a", versioned(3, "one")}, {"b", versioned(9, "")}},
	}
}

func writeCheckpoint(t testing.TB, sections []string, records map[string][]docRecord, m checkpoint.Manifest, more ...func(*checkpoint.Writer)) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), checkpoint.DirName(m.Number))
	w, err := checkpoint.Create(dir, m, checkpoint.Options{})
	must(t, err)
	for _, name := range sections {
		s, err := w.Section(name)
		must(t, err)
		for _, r := range records[name] {
			must(t, s.Add([]byte(r.key), []byte(r.value)))
		}
		_, err = s.Close()
		must(t, err)
	}
	for _, do := range more {
		do(w)
	}
	_, err = w.Finish()
	must(t, err)
	return dir
}

func filesOf(t testing.TB, dir string) map[string][]byte {
	t.Helper()
	out := make(map[string][]byte)
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		out[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name()))
		must(t, err)
	}
	return out
}

// Would break: whoever reads checkpoints by the document and without Cohort, once
// the files or the document change.
func TestReadFromTheDocument(t *testing.T) {
	large := example()
	for i := range 20_000 {
		large["participant/orders"] = append(large["participant/orders"], docRecord{fmt.Sprintf("key-%06d", i), versioned(uint64(i), strings.Repeat(strconv.Itoa(i*i), 20))})
	}
	for what, records := range map[string]map[string][]docRecord{"the example": example(), "large": large} {
		for _, at := range []int64{1_790_000_000_123_456_789, 0, -1, 9_000_000_000_000_000_000} {
			hash := checkpoint.Digest{0xab, 31: 0xcd}
			dir := writeCheckpoint(t, exampleSections, records, checkpoint.Manifest{
				Group: "shop", Number: 1<<64 - 1, Incarnation: 1 << 63, Position: 1<<53 + 1, Index: 52, LogHash: hash, TimeUnixNano: at, Node: "node-a",
			})
			if filepath.Base(dir) != "cp-18446744073709551615" {
				t.Fatalf("%s: the directory is %s", what, dir)
			}
			files := filesOf(t, dir)
			m, got, err := docRead(files)
			must(t, err)
			if fmt.Sprint(got) != fmt.Sprint(records) {
				t.Fatalf("%s: read other records than were written", what)
			}
			m.Sections, m.Digest = nil, ""
			want := docManifest{
				Format: 1, Group: "shop", Number: 1<<64 - 1, Incarnation: 1 << 63, Position: 1<<53 + 1, Index: 52,
				LogHash: "ab" + strings.Repeat("00", 30) + "cd", TimeUnixNano: at, Node: "node-a",
			}
			if fmt.Sprint(m) != fmt.Sprint(want) {
				t.Fatalf("%s: the manifest is %+v, want %+v", what, m, want)
			}

			r, err := checkpoint.Open(dir)
			must(t, err)
			var export bytes.Buffer
			must(t, checkpoint.WriteExport(&export, r))
			unpacked, err := docReadExport(export.Bytes())
			if err != nil || fmt.Sprint(unpacked) != fmt.Sprint(files) {
				t.Fatalf("%s, time %d: the export file: %v", what, at, err)
			}
		}
	}
}

// Would break: the same of participants' captured states.
func TestReadStateFromTheDocument(t *testing.T) {
	for _, size := range []int{0, 1, 64 << 10, 64<<10 + 1, 5 << 20} {
		state := strings.Repeat("state and ", size/10+1)[:size]
		path := filepath.Join(t.TempDir(), "state")
		w, err := checkpoint.CreateState(path, "state/stock")
		must(t, err)
		_, err = w.Write([]byte(state))
		must(t, err)
		f, err := w.Finish(6)
		must(t, errors.Join(err, w.Close()))
		dir := writeCheckpoint(t, exampleSections, example(), checkpoint.Manifest{Group: "shop", Number: 7, Position: 9, Node: "node-a"}, func(w *checkpoint.Writer) {
			must(t, w.AddState(path, f))
		})
		files := filesOf(t, dir)
		m, records, err := docRead(files)
		must(t, err)
		last := m.Sections[len(m.Sections)-1]
		got, err := docCaptured(last, records["state/stock"])
		if err != nil || got != state || m.Format != 2 || last.State.Position != 6 {
			t.Fatalf("%d bytes: %d were read, format %d, %v", size, len(got), m.Format, err)
		}
		r, err := checkpoint.Open(dir)
		must(t, err)
		var export bytes.Buffer
		must(t, checkpoint.WriteExport(&export, r))
		unpacked, err := docReadExport(export.Bytes())
		if err != nil || fmt.Sprint(unpacked) != fmt.Sprint(files) {
			t.Fatalf("%d bytes: the export file: %v", size, err)
		}
	}
}

// Would break: the document's example, by which others test what they write.
func TestExampleInTheDocument(t *testing.T) {
	doc, err := os.ReadFile("../../docs/checkpoint-format.md")
	must(t, err)
	dir := writeCheckpoint(t, exampleSections, example(), checkpoint.Manifest{Group: "shop", Number: 7, Node: "node-a"})
	files := filesOf(t, dir)
	m, _, err := docRead(files)
	must(t, err)
	lines := make(map[string]bool)
	for line := range strings.Lines(string(doc)) {
		lines[strings.ReplaceAll(line, " ", "")] = true
	}
	want := []string{"checkpoint" + m.Digest}
	for _, s := range m.Sections {
		data, err := docDecompress(files[s.File])
		must(t, err)
		want = append(want, s.Name+hex.EncodeToString(data), s.Name+s.Digest)
	}
	for _, w := range want {
		if !lines[w+"\n"] {
			t.Errorf("the document has no line %s", w)
		}
	}
	for _, field := range slices.Concat(jsonFields(t, docManifest{}), jsonFields(t, docSection{State: &docState{}}), jsonFields(t, docState{})) {
		if !strings.Contains(string(doc), "| `"+field+"` |") {
			t.Errorf("the document does not explain the field %s", field)
		}
	}
}

func jsonFields(t testing.TB, v any) (fields []string) {
	t.Helper()
	data, err := json.Marshal(v)
	must(t, err)
	m := make(map[string]any)
	must(t, json.Unmarshal(data, &m))
	for field := range m {
		fields = append(fields, field)
	}
	return fields
}

// Would break: the same for the archive.
func TestReadArchiveFromTheDocument(t *testing.T) {
	dir, archive := t.TempDir(), t.TempDir()
	log, err := segment.Open(segment.Options{Dir: dir, SegmentBytes: 500, Incarnation: 4})
	must(t, err)
	var want []docEntry
	for p := uint64(1); p <= 100; p++ {
		entry := docEntry{p, strings.Repeat(fmt.Sprint(p), int(p))}
		must(t, log.Append(p, []byte(entry.payload)))
		want = append(want, entry)
	}
	must(t, log.Sync())
	must(t, log.TruncateBeforeFunc(90, func(s segment.ClosedSegment) error {
		return checkpoint.ArchiveSegment(s.Path, archive, s.First, s.Next, func(in io.Reader) error {
			return segment.VerifyStream(in, s.Path, s.First, s.Next)
		})
	}, os.Remove))
	first := log.First()
	must(t, log.Close())
	var got []docEntry
	entries, err := os.ReadDir(archive)
	must(t, err)
	for _, e := range entries {
		file, err := os.ReadFile(filepath.Join(archive, e.Name()))
		must(t, err)
		incarnation, part, err := docReadArchived(file)
		must(t, err)
		if name := fmt.Sprintf("%020d-%020d.seg.zst", part[0].position, part[len(part)-1].position); incarnation != 4 || e.Name() != name {
			t.Fatalf("%s has incarnation %d and positions for the name %s", e.Name(), incarnation, name)
		}
		got = append(got, part...)
	}
	if len(entries) < 5 || fmt.Sprint(got) != fmt.Sprint(want[:first-1]) {
		t.Fatalf("%d segments, %d entries, want %d", len(entries), len(got), first-1)
	}
}
