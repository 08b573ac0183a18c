package machine

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash"

	"github.com/cohort-tx/cohort/txlog/command"
)

// versionLen is how much of a data record stands before the value.
const versionLen = 8

var errShortData = errors.New("no room for a version")

func splitData(key, record []byte) (version uint64, value []byte, err error) {
	if len(record) < versionLen {
		return 0, nil, &CorruptError{Key: bytes.Clone(key), Err: errShortData}
	}
	return binary.BigEndian.Uint64(record), record[versionLen:], nil
}

// GetValue reads a participant's key. An absent one has version 0. The value
// must not be changed.
func GetValue(r Reader, cfg Config, participant, key string) (value []byte, version uint64, found bool, err error) {
	p, ok := cfg.Participant(participant)
	if !ok {
		return nil, 0, false, &UnknownParticipantError{Participant: participant}
	}
	k := appendDataKey(nil, p.ID, key)
	record, found, err := r.Get(k)
	if err != nil || !found {
		return nil, 0, false, err
	}
	version, value, err = splitData(k, record)
	return value, version, err == nil, err
}

// ScanValues goes through the live keys of [start, end) in order; an empty end is
// the end of the participant's store. It ends after limit keys (0: no limit), or
// after the key for which fn returns false. What it returns is the read to hand
// in with a Decide: its bounds, cut after the last key when more keys follow,
// and the hash over the (key, version) pairs seen. A value holds until fn
// returns. fn may be nil.
func ScanValues(r Reader, cfg Config, participant, start, end string, limit int, fn func(key string, value []byte, version uint64) (more bool, err error)) (read command.ScanRead, more bool, err error) {
	p, ok := cfg.Participant(participant)
	if !ok {
		return command.ScanRead{}, false, &UnknownParticipantError{Participant: participant}
	}
	read = command.ScanRead{Participant: participant, Start: start, End: end}
	var h scanHash
	h.reset()
	last, stop := "", false
	err = scanData(r, p.ID, start, end, func(k, record []byte) (bool, error) {
		version, value, err := splitData(k, record)
		if err != nil {
			return false, err
		}
		if stop || limit > 0 && h.keys == limit {
			more = true
			return false, nil
		}
		last = string(k[dataPrefixLen:])
		h.add(k[dataPrefixLen:], version)
		if fn != nil {
			goOn, err := fn(last, value, version)
			stop = !goOn
			return true, err
		}
		return true, nil
	})
	if err != nil {
		return command.ScanRead{}, false, err
	}
	if more {
		read.End = last + "\x00"
	}
	read.Hash = h.sum()
	return read, more, nil
}

// scanData goes through the records of a participant's keys [start, end).
func scanData(r Reader, participant uint32, start, end string, fn func(k, record []byte) (bool, error)) error {
	if end != "" && start >= end {
		return nil
	}
	from, to := dataRange(participant, start, end)
	return r.Scan(from, to, fn)
}

// scanHash is the hash of a scan: the first 16 bytes of SHA-256 over, for each
// key in order, its length as a varint, its bytes, and its version in 8 bytes.
type scanHash struct {
	h    hash.Hash
	buf  []byte
	keys int
}

func (s *scanHash) reset() {
	if s.h == nil {
		s.h = sha256.New()
	}
	s.h.Reset()
	s.buf, s.keys = s.buf[:0], 0
}

func (s *scanHash) add(key []byte, version uint64) {
	s.keys++
	s.buf = binary.AppendUvarint(s.buf, uint64(len(key)))
	s.buf = append(s.buf, key...)
	s.buf = binary.BigEndian.AppendUint64(s.buf, version)
	if len(s.buf) >= 4096 {
		s.flush()
	}
}

func (s *scanHash) flush() {
	s.h.Write(s.buf) // never fails
	s.buf = s.buf[:0]
}

func (s *scanHash) sum() (sum [16]byte) {
	s.flush()
	s.buf = s.h.Sum(s.buf)
	copy(sum[:], s.buf)
	s.buf = s.buf[:0]
	return sum
}

// Digest is SHA-256 over the logical state: for each key in order, the lengths of
// key and value as varints and then both.
func Digest(r Reader) (sum [32]byte, keys uint64, err error) {
	h := sha256.New()
	var buf []byte
	err = r.Scan(firstKey, nil, func(k, v []byte) (bool, error) {
		keys++
		buf = binary.AppendUvarint(buf[:0], uint64(len(k)))
		buf = binary.AppendUvarint(buf, uint64(len(v)))
		buf = append(buf, k...)
		h.Write(buf)
		h.Write(v)
		return true, nil
	})
	if err != nil {
		return sum, 0, err
	}
	h.Sum(sum[:0])
	return sum, keys, nil
}

func appendData(dst []byte, version uint64, value []byte) []byte {
	return append(binary.BigEndian.AppendUint64(dst, version), value...)
}
