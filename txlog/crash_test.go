package txlog

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/cohort-tx/cohort/txlog/command"
)

const (
	crashChildEnv = "COHORT_TXLOG_CRASH_DIR"
	crashAddrEnv  = "COHORT_TXLOG_CRASH_ADDR"
	crashRounds   = 4
)

// TestMain runs the child of TestSIGKILLUnderLoad when asked to.
func TestMain(m *testing.M) {
	if dir := os.Getenv(crashChildEnv); dir != "" {
		crashChild(dir, os.Getenv(crashAddrEnv))
		return
	}
	goleak.VerifyTestMain(m)
}

// crashChild commits without end and prints each acknowledged position with its
// id, once it is acknowledged and not before.
func crashChild(dir, addr string) {
	SetDragonboatLogger(zap.NewNop())
	fatal := func(err error) {
		if err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
	}
	h, err := NewHost(HostConfig{Dir: dir, RaftAddress: addr, RTT: 2 * time.Millisecond, HeartbeatRTT: 2, ElectionRTT: 20})
	fatal(err)
	r, err := h.StartReplica(ReplicaConfig{Group: "g", ShardID: testShard, ReplicaID: 1, Members: map[uint64]string{1: addr}})
	fatal(err)
	for !r.Leadership().Self {
		time.Sleep(time.Millisecond)
	}
	epoch := r.Leadership().Term
	_, _, err = propose(r, &command.Batch{Epoch: epoch, Commands: []command.Command{
		&command.RaiseEpoch{Node: "n1"},
		&command.Configure{Version: 1, Incarnation: 1, Participants: []string{"a", "b"}, Definition: []byte("{}")},
	}})
	fatal(err)
	begun := r.Published()
	var flying []*Proposal
	for n := 0; ; n++ {
		p, err := r.Propose(&command.Batch{Epoch: epoch, Commands: []command.Command{
			add(fmt.Sprintf("%d-%d-a", epoch, n), begun), add(fmt.Sprintf("%d-%d-b", epoch, n), begun),
		}}, 10*time.Second)
		fatal(err)
		if flying = append(flying, p); len(flying) < 16 {
			continue
		}
		<-flying[0].Done()
		results, _, err := flying[0].Result()
		fatal(err)
		for _, res := range results {
			fmt.Println("acked", res.Receipt.Position, res.Receipt.ID)
		}
		flying = flying[1:]
	}
}

// Without it a kill in the middle of applying could lose what was acknowledged,
// or leave half an entry.
func TestSIGKILLUnderLoad(t *testing.T) {
	dir, addr := filepath.Join(t.TempDir(), "n"), freeAddr(t)
	acked := make(map[uint64]string)
	for range crashRounds {
		killUnderLoad(t, dir, addr, acked)
	}
	if len(acked) == 0 {
		t.Fatal("nothing was acknowledged: the test shows nothing")
	}
	SetDragonboatLogger(zap.NewNop())
	h, err := NewHost(HostConfig{Dir: dir, RaftAddress: addr, RTT: 2 * time.Millisecond, HeartbeatRTT: 2, ElectionRTT: 20})
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, replicas: map[uint64]*Replica{}}
	defer h.Close()
	r, err := h.StartReplica(ReplicaConfig{Group: "g", ShardID: testShard, ReplicaID: 1})
	if err != nil {
		t.Fatal(err)
	}
	c.replicas[1] = r
	c.eventually("a linearizable read", func() bool { _, err := r.ReadIndex(t.Context()); return err == nil })
	last := r.Position()
	entries := c.follow(r, 1, last)
	snap, err := r.Snapshot(0)
	if err != nil {
		t.Fatal(err)
	}
	defer snap.Close()
	for position, id := range acked {
		if position > last || entries[position-1].ID != id {
			t.Errorf("position %d was acknowledged for %s and is not in the log", position, id)
		}
	}
	// Each transaction adds 1 to a/x and puts its id at b: whole or not at all.
	if v, _, _, err := snap.Get("a", "x"); err != nil || string(v) != fmt.Sprint(last) {
		t.Errorf("the counter is %q after %d transactions, %v", v, last, err)
	}
	for _, e := range entries {
		if _, version, _, err := snap.Get("b", e.ID); err != nil || version != e.Position {
			t.Errorf("position %d: %s is at version %d, %v", e.Position, e.ID, version, err)
		}
	}
	t.Logf("%d positions, %d acknowledged", last, len(acked))
}

func killUnderLoad(t *testing.T, dir, addr string, acked map[uint64]string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), crashChildEnv+"="+dir, crashAddrEnv+"="+addr)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stopAfter := 50 + rand.IntN(1500)
	lines := bufio.NewScanner(out)
	for n := 0; lines.Scan(); n++ {
		if n == stopAfter {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
		var position uint64
		var id string
		if _, err := fmt.Sscanf(lines.Text(), "acked %d %s", &position, &id); err == nil {
			if before, ok := acked[position]; ok && before != id {
				t.Errorf("position %d was acknowledged twice, for %s and %s", position, before, id)
			}
			acked[position] = id
		} else if strings.HasPrefix(lines.Text(), "error") {
			t.Error(lines.Text())
		}
	}
	_ = cmd.Wait()
}
