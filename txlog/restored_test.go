package txlog

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest"

	"github.com/cohort-tx/cohort/txlog/command"
)

// testEpochBase is the epoch base of a first restore.
const testEpochBase = 1 << 20

// newRestored is a second incarnation: the members have the files that Hydrate
// made for them, or none.
func newRestored(t *testing.T, from *keeping, target Target, empty ...uint64) (k *keeping, digest [32]byte) {
	t.Helper()
	k = &keeping{
		live: map[uint64]*Replica{}, keepers: map[uint64]*Keeper{}, reports: map[string]int{},
		cluster: &cluster{t: t, dir: t.TempDir(), addrs: map[uint64]string{}, hosts: map[uint64]*Host{}, replicas: map[uint64]*Replica{}},
	}
	for id := uint64(1); id <= 3; id++ {
		k.addrs[id] = freeAddr(t)
	}
	t.Cleanup(func() {
		for id := range k.hosts {
			k.down(id)
		}
	})
	none := map[uint64]bool{}
	for _, id := range empty {
		none[id] = true
	}
	for id := range k.addrs {
		if none[id] {
			continue
		}
		dir := filepath.Join(k.dir, "made")
		h := hydrate(t, from.keepers[1], target, dir)
		if digest != [32]byte{} && h.Digest != digest {
			t.Fatal("two members' states of one restore differ")
		}
		digest = h.Digest
		k.history = from.history.fork(h.Meta.Position)
		place := (&Host{config: HostConfig{Dir: k.hostDir(id)}}).ReplicaDir(testShard, id)
		if err := errors.Join(os.MkdirAll(filepath.Dir(place), 0o755), os.Rename(dir, place)); err != nil {
			t.Fatal(err)
		}
	}
	return k, digest
}

func (k *keeping) hostDir(id uint64) string { return filepath.Join(k.dir, nodeName(id)) }

// upRestored starts a member of a second incarnation; members is nil but at the
// first start.
func (k *keeping) upRestored(id uint64, members map[uint64]string) {
	k.t.Helper()
	h, err := NewHost(HostConfig{
		Dir: k.hostDir(id), RaftAddress: k.addrs[id], RTT: 5 * time.Millisecond, HeartbeatRTT: 4, ElectionRTT: 40,
		Logger:          zaptest.NewLogger(k.t, zaptest.Level(zapcore.ErrorLevel)),
		snapshotEntries: 20, compactionOverhead: 5, segmentBytes: 2 << 10,
	})
	if err != nil {
		k.t.Fatal(err)
	}
	k.hosts[id] = h
	r, err := h.StartReplica(ReplicaConfig{
		Group: "g", ShardID: testShard, ReplicaID: id, Members: members, Limits: hydrateLimits,
		IndexBase: testBase, EpochBase: testEpochBase, State: k.stateFor(id),
	})
	if err != nil {
		k.t.Fatal(err)
	}
	k.replicas[id] = r
	k.mu.Lock()
	defer k.mu.Unlock()
	k.live[id] = r
}

// Would break: a restored group whose members apply entries to different states, or
// to none; and one whose indexes are taken for those of the incarnation before.
func TestRestoredIncarnation(t *testing.T) {
	source := newKeeping(t, 1, KeepPolicy{})
	source.keep(1)
	source.transact(20)
	source.complete(source.cut(), 1)
	source.transact(20)
	position := source.history.last() - 7

	k, digest := newRestored(t, source, Target{Position: &position}, 3)
	for id := range k.addrs {
		k.upRestored(id, k.addrs)
	}
	if r := k.replicas[3]; r.Published() >= testBase {
		t.Fatal("a member without files has a state")
	}
	k.do(&command.Begin{Incarnation: 2, Digest: digest})
	k.transact(10)
	k.agree()
	for id, r := range k.replicas {
		s := r.Status()
		if s.Incarnation != 2 || s.Published <= testBase || s.FirstPosition != position+1 {
			t.Errorf("replica %d: %+v", id, s)
		}
		k.holds(r)
	}
	if _, l := k.leader(); l.Term <= testEpochBase {
		t.Errorf("the term is %d, below those of the incarnation before", l.Term)
	}
	// Restarts of one that was made from files and of the one that took its state,
	// with too much committed meanwhile for Raft's log: a Raft snapshot comes.
	for _, id := range []uint64{3, 1} {
		before := k.replicas[id].files.id
		k.down(id)
		for range 60 {
			k.transact(1)
		}
		k.upRestored(id, nil)
		k.eventually("the member to catch up", func() bool { return k.replicas[id].Position() == k.history.last() })
		if k.replicas[id].files.id <= before {
			t.Errorf("replica %d, after its absence: no Raft snapshot came: the test shows nothing", id)
		}
	}
	for id := range k.addrs {
		k.down(id)
	}
	for id := range k.addrs {
		k.upRestored(id, nil)
	}
	k.transact(5)
	k.agree()
	for _, r := range k.replicas {
		k.holds(r)
		if got := k.follow(r, position+1, k.history.last()); got[0].Position != position+1 {
			t.Errorf("the log begins at %d", got[0].Position)
		}
	}
	if _, err := k.replicas[1].Follow(position); !errors.Is(err, ErrTruncated) {
		t.Errorf("the log before the restore: %v", err)
	}
}

// holds checks that a replica has the model's last state.
func (k *keeping) holds(r *Replica) {
	k.t.Helper()
	snap, err := r.Snapshot(0)
	if err != nil {
		k.t.Fatal(err)
	}
	defer snap.Close()
	if d := k.history.at(k.history.last()).difference(contentsOf(k.t, snap.Reader())); d != "" {
		k.t.Errorf("replica %d: %s", r.ReplicaID(), d)
	}
}
