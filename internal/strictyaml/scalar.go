package strictyaml

import (
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"time"
)

// The forms of durations and sizes, as messages give them.
const (
	DurationForm = "write a duration with units, as in 500ms, 30s, 5m or 1h30m"
	SizeForm     = "write bytes, plain or with a unit, as in 65536, 64KiB, 4MiB or 1GB"
)

// ParseDuration reads a duration as Go writes it; 0 needs no unit.
func ParseDuration(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err == nil {
		if d < 0 {
			return 0, fmt.Errorf("%s is negative; %s", Show(text), DurationForm)
		}
		return d, nil
	}
	if _, err := strconv.ParseUint(text, 10, 64); err == nil || errors.Is(err, strconv.ErrRange) {
		return 0, fmt.Errorf("%s has no unit; %s", Show(text), DurationForm)
	}
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil {
			return 0, fmt.Errorf("%s uses days, which have no unit here; write %dh", Show(text), n*24)
		}
	}
	return 0, fmt.Errorf("%s is not a duration; %s", Show(text), DurationForm)
}

// FormatDuration is the inverse of ParseDuration, without the trailing zero
// units of time.Duration.String: 2h, not 2h0m0s.
func FormatDuration(d time.Duration) string {
	if d == 0 {
		return "0s"
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// sizeUnits, largest first within each family, so that FormatSize finds the
// shortest exact form.
var sizeUnits = []struct {
	name  string
	bytes uint64
}{
	{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"KB", 1e3}, {"B", 1},
}

// ParseSize reads a number of bytes, plain or with a unit.
func ParseSize(text string) (uint64, error) {
	digits := strings.TrimRight(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
	unitName := text[len(digits):]
	number := strings.TrimRight(digits, " ")
	unit := uint64(1)
	if unitName != "" {
		unit = 0
		for _, u := range sizeUnits {
			if u.name == unitName {
				unit = u.bytes
			}
		}
	}
	if unit == 0 || !isDecimal(number) {
		return 0, fmt.Errorf("%s is not a size; %s", Show(text), SizeForm)
	}
	rat, ok := new(big.Rat).SetString(number)
	if !ok {
		return 0, fmt.Errorf("%s is not a size; %s", Show(text), SizeForm)
	}
	rat.Mul(rat, new(big.Rat).SetInt(new(big.Int).SetUint64(unit)))
	switch {
	case !rat.IsInt():
		return 0, fmt.Errorf("%s is not a whole number of bytes; %s", Show(text), SizeForm)
	case !rat.Num().IsUint64() || rat.Num().Uint64() > MaxSize:
		return 0, fmt.Errorf("%s is too large; at most %s", Show(text), FormatSize(MaxSize))
	}
	return rat.Num().Uint64(), nil
}

// MaxSize is the largest size read: beyond it JSON numbers, which sizes become,
// are not exact for every reader (2^53).
const MaxSize = 8192 << 40

// sizeDigits bounds the digits of a size, and so the work of reading one.
const sizeDigits = 32

// isDecimal reports whether s is digits, or digits with a point among them.
func isDecimal(s string) bool {
	whole, fraction, point := strings.Cut(s, ".")
	if len(s) > sizeDigits || whole == "" || (point && fraction == "") {
		return false
	}
	for _, c := range whole + fraction {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

// FormatSize is the inverse of ParseSize.
func FormatSize(n uint64) string {
	for _, u := range sizeUnits {
		if n >= u.bytes && n%u.bytes == 0 && u.bytes > 1 && n/u.bytes < 1<<20 {
			return strconv.FormatUint(n/u.bytes, 10) + u.name
		}
	}
	return strconv.FormatUint(n, 10)
}
