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
	syncedVersion = 2
	// syncedSlotGap puts the slots into different pages and sectors, so that one
	// torn write cannot hurt both.
	syncedSlotGap   = 4096
	syncedSlotBytes = 8 + 4 + 8 + 8 + 8 + 4
	// syncedSlotBytes1 is a slot of version 1, which has no D: it was S then.
	syncedSlotBytes1 = 8 + 4 + 8 + 8 + 4
)

var syncedMagic = [8]byte{'C', 'H', 'T', 'S', 'Y', 'N', 'C', 'D'}

// syncedSlots is the file that holds S and D. A write goes to the slot that does not
// hold the newest S and is fsynced before it counts, so one valid slot always
// holds an S whose entries are all on disk.
type syncedSlots struct {
	file     *os.File
	sequence uint64
	index    uint64
	// floor is D: versions below it may be gone.
	floor uint64
}

// createSynced writes a new file at S = D = index.
func createSynced(dir string, index uint64) error {
	f, err := os.OpenFile(filepath.Join(dir, syncedFile), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	s := &syncedSlots{file: f}
	return s.write(index, index)
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
		n, err := s.file.ReadAt(b[:], slot*syncedSlotGap)
		if err != nil && err != io.EOF {
			return err
		}
		// A file that ends within the slot: it was never written, or torn, or it is
		// of version 1.
		version, sequence, index, floor, ok := decodeSlot(b[:n])
		if !ok {
			continue
		}
		if version > syncedVersion {
			return &VersionError{File: path, Found: version, Supported: syncedVersion}
		}
		if sequence >= s.sequence {
			valid, s.sequence, s.index, s.floor = true, sequence, index, floor
		}
	}
	if !valid {
		return &CorruptError{File: path, Detail: "neither slot is valid"}
	}
	return nil
}

func decodeSlot(b []byte) (version uint32, sequence, index, floor uint64, ok bool) {
	if len(b) < syncedSlotBytes1 || [8]byte(b) != syncedMagic {
		return 0, 0, 0, 0, false
	}
	version = binary.BigEndian.Uint32(b[8:])
	size := syncedSlotBytes
	if version == 1 {
		size = syncedSlotBytes1
	}
	if len(b) < size || crc32.Checksum(b[:size-4], castagnoli) != binary.BigEndian.Uint32(b[size-4:]) {
		return 0, 0, 0, 0, false
	}
	sequence, index = binary.BigEndian.Uint64(b[12:]), binary.BigEndian.Uint64(b[20:])
	floor = index
	if version != 1 {
		floor = binary.BigEndian.Uint64(b[28:])
	}
	return version, sequence, index, floor, true
}

func (s *syncedSlots) write(index, floor uint64) error {
	if index < s.index || floor < s.floor || floor > index {
		panic(fmt.Sprintf("store: invariant: S and D rise, and D is at most S (from %d and %d to %d and %d)", s.index, s.floor, index, floor))
	}
	sequence := s.sequence + 1
	b := make([]byte, 0, syncedSlotBytes)
	b = append(b, syncedMagic[:]...)
	b = binary.BigEndian.AppendUint32(b, syncedVersion)
	b = binary.BigEndian.AppendUint64(b, sequence)
	b = binary.BigEndian.AppendUint64(b, index)
	b = binary.BigEndian.AppendUint64(b, floor)
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	if _, err := s.file.WriteAt(b, int64(sequence%2)*syncedSlotGap); err != nil {
		return err
	}
	if err := s.file.Sync(); err != nil {
		return err
	}
	s.sequence, s.index, s.floor = sequence, index, floor
	return nil
}

func (s *syncedSlots) close() error { return s.file.Close() }
