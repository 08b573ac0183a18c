package txlog

import (
	"sync"

	"github.com/lni/dragonboat/v4/raftio"
)

// Leadership says who leads a shard, as this node's replica knows it.
type Leadership struct {
	// LeaderReplica is 0 when no leader is known.
	LeaderReplica uint64
	Term          uint64
	// Self says that the replica on this node leads.
	Self bool
}

// leaders hands changes of leadership to who watches. dragonboat tells them from
// one goroutine, in order for each shard.
type leaders struct {
	mu      sync.Mutex
	last    map[uint64]Leadership
	watches map[uint64]map[*watch]struct{}
	// stopped are the shards that were stopped here: what dragonboat still has in
	// its queue about them is of the past.
	stopped map[uint64]bool
	// bases are added to the terms of shards: ReplicaConfig.EpochBase.
	bases map[uint64]uint64
}

type watch struct{ fn func(Leadership) }

func newLeaders() *leaders {
	return &leaders{last: make(map[uint64]Leadership), watches: make(map[uint64]map[*watch]struct{}), stopped: make(map[uint64]bool), bases: make(map[uint64]uint64)}
}

// expect says that a shard is about to be started here.
func (l *leaders) expect(shardID, epochBase uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bases[shardID] = epochBase
	delete(l.stopped, shardID)
}

// LeaderUpdated implements raftio.IRaftEventListener.
func (l *leaders) LeaderUpdated(info raftio.LeaderInfo) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped[info.ShardID] {
		return
	}
	now := Leadership{
		LeaderReplica: info.LeaderID,
		Term:          info.Term + l.bases[info.ShardID],
		Self:          info.LeaderID != raftio.NoLeader && info.LeaderID == info.ReplicaID,
	}
	l.last[info.ShardID] = now
	for w := range l.watches[info.ShardID] {
		w.fn(now)
	}
}

func (l *leaders) of(shardID uint64) Leadership {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last[shardID]
}

// forget drops what is known of a shard that is stopped here.
func (l *leaders) forget(shardID uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopped[shardID] = true
	delete(l.last, shardID)
	for w := range l.watches[shardID] {
		w.fn(Leadership{})
	}
}

func (l *leaders) watch(shardID uint64, fn func(Leadership)) (cancel func()) {
	w := &watch{fn: fn}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.watches[shardID] == nil {
		l.watches[shardID] = make(map[*watch]struct{})
	}
	l.watches[shardID][w] = struct{}{}
	fn(l.last[shardID])
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.watches[shardID], w)
	}
}
