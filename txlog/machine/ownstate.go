package machine

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/command/wire"
)

// CaptureState is what is known of the state that a participant was asked to
// capture. Stored: never reuse a number.
type CaptureState uint8

const (
	// CaptureWanted: the instance was asked, and the state is not stored yet.
	CaptureWanted CaptureState = 1
	// CaptureStored: the state as of the cut is stored on Node.
	CaptureStored CaptureState = 2
	// CaptureInherited: the instance was not asked; this is the participant's last
	// one, and the log from there on is kept.
	CaptureInherited CaptureState = 3
	// CaptureFailed: there will be none; the checkpoint is abandoned.
	CaptureFailed CaptureState = 4
)

func (s CaptureState) String() string {
	switch s {
	case CaptureWanted:
		return "wanted"
	case CaptureStored:
		return "captured"
	case CaptureInherited:
		return "inherited"
	case CaptureFailed:
		return "failed"
	}
	return fmt.Sprintf("capture state %d", uint8(s))
}

// Capture is the captured state of a participant with state of its own.
type Capture struct {
	Participant string
	State       CaptureState
	// Checkpoint that it was captured for; 0: it is what the incarnation was made
	// from.
	Checkpoint uint64
	// Epoch of the activation that captures, and Position that the state is of.
	Epoch    uint64
	Position uint64
	// Section is the state in records, Bytes and SHA256 are of the state itself.
	// Zero while wanted and when failed.
	Section command.Section
	Bytes   uint64
	SHA256  [32]byte
	// Node that stored it first.
	Node string
	// Detail of a failure.
	Detail string
}

// Exists tells whether there is captured state: it was stored, for this
// checkpoint or an earlier one.
func (c *Capture) Exists() bool { return c.State == CaptureStored || c.State == CaptureInherited }

// OwnState is the record of a participant that keeps state of its own.
type OwnState struct {
	Participant string
	// Base is the position at its first activation: what the log says from there on
	// leads from nothing to its state.
	Base uint64
	// Last is the state captured for the newest complete checkpoint that has any, in
	// state CaptureStored; its State is zero when there is none.
	Last Capture
}

// From is the position after which the log is needed to bring the state up.
func (s *OwnState) From() uint64 {
	if s.Last.State != 0 {
		return s.Last.Position
	}
	return s.Base
}

// ReadOwnState reads the record of a participant; without one it keeps no state of
// its own.
func ReadOwnState(r Reader, participant string) (OwnState, bool, error) {
	key := appendOwnStateKey(nil, participant)
	v, found, err := r.Get(key)
	if err != nil || !found {
		return OwnState{}, false, err
	}
	s, err := decodeOwnState(key, v)
	return s, err == nil, err
}

// ReadOwnStates reads the records of all participants with state of their own, in
// order of their names.
func ReadOwnStates(r Reader) ([]OwnState, error) {
	var all []OwnState
	err := r.Scan([]byte{tableOwnState}, tableEnd(tableOwnState), func(k, v []byte) (bool, error) {
		s, err := decodeOwnState(k, v)
		all = append(all, s)
		return true, err
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

// DecodeOwnState reads the record of a participant's own state as of the cut from a
// record of a checkpoint's section meta; found is false when it is another one.
func DecodeOwnState(name string, v []byte) (s OwnState, found bool, err error) {
	participant, found := strings.CutPrefix(name, metaOwnState)
	if !found {
		return OwnState{}, false, nil
	}
	s, err = decodeOwnState(appendOwnStateKey(nil, participant), v)
	return s, err == nil, err
}

func appendOwnState(dst []byte, s *OwnState) []byte {
	dst = append(dst, recordVersion)
	dst = binary.AppendUvarint(dst, s.Base)
	dst = wire.AppendBool(dst, s.Last.State != 0)
	if s.Last.State != 0 {
		dst = appendCapture(dst, &s.Last)
	}
	return dst
}

func decodeOwnState(key, v []byte) (OwnState, error) {
	r := openRecord(v)
	s := OwnState{Participant: string(key[1:]), Base: r.Uvarint()}
	if r.Bool() {
		if s.Last = readCapture(&r); s.Last.Participant != s.Participant {
			r.Fail("the captured state is another participant's")
		}
	}
	if err := r.Finish(); err != nil {
		return OwnState{}, &CorruptError{Key: bytes.Clone(key), Err: err}
	}
	return s, nil
}

// captureMinBytes is the length of the shortest encoding of a capture.
const captureMinBytes = 8 + 2*32 + 2

// appendCapture leaves out the section's name, which is the participant's.
func appendCapture(dst []byte, c *Capture) []byte {
	dst = wire.AppendString(dst, c.Participant)
	dst = append(dst, byte(c.State))
	dst = binary.AppendUvarint(dst, c.Checkpoint)
	dst = binary.AppendUvarint(dst, c.Epoch)
	dst = binary.AppendUvarint(dst, c.Position)
	dst = binary.AppendUvarint(dst, c.Section.Keys)
	dst = binary.AppendUvarint(dst, c.Section.Bytes)
	dst = append(dst, c.Section.Digest[:]...)
	dst = binary.AppendUvarint(dst, c.Bytes)
	dst = append(dst, c.SHA256[:]...)
	dst = wire.AppendString(dst, c.Node)
	return wire.AppendString(dst, c.Detail)
}

func readCapture(r *wire.Reader) Capture {
	c := Capture{
		Participant: r.String(),
		State:       CaptureState(r.Byte()),
		Checkpoint:  r.Uvarint(),
		Epoch:       r.Uvarint(),
		Position:    r.Uvarint(),
		Section:     command.Section{Keys: r.Uvarint(), Bytes: r.Uvarint()},
	}
	if c.State < CaptureWanted || c.State > CaptureFailed {
		r.Fail("a capture has an unknown state")
	}
	copy(c.Section.Digest[:], r.Fixed(len(c.Section.Digest)))
	c.Bytes = r.Uvarint()
	copy(c.SHA256[:], r.Fixed(len(c.SHA256)))
	c.Node = r.String()
	c.Detail = r.String()
	if c.Exists() {
		c.Section.Name = command.SectionState + c.Participant
	}
	return c
}
