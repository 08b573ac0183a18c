package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"google.golang.org/protobuf/proto"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
)

// runFake runs one command line against the fake node; DIR is a directory.
func runFake(t *testing.T, n *fakeNode, dir, line string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code := execute(t.Context(), splitWords(strings.ReplaceAll(line, "DIR", dir)), &environment{
		stdin: strings.NewReader(""), stdout: &stdout, stderr: &stderr,
		getenv: func(name string) string {
			if name == "COHORT_ADDR" {
				return n.addr
			}
			return ""
		},
	})
	var result strings.Builder
	result.WriteString(stdout.String())
	for said := range strings.Lines(stderr.String()) {
		result.WriteString("stderr: " + said)
	}
	fmt.Fprintf(&result, "exit %d\n", code)
	return strings.ReplaceAll(result.String(), dir, "DIR")
}

// Without it the output and the errors of these commands, which scripts read,
// could change unnoticed, or an export could leave something behind.
func TestCheckpointCommands(t *testing.T) {
	n := startFakeNode(t)
	dir := t.TempDir()
	path := func(d *datadriven.TestData) string { return filepath.Join(dir, d.CmdArgs[0].Key) }
	datadriven.RunTest(t, "testdata/checkpoints.txt", func(t *testing.T, d *datadriven.TestData) string {
		switch d.Cmd {
		case "cohort":
			return runFake(t, n, dir, d.Input)
		case "files":
			return listFiles(t, dir)
		case "write":
			if err := os.WriteFile(path(d), []byte(d.Input), 0o644); err != nil {
				d.Fatalf(t, "%v", err)
			}
		case "damage":
			damage(t, path(d), d.CmdArgs[1].Key, d.CmdArgs[1].Vals)
		default:
			d.Fatalf(t, "unknown directive %s", d.Cmd)
		}
		return ""
	})
}

func listFiles(t *testing.T, dir string) string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "%s %s\n", e.Name(), info.Mode())
	}
	return out.String()
}

// damage makes DIR/damaged of a file: cut to a number of bytes, or with one bit
// flipped a number of bytes after a text.
func damage(t *testing.T, path, how string, values []string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	offset, err := strconv.Atoi(values[len(values)-1])
	if err != nil {
		t.Fatal(err)
	}
	switch how {
	case "cut":
		data = data[:offset]
	case "flip":
		data[bytes.LastIndex(data, []byte(values[0]))+offset] ^= 1
	default:
		t.Fatalf("unknown damage %s", how)
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(path), "damaged"), data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// Without it a request whose answer was lost would take a second checkpoint.
func TestCreateIsSentAgainWithItsToken(t *testing.T) {
	n := startFakeNode(t)
	if out := runFake(t, n, t.TempDir(), "checkpoint create flaky"); !strings.HasSuffix(out, "exit 0\n") {
		t.Fatal(out)
	}
	if len(n.tokens) != 2 || n.tokens[0] == "" || n.tokens[0] != n.tokens[1] {
		t.Fatalf("tokens %q of one request", n.tokens)
	}
	runFake(t, n, t.TempDir(), "checkpoint create checkout")
	if n.tokens[2] == n.tokens[0] {
		t.Fatal("two requests have one token")
	}
}

// Without it whoever waits for a checkpoint would not see how far it is.
func TestCreateShowsHowFarItIs(t *testing.T) {
	out := runFake(t, startFakeNode(t), t.TempDir(), "checkpoint create slow --wait")
	if !strings.Contains(out, "stderr: checkpoint 7 is at position 120: 1 of 2 copies are written\n") || !strings.HasSuffix(out, "exit 0\n") {
		t.Fatal(out)
	}
}

// Without it a time or a checkpoint could arrive as something else.
func TestRestoreRequest(t *testing.T) {
	n := startFakeNode(t)
	for _, tt := range []struct {
		line string
		want *pb.RestoreRequest
	}{
		{"--to checkpoint:7 --as copy", &pb.RestoreRequest{To: &pb.RestoreRequest_Checkpoint{Checkpoint: 7}, As: "copy"}},
		{"--to position:0 --as copy", &pb.RestoreRequest{To: &pb.RestoreRequest_Position{}, As: "copy"}},
		{"--to time:2026-03-01T10:30:00+01:00 --in-place --yes", &pb.RestoreRequest{To: &pb.RestoreRequest_Time{Time: at}, InPlace: true}},
	} {
		tt.want.Group = "checkout"
		out := runFake(t, n, t.TempDir(), "restore checkout "+tt.line)
		if got := n.restores[len(n.restores)-1]; !proto.Equal(got, tt.want) || !strings.HasSuffix(out, "exit 0\n") {
			t.Errorf("%s: asked for %v, want %v\n%s", tt.line, got, tt.want, out)
		}
	}
}
