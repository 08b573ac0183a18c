package participant

import (
	"fmt"
	"regexp"
	"unicode"
	"unicode/utf8"
)

// Bounds of the wire, the same for every group; checked here so that the error
// comes from the line that made the mistake.
const (
	maxKeyBytes    = 1024
	maxIDBytes     = 256
	maxMethodBytes = 128
	// maxValueBytes and maxOps are the most that a group may allow a transaction;
	// limits.value_bytes and limits.transaction_keys are mostly less.
	maxValueBytes = 16 << 20
	maxOps        = 100_000
)

var namePattern = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)

func checkName(what, name string) error {
	if namePattern.MatchString(name) {
		return nil
	}
	return fmt.Errorf("%w: %s %q: want 1 to 63 of a-z, 0-9 and '-', a letter first", ErrInvalid, what, name)
}

func checkKey(key string) error {
	switch {
	case key == "":
		return fmt.Errorf("%w: empty key: want 1 to %d bytes", ErrInvalid, maxKeyBytes)
	case len(key) > maxKeyBytes:
		return fmt.Errorf("%w: key of %d bytes: want at most %d", ErrInvalid, len(key), maxKeyBytes)
	}
	return nil
}

// checkSize is asked before a change is staged beside others.
func checkSize(staged, valueBytes int) error {
	switch {
	case valueBytes > maxValueBytes:
		return fmt.Errorf("%w: value of %d bytes: no group takes more than %d", ErrTooLarge, valueBytes, maxValueBytes)
	case staged >= maxOps:
		return fmt.Errorf("%w: %d changes are staged: no group takes more", ErrTooLarge, staged)
	}
	return nil
}

func checkID(id string) error {
	if id == "" || len(id) > maxIDBytes {
		return fmt.Errorf("%w: transaction id of %d bytes: want 1 to %d", ErrInvalid, len(id), maxIDBytes)
	}
	if !utf8.ValidString(id) {
		return fmt.Errorf("%w: transaction id %q is not valid UTF-8", ErrInvalid, id)
	}
	for _, r := range id {
		if unicode.IsControl(r) {
			return fmt.Errorf("%w: transaction id %q holds a control character", ErrInvalid, id)
		}
	}
	return nil
}

func checkMethod(method string) error {
	if method == "" || len(method) > maxMethodBytes {
		return fmt.Errorf("%w: method name of %d bytes: want 1 to %d", ErrInvalid, len(method), maxMethodBytes)
	}
	for i := 0; i < len(method); i++ {
		if method[i] < 0x21 || method[i] > 0x7e {
			return fmt.Errorf("%w: method name %q: want printable ASCII without spaces", ErrInvalid, method)
		}
	}
	return nil
}
