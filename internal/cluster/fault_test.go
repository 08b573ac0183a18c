package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/internal/cluster"
	"github.com/cohort-tx/cohort/participant"
)

const (
	faultClients  = 16
	faultAccounts = 6
	faultBalance  = 1000
	// faultSeconds is how long faults go on by default; COHORT_FAULT_SECONDS says
	// otherwise.
	faultSeconds = 4
)

var faultParticipants = []string{"a", "b", "c"}

// bank moves money between accounts of three participants while nodes die.
type bank struct {
	t       *testing.T
	cluster *cluster.Processes
	client  *participant.Client
	group   *participant.Group

	mu           sync.Mutex
	acknowledged map[string]participant.Receipt
	aborted      map[string]error
	unknown      []string
	views        int
}

// Without it no promise of the whole would be shown: acknowledged transactions
// survive kills of the leader, money is neither made nor lost, not even in a
// reader's eye, no id commits twice and no aborted one at all, and all replicas
// agree.
func TestFaultBankWhileLeadersAreKilled(t *testing.T) {
	duration := faultSeconds * time.Second
	if s := os.Getenv("COHORT_FAULT_SECONDS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatalf("COHORT_FAULT_SECONDS: %v", err)
		}
		duration = time.Duration(n) * time.Second
	}
	b := openBank(t)
	ctx, cancel := context.WithTimeout(t.Context(), duration)
	defer cancel()
	var clients sync.WaitGroup
	for n := range faultClients {
		clients.Go(func() { b.move(ctx, n) })
	}
	clients.Go(func() { b.audit(ctx) })
	kills := b.killLeaders(ctx)
	clients.Wait()
	b.settle()
	b.check()
	t.Logf("%d kills; %d transactions acknowledged, %d aborted, %d settled afterwards; %d audits",
		kills, len(b.acknowledged), len(b.aborted), len(b.unknown), b.views)
	if kills == 0 || len(b.acknowledged) < 100 || b.views == 0 {
		t.Error("too little happened for the test to show anything")
	}
}

// buildCommand builds the real binary.
func buildCommand(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cohort")
	out, err := exec.Command("go", "build", "-o", path, "github.com/cohort-tx/cohort/cmd/cohort").CombinedOutput()
	if err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return path
}

