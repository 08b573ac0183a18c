package history

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Outcome is what a client knows of its transaction's end. Numbers are not
// persisted; names are.
type Outcome uint8

// Values of Outcome.
const (
	// OK: it was told that the transaction committed.
	OK Outcome = iota + 1
	// Aborted: it was told that the transaction never happened.
	Aborted
	// Indeterminate: it was told nothing that counts.
	Indeterminate
)

var outcomes = [...]string{"", "ok", "aborted", "indeterminate"}

func (o Outcome) String() string {
	if o > 0 && int(o) < len(outcomes) {
		return outcomes[o]
	}
	return "Outcome(" + strconv.Itoa(int(o)) + ")"
}

// OpKind is what an operation does. Numbers are not persisted; names are.
type OpKind uint8

// Values of OpKind.
const (
	// Append adds Value to a list.
	Append OpKind = iota + 1
	// List reads a list into Values.
	List
	// Write sets a register to Value.
	Write
	// Read reads a register into Value; Absent when nothing was there.
	Read
)

var opKinds = [...]string{"", "append", "list", "write", "read"}

func (k OpKind) String() string {
	if k > 0 && int(k) < len(opKinds) {
		return opKinds[k]
	}
	return "OpKind(" + strconv.Itoa(int(k)) + ")"
}

func (k OpKind) reads() bool  { return k == List || k == Read }
func (k OpKind) ofList() bool { return k == List || k == Append }

// Op is one operation of a transaction, with what it gave or got.
type Op struct {
	Kind   OpKind
	Key    string
	Value  int64
	Values []int64
	Absent bool
}

// shownValues bounds how much of a list is printed: its end tells most.
const shownValues = 12

func (o Op) String() string {
	s := o.Kind.String() + " " + o.Key + " "
	switch {
	case o.Kind == List:
		return s + showList(o.Values)
	case o.Absent:
		return s + "absent"
	}
	return s + strconv.FormatInt(o.Value, 10)
}

func showList(values []int64) string {
	var s strings.Builder
	s.WriteByte('[')
	if left := len(values) - shownValues; left > 0 {
		fmt.Fprintf(&s, "(%d more) ", left)
		values = values[left:]
	}
	for i, v := range values {
		if i > 0 {
			s.WriteByte(' ')
		}
		s.WriteString(strconv.FormatInt(v, 10))
	}
	s.WriteByte(']')
	return s.String()
}

// Transaction is what one client recorded of one transaction.
type Transaction struct {
	// Client is who ran it, for people.
	Client int
	// ID is its id in the system that was watched, for people.
	ID string
	// Invoked and Returned are by one monotonic clock, since any one moment. Before
	// Invoked the transaction has not happened; after Returned it has, if it is OK.
	Invoked, Returned time.Duration
	Outcome           Outcome
	Ops               []Op
}

func (t *Transaction) String() string {
	var s strings.Builder
	if t.ID != "" {
		fmt.Fprintf(&s, "%s, ", t.ID)
	}
	fmt.Fprintf(&s, "client %d, %s to ", t.Client, t.Invoked)
	if t.Outcome == Indeterminate {
		s.WriteString("unknown")
	} else {
		s.WriteString(t.Returned.String())
	}
	fmt.Fprintf(&s, ", %s:", t.Outcome)
	for i, o := range t.Ops {
		if i > 0 {
			s.WriteByte(',')
		}
		s.WriteString(" " + o.String())
	}
	return s.String()
}

// validate returns every fault of one transaction by itself.
func (t *Transaction) validate() error {
	var errs []error
	if t.Outcome < OK || t.Outcome > Indeterminate {
		errs = append(errs, fmt.Errorf("its outcome is %s; give one of ok, aborted, indeterminate", t.Outcome))
	}
	if t.Outcome != Indeterminate && t.Returned < t.Invoked {
		errs = append(errs, fmt.Errorf("it returned at %s, before it was invoked at %s; take both from one monotonic clock", t.Returned, t.Invoked))
	}
	for i, o := range t.Ops {
		switch {
		case o.Kind < Append || o.Kind > Read:
			errs = append(errs, fmt.Errorf("operation %d is a %s; give one of append, list, write, read", i+1, o.Kind))
		case o.Kind != List && o.Values != nil:
			errs = append(errs, fmt.Errorf("operation %d, a %s, has a list of values", i+1, o.Kind))
		case o.Absent && (o.Kind != Read || o.Value != 0):
			errs = append(errs, fmt.Errorf("operation %d, a %s, cannot be absent and have a value", i+1, o.Kind))
		case o.Kind == List && o.Value != 0:
			errs = append(errs, fmt.Errorf("operation %d, a list, has a single value", i+1))
		}
	}
	return errors.Join(errs...)
}
