package memstate_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cohort-tx/cohort/txlog/machine"
	"github.com/cohort-tx/cohort/txlog/machine/memstate"
)

func list(t *testing.T, r machine.Reader, start, end string) string {
	t.Helper()
	var to []byte
	if end != "" {
		to = []byte(end)
	}
	var all []string
	if err := r.Scan([]byte(start), to, func(k, v []byte) (bool, error) {
		all = append(all, fmt.Sprintf("%s=%s", k, v))
		return true, nil
	}); err != nil {
		t.Fatal(err)
	}
	return strings.Join(all, " ")
}

// A view stays what it was; an update sees itself and, discarded, leaves nothing.
func TestSnapshots(t *testing.T) {
	s := memstate.New()
	u := s.Begin()
	u.Set([]byte("b"), []byte("1"))
	u.Set([]byte("a"), []byte("1"))
	u.Commit(3)
	old := s.Latest()
	u = s.Begin()
	u.Delete([]byte("a"))
	u.Set([]byte("b"), []byte("2"))
	u.Set([]byte("c"), []byte("2"))
	if got := list(t, u, "a", ""); got != "b=2 c=2" {
		t.Errorf("the update sees %q", got)
	}
	if got := list(t, u, "b", "c"); got != "b=2" {
		t.Errorf("the update sees %q in [b, c)", got)
	}
	u.Commit(5)
	u = s.Begin()
	u.Set([]byte("d"), []byte("3"))
	u.Discard()
	for index, want := range []string{"", "", "", "a=1 b=1", "a=1 b=1", "b=2 c=2"} {
		v, err := s.At(uint64(index))
		if err != nil {
			t.Fatal(err)
		}
		if got := list(t, v, "", ""); got != want {
			t.Errorf("index %d: %q, want %q", index, got, want)
		}
	}
	if got := list(t, old, "", ""); got != "a=1 b=1" {
		t.Errorf("the old view sees %q", got)
	}
	if _, err := s.At(6); err == nil {
		t.Error("a view of the future")
	}
}
