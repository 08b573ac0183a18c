package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"testing"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
)

// digestAt is position and digest of one node's replica of checkout.
func digestAt(t *testing.T, addr, node string) string {
	t.Helper()
	env := &environment{addrs: []string{addr}}
	conn, err := env.connect()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	answer, err := pb.NewClusterClient(conn).Digest(ctx, &pb.DigestRequest{Group: "checkout", Node: node})
	if err != nil {
		return "error: " + err.Error()
	}
	return fmt.Sprintf("%d %d %x", answer.Incarnation, answer.Position, answer.Digest)
}

// waitEqualDigests waits until every node's replica is the same, at position.
func waitEqualDigests(t *testing.T, view readyView, position uint64) {
	t.Helper()
	var found map[string]string
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("digests: %v", found)
		}
	})
	eventually(t, "equal digests", func() bool {
		found = digests(t, view)
		first := found[view.Nodes[0].Name]
		for _, digest := range found {
			if digest != first {
				return false
			}
		}
		return strings.HasPrefix(first, fmt.Sprintf("1 %d ", position))
	})
}

func lastPosition(t *testing.T, addrs string) (position uint64) {
	t.Helper()
	for line := range strings.Lines(mustCLI(t, "log", "show", "--group", "checkout", "-o", "json", "--addr", addrs)) {
		var entry entryView
		if err := json.Unmarshal([]byte(line), &entry); err != nil || entry.Position != position+1 {
			t.Fatalf("entry after %d: %s, %v", position, line, err)
		}
		position = entry.Position
	}
	return position
}

// Without it a user's first cluster would lose data with a killed node, leave
// orphans behind, or not continue with its data.
func TestDevWithProcesses(t *testing.T) {
	dir, group := t.TempDir(), writeGroup(t)
	dev, view := startDevProgram(t, "--nodes", "3", "--processes", "--data-dir", dir, "-f", group)
	run := func(id string) {
		t.Helper()
		mustCLI(t, "tx", "run", "--group", "checkout", "--id", id, "--put", "orders/"+id+"=new", "--add", "ledger/revenue=1", "--addr", view.Addrs)
	}
	run("o-1")

	// The node that leads is killed; the others go on.
	leader := mustCLI(t, "get", "groups", "checkout", "-o", "json", "--addr", view.Addrs)
	var killed readyNode
	for _, n := range view.Nodes {
		if strings.Contains(leader, fmt.Sprintf(`"coordinator":%q`, n.Name)) {
			killed = n
		}
	}
	if err := syscall.Kill(killed.PID, syscall.SIGKILL); err != nil {
		t.Fatalf("kill %+v: %v", killed, err)
	}
	run("o-2")
	eventually(t, "how to start it again", func() bool { return strings.Contains(dev.stderr.String(), "Start it again with:") })
	said := dev.stderr.String()
	if !strings.Contains(said, killed.Name) || !strings.Contains(said, "serve --config") {
		t.Fatalf("stderr: %s", said)
	}
	code, status, _ := runCLI(t, "status", "--addr", view.Addrs)
	if code != exitFailed || !strings.Contains(status, "NOT HEALTHY") {
		t.Fatalf("status with a dead node: exit %d\n%s", code, status)
	}

	// It is started by hand, with the command that was printed.
	_, command, _ := strings.Cut(said, " serve --config ")
	byHand := startProgram(t, "serve", "--config", strings.TrimSpace(command))
	run("o-3")
	waitEqualDigests(t, view, 3)
	eventually(t, "healthy", func() bool {
		code, _, _ := runCLI(t, "status", "--addr", view.Addrs)
		return code == exitDone
	})
	byHand.signal(syscall.SIGTERM)
	if code := byHand.wait(); code != exitDone {
		t.Fatalf("serve ended with %d: %s", code, byHand.stderr)
	}

	dev.signal(syscall.SIGTERM)
	if code := dev.wait(); code != exitDone {
		t.Fatalf("dev ended with %d: %s", code, dev.stderr)
	}
	for _, n := range view.Nodes {
		if !gone(n.PID) {
			t.Errorf("%s is left behind as pid %d", n.Name, n.PID)
		}
	}

	// In one process this time, with the same data.
	again, view := startDevProgram(t, "--data-dir", dir)
	if len(view.Nodes) != 3 || lastPosition(t, view.Addrs) != 3 {
		t.Fatalf("continued with %+v", view)
	}
	run("o-1") // committed before: the same transaction
	run("o-4")
	waitEqualDigests(t, view, 4)
	again.signal(syscall.SIGINT)
	if code := again.wait(); code != exitDone {
		t.Fatalf("dev ended with %d: %s", code, again.stderr)
	}
	if code, _, stderr := runProgram(t, "dev", "--nodes", "2", "--data-dir", dir); code != exitFailed || !strings.Contains(stderr, "holds a cluster of 3 nodes") {
		t.Fatalf("another number of nodes: exit %d, %s", code, stderr)
	}
}

// Without it a killed dev would leave its nodes running on their ports.
func TestKilledDevLeavesNoOrphans(t *testing.T) {
	dev, view := startDevProgram(t, "--nodes", "2", "--processes", "--data-dir", t.TempDir())
	dev.signal(syscall.SIGKILL)
	dev.wait()
	for _, n := range view.Nodes {
		eventually(t, n.Name+" ends with its parent", func() bool { return gone(n.PID) })
	}
}

// Without it a wrong file would be found only after a cluster was started for it.
func TestDevRefusesWrongGroupFile(t *testing.T) {
	code, stdout, stderr := runCLI(t, "dev", "-f", "testdata/wrong.yaml")
	if code != exitFailed || stdout != "" || !strings.Contains(stderr, "testdata/wrong.yaml:2:1: ") || !strings.Contains(stderr, "did you mean `participants`") {
		t.Fatalf("exit %d, %s", code, stderr)
	}
}
