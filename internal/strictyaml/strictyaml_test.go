package strictyaml

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestSizes: every form that SizeForm promises, and nothing near it.
func TestSizes(t *testing.T) {
	for text, want := range map[string]uint64{
		"0": 0, "65536": 65536, "64KiB": 64 << 10, "1.5GiB": 3 << 29, "1GB": 1e9, "10 MB": 1e7, "1kB": 1000, "1KB": 1000, "7B": 7, "8192TiB": MaxSize,
	} {
		if got, err := ParseSize(text); err != nil || got != want {
			t.Errorf("%q: %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "KiB", "1k", "1mb", "-1", "+1", "1e3", "0x1", ".5KiB", "1.KiB", "1..5KiB", "0.3B", "9999999TiB", " 1", "1_000", "1 0", "１", strings.Repeat("9", 100)} {
		if got, err := ParseSize(text); err == nil {
			t.Errorf("%q read as %d", text, got)
		}
	}
}

// TestFormatsRoundTrip: what messages and diffs show can be written into a file.
func TestFormatsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.OneOf(rapid.Uint64Max(MaxSize), rapid.Map(rapid.Uint64Max(5000), func(n uint64) uint64 { return n << 20 })).Draw(t, "size")
		if back, err := ParseSize(FormatSize(n)); err != nil || back != n {
			t.Fatalf("%d as %s: %d, %v", n, FormatSize(n), back, err)
		}
		d := time.Duration(rapid.OneOf(rapid.Int64Min(0), rapid.Map(rapid.Int64Range(0, 1e6), func(s int64) int64 { return s * 1e9 })).Draw(t, "duration"))
		if back, err := ParseDuration(FormatDuration(d)); err != nil || back != d {
			t.Fatalf("%v as %s: %v, %v", d, FormatDuration(d), back, err)
		}
	})
	for d, want := range map[time.Duration]string{0: "0s", 2 * time.Hour: "2h", 90 * time.Minute: "1h30m", time.Hour + time.Second: "1h0m1s", 10 * time.Minute: "10m", 500 * time.Millisecond: "500ms", 20 * time.Second: "20s"} {
		if got := FormatDuration(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}

// TestSuggest: near words are found, far ones are not guessed at.
func TestSuggest(t *testing.T) {
	keys := []string{"interval", "at", "max_wait", "max_pause", "name"}
	for word, want := range map[string]string{
		"intervall": "interval", "intreval": "interval", "Interval": "interval", "ta": "at", "maxwait": "max_wait",
		"max-pause": "max_pause", "nmae": "name", "colour": "", "x": "", "": "", strings.Repeat("interval", 100): "",
	} {
		if got := Suggest(word, keys); got != want {
			t.Errorf("%q: %q, want %q", word, got, want)
		}
	}
}

type sample struct {
	Name  string        `yaml:"name"`
	On    bool          `yaml:"on"`
	Small int8          `yaml:"small"`
	Count uint64        `yaml:"count"`
	Bytes uint64        `yaml:"bytes,size"`
	Wait  time.Duration `yaml:"wait"`
	Parts []part        `yaml:"parts" example:"[{name: a, n: 1}]"`
	Maybe *part         `yaml:"maybe"`
	Nodes []string      `yaml:"nodes,all" example:"[n1]"`
}

type part struct {
	Name string `yaml:"name"`
	N    uint64 `yaml:"n"`
}

// SetDefaults gives a part that the file mentions its number.
func (p *part) SetDefaults() { p.N = 7 }

// TestDecode: what the file gives is set, what it leaves out stays, and what it
// mentions has its defaults.
func TestDecode(t *testing.T) {
	documents, faults := Parse("f", []byte("name: |-\n  block\non: true\nsmall: -128\ncount: 18446744073709551615\nbytes: 1KiB\nparts: [{name: a}, {name: b, n: 0}]\nmaybe: {}\nnodes: all\n"))
	if len(faults) > 0 || len(documents) != 1 {
		t.Fatal(documents, faults)
	}
	s := sample{Wait: time.Second, Nodes: []string{"x"}}
	documents[0].Decode(&s)
	if faults := documents[0].Faults(); len(faults) > 0 {
		t.Fatal(faults)
	}
	if s.Name != "block" || !s.On || s.Small != -128 || s.Count != 1<<64-1 || s.Bytes != 1024 || s.Wait != time.Second || s.Nodes != nil {
		t.Errorf("%+v", s)
	}
	if len(s.Parts) != 2 || s.Parts[0].N != 7 || s.Parts[1].N != 0 || s.Maybe == nil || s.Maybe.N != 7 {
		t.Errorf("%+v %+v", s.Parts, s.Maybe)
	}
	if !documents[0].Has("parts[b].n") || documents[0].Has("parts[a].n") || documents[0].Has("wait") {
		t.Error("Has does not say what the file holds")
	}
}

// TestFaults: what the other packages' scripts do not reach.
func TestFaults(t *testing.T) {
	for text, want := range map[string]string{
		"small: 128":                          "f:1:8: small: `128` is too large",
		"count: 18446744073709551616":         "f:1:8: count: `18446744073709551616` is too large",
		"--- {name: a}":                       "f:1:1: something follows the document marker; write it in the next line",
		"%YAML 1.2\n---\nname: a":             "f:1:1: directives are not read; remove the line",
		"name: a\nname: |\n  x":               "f:2:1: name: the key is given twice, first in line 1; leave one",
		"# c\n---\n# c\n---\nnome: a":         "f:5:1: nome: unknown key `nome`, did you mean `name`?",
		"name: {a: b}":                        "f:1:7: name: want text; found a mapping",
		"name: \xff":                          "f:1:7: the file is not UTF-8 text; save it as UTF-8",
		"parts: [{name: a}, {name: a, x: 1}]": "f:1:30: parts[1].x: unknown key `x`; the keys here are name, n",
		"parts: [1]":                          "f:1:9: parts[0]: want a mapping of keys, as in {name: a, n: 1}; found `1`",
	} {
		documents, faults := Parse("f", []byte(text))
		for _, d := range documents {
			d.Decode(&sample{})
			faults = append(faults, d.Faults()...)
		}
		if len(faults) != 1 || faults[0].Error() != want {
			t.Errorf("%q:\n got %v\nwant %s", text, faults, want)
		}
	}
}

// TestFaultsAreBounded: a file that is no such file at all does not answer with
// a fault for each of its lines.
func TestFaultsAreBounded(t *testing.T) {
	documents, _ := Parse("f", []byte(strings.Repeat("k: 1\n", 5000)))
	documents[0].Decode(&sample{})
	faults := documents[0].Faults()
	if len(faults) != maxFaults+1 || !strings.Contains(faults[maxFaults].Message, "more is wrong") {
		t.Errorf("%d faults, the last %v", len(faults), faults[len(faults)-1])
	}
	many, faults := Parse("f", []byte(strings.Repeat("a: 1\n---\n", maxDocuments+1)))
	if many != nil || len(faults) != 1 {
		t.Errorf("%d documents, %v", len(many), faults)
	}
}
