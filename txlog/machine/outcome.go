package machine

import (
	"bytes"
	"encoding/binary"
	"slices"

	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/command/wire"
)

// Outcome is what is recorded of an id.
type Outcome struct {
	ID        string
	Committed bool
	// Receipt and RequestDigest of the commit.
	Receipt       command.Receipt
	RequestDigest []byte
	// AbortedThrough is the begun of the last aborted attempt: no attempt begun up
	// to it committed, provided that it began at or after the horizon.
	AbortedThrough uint64
	// Reason, Participant, Key and Detail of the last abort of an id that is not
	// committed.
	Reason      command.Reason
	Participant string
	Key         string
	Detail      string
	// Index and TimeUnixNano of the entry that carried the decision.
	Index        uint64
	TimeUnixNano int64
}

// Decision is what is known of an attempt.
type Decision uint8

const (
	// DecisionNone: the attempt is not decided; it may still be.
	DecisionNone Decision = 1
	// DecisionCommitted: its id is committed, by this attempt or another.
	DecisionCommitted Decision = 2
	// DecisionAborted: it never commits.
	DecisionAborted Decision = 3
	// DecisionForgotten: it began before the horizon. It will not commit any more,
	// but may have; never call it aborted.
	DecisionForgotten Decision = 4
)

func (d Decision) String() string {
	switch d {
	case DecisionNone:
		return "none"
	case DecisionCommitted:
		return "committed"
	case DecisionAborted:
		return "aborted"
	case DecisionForgotten:
		return "forgotten"
	}
	return "invalid"
}

// decision judges an attempt by the record of its id and the horizon.
func decision(o *Outcome, found bool, begun, horizon uint64) Decision {
	switch {
	case found && o.Committed:
		return DecisionCommitted
	case begun < horizon:
		return DecisionForgotten
	case found && begun <= o.AbortedThrough:
		return DecisionAborted
	}
	return DecisionNone
}

// ReadDecision tells what became of an attempt. The outcome is that of its id
// when the decision is committed or aborted, else zero.
func ReadDecision(r Reader, id string, begun uint64) (Decision, Outcome, error) {
	meta, err := ReadMeta(r)
	if err != nil {
		return 0, Outcome{}, err
	}
	o, found, err := ReadOutcome(r, id)
	if err != nil {
		return 0, Outcome{}, err
	}
	d := decision(&o, found, begun, meta.Horizon)
	if d != DecisionCommitted && d != DecisionAborted {
		o = Outcome{}
	}
	return d, o, nil
}

// ReadOutcome reads what is recorded of an id. To judge an attempt by it, the
// horizon must be looked at too: see ReadDecision.
func ReadOutcome(r Reader, id string) (Outcome, bool, error) {
	key := appendOutcomeKey(nil, id)
	v, found, err := r.Get(key)
	if err != nil || !found {
		return Outcome{}, false, err
	}
	o, err := decodeOutcome(key, v)
	return o, err == nil, err
}

// RecentOutcomes reads the newest outcomes, newest first, at most limit.
func RecentOutcomes(r Reader, limit int) ([]Outcome, error) {
	meta, err := ReadMeta(r)
	if err != nil || limit <= 0 {
		return nil, err
	}
	// The tables can only be read forwards, so the window before the last decided
	// entry is widened until it holds enough.
	for window := uint64(limit); ; window *= 4 {
		from := uint64(0)
		if meta.LastDecided >= window {
			from = meta.LastDecided - window + 1
		}
		found, err := outcomesSince(r, from, limit)
		if err != nil {
			return nil, err
		}
		if len(found) == limit || from == 0 {
			return found, nil
		}
	}
}

// outcomesSince reads the newest outcomes of the entries from index on, newest
// first.
func outcomesSince(r Reader, index uint64, limit int) ([]Outcome, error) {
	var rows []decided
	err := r.Scan(appendDecidedKey(nil, index), tableEnd(tableDecided), func(k, v []byte) (bool, error) {
		row, err := decodeDecided(k, v)
		rows = append(rows, row)
		return true, err
	})
	if err != nil {
		return nil, err
	}
	var found []Outcome
	// An id may be listed several times, its last decision first from here.
	seen := make(map[string]bool)
	for _, row := range slices.Backward(rows) {
		for _, id := range slices.Backward(row.IDs) {
			if seen[id] {
				continue
			}
			seen[id] = true
			o, ok, err := ReadOutcome(r, id)
			if err != nil {
				return nil, err
			}
			if !ok {
				continue
			}
			if found = append(found, o); len(found) == limit {
				return found, nil
			}
		}
	}
	return found, nil
}

func appendOutcome(dst []byte, o *Outcome) []byte {
	dst = append(dst, recordVersion)
	dst = wire.AppendBool(dst, o.Committed)
	dst = binary.AppendUvarint(dst, o.AbortedThrough)
	dst = binary.AppendUvarint(dst, o.Index)
	dst = binary.AppendVarint(dst, o.TimeUnixNano)
	if o.Committed {
		dst = binary.AppendUvarint(dst, o.Receipt.Incarnation)
		dst = binary.AppendUvarint(dst, o.Receipt.Position)
		dst = binary.AppendUvarint(dst, o.Receipt.Begun)
		return wire.AppendBytes(dst, o.RequestDigest)
	}
	dst = append(dst, byte(o.Reason))
	dst = wire.AppendString(dst, o.Participant)
	dst = wire.AppendString(dst, o.Key)
	return wire.AppendString(dst, o.Detail)
}

func decodeOutcome(key, v []byte) (Outcome, error) {
	r := openRecord(v)
	o := Outcome{ID: string(key[1:])}
	o.Committed = r.Bool()
	o.AbortedThrough = r.Uvarint()
	o.Index = r.Uvarint()
	o.TimeUnixNano = r.Varint()
	if o.Committed {
		o.Receipt = command.Receipt{
			ID:           o.ID,
			Incarnation:  r.Uvarint(),
			Position:     r.Uvarint(),
			Begun:        r.Uvarint(),
			TimeUnixNano: o.TimeUnixNano,
		}
		o.RequestDigest = bytes.Clone(r.Bytes())
	} else {
		o.Reason = command.Reason(r.Byte())
		o.Participant = r.String()
		o.Key = r.String()
		o.Detail = r.String()
	}
	if err := r.Finish(); err != nil {
		return Outcome{}, &CorruptError{Key: bytes.Clone(key), Err: err}
	}
	return o, nil
}
