package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/internal/cluster"
	"github.com/cohort-tx/cohort/participant"
)

const (
	keptClients = 4 // of each group
	// ballastBytes of each transfer fill segments of the log, so that it is cut.
	ballastBytes = 16 << 10
	// keptPatience bounds the wait for what must come after the faults.
	keptPatience = 2 * time.Minute
	// faultsMore is how much longer faults go on at most until enough has happened.
	faultsMore = 4 * time.Minute

	keptArchived = `group: archived
participants: [{name: left}, {name: right}, {name: ballast}]
checkpoint: {interval: 1s, log_bytes: 0, log_entries: 60, min_gap: 50ms, max_wait: 5s, max_pause: 1s}
retention: {checkpoints: 2, log: archive, archive_dir: archive}
`
	keptDeleted = `group: deleted
participants: [{name: left}, {name: right}, {name: ballast}]
checkpoint: {interval: 1s, log_bytes: 0, log_entries: 60, min_gap: 50ms, max_wait: 5s, max_pause: 1s}
retention: {checkpoints: 2, log: delete}
`
)

// kept is banks of which checkpoints are taken all the time while nodes die.
type kept struct {
	t         *testing.T
	cluster   *cluster.Processes
	client    *participant.Client
	operators operators

	moved, taken, refused, audited, kills atomic.Int64
}

// Would break: a checkpoint that a kill has torn and that counts all the same,
// one that is being written for ever, log that is dropped and still needed, or a
// restore that is another state than the group had.
func TestFaultCheckpointsWhileNodesAreKilled(t *testing.T) {
	k := openKept(t)
	faults, cancel := context.WithTimeout(t.Context(), faultTime(t)+faultsMore)
	defer cancel()
	ctx, stop := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	defer clients.Wait()
	enough := time.AfterFunc(faultTime(t), func() { k.untilEnough(faults, cancel) })
	defer enough.Stop()
	defer stop()
	for _, group := range []string{"archived", "deleted"} {
		for range keptClients {
			clients.Go(func() { k.move(ctx, group) })
		}
		clients.Go(func() { k.request(faults, group) })
		clients.Go(func() { k.audit(faults, group) })
	}
	k.kill(faults)
	after, cancel := context.WithTimeout(t.Context(), 6*time.Minute)
	defer cancel()
	want(t, nil, k.cluster.WaitReady(after))
	for _, group := range []string{"archived", "deleted"} {
		k.settle(after, group)
	}
	stop()
	clients.Wait()
	t.Logf("%d kills, %d transfers, %d checkpoints, %d requests without an answer, %d audits",
		k.kills.Load(), k.moved.Load(), k.taken.Load(), k.refused.Load(), k.audited.Load())
	if !k.enough() {
		t.Error("too little happened for the test to show anything")
	}
	for _, group := range []string{"archived", "deleted"} {
		k.check(after, group)
		k.next(after, group)
	}
}

// enough happened for the test to show something.
func (k *kept) enough() bool {
	return k.kills.Load() >= allVictims && k.moved.Load() >= 100 && k.taken.Load() >= 4 && k.audited.Load() > 0
}

// untilEnough ends the faults as soon as they have met enough: on a busy machine
// a checkpoint may take longer than a node lives.
func (k *kept) untilEnough(faults context.Context, end context.CancelFunc) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !k.enough() {
		select {
		case <-faults.Done():
			return
		case <-tick.C:
		}
	}
	end()
}

// faultTime is how long faults go on at least.
func faultTime(t *testing.T) time.Duration {
	t.Helper()
	s := os.Getenv("COHORT_FAULT_SECONDS")
	if s == "" {
		return faultSeconds * time.Second
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatalf("COHORT_FAULT_SECONDS: %v", err)
	}
	return time.Duration(n) * time.Second
}

