package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// runCLI runs one command line in this process.
func runCLI(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = execute(t.Context(), args, &environment{
		stdin: strings.NewReader(""), stdout: &out, stderr: &errs,
		getenv: func(string) string { return "" },
	})
	return code, out.String(), errs.String()
}

// Without it a script could not tell a typing error from a refused transaction.
func TestWrongUsageExitsWithTwo(t *testing.T) {
	for _, tt := range []struct{ line, says string }{
		{"bogus", "no command"},
		{"", "needs a command"},
		{"get", "needs a command"},
		{"get nods", `did you mean "nodes"`},
		{"get nodes a b", "at most"},
		{"get nodes -o xml", "table, json and yaml"},
		{"get nodes --addr localhost", "has no port"},
		{"get nodes --bogus", "unknown flag"},
		{"get nodes --addr 10.0.0.1:7070", "--insecure"},
		{"get nodes --tls-ca ca.crt", "--tls-cert"},
		{"get nodes --tls-cert n.crt", "need --tls-ca"},
		{"status --timeout -1s", "above zero"},
		{"apply", "-f FILE"},
		{"tx run --put a/b=c", "--group"},
		{"tx run --group g", "nothing to do"},
		{"tx run --group g --put ab", "P/KEY=VALUE"},
		{"tx outcome --group g", "accepts 1 arg"},
		{"tx outcome x", "--group"},
		{"log show", "--group"},
		{"checkpoint", "needs a command"},
		{"checkpoint lst", `did you mean "list"`},
		{"checkpoint create", "accepts 1 arg"},
		{"checkpoint verify --file f --timeout 0s", "above zero"},
		{"restore", "accepts 1 arg"},
		{"restore g --to checkpoint:1 --in-place", "--yes"},
		{"drill", "accepts 1 arg"},
		{"completion", "accepts 1 arg"},
		{"completion ksh", "invalid argument"},
		{"serve", "--config"},
		{"participant echo", "--group"},
		{"dev --nodes 0", "--nodes"},
	} {
		t.Run(tt.line, func(t *testing.T) {
			code, stdout, stderr := runCLI(t, strings.Fields(tt.line)...)
			if code != exitUsage || !strings.Contains(stderr, tt.says) || stdout != "" {
				t.Fatalf("exit %d, stdout %q, stderr %q; want exit 2 and %q", code, stdout, stderr, tt.says)
			}
		})
	}
}

// Without it a command against a cluster that is not there would hang, or fail
// without saying what to do.
func TestNobodyThereExitsWithOne(t *testing.T) {
	code, _, stderr := runCLI(t, "get", "nodes", "--addr", "127.0.0.1:1,127.0.0.1:2")
	if code != exitFailed || !strings.Contains(stderr, "no node answered") || !strings.Contains(stderr, "--addr") {
		t.Fatalf("exit %d, stderr %q", code, stderr)
	}
}

func TestVersionAndCompletion(t *testing.T) {
	if code, out, _ := runCLI(t, "version", "-o", "json"); code != exitDone || !strings.HasPrefix(out, `{"version":"`) {
		t.Fatalf("version: exit %d, %q", code, out)
	}
	if code, out, _ := runCLI(t, "completion", "bash"); code != exitDone || !strings.Contains(out, "__start_cohort") {
		t.Fatalf("completion: exit %d, %d bytes", code, len(out))
	}
}

// Without it every command would need its own proof that help works.
func TestHelpOfEveryCommand(t *testing.T) {
	var check func(cmd *cobra.Command)
	check = func(cmd *cobra.Command) {
		path := append(strings.Fields(cmd.CommandPath())[1:], "--help")
		if code, out, stderr := runCLI(t, path...); code != exitDone || !strings.Contains(out, "Usage:") {
			t.Fatalf("%v: exit %d, %q, %q", path, code, out, stderr)
		}
		for _, sub := range cmd.Commands() {
			check(sub)
		}
	}
	check(newRoot(&environment{}))
}
