package command_test

import (
	"fmt"
	"testing"

	"github.com/cohort-tx/cohort/txlog/command"
)

// twoKeys is a batch of n transactions of a read, a put of 100 bytes and an add.
func twoKeys(n int) *command.Batch {
	b := &command.Batch{Epoch: 5, TimeUnixNano: 1_700_000_000_000_000_000}
	for i := range n {
		b.Commands = append(b.Commands, &command.Decide{
			Attempt: command.Attempt{ID: fmt.Sprintf("0198c0de-0000-7000-8000-%012x", i), Begun: 100_000},
			Reads:   []command.Read{{Participant: "orders", Key: fmt.Sprintf("order-%d", i), Version: 7}},
			Ops: []command.Op{
				{Kind: command.OpPut, Participant: "orders", Key: fmt.Sprintf("order-%d", i), Value: make([]byte, 100)},
				{Kind: command.OpAdd, Participant: "ledger", Key: fmt.Sprintf("account-%d", i), Delta: -5, AtLeast: ptr(0)},
			},
		})
	}
	return b
}

func BenchmarkBatch(b *testing.B) {
	for _, n := range []int{1, 64} {
		batch := twoKeys(n)
		data := command.AppendBatch(nil, batch)
		b.Run(fmt.Sprintf("encode/batch=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(data)))
			var buf []byte
			for b.Loop() {
				buf = command.AppendBatch(buf[:0], batch)
			}
		})
		b.Run(fmt.Sprintf("decode/batch=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(data)))
			var d command.Decoder
			for b.Loop() {
				if _, err := d.Batch(data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
