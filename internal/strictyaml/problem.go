package strictyaml

import (
	"fmt"
	"strings"
)

// Problem is one thing wrong with a decoded value, whatever it came from.
type Problem struct {
	// Path of the key, as in "participants[ledger].nodes".
	Path    string
	Message string
}

// Problems gathers what a validation finds.
type Problems []Problem

// Add records a problem of the key at path.
func (p *Problems) Add(path, format string, args ...any) {
	*p = append(*p, Problem{Path: path, Message: fmt.Sprintf(format, args...)})
}

// Check records the problems found in what the document was decoded into. Those
// of keys that could not be decoded, and of what is below or above them, are
// left out: the value there is not what the file meant.
func (d *Document) Check(problems Problems) {
	var broken []string
	for _, f := range d.faults {
		broken = append(broken, f.Key)
	}
	for _, p := range problems {
		related := false
		for _, key := range broken {
			related = related || below(p.Path, key) || below(key, p.Path)
		}
		if !related {
			d.Fault(p.Path, p.Message)
		}
	}
}

// below reports whether path is above or something under it.
func below(path, above string) bool {
	rest, ok := strings.CutPrefix(path, above)
	return ok && (above == "" || rest == "" || rest[0] == '.' || rest[0] == '[')
}
