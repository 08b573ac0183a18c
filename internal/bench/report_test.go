package bench

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"text/tabwriter"

	"github.com/cockroachdb/datadriven"
)

// Without it the fields that scripts read, and the text that people do, could
// change unnoticed. Reports are given in JSON, one a line.
func TestReports(t *testing.T) {
	datadriven.RunTest(t, "testdata/reports.txt", func(t *testing.T, d *datadriven.TestData) string {
		var reports []*Report
		for line := range strings.Lines(d.Input) {
			r, err := ReadReport(strings.NewReader(line))
			if err != nil {
				return err.Error() + "\n"
			}
			reports = append(reports, r)
		}
		var out bytes.Buffer
		w := tabwriter.NewWriter(&out, 0, 8, 2, ' ', 0)
		switch d.Cmd {
		case "text":
			reports[0].WriteText(w)
		case "json":
			if err := json.NewEncoder(w).Encode(reports[0]); err != nil {
				t.Fatal(err)
			}
		case "compare":
			c, err := Compare(reports[0], reports[1])
			if err != nil {
				return err.Error() + "\n"
			}
			if d.HasArg("json") {
				if err := json.NewEncoder(w).Encode(c); err != nil {
					t.Fatal(err)
				}
				break
			}
			c.WriteText(w)
		default:
			d.Fatalf(t, "unknown directive %s", d.Cmd)
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		var text strings.Builder
		for line := range strings.Lines(out.String()) {
			text.WriteString(strings.TrimRight(line, " \n") + "\n")
		}
		return text.String()
	})
}
