package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/cohort-tx/cohort/configs"
	"github.com/cohort-tx/cohort/groups"
	"github.com/cohort-tx/cohort/internal/ports"
	"github.com/cohort-tx/cohort/participant"
)

// patience bounds each wait of these tests.
const patience = 30 * time.Second

func patient(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// leavesNothing fails a test after whose cleanup goroutines are left. It is
// called first, so that it looks last.
func leavesNothing(t *testing.T) {
	t.Cleanup(func() { goleak.VerifyNone(t) })
}

// loopbackAddress is one that nobody else is given.
func loopbackAddress(t testing.TB) string {
	t.Helper()
	addr, err := ports.Claim()
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

// configured makes the configuration of a cluster, with data directories.
func configured(t *testing.T, nodes int) []configs.Node {
	t.Helper()
	var peers []configs.Peer
	for i := range nodes {
		peers = append(peers, configs.Peer{Name: fmt.Sprintf("n%d", i+1), API: loopbackAddress(t), Raft: loopbackAddress(t)})
	}
	list := make([]configs.Node, nodes)
	for i, peer := range peers {
		c := configs.Default()
		c.Name, c.DataDir, c.Cluster = peer.Name, filepath.Join(t.TempDir(), "data"), peers
		c.API.Address, c.Raft.Address, c.HTTP.Address = peer.API, peer.Raft, loopbackAddress(t)
		c.Raft.RTT = 20 * time.Millisecond
		if err := groups.InitDataDir(c.DataDir, c.Name, c.ClusterID()); err != nil {
			t.Fatal(err)
		}
		list[i] = c
	}
	return list
}

// run starts a node that is killed when the test ends, unless it is closed.
func run(t *testing.T, c configs.Node) *Node {
	t.Helper()
	n, err := New(Params{Config: c, Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Kill(); err != nil {
			t.Errorf("kill %s: %v", n.Name(), err)
		}
	})
	return n
}

// startError is that of a node that must not start.
func startError(t *testing.T, c configs.Node) error {
	t.Helper()
	n, err := New(Params{Config: c})
	if err != nil {
		t.Fatal(err)
	}
	if err = n.Start(t.Context()); err == nil {
		t.Error("it started", n.Kill())
	}
	return err
}

func get(t *testing.T, address, path string) (code int, body string) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get("http://" + address + path)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(data)
}

// Without it a node that cannot start would leave half of itself running, or not
// say what to do.
func TestStartFails(t *testing.T) {
	leavesNothing(t)
	c := configured(t, 1)[0]

	missing := c
	missing.DataDir = filepath.Join(t.TempDir(), "none")
	if err := startError(t, missing); !errors.Is(err, groups.ErrNoDataDir) || !strings.Contains(err.Error(), "cohort node init") {
		t.Errorf("not initialised: %v", err)
	}
	foreign := c
	foreign.Name = "n2"
	foreign.Cluster = []configs.Peer{{Name: "n2", API: c.API.Address, Raft: c.Raft.Address}}
	if err := startError(t, foreign); !errors.Is(err, groups.ErrForeignDataDir) {
		t.Errorf("another node's directory: %v", err)
	}
	for key, address := range map[string]string{"api.address": c.API.Address, "http.address": c.HTTP.Address, "Raft": c.Raft.Address} {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		if err := startError(t, c); err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%s is taken: %v", key, err)
		}
		listener.Close()
	}
	// None of that spoiled the directory.
	n := run(t, c)
	if err := n.Ready(patient(t)); err != nil {
		t.Fatal(err)
	}
}

// Without it a node that lost what it voted could vote again.
func TestLostDataIsRefused(t *testing.T) {
	leavesNothing(t)
	list := configured(t, 3)
	nodes := make([]*Node, len(list))
	for i, c := range list {
		nodes[i] = run(t, c)
	}
	for _, n := range nodes {
		if err := n.Ready(patient(t)); err != nil {
			t.Fatal(err)
		}
	}
	if err := nodes[2].Kill(); err != nil {
		t.Fatal(err)
	}
	raft, data := filepath.Join(list[2].DataDir, "raft"), list[2].DataDir
	if err := os.Rename(raft, raft+".lost"); err != nil {
		t.Fatal(err)
	}
	if err := startError(t, list[2]); !errors.Is(err, groups.ErrAmnesia) {
		t.Errorf("the Raft log is gone: %v", err)
	}
	// The whole directory is gone, and somebody made it anew.
	if err := os.Rename(data, data+".lost"); err != nil {
		t.Fatal(err)
	}
	if err := groups.InitDataDir(data, list[2].Name, list[2].ClusterID()); err != nil {
		t.Fatal(err)
	}
	if err := startError(t, list[2]); !errors.Is(err, groups.ErrAmnesia) || !strings.Contains(err.Error(), "registered") {
		t.Errorf("a wiped node: %v", err)
	}
	// With its own data it is welcome.
	if err := errors.Join(os.RemoveAll(data), os.Rename(data+".lost", data), os.RemoveAll(raft), os.Rename(raft+".lost", raft)); err != nil {
		t.Fatal(err)
	}
	again := run(t, list[2])
	if err := again.Ready(patient(t)); err != nil {
		t.Fatal(err)
	}
}

