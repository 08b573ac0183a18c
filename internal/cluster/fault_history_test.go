//go:build unix

package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/internal/cluster"
	strict "github.com/cohort-tx/cohort/internal/history"
	"github.com/cohort-tx/cohort/participant"
)

const (
	// historySeconds is how long faults go on by default; COHORT_FAULT_SECONDS says
	// otherwise.
	historySeconds = 4
	historyClients = 16
	// historyObjects are the lists, and the registers, of each participant at a time:
	// few, so that transactions meet.
	historyObjects = 2
	// historyPerObject is after how many writes an object is given up for a new one:
	// lists that grow for ever would be all that is moved.
	historyPerObject = 60
	// historyEnough is how many transactions must have committed, of those with
	// writes and of those without.
	historyEnough = 200
)

// recorder runs transactions on lists and registers of several participants, and
// keeps what its clients saw.
type recorder struct {
	t       *testing.T
	cluster *cluster.Processes
	group   string
	// clients and readers know one node each at first. Clients soon ask the leader's;
	// readers are only used for snapshots, which every node gives, and stay.
	clients, readers []*participant.Client
	begun            time.Time
	// stale makes read-only transactions ask for any state.
	stale bool

	value  atomic.Int64
	writes [2 * historyObjects]atomic.Int64 // of an object, at all participants

	committed, viewed atomic.Int64

	mu      sync.Mutex
	history []strict.Transaction
}

// Would break: a reader that sees half of a transaction or an old state, an update
// that is lost or done twice, an acknowledged one that a kill takes back, an
// aborted one that is seen, or a leader that was paused, woke up, and answers as if
// it were still one.
func TestFaultHistoriesAreStrictlySerializable(t *testing.T) {
	r := openRecorder(t)
	duration := historySeconds * time.Second
	if os.Getenv("COHORT_FAULT_SECONDS") != "" {
		duration = faultTime(t)
	}
	faults, cancel := context.WithTimeout(t.Context(), duration+faultsMore)
	defer cancel()
	var clients sync.WaitGroup
	for n := range historyClients {
		clients.Go(func() { r.client(faults, n) })
	}
	kills, pauses := r.torment(faults, time.Now().Add(duration))
	r.untilEnough(faults)
	cancel()
	clients.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	want(t, nil, r.cluster.WaitReady(ctx))
	r.readAll(ctx)
	report := r.check()
	t.Logf("%d kills and %d pauses; %d transactions, of which %d committed, %d of them only read and %d without an answer",
		kills, pauses, report.Transactions, report.Committed, r.viewed.Load(), report.Inferred)
	if kills == 0 || pauses == 0 || !r.enough() {
		t.Error("too little happened for the test to show anything")
	}
	if !report.Valid() {
		r.fail(report)
	}
	checkEqualReplicas(ctx, t, r.clients[0], r.group, r.cluster.Members())
	t.Run("stale reads are noticed", func(t *testing.T) { r.noticeStaleReads(t) })
}

// noticeStaleReads shows that the check of such runs can fail: stale reads are
// allowed to be behind, and that must be found, under its name.
func (r *recorder) noticeStaleReads(t *testing.T) {
	r = &recorder{t: t, cluster: r.cluster, clients: r.clients, readers: r.readers, group: "stale", stale: true, begun: time.Now()}
	r.apply(t.Context())
	deadline := time.Now().Add(time.Minute)
	for {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		var clients sync.WaitGroup
		for n := range historyClients {
			clients.Go(func() { r.client(ctx, n) })
		}
		clients.Wait()
		cancel()
		report := r.check()
		if classes := report.Classes(); len(classes) > 1 || len(classes) == 1 && classes[0] != strict.RealTime {
			r.fail(report)
			return
		} else if len(classes) == 1 {
			t.Logf("%s", report.Anomalies[0])
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("no stale read was found: %s", report)
		}
	}
}

func openRecorder(t *testing.T) *recorder {
	t.Helper()
	c, err := cluster.StartProcesses(cluster.Options{Dir: t.TempDir(), Nodes: 3, RTT: 50 * time.Millisecond}, []string{buildCommand(t), "serve"}, nil)
	want(t, nil, err)
	t.Cleanup(func() { want(t, nil, c.Close(context.Background())) })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	want(t, nil, c.WaitReady(ctx))
	r := &recorder{t: t, cluster: c, group: "objects", begun: time.Now()}
	for _, m := range c.Members() {
		client, err := participant.Dial(m.Addr)
		want(t, nil, err)
		t.Cleanup(func() { client.Close() })
		r.clients = append(r.clients, client)
		reader, err := participant.Dial(m.Addr)
		want(t, nil, err)
		t.Cleanup(func() { reader.Close() })
		r.readers = append(r.readers, reader)
	}
	r.apply(ctx)
	return r
}

