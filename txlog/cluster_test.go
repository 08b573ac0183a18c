package txlog

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest"

	"github.com/cohort-tx/cohort/internal/ports"
	"github.com/cohort-tx/cohort/txlog/command"
)

const testShard = 7

// cluster is three hosts in this process with one replica each.
type cluster struct {
	t        *testing.T
	dir      string
	addrs    map[uint64]string
	hosts    map[uint64]*Host
	replicas map[uint64]*Replica
	tune     func(*HostConfig)
	ids      int
}

func newCluster(t *testing.T, size int, tune func(*HostConfig)) *cluster {
	t.Helper()
	SetDragonboatLogger(zap.NewNop())
	c := &cluster{t: t, dir: t.TempDir(), addrs: map[uint64]string{}, hosts: map[uint64]*Host{}, replicas: map[uint64]*Replica{}, tune: tune}
	for id := uint64(1); id <= uint64(size); id++ {
		c.addrs[id] = freeAddr(t)
	}
	for id := range c.addrs {
		c.start(id, c.addrs, false)
	}
	t.Cleanup(func() {
		for id := range c.hosts {
			c.stop(id)
		}
	})
	return c
}

func freeAddr(t testing.TB) string {
	t.Helper()
	addr, err := ports.Claim()
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

func (c *cluster) start(id uint64, members map[uint64]string, join bool) {
	c.t.Helper()
	hc := HostConfig{
		Dir: filepath.Join(c.dir, fmt.Sprint(id)), RaftAddress: c.addrs[id],
		RTT: 5 * time.Millisecond, HeartbeatRTT: 4, ElectionRTT: 40,
		Logger: zaptest.NewLogger(c.t, zaptest.Level(zapcore.ErrorLevel)),
	}
	if c.tune != nil {
		c.tune(&hc)
	}
	h, err := NewHost(hc)
	if err != nil {
		c.t.Fatal(err)
	}
	r, err := h.StartReplica(ReplicaConfig{Group: "g", ShardID: testShard, ReplicaID: id, Members: members, Join: join})
	if err != nil {
		c.t.Fatal(err)
	}
	c.hosts[id], c.replicas[id] = h, r
}

func (c *cluster) stop(id uint64) {
	c.hosts[id].Close()
	delete(c.hosts, id)
	delete(c.replicas, id)
}

// eventually waits for a condition of the cluster.
func (c *cluster) eventually(what string, ok func() bool) {
	c.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			c.t.Fatalf("not in time: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func (c *cluster) leader() (uint64, Leadership) {
	c.t.Helper()
	var id uint64
	var l Leadership
	c.eventually("a leader", func() bool {
		for n, r := range c.replicas {
			if l = r.Leadership(); l.Self {
				id = n
				return true
			}
		}
		return false
	})
	return id, l
}

// office makes the leader the coordinator and configures the group when it is
// new. It returns the leader's replica and its epoch.
func (c *cluster) office() (*Replica, uint64) {
	c.t.Helper()
	for {
		id, l := c.leader()
		r := c.replicas[id]
		results, _, err := propose(r, &command.Batch{Epoch: l.Term, Commands: []command.Command{
			&command.RaiseEpoch{Node: fmt.Sprintf("n%d", id)},
			&command.Configure{Version: 1, Incarnation: 1, Participants: []string{"a", "b"}, Definition: []byte("{}")},
		}})
		if err != nil {
			if errors.Is(err, ErrDropped) || errors.Is(err, ErrNotReady) || errors.Is(err, ErrUnknown) {
				continue
			}
			c.t.Fatal(err)
		}
		if results[0].Status == command.StatusDone || results[0].Reason == command.ReasonStaleEpoch && results[0].Epoch == l.Term {
			return r, l.Term
		}
		c.t.Logf("raise epoch %d: %+v", l.Term, results[0])
		return r, l.Term
	}
}

func propose(r *Replica, b *command.Batch) ([]command.Result, uint64, error) {
	b.TimeUnixNano = time.Now().UnixNano()
	p, err := r.Propose(b, 5*time.Second)
	if err != nil {
		return nil, 0, err
	}
	<-p.Done()
	return p.Result()
}

func add(id string, begun uint64) *command.Decide {
	return &command.Decide{Attempt: command.Attempt{ID: id, Begun: begun}, Ops: []command.Op{
		{Kind: command.OpAdd, Participant: "a", Key: "x", Delta: 1},
		{Kind: command.OpPut, Participant: "b", Key: id, Value: []byte("v")},
	}}
}

// commit commits n transactions, each its own entry, and returns the last
// position.
func (c *cluster) commit(n int) uint64 {
	c.t.Helper()
	r, epoch := c.office()
	var last uint64
	for range n {
		c.ids++
		results, _, err := propose(r, &command.Batch{Epoch: epoch, Commands: []command.Command{add(fmt.Sprintf("t%d", c.ids), r.Published())}})
		if err != nil {
			c.t.Fatal(err)
		}
		if results[0].Status != command.StatusCommitted {
			c.t.Fatalf("not committed: %+v", results[0])
		}
		last = results[0].Receipt.Position
	}
	return last
}

// equal waits until all replicas are at the position and compares digests.
func (c *cluster) equal(position uint64) {
	c.t.Helper()
	var want [32]byte
	var from uint64
	for id, r := range c.replicas {
		c.eventually(fmt.Sprintf("replica %d at position %d", id, position), func() bool { return r.Position() >= position })
		snap, err := r.Snapshot(0)
		if err != nil {
			c.t.Fatal(err)
		}
		sum, _, err := snap.Digest()
		snap.Close()
		if err != nil {
			c.t.Fatal(err)
		}
		if from == 0 {
			want, from = sum, id
		} else if sum != want {
			c.t.Errorf("replica %d has another state than replica %d at position %d", id, from, position)
		}
	}
}

// follow reads the log of a replica from a position to its end.
func (c *cluster) follow(r *Replica, from, to uint64) []command.Entry {
	c.t.Helper()
	f, err := r.Follow(from)
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var all []command.Entry
	for from+uint64(len(all)) <= to {
		entries, err := f.Next(ctx, 10, 1<<20)
		if err != nil {
			c.t.Fatal(err)
		}
		all = append(all, entries...)
	}
	return all
}
