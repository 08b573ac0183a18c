package main

import (
	"reflect"
	"strings"
	"testing"
)

func bound(n int64) *int64 { return &n }

// Without it a key with a slash, a value with an equals sign or a bound would be
// split in the wrong place.
func TestParseOperation(t *testing.T) {
	for _, tt := range []struct {
		kind     operationKind
		argument string
		want     operation
		fault    string
	}{
		{kind: operationGet, argument: "orders/o-1", want: operation{participant: "orders", name: "o-1"}},
		{kind: operationGet, argument: "orders/a/b=c", want: operation{participant: "orders", name: "a/b=c"}},
		{kind: operationPut, argument: "orders/o-1=a=b", want: operation{participant: "orders", name: "o-1", value: "a=b"}},
		{kind: operationPut, argument: "orders/o-1=", want: operation{participant: "orders", name: "o-1"}},
		{kind: operationDelete, argument: "orders/o-1", want: operation{participant: "orders", name: "o-1"}},
		{kind: operationAdd, argument: "ledger/x=-3", want: operation{participant: "ledger", name: "x", delta: -3}},
		{kind: operationAdd, argument: "ledger/x=5,min=0,max=9", want: operation{participant: "ledger", name: "x", delta: 5, atLeast: bound(0), atMost: bound(9)}},
		{kind: operationCall, argument: `stock/reserve={"n":1}`, want: operation{participant: "stock", name: "reserve", value: `{"n":1}`}},
		{kind: operationCall, argument: "stock/list", want: operation{participant: "stock", name: "list", value: "null"}},

		{kind: operationGet, argument: "orders", fault: "no participant before a slash"},
		{kind: operationGet, argument: "/k", fault: "no participant before a slash"},
		{kind: operationGet, argument: "orders/", fault: "nothing between"},
		{kind: operationPut, argument: "orders/k", fault: "no value"},
		{kind: operationAdd, argument: "ledger/x", fault: "no amount"},
		{kind: operationAdd, argument: "ledger/x=1.5", fault: "not a 64-bit integer"},
		{kind: operationAdd, argument: "ledger/x=9223372036854775808", fault: "not a 64-bit integer"},
		{kind: operationAdd, argument: "ledger/x=1,low=2", fault: "not min=N or max=N"},
		{kind: operationAdd, argument: "ledger/x=1,min=", fault: "not min=N or max=N"},
		{kind: operationCall, argument: "stock/reserve=one", fault: "is not JSON"},
	} {
		t.Run(string(tt.kind)+" "+tt.argument, func(t *testing.T) {
			got, err := parseOperation(tt.kind, tt.argument)
			if tt.fault != "" {
				if err == nil || !strings.Contains(err.Error(), tt.fault) {
					t.Fatalf("error %v, want one with %q", err, tt.fault)
				}
				return
			}
			tt.want.kind = tt.kind
			if err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Fatalf("got %+v, %v; want %+v", got, err, tt.want)
			}
		})
	}
}
