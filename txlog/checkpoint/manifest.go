package checkpoint

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/cohort-tx/cohort/txlog/command"
)

const (
	// Format is the newest one that this package writes and reads: that of
	// checkpoints with captured states. Those without have formatPlain, so that
	// older releases read them.
	Format      = 2
	formatPlain = 1

	manifestFile = "manifest.json"
	sumPrefix    = "sha256:"
	// maxManifestBytes holds the largest number of sections several times over.
	maxManifestBytes = 1 << 20

	sectionParticipant = "participant/"
)

// Digest is a SHA-256, hexadecimal in JSON.
type Digest [32]byte

func (d Digest) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(d[:])), nil }

func (d *Digest) UnmarshalText(text []byte) error {
	b, err := hex.DecodeString(string(text))
	if err != nil || len(b) != len(d) {
		return fmt.Errorf("%.80q is not a SHA-256 in hexadecimal", text)
	}
	copy(d[:], b)
	return nil
}

// Manifest says what a checkpoint's files are.
type Manifest struct {
	Format      int    `json:"format"`
	Group       string `json:"group"`
	Number      uint64 `json:"number"`
	Incarnation uint64 `json:"incarnation"`
	// Position is the last one in the checkpoint, Index the Raft index of its entry
	// with the incarnation's base.
	Position     uint64 `json:"position"`
	Index        uint64 `json:"index"`
	LogHash      Digest `json:"log_hash"`
	TimeUnixNano int64  `json:"time_unix_nano"`
	// Node that wrote the files.
	Node     string        `json:"node"`
	Sections []SectionFile `json:"sections"`
	// Digest is command.CheckpointDigest over the sections.
	Digest Digest `json:"digest"`
}

// SectionFile is one section and its file.
type SectionFile struct {
	Name       string `json:"name"`
	File       string `json:"file"`
	FileBytes  uint64 `json:"file_bytes"`
	FileSHA256 Digest `json:"file_sha256"`
	// Keys and Bytes of keys and values, uncompressed, and their digest: see
	// command.SectionHash.
	Keys   uint64 `json:"keys"`
	Bytes  uint64 `json:"bytes"`
	Digest Digest `json:"digest"`
	// State is set for a participant's captured state, and only then.
	State *State `json:"state,omitempty"`
}

// State describes the captured state in a section.
type State struct {
	// Position that it is as of: the checkpoint's, or an earlier one.
	Position uint64 `json:"position"`
	// Bytes of the state itself, and their SHA-256.
	Bytes  uint64 `json:"bytes"`
	SHA256 Digest `json:"sha256"`
}

// Section is what is reported of the section.
func (f *SectionFile) Section() command.Section {
	return command.Section{Name: f.Name, Keys: f.Keys, Bytes: f.Bytes, Digest: f.Digest}
}

// StateOf is the participant whose captured state the section holds.
func (f *SectionFile) StateOf() (participant string, ok bool) {
	return strings.CutPrefix(f.Name, command.SectionState)
}

// StateSection names the section of a participant's captured state.
func StateSection(participant string) string { return command.SectionState + participant }

// Summary is what is reported of the sections.
func (m *Manifest) Summary() []command.Section {
	out := make([]command.Section, len(m.Sections))
	for i, s := range m.Sections {
		out[i] = s.Section()
	}
	return out
}

// FileBytes is the size of all section files.
func (m *Manifest) FileBytes() (sum uint64) {
	for _, s := range m.Sections {
		sum += s.FileBytes
	}
	return sum
}

func (m *Manifest) encode() ([]byte, error) {
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, err
	}
	data = append(data, '\n')
	sum := sha256.Sum256(data)
	return append(data, sumPrefix+hex.EncodeToString(sum[:])+"\n"...), nil
}

// decodeManifest reads the content of a manifest file and checks that it makes
// sense.
func decodeManifest(path string, data []byte) (Manifest, error) {
	corrupt := func(format string, args ...any) error {
		return &CorruptError{File: path, Detail: fmt.Sprintf(format, args...)}
	}
	end := bytes.LastIndex(data[:max(len(data)-1, 0)], []byte("\n")) + 1
	body, line := data[:end], data[end:]
	sum := sha256.Sum256(body)
	if string(line) != sumPrefix+hex.EncodeToString(sum[:])+"\n" {
		return Manifest{}, corrupt("its last line is not the checksum of the rest")
	}
	// The format first: a newer one may have other fields.
	var format struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(body, &format); err != nil {
		return Manifest{}, corrupt("%v", err)
	}
	if format.Format > Format {
		return Manifest{}, &VersionError{File: path, Found: format.Format, Supported: Format}
	}
	var m Manifest
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&m); err != nil {
		return Manifest{}, corrupt("%v", err)
	}
	if err := m.check(); err != nil {
		return Manifest{}, corrupt("%v", err)
	}
	return m, nil
}

