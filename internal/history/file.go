package history

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"
)

// maxLineBytes bounds one transaction of a file: a hundred reads of long lists
// have room, a file of something else does not take the memory.
const maxLineBytes = 16 << 20

type fileTransaction struct {
	Client     int      `json:"client"`
	ID         string   `json:"id,omitempty"`
	InvokedNS  int64    `json:"invoked_ns"`
	ReturnedNS int64    `json:"returned_ns"`
	Outcome    string   `json:"outcome"`
	Ops        []fileOp `json:"ops"`
}

type fileOp struct {
	Op     string   `json:"op"`
	Key    string   `json:"key"`
	Value  *int64   `json:"value,omitempty"`
	Values *[]int64 `json:"values,omitempty"`
}

// Encode writes a history in the package's file format.
func Encode(w io.Writer, h []Transaction) error {
	buffered := bufio.NewWriter(w)
	lines := json.NewEncoder(buffered)
	for i := range h {
		t := &h[i]
		line := fileTransaction{
			Client: t.Client, ID: t.ID, InvokedNS: int64(t.Invoked), ReturnedNS: int64(t.Returned),
			Outcome: t.Outcome.String(), Ops: make([]fileOp, len(t.Ops)),
		}
		for j := range t.Ops {
			o := &t.Ops[j]
			line.Ops[j] = fileOp{Op: o.Kind.String(), Key: o.Key}
			switch {
			case o.Kind == List:
				values := append([]int64{}, o.Values...) // never null
				line.Ops[j].Values = &values
			case !o.Absent:
				line.Ops[j].Value = &o.Value
			}
		}
		if err := lines.Encode(line); err != nil {
			return fmt.Errorf("transaction %d: %w", i+1, err)
		}
	}
	return buffered.Flush()
}

// Decode reads a history in the package's file format. An error names the line.
// Check finds what is wrong between transactions.
func Decode(r io.Reader) ([]Transaction, error) {
	var h []Transaction
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLineBytes)
	n := 0
	for lines.Scan() {
		n++
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		t, err := decodeLine(lines.Bytes())
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		h = append(h, t)
	}
	if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) {
		return nil, fmt.Errorf("line %d: longer than %d bytes; a line holds one transaction", n+1, maxLineBytes)
	} else if err != nil {
		return nil, fmt.Errorf("line %d: %w", n+1, err)
	}
	return h, nil
}

func decodeLine(data []byte) (Transaction, error) {
	var line fileTransaction
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&line); err != nil {
		return Transaction{}, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Transaction{}, errors.New("something follows the transaction; a line holds one")
	}
	t := Transaction{
		Client: line.Client, ID: line.ID, Invoked: time.Duration(line.InvokedNS), Returned: time.Duration(line.ReturnedNS),
		Outcome: Outcome(max(0, slices.Index(outcomes[:], line.Outcome))),
	}
	if t.Outcome == 0 {
		return Transaction{}, fmt.Errorf("outcome %q; give one of ok, aborted, indeterminate", line.Outcome)
	}
	for i, o := range line.Ops {
		op := Op{Kind: OpKind(max(0, slices.Index(opKinds[:], o.Op))), Key: o.Key}
		switch {
		case op.Kind == 0:
			return Transaction{}, fmt.Errorf("operation %d is %q; give one of append, list, write, read", i+1, o.Op)
		case (op.Kind == List) != (o.Values != nil), op.Kind == List && o.Value != nil:
			return Transaction{}, fmt.Errorf("operation %d: a list has values, everything else at most one value", i+1)
		case op.Kind == List:
			op.Values = *o.Values
		case o.Value != nil:
			op.Value = *o.Value
		case op.Kind == Read:
			op.Absent = true
		default:
			return Transaction{}, fmt.Errorf("operation %d: %s lacks its value", i+1, o.Op)
		}
		t.Ops = append(t.Ops, op)
	}
	return t, t.validate()
}

// ReadFile reads a history from a file.
func ReadFile(path string) ([]Transaction, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h, err := Decode(f)
	if err != nil {
		return nil, fmt.Errorf("history %s: %w", path, err)
	}
	return h, nil
}