func openKept(t *testing.T) *kept {
	t.Helper()
	c, err := cluster.StartProcesses(cluster.Options{Dir: t.TempDir(), Nodes: 3, RTT: 50 * time.Millisecond}, []string{buildCommand(t), "serve"}, nil)
	want(t, nil, err)
	t.Cleanup(func() { want(t, nil, c.Close(context.Background())) })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	want(t, nil, c.WaitReady(ctx))
	client, err := participant.Dial(c.Addrs())
	want(t, nil, err)
	t.Cleanup(func() { client.Close() })
	k := &kept{t: t, cluster: c, client: client, operators: dialOperators(t, c.Members())}
	for _, file := range []string{keptArchived, keptDeleted} {
		k.apply(ctx, file)
	}
	for _, group := range []string{"archived", "deleted"} {
		_, err := client.Group(group).Run(ctx, func(tx *participant.Tx) error {
			for _, side := range vaultSides {
				for n := range vaultAccounts {
					if err := tx.Store(side).Put(account(n), vaultOpening); err != nil {
						return err
					}
				}
			}
			return nil
		})
		want(t, nil, err)
	}
	return k
}

// apply declares a group, or changes it. Where the coordinator changes meanwhile
// the answer is not known; asking again does no harm.
func (k *kept) apply(ctx context.Context, file string) {
	k.t.Helper()
	k.eventually("apply", func() string {
		answer, err := k.client.Cluster().Apply(ctx, &pb.ApplyRequest{Files: []*pb.ApplyFile{{Name: "group.yaml", Yaml: []byte(file)}}})
		switch {
		case err != nil:
			return err.Error()
		case len(answer.Errors) > 0:
			return fmt.Sprint(answer.Errors)
		}
		return ""
	})
}

// move is one client. What becomes of a transfer whose node dies does not matter:
// it is whole or not there.
func (k *kept) move(ctx context.Context, group string) {
	heavy := make([]byte, ballastBytes)
	for ctx.Err() == nil {
		perm := rand.Perm(2)
		amount := 1 + rand.Int64N(50)
		source, target := account(rand.IntN(vaultAccounts)), account(rand.IntN(vaultAccounts))
		_, err := k.client.Group(group).Run(ctx, func(tx *participant.Tx) error {
			return errors.Join(tx.Store(vaultSides[perm[0]]).Add(source, -amount, participant.AtLeast(0)),
				tx.Store(vaultSides[perm[1]]).Add(target, amount), tx.Store(ballast).Put(source, heavy))
		})
		if err == nil {
			k.moved.Add(1)
		}
	}
}

// request asks for one checkpoint after the other.
func (k *kept) request(ctx context.Context, group string) {
	for ctx.Err() == nil {
		own, cancel := context.WithTimeout(ctx, 5*time.Second)
		info, err := k.operators.create(own, group, "")
		cancel()
		switch {
		case err != nil:
			k.refused.Add(1)
		case info.State == "complete":
			k.taken.Add(1)
		}
	}
}

// audit looks at what is listed as complete: while nodes die a copy may be out of
// reach, and retention may have dropped it meanwhile, but what can be read is
// whole and exact.
func (k *kept) audit(ctx context.Context, group string) {
	for ctx.Err() == nil {
		all, err := k.operators.list(ctx, group)
		if err != nil {
			continue
		}
		for _, c := range all {
			if c.State != "complete" || ctx.Err() != nil {
				continue
			}
			for _, operator := range k.operators {
				if m, held, err := export(ctx, k.t, operator, group, c.Id); err == nil {
					k.exact(group, c, m.Position, held)
					k.audited.Add(1)
				}
				if result, err := verify(ctx, operator, group, c.Id); err == nil {
					k.undamaged(group, result)
				}
				break // one of them, another each time
			}
		}
	}
}

func (k *kept) exact(group string, c *pb.CheckpointInfo, position uint64, held balances) {
	k.t.Helper()
	if position == 0 && c.Position == 0 {
		return // before the accounts were opened
	}
	if held.total() != vaultTotal || position != c.Position || len(held) != 2*vaultAccounts {
		k.t.Errorf("group %s, checkpoint %d at position %d: its files hold %d in %d accounts at position %d",
			group, c.Id, c.Position, held.total(), len(held), position)
	}
}

// undamaged wants no file to be wrong; a node that was not there, or a copy that
// was dropped, is none.
func (k *kept) undamaged(group string, result *pb.VerifyResult) {
	k.t.Helper()
	for _, c := range result.Copies {
		if c.File != "" || c.Section != "" {
			k.t.Errorf("group %s, checkpoint %d on %s: %s %s: %s", group, c.Id, c.Node, c.File, c.Section, c.Reason)
		}
	}
}

