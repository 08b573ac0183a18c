package groups

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
)

// TestParseMessages holds the exact text of every fault: what a user reads when
// a file is wrong. In the scripts, lines of `=== FILE` begin another file.
func TestParseMessages(t *testing.T) {
	datadriven.Walk(t, "testdata/parse", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, td *datadriven.TestData) string {
			var out strings.Builder
			definitions, faults := ParseFiles(splitFiles(td.Input))
			for _, f := range faults {
				fmt.Fprintln(&out, f.Error())
			}
			for i := range definitions {
				d := &definitions[i]
				if err := d.Validate(); err != nil {
					t.Fatalf("parsed and yet invalid: %v", err)
				}
				switch td.Cmd {
				case "json":
					data, err := d.MarshalJSON()
					if err != nil {
						t.Fatal(err)
					}
					fmt.Fprintf(&out, "%s\n", data)
				case "parse": // shows what differs from the defaults
					fmt.Fprintf(&out, "%s: ok\n", d.Group)
					defaults := Default(d.Group)
					for _, c := range Diff(&defaults, d) {
						fmt.Fprintf(&out, "  %s: %s -> %s\n", c.Path, c.Before, c.After)
					}
				default:
					t.Fatalf("unknown command %s", td.Cmd)
				}
			}
			return out.String()
		})
	})
}

func splitFiles(input string) []File {
	var files []File
	for _, line := range strings.SplitAfter(input, "\n") {
		if name, ok := strings.CutPrefix(line, "=== "); ok {
			files = append(files, File{Name: strings.TrimSpace(name)})
			continue
		}
		if len(files) == 0 {
			files = append(files, File{Name: "g.yaml"})
		}
		f := &files[len(files)-1]
		f.Data = append(f.Data, line...)
	}
	for i := range files {
		files[i].Data = []byte(strings.ReplaceAll(string(files[i].Data), "\\t", "\t"))
	}
	return files
}

// TestShippedGroupFileStatesDefaults: the file that users copy says, key by key,
// what the program does without it.
func TestShippedGroupFileStatesDefaults(t *testing.T) {
	data, err := os.ReadFile("../configs/group.yaml")
	if err != nil {
		t.Fatal(err)
	}
	want := Default("checkout", "orders", "inventory", "ledger")
	for _, c := range []struct {
		name string
		text string
	}{{"as shipped", string(data)}, {"with every default uncommented", uncomment(string(data))}} {
		got, faults := Parse("group.yaml", []byte(c.text))
		if len(faults) > 0 || len(got) != 1 {
			t.Fatalf("%s: %v\n%s", c.name, faults, c.text)
		}
		if !reflect.DeepEqual(got[0], want) {
			t.Errorf("%s: %+v", c.name, Diff(&want, &got[0]))
		}
		for _, key := range []string{"checkpoint", "outcomes", "retention", "failover", "failback", "limits"} {
			if !strings.Contains(string(data), "\n# "+key+":\n") {
				t.Errorf("the shipped file does not show %s", key)
			}
		}
	}
}

// uncomment turns the commented keys of top-level sections into keys. Those of
// participants are examples, not defaults, and stay.
func uncomment(text string) string {
	var out strings.Builder
	in := false
	for _, line := range strings.Split(text, "\n") {
		body, commented := strings.CutPrefix(line, "# ")
		key, _, isKey := strings.Cut(body, ":")
		switch {
		case commented && isKey && !strings.ContainsAny(key, " (") && key == strings.ToLower(key):
			in = true
			out.WriteString(body + "\n")
		case commented && in && strings.HasPrefix(body, "  "):
			out.WriteString(body + "\n")
		default:
			in = false
			out.WriteString(line + "\n")
		}
	}
	return out.String()
}

// TestParseBoundsItsInput: files that would cost a parser without bounds its
// stack or its time come back as faults.
func TestParseBoundsItsInput(t *testing.T) {
	for name, data := range map[string]string{
		"large":          "# " + strings.Repeat("x", 2<<20),
		"brackets":       strings.Repeat("[", 100_000),
		"braces":         "a: " + strings.Repeat("{a: ", 50_000),
		"dashes":         strings.Repeat("- ", 100_000) + "x",
		"indented":       deepBlock(5000),
		"question marks": strings.Repeat("? ", 100_000) + "x",
		"not text":       "group: \xff\xfe",
		"anchors":        "a: &a [x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n",
		"many unknown":   manyKeys(10_000),
		"mappings":       strings.Repeat("a: {b: [c]}\n", 10_000),
		"many nodes":     "group: g\nreplicas: [" + strings.Repeat("x, ", 40_000) + "x]\n",
	} {
		t.Run(name, func(t *testing.T) {
			// A parser without the bound ends in a stack overflow, or after hours.
			if _, faults := Parse("g.yaml", []byte(data)); len(faults) == 0 {
				t.Fatal("no fault")
			}
		})
	}
}

func deepBlock(n int) string {
	var b strings.Builder
	for i := range min(n, 1400) { // 1400 levels are a megabyte of indentation
		b.WriteString(strings.Repeat(" ", i) + "a:\n")
	}
	return b.String()
}

func manyKeys(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "k%d: 1\n", i)
	}
	return b.String()
}

// FuzzParse: no file makes the parser panic, and what it accepts is valid and
// survives its canonical form.
func FuzzParse(f *testing.F) {
	shipped, err := os.ReadFile("../configs/group.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(shipped)
	f.Add([]byte(uncomment(string(shipped))))
	f.Fuzz(func(t *testing.T, data []byte) {
		definitions, faults := Parse("g.yaml", data)
		if (len(definitions) == 0) == (len(faults) == 0) {
			t.Fatalf("%d definitions and %d faults", len(definitions), len(faults))
		}
		for _, fault := range faults {
			if fault.Message == "" || fault.File == "" {
				t.Fatalf("empty fault %+v", fault)
			}
		}
		for i := range definitions {
			d := &definitions[i]
			if err := d.Validate(); err != nil {
				t.Fatalf("accepted and yet invalid: %v", err)
			}
			encoded, err := d.MarshalJSON()
			if err != nil {
				t.Fatal(err)
			}
			back, err := Decode(encoded)
			if err != nil {
				t.Fatalf("%v\n%s", err, encoded)
			}
			if !reflect.DeepEqual(*d, back) {
				t.Fatalf("round trip changed %+v", Diff(d, &back))
			}
		}
	})
}

// Without it what the cluster finds wrong with a valid file would not say where.
func TestPlace(t *testing.T) {
	files := []File{
		{Name: "a.yaml", Data: []byte("group: a\nparticipants: [{name: x}]\n")},
		{Name: "b.yaml", Data: []byte("group: other\nparticipants: [{name: x}]\n---\ngroup: b\nparticipants:\n  - name: x\nreplicas: [n1, n9]\n")},
	}
	for _, c := range []struct{ key, want string }{
		{"replicas", "b.yaml:7:11: replicas: m"},
		{"participants[gone]", "b.yaml:6:3: participants[gone]: m"},
		{"checkpoint.min_copies", "b.yaml:4:8: checkpoint.min_copies: m"},
	} {
		if got := Place(files, "b", FileError{Key: c.key, Message: "m"}); got.Error() != c.want {
			t.Errorf("%s: %s, want %s", c.key, got, c.want)
		}
	}
	if got := Place(files, "c", FileError{Key: "replicas", Message: "m"}); got.Line != 0 {
		t.Errorf("a group in no file: %v", got)
	}
}
