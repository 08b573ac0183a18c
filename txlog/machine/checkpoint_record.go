package machine

import (
	"bytes"
	"encoding/binary"

	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/command/wire"
)

// ReadCheckpoint reads the record of an attempt by its number.
func ReadCheckpoint(r Reader, number uint64) (Checkpoint, bool, error) {
	key := appendCheckpointKey(nil, number)
	v, found, err := r.Get(key)
	if err != nil || !found {
		return Checkpoint{}, false, err
	}
	c, err := decodeCheckpoint(key, v)
	return c, err == nil, err
}

// ReadCheckpoints reads all attempts that are recorded, by number.
func ReadCheckpoints(r Reader) ([]Checkpoint, error) {
	var all []Checkpoint
	err := r.Scan([]byte{tableCheckpoint}, tableEnd(tableCheckpoint), func(k, v []byte) (bool, error) {
		c, err := decodeCheckpoint(k, v)
		all = append(all, c)
		return true, err
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

// ReadSchedule reads what is kept about checkpoints as a whole; before feature
// level 2 it is zero.
func ReadSchedule(r Reader) (Schedule, error) {
	v, found, err := r.Get(scheduleKey)
	if err != nil || !found {
		return Schedule{}, err
	}
	s, err := decodeSchedule(v)
	if err != nil {
		return Schedule{}, err
	}
	meta, err := ReadMeta(r)
	s.LogBytes = meta.LogBytes
	return s, err
}

// ReadOrigin reads what the incarnation was made from; the first one has none.
func ReadOrigin(r Reader) (Origin, bool, error) {
	v, found, err := r.Get(originKey)
	if err != nil || !found {
		return Origin{}, false, err
	}
	o, err := decodeOrigin(v)
	return o, err == nil, err
}

// AppendCheckpoint appends the encoding of a record; DecodeCheckpoint reads it.
func AppendCheckpoint(dst []byte, c *Checkpoint) []byte {
	dst = append(dst, recordVersion)
	dst = binary.AppendUvarint(dst, c.Number)
	dst = append(dst, byte(c.State))
	dst = command.AppendCheckpointRequest(dst, &c.Request)
	dst = binary.AppendUvarint(dst, c.Incarnation)
	dst = binary.AppendUvarint(dst, c.Index)
	dst = binary.AppendUvarint(dst, c.Position)
	dst = append(dst, c.LogHash[:]...)
	dst = binary.AppendVarint(dst, c.TimeUnixNano)
	dst = binary.AppendUvarint(dst, c.WaitNanos)
	dst = binary.AppendUvarint(dst, c.PauseNanos)
	dst = command.AppendStrings(dst, c.Members)
	dst = binary.AppendUvarint(dst, c.MinCopies)
	dst = binary.AppendUvarint(dst, uint64(len(c.Copies)))
	for i := range c.Copies {
		dst = appendCopy(dst, &c.Copies[i])
	}
	dst = append(dst, c.Digest[:]...)
	dst = command.AppendSections(dst, c.Sections)
	dst = binary.AppendVarint(dst, c.CompletedUnixNano)
	dst = wire.AppendString(dst, c.Detail)
	dst = wire.AppendString(dst, c.Transaction)
	return wire.AppendString(dst, c.Participant)
}

func appendCopy(dst []byte, c *Copy) []byte {
	dst = wire.AppendString(dst, c.Node)
	dst = append(dst, byte(c.State))
	dst = append(dst, c.Digest[:]...)
	dst = binary.AppendUvarint(dst, c.Bytes)
	dst = binary.AppendUvarint(dst, c.WriteNanos)
	dst = binary.AppendVarint(dst, c.TimeUnixNano)
	dst = wire.AppendString(dst, c.Detail)
	return binary.AppendUvarint(dst, c.Rebuilt)
}

// DecodeCheckpoint reads what AppendCheckpoint wrote.
func DecodeCheckpoint(v []byte) (Checkpoint, error) { return decodeCheckpoint(nil, v) }

func decodeCheckpoint(key, v []byte) (Checkpoint, error) {
	r := openRecord(v)
	var c Checkpoint
	c.Number = r.Uvarint()
	c.State = CheckpointState(r.Byte())
	c.Request = command.ReadCheckpointRequest(&r)
	c.Incarnation = r.Uvarint()
	c.Index = r.Uvarint()
	c.Position = r.Uvarint()
	copy(c.LogHash[:], r.Fixed(len(c.LogHash)))
	c.TimeUnixNano = r.Varint()
	c.WaitNanos = r.Uvarint()
	c.PauseNanos = r.Uvarint()
	c.Members = command.ReadStrings(&r)
	c.MinCopies = r.Uvarint()
	for range r.Count(32) {
		c.Copies = append(c.Copies, readCopy(&r))
		if r.Err() != nil {
			break
		}
	}
	copy(c.Digest[:], r.Fixed(len(c.Digest)))
	c.Sections = command.ReadSections(&r)
	c.CompletedUnixNano = r.Varint()
	c.Detail = r.String()
	c.Transaction = r.String()
	c.Participant = r.String()
	if err := r.Finish(); err != nil {
		return Checkpoint{}, &CorruptError{Key: bytes.Clone(key), Err: err}
	}
	return c, nil
}

func readCopy(r *wire.Reader) Copy {
	c := Copy{Node: r.String(), State: command.CopyState(r.Byte())}
	copy(c.Digest[:], r.Fixed(len(c.Digest)))
	c.Bytes = r.Uvarint()
	c.WriteNanos = r.Uvarint()
	c.TimeUnixNano = r.Varint()
	c.Detail = r.String()
	c.Rebuilt = r.Uvarint()
	return c
}

func appendSchedule(dst []byte, s *Schedule) []byte {
	dst = append(dst, recordVersion)
	dst = binary.AppendUvarint(dst, s.NextNumber)
	dst = binary.AppendVarint(dst, s.SinceUnixNano)
	dst = binary.AppendUvarint(dst, s.CutNumber)
	dst = binary.AppendVarint(dst, s.CutUnixNano)
	dst = binary.AppendUvarint(dst, s.CutPosition)
	dst = binary.AppendUvarint(dst, s.CutLogBytes)
	dst = binary.AppendVarint(dst, s.AttemptUnixNano)
	dst = binary.AppendUvarint(dst, uint64(len(s.Pending)))
	for i := range s.Pending {
		dst = command.AppendCheckpointRequest(dst, &s.Pending[i])
	}
	dst = binary.AppendUvarint(dst, s.LogFrom)
	return command.AppendStrings(dst, s.Dropped)
}

func decodeSchedule(v []byte) (Schedule, error) {
	r := openRecord(v)
	var s Schedule
	s.NextNumber = r.Uvarint()
	s.SinceUnixNano = r.Varint()
	s.CutNumber = r.Uvarint()
	s.CutUnixNano = r.Varint()
	s.CutPosition = r.Uvarint()
	s.CutLogBytes = r.Uvarint()
	s.AttemptUnixNano = r.Varint()
	for range r.Count(5) {
		s.Pending = append(s.Pending, command.ReadCheckpointRequest(&r))
		if r.Err() != nil {
			break
		}
	}
	s.LogFrom = r.Uvarint()
	s.Dropped = command.ReadStrings(&r)
	if err := r.Finish(); err != nil {
		return Schedule{}, &CorruptError{Key: scheduleKey, Err: err}
	}
	return s, nil
}

func appendOrigin(dst []byte, o *Origin) []byte {
	dst = append(dst, recordVersion)
	dst = append(dst, o.Digest[:]...)
	dst = wire.AppendString(dst, o.Group)
	dst = binary.AppendUvarint(dst, o.Incarnation)
	dst = binary.AppendUvarint(dst, o.Position)
	dst = binary.AppendUvarint(dst, o.Checkpoint)
	dst = wire.AppendString(dst, o.Token)
	return wire.AppendBool(dst, o.Begun)
}

func decodeOrigin(v []byte) (Origin, error) {
	r := openRecord(v)
	var o Origin
	copy(o.Digest[:], r.Fixed(len(o.Digest)))
	o.Group = r.String()
	o.Incarnation = r.Uvarint()
	o.Position = r.Uvarint()
	o.Checkpoint = r.Uvarint()
	o.Token = r.String()
	o.Begun = r.Bool()
	if err := r.Finish(); err != nil {
		return Origin{}, &CorruptError{Key: originKey, Err: err}
	}
	return o, nil
}
