package txlog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest"

	"github.com/cohort-tx/cohort/txlog/checkpoint"
	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/machine"
)

// keeping is a cluster whose replicas have keepers, and a model of what was
// committed.
type keeping struct {
	*cluster
	history history
	// policy is that of all keepers from the start.
	policy KeepPolicy

	// mu guards what keepers and the test both use.
	mu      sync.Mutex
	live    map[uint64]*Replica
	keepers map[uint64]*Keeper
	// reports counts what a node said of its copies, by the state.
	reports map[string]int
}

func newKeeping(t *testing.T, size int, policy KeepPolicy) *keeping {
	t.Helper()
	k := &keeping{
		policy: policy, history: newHistory(),
		live: map[uint64]*Replica{}, keepers: map[uint64]*Keeper{}, reports: map[string]int{},
	}
	k.cluster = newCluster(t, size, func(hc *HostConfig) {
		hc.segmentBytes, hc.keepVersions = 2<<10, time.Millisecond
	})
	for id := range k.replicas {
		k.adopt(id)
	}
	t.Cleanup(func() {
		for id := range k.replicas {
			k.unkeep(id)
		}
	})
	k.level()
	return k
}

// level brings the group to the level of checkpoints.
func (k *keeping) level() {
	k.t.Helper()
	r, epoch := k.office()
	k.propose(r, epoch, &command.FeatureLevel{Level: 2})
}

// adopt makes a replica known to the keepers, and gives it the others' states.
func (k *keeping) adopt(id uint64) {
	r := k.replicas[id]
	r.applying.Lock()
	r.config.State = k.stateFor(id)
	r.applying.Unlock()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.live[id] = r
}

// stateFor takes the state of any other replica that has it.
func (k *keeping) stateFor(id uint64) StateSource {
	return func(ctx context.Context, index uint64) (io.ReadCloser, error) {
		err := errors.New("no other replica has it")
		for other, r := range k.others(id) {
			if r.Published() < index {
				continue
			}
			f, createErr := os.CreateTemp(k.dir, "state")
			if createErr != nil {
				return nil, createErr
			}
			if err = errors.Join(os.Remove(f.Name()), r.SaveState(ctx, index, f)); err != nil {
				err = errors.Join(fmt.Errorf("replica %d: %w", other, err), f.Close())
				continue
			}
			_, err = f.Seek(0, io.SeekStart)
			return f, err
		}
		return nil, err
	}
}

func (k *keeping) others(id uint64) map[uint64]*Replica {
	k.mu.Lock()
	defer k.mu.Unlock()
	all := map[uint64]*Replica{}
	for n, r := range k.live {
		if n != id {
			all[n] = r
		}
	}
	return all
}

func nodeName(id uint64) string { return fmt.Sprintf("n%d", id) }

// checkpointsDir of a node.
func (k *keeping) checkpointsDir(id uint64) string {
	return filepath.Join(k.dir, fmt.Sprint(id), "checkpoints")
}

func (k *keeping) copyDir(id, number uint64) string {
	return filepath.Join(k.checkpointsDir(id), checkpoint.DirName(number))
}

// keep starts the keepers of nodes.
func (k *keeping) keep(ids ...uint64) {
	k.t.Helper()
	for _, id := range ids {
		keeper, err := StartKeeper(KeeperConfig{
			Replica: k.replicas[id], Node: nodeName(id), Dir: k.checkpointsDir(id),
			Policy: func([]byte) (KeepPolicy, error) { return k.policy, nil },
			Report: k.report,
			Fetch:  func(_ context.Context, number uint64) (io.ReadCloser, error) { return k.fetch(id, number) },
			FetchState: func(_ context.Context, s *machine.Capture, offset uint64) (io.ReadCloser, error) {
				return k.fetchState(id, s, offset)
			},
			ReportState: k.reportState,
			Adopt:       StatesOf(k.replicas[id].dir),
			Logger:      zaptest.NewLogger(k.t, zaptest.Level(zapcore.FatalLevel)),
		})
		if err != nil {
			k.t.Fatal(err)
		}
		k.mu.Lock()
		k.keepers[id] = keeper
		k.mu.Unlock()
	}
}

// unkeep ends the keeper of a node, if it has one.
func (k *keeping) unkeep(id uint64) {
	k.mu.Lock()
	keeper := k.keepers[id]
	delete(k.keepers, id)
	k.mu.Unlock()
	if keeper != nil {
		keeper.Close()
	}
}

// down stops a node; up starts it again, without its keeper.
func (k *keeping) down(id uint64) {
	k.unkeep(id)
	k.mu.Lock()
	delete(k.live, id)
	k.mu.Unlock()
	k.stop(id)
}

func (k *keeping) up(id uint64) {
	k.t.Helper()
	k.start(id, nil, false)
	k.adopt(id)
}

