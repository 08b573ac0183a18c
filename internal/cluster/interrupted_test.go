package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/internal/cluster"
	"github.com/cohort-tx/cohort/participant"
)

const (
	// interruptedGroups are restored at the same time, so that one kill meets
	// restores at many of their steps.
	interruptedGroups = 6
	// interruptedWithin bounds the wait until a group commits again: a new
	// coordinator leaves a sealed group to its restore for 15 s.
	interruptedWithin = 40 * time.Second
	// interruptedSpread is how long before the kill the first restore begins.
	interruptedSpread = 300 * time.Millisecond
)

// marks holds a key for each transaction, so that one that is lost is seen.
var markedSides = []string{"left", "right", "marks"}

// interrupted is one group that is restored in place while a node dies.
type interrupted struct {
	name   string
	bench  *bench
	target uint64
	want   balances

	mu sync.Mutex
	// acknowledged transactions, by incarnation.
	acknowledged map[uint64]map[string]uint64
	moved        int
	result       *pb.RestoreResult
	err          error
}

// Would break: a restore that dies half way and leaves a group that commits
// nothing or cannot be restored any more, one that is neither what it was nor what was asked for, or one of which
// the way back has lost what was acknowledged.
func TestRestoreInPlaceInterrupted(t *testing.T) {
	seeds := []uint64{2}
	if os.Getenv("COHORT_FAULT_SECONDS") != "" {
		seeds = []uint64{1, 2, 3, 4, 5, 6, 7, 8}
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { interrupt(t, rand.New(rand.NewPCG(seed, 0))) })
	}
}