func (r *recorder) apply(ctx context.Context) {
	r.t.Helper()
	answer, err := r.clients[0].Cluster().Apply(ctx, &pb.ApplyRequest{Files: []*pb.ApplyFile{{Name: "group.yaml",
		Yaml: []byte("group: " + r.group + "\nparticipants: [{name: a}, {name: b}, {name: c}]\n")}}})
	if err != nil || len(answer.Errors) > 0 {
		r.t.Fatal(err, answer)
	}
	want(r.t, nil, cluster.WaitGroups(ctx, r.cluster.Members()[0].Addr))
}

// client runs one transaction after the other until ctx ends.
func (r *recorder) client(ctx context.Context, n int) {
	writer, reader := r.clients[n%len(r.clients)].Group(r.group), r.readers[n%len(r.readers)].Group(r.group)
	for i := 0; ctx.Err() == nil; i++ {
		t := strict.Transaction{Client: n, ID: fmt.Sprintf("c%d-%d", n, i)}
		// Some clients give up before a new leader is there, so that they do not learn
		// the outcome, and some wait for it.
		own, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Duration(100+rand.IntN(4000))*time.Millisecond)
		if rand.IntN(3) == 0 {
			r.view(own, reader, t)
		} else {
			r.run(own, writer, t)
		}
		cancel()
	}
}

// object is one list or register.
type object struct {
	participant, key string
	list             bool
}

func (o object) String() string { return o.participant + "/" + o.key }

// objectAfter is the nth object of a participant after so many writes to it.
func objectAfter(participant string, n int, writes int64) object {
	life := writes / (historyPerObject * int64(len(faultParticipants)))
	if n < historyObjects {
		return object{participant, fmt.Sprintf("list-%d-%d", n, life), true}
	}
	return object{participant, fmt.Sprintf("register-%d-%d", n, life), false}
}

// object chooses one of those that are in use.
func (r *recorder) object(write bool) object {
	n := rand.IntN(len(r.writes))
	writes := r.writes[n].Load()
	if write {
		writes = r.writes[n].Add(1) - 1
	}
	return objectAfter(faultParticipants[rand.IntN(len(faultParticipants))], n, writes)
}

// run is a transaction with writes: lists are read and written back with one value
// more, registers are written blindly or after they were read.
func (r *recorder) run(ctx context.Context, group *participant.Group, t strict.Transaction) {
	type operation struct {
		object
		read, write bool
	}
	program := make([]operation, 1+rand.IntN(4))
	for i := range program {
		write := i == 0 || rand.IntN(2) == 0
		o := r.object(write)
		program[i] = operation{object: o, read: o.list || !write || rand.IntN(2) == 0, write: write}
	}
	var opts []participant.TxOption
	if rand.IntN(2) == 0 {
		opts = append(opts, participant.ID(t.ID))
	}
	attempts, staged := 0, false
	t.Invoked = time.Since(r.begun)
	_, err := group.Run(ctx, func(tx *participant.Tx) error {
		if attempts++; attempts > 1 {
			// The attempt before has lost, for certain: each has values of its own, and
			// none of these may ever be seen.
			r.note(t, strict.Aborted)
		}
		t.Ops, staged = nil, false
		for _, o := range program {
			if err := r.operate(&t, o.object, tx.Store(o.participant), o.read, o.write); err != nil {
				return err
			}
		}
		staged = true
		return nil
	}, opts...)
	var abort *participant.AbortError
	switch {
	case err == nil:
		r.committed.Add(1)
		r.note(t, strict.OK)
	case errors.As(err, &abort) || !staged:
		r.note(t, strict.Aborted) // or nobody was asked to commit it
	default:
		r.note(t, strict.Indeterminate)
	}
}

// reader is a participant's store, in a transaction of either kind.
type reader interface {
	Get(key string, into any) (found bool, err error)
}

// operate reads or writes one object, or both, and adds that to t.
func (r *recorder) operate(t *strict.Transaction, o object, store reader, read, write bool) error {
	var values []int64
	var value int64
	if read {
		op := strict.Op{Kind: strict.Read, Key: o.String()}
		if o.list {
			op.Kind = strict.List
			if _, err := store.Get(o.key, &values); err != nil {
				return err
			}
			op.Values = values
		} else {
			found, err := store.Get(o.key, &value)
			if err != nil {
				return err
			}
			op.Value, op.Absent = value, !found
		}
		t.Ops = append(t.Ops, op)
	}
	if !write {
		return nil
	}
	value = r.value.Add(1)
	op, staged := strict.Op{Kind: strict.Write, Key: o.String(), Value: value}, any(value)
	if o.list {
		op.Kind, staged = strict.Append, append(values[:len(values):len(values)], value)
	}
	t.Ops = append(t.Ops, op)
	return store.(participant.Store).Put(o.key, staged)
}

// view is a transaction without writes.
func (r *recorder) view(ctx context.Context, group *participant.Group, t strict.Transaction) {
	objects := make([]object, 1+rand.IntN(4))
	for i := range objects {
		objects[i] = r.object(false)
	}
	r.viewObjects(ctx, group, t, objects)
}

