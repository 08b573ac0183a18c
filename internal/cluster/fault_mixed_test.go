package cluster_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/internal/cluster"
	"github.com/cohort-tx/cohort/internal/pgtest"
	"github.com/cohort-tx/cohort/participant"
)

const (
	mixedGroup = `group: %s
participants: [{name: store}, {name: memory}, {name: postgres}]
checkpoint: {interval: 2s, log_bytes: 0, log_entries: 0, min_gap: 100ms, max_wait: 5s, max_pause: 1s}
failover: {mode: auto, fail_after: 1s, grace: 500ms}
limits: {timeout: 5s}
`
	mixedTotal   = 3 * mixedAccounts * mixedOpening
	mixedClients = 6
	// doubtBound is how long a prepared transaction may stay in doubt once nothing
	// fails any more: asking after 5 s, settling, and a resolver's turn.
	doubtBound = 20 * time.Second
)

// Would break: a change that is made twice or not at all at an application that
// was killed, a vote that is forgotten or never settled, a lock that nobody
// releases, a checkpoint whose states are of different positions.
func TestFaultMixedParticipants(t *testing.T) {
	m := openMixed(t)
	faults, cancel := context.WithTimeout(t.Context(), faultTime(t)+faultsMore)
	defer cancel()
	var clients sync.WaitGroup
	for range mixedClients {
		clients.Go(func() { m.client(faults) })
	}
	m.database(faults, faultTime(t), cancel)
	clients.Wait()
	for _, a := range m.apps {
		a.settle()
	}
	after, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	m.total(after, "mixed")
	m.undoubted(after)
	t.Logf("%d transfers, %d aborted; killed at %v and %v", m.moved.Load(), m.aborted.Load(), m.apps[0].crashes, m.apps[1].crashes)
	m.restored(after)
}

type mixed struct {
	t         *testing.T
	cluster   *cluster.Processes
	clientOf  *participant.Client
	operators operators
	postgres  *pgtest.Server
	dsn       string
	apps      []*supervised

	moved, aborted atomic.Int64
}

func openMixed(t *testing.T) *mixed {
	t.Helper()
	server := pgtest.Start(t, "max_prepared_transactions = 64", "fsync = on")
	c, err := cluster.StartProcesses(cluster.Options{Dir: t.TempDir(), Nodes: 3}, []string{buildCommand(t), "serve"}, nil)
	want(t, nil, err)
	t.Cleanup(func() { want(t, nil, c.Close(context.Background())) })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	want(t, nil, c.WaitReady(ctx))
	client, err := participant.Dial(c.Addrs())
	want(t, nil, err)
	t.Cleanup(func() { client.Close() })
	m := &mixed{t: t, cluster: c, clientOf: client, operators: dialOperators(t, c.Members()), postgres: server}
	m.apply(ctx, "mixed")
	_, err = client.Group("mixed").Run(ctx, func(tx *participant.Tx) error {
		for n := range mixedAccounts {
			if err := tx.Store("store").Put(account(n), mixedOpening); err != nil {
				return err
			}
		}
		return nil
	})
	want(t, nil, err)
	m.dsn = m.newDatabase(true)
	m.apps = m.start("mixed", m.dsn, false)
	return m
}

func (m *mixed) apply(ctx context.Context, group string) {
	m.t.Helper()
	answer, err := m.clientOf.Cluster().Apply(ctx, &pb.ApplyRequest{Files: []*pb.ApplyFile{{Name: "group.yaml", Yaml: fmt.Appendf(nil, mixedGroup, group)}}})
	if err != nil || len(answer.Errors) > 0 {
		m.t.Fatal(err, answer)
	}
}

// newDatabase makes the table that the application's migrations would, and its
// first rows where they are wanted.
func (m *mixed) newDatabase(rows bool) string {
	m.t.Helper()
	schema := mixedSchema
	if rows {
		for n := range mixedAccounts {
			schema += fmt.Sprintf("; insert into account values ('%s', %d)", account(n), mixedOpening)
		}
	}
	return m.postgres.Database(m.t, schema)
}

func (m *mixed) start(group, dsn string, calm bool) []*supervised {
	env := []string{appAddrs + "=" + m.cluster.Addrs(), appGroup + "=" + group, appDatabase + "=" + dsn}
	apps := []*supervised{supervise("memory", calm, env...), supervise("postgres", calm, env...)}
	m.t.Cleanup(func() {
		for _, a := range apps {
			a.stop()
			if m.t.Failed() {
				m.t.Logf("%s of group %s said:\n%s", a.kind, group, a.said.String())
			}
		}
	})
	return apps
}

