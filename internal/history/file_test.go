package history

import (
	"os"
	"slices"
	"testing"
)

// TestHistoryFile checks the file that COHORT_HISTORY names, one that a fault run
// has kept, say. Without it, it checks one with a write skew, and would break if a
// file's verdict were another than that of what is in it.
func TestHistoryFile(t *testing.T) {
	path := os.Getenv("COHORT_HISTORY")
	if path == "" {
		path = "testdata/skew.jsonl"
	}
	h, err := ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	report, err := Check(h)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(report)
	if os.Getenv("COHORT_HISTORY") == "" {
		if !slices.Equal(report.Classes(), []Class{G2}) || report.Transactions != 3 {
			t.Error("it holds three transactions and a write skew")
		}
	} else if !report.Valid() {
		t.Error("the history is not strictly serializable")
	}
}
