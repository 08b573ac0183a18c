package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cohort-tx/cohort/internal/cluster"
	"github.com/cohort-tx/cohort/internal/ports"
)

// writeNode writes the file of a node that joins the cluster.
func writeNode(t *testing.T, c *cluster.Processes, name string) (path string) {
	t.Helper()
	free := func() string {
		addr, err := ports.Claim()
		if err != nil {
			t.Fatal(err)
		}
		return addr
	}
	dir := t.TempDir()
	first := c.Members()[0].Config.Cluster[0]
	text := fmt.Sprintf("name: %s\ndata_dir: %q\napi: {address: %q}\nraft: {address: %q}\nhttp: {address: \"\"}\ncluster:\n  - {name: %s, api: %q, raft: %q}\n",
		name, filepath.Join(dir, "data"), free(), free(), first.Name, first.API, first.Raft)
	path = filepath.Join(dir, "node.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func listMembers(t *testing.T, out string) membersView {
	t.Helper()
	var view membersView
	if err := json.Unmarshal([]byte(out), &view); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	return view
}

// Without it an operator could not add a node, see what it does, and take it out
// again, or would break something by trying.
func TestNodesOfACluster(t *testing.T) {
	c := startProcesses(t, 1)
	addr := c.Addrs()
	path := writeNode(t, c, "n2")
	for _, args := range [][]string{
		{"node", "init", "--config", path},
		{"node", "replace", "--config", path, "--addr", addr},
		{"node", "remove", "n1", "--addr", addr},
		{"node", "remove", "n7", "--addr", addr},
		{"serve", "--config", path},
	} {
		if code, _, stderr := runProgram(t, args...); code != exitFailed || stderr == "" {
			t.Errorf("%v: exit %d, %s", args, code, stderr)
		}
	}
	for _, args := range [][]string{{"node", "join"}, {"node", "remove"}, {"node", "list", "n1"}} {
		if code, _, _ := runCLI(t, args...); code != exitUsage {
			t.Errorf("%v: exit %d, not %d", args, code, exitUsage)
		}
	}
	var view nodeChangeView
	out := mustCLI(t, "node", "join", "--config", path, "--addr", addr, "--dry-run", "-o", "json")
	if err := json.Unmarshal([]byte(out), &view); err != nil || !view.DryRun || len(view.Steps) < 4 {
		t.Errorf("dry run: %v in %s", err, out)
	}
	if len(listMembers(t, mustCLI(t, "node", "list", "--addr", addr, "-o", "json")).Nodes) != 1 {
		t.Error("a dry run has added a node")
	}
	mustCLI(t, "node", "join", "--config", path, "--addr", addr)
	mustCLI(t, "node", "join", "--config", path, "--addr", addr) // an answer may be lost
	listed := listMembers(t, mustCLI(t, "node", "list", "--addr", addr, "-o", "json"))
	if listed.Settled || len(listed.Nodes) != 2 || listed.Nodes[1].Membership != "joining" {
		t.Errorf("announced: %+v", listed)
	}
	n2, err := c.Add(path)
	if err != nil {
		t.Fatal(err)
	}
	listed = listMembers(t, mustCLI(t, "node", "list", "--wait", "--addr", addr, "-o", "json"))
	if !listed.Settled || len(listed.Changes) != 0 || len(listed.Nodes[1].Replicas) != 1 || listed.Nodes[1].Replicas[0].Role != "voter" || listed.Nodes[1].Directory != "voter" {
		t.Errorf("joined: %+v", listed)
	}
	mustCLI(t, "tx", "run", "--group", "checkout", "--put", "orders/a=1", "--addr", n2.Addr)
	eventually(t, "equal digests", func() bool { return digestAt(t, addr, "n1") == digestAt(t, addr, "n2") })

	out = mustCLI(t, "node", "remove", "n1", "--addr", n2.Addr, "--dry-run")
	if !strings.Contains(out, "nothing was changed") || !strings.Contains(out, "remove replica 1 on n1") {
		t.Errorf("dry run: %s", out)
	}
	mustCLI(t, "node", "remove", "n1", "--wait", "--addr", n2.Addr)
	eventually(t, "n1 ends by itself", func() bool { return c.PID("n1") == 0 })
	log, err := os.ReadFile(filepath.Join(c.Members()[0].Dir, "node.log"))
	if err != nil || !strings.Contains(string(log), "removed from the cluster") {
		t.Errorf("what n1 says at its end: %v\n%s", err, log)
	}
	if out := mustCLI(t, "tx", "run", "--group", "checkout", "--get", "orders/a", "--put", "orders/a=2", "--addr", n2.Addr); !strings.Contains(out, "1") {
		t.Errorf("the data afterwards: %s", out)
	}
	if code, out, stderr := runCLI(t, "status", "--addr", n2.Addr); code != exitDone {
		t.Errorf("status afterwards: exit %d\n%s%s", code, out, stderr)
	}
	// A node that has left does not come back by being started.
	if code, _, stderr := runProgram(t, "serve", "--config", c.Members()[0].ConfigPath); code != exitFailed || !strings.Contains(stderr, "removed from the cluster") {
		t.Errorf("a node that has left: exit %d, %s", code, stderr)
	}
}
