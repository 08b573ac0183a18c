package machine_test

import (
	"fmt"
	"testing"

	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/machine"
)

// flat is the cheapest State there is, so that the machine is what is measured.
type flat struct{ m map[string][]byte }

func (f *flat) Get(key []byte) ([]byte, bool, error) {
	v, ok := f.m[string(key)]
	return v, ok, nil
}
func (f *flat) Scan([]byte, []byte, func(k, v []byte) (bool, error)) error { return nil }
func (f *flat) Set(key, value []byte)                                      { f.m[string(key)] = value }
func (f *flat) Delete(key []byte)                                          { delete(f.m, string(key)) }

// BenchmarkApply applies batches of transactions that read and add to a key each
// at two participants and put 100 bytes; ns/tx and allocs/tx are of one.
func BenchmarkApply(b *testing.B) {
	for _, n := range []int{1, 64} {
		b.Run(fmt.Sprintf("batch=%d", n), func(b *testing.B) {
			st := &flat{m: map[string][]byte{}}
			m := machine.New()
			if _, _, err := m.Apply(st, 1, encode(&command.RaiseEpoch{Node: "n1"},
				&command.Configure{Version: 1, Incarnation: 1, Participants: []string{"orders", "ledger"}})); err != nil {
				b.Fatal(err)
			}
			value := make([]byte, 100)
			data := make([][]byte, b.N)
			for i := range data {
				var commands []command.Command
				for j := range n {
					commands = append(commands, &command.Decide{
						Attempt: command.Attempt{ID: fmt.Sprintf("0198c0de-0000-7000-%04x-%012x", j, i), Begun: 1},
						Reads:   []command.Read{{Participant: "orders", Key: fmt.Sprintf("order-%d-%d", i, j)}},
						Ops: []command.Op{
							{Kind: command.OpPut, Participant: "orders", Key: fmt.Sprintf("order-%d-%d", i, j), Value: value},
							{Kind: command.OpAdd, Participant: "ledger", Key: fmt.Sprintf("account-%d", j), Delta: 5},
						},
					})
				}
				data[i] = encode(commands...)
			}
			b.ReportAllocs()
			b.ResetTimer()
			for i := range data {
				if i%256 == 0 { // the state is not to outgrow the caches
					b.StopTimer()
					for k := range st.m {
						if k[0] >= 5 && k[0] != 7 || k[0] == 7 && k[4] == 1 {
							delete(st.m, k)
						}
					}
					b.StartTimer()
				}
				results, _, err := m.Apply(st, uint64(i)+2, data[i])
				if err != nil || results[n-1].Status != command.StatusCommitted {
					b.Fatal(err, results[n-1])
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/tx")
		})
	}
}
