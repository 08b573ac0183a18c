package store

import (
	"bytes"
	"slices"
	"strings"
)

// overlay holds what an Update has set, over its base.
type overlay map[string]*cell

// cell is a key's newest value in an Update.
type cell struct {
	key     string
	value   []byte
	deleted bool
	// entry is the ordinal of the entry that set it last, from 1.
	entry int
	// stored is the blob of the value that the last committed entry left under
	// the key; known is false while the base has it.
	stored blob
	known  bool
}

// cells returns copies of the cells of [start, end) in ascending order.
func (o overlay) cells(start, end []byte) []cell {
	var in []cell
	for key, c := range o {
		if key >= string(start) && (len(end) == 0 || key < string(end)) {
			in = append(in, *c)
		}
	}
	slices.SortFunc(in, func(a, b cell) int { return strings.Compare(a.key, b.key) })
	return in
}

// scanOver walks base and over as one, over going first.
func scanOver(base *cursor, over []cell, fn func(key, value []byte) (bool, error)) error {
	for base.valid() || len(over) > 0 {
		order := 1
		switch {
		case len(over) == 0:
			order = -1
		case base.valid():
			order = bytes.Compare(base.key(), []byte(over[0].key))
		}
		more, err := true, error(nil)
		if order < 0 {
			var value []byte
			if value, err = base.value(); err == nil {
				more, err = fn(base.key(), value)
			}
		} else if c := over[0]; !c.deleted {
			more, err = fn([]byte(c.key), bytes.Clone(c.value))
		}
		if err != nil || !more {
			return err
		}
		if order >= 0 {
			over = over[1:]
		}
		if order <= 0 {
			if err := base.next(); err != nil {
				return err
			}
		}
	}
	return nil
}