func interrupt(t *testing.T, random *rand.Rand) {
	var files []string
	for n := range interruptedGroups {
		files = append(files, fmt.Sprintf("group: g%d\nparticipants: [{name: left}, {name: right}, {name: marks}]\ncheckpoint: {interval: 1h, min_gap: 1ms}\nretention: {checkpoints: 100}\n", n))
	}
	b := startBench(t, cluster.Options{Nodes: 3, RTT: 20 * time.Millisecond}, strings.Join(files, "---\n"))
	o := dialOperators(t, b.cluster.Members())
	var groups []*interrupted
	for n := range interruptedGroups {
		groups = append(groups, &interrupted{name: fmt.Sprintf("g%d", n), bench: b, acknowledged: map[uint64]map[string]uint64{}})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	for _, g := range groups {
		g.prepare(ctx, t, o, random)
	}
	moving, stop := context.WithCancel(ctx)
	var movers, restores sync.WaitGroup
	defer movers.Wait()
	defer stop()
	for _, g := range groups {
		movers.Go(func() {
			for moving.Err() == nil {
				g.move(moving)
			}
		})
	}
	members := b.names()
	victim := b.coordinator(t)
	for n, g := range groups {
		contact := members[random.IntN(len(members))]
		if n%2 == 0 {
			contact = victim // it runs the request, or passes it on
		}
		after := time.Duration(random.Int64N(int64(interruptedSpread)))
		restores.Go(func() {
			time.Sleep(after) // the moment of the kill in the restore is what is varied
			g.result, g.err = g.restore(ctx, o[contact])
		})
	}
	time.Sleep(interruptedSpread)
	want(t, nil, b.cluster.Kill(victim))
	killed := time.Now()
	b.start(t, victim)
	restores.Wait()
	for _, g := range groups {
		g.commitsAgain(ctx, t, killed)
	}
	stop()
	movers.Wait()
	for _, g := range groups {
		g.check(ctx, t, o)
	}
	for _, g := range groups {
		g.restoresAgain(ctx, t, o, killed)
	}
}

// prepare makes a past to go back to.
func (g *interrupted) prepare(ctx context.Context, t *testing.T, o operators, random *rand.Rand) {
	t.Helper()
	for range 20 {
		want(t, nil, g.move(ctx))
	}
	base, err := o.create(ctx, g.name, "")
	want(t, nil, err)
	for range 20 {
		want(t, nil, g.move(ctx))
	}
	past, err := replay(ctx, g.bench.client, g.name, 0, balances{})
	want(t, nil, err)
	g.target = base.Position + random.Uint64N(past.last()-base.Position+1)
	g.want = past.at(g.target)
}

// move runs one transaction, and notes it when it is acknowledged.
func (g *interrupted) move(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	g.mu.Lock()
	g.moved++
	id, on := fmt.Sprintf("move-%d", g.moved), account(g.moved%vaultAccounts)
	g.mu.Unlock()
	receipt, err := g.bench.group(g.name).Run(ctx, func(tx *participant.Tx) error {
		return errors.Join(tx.Store("left").Add(on, -1),
			tx.Store("right").Add(on, 1), tx.Store("marks").Add(id, 1))
	})
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.acknowledged[receipt.Incarnation] == nil {
		g.acknowledged[receipt.Incarnation] = map[string]uint64{}
	}
	g.acknowledged[receipt.Incarnation][id] = receipt.Position
	return nil
}

func (g *interrupted) restore(ctx context.Context, c pb.CheckpointsClient) (*pb.RestoreResult, error) {
	stream, err := c.Restore(ctx, &pb.RestoreRequest{Group: g.name, To: &pb.RestoreRequest_Position{Position: g.target}, InPlace: true})
	if err != nil {
		return nil, err
	}
	return lastResult(stream)
}

func (g *interrupted) commitsAgain(ctx context.Context, t *testing.T, killed time.Time) {
	t.Helper()
	for {
		err := g.move(ctx)
		if err == nil {
			t.Logf("%s committed again within %s", g.name, time.Since(killed))
			return
		}
		if took := time.Since(killed); took > interruptedWithin {
			t.Fatalf("%s commits nothing %s after the kill: %v; its restore: %v, %v", g.name, took, err, g.result, g.err)
		}
	}
}

// restoresAgain wants nothing of the first restore in the way of another one.
func (g *interrupted) restoresAgain(ctx context.Context, t *testing.T, o operators, killed time.Time) {
	t.Helper()
	for {
		result, err := ask(ctx, o, func(ctx context.Context, _ string, c pb.CheckpointsClient) (*pb.RestoreResult, error) {
			stream, err := c.Restore(ctx, &pb.RestoreRequest{Group: g.name, To: &pb.RestoreRequest_Position{Position: g.target}, InPlace: true})
			if err != nil {
				return nil, err
			}
			return lastResult(stream)
		})
		if err == nil {
			t.Logf("%s was restored again %s after the kill, in incarnation %d", g.name, time.Since(killed), result.Incarnation)
			return
		}
		if took := time.Since(killed); took > interruptedWithin {
			t.Fatalf("%s cannot be restored %s after the kill: %v", g.name, took, err)
		}
		time.Sleep(100 * time.Millisecond) // between looks at a condition
	}
}

// check wants the group to be what it was, or what was asked for.
func (g *interrupted) check(ctx context.Context, t *testing.T, o operators) {
	t.Helper()
	position, now, err := live(ctx, g.bench.client, g.name, markedSides...)
	want(t, nil, err)
	receipt, err := g.bench.group(g.name).Run(ctx, func(tx *participant.Tx) error { return tx.Store("left").Add(account(0), 0) })
	want(t, nil, err)
	if receipt.Incarnation == 2 {
		defer func() { g.target = receipt.Position }() // its log begins after what it was restored to
	}
	t.Logf("%s: incarnation %d at position %d after a restore to %d that said %v", g.name, receipt.Incarnation, receipt.Position, g.target, g.err)
	if g.result != nil && receipt.Incarnation != 2 {
		t.Errorf("%s: the restore was acknowledged, and the group is in incarnation %d", g.name, receipt.Incarnation)
	}
	// What the incarnation began with, and every entry since.
	from, begin := uint64(0), balances{}
	if receipt.Incarnation == 2 {
		from, begin = g.target, g.want
	}
	past, err := replay(ctx, g.bench.client, g.name, from, begin)
	want(t, nil, err)
	if diff := now.differs(past.at(position)); diff != "" {
		t.Errorf("%s, incarnation %d: %s as its log says from position %d on", g.name, receipt.Incarnation, diff, from)
	}
	g.has(t, "the group", receipt.Incarnation, now)
	checkEqualReplicas(ctx, t, g.bench.client, g.name, g.bench.cluster.Members())
	if receipt.Incarnation == 1 {
		if len(g.acknowledged[2]) > 0 {
			t.Errorf("%s: %d transactions were acknowledged in an incarnation that is not", g.name, len(g.acknowledged[2]))
		}
		return
	}
	all, err := o.list(ctx, g.name)
	want(t, nil, err)
	at := slices.IndexFunc(all, func(c *pb.CheckpointInfo) bool {
		return c.Trigger == "restore" && c.Incarnation == 1 && c.State == "complete"
	})
	if at < 0 {
		t.Fatalf("%s has no checkpoint to come back to: %v", g.name, all)
	}
	held, err := ask(ctx, o, func(ctx context.Context, _ string, c pb.CheckpointsClient) (balances, error) {
		_, held, err := export(ctx, t, c, g.name, all[at].Id)
		return held, err
	})
	want(t, nil, err)
	g.has(t, "the checkpoint to come back to", 1, held)
}

// has wants every transaction that an incarnation has acknowledged.
func (g *interrupted) has(t *testing.T, what string, incarnation uint64, held balances) {
	t.Helper()
	for id, position := range g.acknowledged[incarnation] {
		if held["marks/"+id] != 1 {
			t.Errorf("%s: %s lacks %s, acknowledged at position %d of incarnation %d", g.name, what, id, position, incarnation)
		}
	}
}
