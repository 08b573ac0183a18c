package machine

import (
	"bytes"
	"encoding/binary"

	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/command/wire"
)

// ReadCheckpoint reads the record of a checkpoint.
func ReadCheckpoint(r Reader, number uint64) (Checkpoint, bool, error) {
	key := appendCheckpointKey(nil, number)
	v, found, err := r.Get(key)
	if err != nil || !found {
		return Checkpoint{}, false, err
	}
	c, err := readCheckpointRecord(key, v)
	return c, err == nil, err
}

// ReadCheckpoints reads the records of all checkpoints by number.
func ReadCheckpoints(r Reader) ([]Checkpoint, error) {
	var all []Checkpoint
	err := r.Scan([]byte{tableCheckpoint}, tableEnd(tableCheckpoint), func(k, v []byte) (bool, error) {
		c, err := readCheckpointRecord(k, v)
		all = append(all, c)
		return true, err
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

func readCheckpointRecord(key, v []byte) (Checkpoint, error) {
	c, err := DecodeCheckpoint(v)
	if err == nil && !bytes.Equal(key, appendCheckpointKey(nil, c.Number)) {
		err = errWrongKey
	}
	if err != nil {
		return Checkpoint{}, &CorruptError{Key: bytes.Clone(key), Err: err}
	}
	return c, nil
}

// ReadSchedule reads what is kept about checkpoints as a whole; below feature
// level 2 it is zero.
func ReadSchedule(r Reader) (Schedule, error) {
	v, found, err := r.Get(scheduleKey)
	if err != nil || !found {
		return Schedule{}, err
	}
	return decodeSchedule(v)
}

// ReadOrigin reads what the incarnation was made from.
func ReadOrigin(r Reader) (Origin, bool, error) {
	v, found, err := r.Get(originKey)
	if err != nil || !found {
		return Origin{}, false, err
	}
	o, err := decodeOrigin(v)
	return o, err == nil, err
}

func appendNames(dst []byte, names []string) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(names)))
	for _, n := range names {
		dst = wire.AppendString(dst, n)
	}
	return dst
}

func readNames(r *wire.Reader) []string {
	var names []string
	for range r.Count(1) {
		names = append(names, r.String())
	}
	return names
}

// AppendCheckpoint appends the record of a checkpoint, as it is stored and as
// Begin carries it.
func AppendCheckpoint(dst []byte, c *Checkpoint) []byte {
	version := byte(recordVersion)
	if len(c.Captures) > 0 || c.LogFrom != 0 {
		version = checkpointVersionCaptures
	}
	dst = append(dst, version)
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
	dst = appendNames(dst, c.Members)
	dst = binary.AppendUvarint(dst, c.MinCopies)
	dst = binary.AppendUvarint(dst, uint64(len(c.Copies)))
	for i := range c.Copies {
		p := &c.Copies[i]
		dst = wire.AppendString(dst, p.Node)
		dst = append(dst, byte(p.State))
		dst = append(dst, p.Digest[:]...)
		dst = binary.AppendUvarint(dst, p.Bytes)
		dst = binary.AppendUvarint(dst, p.WriteNanos)
		dst = binary.AppendVarint(dst, p.TimeUnixNano)
		dst = wire.AppendString(dst, p.Detail)
		dst = binary.AppendUvarint(dst, p.Rebuilt)
	}
	dst = append(dst, c.Digest[:]...)
	dst = command.AppendSections(dst, c.Sections)
	dst = binary.AppendVarint(dst, c.CompletedUnixNano)
	dst = wire.AppendString(dst, c.Detail)
	dst = wire.AppendString(dst, c.Transaction)
	dst = wire.AppendString(dst, c.Participant)
	if version < checkpointVersionCaptures {
		return dst
	}
	dst = binary.AppendUvarint(dst, uint64(len(c.Captures)))
	for i := range c.Captures {
		dst = appendCapture(dst, &c.Captures[i])
	}
	dst = binary.AppendUvarint(dst, c.LogFrom)
	return appendCut(dst, &c.Before)
}

