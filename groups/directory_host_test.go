package groups

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lni/dragonboat/v4"
	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/plugin/tan"

	"github.com/cohort-tx/cohort/internal/ports"
)

// hostTimeout is more than any step of these tests takes on a busy machine.
const hostTimeout = 30 * time.Second

// directoryCluster is three NodeHosts in one process.
type directoryCluster struct {
	t       *testing.T
	dir     string
	members map[uint64]string
	hosts   map[uint64]*dragonboat.NodeHost
	nodes   map[uint64]*DirectoryHost
}

func newDirectoryCluster(t *testing.T) *directoryCluster {
	c := &directoryCluster{t: t, dir: t.TempDir(), members: map[uint64]string{}, hosts: map[uint64]*dragonboat.NodeHost{}, nodes: map[uint64]*DirectoryHost{}}
	for id := uint64(1); id <= 3; id++ {
		addr, err := ports.Claim()
		if err != nil {
			t.Fatal(err)
		}
		c.members[id] = addr
	}
	t.Cleanup(func() {
		for id := range c.hosts {
			c.stop(id)
		}
	})
	return c
}

func (c *directoryCluster) start(id uint64, members map[uint64]string) {
	c.t.Helper()
	host, err := dragonboat.NewNodeHost(config.NodeHostConfig{
		NodeHostDir:    filepath.Join(c.dir, fmt.Sprint(id)),
		RTTMillisecond: 5,
		RaftAddress:    c.members[id],
		Expert:         config.ExpertConfig{LogDBFactory: tan.Factory, LogDB: config.GetTinyMemLogDBConfig()},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.hosts[id] = host
	d, err := StartDirectory(DirectoryConfig{NodeHost: host, ReplicaID: id, Members: members})
	if err != nil {
		c.t.Fatal(err)
	}
	c.nodes[id] = d
}

func (c *directoryCluster) stop(id uint64) {
	c.t.Helper()
	if d := c.nodes[id]; d != nil {
		if err := d.Close(); err != nil {
			c.t.Errorf("close directory %d: %v", id, err)
		}
	}
	if h := c.hosts[id]; h != nil {
		h.Close()
	}
	delete(c.nodes, id)
	delete(c.hosts, id)
}

func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), hostTimeout)
	t.Cleanup(cancel)
	return ctx
}

// TestDirectoryCluster: what one node is told, every node reads at once; nodes
// that were away catch up; a restart keeps everything and needs no members; and
// without a quorum there is an error in time, not an answer.
func TestDirectoryCluster(t *testing.T) {
	c := newDirectoryCluster(t)
	for id := range c.members {
		c.start(id, c.members)
	}
	ctx := deadline(t)
	var watched atomic.Uint64
	reached := make(chan struct{})
	cancel := c.nodes[3].Watch(func(s *DirectoryState) {
		if watched.Swap(s.Revision) < 4 && s.Revision >= 4 {
			close(reached)
		}
	})
	for id := uint64(1); id <= 3; id++ {
		n := RegisterNode{Name: fmt.Sprintf("n%d", id), ReplicaID: id, APIAddress: fmt.Sprintf("127.0.0.1:%d", 7000+id), RaftAddress: c.members[id], DataID: "d"}
		if _, err := c.nodes[id].RegisterNode(ctx, n); err != nil {
			t.Fatal(err)
		}
	}
	definition := Default("checkout", "orders", "ledger")
	created, err := c.nodes[2].CreateGroup(ctx, &definition, []string{"n1", "n2", "n3"})
	if err != nil {
		t.Fatal(err)
	}
	for id, d := range c.nodes {
		s, err := d.Read(ctx)
		if err != nil {
			t.Fatal(err)
		}
		g, ok := s.Group("checkout")
		if !ok || g.ShardID != created.ShardID || len(s.Nodes()) != 3 {
			t.Fatalf("node %d reads %s", id, showState(s))
		}
		got, err := g.Definition()
		if err != nil || !got.Equal(&definition) {
			t.Fatalf("definition came back as %+v, %v", got, err)
		}
	}
	select {
	case <-reached:
	case <-ctx.Done():
		t.Fatal("the watcher saw nothing")
	}
	cancel()

	_, err = c.nodes[1].SetDefinition(ctx, &definition, 7, 8)
	var refused *RefusedError
	if !errors.As(err, &refused) || refused.Code != RefusedVersion {
		t.Fatalf("a change of version 7: %v", err)
	}

	c.stop(3)
	definition.Limits.ScanKeys = 5
	if _, err := c.nodes[1].SetDefinition(ctx, &definition, 1, 2); err != nil {
		t.Fatal(err)
	}
	if _, err := c.nodes[2].MarkStarted(ctx, created.ShardID, 1); err != nil {
		t.Fatal(err)
	}
	c.start(3, nil)
	s, err := c.nodes[3].Read(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if g, _ := s.Group("checkout"); g == nil || g.Version != 2 || !g.Members[0].Started {
		t.Fatalf("after its restart node 3 reads %s", showState(s))
	}
	want := showState(s)

	for id := range c.members {
		c.stop(id)
	}
	for id := range c.members {
		c.start(id, nil)
	}
	if s, err = c.nodes[1].Read(ctx); err != nil || showState(s) != want {
		t.Fatalf("after the cluster's restart: %v\n%s, want\n%s", err, showState(s), want)
	}

	c.stop(1)
	c.stop(2)
	short, cancelShort := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancelShort()
	if _, err := c.nodes[3].Read(short); !errors.Is(err, ErrDirectoryUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("read without a quorum: %v", err)
	}
	short, cancelShort = context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancelShort()
	if _, err := c.nodes[3].MarkStarted(short, created.ShardID, 2); !errors.Is(err, ErrDirectoryUnavailable) && !errors.Is(err, ErrDirectoryUnknown) {
		t.Errorf("command without a quorum: %v", err)
	}
	last := c.nodes[3]
	c.stop(3)
	if _, err := last.Read(ctx); !errors.Is(err, ErrDirectoryClosed) {
		t.Errorf("read of a closed directory: %v", err)
	}
}

// TestDirectoryRestartNeedsItsLog: a replica whose Raft log is gone does not come
// back as an empty one when it is started without members.
func TestDirectoryRestartNeedsItsLog(t *testing.T) {
	c := newDirectoryCluster(t)
	id := uint64(1)
	c.members = map[uint64]string{id: c.members[id]}
	c.start(id, c.members)
	ctx := deadline(t)
	if _, err := c.nodes[id].RegisterNode(ctx, RegisterNode{Name: "n1", ReplicaID: 1, APIAddress: "127.0.0.1:1", RaftAddress: c.members[id], DataID: "d"}); err != nil {
		t.Fatal(err)
	}
	c.stop(id)
	if err := os.RemoveAll(filepath.Join(c.dir, "1")); err != nil {
		t.Fatal(err)
	}
	host, err := dragonboat.NewNodeHost(config.NodeHostConfig{
		NodeHostDir: filepath.Join(c.dir, "1"), RTTMillisecond: 5, RaftAddress: c.members[id],
		Expert: config.ExpertConfig{LogDBFactory: tan.Factory, LogDB: config.GetTinyMemLogDBConfig()},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	if _, err := StartDirectory(DirectoryConfig{NodeHost: host, ReplicaID: id}); !errors.Is(err, ErrAmnesia) {
		t.Fatalf("a replica without its log: %v", err)
	}
}
