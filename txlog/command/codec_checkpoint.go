package command

import (
	"encoding/binary"

	"github.com/cohort-tx/cohort/txlog/command/wire"
)

// appendCheckpointCommand appends the content of a command of feature level 2.
func appendCheckpointCommand(dst []byte, c Command) []byte {
	switch c := c.(type) {
	case *FeatureLevel:
		dst = binary.AppendUvarint(dst, c.Level)
	case *RequestCheckpoint:
		dst = AppendCheckpointRequest(dst, &c.CheckpointRequest)
	case *Checkpoint:
		dst = AppendCheckpointRequest(dst, &c.CheckpointRequest)
		dst = AppendStrings(dst, c.Serves)
		dst = binary.AppendUvarint(dst, c.WaitNanos)
		dst = AppendStrings(dst, c.Members)
		dst = binary.AppendUvarint(dst, c.MinCopies)
		dst = wire.AppendBool(dst, c.Seal)
		dst = wire.AppendString(dst, c.SealToken)
	case *AbandonCheckpoint:
		dst = AppendCheckpointRequest(dst, &c.CheckpointRequest)
		dst = AppendStrings(dst, c.Serves)
		dst = binary.AppendUvarint(dst, c.WaitNanos)
		dst = wire.AppendString(dst, c.Detail)
		dst = wire.AppendString(dst, c.Transaction)
		dst = wire.AppendString(dst, c.Participant)
	case *NotePause:
		dst = binary.AppendUvarint(dst, c.Number)
		dst = binary.AppendUvarint(dst, c.PauseNanos)
	case *ReportCopy:
		dst = appendReportCopy(dst, c)
	case *Retain:
		dst = binary.AppendUvarint(dst, uint64(len(c.Drop)))
		for _, n := range c.Drop {
			dst = binary.AppendUvarint(dst, n)
		}
		dst = binary.AppendUvarint(dst, c.LogFrom)
	case *Unseal:
		dst = wire.AppendString(dst, c.Token)
	case *Begin:
		dst = binary.AppendUvarint(dst, c.Incarnation)
		dst = append(dst, c.Digest[:]...)
		dst = binary.AppendUvarint(dst, uint64(len(c.Carried)))
		for _, r := range c.Carried {
			dst = wire.AppendBytes(dst, r)
		}
	}
	return dst
}

func appendReportCopy(dst []byte, c *ReportCopy) []byte {
	dst = binary.AppendUvarint(dst, c.Number)
	dst = wire.AppendString(dst, c.Node)
	dst = append(dst, byte(c.State))
	dst = wire.AppendBool(dst, c.Rebuilt)
	dst = append(dst, c.Digest[:]...)
	dst = AppendSections(dst, c.Sections)
	dst = binary.AppendUvarint(dst, c.Bytes)
	dst = binary.AppendUvarint(dst, c.WriteNanos)
	return wire.AppendString(dst, c.Detail)
}

// AppendCheckpointRequest appends the encoding of a request;
// ReadCheckpointRequest reads it.
func AppendCheckpointRequest(dst []byte, c *CheckpointRequest) []byte {
	dst = wire.AppendString(dst, c.Token)
	dst = append(dst, byte(c.Trigger))
	dst = wire.AppendString(dst, c.By)
	dst = AppendStrings(dst, c.Participants)
	return binary.AppendVarint(dst, c.TimeUnixNano)
}

// ReadCheckpointRequest reads what AppendCheckpointRequest wrote.
func ReadCheckpointRequest(r *wire.Reader) CheckpointRequest {
	return CheckpointRequest{
		Token:        r.String(),
		Trigger:      Trigger(r.Byte()),
		By:           r.String(),
		Participants: ReadStrings(r),
		TimeUnixNano: r.Varint(),
	}
}

// AppendSections appends the encoding of sections; ReadSections reads it.
func AppendSections(dst []byte, sections []Section) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(sections)))
	for i := range sections {
		s := &sections[i]
		dst = wire.AppendString(dst, s.Name)
		dst = binary.AppendUvarint(dst, s.Keys)
		dst = binary.AppendUvarint(dst, s.Bytes)
		dst = append(dst, s.Digest[:]...)
	}
	return dst
}

// ReadSections reads what AppendSections wrote.
func ReadSections(r *wire.Reader) []Section {
	var out []Section
	for range r.Count(3 + 32) {
		s := Section{Name: r.String(), Keys: r.Uvarint(), Bytes: r.Uvarint()}
		copy(s.Digest[:], r.Fixed(len(s.Digest)))
		out = append(out, s)
		if r.Err() != nil {
			return nil
		}
	}
	return out
}

// AppendStrings appends the encoding of a list; ReadStrings reads it.
func AppendStrings(dst []byte, all []string) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(all)))
	for _, s := range all {
		dst = wire.AppendString(dst, s)
	}
	return dst
}

// ReadStrings reads a list, nil when it is empty.
func ReadStrings(r *wire.Reader) []string {
	n := r.Count(1)
	if n == 0 {
		return nil
	}
	out := make([]string, 0, min(n, 64))
	for range n {
		out = append(out, r.String())
		if r.Err() != nil {
			return nil
		}
	}
	return out
}

// checkpointCommand reads a command of feature level 2; nil when the kind is
// none.
func checkpointCommand(r *wire.Reader, kind Kind) Command {
	switch kind {
	case KindFeatureLevel:
		return &FeatureLevel{Level: r.Uvarint()}
	case KindRequestCheckpoint:
		return &RequestCheckpoint{ReadCheckpointRequest(r)}
	case KindCheckpoint:
		return &Checkpoint{
			CheckpointRequest: ReadCheckpointRequest(r), Serves: ReadStrings(r), WaitNanos: r.Uvarint(),
			Members: ReadStrings(r), MinCopies: r.Uvarint(), Seal: r.Bool(), SealToken: r.String(),
		}
	case KindAbandonCheckpoint:
		return &AbandonCheckpoint{
			CheckpointRequest: ReadCheckpointRequest(r), Serves: ReadStrings(r), WaitNanos: r.Uvarint(),
			Detail: r.String(), Transaction: r.String(), Participant: r.String(),
		}
	case KindNotePause:
		return &NotePause{Number: r.Uvarint(), PauseNanos: r.Uvarint()}
	case KindReportCopy:
		return reportCopy(r)
	case KindRetain:
		c := &Retain{}
		for range r.Count(1) {
			c.Drop = append(c.Drop, r.Uvarint())
		}
		c.LogFrom = r.Uvarint()
		return c
	case KindUnseal:
		return &Unseal{Token: r.String()}
	case KindBegin:
		c := &Begin{Incarnation: r.Uvarint()}
		copy(c.Digest[:], r.Fixed(len(c.Digest)))
		for range r.Count(1) {
			c.Carried = append(c.Carried, r.Bytes())
			if r.Err() != nil {
				break
			}
		}
		return c
	}
	return nil
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
