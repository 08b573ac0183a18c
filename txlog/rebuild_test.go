package txlog

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cohort-tx/cohort/txlog/checkpoint"
	"github.com/cohort-tx/cohort/txlog/command"
)

// copyTree copies a directory of a node that is quiet: what a crash would leave.
func copyTree(t *testing.T, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

// settle makes everything durable and lets the store of a node throw away what
// nobody holds.
func (k *keeping) settle(id uint64) {
	k.t.Helper()
	st := k.replicas[id].store
	k.eventually("old versions to go", func() bool {
		if err := errors.Join(st.Barrier(), st.Reclaim()); err != nil {
			k.t.Fatal(err)
		}
		// What nobody holds can no longer be asked for, unless a hold lies below it.
		view, err := st.View(1)
		if err == nil {
			view.Close()
		}
		return errors.Is(err, ErrSnapshotTooOld)
	})
}

// Would break: files of a cut that hold what was committed after it, or nothing,
// because the node was restarted, or crashed, before it wrote them.
func TestCutOutlivesItsReplica(t *testing.T) {
	k := newKeeping(t, 1, KeepPolicy{})
	k.transact(40)
	n := k.cut()
	cut := k.record(k.replicas[1], n)
	k.transact(40)
	k.settle(1)
	crashed := filepath.Join(t.TempDir(), "1")
	copyTree(t, filepath.Join(k.dir, "1"), crashed)
	goOn := func() {
		for range 5 {
			k.transact(40)
			k.settle(1)
		}
		k.keep(1)
		k.complete(n, 1)
		k.exactFiles(1, &cut)
		k.eventually("the hold to be released", func() bool {
			k.replicas[1].cuts.mu.Lock()
			defer k.replicas[1].cuts.mu.Unlock()
			return len(k.replicas[1].cuts.held) == 0
		})
	}
	for range 2 {
		k.down(1)
		k.up(1)
	}
	before := k.history.fork(k.history.last())
	goOn()

	k.down(1)
	if err := os.RemoveAll(filepath.Join(k.dir, "1")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(crashed, filepath.Join(k.dir, "1")); err != nil {
		t.Fatal(err)
	}
	k.history = before
	k.up(1)
	goOn()
}

// falsify writes a wrong value into the state of the leader alone, at an index
// that is none of the group's entries: that of a new leader's empty one.
func (k *keeping) falsify(key, value string) (victim uint64) {
	k.t.Helper()
	old, l := k.leader()
	index := k.replicas[old].Published()
	k.eventually("another leader", func() bool {
		_ = k.replicas[old].TransferLeadership(old%3 + 1)
		id, now := k.leader()
		victim = id
		return now.Term > l.Term
	})
	k.eventually("the new leader to be where the old one is", func() bool { return k.replicas[victim].Published() == index })
	r := k.replicas[victim]
	r.applying.Lock()
	defer r.applying.Unlock()
	u := r.store.Begin(index + 1)
	defer u.Discard()
	const tableData = 0x07 // of the machine; a record is its version, 8 bytes, and the value
	var at, record []byte
	err := u.Scan([]byte{tableData}, []byte{tableData + 1}, func(k, v []byte) (bool, error) {
		if strings.HasSuffix(string(k), key) {
			at, record = slices.Clone(k), slices.Clone(v)
		}
		return at == nil, nil
	})
	if err != nil || at == nil {
		k.t.Fatalf("%s is not there: %v", key, err)
	}
	u.Set(at, append(record[:8], value...))
	if err := errors.Join(u.Commit(index+1), u.Finish()); err != nil {
		k.t.Fatal(err)
	}
	return victim
}

// differing gives a group whose leader's state has gone wrong, which a checkpoint
// has found. It stays so until release is called.
func differing(t *testing.T) (k *keeping, victim, number uint64, release func()) {
	k = newKeeping(t, 3, KeepPolicy{})
	op := command.Op{Kind: command.OpPut, Participant: "a", Key: "watched", Value: []byte("right")}
	k.do(&command.Decide{Attempt: command.Attempt{ID: "w", Begun: k.replicas[1].Published()}, Ops: []command.Op{op}})
	*k.history.commits = append(*k.history.commits, modelCommit{id: "w", ops: []command.Op{op}})
	k.transact(20)
	victim = k.falsify("watched", "wrong")
	bad := k.replicas[victim]
	// Nobody has a state to give, so that the quarantine can be looked at.
	released := make(chan struct{})
	source := k.stateFor(victim)
	bad.applying.Lock()
	bad.config.State = func(ctx context.Context, index uint64) (io.ReadCloser, error) {
		select {
		case <-released:
			return source(ctx, index)
		default:
			return nil, errors.New("not yet")
		}
	}
	bad.applying.Unlock()
	k.keep(1, 2, 3)
	number = k.cut()
	k.eventually("the quarantine", func() bool { return bad.Quarantined() != nil })
	k.eventually("another leader", func() bool { id, _ := k.leader(); return id != victim })
	return k, victim, number, func() { close(released) }
}

// right checks that every replica has the model's state and the whole log.
func (k *keeping) right() {
	k.t.Helper()
	k.agree()
	for id, r := range k.replicas {
		k.holds(r)
		if got := len(k.follow(r, 1, k.history.last())); uint64(got) != k.history.last() {
			k.t.Errorf("replica %d: %d entries in the log of %d", id, got, k.history.last())
		}
	}
}

// Would break: a replica whose state has gone wrong that goes on answering; and one
// that is rebuilt and lacks what was committed meanwhile.
func TestDifferentReplicaIsRebuilt(t *testing.T) {
	k, victim, n, release := differing(t)
	bad := k.replicas[victim]
	if _, err := bad.Snapshot(0); !errors.Is(err, ErrQuarantined) {
		t.Errorf("a wrong state was read: %v", err)
	}
	if _, err := bad.Follow(1); !errors.Is(err, ErrQuarantined) {
		t.Errorf("a wrong state's log was followed: %v", err)
	}
	if _, err := bad.Propose(&command.Batch{}, time.Second); !errors.Is(err, ErrHalted) {
		t.Errorf("a wrong replica proposed: %v", err)
	}
	if c := k.record(bad, n); findCopy(&c, nodeName(victim)).State != command.CopyDifferent {
		t.Errorf("the record says %+v", c.Copies)
	}
	// A restart forgets the quarantine; the record does not.
	for range 3 {
		k.transact(10)
	}
	k.down(victim)
	k.up(victim)
	bad = k.replicas[victim]
	k.keep(victim)
	if bad.Quarantined() == nil {
		t.Error("a replica that is known to be wrong answers after its restart")
	}
	k.transact(10)
	release()
	c := k.complete(n, 1, 2, 3)
	if k.reported(victim, n, command.CopyWritten, true) == 0 || findCopy(&c, nodeName(victim)).Rebuilt != 1 {
		t.Errorf("the rebuilding was not told: %+v", c.Copies)
	}
	k.eventually("the end of the quarantine", func() bool { return bad.Quarantined() == nil })
	k.transact(10)
	k.right()
	for id := range k.replicas {
		k.exactFiles(id, &c)
	}
	k.exactFiles(victim, new(k.complete(k.cut(), 1, 2, 3)))
}

// Would break: a wrong replica that is in quarantine for ever, because retention
// dropped the checkpoint that found it before it could be rebuilt.
func TestDifferentReplicaIsRebuiltWithoutItsCheckpoint(t *testing.T) {
	k, victim, n, release := differing(t)
	k.transact(10)
	var good []uint64
	for id := range k.replicas {
		if id != victim {
			good = append(good, id)
		}
	}
	next := k.complete(k.cut(), good...)
	k.do(&command.Retain{Drop: []uint64{n}})
	bad := k.replicas[victim]
	k.eventually("the record to go", func() bool { return k.record(bad, n).Number == 0 })
	if bad.Quarantined() == nil {
		t.Error("a wrong replica answers")
	}
	release()
	k.eventually("the end of the quarantine", func() bool { return bad.Quarantined() == nil })
	k.transact(10)
	k.right()
	k.complete(next.Number, 1, 2, 3)
	k.exactFiles(victim, &next)
}

// Would break: a copy that has gone bad on the disk and counts as one, until a
// restore needs it.
func TestDamagedCopyIsFetchedAgain(t *testing.T) {
	k := newKeeping(t, 3, KeepPolicy{})
	k.keep(1, 2, 3)
	k.transact(30)
	n := k.cut()
	c := k.complete(n, 1, 2, 3)
	k.transact(30)
	path := filepath.Join(k.copyDir(2, n), "p-b.zst")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	verified, err := k.keepers[2].Verify(t.Context(), n, nil)
	var damage *checkpoint.CorruptError
	if err != nil || len(verified) != 1 || !errors.As(verified[0].Err, &damage) || damage.File != path {
		t.Fatalf("%+v, %v", verified, err)
	}
	k.eventually("the copy to be whole again", func() bool {
		all, err := k.keepers[2].Verify(t.Context(), 0, nil)
		return err == nil && len(all) == 1 && all[0].Err == nil
	})
	k.complete(n, 1, 2, 3)
	k.exactFiles(2, &c)
	// One that goes bad while nobody runs is found at the start.
	k.down(3)
	if err := os.Remove(filepath.Join(k.copyDir(3, n), "manifest.json")); err != nil {
		t.Fatal(err)
	}
	k.up(3)
	k.keep(3)
	k.eventually("the copy to be whole again", func() bool {
		all, err := k.keepers[3].Verify(t.Context(), 0, nil)
		return err == nil && len(all) == 1 && all[0].Err == nil
	})
	k.exactFiles(3, &c)
}
