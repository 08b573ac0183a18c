package txlog

import (
	"cmp"
	"slices"
	"sync"

	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/plugin/tan"
	"github.com/lni/dragonboat/v4/raftio"
	pb "github.com/lni/dragonboat/v4/raftpb"
	sm "github.com/lni/dragonboat/v4/statemachine"
)

// logDBFactory makes dragonboat use tan behind a logDB.
type logDBFactory struct {
	// refuseSnapshots tells of which replicas no snapshot may be recorded.
	refuseSnapshots func(raftio.NodeInfo) bool
}

func (f logDBFactory) Name() string { return tan.Factory.Name() }

func (f logDBFactory) Create(c config.NodeHostConfig, cb config.LogDBCallback, dirs, wals []string) (raftio.ILogDB, error) {
	db, err := tan.Factory.Create(c, cb, dirs, wals)
	if err != nil {
		return nil, err
	}
	return newLogDB(db, f.refuseSnapshots), nil
}

// logDB stands between dragonboat and tan, its Raft log store, for four
// things:
//
//   - Refill. An update whose State is empty says that term, vote and commit are
//     what they were at the update before. tan writes the entries of such an
//     update and remembers an empty State, so that the next update, which only
//     moves the commit index, looks to it like a change of term and vote and is
//     fsynced: 7 fsyncs a proposal on three replicas instead of 3. An empty State
//     is filled with the one it stands for, which is exact: what tan then
//     recovers is the same State from a later record.
//   - One at a time. tan changes its file in one goroutine while another, saving
//     a snapshot, reads which file is current, without a lock; and a reader can
//     meet a record half written. All work on one replica's log is done by one
//     goroutine at a time here.
//   - No snapshot of a halted replica, which could claim a state that is not on
//     disk: dragonboat would drop the log that the replica needs.
//   - Small reads: see maxReadBytes.
type logDB struct {
	raftio.ILogDB
	refuseSnapshots func(raftio.NodeInfo) bool

	mu       sync.Mutex
	replicas map[raftio.NodeInfo]*replicaLog
}

// replicaLog is one replica's log.
type replicaLog struct {
	// mu is held during all work on the log.
	mu sync.Mutex
	// state is the last State saved or read, empty when there is none.
	state pb.State
}

func newLogDB(db raftio.ILogDB, refuse func(raftio.NodeInfo) bool) *logDB {
	return &logDB{ILogDB: db, refuseSnapshots: refuse, replicas: make(map[raftio.NodeInfo]*replicaLog)}
}

func (s *logDB) replica(shard, replica uint64) *replicaLog {
	key := raftio.GetNodeInfo(shard, replica)
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.replicas[key]
	if r == nil {
		r = new(replicaLog)
		s.replicas[key] = r
	}
	return r
}

// lock locks the logs of all updates and returns them in the updates' order.
// Several are locked in the order of their ids, so that no two lockers wait for
// each other.
func (s *logDB) lock(updates []pb.Update) (logs []*replicaLog, unlock func()) {
	logs = make([]*replicaLog, len(updates))
	for i := range updates {
		logs[i] = s.replica(updates[i].ShardID, updates[i].ReplicaID)
	}
	if len(logs) == 1 {
		logs[0].mu.Lock()
		return logs, logs[0].mu.Unlock
	}
	order := make([]int, len(updates))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		x, y := &updates[a], &updates[b]
		return cmp.Or(cmp.Compare(x.ShardID, y.ShardID), cmp.Compare(x.ReplicaID, y.ReplicaID))
	})
	locked := make([]*replicaLog, 0, len(order))
	for _, i := range order {
		if n := len(locked); n == 0 || locked[n-1] != logs[i] {
			logs[i].mu.Lock()
			locked = append(locked, logs[i])
		}
	}
	return logs, func() {
		for _, l := range locked {
			l.mu.Unlock()
		}
	}
}

