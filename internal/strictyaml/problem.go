package strictyaml

import (
	"fmt"
	"slices"
	"strings"
)

// Problem is one thing wrong with a decoded value, whatever it came from.
type Problem struct {
	// Path of the key, as in "participants[ledger].nodes".
	Path string
	// With is the path of the key it does not go with, if it is such a problem: a
	// file that says nothing of Path is wrong there.
	With    string
	Message string
}

// Problems gathers what a validation finds.
type Problems []Problem

// Add records a problem of the key at path.
func (p *Problems) Add(path, format string, args ...any) {
	*p = append(*p, Problem{Path: path, Message: fmt.Sprintf(format, args...)})
}

// AddWith records that the keys at path and with do not go together.
func (p *Problems) AddWith(path, with, format string, args ...any) {
	*p = append(*p, Problem{Path: path, With: with, Message: fmt.Sprintf(format, args...)})
}

// Check records the problems found in what the document was decoded into. Those
// of keys that could not be decoded, and of what is below or above them, are
// left out: the value there is not what the file meant.
func (d *Document) Check(problems Problems) {
	broken := slices.Clone(d.suspects)
	for _, f := range d.faults {
		broken = append(broken, f.Key)
	}
	for _, p := range problems {
		related := false
		for _, key := range broken {
			related = related || below(p.Path, key) || below(key, p.Path) || (p.With != "" && below(p.With, key))
		}
		if related {
			continue
		}
		if d.full {
			return
		}
		d.Fault(p.Path, p.Message)
		if at, ok := d.positions[p.With]; ok && p.With != "" && !d.Has(p.Path) {
			last := &d.faults[len(d.faults)-1]
			last.Line, last.Column = at.line, at.column
		}
	}
}

// below reports whether path is above or something under it.
func below(path, above string) bool {
	rest, ok := strings.CutPrefix(path, above)
	return ok && (above == "" || rest == "" || rest[0] == '.' || rest[0] == '[')
}
