package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/cohort-tx/cohort/internal/cluster"
	"github.com/cohort-tx/cohort/participant"
)

// Without it a node whose disk was lost could start as a new one and vote twice.
func TestServeRefusesWhatIsNotInitialised(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "node.yaml")
	text := fmt.Sprintf("name: n1\ndata_dir: %s\napi: {address: \"127.0.0.1:0\"}\n", filepath.Join(dir, "data"))
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	code, _, stderr := runProgram(t, "serve", "--config", path)
	if code != exitFailed || !strings.Contains(stderr, "node init") {
		t.Fatalf("not initialised: exit %d, %s", code, stderr)
	}
	code, _, stderr = runProgram(t, "serve", "--config", filepath.Join(dir, "none.yaml"))
	if code != exitFailed || !strings.Contains(stderr, "none.yaml") {
		t.Fatalf("no file: exit %d, %s", code, stderr)
	}
	mustCLI(t, "node", "init", "--config", path)
	if code, _, stderr := runCLI(t, "node", "init", "--config", path); code != exitFailed || !strings.Contains(stderr, "already") {
		t.Fatalf("initialised twice: exit %d, %s", code, stderr)
	}
}

// startProcesses runs a cluster of `serve` processes with checkout declared.
func startProcesses(t *testing.T, nodes int) *cluster.Processes {
	t.Helper()
	t.Setenv(asCohort, "1")
	c, err := cluster.StartProcesses(cluster.Options{Dir: t.TempDir(), Nodes: nodes, ShutdownGrace: 8 * time.Second}, []string{os.Args[0], "serve"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := c.Close(ctx); err != nil {
			t.Errorf("end the processes: %v", err)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := c.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	mustCLI(t, "apply", "-f", writeGroup(t), "--addr", c.Addrs())
	if err := cluster.WaitGroups(ctx, c.Members()[0].Addr); err != nil {
		t.Fatal(err)
	}
	return c
}

// coordinatorOf names the node that runs checkout's coordinator.
func coordinatorOf(t *testing.T, c *cluster.Processes) string {
	t.Helper()
	name := ""
	eventually(t, "a coordinator", func() bool {
		_, out, _ := runCLI(t, "get", "groups", "checkout", "-o", "json", "--addr", c.Addrs())
		for _, m := range c.Members() {
			if strings.Contains(out, fmt.Sprintf(`"coordinator":%q`, m.Name)) {
				name = m.Name
			}
		}
		return name != ""
	})
	return name
}

// Without it stopping a node would show its clients more than a short wait, or
// lose what was acknowledged.
func TestStopDrainsUnderLoad(t *testing.T) {
	c := startProcesses(t, 3)
	client, err := participant.Dial(c.Addrs())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	group := client.Group("checkout")

	load, stop := context.WithCancel(t.Context())
	var (
		working   sync.WaitGroup
		committed atomic.Int64
		slowest   atomic.Int64
	)
	for worker := range 8 {
		working.Go(func() {
			for i := 0; load.Err() == nil; i++ {
				begun := time.Now()
				_, err := group.Run(load, func(tx *participant.Tx) error {
					if err := tx.Store("orders").Put(fmt.Sprintf("w%d-%d", worker, i), "new"); err != nil {
						return err
					}
					return tx.Store("ledger").Add("count", 1)
				}, participant.ID(fmt.Sprintf("w%d-%d", worker, i)))
				switch {
				case err == nil:
					committed.Add(1)
					slowest.Store(max(slowest.Load(), int64(time.Since(begun))))
				case load.Err() != nil || errors.Is(err, context.Canceled):
				default:
					t.Errorf("a client saw: %v", err)
				}
			}
		})
	}
	defer working.Wait()
	defer stop()

	for range 2 {
		enough := committed.Load() + 50
		eventually(t, "load", func() bool { return committed.Load() >= enough })
		leader := coordinatorOf(t, c)
		begun := time.Now()
		if err := c.Stop(leader); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s ended %s after SIGTERM; %d committed, slowest %s", leader, time.Since(begun), committed.Load(), time.Duration(slowest.Load()))
		enough = committed.Load() + 50
		eventually(t, "load without "+leader, func() bool { return committed.Load() >= enough })
		if err := c.Start(leader); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if err := c.WaitReady(ctx); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	working.Wait()

	var count int64
	err = group.View(t.Context(), func(tx *participant.ReadTx) error {
		_, err := tx.Store("ledger").Get("count", &count)
		return err
	})
	// Those whose answer was not waited for may have committed too.
	if err != nil || count < committed.Load() || count > committed.Load()+8 {
		t.Fatalf("%d counted, %d acknowledged, %v", count, committed.Load(), err)
	}
	view := readyView{}
	for _, m := range c.Members() {
		view.Nodes = append(view.Nodes, readyNode{Name: m.Name, Addr: m.Addr})
	}
	waitEqualDigests(t, view, lastPosition(t, c.Addrs()))
}

// Without it an operator in a hurry could not end a node that drains.
func TestSecondSignalEndsAtOnce(t *testing.T) {
	c := startProcesses(t, 1)
	client, err := participant.Dial(c.Addrs())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	// An open attempt keeps the node draining.
	tx, err := client.Group("checkout").Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		gone, cancel := context.WithCancel(context.Background())
		cancel() // its node will be gone, and its timeout ends it anyway
		if err := tx.Abort(gone); err == nil {
			t.Error("an attempt was aborted on a node that has ended")
		}
	}()
	pid := c.PID("n1")
	begun := time.Now()
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	conn, err := (&environment{addrs: []string{c.Addrs()}}).connect()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	eventually(t, "NOT_SERVING while it drains", func() bool {
		answer, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{})
		return err == nil && answer.Status == healthpb.HealthCheckResponse_NOT_SERVING
	})
	if c.PID("n1") == 0 {
		t.Fatal("it ended before the second signal")
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the end", func() bool { return c.PID("n1") == 0 })
	t.Logf("ended after %s", time.Since(begun))
}

// Without it one client that follows the log, or thinks for long, would hold up
// the end of a node for its whole grace.
func TestStopDoesNotWaitForIdleClients(t *testing.T) {
	c := startProcesses(t, 1)
	client, err := participant.Dial(c.Addrs())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	group := client.Group("checkout")
	tx, err := group.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := group.Run(t.Context(), func(tx *participant.Tx) error { return tx.Store("orders").Put("o-1", "new") }); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var following sync.WaitGroup
	first := make(chan struct{})
	following.Go(func() {
		for entry := range group.Log(ctx, 1) {
			if entry.Position == 1 {
				close(first)
			}
		}
	})
	defer following.Wait()
	defer stop()
	<-first
	begun := time.Now()
	if err := c.Stop("n1"); err != nil {
		t.Fatal(err)
	}
	grace := c.Members()[0].Config.ShutdownGrace
	if took := time.Since(begun); took >= grace {
		t.Errorf("it took %s, which is its whole grace of %s", took, grace)
	}
	stop()
	ended, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := tx.Commit(ended); err == nil {
		t.Error("committed at a node that has ended")
	}
}