// Without it an orchestrator would send work to a node that cannot do it, and an
// operator would see nothing.
func TestHTTP(t *testing.T) {
	leavesNothing(t)
	list := configured(t, 2)
	list[0].HTTP.Pprof = true
	n := run(t, list[0])
	address := list[0].HTTP.Address
	if code, body := get(t, address, "/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "majority") {
		t.Errorf("without the other node: %d %s", code, body)
	}
	if code, _ := get(t, address, "/healthz"); code != http.StatusOK {
		t.Errorf("healthz: %d", code)
	}
	other := run(t, list[1])
	if err := errors.Join(n.Ready(patient(t)), other.Ready(patient(t))); err != nil {
		t.Fatal(err)
	}
	if code, body := get(t, address, "/readyz"); code != http.StatusOK {
		t.Errorf("readyz: %d %s", code, body)
	}
	client, err := participant.Dial(n.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	applyGroup(patient(t), t, client, "group: checkout\nparticipants: [{name: orders}]\n")
	put(t, client, "o-1")
	found := ""
	for _, c := range list {
		_, body := get(t, c.HTTP.Address, "/metrics")
		found += body
	}
	if !strings.Contains(found, "cohort_") || !strings.Contains(found, `group="checkout"`) {
		t.Errorf("metrics lack the group:\n%s", found)
	}
	if code, _ := get(t, address, "/debug/pprof/cmdline"); code != http.StatusOK {
		t.Errorf("pprof, asked for: %d", code)
	}
	if code, _ := get(t, list[1].HTTP.Address, "/debug/pprof/cmdline"); code != http.StatusNotFound {
		t.Errorf("pprof, not asked for: %d", code)
	}
	if err := n.Close(patient(t)); err != nil {
		t.Fatal(err)
	}
}

func put(t *testing.T, client *participant.Client, id string) participant.Receipt {
	t.Helper()
	receipt, err := client.Group("checkout").Run(patient(t), func(tx *participant.Tx) error {
		return tx.Store("orders").Put(id, "new")
	}, participant.ID(id))
	if err != nil {
		t.Fatalf("%s: %v", id, err)
	}
	return receipt
}

// Without it every planned restart would cost an election, and an operator could
// not tell which node leads.
func TestCloseHandsOver(t *testing.T) {
	leavesNothing(t)
	list := configured(t, 3)
	nodes := map[string]*Node{}
	for _, c := range list {
		nodes[c.Name] = run(t, c)
	}
	for _, n := range nodes {
		if err := n.Ready(patient(t)); err != nil {
			t.Fatal(err)
		}
	}
	client, err := participant.Dial(list[0].API.Address + "," + list[1].API.Address + "," + list[2].API.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	applyGroup(patient(t), t, client, "group: checkout\nparticipants: [{name: orders}]\n")
	first := put(t, client, "o-1")

	// Each node has its replica: the successor may be any of the others.
	var leader *Node
	for hosting := 0; leader == nil || hosting < len(nodes); {
		if hosting, leader = 0, nil; t.Context().Err() != nil {
			t.Fatal("the group has no leader")
		}
		for _, n := range nodes {
			hosted := n.manager.group("checkout")
			if hosted == nil || hosted.replica == nil {
				continue
			}
			hosting++
			if hosted.replica.Leadership().Self {
				leader = n
			}
		}
		time.Sleep(time.Millisecond) // between looks at a condition
	}
	begun := time.Now()
	if err := leader.Close(patient(t)); err != nil {
		t.Fatal(err)
	}
	t.Logf("closed after %s", time.Since(begun))
	delete(nodes, leader.Name())
	successors := 0
	for _, n := range nodes {
		if n.manager.group("checkout").replica.Leadership().Self {
			successors++
		}
	}
	if successors != 1 {
		t.Errorf("%d nodes lead when the old leader has ended, want 1", successors)
	}
	if again := put(t, client, "o-1"); again.Position != first.Position {
		t.Errorf("o-1 committed at %d and %d", first.Position, again.Position)
	}
	if err := leader.Close(patient(t)); err != nil {
		t.Errorf("closed twice: %v", err)
	}
}
