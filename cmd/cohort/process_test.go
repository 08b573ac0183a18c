package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	// patience bounds each wait of these tests; they wait for conditions.
	patience = 30 * time.Second
	pollGap  = 10 * time.Millisecond
)

// program is a process of this program.
type program struct {
	t      *testing.T
	cmd    *exec.Cmd
	lines  *bufio.Reader
	stderr *lockedBuffer
	done   chan struct{}
}

type lockedBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}

// startProgram runs a command line as a process of its own, which is killed when
// the test ends.
func startProgram(t *testing.T, args ...string) *program {
	t.Helper()
	p := &program{t: t, cmd: exec.Command(os.Args[0], args...), stderr: &lockedBuffer{}, done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), asCohort+"=1")
	p.cmd.Stderr = p.stderr
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.lines = bufio.NewReader(stdout)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		p.wait()
	})
	return p
}

// line reads one line of standard output.
func (p *program) line() string {
	p.t.Helper()
	line, err := p.lines.ReadString('\n')
	if err != nil {
		p.t.Fatalf("%v printed no line: %v; stderr: %s", p.cmd.Args[1:], err, p.stderr)
	}
	return line
}

// wait returns the exit code.
func (p *program) wait() int {
	p.t.Helper()
	select {
	case <-p.done:
	default:
		p.cmd.Wait() // how it ended is in ProcessState
		close(p.done)
	}
	return p.cmd.ProcessState.ExitCode()
}

func (p *program) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// runProgram runs a command line to its end.
func runProgram(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), asCohort+"=1")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// mustCLI runs a command line in this process and wants it to succeed.
func mustCLI(t *testing.T, args ...string) string {
	t.Helper()
	code, stdout, stderr := runCLI(t, args...)
	if code != exitDone {
		t.Fatalf("cohort %s: exit %d: %s%s", strings.Join(args, " "), code, stdout, stderr)
	}
	return stdout
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s", what, patience)
		}
		time.Sleep(pollGap)
	}
}

// gone tells whether there is no such process any more; an unreaped one is gone.
func gone(pid int) bool {
	if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return true
	}
	status, err := os.ReadFile(filepath.Join("/proc", itoa(pid), "stat"))
	return err == nil && strings.Contains(string(status), ") Z ")
}

func itoa(n int) string {
	text, _ := json.Marshal(n)
	return string(text)
}

func writeGroup(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "checkout.yaml")
	text := "group: checkout\nparticipants: [{name: orders}, {name: stock}, {name: ledger}]\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// startDevProgram runs dev and reads its ready line.
func startDevProgram(t *testing.T, args ...string) (*program, readyView) {
	t.Helper()
	p := startProgram(t, append([]string{"dev", "-o", "json"}, args...)...)
	var view readyView
	if err := json.Unmarshal([]byte(p.line()), &view); err != nil || !view.Ready {
		t.Fatalf("ready line: %+v, %v", view, err)
	}
	return p, view
}

// digests asks every node for the digest of its replica.
func digests(t *testing.T, view readyView) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, n := range view.Nodes {
		found[n.Name] = digestAt(t, n.Addr, n.Name)
	}
	return found
}