func (m *Manifest) check() error {
	if m.Format != m.format() || m.Number == 0 || command.CheckName(m.Group) != nil {
		return errors.New("format, number or group make no sense")
	}
	if len(m.Sections) > command.MaxSections {
		return fmt.Errorf("it lists %d sections; at most %d", len(m.Sections), command.MaxSections)
	}
	seen := make(map[string]bool)
	for _, s := range m.Sections {
		file, err := fileOf(s.Name)
		if err != nil {
			return err
		}
		if s.File != file || seen[s.Name] {
			return fmt.Errorf("section %s is listed twice, or with a file that is not its own", s.Name)
		}
		seen[s.Name] = true
		if err := m.checkState(&s); err != nil {
			return fmt.Errorf("section %s: %w", s.Name, err)
		}
	}
	if command.CheckpointDigest(m.Summary()) != m.Digest {
		return errors.New("its digest is not that of its sections")
	}
	return nil
}

// format is the one that the manifest must have.
func (m *Manifest) format() int {
	for i := range m.Sections {
		if _, ok := m.Sections[i].StateOf(); ok {
			return Format
		}
	}
	return formatPlain
}

func (m *Manifest) checkState(s *SectionFile) error {
	if _, ok := s.StateOf(); ok != (s.State != nil) {
		return errors.New("what is said of a captured state is missing, or where none is")
	}
	if s.State == nil {
		return nil
	}
	if s.State.Position > m.Position {
		return fmt.Errorf("its state is as of position %d, after the checkpoint's, %d", s.State.Position, m.Position)
	}
	return s.State.check(s.Keys, s.Bytes)
}

// check holds the size of a state against its section's.
func (s *State) check(keys, bytes uint64) error {
	if s.Bytes > MaxStateBytes {
		return fmt.Errorf("its state has %d bytes; at most %d", s.Bytes, uint64(MaxStateBytes))
	}
	if keys != pieces(s.Bytes) || bytes != s.Bytes+keys*pieceKeyBytes {
		return fmt.Errorf("a state of %d bytes is not %d records of %d bytes", s.Bytes, keys, bytes)
	}
	return nil
}

// fileOf names the file of a section.
func fileOf(section string) (string, error) {
	switch section {
	case "meta", "outcomes":
		return section + ".zst", nil
	}
	for prefix, file := range map[string]string{sectionParticipant: "p-", command.SectionState: stateFilePrefix} {
		if name, ok := strings.CutPrefix(section, prefix); ok && command.CheckName(name) == nil {
			return file + name + ".zst", nil
		}
	}
	return "", fmt.Errorf("checkpoint: %.100q is no section", section)
}

// stateFilePrefix begins the names of files that several checkpoints may share.
const stateFilePrefix = "s-"

func readManifest(dir string) (Manifest, error) {
	path := filepath.Join(dir, manifestFile)
	f, err := os.Open(path)
	if err != nil {
		return Manifest{}, &CorruptError{File: path, Detail: err.Error()}
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxManifestBytes+1))
	if err != nil {
		return Manifest{}, &CorruptError{File: path, Detail: err.Error()}
	}
	if len(data) > maxManifestBytes {
		return Manifest{}, &CorruptError{File: path, Detail: "it is larger than any manifest"}
	}
	return decodeManifest(path, data)
}

var dirPattern = regexp.MustCompile(`^cp-(\d{10,20})$`)

// DirName is the name of a checkpoint's directory.
func DirName(number uint64) string { return fmt.Sprintf("cp-%010d", number) }

func numberOf(name string) (uint64, bool) {
	match := dirPattern.FindStringSubmatch(name)
	if match == nil {
		return 0, false
	}
	n, err := strconv.ParseUint(match[1], 10, 64)
	return n, err == nil && n > 0 && DirName(n) == name
}
