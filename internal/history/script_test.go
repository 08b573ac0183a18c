package history

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
)

// TestScripts shows each class that can be found, as it is printed. A line is a
// transaction: its client, when it was invoked and returned, its outcome, its
// operations.
//
//	c1 0..10 ok: list x [1 2], append x 3, write r 4, read r 4, read s absent
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/scripts", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			h := parseScript(t, d.Input)
			report, err := Check(h)
			if err != nil {
				return "error: " + err.Error() + "\n"
			}
			if want := serializable(h); report.Valid() != want {
				d.Fatalf(t, "trying every order says %v\n%s", want, report)
			}
			// The file format carries all of it.
			var file bytes.Buffer
			if err := Encode(&file, h); err != nil {
				d.Fatalf(t, "%v", err)
			}
			again, err := Decode(&file)
			if err != nil || show(again) != show(h) {
				d.Fatalf(t, "from its file: %v\n%s", err, show(again))
			}
			return report.String()
		})
	})
}

func parseScript(t *testing.T, input string) (h []Transaction) {
	t.Helper()
	for line := range strings.Lines(input) {
		head, program, _ := strings.Cut(strings.TrimSpace(line), ": ")
		tx := Transaction{}
		var outcome string
		if _, err := fmt.Sscanf(head, "c%d %d..%d %s", &tx.Client, &tx.Invoked, &tx.Returned, &outcome); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		tx.Outcome = map[string]Outcome{"ok": OK, "aborted": Aborted, "indeterminate": Indeterminate}[outcome]
		tx.Invoked, tx.Returned = tx.Invoked*time.Millisecond, tx.Returned*time.Millisecond
		for op := range strings.SplitSeq(program, ", ") {
			words := strings.Fields(strings.NewReplacer("[", "", "]", "").Replace(op))
			o := Op{Key: words[1]}
			for k, name := range opKinds {
				if name == words[0] {
					o.Kind = OpKind(k)
				}
			}
			for _, word := range words[2:] {
				if word == "absent" {
					o.Absent = true
					continue
				}
				v, err := strconv.ParseInt(word, 10, 64)
				if err != nil {
					t.Fatal(err)
				}
				if o.Kind == List {
					o.Values = append(o.Values, v)
				} else {
					o.Value = v
				}
			}
			tx.Ops = append(tx.Ops, o)
		}
		h = append(h, tx)
	}
	return h
}