// report proposes what a keeper says, at the leader.
func (k *keeping) report(ctx context.Context, report Report) error {
	if len(report.Copies) == 0 {
		return nil
	}
	for _, r := range k.others(0) {
		l := r.Leadership()
		if !l.Self {
			continue
		}
		batch := &command.Batch{Epoch: l.Term, TimeUnixNano: time.Now().UnixNano(), Commands: []command.Command{&command.RaiseEpoch{Node: nodeName(r.ReplicaID())}}}
		for i := range report.Copies {
			batch.Commands = append(batch.Commands, &report.Copies[i])
		}
		p, err := r.Propose(batch, 5*time.Second)
		if err != nil {
			return err
		}
		select {
		case <-p.Done():
		case <-ctx.Done():
			return ctx.Err()
		}
		_, _, err = p.Result()
		if err == nil {
			k.mu.Lock()
			for _, c := range report.Copies {
				k.reports[fmt.Sprintf("%s %d %s rebuilt=%v", c.Node, c.Number, c.State, c.Rebuilt)]++
			}
			k.mu.Unlock()
		}
		return err
	}
	return errors.New("no leader")
}

func (k *keeping) reported(node, number uint64, state command.CopyState, rebuilt bool) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.reports[fmt.Sprintf("%s %d %s rebuilt=%v", nodeName(node), number, state, rebuilt)]
}

// fetch streams the copy of another node.
func (k *keeping) fetch(id, number uint64) (io.ReadCloser, error) {
	k.mu.Lock()
	var others []*Keeper
	for n, keeper := range k.keepers {
		if n != id {
			others = append(others, keeper)
		}
	}
	k.mu.Unlock()
	err := error(ErrNoCopy)
	for _, keeper := range others {
		r, release, openErr := keeper.Open(number)
		if openErr != nil {
			err = openErr
			continue
		}
		in, out := io.Pipe()
		go func() {
			defer release()
			_ = out.CloseWithError(checkpoint.WriteExport(out, r))
		}()
		return in, nil
	}
	return nil, err
}

// propose sends commands that must be done, whatever the leader is.
func (k *keeping) propose(r *Replica, epoch uint64, commands ...command.Command) []command.Result {
	k.t.Helper()
	for {
		results, _, err := propose(r, &command.Batch{Epoch: epoch, Commands: commands})
		if errors.Is(err, ErrDropped) || errors.Is(err, ErrUnknown) || errors.Is(err, ErrNotReady) {
			r, epoch = k.office()
			continue
		}
		if err != nil {
			k.t.Fatal(err)
		}
		return results
	}
}

func (k *keeping) do(commands ...command.Command) []command.Result {
	k.t.Helper()
	r, epoch := k.office()
	results := k.propose(r, epoch, commands...)
	for i, res := range results {
		if res.Status == command.StatusRefused {
			k.t.Fatalf("%T: %+v", commands[i], res)
		}
	}
	return results
}

// cut records a checkpoint, of all participants unless some are given, and gives
// its number.
func (k *keeping) cut(only ...string) uint64 {
	k.t.Helper()
	k.ids++
	c := &command.Checkpoint{CheckpointRequest: command.CheckpointRequest{
		Token: fmt.Sprintf("c%d", k.ids), Trigger: command.TriggerOperator, TimeUnixNano: time.Now().UnixNano(), Participants: only,
	}}
	for id := range k.addrs {
		c.Members = append(c.Members, nodeName(id))
	}
	return k.do(c)[0].Number
}

// record is what a replica knows of a checkpoint.
func (k *keeping) record(r *Replica, number uint64) machine.Checkpoint {
	k.t.Helper()
	snap, err := r.snapshot(0)
	if err != nil {
		k.t.Fatal(err)
	}
	defer snap.Close()
	c, _, err := machine.ReadCheckpoint(snap.Reader(), number)
	if err != nil {
		k.t.Fatal(err)
	}
	return c
}

// complete waits until a checkpoint is complete, with an equal copy of each node
// recorded, and gives its record.
func (k *keeping) complete(number uint64, nodes ...uint64) machine.Checkpoint {
	k.t.Helper()
	var c machine.Checkpoint
	k.eventually(fmt.Sprintf("checkpoint %d complete on %v", number, nodes), func() bool {
		_, l := k.leader()
		for _, r := range k.replicas {
			if r.Leadership() == l && l.Self {
				c = k.record(r, number)
			}
		}
		if c.State != machine.CheckpointComplete {
			return false
		}
		for _, id := range nodes {
			p := findCopy(&c, nodeName(id))
			if p == nil || p.State != command.CopyWritten || p.Digest != c.Digest {
				return false
			}
		}
		return true
	})
	return c
}

// transact commits the history's next transactions, in one entry.
func (k *keeping) transact(n int) {
	k.t.Helper()
	r, epoch := k.office()
	var commands []command.Command
	for range n {
		commands = append(commands, k.history.next(r.Published()))
	}
	for i, res := range k.propose(r, epoch, commands...) {
		switch res.Status {
		case command.StatusCommitted:
			k.history.commit(res.Receipt, commands[i].(*command.Decide))
		case command.StatusAborted:
		default:
			k.t.Fatalf("%+v", res)
		}
	}
}

