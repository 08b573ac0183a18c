package machine_test

import (
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestPure holds invariant 7 in the code: replicas differ if what they run looks
// at anything but the log. Looked at are the imports, goroutines and channels,
// the order of maps, and package variables that somebody could set.
func TestPure(t *testing.T) {
	allowed := map[string][]string{
		".": {"bytes", "crypto/sha256", "encoding/binary", "errors", "fmt", "hash", "math", "slices", "strconv", "strings",
			"time", "unicode/utf8", "github.com/cohort-tx/cohort/txlog/command", "github.com/cohort-tx/cohort/txlog/command/wire"},
		"../command":      {"crypto/sha256", "encoding/binary", "errors", "fmt", "hash", "unicode", "unicode/utf8", "github.com/cohort-tx/cohort/txlog/command/wire"},
		"../command/wire": {"encoding/binary", "fmt"},
	}
	for dir, imports := range allowed {
		fset := token.NewFileSet()
		var files []*ast.File
		paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil || len(paths) == 0 {
			t.Fatal(dir, err)
		}
		for _, path := range paths {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			src, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			f, err := parser.ParseFile(fset, path, src, 0)
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, f)
		}
		// Imports are not resolved: types that matter here, maps, are declared where
		// they are used.
		info := &types.Info{Types: map[ast.Expr]types.TypeAndValue{}}
		conf := types.Config{Importer: importer.Default(), Error: func(error) {}}
		_, _ = conf.Check(dir, fset, files, info)
		for _, f := range files {
			for _, i := range f.Imports {
				if path := strings.Trim(i.Path.Value, `"`); !slices.Contains(imports, path) {
					t.Errorf("%s: imports %s, which is not known to be pure", fset.Position(i.Pos()), path)
				}
			}
			ast.Inspect(f, func(n ast.Node) bool {
				checkPureNode(t, fset, info, n)
				return true
			})
		}
	}
}

func checkPureNode(t *testing.T, fset *token.FileSet, info *types.Info, n ast.Node) {
	switch n := n.(type) {
	case *ast.GoStmt, *ast.SelectStmt, *ast.ChanType:
		t.Errorf("%s: a goroutine or channel", fset.Position(n.Pos()))
	case *ast.RangeStmt:
		if typ := info.Types[n.X].Type; typ != nil {
			if _, isMap := typ.Underlying().(*types.Map); isMap {
				t.Errorf("%s: goes through a map in its random order", fset.Position(n.Pos()))
			}
		}
	case *ast.SelectorExpr:
		if x, ok := n.X.(*ast.Ident); ok && x.Name == "time" && n.Sel.Name != "Duration" {
			t.Errorf("%s: time.%s looks at a clock", fset.Position(n.Pos()), n.Sel.Name)
		}
	}
}
