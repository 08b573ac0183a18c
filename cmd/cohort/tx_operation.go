package main

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// operationKind is the flag an operation of 'tx run' came from.
type operationKind string

const (
	operationGet    operationKind = "get"
	operationPut    operationKind = "put"
	operationDelete operationKind = "delete"
	operationAdd    operationKind = "add"
	operationCall   operationKind = "call"
)

// operation is one flag of 'tx run', parsed.
type operation struct {
	kind        operationKind
	participant string
	// name is the key, or the method of a call.
	name string
	// value of a put, or the payload of a call.
	value   string
	delta   int64
	atLeast *int64
	atMost  *int64
}

// operationFlag is a flag that appends to a list shared with its siblings, so
// that operations keep the order they have on the command line.
type operationFlag struct {
	kind operationKind
	form string
	into *[]operation
}

func (f operationFlag) String() string { return "" }
func (f operationFlag) Type() string   { return f.form }

func (f operationFlag) Set(argument string) error {
	op, err := parseOperation(f.kind, argument)
	if err != nil {
		return fmt.Errorf("%w: give %s", err, f.form)
	}
	*f.into = append(*f.into, op)
	return nil
}

// parseOperation reads P/KEY, P/KEY=VALUE, P/KEY=N[,min=M][,max=M] or
// P/METHOD=JSON. The participant ends at the first slash and the key at the
// first equals sign.
func parseOperation(kind operationKind, argument string) (operation, error) {
	op := operation{kind: kind}
	participant, rest, ok := strings.Cut(argument, "/")
	if !ok || participant == "" {
		return op, fmt.Errorf("no participant before a slash in %q", argument)
	}
	op.participant = participant
	name, value, hasValue := rest, "", false
	if kind != operationGet && kind != operationDelete {
		name, value, hasValue = strings.Cut(rest, "=")
	}
	if name == "" {
		return op, fmt.Errorf("nothing between the slash and the value in %q", argument)
	}
	op.name, op.value = name, value
	switch kind {
	case operationPut:
		if !hasValue {
			return op, fmt.Errorf("no value in %q", argument)
		}
	case operationAdd:
		if !hasValue {
			return op, fmt.Errorf("no amount in %q", argument)
		}
		return op, op.parseAmount(value)
	case operationCall:
		if !hasValue {
			op.value = "null"
		} else if !json.Valid([]byte(value)) {
			return op, fmt.Errorf("%q is not JSON (a string needs double quotes of its own)", value)
		}
	}
	return op, nil
}

func (op *operation) parseAmount(argument string) error {
	parts := strings.Split(argument, ",")
	delta, err := strconv.ParseInt(parts[0], 10, 64)
	if err != nil {
		return fmt.Errorf("amount %q is not a 64-bit integer", parts[0])
	}
	op.value, op.delta = "", delta
	for _, part := range parts[1:] {
		name, number, _ := strings.Cut(part, "=")
		bound, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			return fmt.Errorf("bound %q is not min=N or max=N", part)
		}
		switch name {
		case "min":
			op.atLeast = &bound
		case "max":
			op.atMost = &bound
		default:
			return fmt.Errorf("bound %q is not min=N or max=N", part)
		}
	}
	return nil
}

// requestText says what the caller asked for, in one canonical form: it guards
// an id against being used for something else.
func requestText(operations []operation) []byte {
	type asked struct {
		Kind, Participant, Name, Value string
		Delta                          int64
		AtLeast, AtMost                *int64
	}
	list := make([]asked, 0, len(operations))
	for _, op := range operations {
		list = append(list, asked{string(op.kind), op.participant, op.name, op.value, op.delta, op.atLeast, op.atMost})
	}
	canonical, err := json.Marshal(list)
	if err != nil {
		panic("cohort: strings and integers always encode: " + err.Error())
	}
	return canonical
}
