package command

import (
	"encoding/binary"

	"github.com/cohort-tx/cohort/txlog/command/wire"
)

func appendStrings(dst []byte, all []string) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(all)))
	for _, s := range all {
		dst = wire.AppendString(dst, s)
	}
	return dst
}

func readStrings(r *wire.Reader) []string {
	n := r.Count(1)
	if n == 0 {
		return nil
	}
	// A string's header is larger than its shortest encoding: see DecodeEntry.
	all := make([]string, 0, min(n, 64))
	for range n {
		all = append(all, r.String())
	}
	return all
}

// AppendCheckpointRequest appends the encoding of a request;
// ReadCheckpointRequest reads it.
func AppendCheckpointRequest(dst []byte, q *CheckpointRequest) []byte {
	dst = wire.AppendString(dst, q.Token)
	dst = append(dst, byte(q.Trigger))
	dst = wire.AppendString(dst, q.By)
	dst = appendStrings(dst, q.Participants)
	return binary.AppendVarint(dst, q.TimeUnixNano)
}

// ReadCheckpointRequest reads what AppendCheckpointRequest wrote.
func ReadCheckpointRequest(r *wire.Reader) CheckpointRequest {
	return CheckpointRequest{
		Token:        r.String(),
		Trigger:      Trigger(r.Byte()),
		By:           r.String(),
		Participants: readStrings(r),
		TimeUnixNano: r.Varint(),
	}
}

// AppendSections appends the encoding of sections; ReadSections reads it.
func AppendSections(dst []byte, sections []Section) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(sections)))
	for i := range sections {
		dst = AppendSection(dst, &sections[i])
	}
	return dst
}

// AppendSection appends the encoding of one section; ReadSection reads it.
func AppendSection(dst []byte, s *Section) []byte {
	dst = wire.AppendString(dst, s.Name)
	dst = binary.AppendUvarint(dst, s.Keys)
	dst = binary.AppendUvarint(dst, s.Bytes)
	return append(dst, s.Digest[:]...)
}

// ReadSection reads what AppendSection wrote.
func ReadSection(r *wire.Reader) Section {
	s := Section{Name: r.String(), Keys: r.Uvarint(), Bytes: r.Uvarint()}
	copy(s.Digest[:], r.Fixed(len(s.Digest)))
	return s
}

// ReadSections reads what AppendSections wrote.
func ReadSections(r *wire.Reader) []Section {
	n := r.Count(3 + 32)
	if n == 0 {
		return nil
	}
	sections := make([]Section, n)
	for i := range sections {
		sections[i] = ReadSection(r)
	}
	return sections
}

// appendCheckpointCommand appends a command of feature level 2 or 3.
func appendCheckpointCommand(dst []byte, c Command) []byte {
	switch c := c.(type) {
	case *FeatureLevel:
		return binary.AppendUvarint(dst, c.Level)
	case *RequestCheckpoint:
		return AppendCheckpointRequest(dst, &c.CheckpointRequest)
	case *Checkpoint:
		dst = AppendCheckpointRequest(dst, &c.CheckpointRequest)
		dst = appendStrings(dst, c.Serves)
		dst = binary.AppendUvarint(dst, c.WaitNanos)
		dst = appendStrings(dst, c.Members)
		dst = binary.AppendUvarint(dst, c.MinCopies)
		dst = wire.AppendBool(dst, c.Seal)
		dst = wire.AppendString(dst, c.SealToken)
		if len(c.Captures) > 0 {
			dst = appendStrings(dst, c.Captures)
		}
		return dst
	case *AbandonCheckpoint:
		dst = AppendCheckpointRequest(dst, &c.CheckpointRequest)
		dst = appendStrings(dst, c.Serves)
		dst = binary.AppendUvarint(dst, c.WaitNanos)
		dst = wire.AppendString(dst, c.Detail)
		dst = wire.AppendString(dst, c.Transaction)
		return wire.AppendString(dst, c.Participant)
	case *NotePause:
		dst = binary.AppendUvarint(dst, c.Number)
		return binary.AppendUvarint(dst, c.PauseNanos)
	case *ReportCopy:
		dst = binary.AppendUvarint(dst, c.Number)
		dst = wire.AppendString(dst, c.Node)
		dst = append(dst, byte(c.State))
		dst = wire.AppendBool(dst, c.Rebuilt)
		dst = append(dst, c.Digest[:]...)
		dst = AppendSections(dst, c.Sections)
		dst = binary.AppendUvarint(dst, c.Bytes)
		dst = binary.AppendUvarint(dst, c.WriteNanos)
		return wire.AppendString(dst, c.Detail)
	case *ReportCapture:
		dst = binary.AppendUvarint(dst, c.Number)
		dst = wire.AppendString(dst, c.Participant)
		dst = binary.AppendUvarint(dst, c.Epoch)
		dst = binary.AppendUvarint(dst, c.Position)
		dst = wire.AppendString(dst, c.Node)
		dst = AppendSection(dst, &c.Section)
		dst = binary.AppendUvarint(dst, c.Bytes)
		dst = append(dst, c.SHA256[:]...)
		return wire.AppendString(dst, c.Failure)
	case *Retain:
		dst = binary.AppendUvarint(dst, uint64(len(c.Drop)))
		for _, n := range c.Drop {
			dst = binary.AppendUvarint(dst, n)
		}
		return binary.AppendUvarint(dst, c.LogFrom)
	case *Unseal:
		return wire.AppendString(dst, c.Token)
	case *Begin:
		dst = binary.AppendUvarint(dst, c.Incarnation)
		dst = append(dst, c.Digest[:]...)
		dst = binary.AppendUvarint(dst, uint64(len(c.Carried)))
		for _, record := range c.Carried {
			dst = wire.AppendBytes(dst, record)
		}
	}
	return dst
}

