package history

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/anishathalye/porcupine"
)

// register is a single register for porcupine: its state is the value, or nil. An
// input is a transaction of one read, one write, or a read and a write.
var register = porcupine.Model{
	Init: func() any { return nil },
	Step: func(state, input, _ any) (bool, any) {
		t := input.(*Transaction)
		next := state
		for _, o := range t.Ops {
			if o.Kind == Write {
				next = o.Value
				continue
			}
			if o.Absent && state == nil || !o.Absent && state == any(o.Value) {
				continue
			}
			// Without an answer it need not have happened.
			return t.Outcome == Indeterminate, state
		}
		return true, next
	},
}

// linearizable is porcupine's verdict on a history of one register.
func linearizable(h []Transaction) bool {
	var ops []porcupine.Operation
	for i := range h {
		t := &h[i]
		o := porcupine.Operation{ClientId: i, Input: t, Call: int64(t.Invoked), Return: int64(t.Returned)}
		switch t.Outcome {
		case Aborted:
			continue
		case Indeterminate:
			o.Return = math.MaxInt64 // at the end it makes no difference
		}
		ops = append(ops, o)
	}
	return porcupine.CheckOperations(register, ops)
}

// Would break: a verdict on histories of one register that differs from that of a
// published checker which works in another way, by search and not by graph.
func TestOneRegisterAgainstPorcupine(t *testing.T) {
	for _, s := range []struct {
		name  string
		shape shape
	}{
		{"blind", shape{blind: 100}},
		{"mixed", shape{blind: 40}},
		{"read first", shape{}},
	} {
		t.Run(s.name, func(t *testing.T) {
			valid, invalid := 0, 0
			for seed := range uint64(600) {
				r := rand.New(rand.NewPCG(seed, 5))
				shape := s.shape
				shape.transactions, shape.clients, shape.registers, shape.single = 20+r.IntN(100), 2+r.IntN(5), 1, true
				shape.aborted, shape.indeterminate = 5, 3
				h := generate(r, shape)
				for range seed % 3 {
					mutate(r, h)
				}
				report, err := Check(h)
				if err != nil {
					t.Fatal(err)
				}
				want := linearizable(h)
				if report.Valid() != want {
					t.Fatalf("seed %d: porcupine says %v\n%s%s", seed, want, report, show(h))
				}
				if want {
					valid++
				} else {
					invalid++
				}
			}
			if valid < 200 || invalid < 200 {
				t.Errorf("%d valid and %d invalid histories show too little", valid, invalid)
			}
		})
	}
}
