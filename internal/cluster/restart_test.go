package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	cohortv1 "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/internal/cluster"
	"github.com/cohort-tx/cohort/participant"
)

const (
	// workers run transactions while nodes come and go; each phase sees at least
	// someAcknowledged of them succeed.
	workers          = 4
	someAcknowledged = 100

	lasting = `
group: work
participants: [{name: stock}, {name: audit}, {name: ledger}]
limits: {timeout: 5s}
failover: {mode: auto, fail_after: 1s, grace: 0s}
`
)

// TestLosses takes instances, nodes and the whole cluster away while clients
// work, and afterwards compares what was acknowledged with what is there.
func TestLosses(t *testing.T) {
	b := startBench(t, cluster.Options{Nodes: 3, RTT: 40 * time.Millisecond, ShutdownGrace: 2 * time.Second}, lasting)
	b.serve(t, audit(), participant.Active)
	l := startLoad(t, b)
	for _, test := range []struct {
		name string
		run  func(*testing.T, *load)
	}{
		{"instance killed", instanceKilled},
		{"leader killed", leaderKilled},
		{"leader stopped", leaderStopped},
		{"majority killed", majorityKilled},
		{"cluster stopped", clusterStopped},
		{"cluster killed", clusterKilled},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.run(t, l)
			l.more(t)
			b.works(t)
		})
	}
	l.stop()
	l.check(t)
}

// Without fencing and takeover a lost instance would stop its participant, or
// two instances would act for it.
func instanceKilled(t *testing.T, l *load) {
	answer := make(chan error, 1)
	go func() {
		_, err := l.bench.run(t, "work", func(tx *participant.Tx) error {
			return tx.Call("stock", "hang", nil, nil)
		}, participant.MaxAttempts(1))
		answer <- err
	}()
	<-l.hanging
	begun := time.Now()
	l.killStock()
	want(t, participant.ErrRecovering, <-answer)
	if took := time.Since(begun); took > within {
		t.Errorf("the caller of the lost instance heard of it after %s", took)
	}
}

// Without it what one node acknowledged could die with it.
func leaderKilled(t *testing.T, l *load) {
	name := l.bench.coordinator(t)
	want(t, nil, l.bench.cluster.Kill(name))
	l.more(t)
	l.bench.start(t, name)
}

// Without draining a planned stop would look like a crash to every client.
func leaderStopped(t *testing.T, l *load) {
	name := l.bench.coordinator(t)
	begun := time.Now()
	want(t, nil, l.bench.cluster.Stop(t.Context(), name))
	if took := time.Since(begun); took > 2*time.Second+within {
		t.Errorf("it took %s, want its grace of 2 s at most", took)
	}
	l.more(t)
	l.bench.start(t, name)
}

// Without it a node alone would acknowledge what the others never hear of, or
// deny what it cannot know.
func majorityKilled(t *testing.T, l *load) {
	names := l.bench.names()
	want(t, nil, l.bench.cluster.Kill(names[0]))
	want(t, nil, l.bench.cluster.Kill(names[1]))
	// What was decided before may still be answered; then there is silence.
	time.Sleep(lease)
	acknowledged := l.count.Load()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	const id = "load/alone"
	l.try(id)
	_, err := l.bench.group("work").Run(ctx, l.work(id), participant.ID(id))
	var unknown *participant.IndeterminateError
	if !errors.As(err, &unknown) && !errors.Is(err, participant.ErrUnavailable) && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a transaction without a quorum: got %v, want that it is not known or not available", err)
	}
	if err := l.bench.group("work").View(t.Context(), func(tx *participant.ReadTx) error {
		_, err := tx.Store("ledger").Get("total", nil)
		return err
	}, participant.Stale()); err != nil {
		t.Errorf("a stale read without a quorum: %v", err)
	}
	if n := l.count.Load(); n != acknowledged {
		t.Errorf("%d transactions were acknowledged without a quorum", n-acknowledged)
	}
	l.bench.start(t, names[0], names[1])
}