func verify(ctx context.Context, c pb.CheckpointsClient, group string, id uint64) (*pb.VerifyResult, error) {
	stream, err := c.VerifyCheckpoint(ctx, &pb.VerifyCheckpointRequest{Group: group, Id: id})
	if err != nil {
		return nil, err
	}
	for {
		p, err := stream.Recv()
		if err != nil {
			return nil, err
		}
		if p.Result != nil {
			return p.Result, nil
		}
	}
}

// kill kills the leader, a follower or all nodes at random moments, and starts
// them again. In the end all run.
func (k *kept) kill(ctx context.Context) {
	wait := func(d time.Duration) {
		select {
		case <-ctx.Done():
		case <-time.After(d):
		}
	}
	taken := k.taken.Load()
	for wait(time.Second); ctx.Err() == nil; wait(time.Duration(1500+rand.IntN(2500)) * time.Millisecond) {
		if k.kills.Load()%allVictims == 2 {
			// On a busy machine a checkpoint may take longer than a node lives.
			for k.taken.Load() == taken && ctx.Err() == nil {
				wait(50 * time.Millisecond)
			}
			taken = k.taken.Load()
		}
		victims := k.victims(ctx, int(k.kills.Load()))
		for _, name := range victims {
			if err := k.cluster.Kill(name); err != nil {
				k.t.Error(err)
				return
			}
		}
		k.kills.Add(1)
		wait(time.Duration(rand.IntN(1500)) * time.Millisecond)
		for _, name := range victims {
			if err := k.cluster.Start(name); err != nil {
				k.t.Error(err)
				return
			}
		}
	}
}

// allVictims is how many kills it takes for each kind of them to have been one.
const allVictims = 3

// victims are in turn a leader, all, and some node.
func (k *kept) victims(ctx context.Context, turn int) []string {
	var all []string
	for _, m := range k.cluster.Members() {
		all = append(all, m.Name)
	}
	switch turn % allVictims {
	case 0:
		answer, err := k.client.Cluster().ListGroups(ctx, &pb.ListGroupsRequest{Name: "archived"})
		if err == nil && len(answer.Groups) == 1 && answer.Groups[0].Coordinator != "" {
			return []string{answer.Groups[0].Coordinator}
		}
	case 1:
		return all
	}
	return []string{all[rand.IntN(len(all))]}
}

// settle lets no other checkpoint follow, and waits for those under way. Money
// still moves, so that there is log after the last one.
func (k *kept) settle(ctx context.Context, group string) {
	k.t.Helper()
	file := map[string]string{"archived": keptArchived, "deleted": keptDeleted}[group]
	k.apply(ctx, strings.Replace(file, "interval: 1s, log_bytes: 0, log_entries: 60", "interval: 1h, log_bytes: 0, log_entries: 0", 1))
	k.eventually(group+": two complete checkpoints with all copies, and none that is being written", func() string {
		all, err := k.operators.list(ctx, group)
		if err != nil {
			return err.Error()
		}
		complete := 0
		for _, c := range all {
			if c.State == "writing" {
				return fmt.Sprintf("checkpoint %d is being written: %v", c.Id, c.Copies)
			}
			if c.State == "complete" {
				complete++
			}
			for _, copy := range c.Copies {
				if c.State == "complete" && copy.State != "written" {
					return fmt.Sprintf("checkpoint %d is %s on %s: %s", c.Id, copy.State, copy.Node, copy.Reason)
				}
			}
		}
		if complete != 2 {
			return fmt.Sprintf("%d are complete", complete)
		}
		return ""
	})
}

// next takes the checkpoint after the kills.
func (k *kept) next(ctx context.Context, group string) {
	k.t.Helper()
	begun := time.Now()
	info, err := k.operators.create(ctx, group, "")
	if err != nil || info.State != "complete" {
		k.t.Errorf("group %s: the checkpoint after the kills: %v, %v", group, info, err)
	}
	if took := time.Since(begun); took > within {
		k.t.Errorf("group %s: the checkpoint after the kills took %s", group, took)
	}
}

