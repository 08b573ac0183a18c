package history

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// small are shapes for which the verdict is exact, and few enough transactions
// for trying every order.
var small = map[string]shape{
	"lists":                 {transactions: 7, clients: 4, lists: 2, opsAtMost: 3, blind: 100, aborted: 10, indeterminate: 15},
	"lists, read first":     {transactions: 7, clients: 4, lists: 2, opsAtMost: 2, aborted: 10, indeterminate: 15},
	"registers, read first": {transactions: 7, clients: 4, registers: 2, opsAtMost: 2, aborted: 10, indeterminate: 15},
	"one register":          {transactions: 9, clients: 4, registers: 1, single: true, blind: 50, aborted: 5, indeterminate: 15},
	"both":                  {transactions: 7, clients: 3, lists: 1, registers: 1, opsAtMost: 3, indeterminate: 15},
}

// Would break: any verdict that differs from that of trying every order, either
// way, on valid histories and on damaged ones.
func TestSmallHistoriesAgainstEveryOrder(t *testing.T) {
	for name, s := range small {
		t.Run(name, func(t *testing.T) {
			valid, invalid := 0, 0
			for seed := range uint64(3000) {
				r := rand.New(rand.NewPCG(seed, 1))
				h := generate(r, s)
				for range seed % 3 {
					mutate(r, h)
				}
				report, err := Check(h)
				if err != nil {
					t.Fatal(err)
				}
				want := serializable(h)
				if report.Valid() != want {
					t.Fatalf("seed %d: trying every order says %v\n%s%s", seed, want, report, show(h))
				}
				if want {
					valid++
				} else {
					invalid++
				}
			}
			if valid < 500 || invalid < 250 {
				t.Errorf("%d valid and %d invalid histories show too little", valid, invalid)
			}
		})
	}
}

// Would break: a finding that is not true, where the verdict is not exact.
func TestBlindWritesToManyRegistersAreNeverAccusedFalsely(t *testing.T) {
	found, missed := 0, 0
	for seed := range uint64(3000) {
		r := rand.New(rand.NewPCG(seed, 2))
		h := generate(r, shape{transactions: 7, clients: 4, registers: 2, opsAtMost: 3, blind: 70, aborted: 5, indeterminate: 15})
		for range seed % 3 {
			mutate(r, h)
		}
		report, err := Check(h)
		if err != nil {
			t.Fatal(err)
		}
		switch want := serializable(h); {
		case want && !report.Valid():
			t.Fatalf("seed %d: some order explains it\n%s%s", seed, report, show(h))
		case !want && report.Valid():
			missed++
		case !want:
			found++
		}
	}
	t.Logf("%d faults found, %d missed", found, missed)
	if found < 20*missed {
		t.Errorf("%d faults were found and %d missed", found, missed)
	}
}

// large is a shape near what the fault tests record, times a hundred.
func large(transactions int) shape {
	return shape{
		transactions: transactions, clients: 24, lists: 8, registers: 8, perKey: 100, opsAtMost: 4, blind: 20, aborted: 5, indeterminate: 3,
	}
}

// Would break: a valid history called invalid, a check that takes minutes, or a
// checker that lets damage pass.
func TestLargeHistories(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 3))
	h := generate(r, large(100_000))
	begun := time.Now()
	report, err := Check(h)
	if err != nil || !report.Valid() {
		t.Fatalf("a valid history: %v\n%s", err, report)
	}
	took := time.Since(begun)
	t.Logf("%d transactions, %d committed, %d of them inferred, in %s", report.Transactions, report.Committed, report.Inferred, took)
	if report.Inferred < 500 || report.Committed < 90_000 {
		t.Errorf("%d committed, %d inferred: the history shows too little", report.Committed, report.Inferred)
	}
	if took > time.Minute { // seconds on a machine with nothing else to do
		t.Errorf("it took %s", took)
	}
	h = generate(r, large(10_000))
	for i := 0; ; i++ {
		if i == 20 {
			t.Fatal("20 changes in a row were all harmless")
		}
		mutate(r, h)
		if report, _ = Check(h); !report.Valid() {
			t.Logf("after %d changes:\n%s", i+1, report.Anomalies[0])
			break
		}
	}
}

func BenchmarkCheck(b *testing.B) {
	for _, n := range []int{10_000, 100_000} {
		h := generate(rand.New(rand.NewPCG(1, 4)), large(n))
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				if report, err := Check(h); err != nil || !report.Valid() {
					b.Fatal(err, report)
				}
			}
		})
	}
}
