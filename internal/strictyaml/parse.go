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
	// MaxFileBytes bounds a file of several documents.
	MaxFileBytes = 1 << 20
	// MaxDocumentBytes bounds one document: a group with many participants and
	// comments is far below it, and the parser's time grows with its square (80,000
	// small mappings in one took it half a minute).
	MaxDocumentBytes = 128 << 10
	// maxDepth bounds nesting, since the parser recurses. No file of Cohort goes
	// deeper than 5.
	maxDepth = 32
	// maxDocuments bounds the documents of a file: as many as there may be groups.
	maxDocuments = 1024
	// maxFaults is as many as anybody reads of one document before correcting
	// some.
	maxFaults = 100
)

// Document is one YAML document of a file. It is not safe for concurrent use.
type Document struct {
	file      string
	body      ast.Node
	before    int // lines of the file before the document's first
	positions map[string]position
	faults    []Fault
	full      bool     // faults are left out
	suspects  []string // paths of keys that were probably misspelt
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
	var documents []*Document
	var faults []Fault
	for _, c := range split(data) {
		if c.fault != "" {
			faults = append(faults, Fault{File: file, Line: c.before + 1, Column: 1, Message: c.fault})
			continue
		}
		if len(c.data) > MaxDocumentBytes {
			faults = append(faults, Fault{File: file, Line: c.before + 1, Column: 1, Message: fmt.Sprintf("the document has %d bytes; at most %d are read", len(c.data), MaxDocumentBytes)})
			continue
		}
		parsed, fault := parseBytes(file, c.data)
		if fault != nil {
			if fault.Line > 0 {
				fault.Line += c.before
			}
			faults = append(faults, *fault)
			continue
		}
		for _, d := range parsed.Docs {
			if !isEmpty(d.Body) {
				documents = append(documents, &Document{file: file, body: d.Body, before: c.before, positions: map[string]position{}})
			}
		}
		if len(documents) > maxDocuments {
			faults = append(faults, Fault{File: file, Line: c.before + 1, Column: 1, Message: fmt.Sprintf("more than %d documents in a file; divide it", maxDocuments)})
			break
		}
	}
	if len(faults) > 0 {
		return nil, faults
	}
	return documents, nil
}

func isEmpty(body ast.Node) bool {
	switch body.(type) {
	case nil, *ast.NullNode, *ast.CommentNode, *ast.CommentGroupNode:
		return true
	}
	return false
}

// chunk is the text of one document, or what is wrong with a line between two.
type chunk struct {
	data   []byte
	before int
	fault  string
}

// split divides a file at its document markers. The parser could do that, but it
// loses what follows a document that holds nothing but a comment. A marker at
// the start of a line ends a document wherever it stands (YAML 1.2.2, 9.1.2).
func split(data []byte) []chunk {
	var chunks []chunk
	current := chunk{}
	flush := func(next int) {
		if len(bytes.TrimSpace(current.data)) > 0 {
			chunks = append(chunks, current)
		}
		current = chunk{before: next}
	}
	for number, line := range bytes.SplitAfter(data, []byte("\n")) {
		marker := bytes.HasPrefix(line, []byte("---")) || bytes.HasPrefix(line, []byte("..."))
		switch {
		case marker && (len(line) == 3 || bytes.IndexByte([]byte(" \t\r\n"), line[3]) >= 0):
			flush(number + 1)
			if rest := bytes.TrimSpace(line[3:]); len(rest) > 0 && rest[0] != '#' {
				chunks = append(chunks, chunk{before: number, fault: "something follows the document marker; write it in the next line"})
			}
		case line != nil && bytes.HasPrefix(line, []byte("%")) && len(bytes.TrimSpace(current.data)) == 0:
			chunks = append(chunks, chunk{before: number, fault: "directives are not read; remove the line"})
		default:
			current.data = append(current.data, line...)
		}
	}
	flush(0)
	return chunks
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
		if tab := strings.IndexByte(line[:indent], '\t'); tab >= 0 && strings.TrimSpace(line[indent:]) != "" && line[indent] != '#' {
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
func (d *Document) nodePlace(n ast.Node) position {
	switch v := n.(type) {
	case *ast.MappingNode:
		if !v.IsFlowStyle && len(v.Values) > 0 {
			return d.place(v.Values[0].Key.GetToken())
		}
	case *ast.MappingValueNode:
		return d.place(v.Key.GetToken())
	}
	return d.place(n.GetToken())
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
	d.add(at, path, message)
}

func (d *Document) add(at position, path, message string) {
	switch {
	case len(d.faults) < maxFaults:
		d.faults = append(d.faults, Fault{File: d.file, Line: at.line, Column: at.column, Key: path, Message: message})
	case !d.full:
		d.full = true
		d.faults = append(d.faults, Fault{File: d.file, Line: at.line, Column: at.column, Message: "more is wrong from here on; correct the rest first"})
	}
}

// place is the place of a token in the file.
func (d *Document) place(t *token.Token) position {
	line, column := place(t)
	if line > 0 {
		line += d.before
	}
	return position{line, column}
}

// Where names the place of the path's value, as in "group.yaml:3:8".
func (d *Document) Where(path string) string {
	at := d.positions[path]
	return fmt.Sprintf("%s:%d:%d", d.file, at.line, at.column)
}