// eventually waits until nothing is missing any more.
func (k *kept) eventually(what string, missing func() string) {
	k.t.Helper()
	deadline := time.Now().Add(keptPatience)
	for {
		still := missing()
		if still == "" {
			return
		}
		if time.Now().After(deadline) {
			k.t.Fatalf("%s: not within %s: %s", what, keptPatience, still)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// check compares checkpoints, log, live state and restores.
func (k *kept) check(ctx context.Context, group string) {
	all, err := k.operators.list(ctx, group)
	want(k.t, nil, err)
	position, now, err := live(ctx, k.client, group, vaultSides...)
	want(k.t, nil, err)
	var past *history
	var restores []*pb.RestoreRequest
	for _, c := range all {
		if c.State != "complete" {
			continue
		}
		for node, operator := range k.operators {
			m, held, err := export(ctx, k.t, operator, group, c.Id)
			if err != nil {
				k.t.Fatalf("group %s, checkpoint %d on %s: %v", group, c.Id, node, err)
			}
			k.exact(group, c, m.Position, held)
			if past == nil {
				past, err = replay(ctx, k.client, group, c.Position, held)
				want(k.t, nil, err)
			}
			if diff := held.differs(past.at(c.Position)); diff != "" {
				k.t.Errorf("group %s, checkpoint %d on %s: %s as the log says", group, c.Id, node, diff)
			}
		}
		restores = append(restores, &pb.RestoreRequest{To: &pb.RestoreRequest_Checkpoint{Checkpoint: c.Id}})
	}
	for _, err := range k.client.Group(group).Log(ctx, 1, participant.NoWait()) {
		if !errors.Is(err, participant.ErrTruncated) {
			k.t.Errorf("group %s: the log was never cut, so that nothing is shown of that", group)
		}
		break
	}
	for _, operator := range k.operators {
		result, err := verify(ctx, operator, group, 0) // the archive too
		if err != nil || !result.Whole {
			k.t.Errorf("group %s: what is kept is not whole: %v, %v", group, result, err)
		}
		break
	}
	if past.last() == past.first {
		k.t.Errorf("group %s: nothing was committed since the oldest checkpoint, so that nothing is shown of the log", group)
	}
	if diff := now.differs(past.at(position)); diff != "" || now.total() != vaultTotal {
		k.t.Errorf("group %s holds %d; %s as the log says", group, now.total(), diff)
	}
	checkEqualReplicas(ctx, k.t, k.client, group, k.cluster.Members())
	position = past.first + rand.Uint64N(past.last()-past.first+1)
	restores = append(restores, &pb.RestoreRequest{To: &pb.RestoreRequest_Position{Position: position}})
	if group == "archived" {
		k.restoreArchived(ctx, past.first)
	}
	for n, req := range restores {
		k.restore(ctx, req, group, fmt.Sprintf("%s-%d", group, n), past)
	}
}

func (k *kept) restore(ctx context.Context, req *pb.RestoreRequest, group, as string, past *history) {
	k.t.Helper()
	req.Group, req.As = group, as
	result, err := k.operators.restore(ctx, req)
	if err != nil {
		k.t.Fatalf("restore %v: %v", req, err)
	}
	_, got, err := live(ctx, k.client, as, vaultSides...)
	want(k.t, nil, err)
	if diff := got.differs(past.at(result.Position)); diff != "" || got.total() != vaultTotal {
		k.t.Errorf("%v gave %d at position %d; %s as the log says", req, got.total(), result.Position, diff)
	}
	if p, ok := req.To.(*pb.RestoreRequest_Position); ok && p.Position != result.Position {
		k.t.Errorf("%v came to position %d", req, result.Position)
	}
}

// restoreArchived goes back to before the oldest checkpoint that is kept. The
// nodes that were down have gaps in their archives: it may be refused, but what it
// gives is exact.
func (k *kept) restoreArchived(ctx context.Context, before uint64) {
	k.t.Helper()
	position := 1 + rand.Uint64N(before)
	result, err := k.operators.restore(ctx, &pb.RestoreRequest{Group: "archived", To: &pb.RestoreRequest_Position{Position: position}, As: "long-ago"})
	if err != nil {
		k.t.Logf("position %d of 1 to %d: %v", position, before, err)
		return
	}
	_, got, err := live(ctx, k.client, "long-ago", vaultSides...)
	want(k.t, nil, err)
	if got.total() != vaultTotal || result.Position != position {
		k.t.Errorf("position %d from the archive gave %d at position %d", position, got.total(), result.Position)
	}
	k.t.Logf("position %d of 1 to %d is restored from the archive", position, before)
}
