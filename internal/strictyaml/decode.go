package strictyaml

import (
	"encoding"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
)

// Enum is implemented by string types that hold one of a few words.
type Enum interface{ Values() []string }

// Defaulter is implemented by structs that begin with other than zero values
// where a file mentions them.
type Defaulter interface{ SetDefaults() }

// Decode fills the struct that into points to with what the document gives and
// leaves every other field alone. What is wrong is in Faults.
func (d *Document) Decode(into any) {
	v := reflect.ValueOf(into)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		panic(fmt.Sprintf("strictyaml: Decode into %T, want a pointer to a struct", into))
	}
	d.value(d.body, v.Elem(), field{path: "", example: "name: value"})
}

// field is what is known of the place a value is decoded into.
type field struct {
	path    string
	example string
	size    bool // bytes
	all     bool // the word all stands for a nil list
}

func (d *Document) value(n ast.Node, v reflect.Value, f field) {
	if n == nil {
		d.Fault(f.path, "the value is missing; "+wantFor(v.Type(), f)+", or leave the key out")
		return
	}
	d.positions[f.path] = d.nodePlace(n)
	switch n.(type) {
	case *ast.AnchorNode, *ast.AliasNode, *ast.MergeKeyNode:
		d.Fault(f.path, "anchors and aliases are not read; write the value out")
		return
	case *ast.TagNode:
		d.Fault(f.path, "tags are not read; write the value without one")
		return
	case *ast.NullNode:
		d.Fault(f.path, "the value is empty; "+wantFor(v.Type(), f)+", or leave the key out")
		return
	}
	if v.Kind() == reflect.Pointer {
		fresh := reflect.New(v.Type().Elem())
		if defaulter, ok := fresh.Interface().(Defaulter); ok {
			defaulter.SetDefaults()
		}
		v.Set(fresh)
		v = fresh.Elem()
	}
	switch {
	case isText(v.Type()):
		d.scalar(n, v, f)
	case v.Kind() == reflect.Struct:
		d.mapping(n, v, f)
	case v.Kind() == reflect.Slice:
		d.list(n, v, f)
	default:
		d.scalar(n, v, f)
	}
}

// mapping decodes key by key, in the file's order.
func (d *Document) mapping(n ast.Node, v reflect.Value, f field) {
	var pairs []*ast.MappingValueNode
	switch m := n.(type) {
	case *ast.MappingNode:
		pairs = m.Values
	case *ast.MappingValueNode:
		pairs = []*ast.MappingValueNode{m}
	default:
		d.Fault(f.path, wantFor(v.Type(), f)+"; found "+describe(n))
		return
	}
	fields := structFields(v.Type())
	firstLine := map[string]int{}
	for _, pair := range pairs {
		if d.full {
			return
		}
		at := d.place(pair.Key.GetToken())
		key, ok := keyText(pair.Key)
		path := join(f.path, key)
		fault := func(message string) {
			d.add(at, path, message)
		}
		if !ok {
			fault("this is not a plain key; anchors, aliases and merge keys are not read, write the keys out")
			continue
		}
		if first, twice := firstLine[key]; twice {
			fault(fmt.Sprintf("the key is given twice, first in line %d; leave one", first))
			continue
		}
		firstLine[key] = at.line
		sf, known := fields[key]
		if !known {
			message, meant := unknownKey(key, v.Type())
			fault(message)
			if meant != "" {
				d.suspects = append(d.suspects, join(f.path, meant))
			}
			continue
		}
		d.value(pair.Value, v.FieldByIndex(sf.index), sf.at(path))
	}
}

func unknownKey(key string, t reflect.Type) (message, meant string) {
	keys := structKeys(t)
	if near := Suggest(key, keys); near != "" {
		return fmt.Sprintf("unknown key %s, did you mean %s?", Show(key), Show(near)), near
	}
	return fmt.Sprintf("unknown key %s; the keys here are %s", Show(key), strings.Join(keys, ", ")), ""
}

func (d *Document) list(n ast.Node, v reflect.Value, f field) {
	sequence, ok := n.(*ast.SequenceNode)
	if !ok {
		if text, isString := n.(*ast.StringNode); isString && f.all && text.Value == "all" {
			v.SetZero()
			return
		}
		d.Fault(f.path, wantFor(v.Type(), f)+"; found "+describe(n))
		return
	}
	out := reflect.MakeSlice(v.Type(), len(sequence.Values), len(sequence.Values))
	labels := Labels(elementNames(sequence))
	for i, element := range sequence.Values {
		if d.full {
			return
		}
		if defaulter, ok := out.Index(i).Addr().Interface().(Defaulter); ok {
			defaulter.SetDefaults()
		}
		d.value(element, out.Index(i), field{path: f.path + "[" + labels[i] + "]", example: elementExample(f.example), size: f.size})
	}
	v.Set(out)
}

