package strictyaml

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

const (
	// MaxFileBytes bounds a file: a group with its most participants, commands
	// and comments is far below it, and the parser's time grows with it.
	MaxFileBytes = 1 << 20
	// maxDepth bounds nesting, since the parser recurses. No file of Cohort goes
	// deeper than 5.
	maxDepth = 32
)

// Document is one YAML document of a file. It is not safe for concurrent use.
type Document struct {
	file      string
	body      ast.Node
	positions map[string]position
	faults    []Fault
}

type position struct{ line, column int }

// Parse splits a file into its documents; empty ones are left out. Faults are
// those of YAML itself, and with any there are no documents.
func Parse(file string, data []byte) ([]*Document, []Fault) {
	if len(data) > MaxFileBytes {
		return nil, []Fault{{File: file, Message: fmt.Sprintf("the file has %d bytes; at most %d are read", len(data), MaxFileBytes)}}
	}
	if fault, ok := precheck(file, data); !ok {
		return nil, []Fault{fault}
	}
	parsed, fault := parseBytes(file, data)
	if fault != nil {
		return nil, []Fault{*fault}
	}
	var documents []*Document
	for _, d := range parsed.Docs {
		if d.Body == nil {
			continue
		}
		switch d.Body.(type) {
		case *ast.NullNode, *ast.CommentNode, *ast.CommentGroupNode, *ast.DirectiveNode:
			continue
		}
		documents = append(documents, &Document{file: file, body: d.Body, positions: map[string]position{}})
	}
	return documents, nil
}

// parseBytes runs the YAML parser. A panic of it is a fault of the file: these
// bytes come from users, and a node must outlive them.
func parseBytes(file string, data []byte) (parsed *ast.File, fault *Fault) {
	defer func() {
		if recover() != nil {
			parsed, fault = nil, &Fault{File: file, Message: "the YAML cannot be read; check quotes, brackets and indentation"}
		}
	}()
	parsed, err := parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey())
	if err == nil {
		return parsed, nil
	}
	fault = &Fault{File: file, Message: "the YAML cannot be read: " + firstLine(err.Error())}
	var syntax *yaml.SyntaxError
	if errors.As(err, &syntax) {
		fault.Message = "the YAML cannot be read: " + firstLine(syntax.Message)
		if syntax.Token != nil {
			fault.Line, fault.Column = place(syntax.Token)
		}
	}
	return nil, fault
}

// precheck finds what the parser would stumble over: bytes that are not text,
// tabs as indentation, and nesting without end.
func precheck(file string, data []byte) (Fault, bool) {
	if !utf8.Valid(data) {
		valid := bytes.ToValidUTF8(data, nil)
		at := 0
		for at < len(valid) && data[at] == valid[at] {
			at++
		}
		line, column := lineColumn(data[:at])
		return Fault{File: file, Line: line, Column: column, Message: "the file is not UTF-8 text; save it as UTF-8"}, false
	}
	depth := 0
	for i, c := range data {
		switch c {
		case '[', '{':
			depth++
		case ']', '}':
			depth = max(0, depth-1)
		}
		if depth > maxDepth {
			line, column := lineColumn(data[:i])
			return Fault{File: file, Line: line, Column: column, Message: fmt.Sprintf("brackets are nested more than %d deep; close them", maxDepth)}, false
		}
	}
	for number, line := range strings.Split(string(data), "\n") {
		indent := len(line) - len(strings.TrimLeft(line, " -?\t"))
		if strings.Count(line[:indent], "-")+strings.Count(line[:indent], "?") > maxDepth && strings.Trim(line, "-\r ") != "" {
			return Fault{File: file, Line: number + 1, Column: 1, Message: fmt.Sprintf("lists are nested more than %d deep", maxDepth)}, false
		}
		if tab := strings.IndexByte(line[:indent], '\t'); tab >= 0 && strings.TrimSpace(line) != "" && line[indent] != '#' {
			return Fault{File: file, Line: number + 1, Column: tab + 1, Message: "a tab indents this line; YAML is indented with spaces"}, false
		}
	}
	return Fault{}, true
}

func lineColumn(before []byte) (line, column int) {
	line = 1 + bytes.Count(before, []byte("\n"))
	column = 1 + utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:])
	return line, column
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s
}

func place(t *token.Token) (line, column int) {
	if t == nil || t.Position == nil {
		return 0, 0
	}
	return t.Position.Line, t.Position.Column
}

// nodePlace is where a reader sees the node begin: a mapping at its first key.
func nodePlace(n ast.Node) (line, column int) {
	switch v := n.(type) {
	case *ast.MappingNode:
		if !v.IsFlowStyle && len(v.Values) > 0 {
			return place(v.Values[0].Key.GetToken())
		}
	case *ast.MappingValueNode:
		return place(v.Key.GetToken())
	}
	return place(n.GetToken())
}

// Faults returns what was found wrong so far, in the file's order.
func (d *Document) Faults() []Fault {
	sortFaults(d.faults)
	return d.faults
}

// Has reports whether the document holds a value at the path.
func (d *Document) Has(path string) bool {
	_, ok := d.positions[path]
	return ok
}

// Fault records a fault at the path's value or, when the path is not in the
// document, at the nearest key above it.
func (d *Document) Fault(path, message string) {
	at, ok := d.positions[path]
	for above := path; !ok; {
		cut := strings.LastIndexAny(above, ".[")
		if cut < 0 {
			at = d.positions[""]
			break
		}
		above = above[:cut]
		at, ok = d.positions[above]
	}
	d.faults = append(d.faults, Fault{File: d.file, Line: at.line, Column: at.column, Key: path, Message: message})
}

// Where names the place of the path's value, as in "group.yaml:3:8".
func (d *Document) Where(path string) string {
	at := d.positions[path]
	return fmt.Sprintf("%s:%d:%d", d.file, at.line, at.column)
}