func openBank(t *testing.T) *bank {
	t.Helper()
	c, err := cluster.StartProcesses(cluster.Options{Dir: t.TempDir(), Nodes: 3}, []string{buildCommand(t), "serve"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := c.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	client, err := participant.Dial(c.Addrs())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	answer, err := client.Cluster().Apply(ctx, &pb.ApplyRequest{Files: []*pb.ApplyFile{{Name: "bank.yaml",
		Yaml: []byte("group: bank\nparticipants: [{name: a}, {name: b}, {name: c}]\n")}}})
	if err != nil || len(answer.Errors) > 0 {
		t.Fatal(err, answer)
	}
	b := &bank{
		t: t, cluster: c, client: client, group: client.Group("bank"),
		acknowledged: map[string]participant.Receipt{}, aborted: map[string]error{},
	}
	_, err = b.group.Run(ctx, func(tx *participant.Tx) error {
		for _, p := range faultParticipants {
			for n := range faultAccounts {
				if err := tx.Store(p).Put(account(n), faultBalance); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func account(n int) string { return fmt.Sprintf("account-%d", n) }

// move is one client: it moves money until ctx ends, by adds and by reading and
// writing in turn.
func (b *bank) move(ctx context.Context, client int) {
	for n := 0; ctx.Err() == nil; n++ {
		id := fmt.Sprintf("c%d-%d", client, n)
		perm := rand.Perm(len(faultParticipants))
		from, to := faultParticipants[perm[0]], faultParticipants[perm[1]]
		source, target := account(rand.IntN(faultAccounts)), account(rand.IntN(faultAccounts))
		amount := 1 + rand.Int64N(50)
		move := b.byAdds
		if n%2 == 1 {
			move = b.byReading
		}
		// A transaction may outlive the faults: its own time bounds it.
		own, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
		receipt, err := b.group.Run(own, func(tx *participant.Tx) error {
			return move(tx.Store(from), tx.Store(to), source, target, amount)
		}, participant.ID(id))
		cancel()
		b.note(id, receipt, err)
	}
}

func (b *bank) byAdds(from, to participant.Store, source, target string, amount int64) error {
	return errors.Join(from.Add(source, -amount, participant.AtLeast(0)), to.Add(target, amount))
}

func (b *bank) byReading(from, to participant.Store, source, target string, amount int64) error {
	var have, has int64
	if _, err := from.Get(source, &have); err != nil {
		return err
	}
	if _, err := to.Get(target, &has); err != nil {
		return err
	}
	if have < amount {
		amount = have
	}
	return errors.Join(from.Put(source, have-amount), to.Put(target, has+amount))
}

func (b *bank) note(id string, receipt participant.Receipt, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var abort *participant.AbortError
	switch {
	case err == nil:
		b.acknowledged[id] = receipt
	case errors.As(err, &abort):
		b.aborted[id] = err
	default:
		b.unknown = append(b.unknown, id)
	}
}

// audit reads all accounts again and again: every snapshot has the same total.
func (b *bank) audit(ctx context.Context) {
	for ctx.Err() == nil {
		total, err := b.total(ctx)
		if err != nil {
			continue // a node died under it, or the time is over
		}
		b.mu.Lock()
		b.views++
		b.mu.Unlock()
		if want := int64(len(faultParticipants) * faultAccounts * faultBalance); total != want {
			b.t.Errorf("a reader saw %d in all accounts, not %d", total, want)
		}
	}
}

func (b *bank) total(ctx context.Context) (total int64, err error) {
	err = b.group.View(ctx, func(tx *participant.ReadTx) error {
		total = 0
		for _, p := range faultParticipants {
			for item, err := range tx.Store(p).Scan("account-") {
				if err != nil {
					return err
				}
				var balance int64
				if err := item.Decode(&balance); err != nil {
					return err
				}
				if balance < 0 {
					b.t.Errorf("%s/%s is overdrawn: %d", p, item.Key, balance)
				}
				total += balance
			}
		}
		return nil
	})
	return total, err
}

// killLeaders kills the group's leader every few seconds, and starts its node
// again, until ctx ends. In the end all nodes run.
func (b *bank) killLeaders(ctx context.Context) (kills int) {
	wait := func(d time.Duration) {
		select {
		case <-ctx.Done():
		case <-time.After(d):
		}
	}
	for wait(1500 * time.Millisecond); ctx.Err() == nil; wait(2 * time.Second) {
		leader := b.leader(ctx)
		if leader == "" {
			continue
		}
		if err := b.cluster.Kill(leader); err != nil {
			b.t.Error(err)
			return kills
		}
		kills++
		wait(time.Duration(rand.IntN(1500)) * time.Millisecond)
		if err := b.cluster.Start(leader); err != nil {
			b.t.Error(err)
			return kills
		}
	}
	return kills
}

func (b *bank) leader(ctx context.Context) string {
	answer, err := b.client.Cluster().ListGroups(ctx, &pb.ListGroupsRequest{Name: "bank"})
	if err != nil || len(answer.Groups) != 1 {
		return ""
	}
	return answer.Groups[0].Coordinator
}

// settle ends the doubt about transactions whose outcome is not known.
func (b *bank) settle() {
	ctx, cancel := context.WithTimeout(b.t.Context(), time.Minute)
	defer cancel()
	if err := b.cluster.WaitReady(ctx); err != nil {
		b.t.Fatal(err)
	}
	for _, id := range b.unknown {
		outcome, err := b.group.Outcome(ctx, id, participant.Settle())
		switch {
		case err != nil:
			b.t.Errorf("settling %s: %v", id, err)
		case outcome.State == participant.Committed:
			b.acknowledged[id] = outcome.Receipt
		case outcome.State == participant.Aborted:
			b.aborted[id] = outcome.Abort
		default:
			b.t.Errorf("%s is %v after it was settled", id, outcome.State)
		}
	}
}

func (b *bank) check() {
	ctx, cancel := context.WithTimeout(b.t.Context(), time.Minute)
	defer cancel()
	if total, err := b.total(ctx); err != nil || total != int64(len(faultParticipants)*faultAccounts*faultBalance) {
		b.t.Errorf("%d in all accounts at the end, %v", total, err)
	}
	positions := make(map[string]uint64)
	next := uint64(1)
	for entry, err := range b.group.Log(ctx, 1, participant.NoWait()) {
		if err != nil {
			b.t.Fatal(err)
		}
		if entry.Position != next {
			b.t.Errorf("position %d after %d", entry.Position, next-1)
		}
		next = entry.Position + 1
		if before, twice := positions[entry.ID]; twice {
			b.t.Errorf("%s committed at positions %d and %d", entry.ID, before, entry.Position)
		}
		positions[entry.ID] = entry.Position
	}
	for id, receipt := range b.acknowledged {
		if positions[id] != receipt.Position {
			b.t.Errorf("%s was acknowledged at position %d and is in the log at %d", id, receipt.Position, positions[id])
		}
	}
	for id, err := range b.aborted {
		if at, in := positions[id]; in {
			b.t.Errorf("%s was aborted (%v) and is in the log at %d", id, err, at)
		}
	}
	checkEqualReplicas(ctx, b.t, b.client, "bank", b.cluster.Members())
}

// checkEqualReplicas waits until all replicas of a group have applied the same
// entry, and compares their digests.
func checkEqualReplicas(ctx context.Context, t *testing.T, client *participant.Client, group string, members []cluster.Member) {
	t.Helper()
	for {
		first, same := (*pb.DigestResponse)(nil), true
		for _, m := range members {
			answer, err := client.Cluster().Digest(ctx, &pb.DigestRequest{Group: group, Node: m.Name})
			if err != nil {
				if ctx.Err() != nil {
					t.Fatalf("digest of %s: %v", m.Name, err)
				}
				same = false
				continue
			}
			if first == nil {
				first = answer
			}
			same = same && answer.AppliedIndex == first.AppliedIndex
			if answer.AppliedIndex == first.AppliedIndex && string(answer.Digest) != string(first.Digest) {
				t.Fatalf("replicas %s and %s differ at index %d", first.Node, answer.Node, answer.AppliedIndex)
			}
		}
		if same {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatal("the replicas did not come to one index")
		case <-time.After(20 * time.Millisecond):
		}
	}
}
