package history

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// planted are faults of each class.
var planted = map[Class]string{
	Internal:         "c1 0..10 ok: append x 1, list x []",
	Unwritten:        "c1 0..10 ok: read r 9",
	Duplicate:        "c1 0..10 ok: append x 1\nc2 20..30 ok: list x [1 1]",
	Incompatible:     "c1 0..10 ok: append x 1\nc2 0..10 ok: append x 2\nc3 20..30 ok: list x [1 2]\nc4 20..30 ok: list x [2 1]",
	AbortedRead:      "c1 0..10 aborted: append x 1\nc2 0..10 ok: list x [1]",
	IntermediateRead: "c1 0..10 ok: write r 1, write r 2\nc2 0..10 ok: read r 1",
	LostUpdate:       "c1 0..10 ok: read r absent, write r 1\nc2 0..10 ok: read r absent, write r 2",
	WriteCycle:       "c1 0..10 ok: append x 1, append y 1\nc2 0..10 ok: append x 2, append y 2\nc3 20..30 ok: list x [1 2], list y [2 1]",
	CircularFlow:     "c1 0..10 ok: write r 1, list y [1]\nc2 0..10 ok: append y 1, read r 1",
	GSingle:          "c1 0..10 ok: append x 1, append y 1\nc2 0..10 ok: list x [1], list y []",
	G2:               "c1 0..10 ok: list x [], write r 1\nc2 0..10 ok: read r absent, append x 1",
	RealTime:         "c1 0..10 ok: append x 1\nc2 20..30 ok: list x []",
}

// Would break: a class that is not found among thousands of innocent transactions,
// is found under another name, or with anybody innocent as evidence.
func TestPlantedFaultsAreFoundByName(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 6))
	for _, class := range classes {
		t.Run(string(class), func(t *testing.T) {
			h := generate(r, large(3000))
			fault := parseScript(t, planted[class])
			at := h[r.IntN(len(h))].Invoked
			for i := range fault {
				f := &fault[i]
				f.ID, f.Invoked, f.Returned = "planted", at+f.Invoked/time.Millisecond, at+f.Returned/time.Millisecond
			}
			for _, f := range fault {
				h = slices.Insert(h, r.IntN(len(h)), f)
			}
			report, err := Check(h)
			if err != nil {
				t.Fatal(err)
			}
			if found := report.Classes(); len(found) != 1 || found[0] != class {
				t.Fatalf("found %q\n%s", found, report)
			}
			for _, tx := range report.Anomalies[0].Transactions {
				if tx.ID != "planted" {
					t.Errorf("%s is innocent", tx)
				}
			}
		})
	}
}