// contents are what a state must hold: per participant and key value and version,
// and per committed id its position.
type contents struct {
	data     map[string]string
	outcomes map[string]uint64
}

// difference tells of one thing that differs, "" when nothing does.
func (c contents) difference(got contents) string {
	for key, want := range c.data {
		if got.data[key] != want {
			return fmt.Sprintf("%s is %q, not %q", key, got.data[key], want)
		}
	}
	for key, v := range got.data {
		if _, ok := c.data[key]; !ok {
			return fmt.Sprintf("%s is %q, and should not be there", key, v)
		}
	}
	for id, want := range c.outcomes {
		if got.outcomes[id] != want {
			return fmt.Sprintf("%s committed at %d, not at %d", id, got.outcomes[id], want)
		}
	}
	if len(got.outcomes) != len(c.outcomes) {
		return fmt.Sprintf("%d ids have committed, not %d", len(got.outcomes), len(c.outcomes))
	}
	return ""
}

func dataKey(participant, key string) string { return participant + "/" + key }

func dataValue(value []byte, version uint64) string { return fmt.Sprintf("%s@%d", value, version) }

// contentsOf reads a state.
func contentsOf(t testing.TB, r machine.Reader) contents {
	t.Helper()
	c := contents{data: map[string]string{}, outcomes: map[string]uint64{}}
	cfg, err := machine.ReadConfig(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range cfg.Participants {
		_, _, err := machine.ScanValues(r, cfg, p.Name, "", "", 1<<20, func(key string, value []byte, version uint64) (bool, error) {
			c.data[dataKey(p.Name, key)] = dataValue(value, version)
			return true, nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	err = machine.ScanSection(r, cfg, "outcomes", func(id, _ []byte) (bool, error) {
		o, _, err := machine.ReadOutcome(r, string(id))
		if err == nil && o.Committed {
			c.outcomes[o.ID] = o.Receipt.Position
		}
		return true, err
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// contentsOfFiles reads a checkpoint's data; of the ids it only knows how many
// there are.
func contentsOfFiles(t testing.TB, dir string) map[string]string {
	t.Helper()
	r, err := checkpoint.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	data := map[string]string{}
	for _, name := range []string{"a", "b"} {
		s, err := r.Section("participant/" + name)
		if err != nil {
			t.Fatal(err)
		}
		for {
			key, value, err := s.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			var version uint64
			for _, b := range value[:8] {
				version = version<<8 | uint64(b)
			}
			data[dataKey(name, string(key))] = dataValue(value[8:], version)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return data
}

// agree waits until all replicas have equal states, records included.
func (k *keeping) agree() {
	k.t.Helper()
	k.eventually("equal states", func() bool {
		sums := map[[32]byte]bool{}
		for _, r := range k.replicas {
			snap, err := r.Snapshot(0)
			if err != nil {
				k.t.Fatal(err)
			}
			sum, _, err := snap.Digest()
			snap.Close()
			if err != nil {
				k.t.Fatal(err)
			}
			sums[sum] = true
		}
		return len(sums) == 1
	})
}

// exactFiles checks that a node's copy of a checkpoint is the model's state at
// the cut.
func (k *keeping) exactFiles(id uint64, c *machine.Checkpoint) {
	k.t.Helper()
	got := k.history.at(c.Position)
	got.data = contentsOfFiles(k.t, k.copyDir(id, c.Number))
	if d := k.history.at(c.Position).difference(got); d != "" {
		k.t.Fatalf("checkpoint %d of node %d, cut at position %d: %s", c.Number, id, c.Position, d)
	}
}

// adding commits transactions beside the test until stop is called.
func (k *keeping) adding() (stop func()) {
	r, epoch := k.office()
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-quit:
				return
			default:
			}
			d := k.history.next(r.Published())
			results, _, err := propose(r, &command.Batch{Epoch: epoch, Commands: []command.Command{d}})
			if err != nil {
				k.t.Errorf("commit beside the test: %v", err)
				return
			}
			if results[0].Status == command.StatusCommitted {
				k.history.commit(results[0].Receipt, d)
			}
		}
	}()
	return sync.OnceFunc(func() { close(quit); <-done })
}

// Would break: copies that are of different moments, or of none, because
// transactions commit while they are written.
func TestCheckpointUnderLoadIsTheCut(t *testing.T) {
	k := newKeeping(t, 3, KeepPolicy{})
	k.keep(1, 2, 3)
	for range 10 {
		k.transact(20)
	}
	stop := k.adding()
	defer stop()
	var cuts []machine.Checkpoint
	for range 3 {
		cuts = append(cuts, k.complete(k.cut(), 1, 2, 3))
	}
	stop()
	for i := range cuts {
		if i > 0 && cuts[i].Position <= cuts[i-1].Position {
			t.Errorf("nothing was committed between two cuts, at %d and %d: the test shows nothing", cuts[i-1].Position, cuts[i].Position)
		}
		for id := range k.replicas {
			k.exactFiles(id, &cuts[i])
		}
	}
	for _, keeper := range k.keepers {
		if err := keeper.Problem(); err != nil {
			t.Error(err)
		}
	}
}