// Without it an acknowledgement would hold only as long as somebody runs.
func clusterStopped(t *testing.T, l *load) {
	l.bench.everyNode(t, func(name string) error { return l.bench.cluster.Stop(t.Context(), name) })
	l.bench.start(t, l.bench.names()...)
}

// Without it an acknowledgement would depend on an orderly end.
func clusterKilled(t *testing.T, l *load) {
	// A handler that never returns must not keep its instance from coming back.
	_, err := l.bench.run(t, "work", func(tx *participant.Tx) error {
		return tx.Call("stock", "stuck", nil, nil)
	}, participant.Timeout(200*time.Millisecond))
	want(t, participant.ErrTimeout, err)
	l.bench.everyNode(t, l.bench.cluster.Kill)
	l.bench.start(t, l.bench.names()...)
}

// load is clients that run transactions all the time, at two participants each
// and with the vote of a third.
type load struct {
	bench     *bench
	killStock func()
	hanging   chan struct{} // gets a token from the handler that hangs

	cancel  context.CancelFunc
	running sync.WaitGroup
	count   atomic.Int64

	mu       sync.Mutex
	receipts map[string]participant.Receipt
	tried    map[string]bool
	wrong    []error
}

func startLoad(t *testing.T, b *bench) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{bench: b, cancel: cancel, receipts: map[string]participant.Receipt{}, tried: map[string]bool{}, hanging: make(chan struct{}, 1)}
	release := make(chan struct{})
	l.killStock = b.serveKillable(t, stock("work", l.hanging, release))
	b.serve(t, stock("work", nil, release), participant.Standby)
	t.Cleanup(func() { close(release) })
	for worker := range workers {
		l.running.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				l.one(ctx, fmt.Sprintf("load/%d/%d", worker, i))
			}
		})
	}
	t.Cleanup(l.stop)
	l.more(t)
	return l
}

func (l *load) try(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tried[id] = true
}

func (l *load) work(id string) func(*participant.Tx) error {
	return func(tx *participant.Tx) error {
		if err := tx.Call("stock", "reserve", nil, nil); err != nil {
			return err
		}
		if err := tx.Store("ledger").Put("done/"+id, "x"); err != nil {
			return err
		}
		return tx.Store("ledger").Add("total", 1)
	}
}

// one runs a transaction until its outcome is known or the load ends.
func (l *load) one(ctx context.Context, id string) {
	l.try(id)
	for ctx.Err() == nil {
		r, err := l.bench.group("work").Run(ctx, l.work(id), participant.ID(id))
		var unknown *participant.IndeterminateError
		switch {
		case err == nil:
			l.mu.Lock()
			l.receipts[id] = r
			l.mu.Unlock()
			l.count.Add(1)
			return
		case ctx.Err() != nil || errors.As(err, &unknown) || participant.Retryable(err) || errors.Is(err, participant.ErrTimeout):
			// The same id again: it commits at most once.
		default:
			l.mu.Lock()
			l.wrong = append(l.wrong, fmt.Errorf("%s: %w", id, err))
			l.mu.Unlock()
			return
		}
	}
}

// more waits until some more transactions are acknowledged.
func (l *load) more(t *testing.T) {
	t.Helper()
	goal := l.count.Load() + someAcknowledged
	l.bench.eventually(t, "the load goes on", func() bool { return l.count.Load() >= goal })
}

func (l *load) stop() {
	l.cancel()
	l.running.Wait()
}

