package groups

import (
	"encoding"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cohort-tx/cohort/internal/strictyaml"
)

// Change is one difference between two definitions.
type Change struct {
	// Path of the key, as in "checkpoint.interval" or "participants[ledger]".
	Path string
	// Before and After are the values as a file would give them. Before is empty
	// for a participant that is added and After for one that is removed.
	Before, After string
}

// Diff returns what changes from old to new, in the order of the group file;
// nothing means that they say the same. A nil old is a group that does not
// exist yet: all of new is a change.
func Diff(old, new *Definition) []Change {
	d := differ{}
	if old == nil {
		before := Definition{}
		d.old = true
		old = &before
	}
	d.structs("", reflect.ValueOf(*old), reflect.ValueOf(*new))
	return d.changes
}

type differ struct {
	changes []Change
	old     bool // the old one does not exist: its values are shown as empty
}

func (d *differ) add(path, before, after string) {
	if d.old {
		before = ""
	}
	d.changes = append(d.changes, Change{Path: path, Before: before, After: after})
}

var participantsType = reflect.TypeFor[[]Participant]()

func (d *differ) structs(path string, old, new reflect.Value) {
	for i := range old.NumField() {
		name, option, _ := strings.Cut(old.Type().Field(i).Tag.Get("yaml"), ",")
		at := name
		if path != "" {
			at = path + "." + name
		}
		a, b := old.Field(i), new.Field(i)
		switch {
		case a.Type() == participantsType:
			d.participants(at, a.Interface().([]Participant), b.Interface().([]Participant))
		case a.Kind() == reflect.Struct:
			d.structs(at, a, b)
		case a.Kind() == reflect.Pointer && !a.IsNil() && !b.IsNil():
			d.structs(at, a.Elem(), b.Elem())
		default:
			if before, after := render(a, option), render(b, option); before != after || d.old {
				d.add(at, before, after)
			}
		}
	}
}

// participants are matched by name, and their order is looked at apart, so that
// an added one in the middle is one change.
func (d *differ) participants(path string, old, new []Participant) {
	oldAt, newAt := map[string]int{}, map[string]int{}
	for i, p := range old {
		oldAt[p.Name] = i
	}
	for i, p := range new {
		newAt[p.Name] = i
	}
	var oldOrder, newOrder []string
	for _, p := range old {
		if _, kept := newAt[p.Name]; kept {
			oldOrder = append(oldOrder, p.Name)
		} else {
			d.add(path+"["+p.Name+"]", render(reflect.ValueOf(p), ""), "")
		}
	}
	for i, p := range new {
		at := path + "[" + p.Name + "]"
		if j, existed := oldAt[p.Name]; existed {
			newOrder = append(newOrder, p.Name)
			d.structs(at, reflect.ValueOf(old[j]), reflect.ValueOf(new[i]))
		} else {
			d.add(at, "", render(reflect.ValueOf(p), ""))
		}
	}
	if !slices.Equal(oldOrder, newOrder) {
		d.add(path, "["+strings.Join(oldOrder, ", ")+"]", "["+strings.Join(newOrder, ", ")+"]")
	}
}

// render gives a value as a group file would in one line; in mappings, what is
// empty is left out.
func render(v reflect.Value, option string) string {
	if text, ok := v.Interface().(encoding.TextMarshaler); ok {
		raw, _ := text.MarshalText() // of times of day, which cannot fail
		return strconv.Quote(string(raw))
	}
	switch {
	case v.Type() == durationType:
		return strictyaml.FormatDuration(time.Duration(v.Int()))
	case option == "size":
		return strictyaml.FormatSize(v.Uint())
	case v.Kind() == reflect.String:
		return quoteUnlessPlain(v.String())
	case v.Kind() == reflect.Pointer:
		if v.IsNil() {
			return "none"
		}
		return render(v.Elem(), "")
	case v.Kind() == reflect.Slice:
		if v.Len() == 0 && option == "all" {
			return "all"
		}
		parts := make([]string, v.Len())
		for i := range parts {
			parts[i] = render(v.Index(i), "")
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case v.Kind() == reflect.Struct:
		var parts []string
		for i := range v.NumField() {
			if f := v.Field(i); !f.IsZero() && (f.Kind() != reflect.Slice || f.Len() > 0) {
				name, option, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
				parts = append(parts, name+": "+render(f, option))
			}
		}
		return "{" + strings.Join(parts, ", ") + "}"
	default:
		return fmt.Sprint(v.Interface())
	}
}

// quoteUnlessPlain leaves words, paths and numbers with units bare. The words
// that render uses for something else are quoted, so that no two values look
// alike.
func quoteUnlessPlain(s string) string {
	if s == "" || s == "all" || s == "none" {
		return strconv.Quote(s)
	}
	for _, c := range s {
		plain := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("-_./", c)
		if !plain {
			return strconv.Quote(s)
		}
	}
	return s
}
