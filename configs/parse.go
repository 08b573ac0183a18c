package configs

import (
	"os"
	"strings"

	"github.com/cohort-tx/cohort/internal/strictyaml"
)

// FileError is one thing wrong with a configuration file: file, line, column,
// key, and what would be right.
type FileError = strictyaml.Fault

// FileErrors is everything wrong with a file, in its order.
type FileErrors []FileError

// Error gives one fault a line.
func (e FileErrors) Error() string {
	lines := make([]string, len(e))
	for i, f := range e {
		lines[i] = f.Error()
	}
	return strings.Join(lines, "\n")
}

// Load reads a node's file. Its error is FileErrors when the file is wrong.
func Load(path string) (Node, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Node{}, err
	}
	return Parse(path, data)
}

// Parse reads the content of a node's file, strictly, with defaults filled in
// and validated. file is shown in errors, which are FileErrors.
func Parse(file string, data []byte) (Node, error) {
	documents, faults := strictyaml.Parse(file, data)
	if len(faults) > 0 {
		return Node{}, FileErrors(faults)
	}
	if len(documents) != 1 {
		return Node{}, FileErrors{{File: file, Message: "a node's file holds exactly one document; write at least `name: n1` and `data_dir: DIR`"}}
	}
	n := Default()
	document := documents[0]
	document.Decode(&n)
	document.Check(n.problems())
	if faults := document.Faults(); len(faults) > 0 {
		return Node{}, FileErrors(faults)
	}
	n.ensureCluster()
	return n, nil
}
