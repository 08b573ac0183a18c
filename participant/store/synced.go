package store

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
)

const (
	syncedFile    = "SYNCED"
	syncedVersion = 1
	// syncedSlotGap puts the slots into different pages and sectors, so that one
	// torn write cannot hurt both.
	syncedSlotGap   = 4096
	syncedSlotBytes = 8 + 4 + 8 + 8 + 4
)

var syncedMagic = [8]byte{'C', 'H', 'T', 'S', 'Y', 'N', 'C', 'D'}

// syncedSlots is the file that holds S. A write goes to the slot that does not
// hold the newest S and is fsynced before it counts, so one valid slot always
// holds an S whose entries are all on disk.
type syncedSlots struct {
	file     *os.File
	sequence uint64
	index    uint64
}

// createSynced writes a new file at S = index.
func createSynced(dir string, index uint64) error {
	f, err := os.OpenFile(filepath.Join(dir, syncedFile), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	s := &syncedSlots{file: f}
	return s.write(index)
}

func openSynced(dir string) (*syncedSlots, error) {
	path := filepath.Join(dir, syncedFile)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	s := &syncedSlots{file: f}
	if err := s.read(path); err != nil {
		f.Close()
		return nil, err
	}
	return s, nil
}

func (s *syncedSlots) read(path string) error {
	valid := false
	for slot := range int64(2) {
		var b [syncedSlotBytes]byte
		if _, err := s.file.ReadAt(b[:], slot*syncedSlotGap); err == io.EOF {
			continue // the file ends before the slot: it was never written, or torn
		} else if err != nil {
			return err
		}
		version, sequence, index, ok := decodeSlot(b)
		if !ok {
			continue
		}
		if version > syncedVersion {
			return &VersionError{File: path, Found: version, Supported: syncedVersion}
		}
		if sequence >= s.sequence {
			valid, s.sequence, s.index = true, sequence, index
		}
	}
	if !valid {
		return &CorruptError{File: path, Detail: "neither slot is valid"}
	}
	return nil
}

func decodeSlot(b [syncedSlotBytes]byte) (version uint32, sequence, index uint64, ok bool) {
	body, sum := b[:syncedSlotBytes-4], b[syncedSlotBytes-4:]
	if [8]byte(body) != syncedMagic || crc32.Checksum(body, castagnoli) != binary.BigEndian.Uint32(sum) {
		return 0, 0, 0, false
	}
	return binary.BigEndian.Uint32(body[8:]), binary.BigEndian.Uint64(body[12:]), binary.BigEndian.Uint64(body[20:]), true
}

func (s *syncedSlots) write(index uint64) error {
	if index < s.index {
		panic(fmt.Sprintf("store: invariant: S falls from %d to %d", s.index, index))
	}
	sequence := s.sequence + 1
	b := make([]byte, 0, syncedSlotBytes)
	b = append(b, syncedMagic[:]...)
	b = binary.BigEndian.AppendUint32(b, syncedVersion)
	b = binary.BigEndian.AppendUint64(b, sequence)
	b = binary.BigEndian.AppendUint64(b, index)
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	if _, err := s.file.WriteAt(b, int64(sequence%2)*syncedSlotGap); err != nil {
		return err
	}
	if err := s.file.Sync(); err != nil {
		return err
	}
	s.sequence, s.index = sequence, index
	return nil
}

func (s *syncedSlots) close() error { return s.file.Close() }
