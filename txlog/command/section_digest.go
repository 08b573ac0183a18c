package command

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
)

// SectionHash makes the digest of a section: SHA-256 over, for each record in key
// order, the lengths of key and value as varints and then both.
type SectionHash struct {
	name        string
	hash        hash.Hash
	buf         []byte
	keys, bytes uint64
}

// NewSectionHash begins a section.
func NewSectionHash(name string) *SectionHash {
	return &SectionHash{name: name, hash: sha256.New()}
}

// Add takes the next record.
func (s *SectionHash) Add(key, value []byte) {
	s.buf = binary.AppendUvarint(s.buf[:0], uint64(len(key)))
	s.buf = binary.AppendUvarint(s.buf, uint64(len(value)))
	s.buf = append(s.buf, key...)
	s.hash.Write(s.buf) // never fails
	s.hash.Write(value)
	s.keys++
	s.bytes += uint64(len(key) + len(value))
}

// Section sums up what was added.
func (s *SectionHash) Section() Section {
	out := Section{Name: s.name, Keys: s.keys, Bytes: s.bytes}
	s.hash.Sum(out.Digest[:0])
	return out
}

// CheckpointDigest is the digest over sections, in their order: SHA-256 over, for
// each, the length of its name as a varint, the name, keys and bytes in 8 bytes
// each, big-endian, and its digest.
func CheckpointDigest(sections []Section) (sum [32]byte) {
	h := sha256.New()
	var buf []byte
	for i := range sections {
		s := &sections[i]
		buf = binary.AppendUvarint(buf[:0], uint64(len(s.Name)))
		buf = append(buf, s.Name...)
		buf = binary.BigEndian.AppendUint64(buf, s.Keys)
		buf = binary.BigEndian.AppendUint64(buf, s.Bytes)
		buf = append(buf, s.Digest[:]...)
		h.Write(buf) // never fails
	}
	h.Sum(sum[:0])
	return sum
}
