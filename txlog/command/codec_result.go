package command

import (
	"encoding/binary"

	"github.com/cohort-tx/cohort/txlog/command/wire"
)

// AppendResults appends the encoding of a batch's results.
func AppendResults(dst []byte, results []Result) []byte {
	version := byte(resultsVersion)
	for i := range results {
		if results[i].Number != 0 {
			version = resultsVersionNumber
		}
	}
	dst = append(dst, tagResults, version)
	dst = binary.AppendUvarint(dst, uint64(len(results)))
	for i := range results {
		dst = appendResult(dst, &results[i])
		if version >= resultsVersionNumber {
			dst = binary.AppendUvarint(dst, results[i].Number)
		}
	}
	return dst
}

func appendResult(dst []byte, r *Result) []byte {
	dst = append(dst, byte(r.Status), byte(r.Reason))
	if r.Status == StatusCommitted {
		dst = AppendReceipt(dst, &r.Receipt)
	}
	dst = wire.AppendString(dst, r.Participant)
	dst = wire.AppendString(dst, r.Key)
	dst = wire.AppendString(dst, r.Detail)
	dst = binary.AppendUvarint(dst, r.Epoch)
	return wire.AppendBool(dst, r.Remaining)
}

// AppendReceipt appends the encoding of a receipt; ReadReceipt reads it.
func AppendReceipt(dst []byte, r *Receipt) []byte {
	dst = wire.AppendString(dst, r.ID)
	dst = binary.AppendUvarint(dst, r.Incarnation)
	dst = binary.AppendUvarint(dst, r.Position)
	dst = binary.AppendUvarint(dst, r.Begun)
	return binary.AppendVarint(dst, r.TimeUnixNano)
}

// ReadReceipt reads what AppendReceipt wrote.
func ReadReceipt(r *wire.Reader) Receipt {
	return Receipt{
		ID:           r.String(),
		Incarnation:  r.Uvarint(),
		Position:     r.Uvarint(),
		Begun:        r.Uvarint(),
		TimeUnixNano: r.Varint(),
	}
}

// DecodeResults decodes what AppendResults made. Nothing of it aliases data.
func DecodeResults(data []byte) ([]Result, error) {
	r := wire.NewReader(data)
	version := header(&r, tagResults, resultsVersionNumber)
	n := r.Count(7)
	results := make([]Result, n)
	numbered := false
	for i := range results {
		results[i] = readResult(&r)
		if version >= resultsVersionNumber {
			results[i].Number = r.Uvarint()
			numbered = numbered || results[i].Number != 0
		}
		if r.Err() != nil {
			break
		}
	}
	if version >= resultsVersionNumber && !numbered {
		r.Fail("results without a number are of version 1")
	}
	if err := r.Finish(); err != nil {
		return nil, malformed("results", err)
	}
	return results, nil
}

func readResult(r *wire.Reader) Result {
	var v Result
	v.Status = Status(r.Byte())
	if v.Status < StatusDone || v.Status > StatusRefused {
		r.Fail("a result has an unknown status")
	}
	v.Reason = Reason(r.Byte())
	if v.Status == StatusCommitted {
		v.Receipt = ReadReceipt(r)
	}
	v.Participant = r.String()
	v.Key = r.String()
	v.Detail = r.String()
	v.Epoch = r.Uvarint()
	v.Remaining = r.Bool()
	return v
}
