package command

import (
	"encoding/binary"

	"github.com/cohort-tx/cohort/txlog/command/wire"
)

// AppendEntry appends the encoding of a log entry. It is what the log keeps and
// what the chain of log hashes is taken over. Fields that do not belong to a
// change's kind are not encoded.
func AppendEntry(dst []byte, e *Entry) []byte {
	version := byte(entryVersion)
	if e.RequestDigest != nil || e.Dropped != nil {
		version = entryVersionDigest
	}
	dst = append(dst, tagEntry, version)
	dst = binary.AppendUvarint(dst, e.Position)
	dst = wire.AppendString(dst, e.ID)
	dst = binary.AppendUvarint(dst, e.Begun)
	dst = binary.AppendUvarint(dst, e.Index)
	dst = binary.AppendVarint(dst, e.TimeUnixNano)
	if version >= entryVersionDigest {
		dst = wire.AppendBytes(dst, e.RequestDigest)
		dst = appendStrings(dst, e.Dropped)
	}
	dst = binary.AppendUvarint(dst, uint64(len(e.Changes)))
	for i := range e.Changes {
		dst = appendChange(dst, &e.Changes[i])
	}
	return dst
}

func appendChange(dst []byte, c *Change) []byte {
	dst = append(dst, byte(c.Kind))
	dst = wire.AppendString(dst, c.Participant)
	switch c.Kind {
	case OpPut:
		dst = wire.AppendString(dst, c.Key)
		dst = wire.AppendBytes(dst, c.Value)
	case OpDelete:
		dst = wire.AppendString(dst, c.Key)
	case OpAdd:
		dst = wire.AppendString(dst, c.Key)
		dst = wire.AppendBytes(dst, c.Value)
		dst = binary.AppendVarint(dst, c.Delta)
	case OpLog:
		dst = wire.AppendBytes(dst, c.Value)
		dst = binary.AppendUvarint(dst, c.AppliedEpoch)
	}
	return dst
}

// DecodeEntry decodes what AppendEntry made. The values of its changes and the
// request's digest alias data; its strings do not. The digest is nil only in an
// entry of version 1.
func DecodeEntry(data []byte) (Entry, error) {
	r := wire.NewReader(data)
	version := header(&r, tagEntry, entryVersionDigest)
	e := Entry{
		Position:     r.Uvarint(),
		ID:           r.String(),
		Begun:        r.Uvarint(),
		Index:        r.Uvarint(),
		TimeUnixNano: r.Varint(),
	}
	if version >= entryVersionDigest {
		if e.RequestDigest = r.Bytes(); e.RequestDigest == nil {
			e.RequestDigest = []byte{}
		}
		e.Dropped = readStrings(&r)
	}
	if n := r.Count(3); n > 0 {
		// A change is some 25 times larger in memory than its shortest encoding:
		// growing as they come keeps a false count from costing that much.
		e.Changes = make([]Change, 0, min(n, 64))
		for range n {
			e.Changes = append(e.Changes, readChange(&r))
			if r.Err() != nil {
				break
			}
		}
	}
	if err := r.Finish(); err != nil {
		return Entry{}, malformed("a log entry", err)
	}
	return e, nil
}

func readChange(r *wire.Reader) Change {
	c := Change{Kind: OpKind(r.Byte()), Participant: r.String()}
	switch c.Kind {
	case OpPut:
		c.Key = r.String()
		c.Value = r.Bytes()
	case OpDelete:
		c.Key = r.String()
	case OpAdd:
		c.Key = r.String()
		c.Value = r.Bytes()
		c.Delta = r.Varint()
	case OpLog:
		c.Value = r.Bytes()
		c.AppliedEpoch = r.Uvarint()
	default:
		r.Fail("a change has an unknown kind")
	}
	return c
}
