package node

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lni/dragonboat/v4"
	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/statemachine"

	"github.com/cohort-tx/cohort/configs"
	"github.com/cohort-tx/cohort/coordinator"
	"github.com/cohort-tx/cohort/groups"
	"github.com/cohort-tx/cohort/participant"
	"github.com/cohort-tx/cohort/txlog/command"
)

const (
	// rawShard runs a state machine that does nothing, beside the group's.
	rawShard = 9000
	// benchSeconds is how long each figure is measured.
	benchSeconds = 4
	// rawBytes is the size of a raw proposal.
	rawBytes = 256
	// benchKeys per participant.
	benchKeys = 10_000

	benchClientEnv = "COHORT_BENCH_CLIENT"
)

// noop is what Raft costs alone.
type noop struct{}

func (noop) Open(<-chan struct{}) (uint64, error)                        { return 0, nil }
func (noop) Update(e []statemachine.Entry) ([]statemachine.Entry, error) { return e, nil }
func (noop) Lookup(any) (any, error)                                     { return nil, nil }
func (noop) Sync() error                                                 { return nil }
func (noop) PrepareSnapshot() (any, error)                               { return nil, nil }
func (noop) SaveSnapshot(any, io.Writer, <-chan struct{}) error          { return nil }
func (noop) RecoverFromSnapshot(io.Reader, <-chan struct{}) error        { return nil }
func (noop) Close() error                                                { return nil }

// BenchmarkCommit measures committed transactions that put 100 bytes at two
// participants, on three nodes in this process, through the coordinator's Go API
// and over gRPC from another process, against plain proposals of 256 bytes to a
// machine that does nothing, on the same Raft hosts. Ratios are of one run; run
// it with -benchtime 1x.
func BenchmarkCommit(b *testing.B) {
	c := newBenchNodes(b)
	for _, inFlight := range []int{1, 64, 512} {
		raw := measure(inFlight, c.raw(b))
		inProcess := measure(inFlight, c.commit(b))
		again := measure(inFlight, c.raw(b))
		overGRPC := c.otherProcess(b, inFlight)
		// Raw is measured before and after: the machine's noise is in both.
		raw.perSecond = (raw.perSecond + again.perSecond) / 2
		raw.p50 = (raw.p50 + again.p50) / 2
		for _, m := range []struct {
			name string
			figures
		}{{"in-process", inProcess}, {"grpc", overGRPC}} {
			b.Run(fmt.Sprintf("%s/inflight=%d", m.name, inFlight), func(b *testing.B) {
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(m.perSecond, "commits/s")
				b.ReportMetric(raw.perSecond, "raw/s")
				b.ReportMetric(m.perSecond/raw.perSecond, "throughput-ratio")
				b.ReportMetric(m.p50.Seconds()/raw.p50.Seconds(), "p50-ratio")
				b.ReportMetric(m.p50.Seconds()*1000, "p50-ms")
			})
		}
	}
}

type figures struct {
	perSecond float64
	p50       time.Duration
}

// measure calls fn from inFlight goroutines for a while.
func measure(inFlight int, fn func(n int) error) figures {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var all []time.Duration
	var next atomic.Int64
	start := time.Now()
	for range inFlight {
		wg.Go(func() {
			var mine []time.Duration
			for time.Since(start) < benchSeconds*time.Second {
				at := time.Now()
				if fn(int(next.Add(1))) == nil {
					mine = append(mine, time.Since(at))
				}
			}
			mu.Lock()
			all = append(all, mine...)
			mu.Unlock()
		})
	}
	wg.Wait()
	slices.Sort(all)
	if len(all) == 0 {
		return figures{p50: time.Hour}
	}
	return figures{perSecond: float64(len(all)) / time.Since(start).Seconds(), p50: all[len(all)/2]}
}

type benchNodes struct {
	leader      *Node
	coordinator *coordinator.Coordinator
	begun       uint64
}

func newBenchNodes(b *testing.B) *benchNodes {
	var peers []configs.Peer
	for n := 1; n <= 3; n++ {
		peers = append(peers, configs.Peer{Name: fmt.Sprintf("n%d", n), API: loopbackAddress(b), Raft: loopbackAddress(b)})
	}
	dir := b.TempDir()
	var nodes []*Node
	members := map[uint64]string{}
	for n, p := range peers {
		members[uint64(n+1)] = p.Raft
		c := configs.Default()
		c.Name, c.DataDir, c.Cluster = p.Name, fmt.Sprintf("%s/%s", dir, p.Name), peers
		c.API.Address, c.Raft.Address, c.HTTP.Address = p.API, p.Raft, ""
		if err := groups.InitDataDir(c.DataDir, c.Name, c.ClusterID()); err != nil {
			b.Fatal(err)
		}
		node, err := New(Params{Config: c})
		if err != nil {
			b.Fatal(err)
		}
		if err := node.Start(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { node.Close(context.Background()) })
		nodes = append(nodes, node)
	}
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	for _, n := range nodes {
		if err := n.Ready(ctx); err != nil {
			b.Fatal(err)
		}
	}
	apply(b, peers[0].API)
	c := &benchNodes{}
	for c.leader == nil {
		time.Sleep(20 * time.Millisecond)
		for _, n := range nodes {
			if h := n.manager.group("bench"); h != nil && h.coordinator != nil {
				if _, ok := h.coordinator.Serving(); ok {
					c.leader, c.coordinator, c.begun = n, h.coordinator, h.replica.Published()
				}
			}
		}
	}
	c.startRaw(b, nodes, members)
	return c
}

