package history

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
)

// Would break: a file that ends the program, or one that is read as something
// else than what it says.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"client":3,"id":"c3-17","invoked_ns":1200,"returned_ns":1900,"outcome":"ok","ops":[{"op":"list","key":"a/x","values":[1,2]},{"op":"append","key":"a/x","value":7},{"op":"read","key":"b/r","value":4},{"op":"read","key":"b/s"},{"op":"write","key":"b/s","value":9}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := Decode(bytes.NewReader(data))
		if err != nil {
			return
		}
		var file bytes.Buffer
		if err := Encode(&file, h); err != nil {
			t.Fatal(err)
		}
		again, err := Decode(&file)
		if err != nil || !reflect.DeepEqual(again, h) {
			t.Fatalf("%v\n%v\n%v", err, h, again)
		}
		report, err := Check(h)
		if err == nil && len(h) <= 6 {
			if report.Valid() && !blindly(h) && !serializable(h) {
				t.Fatalf("no order explains it\n%s", show(h))
			}
			if !report.Valid() && serializable(h) {
				t.Fatalf("some order explains it\n%s%s", report, show(h))
			}
			_ = report.String()
		}
	})
}

// blindly tells whether a register is written by one that had not read it, or
// written twice by one transaction: there the check may miss something.
func blindly(h []Transaction) bool {
	for i := range h {
		touched := make(map[string]bool)
		for _, o := range h[i].Ops {
			if o.Kind == Write && !touched[o.Key] {
				return true
			}
			touched[o.Key] = true
		}
	}
	return false
}

// Would break: a fault of a file that is told without its line, or passed over.
func TestDecodeNamesTheLine(t *testing.T) {
	good := `{"client":1,"invoked_ns":1,"returned_ns":2,"outcome":"ok","ops":[]}` + "\n"
	for line, want := range map[string]string{
		`{`: "unexpected EOF",
		`{"client":1,"invoked_ns":1,"returned_ns":2,"outcome":"ok","ops":[],"more":1}`:                                       `unknown field "more"`,
		`{"client":1,"invoked_ns":1,"returned_ns":2,"outcome":"ok","ops":[]} {}`:                                             "a line holds one",
		`{"client":1,"invoked_ns":1,"returned_ns":2,"outcome":"fine","ops":[]}`:                                              "give one of ok, aborted, indeterminate",
		`{"client":1,"invoked_ns":3,"returned_ns":2,"outcome":"ok","ops":[]}`:                                                "before it was invoked",
		`{"client":1,"invoked_ns":1,"returned_ns":2,"outcome":"ok","ops":[{"op":"pop","key":"x","value":1}]}`:                "give one of append, list, write, read",
		`{"client":1,"invoked_ns":1,"returned_ns":2,"outcome":"ok","ops":[{"op":"append","key":"x"}]}`:                       "append lacks its value",
		`{"client":1,"invoked_ns":1,"returned_ns":2,"outcome":"ok","ops":[{"op":"list","key":"x","value":1}]}`:               "a list has values",
		`{"client":1,"invoked_ns":1,"returned_ns":2,"outcome":"ok","ops":[{"op":"append","key":"x","value":1,"values":[]}]}`: "a list has values",
	} {
		_, err := Decode(strings.NewReader(good + "\n" + line + "\n"))
		if err == nil || !strings.HasPrefix(err.Error(), "line 3: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", line, err)
		}
	}
}
