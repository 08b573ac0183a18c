package strictyaml

import (
	"reflect"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// structField is a struct's field as its yaml tag describes it.
type structField struct {
	index   []int
	example string
	size    bool
	all     bool
}

func (s structField) at(path string) field {
	return field{path: path, example: s.example, size: s.size, all: s.all}
}

// structKeys lists the keys of a struct in its order.
func structKeys(t reflect.Type) []string {
	var keys []string
	for i := range t.NumField() {
		if name, _, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ","); name != "" && name != "-" {
			keys = append(keys, name)
		}
	}
	return keys
}

func structFields(t reflect.Type) map[string]structField {
	fields := map[string]structField{}
	for i := range t.NumField() {
		sf := t.Field(i)
		name, options, _ := strings.Cut(sf.Tag.Get("yaml"), ",")
		if name == "" || name == "-" {
			continue
		}
		fields[name] = structField{
			index:   sf.Index,
			example: sf.Tag.Get("example"),
			size:    options == "size",
			all:     options == "all",
		}
	}
	return fields
}

// wantFor says what a place takes, with an example.
func wantFor(t reflect.Type, f field) string {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	as := ""
	if f.example != "" {
		as = ", as in " + f.example
	}
	switch {
	case t == durationType:
		return "want a duration" + as
	case f.size:
		return "want a size" + as
	case isText(t):
		return "want text" + as
	case t.Implements(reflect.TypeFor[Enum]()):
		return "want one of " + strings.Join(reflect.Zero(t).Interface().(Enum).Values(), ", ")
	}
	switch t.Kind() {
	case reflect.Struct:
		return "want a mapping of keys" + as
	case reflect.Slice:
		if f.all {
			return "want the word all or a list" + as
		}
		return "want a list" + as
	case reflect.Bool:
		return "want true or false"
	case reflect.String:
		return "want text" + as
	default:
		return "want a whole number" + as
	}
}

// elementExample turns the example of a list into that of its first element.
func elementExample(example string) string {
	inner, ok := strings.CutPrefix(example, "[")
	if !ok {
		return ""
	}
	inner = strings.TrimSuffix(inner, "]")
	if strings.HasPrefix(inner, "{") {
		return inner
	}
	first, _, _ := strings.Cut(inner, ",")
	return first
}

// describe says what a value is, for messages.
func describe(n ast.Node) string {
	switch v := n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.BoolNode, *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return Show(v.GetToken().Value)
	case *ast.StringNode:
		return "the text " + Show(v.Value)
	case *ast.LiteralNode:
		return "a block of text"
	default:
		return "something else"
	}
}

// scalarText returns a scalar as it is written; isString tells text from
// numbers and booleans.
func scalarText(n ast.Node) (text string, isString, ok bool) {
	switch v := n.(type) {
	case *ast.StringNode:
		return v.Value, true, true
	case *ast.LiteralNode:
		return v.Value.Value, true, true
	case *ast.BoolNode, *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return v.GetToken().Value, false, true
	default:
		return "", false, false
	}
}

func keyText(n ast.MapKeyNode) (string, bool) {
	switch v := n.(type) {
	case *ast.StringNode:
		return v.Value, true
	case *ast.MergeKeyNode, *ast.AnchorNode, *ast.AliasNode, *ast.TagNode, *ast.MappingKeyNode:
		return v.GetToken().Value, false
	default:
		return v.GetToken().Value, true
	}
}

// isQuoted reports whether a scalar is written in quotes. (A number too large
// for the parser is text to it, without being quoted.)
func isQuoted(n ast.Node) bool {
	t := n.GetToken().Type
	return t == token.SingleQuoteType || t == token.DoubleQuoteType
}

// unquotedColon mends text like 03:00 in a flow mapping, which the parser takes
// for a key and a value although no space follows the colon.
func unquotedColon(n ast.Node) (string, bool) {
	pair, ok := n.(*ast.MappingValueNode)
	if m, isMapping := n.(*ast.MappingNode); isMapping && !m.IsFlowStyle && len(m.Values) == 1 {
		pair, ok = m.Values[0], true
	}
	if !ok {
		return "", false
	}
	key, value := pair.Key.GetToken(), pair.Value.GetToken()
	if _, _, scalar := scalarText(pair.Value); !scalar || isQuoted(pair.Key) || isQuoted(pair.Value) {
		return "", false
	}
	if key.Position.Line != value.Position.Line || value.Position.Column != key.Position.Column+len(key.Value)+1 {
		return "", false
	}
	return key.Value + ":" + value.Value, true
}

// join makes the path of a key; one that is not plain is shown quoted.
func join(path, key string) string {
	if shown := Show(key); shown != "`"+key+"`" {
		key = shown
	}
	if path == "" {
		return key
	}
	return path + "." + key
}
