package machine

import (
	"encoding/binary"
	"fmt"

	"github.com/cohort-tx/cohort/txlog/command/wire"
)

// recordVersion is the first byte of every record but data.
const recordVersion = 1

// metaVersionLevel is the version of meta with a feature level and the seal. It
// is written if one of them is set, so that below level 2 every release reads it.
const metaVersionLevel = 2

// Meta is what the machine keeps about the group as a whole: one record, written
// at most once per entry.
type Meta struct {
	// Incarnation is the life of the log that positions belong to; 0 before the
	// group is configured.
	Incarnation uint64
	// Position of the last committed transaction, 0 before the first.
	Position uint64
	// LogHash is the chain over all log entries: SHA-256 of the hash before and
	// the entry's encoding.
	LogHash [32]byte
	// CoordinatorEpoch and CoordinatorNode are of the coordinator in charge, since
	// the entry FirstIndexOfEpoch.
	CoordinatorEpoch  uint64
	CoordinatorNode   string
	FirstIndexOfEpoch uint64
	// Horizon is the Raft index before which outcomes are forgotten.
	Horizon uint64
	// Outcomes is how many outcome records there are.
	Outcomes uint64
	// LastDecided is the index of the last entry with an outcome.
	LastDecided uint64
	// TimeUnixNano is the newest time of a coordinator in charge.
	TimeUnixNano int64
	// ConfigVersion is the version of the last Configure, 0 before the first.
	ConfigVersion uint64
	// Refusals counts the undecodable batches and unknown commands so far.
	Refusals uint64
	// FeatureLevel of the group; 0 and 1 are the same.
	FeatureLevel uint64
	// Sealed: no transaction commits any more, for the restore SealToken.
	Sealed    bool
	SealToken string
}

// ReadMeta reads the meta record; before the first entry it is zero.
func ReadMeta(r Reader) (Meta, error) {
	v, found, err := r.Get(metaKey)
	if err != nil || !found {
		return Meta{}, err
	}
	return decodeMeta(v)
}

func appendMeta(dst []byte, m *Meta) []byte {
	version := byte(recordVersion)
	if m.FeatureLevel >= 2 || m.Sealed || m.SealToken != "" {
		version = metaVersionLevel
	}
	dst = append(dst, version)
	dst = binary.AppendUvarint(dst, m.Incarnation)
	dst = binary.AppendUvarint(dst, m.Position)
	dst = append(dst, m.LogHash[:]...)
	dst = binary.AppendUvarint(dst, m.CoordinatorEpoch)
	dst = wire.AppendString(dst, m.CoordinatorNode)
	dst = binary.AppendUvarint(dst, m.FirstIndexOfEpoch)
	dst = binary.AppendUvarint(dst, m.Horizon)
	dst = binary.AppendUvarint(dst, m.Outcomes)
	dst = binary.AppendUvarint(dst, m.LastDecided)
	dst = binary.AppendVarint(dst, m.TimeUnixNano)
	dst = binary.AppendUvarint(dst, m.ConfigVersion)
	dst = binary.AppendUvarint(dst, m.Refusals)
	if version < metaVersionLevel {
		return dst
	}
	dst = binary.AppendUvarint(dst, m.FeatureLevel)
	dst = wire.AppendBool(dst, m.Sealed)
	return wire.AppendString(dst, m.SealToken)
}

func decodeMeta(v []byte) (Meta, error) {
	r, version := openRecordUpTo(v, metaVersionLevel)
	var m Meta
	m.Incarnation = r.Uvarint()
	m.Position = r.Uvarint()
	copy(m.LogHash[:], r.Fixed(len(m.LogHash)))
	m.CoordinatorEpoch = r.Uvarint()
	m.CoordinatorNode = r.String()
	m.FirstIndexOfEpoch = r.Uvarint()
	m.Horizon = r.Uvarint()
	m.Outcomes = r.Uvarint()
	m.LastDecided = r.Uvarint()
	m.TimeUnixNano = r.Varint()
	m.ConfigVersion = r.Uvarint()
	m.Refusals = r.Uvarint()
	if version >= metaVersionLevel {
		m.FeatureLevel = r.Uvarint()
		m.Sealed = r.Bool()
		m.SealToken = r.String()
	}
	if err := r.Finish(); err != nil {
		return Meta{}, &CorruptError{Key: metaKey, Err: err}
	}
	return m, nil
}

// openRecord reads a record's version.
func openRecord(v []byte) wire.Reader {
	r, _ := openRecordUpTo(v, recordVersion)
	return r
}

// openRecordUpTo reads the version of a record that has several.
func openRecordUpTo(v []byte, newest byte) (wire.Reader, byte) {
	r := wire.NewReader(v)
	version := r.Byte()
	if version < recordVersion || version > newest {
		r.Fail(fmt.Sprintf("version %d is not known here, only up to %d", version, newest))
	}
	return r, version
}
