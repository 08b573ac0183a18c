package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const (
	formatTable = "table"
	formatJSON  = "json"
	formatYAML  = "yaml"
)

// print writes one result: as a table by the function, or the same data as one
// line of JSON or as a YAML document.
func (e *environment) print(data any, table func(w *tabwriter.Writer)) error {
	if e.output == formatTable {
		w := tabwriter.NewWriter(e.stdout, 0, 8, 2, ' ', 0)
		table(w)
		return w.Flush()
	}
	var line bytes.Buffer
	encoder := json.NewEncoder(&line)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(data); err != nil {
		return fmt.Errorf("encode the result: %w", err)
	}
	if e.output == formatJSON {
		_, err := e.stdout.Write(line.Bytes())
		return err
	}
	document, err := yaml.JSONToYAML(line.Bytes())
	if err != nil {
		return fmt.Errorf("encode the result: %w", err)
	}
	_, err = fmt.Fprintf(e.stdout, "---\n%s", document)
	return err
}

// text shows bytes as a string. Values and keys are bytes; those that are not
// UTF-8 are shown in base64, marked as such.
func text(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	return "base64:" + base64.StdEncoding.EncodeToString(b)
}

// moment shows a time in UTC; an unset one is nil.
func moment(t *timestamppb.Timestamp) *string {
	if t == nil || !t.IsValid() {
		return nil
	}
	s := t.AsTime().UTC().Format(time.RFC3339Nano)
	return &s
}

// orDash keeps a table's columns apart where there is nothing to show.
func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func momentOrDash(t *string) string {
	if t == nil {
		return "-"
	}
	return *t
}

// listed makes an empty list of an absent one, so that JSON shows [] not null.
func listed(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}