// check compares the receipts with the log and the log with the stores.
func (l *load) check(t *testing.T) {
	t.Helper()
	for _, err := range l.wrong {
		t.Errorf("neither an answer nor a retryable error: %v", err)
	}
	// What was under way at the end is settled: from then on nothing changes.
	for id := range l.tried {
		if _, ok := l.receipts[id]; !ok {
			out, err := l.bench.group("work").Outcome(t.Context(), id, participant.Settle())
			want(t, nil, err)
			if out.State == participant.Committed {
				l.receipts[id] = out.Receipt
			}
		}
	}
	inLog := map[string]uint64{}
	last := uint64(0)
	for e, err := range l.bench.group("work").Log(t.Context(), 0, participant.NoWait()) {
		want(t, nil, err)
		if e.Position != last+1 {
			t.Fatalf("position %d follows %d", e.Position, last)
		}
		last = e.Position
		if inLog[e.ID] != 0 {
			t.Errorf("%s committed at %d and at %d", e.ID, inLog[e.ID], e.Position)
		}
		inLog[e.ID] = e.Position
	}
	for id, r := range l.receipts {
		if inLog[id] != r.Position {
			t.Errorf("%s was acknowledged at %d, and is in the log at %d", id, r.Position, inLog[id])
		}
	}
	want(t, nil, l.bench.group("work").View(t.Context(), func(tx *participant.ReadTx) error {
		done := 0
		for item, err := range tx.Store("ledger").Scan("done/") {
			if err != nil {
				return err
			}
			done++
			if inLog[item.Key[len("done/"):]] == 0 {
				t.Errorf("%s is there and not in the log", item.Key)
			}
		}
		ofLoad := len(l.receipts)
		var total, reserved, worked int
		for key, into := range map[string]*int{"total": &total, "worked": &worked} {
			if _, err := tx.Store("ledger").Get(key, into); err != nil {
				return err
			}
		}
		if _, err := tx.Store("stock").Get("reserved", &reserved); err != nil {
			return err
		}
		if int(last) != ofLoad+worked || total != ofLoad || done != ofLoad || reserved != ofLoad+worked {
			t.Errorf("the log has %d, of which %d were acknowledged to the load, the stores %d done, %d in total, %d reserved (%d by others)", last, ofLoad, done, total, reserved, worked)
		}
		return nil
	}))
	t.Logf("%d acknowledged, %d in the log", len(l.receipts), last)
}

// serveKillable serves from behind a network that can be cut: for the cluster
// that is as if the process had been killed.
func (b *bench) serveKillable(t *testing.T, app *participant.App) (kill func()) {
	t.Helper()
	var (
		mu    sync.Mutex
		cut   bool
		conns []net.Conn
	)
	b.serve(t, app, participant.Active, participant.WithDialOptions(grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		mu.Lock()
		defer mu.Unlock()
		if cut && err == nil {
			conn.Close()
			return nil, errors.New("the network is cut")
		}
		conns = append(conns, conn)
		return conn, err
	})))
	return func() {
		mu.Lock()
		defer mu.Unlock()
		cut = true
		for _, conn := range conns {
			conn.Close()
		}
	}
}

func (b *bench) names() []string {
	var names []string
	for _, m := range b.cluster.Members() {
		names = append(names, m.Name)
	}
	return names
}

func (b *bench) everyNode(t *testing.T, do func(name string) error) {
	t.Helper()
	var all sync.WaitGroup
	for _, name := range b.names() {
		all.Go(func() {
			if err := do(name); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	all.Wait()
}

func (b *bench) start(t *testing.T, names ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, name := range names {
		want(t, nil, b.cluster.Start(ctx, name))
	}
	want(t, nil, b.cluster.WaitReady(ctx))
}

// coordinator names the node that runs the group's coordinator.
func (b *bench) coordinator(t *testing.T) (name string) {
	t.Helper()
	b.eventually(t, "the group has a coordinator", func() bool {
		answer, err := b.client.Cluster().ListGroups(t.Context(), &cohortv1.ListGroupsRequest{})
		if err == nil && len(answer.Groups) > 0 {
			name = answer.Groups[0].Coordinator
		}
		return name != ""
	})
	return name
}
