package protocol

import (
	"strconv"
	"testing"
	"time"

	"github.com/cohort-tx/cohort/txlog/command"
)

// BenchmarkOneShotCommits is the core's share of a blind two-participant commit
// at 512 in flight.
func BenchmarkOneShotCommits(b *testing.B) {
	config := testConfig()
	config.InFlight, config.Open, config.StagedBytes = 4096, 4096, 1<<30
	core := New(config)
	ops := []command.Op{{Kind: command.OpAdd, Participant: "inv", Key: "a", Delta: 1}, {Kind: command.OpAdd, Participant: "pay", Key: "b", Delta: 1}}
	ids := make([]string, 1<<16)
	for i := range ids {
		ids[i] = strconv.Itoa(i)
	}
	var now time.Duration
	var entries []*Propose
	results := make([]command.Result, MaxEntryCommands)
	collect := func(effects []Effect) {
		for _, e := range effects {
			if p, ok := e.(*Propose); ok {
				entries = append(entries, p)
			}
		}
	}
	b.ReportAllocs()
	for i := 0; i < b.N; i++ {
		now += time.Microsecond
		collect(core.Step(now, &Commit{Request: uint64(i), Attempt: Attempt{ID: ids[i%len(ids)], Nonce: uint64(i + 1)}, Ops: ops, Published: 50}))
		if i%512 == 511 {
			collect(core.Step(now, Flush{}))
			for len(entries) > 0 {
				e := entries[0]
				entries = entries[1:]
				for j := range e.Commands {
					results[j] = command.Result{Status: command.StatusCommitted, Receipt: command.Receipt{Position: uint64(i + j)}}
				}
				collect(core.Step(now, &Applied{Entry: e.Entry, Results: results[:len(e.Commands)]}))
				collect(core.Step(now, Flush{}))
			}
		}
	}
}
