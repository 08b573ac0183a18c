package machine

import (
	"bytes"
	"encoding/binary"

	"github.com/cohort-tx/cohort/txlog/command/wire"
)

// Activation says which instance is a participant's active one.
type Activation struct {
	Participant string
	Node        string
	// Instance is empty when none is active.
	Instance string
	// Epoch only ever rises. It may be above 0 before the first instance, when
	// the group had a participant before that was dropped.
	Epoch uint64
	// Index and Position of the log at the activation.
	Index        uint64
	Position     uint64
	TimeUnixNano int64
}

// ReadActivation reads the activation of a participant; without one it was never
// active, and its epoch is 0.
func ReadActivation(r Reader, participant string) (Activation, bool, error) {
	key := appendActivationKey(nil, participant)
	v, found, err := r.Get(key)
	if err != nil || !found {
		return Activation{}, false, err
	}
	a, err := decodeActivation(key, v)
	return a, err == nil, err
}

// ReadActivations reads all activations in the order of the participants' names.
func ReadActivations(r Reader) ([]Activation, error) {
	var all []Activation
	err := r.Scan([]byte{tableActivation}, tableEnd(tableActivation), func(k, v []byte) (bool, error) {
		a, err := decodeActivation(k, v)
		all = append(all, a)
		return true, err
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

func appendActivation(dst []byte, a *Activation) []byte {
	dst = append(dst, recordVersion)
	dst = wire.AppendString(dst, a.Node)
	dst = wire.AppendString(dst, a.Instance)
	dst = binary.AppendUvarint(dst, a.Epoch)
	dst = binary.AppendUvarint(dst, a.Index)
	dst = binary.AppendUvarint(dst, a.Position)
	return binary.AppendVarint(dst, a.TimeUnixNano)
}

func decodeActivation(key, v []byte) (Activation, error) {
	r := openRecord(v)
	a := Activation{
		Participant:  string(key[1:]),
		Node:         r.String(),
		Instance:     r.String(),
		Epoch:        r.Uvarint(),
		Index:        r.Uvarint(),
		Position:     r.Uvarint(),
		TimeUnixNano: r.Varint(),
	}
	if err := r.Finish(); err != nil {
		return Activation{}, &CorruptError{Key: bytes.Clone(key), Err: err}
	}
	return a, nil
}
