package machine

import (
	"bytes"
	"encoding/binary"

	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/command/wire"
)

// Participant is a participant under the id that its data is kept under. Ids
// are never used again: a participant that is dropped and added later has
// another one.
type Participant struct {
	Name string
	ID   uint32
}

// Config is the group's definition as the state machine holds it.
type Config struct {
	Version      uint64
	Participants []Participant // in the order of the definition
	Limits       command.Limits
	Definition   []byte
	// NextID is the id of the next participant that is added.
	NextID uint32
	// Dropped are the ids whose data waits for Purge.
	Dropped []uint32
	// EpochFloor is the highest activation epoch of a dropped participant; the
	// epochs of participants added since begin there, so that an instance of an
	// earlier life of the name stays fenced.
	EpochFloor uint64
}

// Participant finds a participant by name.
func (c *Config) Participant(name string) (Participant, bool) {
	for _, p := range c.Participants {
		if p.Name == name {
			return p, true
		}
	}
	return Participant{}, false
}

// ReadConfig reads the definition; before the first Configure it is zero.
func ReadConfig(r Reader) (Config, error) {
	v, found, err := r.Get(configKey)
	if err != nil || !found {
		return Config{}, err
	}
	return decodeConfig(v)
}

func appendConfig(dst []byte, c *Config) []byte {
	dst = append(dst, recordVersion)
	dst = binary.AppendUvarint(dst, c.Version)
	dst = binary.AppendUvarint(dst, uint64(len(c.Participants)))
	for _, p := range c.Participants {
		dst = wire.AppendString(dst, p.Name)
		dst = binary.AppendUvarint(dst, uint64(p.ID))
	}
	dst = binary.AppendUvarint(dst, c.Limits.ValueBytes)
	dst = binary.AppendUvarint(dst, c.Limits.TransactionBytes)
	dst = binary.AppendUvarint(dst, c.Limits.TransactionKeys)
	dst = binary.AppendUvarint(dst, c.Limits.ScanKeys)
	dst = wire.AppendBytes(dst, c.Definition)
	dst = binary.AppendUvarint(dst, uint64(c.NextID))
	dst = binary.AppendUvarint(dst, uint64(len(c.Dropped)))
	for _, id := range c.Dropped {
		dst = binary.AppendUvarint(dst, uint64(id))
	}
	return binary.AppendUvarint(dst, c.EpochFloor)
}

// DecodeConfig reads the "config" record of a checkpoint.
func DecodeConfig(v []byte) (Config, error) { return decodeConfig(v) }

func decodeConfig(v []byte) (Config, error) {
	r := openRecord(v)
	id := func() uint32 {
		u := r.Uvarint()
		if u > 1<<32-1 {
			r.Fail("a participant id has more than 32 bits")
		}
		return uint32(u)
	}
	var c Config
	c.Version = r.Uvarint()
	for range r.Count(2) {
		c.Participants = append(c.Participants, Participant{Name: r.String(), ID: id()})
	}
	c.Limits.ValueBytes = r.Uvarint()
	c.Limits.TransactionBytes = r.Uvarint()
	c.Limits.TransactionKeys = r.Uvarint()
	c.Limits.ScanKeys = r.Uvarint()
	c.Definition = bytes.Clone(r.Bytes())
	c.NextID = id()
	for range r.Count(1) {
		c.Dropped = append(c.Dropped, id())
	}
	c.EpochFloor = r.Uvarint()
	if err := r.Finish(); err != nil {
		return Config{}, &CorruptError{Key: configKey, Err: err}
	}
	return c, nil
}
