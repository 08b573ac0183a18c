package layout

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// capabilities is the number of rows that docs/capabilities.md must have.
const capabilities = 95

var (
	capabilityRow = regexp.MustCompile(`^\| (\d+) \|([^|]+)\|([^|]+)\|([^|]+)\|$`)
	namedTest     = regexp.MustCompile("`([a-z0-9/-]+)\\.(Test[A-Za-z0-9_]+)`")
	testFunc      = regexp.MustCompile(`(?m)^func (Test[A-Za-z0-9_]+)\(`)
)

// Without it the table of capabilities would go on naming tests that were
// renamed or removed, and rows could get lost.
func TestCapabilitiesNameTestsThatExist(t *testing.T) {
	data, err := os.ReadFile("../../docs/capabilities.md")
	if err != nil {
		t.Fatal(err)
	}
	existing := testFunctions(t)
	next := 1
	for n, line := range strings.Split(string(data), "\n") {
		row := capabilityRow.FindStringSubmatch(line)
		if row == nil {
			continue
		}
		if row[1] != fmt.Sprint(next) {
			t.Errorf("line %d: row %s where %d should be", n+1, row[1], next)
		}
		next++
		shown := strings.TrimSpace(row[4])
		named := namedTest.FindAllStringSubmatch(shown, -1)
		if len(named) == 0 && !strings.HasPrefix(shown, "not yet: ") {
			t.Errorf("line %d: row %s names no test and does not say \"not yet: \" and why", n+1, row[1])
		}
		for _, name := range named {
			if !existing[name[1]+"."+name[2]] {
				t.Errorf("line %d: no test %s in %s", n+1, name[2], name[1])
			}
		}
	}
	if next-1 != capabilities {
		t.Errorf("%d rows, want %d", next-1, capabilities)
	}
}

// testFunctions returns the committed test functions as "directory.TestName".
func testFunctions(t *testing.T) map[string]bool {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "list", "-f", `{{$d := .Dir}}{{range .TestGoFiles}}{{$d}}/{{.}}{{"\n"}}{{end}}{{range .XTestGoFiles}}{{$d}}/{{.}}{{"\n"}}{{end}}`, "./...")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	found := make(map[string]bool)
	for file := range strings.FieldsSeq(string(out)) {
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		dir, err := filepath.Rel(root, filepath.Dir(file))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range testFunc.FindAllStringSubmatch(string(src), -1) {
			found[filepath.ToSlash(dir)+"."+m[1]] = true
		}
	}
	return found
}
