package txlog

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/lni/dragonboat/v4/raftio"
	"github.com/lni/dragonboat/v4/raftpb"
	"github.com/lni/dragonboat/v4/statemachine"

	"github.com/cohort-tx/cohort/txlog/command"
)

// breakLog makes the next entry with a transaction fail, as a failed write would.
func breakLog(t *testing.T, r *Replica) {
	t.Helper()
	if err := r.files.log.Close(); err != nil {
		t.Fatal(err)
	}
}

// Without it a disk fault at the leader would leave the group with a leader that
// answers nothing, or would end the process.
func TestHaltedLeaderLeaves(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.commit(3)
	r, epoch := c.office()
	id := r.ReplicaID()
	breakLog(t, r)
	p, err := r.Propose(&command.Batch{Epoch: epoch, Commands: []command.Command{add("x", r.Published())}}, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	if _, _, err := p.Result(); !errors.Is(err, ErrUnknown) {
		t.Errorf("a proposal whose entry could not be applied: %v", err)
	}
	c.eventually("the halt to be told", func() bool { return errors.Is(r.Status().Err, ErrHalted) })
	if _, err := r.Propose(&command.Batch{}, time.Second); !errors.Is(err, ErrHalted) {
		t.Errorf("propose to a halted replica: %v", err)
	}
	if _, err := r.ReadIndex(t.Context()); !errors.Is(err, ErrHalted) {
		t.Errorf("read from a halted replica: %v", err)
	}
	c.eventually("another leader", func() bool {
		for n, o := range c.replicas {
			if n != id && o.Leadership().Self {
				return !r.Leadership().Self
			}
		}
		return false
	})
	// The others go on; what was unknown is settled by the log.
	halted := c.replicas[id]
	delete(c.replicas, id)
	last := c.commit(3)
	c.equal(last)
	// Its state was not harmed: restarted, it catches up.
	c.replicas[id] = halted
	c.stop(id)
	c.start(id, nil, false)
	c.equal(last)
}

// Without it damaged files would end the process, in a goroutine of dragonboat's.
func TestDamagedFilesFailTheStart(t *testing.T) {
	c := newCluster(t, 1, nil)
	c.commit(3)
	dir := c.hosts[1].config.Dir
	c.stop(1)
	segments, err := filepath.Glob(filepath.Join(dir, "shard-*", "log-0", "*.log"))
	if err != nil || len(segments) == 0 {
		t.Fatal("no segments", err)
	}
	if err := os.Truncate(segments[0], 10); err != nil {
		t.Fatal(err)
	}
	h, err := NewHost(HostConfig{Dir: dir, RaftAddress: c.addrs[1]})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if _, err := h.StartReplica(ReplicaConfig{Group: "g", ShardID: testShard, ReplicaID: 1}); err == nil {
		t.Error("a replica with a damaged log was started")
	}
}

// Without it a replica that kept its state and lost its Raft log would vote again,
// or end the process.
func TestLostRaftLogIsRefused(t *testing.T) {
	c := newCluster(t, 1, nil)
	c.commit(3)
	dir := c.hosts[1].config.Dir
	c.stop(1)
	if err := os.RemoveAll(filepath.Join(dir, "raft")); err != nil {
		t.Fatal(err)
	}
	h, err := NewHost(HostConfig{Dir: dir, RaftAddress: c.addrs[1]})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	for name, rc := range map[string]ReplicaConfig{
		"restart":   {Group: "g", ShardID: testShard, ReplicaID: 1},
		"bootstrap": {Group: "g", ShardID: testShard, ReplicaID: 1, Members: c.addrs},
		"join":      {Group: "g", ShardID: testShard, ReplicaID: 1, Join: true},
	} {
		if _, err := h.StartReplica(rc); !errors.Is(err, ErrLogLost) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Without it a second start would find files or the shard still in use.
func TestStopWaitsForTheFiles(t *testing.T) {
	c := newCluster(t, 1, nil)
	last := c.commit(3)
	for range 10 {
		if err := c.hosts[1].StopReplica(testShard); err != nil {
			t.Fatal(err)
		}
		r, err := c.hosts[1].StartReplica(ReplicaConfig{Group: "g", ShardID: testShard, ReplicaID: 1})
		if err != nil {
			t.Fatal(err)
		}
		c.replicas[1] = r
	}
	c.equal(last)
}

// Without it a transaction that needs raised limits would stop every replica when
// Raft hands both entries over together, as it does when it replays.
func TestRaisedLimitsInOneUpdate(t *testing.T) {
	c := newCluster(t, 1, nil)
	c.commit(1)
	r, epoch := c.office()
	if err := c.hosts[1].nh.StopReplica(testShard, 1); err != nil {
		t.Fatal(err)
	}
	<-r.fileClosed
	// As after a crash: the state is behind, and dragonboat replays.
	r = newReplica(c.hosts[1], r.config)
	next, err := r.open()
	if err != nil {
		t.Fatal(err)
	}
	next++
	limits := command.Limits{}.WithDefaults()
	limits.TransactionBytes, limits.ValueBytes = 16<<20, 15<<20
	encode := func(cmd command.Command) []byte {
		return command.AppendBatch(nil, &command.Batch{Epoch: epoch, Commands: []command.Command{cmd}})
	}
	big := func(id string) *command.Decide {
		return &command.Decide{Attempt: command.Attempt{ID: id, Begun: next}, Ops: []command.Op{
			{Kind: command.OpPut, Participant: "a", Key: "big", Value: make([]byte, 14<<20)},
		}}
	}
	if err := r.apply([]statemachine.Entry{
		{Index: next, Cmd: encode(&command.Configure{Version: 2, Participants: []string{"a", "b"}, Limits: limits, Definition: []byte("{}")})},
		{Index: next + 1, Cmd: encode(big("big1"))},
	}); err != nil {
		t.Fatal(err)
	}
	if err := r.close(); err != nil {
		t.Fatal(err)
	}
	// And one that was started with the limits of before is laid out for the state's.
	r = newReplica(c.hosts[1], r.config)
	if _, err := r.open(); err != nil {
		t.Fatal(err)
	}
	if err := r.apply([]statemachine.Entry{{Index: next + 2, Cmd: encode(big("big2"))}}); err != nil {
		t.Error(err)
	}
	if got := r.Position(); got != 3 {
		t.Errorf("position %d", got)
	}
	if err := r.close(); err != nil {
		t.Error(err)
	}
	// The replica of the cluster is stopped already.
	close(c.replicas[1].left)
	c.replicas[1].leaveOnce.Do(func() {})
}

// Without it a damaged Raft snapshot, or a failed barrier, would end the process:
// dragonboat panics on errors of its state machines.
func TestFailuresAreNotReturnedToDragonboat(t *testing.T) {
	c := newCluster(t, 1, nil)
	c.commit(1)
	s := &shard{c.replicas[1]}
	if err := s.RecoverFromSnapshot(failingReader{}, nil); !errors.Is(err, statemachine.ErrSnapshotStopped) {
		t.Errorf("install: %v", err)
	}
	if !errors.Is(s.Err(), errTestDisk) {
		t.Errorf("the replica's error: %v", s.Err())
	}
	if _, err := s.PrepareSnapshot(); !errors.Is(err, statemachine.ErrSnapshotAborted) {
		t.Errorf("prepare: %v", err)
	}
	if err := s.Sync(); err != nil {
		t.Errorf("sync: %v", err)
	}
	// And the Raft log store takes no snapshot of it.
	if !c.hosts[1].halted(raftio.GetNodeInfo(testShard, 1)) {
		t.Error("the log store is not told")
	}
	db := newLogDB(nil, c.hosts[1].halted)
	update := raftpb.Update{ShardID: testShard, ReplicaID: 1, Snapshot: raftpb.Snapshot{Index: 9, Term: 1}}
	if err := db.SaveSnapshots([]raftpb.Update{update}); !errors.Is(err, statemachine.ErrSnapshotAborted) {
		t.Errorf("save a snapshot: %v", err)
	}
}

var errTestDisk = errors.New("disk fault")

type failingReader struct{}

func (failingReader) Read([]byte) (int, error) { return 0, errTestDisk }
