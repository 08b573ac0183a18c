// Package participanttest runs a Cohort cluster inside a test, for applications
// and workflows that use package participant:
//
//	func TestCheckout(t *testing.T) {
//		c := participanttest.Start(t, "group: checkout\nparticipants: [{name: orders}, {name: stock}]\n")
//		_, err := c.Client.Group("checkout").Run(t.Context(), func(tx *participant.Tx) error {
//			return tx.Store("orders").Put("o-1", "new")
//		})
//		…
//	}
//
// The cluster is real: Raft, stores and logs on a temporary directory, an API on
// a loopback port. It is gone when the test ends. Importing this package pulls in
// the whole server, so import it from tests only.
package participanttest

import (
	"context"
	"os"
	"testing"
	"time"

	cohortv1 "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/internal/cluster"
	"github.com/cohort-tx/cohort/participant"
)

const (
	// readyTimeout bounds Start: it takes half a second, more on a machine that is
	// busy with other tests.
	readyTimeout = 60 * time.Second
	// closeTimeout bounds the end of a cluster.
	closeTimeout = 20 * time.Second
	// rttOne and rttMany are Raft's round trips. One node has nobody to hear from,
	// so a short one only makes its first election fast; several must not miss
	// heartbeats on a busy machine.
	rttOne  = 10 * time.Millisecond
	rttMany = 40 * time.Millisecond
)

// Cluster is a running cluster and a client of it.
type Cluster struct {
	// Addr is what participant.Dial and App.Serve take: the nodes' addresses,
	// separated by commas.
	Addr string
	// Client is connected to it, and closed when the test ends.
	Client *participant.Client

	embedded *cluster.Embedded
}

// Start runs a cluster of one node and declares groups, each given as the YAML
// of a group file. Everything is ready when it returns, and gone when the test
// ends. What goes wrong fails the test.
func Start(t testing.TB, groupYAML ...string) *Cluster {
	t.Helper()
	return StartNodes(t, 1, groupYAML...)
}

// StartNodes is Start with several nodes, three to see elections.
func StartNodes(t testing.TB, nodes int, groupYAML ...string) *Cluster {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), readyTimeout)
	defer cancel()
	// t.TempDir would fail the test for a file that goes away while it cleans up.
	dir, err := os.MkdirTemp("", "cohort-test-")
	if err != nil {
		t.Fatalf("participanttest: %v", err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("participanttest: %v", err)
		}
	})
	rtt := rttOne
	if nodes > 1 {
		rtt = rttMany
	}
	embedded, err := cluster.StartEmbedded(ctx, cluster.Options{Dir: dir, Nodes: nodes, RTT: rtt}, "participanttest", nil)
	if err != nil {
		t.Fatalf("participanttest: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		if err := embedded.Close(ctx); err != nil {
			t.Errorf("participanttest: end the cluster: %v", err)
		}
	})
	if err := embedded.WaitReady(ctx); err != nil {
		t.Fatalf("participanttest: %v", err)
	}
	client, err := participant.Dial(embedded.Addrs())
	if err != nil {
		t.Fatalf("participanttest: %v", err)
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Errorf("participanttest: close the client: %v", err)
		}
	})
	c := &Cluster{Addr: embedded.Addrs(), Client: client, embedded: embedded}
	c.Apply(t, groupYAML...)
	return c
}

// Apply declares groups, or changes them, and waits until they have coordinators.
func (c *Cluster) Apply(t testing.TB, groupYAML ...string) {
	t.Helper()
	if len(groupYAML) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), readyTimeout)
	defer cancel()
	request := &cohortv1.ApplyRequest{}
	for _, text := range groupYAML {
		request.Files = append(request.Files, &cohortv1.ApplyFile{Name: "group.yaml", Yaml: []byte(text)})
	}
	answer, err := c.Client.Cluster().Apply(ctx, request)
	if err != nil {
		t.Fatalf("participanttest: apply: %v", err)
	}
	for _, fault := range answer.Errors {
		t.Errorf("participanttest: %s:%d:%d: %s", fault.File, fault.Line, fault.Column, fault.Message)
	}
	if len(answer.Errors) > 0 {
		t.FailNow()
	}
	if err := cluster.WaitGroups(ctx, c.embedded.Members()[0].Addr); err != nil {
		t.Fatalf("participanttest: %v", err)
	}
}

// Nodes names the nodes: n1, n2, …
func (c *Cluster) Nodes() []string {
	names := make([]string, 0, len(c.embedded.Members()))
	for _, m := range c.embedded.Members() {
		names = append(names, m.Name)
	}
	return names
}

// Kill ends a node at once, as a crash would. With three nodes the others go on.
func (c *Cluster) Kill(t testing.TB, node string) {
	t.Helper()
	if err := c.embedded.Kill(node); err != nil {
		t.Fatalf("participanttest: %v", err)
	}
}

// Restart starts a node again that was killed, with the data that it had.
func (c *Cluster) Restart(t testing.TB, node string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), readyTimeout)
	defer cancel()
	if err := c.embedded.Start(ctx, node); err != nil {
		t.Fatalf("participanttest: %v", err)
	}
	if err := c.embedded.WaitReady(ctx); err != nil {
		t.Fatalf("participanttest: %v", err)
	}
}