// SaveRaftState refills empty States. The updates are dragonboat's and are as
// they were when it returns.
func (s *logDB) SaveRaftState(updates []pb.Update, worker uint64) error {
	if len(updates) == 0 {
		return nil
	}
	logs, unlock := s.lock(updates)
	defer unlock()
	filled := make([]bool, len(updates))
	for i, l := range logs {
		if pb.IsEmptyState(updates[i].State) {
			updates[i].State, filled[i] = l.state, true
		} else {
			l.state = updates[i].State
		}
	}
	err := s.ILogDB.SaveRaftState(updates, worker)
	for i := range updates {
		if filled[i] {
			updates[i].State = pb.State{}
		}
	}
	return err
}

// ReadRaftState is where a replica's life begins: the State read is the one that
// an empty one stands for from here on.
func (s *logDB) ReadRaftState(shard, replica, lastIndex uint64) (raftio.RaftState, error) {
	l := s.replica(shard, replica)
	l.mu.Lock()
	defer l.mu.Unlock()
	state, err := s.ILogDB.ReadRaftState(shard, replica, lastIndex)
	l.state = state.State
	return state, err
}

func (s *logDB) SaveSnapshots(updates []pb.Update) error {
	for i := range updates {
		u := &updates[i]
		if !pb.IsEmptySnapshot(u.Snapshot) && s.refuseSnapshots(raftio.GetNodeInfo(u.ShardID, u.ReplicaID)) {
			return sm.ErrSnapshotAborted
		}
	}
	if len(updates) == 0 {
		return nil
	}
	_, unlock := s.lock(updates)
	defer unlock()
	return s.ILogDB.SaveSnapshots(updates)
}

// maxReadBytes bounds what is read of a log at once. A leader reads what a replica
// lacks at each of its heartbeats, on the goroutine that also counts elections:
// dragonboat's own bound of 64 MiB takes longer than the next heartbeat needs to come,
// and a leader that is behind with them is deposed, and so is the next one.
const maxReadBytes = 1 << 20

// IterateEntries reads up to maxReadBytes, and then at least one entry beyond. The
// reader takes fewer entries than it asked for only when it hears that its own bound
// was passed.
func (s *logDB) IterateEntries(entries []pb.Entry, size, shard, replica, low, high, maxSize uint64) ([]pb.Entry, uint64, error) {
	l := s.replica(shard, replica)
	l.mu.Lock()
	defer l.mu.Unlock()
	bound, before := maxSize, len(entries)
	if bound > size+maxReadBytes {
		bound = size + maxReadBytes
	}
	out, total, err := s.ILogDB.IterateEntries(entries, size, shard, replica, low, high, bound)
	if err == nil && total > bound && total <= maxSize && uint64(len(out)-before) < high-low {
		total = maxSize + 1
	}
	return out, total, err
}

func (s *logDB) RemoveEntriesTo(shard, replica, index uint64) error {
	l := s.replica(shard, replica)
	l.mu.Lock()
	defer l.mu.Unlock()
	return s.ILogDB.RemoveEntriesTo(shard, replica, index)
}

func (s *logDB) CompactEntriesTo(shard, replica, index uint64) (<-chan struct{}, error) {
	l := s.replica(shard, replica)
	l.mu.Lock()
	defer l.mu.Unlock()
	return s.ILogDB.CompactEntriesTo(shard, replica, index)
}

func (s *logDB) GetSnapshot(shard, replica uint64) (pb.Snapshot, error) {
	l := s.replica(shard, replica)
	l.mu.Lock()
	defer l.mu.Unlock()
	return s.ILogDB.GetSnapshot(shard, replica)
}

func (s *logDB) RemoveNodeData(shard, replica uint64) error {
	l := s.replica(shard, replica)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.state = pb.State{}
	return s.ILogDB.RemoveNodeData(shard, replica)
}

func (s *logDB) ImportSnapshot(snapshot pb.Snapshot, replica uint64) error {
	l := s.replica(snapshot.ShardID, replica)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.state = pb.State{}
	return s.ILogDB.ImportSnapshot(snapshot, replica)
}
