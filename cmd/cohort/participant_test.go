package main

import (
	"encoding/json"
	"strings"
	"syscall"
	"testing"

	"github.com/cohort-tx/cohort/participant/participanttest"
)

// Without it the tours and tests that need some application would each bring one.
func TestEcho(t *testing.T) {
	c := participanttest.StartNodes(t, 3, "group: checkout\nparticipants: [{name: orders}, {name: stock}]\n")
	t.Setenv("COHORT_ADDR", c.Addr)
	t.Setenv("COHORT_GROUP", "checkout")
	t.Setenv("COHORT_PARTICIPANT", "stock")
	echo := startProgram(t, "participant", "echo", "-o", "json")
	var ready echoView
	if err := json.Unmarshal([]byte(echo.line()), &ready); err != nil || !ready.Ready || ready.State != "active" || ready.Participant != "stock" {
		t.Fatalf("%+v, %v", ready, err)
	}
	call := func(payload string) string {
		t.Helper()
		code, out, stderr := runCLI(t, "tx", "run", "--group", "checkout", "--put", "orders/o-1=new", "--call", "stock/reserve="+payload,
			"--get", "stock/last/reserve", "-o", "json", "--addr", c.Addr)
		if code != exitDone {
			_, status, failure := runCLI(t, "status", "--addr", c.Addr)
			t.Fatalf("exit %d: %s%s\nthe cluster says\n%s%s", code, out, stderr, status, failure)
		}
		return out
	}
	if out := call(`{"n":1}`); !strings.Contains(out, `"replies":{"stock/reserve":{"n":1}}`) || !strings.Contains(out, `"stock/last/reserve":"{\"n\":1}"`) {
		t.Fatal(out)
	}

	// It attaches again by itself when its node, or its coordinator's, is gone.
	for _, node := range c.Nodes() {
		c.Kill(t, node)
		if out := call(`{"n":2}`); !strings.Contains(out, `"stock/reserve":{"n":2}`) {
			t.Fatal(out)
		}
		c.Restart(t, node)
	}
	echo.signal(syscall.SIGTERM)
	if code := echo.wait(); code != exitDone {
		t.Fatalf("exit %d: %s", code, echo.stderr)
	}
	code, _, stderr := runCLI(t, "participant", "echo", "--group", "checkout", "--participant", "none", "--addr", c.Addr)
	if code != exitFailed || !strings.Contains(stderr, "no participant") {
		t.Fatalf("unknown participant: exit %d, %s", code, stderr)
	}
}
