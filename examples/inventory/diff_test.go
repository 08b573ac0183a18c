package inventory_test

import (
	"os"
	"strings"
	"testing"

	"github.com/pmezard/go-difflib/difflib"
)

// maxChanged is what bringing the program into a group may cost, in lines.
const maxChanged = 60

// Would break: an example that takes more than it promises, or changes what the
// program does itself.
func TestLittleIsAdded(t *testing.T) {
	before, after := lines(t, "before/main.go"), lines(t, "after/main.go")
	var added, removed []string
	for _, op := range difflib.NewMatcher(before, after).GetOpCodes() {
		if op.Tag != 'e' {
			removed = append(removed, code(before[op.I1:op.I2])...)
			added = append(added, code(after[op.J1:op.J2])...)
		}
	}
	t.Logf("%d lines of code added, %d removed", len(added), len(removed))
	if n := len(added) + len(removed); n >= maxChanged {
		t.Errorf("%d lines of code differ: want fewer than %d", n, maxChanged)
	}
	if len(removed) > 5 {
		t.Errorf("the program's own lines are changed: %s", strings.Join(removed, "\n"))
	}
}

func lines(t *testing.T, path string) []string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(string(text), "\n")
}

// code leaves out what is blank or a comment.
func code(lines []string) (left []string) {
	for _, l := range lines {
		if s := strings.TrimSpace(l); s != "" && !strings.HasPrefix(s, "//") {
			left = append(left, l)
		}
	}
	return left
}
