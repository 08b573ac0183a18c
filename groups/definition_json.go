package groups

import (
	"bytes"
	"encoding"
	"encoding/json"
	"fmt"
	"math/big"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// MaxDefinitionBytes bounds a definition's canonical JSON: it travels in Raft
// entries and is kept whole in the directory's memory and snapshots.
const MaxDefinitionBytes = 128 << 10

// MarshalJSON gives the canonical form: every key of the group file in its
// order, defaults filled in, durations as seconds, sizes as bytes, times of day
// as text, replicas as "all" or a list. Equal definitions give equal bytes.
func (d Definition) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	if err := writeCanonical(&b, reflect.ValueOf(d), canonicalField{}); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// UnmarshalJSON reads the canonical form; see Decode.
func (d *Definition) UnmarshalJSON(data []byte) error {
	decoded, err := Decode(data)
	if err != nil {
		return err
	}
	*d = decoded
	return nil
}

// Decode reads the canonical form. Keys that are missing have their defaults;
// unknown ones are an error, since a definition written by a newer version must
// not be half understood. The result is not validated.
func Decode(data []byte) (Definition, error) {
	if len(data) > MaxDefinitionBytes {
		return Definition{}, fmt.Errorf("groups: definition has %d bytes, at most %d", len(data), MaxDefinitionBytes)
	}
	d := Default("")
	if err := readCanonical(data, reflect.ValueOf(&d).Elem(), canonicalField{}); err != nil {
		return Definition{}, fmt.Errorf("groups: definition JSON: %w", err)
	}
	d.normalise()
	return d, nil
}

// canonicalField is what a field's tag says about its form.
type canonicalField struct {
	path string
	all  bool
}

var durationType = reflect.TypeFor[time.Duration]()

func canonicalFields(t reflect.Type, visit func(index int, name string, all bool) error) error {
	for i := range t.NumField() {
		name, option, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ",")
		if err := visit(i, name, option == "all"); err != nil {
			return err
		}
	}
	return nil
}

func writeCanonical(b *bytes.Buffer, v reflect.Value, f canonicalField) error {
	if text, ok := v.Interface().(encoding.TextMarshaler); ok && v.Kind() != reflect.Struct {
		raw, err := text.MarshalText()
		if err != nil {
			return err
		}
		return writeScalar(b, string(raw))
	}
	switch {
	case v.Type() == durationType:
		b.WriteString(secondsOf(time.Duration(v.Int())))
	case v.Kind() == reflect.Pointer:
		if v.IsNil() {
			b.WriteString("null")
			return nil
		}
		return writeCanonical(b, v.Elem(), f)
	case v.Kind() == reflect.Struct:
		b.WriteByte('{')
		err := canonicalFields(v.Type(), func(i int, name string, all bool) error {
			if b.Bytes()[b.Len()-1] != '{' {
				b.WriteByte(',')
			}
			fmt.Fprintf(b, "%q:", name)
			return writeCanonical(b, v.Field(i), canonicalField{all: all})
		})
		b.WriteByte('}')
		return err
	case v.Kind() == reflect.Slice && v.Len() == 0 && f.all:
		b.WriteString(`"all"`)
	case v.Kind() == reflect.Slice:
		b.WriteByte('[')
		for i := range v.Len() {
			if i > 0 {
				b.WriteByte(',')
			}
			if err := writeCanonical(b, v.Index(i), canonicalField{}); err != nil {
				return err
			}
		}
		b.WriteByte(']')
	default:
		return writeScalar(b, v.Interface())
	}
	return nil
}

func writeScalar(b *bytes.Buffer, v any) error {
	encoder := json.NewEncoder(b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return err
	}
	b.Truncate(b.Len() - 1) // the encoder's newline
	return nil
}

