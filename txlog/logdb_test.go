package txlog

import (
	"reflect"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/raftio"
	"github.com/lni/dragonboat/v4/raftpb"
	"github.com/lni/vfs"
)

// countingFS counts fsyncs of files.
type countingFS struct {
	vfs.FS
	syncs atomic.Int64
}

type countingFile struct {
	vfs.File
	fs *countingFS
}

func (f *countingFS) Create(name string) (vfs.File, error) {
	file, err := f.FS.Create(name)
	if err != nil {
		return nil, err
	}
	return &countingFile{File: file, fs: f}, nil
}

func (f *countingFile) Sync() error {
	f.fs.syncs.Add(1)
	return f.File.Sync()
}

func openLogDB(t *testing.T, dir string, fs vfs.FS) raftio.ILogDB {
	t.Helper()
	c := config.NodeHostConfig{}
	c.Expert.FS = fs
	c.Expert.LogDB = config.GetTinyMemLogDBConfig()
	c.Expert.LogDB.KVWriteBufferSize = 64 << 10
	db, err := logDBFactory{refuseSnapshots: func(raftio.NodeInfo) bool { return false }}.Create(c, nil, []string{dir}, []string{dir})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func entry(index uint64) []raftpb.Entry {
	return []raftpb.Entry{{Index: index, Term: 2, Cmd: []byte("x")}}
}

// Without it every commit would cost an fsync of its own, or a restart would find
// another term, vote or commit than was saved.
func TestLogDBRefillsTheState(t *testing.T) {
	dir, fs := t.TempDir(), &countingFS{FS: vfs.Default}
	db := openLogDB(t, dir, fs)
	save := func(state raftpb.State, entries []raftpb.Entry) (syncs int64) {
		t.Helper()
		before := fs.syncs.Load()
		updates := []raftpb.Update{{ShardID: 1, ReplicaID: 1, State: state, EntriesToSave: entries}}
		if err := db.SaveRaftState(updates, 1); err != nil {
			t.Fatal(err)
		}
		if updates[0].State != state {
			t.Errorf("the update came back with %+v, not %+v", updates[0].State, state)
		}
		return fs.syncs.Load() - before
	}
	state := raftpb.State{Term: 2, Vote: 1}
	save(state, entry(1))
	for i := uint64(2); i < 6; i++ {
		if n := save(raftpb.State{}, entry(i)); n != 1 {
			t.Errorf("entry %d took %d fsyncs", i, n)
		}
		state.Commit = i
		if n := save(state, nil); n != 0 {
			t.Errorf("commit %d took %d fsyncs", i, n)
		}
		if n := save(raftpb.State{}, nil); n != 0 {
			t.Errorf("an empty update took %d fsyncs", n)
		}
	}
	read := func() raftio.RaftState {
		t.Helper()
		rs, err := db.ReadRaftState(1, 1, 0)
		if err != nil {
			t.Fatal(err)
		}
		return rs
	}
	want := raftio.RaftState{State: state, FirstIndex: 1, EntryCount: 5}
	if got := read(); !reflect.DeepEqual(got, want) {
		t.Errorf("saved %+v, want %+v", got, want)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = openLogDB(t, dir, fs)
	defer db.Close()
	if got := read(); !reflect.DeepEqual(got, want) {
		t.Errorf("after a restart %+v, want %+v", got, want)
	}
	// An empty State right after the restart stands for the one that was read.
	save(raftpb.State{}, entry(6))
	want.EntryCount++
	if got := read(); !reflect.DeepEqual(got, want) {
		t.Errorf("after the restart's first update %+v, want %+v", got, want)
	}
}

// overlapDB is a log store that notices two writers at one replica's log.
type overlapDB struct {
	raftio.ILogDB
	busy     atomic.Bool
	overlaps atomic.Int64
}

func (o *overlapDB) enter() error {
	if o.busy.Swap(true) {
		o.overlaps.Add(1)
	}
	o.busy.Store(false)
	return nil
}

func (o *overlapDB) SaveRaftState([]raftpb.Update, uint64) error  { return o.enter() }
func (o *overlapDB) SaveSnapshots([]raftpb.Update) error          { return o.enter() }
func (o *overlapDB) RemoveEntriesTo(uint64, uint64, uint64) error { return o.enter() }
func (o *overlapDB) GetSnapshot(uint64, uint64) (raftpb.Snapshot, error) {
	return raftpb.Snapshot{}, o.enter()
}
func (o *overlapDB) ImportSnapshot(raftpb.Snapshot, uint64) error { return o.enter() }
func (o *overlapDB) RemoveNodeData(uint64, uint64) error          { return o.enter() }

// Without it tan would change files under its own feet. The batches name the
// replicas in different orders: without an order of locking they would wait for
// each other for ever.
func TestLogDBWorksOneAtATime(t *testing.T) {
	o := &overlapDB{}
	db := newLogDB(o, func(raftio.NodeInfo) bool { return false })
	a, b := raftpb.Update{ShardID: 1, ReplicaID: 1}, raftpb.Update{ShardID: 2, ReplicaID: 1}
	snapshot := a
	snapshot.Snapshot = raftpb.Snapshot{Index: 1, Term: 1}
	var wg sync.WaitGroup
	for _, work := range []func() error{
		func() error { return db.SaveRaftState([]raftpb.Update{a, b}, 1) },
		func() error { return db.SaveRaftState([]raftpb.Update{b, a, b}, 2) },
		func() error { return db.SaveRaftState([]raftpb.Update{a}, 3) },
		func() error { return db.SaveSnapshots([]raftpb.Update{snapshot}) },
		func() error { return db.RemoveEntriesTo(1, 1, 5) },
		func() error { _, err := db.GetSnapshot(1, 1); return err },
		func() error { return db.ImportSnapshot(raftpb.Snapshot{ShardID: 1}, 1) },
		func() error { return db.RemoveNodeData(1, 1) },
	} {
		wg.Go(func() {
			for range 2000 {
				if err := work(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := o.overlaps.Load(); n > 0 {
		t.Errorf("%d times two at once", n)
	}
}

// Without it a leader would read all that a replica lacks at each of its
// heartbeats, and hear nothing meanwhile: it and the next leader would be deposed,
// again and again. With too few entries and no word of a bound the reader takes the
// log for damaged.
func TestLogDBReadsInPieces(t *testing.T) {
	db := openLogDB(t, t.TempDir(), vfs.Default)
	defer db.Close()
	const entries, each, asked = 200, 64 << 10, 64 << 20
	for i := uint64(1); i <= entries; i++ {
		updates := []raftpb.Update{{ShardID: 1, ReplicaID: 1, State: raftpb.State{Term: 1}, EntriesToSave: []raftpb.Entry{{Index: i, Term: 1, Cmd: make([]byte, each)}}}}
		if err := db.SaveRaftState(updates, 1); err != nil {
			t.Fatal(err)
		}
	}
	next, reads := uint64(1), 0
	for ; next <= entries; reads++ {
		got, size, err := db.IterateEntries(nil, 0, 1, 1, next, entries+1, asked)
		if err != nil || len(got) == 0 || got[0].Index != next {
			t.Fatalf("from %d: %d entries, %v", next, len(got), err)
		}
		if n := len(got) * each; n > maxReadBytes+each {
			t.Fatalf("%d bytes at once", n)
		}
		next = got[len(got)-1].Index + 1
		if whole := next == entries+1; !whole && size <= asked {
			t.Fatalf("it broke off before %d and says that it read %d of %d bytes", next, size, asked)
		}
	}
	if want := entries * each / maxReadBytes; reads < want {
		t.Errorf("%d reads, want at least %d", reads, want)
	}
	got, size, err := db.IterateEntries(nil, 0, 1, 1, 1, 3, asked)
	if err != nil || len(got) != 2 || size > asked {
		t.Errorf("what fits: %d entries of %d bytes, %v", len(got), size, err)
	}
}
