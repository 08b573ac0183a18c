package layout

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/cohort-tx/cohort/"

// allowed lists, for each package, the packages of this module that its code may
// import. A package that is missing here may import none.
var allowed = map[string][]string{
	"participant":                 {"api/cohort/v1"},
	"participant/participanttest": {"api/cohort/v1", "participant", "internal/cluster", "internal/node"},
	"participant/postgres":        {"participant"},
	"internal/pgtest":             {"internal/pgserver"},
	"txlog/command":               {"txlog/command/wire"},
	"txlog/machine":               {"txlog/command", "txlog/command/wire"},
	"txlog/checkpoint":            {"txlog/command"},
	"txlog/machine/memstate":      {"txlog/command", "txlog/machine"},
	"txlog":                       {"txlog/checkpoint", "txlog/command", "txlog/machine", "txlog/segment", "participant/store"},
	"groups":                      {"api/cohort/v1", "txlog", "txlog/command", "internal/strictyaml"},
	"configs":                     {"internal/strictyaml"},
	"coordinator/protocol":        {"txlog/command", "txlog/machine"},
	"coordinator":                 {"api/cohort/v1", "coordinator/protocol", "groups", "txlog", "txlog/checkpoint", "txlog/command", "txlog/machine"},
	"internal/node":               {"api/cohort/v1", "configs", "coordinator", "groups", "txlog", "txlog/checkpoint", "txlog/command", "txlog/machine"},
	"internal/cluster":            {"api/cohort/v1", "configs", "groups", "internal/node", "internal/ports", "participant"},
	"internal/bench":              {"api/cohort/v1", "coordinator", "groups", "internal/cluster", "internal/node", "participant", "txlog/command"},
	"examples/":                   {"participant", "participant/postgres", "examples/checkout"},
	"cmd/":                        {"*"},
}

type goPackage struct {
	ImportPath string
	Imports    []string
}

func packages(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", "./...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []goPackage
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatalf("go list: %v", err)
		}
		all = append(all, p)
	}
}

func rulesOf(pkg string) []string {
	if rules, ok := allowed[pkg]; ok {
		return rules
	}
	for prefix, rules := range allowed {
		if strings.HasSuffix(prefix, "/") && strings.HasPrefix(pkg, prefix) {
			return rules
		}
	}
	return nil
}

// Without it an import against the direction of the data would creep in and the
// SDK would sooner or later pull in the storage engine.
func TestImportsRunOneWay(t *testing.T) {
	for _, p := range packages(t) {
		pkg := strings.TrimPrefix(p.ImportPath, module)
		rules := rulesOf(pkg)
		for _, imp := range p.Imports {
			dep, ours := strings.CutPrefix(imp, module)
			if ours && !slices.Contains(rules, dep) && !slices.Contains(rules, "*") {
				t.Errorf("%s imports %s, which the layout does not allow", pkg, dep)
			}
			if strings.HasPrefix(imp, "go.uber.org/fx") && !strings.HasPrefix(pkg, "cmd/") {
				t.Errorf("%s imports fx, which belongs in cmd alone", pkg)
			}
		}
	}
}