func apply(b *testing.B, addr string) {
	client, err := participant.Dial(addr)
	if err != nil {
		b.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	applyGroup(ctx, b, client, "group: bench\nparticipants: [{name: a}, {name: b}]\ncheckpoint: {interval: 2h, log_bytes: 0, log_entries: 0, min_gap: 0s, max_pause: 2s}\n")
}

// startRaw starts the shard that does nothing and has it led from the group's
// leader.
func (c *benchNodes) startRaw(b *testing.B, nodes []*Node, members map[uint64]string) {
	var leader uint64
	for i, n := range nodes {
		id := uint64(i + 1)
		if n == c.leader {
			leader = id
		}
		if err := n.host.NodeHost().StartOnDiskReplica(members, false, func(uint64, uint64) statemachine.IOnDiskStateMachine { return noop{} }, config.Config{
			ShardID: rawShard, ReplicaID: id, ElectionRTT: electionTicks, HeartbeatRTT: heartbeatTicks,
			CheckQuorum: true, PreVote: true, OrderedConfigChange: true,
			SnapshotEntries: 50_000, CompactionOverhead: 100_000, MaxInMemLogSize: 256 << 20,
		}); err != nil {
			b.Fatal(err)
		}
	}
	for {
		id, _, ok, err := c.leader.host.NodeHost().GetLeaderID(rawShard)
		if err == nil && ok && id == leader {
			return
		}
		for _, n := range nodes {
			_ = n.host.NodeHost().RequestLeaderTransfer(rawShard, leader)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (c *benchNodes) raw(b *testing.B) func(int) error {
	nh := c.leader.host.NodeHost()
	payload := make([]byte, rawBytes)
	return func(int) error {
		rs, err := nh.Propose(nh.GetNoOPSession(rawShard), payload, 10*time.Second)
		if err != nil {
			return err
		}
		defer rs.Release()
		if r := <-rs.ResultC(); !r.Completed() {
			return dragonboat.ErrTimeout
		}
		return nil
	}
}

var benchValue = make([]byte, 100)

func benchKey(n int) string { return "key-" + strconv.Itoa(n%benchKeys) }

func (c *benchNodes) commit(b *testing.B) func(int) error {
	run := time.Now().UnixNano()
	return func(n int) error {
		_, err := c.coordinator.Commit(b.Context(), coordinator.CommitRequest{
			Attempt: coordinator.Attempt{ID: fmt.Sprintf("%d-%d", run, n)},
			Ops: []command.Op{
				{Kind: command.OpPut, Participant: "a", Key: benchKey(n), Value: benchValue},
				{Kind: command.OpPut, Participant: "b", Key: benchKey(n), Value: benchValue},
			},
		})
		if err != nil {
			b.Log(err)
		}
		return err
	}
}

// otherProcess measures the same over gRPC: this test binary again, as a client.
func (c *benchNodes) otherProcess(b *testing.B, inFlight int) figures {
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d", benchClientEnv, c.leader.config.APIAddress(), inFlight))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		b.Fatal(err)
	}
	var f figures
	var p50 int64
	if _, err := fmt.Sscan(strings.TrimSpace(string(out)), &f.perSecond, &p50); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	f.p50 = time.Duration(p50)
	return f
}

// benchClient is the other process.
func benchClient(spec string) {
	var addr string
	var inFlight int
	if _, err := fmt.Sscan(spec, &addr, &inFlight); err != nil {
		panic(err)
	}
	client, err := participant.Dial(addr)
	if err != nil {
		panic(err)
	}
	defer client.Close()
	group := client.Group("bench")
	f := measure(inFlight, func(n int) error {
		_, err := group.Run(context.Background(), func(tx *participant.Tx) error {
			if err := tx.Store("a").Put(benchKey(n), benchValue); err != nil {
				return err
			}
			return tx.Store("b").Put(benchKey(n), benchValue)
		})
		return err
	})
	fmt.Println(f.perSecond, int64(f.p50))
}