func appendCut(dst []byte, c *Cut) []byte {
	dst = binary.AppendUvarint(dst, c.Number)
	dst = binary.AppendVarint(dst, c.UnixNano)
	dst = binary.AppendUvarint(dst, c.Position)
	return binary.AppendUvarint(dst, c.LogBytes)
}

func readCut(r *wire.Reader) Cut {
	return Cut{Number: r.Uvarint(), UnixNano: r.Varint(), Position: r.Uvarint(), LogBytes: r.Uvarint()}
}

// checkpointVersionCaptures is the version of a checkpoint's record with captures,
// or with need of the log before it. It is written for these alone, so that below
// level 3 every release reads it.
const checkpointVersionCaptures = 2

// DecodeCheckpoint decodes what AppendCheckpoint wrote. Nothing of it aliases v.
func DecodeCheckpoint(v []byte) (Checkpoint, error) {
	r, version := openRecordUpTo(v, checkpointVersionCaptures)
	c := Checkpoint{Number: r.Uvarint(), State: CheckpointState(r.Byte())}
	if c.State < CheckpointWriting || c.State > CheckpointFailed {
		r.Fail("a checkpoint has an unknown state")
	}
	c.Request = command.ReadCheckpointRequest(&r)
	c.Incarnation = r.Uvarint()
	c.Index = r.Uvarint()
	c.Position = r.Uvarint()
	copy(c.LogHash[:], r.Fixed(len(c.LogHash)))
	c.TimeUnixNano = r.Varint()
	c.WaitNanos = r.Uvarint()
	c.PauseNanos = r.Uvarint()
	c.Members = readNames(&r)
	c.MinCopies = r.Uvarint()
	for range r.Count(39) {
		p := Copy{Node: r.String(), State: command.CopyState(r.Byte())}
		copy(p.Digest[:], r.Fixed(len(p.Digest)))
		p.Bytes = r.Uvarint()
		p.WriteNanos = r.Uvarint()
		p.TimeUnixNano = r.Varint()
		p.Detail = r.String()
		p.Rebuilt = r.Uvarint()
		c.Copies = append(c.Copies, p)
	}
	copy(c.Digest[:], r.Fixed(len(c.Digest)))
	c.Sections = command.ReadSections(&r)
	c.CompletedUnixNano = r.Varint()
	c.Detail = r.String()
	c.Transaction = r.String()
	c.Participant = r.String()
	if version >= checkpointVersionCaptures {
		for range r.Count(captureMinBytes) {
			c.Captures = append(c.Captures, readCapture(&r))
		}
		if c.LogFrom = r.Uvarint(); len(c.Captures) == 0 && c.LogFrom == 0 {
			r.Fail("a checkpoint without captures is of version 1")
		}
		c.Before = readCut(&r)
	}
	if err := r.Finish(); err != nil {
		return Checkpoint{}, err
	}
	return c, nil
}

func appendSchedule(dst []byte, s *Schedule) []byte {
	dst = append(dst, recordVersion)
	dst = binary.AppendUvarint(dst, s.NextNumber)
	dst = binary.AppendUvarint(dst, s.LogBytes)
	dst = binary.AppendVarint(dst, s.SinceUnixNano)
	dst = appendCut(dst, &s.Cut)
	dst = binary.AppendVarint(dst, s.AttemptUnixNano)
	dst = binary.AppendUvarint(dst, uint64(len(s.Pending)))
	for i := range s.Pending {
		dst = command.AppendCheckpointRequest(dst, &s.Pending[i])
	}
	dst = binary.AppendUvarint(dst, s.LogFrom)
	return appendNames(dst, s.Dropped)
}

func decodeSchedule(v []byte) (Schedule, error) {
	r := openRecord(v)
	s := Schedule{
		NextNumber:      r.Uvarint(),
		LogBytes:        r.Uvarint(),
		SinceUnixNano:   r.Varint(),
		Cut:             readCut(&r),
		AttemptUnixNano: r.Varint(),
	}
	for range r.Count(5) {
		s.Pending = append(s.Pending, command.ReadCheckpointRequest(&r))
	}
	s.LogFrom = r.Uvarint()
	s.Dropped = readNames(&r)
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