func readCanonical(data []byte, v reflect.Value, f canonicalField) error {
	fail := func(err error) error {
		if f.path == "" {
			return err
		}
		return fmt.Errorf("%s: %w", f.path, err)
	}
	if text, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		var s string
		if err := json.Unmarshal(data, &s); err != nil {
			return fail(err)
		}
		if err := text.UnmarshalText([]byte(s)); err != nil {
			return fail(err)
		}
		return nil
	}
	switch {
	case v.Type() == durationType:
		d, err := parseSeconds(data)
		if err != nil {
			return fail(err)
		}
		v.SetInt(int64(d))
	case v.Kind() == reflect.Pointer:
		if string(data) == "null" {
			v.SetZero()
			return nil
		}
		fresh := reflect.New(v.Type().Elem())
		if defaulter, ok := fresh.Interface().(interface{ SetDefaults() }); ok {
			defaulter.SetDefaults()
		}
		v.Set(fresh)
		return readCanonical(data, fresh.Elem(), f)
	case v.Kind() == reflect.Struct:
		return readObject(data, v, f)
	case v.Kind() == reflect.Slice && f.all && string(data) == `"all"`:
		v.SetZero()
	case v.Kind() == reflect.Slice:
		var raw []json.RawMessage
		if err := json.Unmarshal(data, &raw); err != nil {
			return fail(err)
		}
		out := reflect.MakeSlice(v.Type(), len(raw), len(raw))
		for i, element := range raw {
			if err := readCanonical(element, out.Index(i), canonicalField{path: fmt.Sprintf("%s[%d]", f.path, i)}); err != nil {
				return err
			}
		}
		v.Set(out)
	default:
		if err := json.Unmarshal(data, v.Addr().Interface()); err != nil {
			return fail(err)
		}
	}
	return nil
}

func readObject(data []byte, v reflect.Value, f canonicalField) error {
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(data, &raw); err != nil {
		return fmt.Errorf("%s: %w", f.path, err)
	}
	err := canonicalFields(v.Type(), func(i int, name string, all bool) error {
		value, given := raw[name]
		delete(raw, name)
		if !given {
			return nil
		}
		path := name
		if f.path != "" {
			path = f.path + "." + name
		}
		return readCanonical(value, v.Field(i), canonicalField{path: path, all: all})
	})
	if err != nil {
		return err
	}
	for name := range raw {
		return fmt.Errorf("%s has the unknown key %q, written by a newer version?", strings.TrimPrefix(f.path+" ", " "), name)
	}
	return nil
}

// secondsOf writes a duration as exact decimal seconds.
func secondsOf(d time.Duration) string {
	sign := ""
	n := uint64(d)
	if d < 0 {
		sign, n = "-", -n
	}
	whole, fraction := n/1e9, n%1e9
	if fraction == 0 {
		return sign + strconv.FormatUint(whole, 10)
	}
	return fmt.Sprintf("%s%d.%s", sign, whole, strings.TrimRight(fmt.Sprintf("%09d", fraction), "0"))
}

// maxNumberBytes bounds a number, and so the work of reading it exactly.
const maxNumberBytes = 32

// parseSeconds is the inverse of secondsOf; it takes no more than nanoseconds.
func parseSeconds(data []byte) (time.Duration, error) {
	var number json.Number
	if err := json.Unmarshal(data, &number); err != nil || data[0] == '"' {
		return 0, fmt.Errorf("%.40q is not a number of seconds", data)
	}
	seconds, ok := new(big.Rat), false
	if len(number) <= maxNumberBytes && !strings.ContainsAny(string(number), "eE") {
		seconds, ok = seconds.SetString(string(number))
	}
	if !ok {
		return 0, fmt.Errorf("%.40q is not a number of seconds in plain decimals", data)
	}
	seconds.Mul(seconds, big.NewRat(1e9, 1))
	if !seconds.IsInt() || !seconds.Num().IsInt64() {
		return 0, fmt.Errorf("%s seconds is not a whole number of nanoseconds that fits", number)
	}
	return time.Duration(seconds.Num().Int64()), nil
}
