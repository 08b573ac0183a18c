package txlog

import (
	"fmt"
	"io"
	"sort"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/statemachine"

	"github.com/cohort-tx/cohort/txlog/command"
)

const rawShard = 8

// noop is an on-disk state machine that does nothing: what Raft alone costs.
type noop struct{}

func (noop) Open(<-chan struct{}) (uint64, error)                        { return 0, nil }
func (noop) Update(e []statemachine.Entry) ([]statemachine.Entry, error) { return e, nil }
func (noop) Lookup(any) (any, error)                                     { return nil, nil }
func (noop) Sync() error                                                 { return nil }
func (noop) PrepareSnapshot() (any, error)                               { return nil, nil }
func (noop) SaveSnapshot(any, io.Writer, <-chan struct{}) error          { return nil }
func (noop) RecoverFromSnapshot(io.Reader, <-chan struct{}) error        { return nil }
func (noop) Close() error                                                { return nil }

// BenchmarkPropose compares proposals of two-participant transactions, one an
// entry, with plain proposals of 256 bytes to a machine that does nothing, in the
// same process and settings: three replicas, in turn.
func BenchmarkPropose(b *testing.B) {
	for _, inFlight := range []int{1, 64, 512} {
		b.Run(fmt.Sprintf("inflight=%d", inFlight), func(b *testing.B) { benchmarkPropose(b, inFlight) })
	}
}

func benchmarkPropose(b *testing.B, inFlight int) {
	c := newBenchCluster(b)
	defer c.close()
	payload := make([]byte, 256)
	nh := c.hosts[c.leader].nh
	raw := func(int) {
		rs, err := nh.Propose(nh.GetNoOPSession(rawShard), payload, 10*time.Second)
		if err != nil {
			b.Error(err)
			return
		}
		if r := <-rs.ResultC(); !r.Completed() {
			b.Error("not completed")
		}
		rs.Release()
	}
	value := make([]byte, 100)
	r, begun := c.replica, c.replica.Published()
	commit := func(n int) {
		id := fmt.Sprintf("t%d", c.next.Add(1))
		p, err := r.Propose(&command.Batch{Epoch: c.epoch, TimeUnixNano: 1, Commands: []command.Command{&command.Decide{
			Attempt: command.Attempt{ID: id, Begun: begun},
			Ops: []command.Op{
				{Kind: command.OpPut, Participant: "a", Key: fmt.Sprintf("k%d", n%10000), Value: value},
				{Kind: command.OpPut, Participant: "b", Key: fmt.Sprintf("k%d", n%10000), Value: value},
			},
		}}}, 10*time.Second)
		if err != nil {
			b.Error(err)
			return
		}
		<-p.Done()
		if results, _, err := p.Result(); err != nil || results[0].Status != command.StatusCommitted {
			b.Error(results, err)
		}
	}
	rawRate, rawMedian := drive(b.N, inFlight, raw)
	b.ResetTimer()
	rate, median := drive(b.N, inFlight, commit)
	b.StopTimer()
	b.ReportMetric(rate, "commits/s")
	b.ReportMetric(rate/rawRate, "throughput-ratio")
	b.ReportMetric(float64(median)/float64(rawMedian), "p50-ratio")
}

// drive calls fn n times from inFlight goroutines.
func drive(n, inFlight int, fn func(int)) (perSecond float64, median time.Duration) {
	var next atomic.Int64
	var wg sync.WaitGroup
	times := make([]time.Duration, n)
	start := time.Now()
	for range inFlight {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				t := time.Now()
				fn(i)
				times[i] = time.Since(t)
			}
		})
	}
	wg.Wait()
	elapsed := time.Since(start)
	sort.Slice(times, func(i, j int) bool { return times[i] < times[j] })
	return float64(n) / elapsed.Seconds(), times[n/2]
}

type benchCluster struct {
	hosts   map[uint64]*Host
	leader  uint64
	replica *Replica
	epoch   uint64
	next    atomic.Int64
}

func newBenchCluster(b *testing.B) *benchCluster {
	c := &benchCluster{hosts: map[uint64]*Host{}}
	dir := b.TempDir()
	addrs := map[uint64]string{}
	for id := uint64(1); id <= 3; id++ {
		addrs[id] = freeAddr(b)
	}
	replicas := map[uint64]*Replica{}
	for id := uint64(1); id <= 3; id++ {
		h, err := NewHost(HostConfig{Dir: fmt.Sprintf("%s/%d", dir, id), RaftAddress: addrs[id]})
		if err != nil {
			b.Fatal(err)
		}
		c.hosts[id] = h
		if replicas[id], err = h.StartReplica(ReplicaConfig{Group: "g", ShardID: testShard, ReplicaID: id, Members: addrs}); err != nil {
			b.Fatal(err)
		}
		if err := h.nh.StartOnDiskReplica(addrs, false, func(uint64, uint64) statemachine.IOnDiskStateMachine { return noop{} }, config.Config{
			ShardID: rawShard, ReplicaID: id, ElectionRTT: DefaultElectionRTT, HeartbeatRTT: DefaultHeartbeatRTT,
			CheckQuorum: true, PreVote: true, OrderedConfigChange: true,
			SnapshotEntries: snapshotEntries, CompactionOverhead: compactionOverhead, MaxInMemLogSize: maxInMemLogBytes,
		}); err != nil {
			b.Fatal(err)
		}
	}
	for c.leader == 0 {
		time.Sleep(10 * time.Millisecond)
		for id, r := range replicas {
			if l := r.Leadership(); l.Self {
				c.leader, c.replica, c.epoch = id, r, l.Term
			}
		}
	}
	// Both shards are to be led from one host.
	for c.hosts[c.leader].Leadership(rawShard).LeaderReplica != c.leader {
		for _, h := range c.hosts {
			_ = h.nh.RequestLeaderTransfer(rawShard, c.leader)
		}
		time.Sleep(50 * time.Millisecond)
	}
	if _, _, err := propose(c.replica, &command.Batch{Epoch: c.epoch, Commands: []command.Command{
		&command.RaiseEpoch{Node: "n"},
		&command.Configure{Version: 1, Incarnation: 1, Participants: []string{"a", "b"}, Definition: []byte("{}")},
	}}); err != nil {
		b.Fatal(err)
	}
	return c
}

func (c *benchCluster) close() {
	for _, h := range c.hosts {
		h.Close()
	}
}