// checkpointCommand reads a command of feature level 2 or 3, nil if the kind is
// none.
func checkpointCommand(r *wire.Reader, kind Kind) Command {
	switch kind {
	case KindFeatureLevel:
		return &FeatureLevel{Level: r.Uvarint()}
	case KindRequestCheckpoint:
		return &RequestCheckpoint{ReadCheckpointRequest(r)}
	case KindCheckpoint:
		return checkpoint(r)
	case KindAbandonCheckpoint:
		return &AbandonCheckpoint{
			CheckpointRequest: ReadCheckpointRequest(r),
			Serves:            readStrings(r),
			WaitNanos:         r.Uvarint(),
			Detail:            r.String(),
			Transaction:       r.String(),
			Participant:       r.String(),
		}
	case KindNotePause:
		return &NotePause{Number: r.Uvarint(), PauseNanos: r.Uvarint()}
	case KindReportCopy:
		return reportCopy(r)
	case KindReportCapture:
		c := &ReportCapture{
			Number:      r.Uvarint(),
			Participant: r.String(),
			Epoch:       r.Uvarint(),
			Position:    r.Uvarint(),
			Node:        r.String(),
			Section:     ReadSection(r),
			Bytes:       r.Uvarint(),
		}
		copy(c.SHA256[:], r.Fixed(len(c.SHA256)))
		c.Failure = r.String()
		return c
	case KindRetain:
		c := &Retain{}
		if n := r.Count(1); n > 0 {
			c.Drop = make([]uint64, 0, min(n, 64))
			for range n {
				c.Drop = append(c.Drop, r.Uvarint())
			}
		}
		c.LogFrom = r.Uvarint()
		return c
	case KindUnseal:
		return &Unseal{Token: r.String()}
	case KindBegin:
		c := &Begin{Incarnation: r.Uvarint()}
		copy(c.Digest[:], r.Fixed(len(c.Digest)))
		if n := r.Count(1); n > 0 {
			c.Carried = make([][]byte, 0, min(n, 64))
			for range n {
				c.Carried = append(c.Carried, r.Bytes())
			}
		}
		return c
	}
	return nil
}

func checkpoint(r *wire.Reader) *Checkpoint {
	c := &Checkpoint{
		CheckpointRequest: ReadCheckpointRequest(r),
		Serves:            readStrings(r),
		WaitNanos:         r.Uvarint(),
		Members:           readStrings(r),
		MinCopies:         r.Uvarint(),
		Seal:              r.Bool(),
		SealToken:         r.String(),
	}
	if r.Rest() > 0 {
		if c.Captures = readStrings(r); len(c.Captures) == 0 {
			r.Fail("a list of captures is empty")
		}
	}
	return c
}

func reportCopy(r *wire.Reader) *ReportCopy {
	c := &ReportCopy{Number: r.Uvarint(), Node: r.String(), State: CopyState(r.Byte()), Rebuilt: r.Bool()}
	copy(c.Digest[:], r.Fixed(len(c.Digest)))
	c.Sections = ReadSections(r)
	c.Bytes = r.Uvarint()
	c.WriteNanos = r.Uvarint()
	c.Detail = r.String()
	return c
}
