package txlog

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/cohort-tx/cohort/txlog/command"
)

// Without it replicas of one log could differ, or readers could see less than
// was acknowledged.
func TestReplicasApplyTheSameLog(t *testing.T) {
	c := newCluster(t, 3, nil)
	last := c.commit(20)
	if last != 20 {
		t.Fatalf("position %d after 20 commits", last)
	}
	c.equal(last)
	for id, r := range c.replicas {
		index, err := r.ReadIndex(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		snap, err := r.Snapshot(index)
		if err != nil {
			t.Fatal(err)
		}
		if v, version, _, err := snap.Get("a", "x"); err != nil || string(v) != "20" || version != 20 {
			t.Errorf("replica %d reads %q at version %d, %v", id, v, version, err)
		}
		snap.Close()
		for i, e := range c.follow(r, 1, last) {
			if e.Position != uint64(i+1) || e.ID != fmt.Sprintf("t%d", i+1) {
				t.Errorf("replica %d: entry %d is %d, %s", id, i+1, e.Position, e.ID)
			}
		}
	}
}

// Without it state or log would not survive their replica's restart.
func TestRestartOfOneAndOfAll(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.commit(10)
	leader, _ := c.leader()
	c.stop(leader)
	last := c.commit(10)
	c.start(leader, nil, false)
	c.equal(last)
	for id := uint64(1); id <= 3; id++ {
		c.stop(id)
	}
	for id := uint64(1); id <= 3; id++ {
		c.start(id, nil, false)
	}
	last = c.commit(5)
	if last != 25 {
		t.Fatalf("position %d after 25 commits", last)
	}
	c.equal(last)
	if got := len(c.follow(c.replicas[leader], 1, last)); got != 25 {
		t.Errorf("%d entries in the log of the replica that was restarted", got)
	}
}

// Without it a coordinator that lost its office could still decide.
func TestDeposedCoordinatorIsRefused(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.commit(1)
	_, old := c.office()
	leader, _ := c.leader()
	c.eventually("another leader", func() bool {
		// A transfer is a wish: the leader gives up when the other is not caught up
		// within an election timeout.
		_ = c.replicas[leader].TransferLeadership(leader%3 + 1)
		id, l := c.leader()
		return id != leader && l.Term > old
	})
	r, epoch := c.office()
	if epoch <= old {
		t.Fatalf("epoch %d after %d", epoch, old)
	}
	results, _, err := propose(r, &command.Batch{Epoch: old, Commands: []command.Command{add("late", r.Published())}})
	if err != nil {
		t.Fatal(err)
	}
	if results[0].Status != command.StatusRefused || results[0].Reason != command.ReasonStaleEpoch {
		t.Errorf("the old coordinator's decision: %+v", results[0])
	}
}

// Without it a replica that is far behind, or new, would come up without the
// state, or without the log that others still hold.
func TestSnapshotBringsStateAndLog(t *testing.T) {
	c := newCluster(t, 3, func(hc *HostConfig) { hc.snapshotEntries, hc.compactionOverhead = 20, 5 })
	c.commit(5)
	leader, _ := c.leader()
	behind := leader%3 + 1
	c.stop(behind)
	last := c.commit(120)
	c.start(behind, nil, false)
	c.equal(last)
	entries := c.follow(c.replicas[behind], 1, last)
	if uint64(len(entries)) != last || entries[0].ID != "t1" {
		t.Errorf("the log has %d entries of %d", len(entries), last)
	}
	if c.replicas[behind].files.id == 0 {
		t.Error("the replica caught up without a snapshot: the test shows nothing")
	}
	// And it survives its own restart, before and after further entries.
	c.stop(behind)
	c.start(behind, nil, false)
	c.equal(last)
	last = c.commit(3)
	c.equal(last)
	c.stop(behind)
	c.start(behind, nil, false)
	c.equal(last)
}

// Without it a new entry's readers could find the position missing in the log.
func TestFollowWaits(t *testing.T) {
	c := newCluster(t, 1, nil)
	last := c.commit(1)
	r := c.replicas[1]
	f, err := r.Follow(last + 1)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := f.Next(ctx, 1, 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("nothing to follow: %v", err)
	}
	got := make(chan []command.Entry, 1)
	go func() {
		entries, err := f.Next(t.Context(), 1, 0)
		if err != nil {
			t.Error(err)
		}
		got <- entries
	}()
	c.commit(1)
	if entries := <-got; len(entries) != 1 || entries[0].Position != last+1 {
		t.Errorf("followed %+v", entries)
	}
}

// Without it a replica whose disk was wiped would vote as if it never had.
func TestWipedReplicaDoesNotStart(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.commit(1)
	leader, _ := c.leader()
	victim := leader%3 + 1
	dir := c.hosts[victim].config.Dir
	c.stop(victim)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	h, err := NewHost(HostConfig{Dir: dir, RaftAddress: c.addrs[victim], RTT: 5 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if _, err := h.StartReplica(ReplicaConfig{Group: "g", ShardID: testShard, ReplicaID: victim}); err == nil {
		t.Error("a replica without its Raft log was started")
	}
}

// Without it transactions beyond the first limits would stop every replica.
func TestRaisedLimitsOpenTheStoreAnew(t *testing.T) {
	c := newCluster(t, 1, nil)
	c.commit(1)
	r, epoch := c.office()
	limits := command.Limits{}.WithDefaults()
	limits.TransactionBytes, limits.ValueBytes = 8<<20, 6<<20
	big := &command.Decide{Attempt: command.Attempt{ID: "big"}, Ops: []command.Op{
		{Kind: command.OpPut, Participant: "a", Key: "big", Value: make([]byte, 6<<20)},
	}}
	for i, batch := range []*command.Batch{
		{Epoch: epoch, Commands: []command.Command{&command.Configure{Version: 2, Participants: []string{"a", "b"}, Limits: limits, Definition: []byte("{}")}}},
		{Epoch: epoch, Commands: []command.Command{big}},
	} {
		big.Begun = r.Published()
		results, _, err := propose(r, batch)
		if err != nil || results[0].Status == command.StatusRefused || results[0].Status == command.StatusAborted {
			t.Fatalf("batch %d: %+v %v", i, results, err)
		}
	}
	c.stop(1)
	c.start(1, nil, false)
	c.equal(2)
}
