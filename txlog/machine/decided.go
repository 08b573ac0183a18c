package machine

import (
	"bytes"
	"encoding/binary"
	"time"

	"github.com/cohort-tx/cohort/txlog/command/wire"
)

// decided lists the ids that one entry decided; it is what the horizon moves
// along.
type decided struct {
	Index        uint64
	TimeUnixNano int64
	IDs          []string
}

func appendDecided(dst []byte, d *decided) []byte {
	dst = append(dst, recordVersion)
	dst = binary.AppendVarint(dst, d.TimeUnixNano)
	dst = binary.AppendUvarint(dst, uint64(len(d.IDs)))
	for _, id := range d.IDs {
		dst = wire.AppendString(dst, id)
	}
	return dst
}

func decodeDecided(key, v []byte) (decided, error) {
	r := openRecord(v)
	var d decided
	if len(key) != 9 {
		r.Fail("the key does not end in an index")
	} else {
		d.Index = binary.BigEndian.Uint64(key[1:])
	}
	d.TimeUnixNano = r.Varint()
	if n := r.Count(1); n > 0 {
		d.IDs = make([]string, n)
		for i := range d.IDs {
			d.IDs[i] = r.String()
		}
	}
	if err := r.Finish(); err != nil {
		return decided{}, &CorruptError{Key: bytes.Clone(key), Err: err}
	}
	return d, nil
}

// forgetAtMost bounds the outcomes that one MoveHorizon forgets; only the first
// entry it comes to may exceed it.
const forgetAtMost = 1000

// HorizonTarget gives the To of the next MoveHorizon: to forget the outcomes
// older than age at now, and the oldest beyond count. An age or count of 0 is no
// bound. It looks at no more than one MoveHorizon forgets, so ask again after
// it. Not ok: there is nothing to forget.
func HorizonTarget(r Reader, now int64, age time.Duration, count uint64) (to uint64, ok bool, err error) {
	meta, err := ReadMeta(r)
	if err != nil {
		return 0, false, err
	}
	var excess uint64
	if count > 0 && meta.Outcomes > count {
		excess = meta.Outcomes - count
	}
	seen := 0
	err = r.Scan(appendDecidedKey(nil, 0), tableEnd(tableDecided), func(k, v []byte) (bool, error) {
		row, err := decodeDecided(k, v)
		if err != nil {
			return false, err
		}
		old := age > 0 && row.TimeUnixNano < now-int64(age)
		if !old && excess == 0 || seen > 0 && seen+len(row.IDs) > forgetAtMost {
			return false, nil
		}
		seen += len(row.IDs)
		excess -= min(excess, uint64(len(row.IDs)))
		to, ok = row.Index+1, true
		return true, nil
	})
	return to, ok && err == nil, err
}
