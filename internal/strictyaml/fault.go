package strictyaml

import (
	"fmt"
	"sort"
	"strings"
)

// Fault is one thing wrong with a file.
type Fault struct {
	File string
	// Line and Column count from 1, in characters; 0 when the fault belongs to no
	// place in a file.
	Line, Column int
	// Key is the path of the key, as in "participants[ledger].nodes"; empty for
	// faults of the whole file.
	Key string
	// Message says what is wrong and what would be right.
	Message string
}

// Error gives file:line:column: key: message, leaving out what is not known.
func (f Fault) Error() string {
	var b strings.Builder
	if f.File != "" {
		b.WriteString(f.File)
		b.WriteByte(':')
	}
	if f.Line > 0 {
		fmt.Fprintf(&b, "%d:%d:", f.Line, f.Column)
	}
	if b.Len() > 0 {
		b.WriteByte(' ')
	}
	if f.Key != "" {
		b.WriteString(f.Key)
		b.WriteString(": ")
	}
	b.WriteString(f.Message)
	return b.String()
}

// sortFaults orders faults as a reader of the file meets them.
func sortFaults(faults []Fault) {
	sort.SliceStable(faults, func(i, j int) bool {
		a, b := faults[i], faults[j]
		if a.Line != b.Line {
			return a.Line < b.Line
		}
		return a.Column < b.Column
	})
}

// shownRunes bounds how much of a wrong value is repeated in a message.
const shownRunes = 60

// Show renders user input for a message: in backquotes when it is plain, in Go
// quotes when it is not, shortened when it is long.
func Show(s string) string {
	if runes := []rune(s); len(runes) > shownRunes {
		s = string(runes[:shownRunes]) + "…"
	}
	if s == "" {
		return `""`
	}
	if q := fmt.Sprintf("%q", s); len(q) != len(s)+2 || strings.Contains(s, "`") {
		return q
	}
	return "`" + s + "`"
}