// client moves money between two of the three, or, now and then, looks at all.
func (m *mixed) client(ctx context.Context) {
	for ctx.Err() == nil {
		own, cancel := context.WithTimeout(ctx, 10*time.Second)
		perm := rand.Perm(3)
		cents := int64(1 + rand.IntN(20))
		from, to := account(rand.IntN(mixedAccounts)), account(rand.IntN(mixedAccounts))
		_, err := m.clientOf.Group("mixed").Run(own, func(tx *participant.Tx) error {
			if err := moveAt(tx, perm[0], from, -cents); err != nil {
				return err
			}
			return moveAt(tx, perm[1], to, cents)
		})
		cancel()
		if err == nil {
			m.moved.Add(1)
		} else {
			m.aborted.Add(1)
		}
	}
}

func moveAt(tx *participant.Tx, kind int, account string, cents int64) error {
	if kind == 0 {
		return tx.Store("store").Add(account, cents, participant.AtLeast(0))
	}
	return tx.Call([]string{"", "memory", "postgres"}[kind], "move", moveRequest{Account: account, Cents: cents}, nil)
}

// database kills PostgreSQL now and then, and ends the faults when enough has
// happened.
func (m *mixed) database(ctx context.Context, least time.Duration, end context.CancelFunc) {
	began := time.Now()
	for n := 0; ctx.Err() == nil; n++ {
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(2000+rand.IntN(2000)) * time.Millisecond):
		}
		m.postgres.KillAndRestart(m.t)
		if time.Since(began) > least && m.moved.Load() >= 100 && m.crashed() >= 6 {
			end()
		}
	}
	if m.moved.Load() < 100 || m.crashed() < 6 {
		m.t.Errorf("too little happened for the test to show anything: %d transfers, %d crashes", m.moved.Load(), m.crashed())
	}
}

func (m *mixed) crashed() (n int) {
	for _, a := range m.apps {
		a.mu.Lock()
		for _, times := range a.crashes {
			n += times
		}
		a.mu.Unlock()
	}
	return n
}

// total asks all three in one transaction.
func (m *mixed) total(ctx context.Context, group string) {
	m.t.Helper()
	var sum int64
	_, err := m.clientOf.Group(group).Run(ctx, func(tx *participant.Tx) error {
		sum = 0
		for n := range mixedAccounts {
			var cents int64
			if _, err := tx.Store("store").Get(account(n), &cents); err != nil {
				return err
			}
			sum += cents
		}
		for _, p := range []string{"memory", "postgres"} {
			var there moveAnswer
			if err := tx.Call(p, "move", moveRequest{Total: true}, &there); err != nil {
				return err
			}
			sum += there.Cents
		}
		return nil
	}, participant.MaxAttempts(1000))
	if err != nil {
		m.t.Fatalf("group %s: asking for the total: %v", group, err)
	}
	if sum != mixedTotal {
		m.t.Errorf("group %s holds %d, want %d", group, sum, mixedTotal)
	}
}

// undoubted waits until PostgreSQL holds no prepared transaction.
func (m *mixed) undoubted(ctx context.Context) {
	m.t.Helper()
	conn, err := pgx.Connect(ctx, m.dsn)
	want(m.t, nil, err)
	defer conn.Close(context.Background())
	deadline := time.Now().Add(doubtBound)
	for {
		var left int
		want(m.t, nil, conn.QueryRow(ctx, `select count(*) from pg_prepared_xacts`).Scan(&left))
		if left == 0 {
			return
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("%d transactions are in doubt %s after the last fault", left, doubtBound)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// restored makes new groups of the newest checkpoint and of the present position,
// with an empty database and new instances each.
func (m *mixed) restored(ctx context.Context) {
	m.t.Helper()
	created, err := m.operators.create(ctx, "mixed", "")
	want(m.t, nil, err)
	if created.State != "complete" {
		m.t.Fatalf("the checkpoint after the faults is %s: %s", created.State, created.Reason)
	}
	later, err := m.clientOf.Group("mixed").Run(ctx, func(tx *participant.Tx) error {
		for kind, cents := range []int64{-2, 1, 1} {
			if err := moveAt(tx, kind, account(kind), cents); err != nil {
				return err
			}
		}
		return nil
	}, participant.MaxAttempts(1000))
	want(m.t, nil, err)
	for as, to := range map[string]*pb.RestoreRequest{
		"at-checkpoint": {To: &pb.RestoreRequest_Checkpoint{Checkpoint: created.Id}},
		"at-position":   {To: &pb.RestoreRequest_Position{Position: later.Position}},
	} {
		to.Group, to.As = "mixed", as
		_, err := m.operators.restore(ctx, to)
		want(m.t, nil, err)
		m.start(as, m.newDatabase(false), true)
		m.total(ctx, as)
	}
}