func (r *recorder) viewObjects(ctx context.Context, group *participant.Group, t strict.Transaction, objects []object) error {
	var opts []participant.TxOption
	if r.stale {
		opts = append(opts, participant.Stale())
	}
	t.Invoked = time.Since(r.begun)
	err := group.View(ctx, func(tx *participant.ReadTx) error {
		t.Ops = nil
		for _, o := range objects {
			if err := r.operate(&t, o, tx.Store(o.participant), true, false); err != nil {
				return err
			}
		}
		return nil
	}, opts...)
	if err == nil {
		r.viewed.Add(1)
		r.note(t, strict.OK)
	}
	return err
}

func (r *recorder) note(t strict.Transaction, outcome strict.Outcome) {
	t.Outcome, t.Returned = outcome, time.Since(r.begun)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.history = append(r.history, t)
}

// readAll reads every object that there ever was, from each node: what was
// acknowledged must still be there.
func (r *recorder) readAll(ctx context.Context) {
	var objects []object
	for n := range r.writes {
		for _, p := range faultParticipants {
			for writes := range r.writes[n].Load() + 1 {
				if o := objectAfter(p, n, writes); len(objects) == 0 || objects[len(objects)-1] != o {
					objects = append(objects, o)
				}
			}
		}
	}
	for n, client := range r.readers {
		t := strict.Transaction{Client: historyClients + n, ID: "last"}
		if err := r.viewObjects(ctx, client.Group(r.group), t, objects); err != nil {
			r.t.Errorf("reading all at the end through node %d: %v", n+1, err)
		}
	}
}

func (r *recorder) check() *strict.Report {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	report, err := strict.Check(r.history)
	if err != nil {
		r.t.Fatal(err)
	}
	return report
}

// fail keeps the history.
func (r *recorder) fail(report *strict.Report) {
	r.t.Helper()
	f, err := os.CreateTemp("", "cohort-history-*.jsonl")
	want(r.t, nil, err)
	defer f.Close()
	want(r.t, nil, strict.Encode(f, r.history))
	r.t.Errorf("the history is kept in %s\n%s", f.Name(), report)
}

func (r *recorder) enough() bool {
	return r.committed.Load() >= historyEnough && r.viewed.Load() >= historyEnough
}

// untilEnough waits for what a busy machine had no time for between faults.
func (r *recorder) untilEnough(ctx context.Context) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !r.enough() {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// torment kills nodes and pauses them until a time has come. In the end all nodes
// run.
func (r *recorder) torment(ctx context.Context, until time.Time) (kills, pauses int) {
	wait := func(low, high time.Duration) {
		select {
		case <-ctx.Done():
		case <-time.After(low + rand.N(high-low)):
		}
	}
	for turn := 0; ctx.Err() == nil; turn++ {
		wait(200*time.Millisecond, time.Second)
		if time.Now().After(until) && kills > 0 && pauses > 0 {
			return kills, pauses
		}
		victims := r.victims(ctx, turn)
		if turn%2 == 1 {
			// Long enough for another leader.
			r.signal(victims, syscall.SIGSTOP)
			pauses++
			wait(500*time.Millisecond, 2*time.Second)
			r.signal(victims, syscall.SIGCONT)
			continue
		}
		for _, name := range victims {
			if err := r.cluster.Kill(name); err != nil {
				r.t.Error(err)
				return kills, pauses
			}
		}
		kills++
		wait(0, time.Second)
		for _, name := range victims {
			if err := r.cluster.Start(name); err != nil {
				r.t.Error(err)
				return kills, pauses
			}
		}
	}
	return kills, pauses
}

// victims are mostly the leader, sometimes any node, and rarely all.
func (r *recorder) victims(ctx context.Context, turn int) (names []string) {
	switch turn % 8 {
	case 5, 6:
		return []string{r.cluster.Members()[rand.IntN(3)].Name}
	case 4:
		for _, m := range r.cluster.Members() {
			names = append(names, m.Name)
		}
		return names
	}
	for _, client := range r.clients {
		own, cancel := context.WithTimeout(ctx, time.Second)
		answer, err := client.Cluster().ListGroups(own, &pb.ListGroupsRequest{Name: r.group})
		cancel()
		if err == nil && len(answer.Groups) == 1 && answer.Groups[0].Coordinator != "" {
			return []string{answer.Groups[0].Coordinator}
		}
	}
	return []string{r.cluster.Members()[rand.IntN(3)].Name}
}

func (r *recorder) signal(names []string, signal syscall.Signal) {
	for _, name := range names {
		if pid := r.cluster.PID(name); pid != 0 {
			if err := syscall.Kill(pid, signal); err != nil {
				r.t.Errorf("signal %v to node %s: %v", signal, name, err)
			}
		}
	}
}