// elementNames returns the name key of each mapping of a list, "" without one.
func elementNames(sequence *ast.SequenceNode) []string {
	names := make([]string, len(sequence.Values))
	for i, element := range sequence.Values {
		var pairs []*ast.MappingValueNode
		switch m := element.(type) {
		case *ast.MappingNode:
			pairs = m.Values
		case *ast.MappingValueNode:
			pairs = []*ast.MappingValueNode{m}
		}
		for _, pair := range pairs {
			if key, ok := keyText(pair.Key); ok && key == "name" {
				if text, ok := pair.Value.(*ast.StringNode); ok {
					names[i] = text.Value
				}
				break
			}
		}
	}
	return names
}

// Labels gives each element of a list what it is called in paths: its name when
// that is a plain one no earlier element has, else its index from 0.
func Labels(names []string) []string {
	labels := make([]string, len(names))
	seen := map[string]bool{}
	for i, name := range names {
		if plainLabel(name) && !seen[name] {
			seen[name] = true
			labels[i] = name
		} else {
			labels[i] = strconv.Itoa(i)
		}
	}
	return labels
}

func plainLabel(s string) bool {
	if s == "" || len(s) > 63 || (s[0] >= '0' && s[0] <= '9') {
		return false
	}
	for _, c := range s {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

func (d *Document) scalar(n ast.Node, v reflect.Value, f field) {
	text, isString, ok := scalarText(n)
	if !ok && isText(v.Type()) {
		text, ok = unquotedColon(n)
	}
	if !ok {
		d.Fault(f.path, wantFor(v.Type(), f)+"; found "+describe(n))
		return
	}
	var message string
	switch {
	case isText(v.Type()):
		if err := v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(text)); err != nil {
			message = err.Error()
		}
	case v.Type() == durationType:
		parsed, err := ParseDuration(text)
		if err != nil {
			message = err.Error()
		}
		v.SetInt(int64(parsed))
	case f.size:
		parsed, err := ParseSize(text)
		if err != nil {
			message = err.Error()
		}
		v.SetUint(parsed)
	case v.Kind() == reflect.String:
		message = setString(n, v, f, text, isString)
	case v.Kind() == reflect.Bool:
		b, isBool := n.(*ast.BoolNode)
		if !isBool {
			message = wantFor(v.Type(), f) + "; found " + describe(n)
			if text == "true" || text == "false" {
				message += ": remove the quotes"
			}
		} else {
			v.SetBool(b.Value)
		}
	case v.CanInt(), v.CanUint():
		message = setNumber(n, v, f, text)
	default:
		panic(fmt.Sprintf("strictyaml: no rule for %s at %s", v.Type(), f.path))
	}
	if message != "" {
		d.Fault(f.path, message)
	}
}

func setString(n ast.Node, v reflect.Value, f field, text string, isString bool) string {
	if !isString {
		return fmt.Sprintf("%s; found %s: put it in quotes if it is meant, as in %q", wantFor(v.Type(), f), describe(n), text)
	}
	if enum, ok := v.Interface().(Enum); ok {
		values := enum.Values()
		for _, allowed := range values {
			if text == allowed {
				v.SetString(text)
				return ""
			}
		}
		if near := Suggest(text, values); near != "" {
			return fmt.Sprintf("%s is none of %s, did you mean %s?", Show(text), strings.Join(values, ", "), Show(near))
		}
		return fmt.Sprintf("%s is none of %s", Show(text), strings.Join(values, ", "))
	}
	v.SetString(text)
	return ""
}

func setNumber(n ast.Node, v reflect.Value, f field, text string) string {
	if _, isNumber := n.(*ast.IntegerNode); !isNumber && !isInteger(text) {
		return wantFor(v.Type(), f) + "; found " + describe(n)
	}
	if isQuoted(n) {
		return wantFor(v.Type(), f) + "; found " + describe(n) + ": remove the quotes"
	}
	if !isInteger(text) {
		return fmt.Sprintf("%s is not written in decimal digits; %s", Show(text), wantFor(v.Type(), f))
	}
	if v.CanInt() {
		parsed, err := strconv.ParseInt(text, 10, 64)
		if err != nil || v.OverflowInt(parsed) {
			return fmt.Sprintf("%s is too large", Show(text))
		}
		v.SetInt(parsed)
		return ""
	}
	if text[0] == '-' {
		return fmt.Sprintf("%s is negative; %s", Show(text), wantFor(v.Type(), f))
	}
	parsed, err := strconv.ParseUint(text, 10, 64)
	if err != nil || v.OverflowUint(parsed) {
		return fmt.Sprintf("%s is too large", Show(text))
	}
	v.SetUint(parsed)
	return ""
}

// isInteger wants decimal digits as YAML 1.1 and 1.2 both read them: no leading
// zero, which one of them takes for octal.
func isInteger(s string) bool {
	digits := strings.TrimPrefix(s, "-")
	if digits == "" || (digits[0] == '0' && len(digits) > 1) {
		return false
	}
	for _, c := range digits {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

var durationType = reflect.TypeFor[time.Duration]()

func isText(t reflect.Type) bool {
	return reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}
