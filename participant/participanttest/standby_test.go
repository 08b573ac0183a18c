package participanttest_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	cohortv1 "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/participant"
	"github.com/cohort-tx/cohort/participant/participanttest"
)

// heldCounters applies nothing while it is held.
type heldCounters struct {
	*counters
	hold chan struct{} // takes a token to hold, gives it back to let on
}

func newHeldCounters(t *testing.T) *heldCounters {
	return &heldCounters{counters: newCounters("", false)(t).(*counters), hold: make(chan struct{}, 1)}
}

func (h *heldCounters) Apply(ctx context.Context, e participant.Entry) error {
	select {
	case h.hold <- struct{}{}:
		defer func() { <-h.hold }()
	case <-ctx.Done():
		return ctx.Err()
	}
	return h.counters.Apply(ctx, e)
}

// countsInfo waits until what the cluster says of the participant is as wanted.
func countsInfo(t *testing.T, c *participanttest.Cluster, what string, wanted func(*cohortv1.ParticipantInfo) bool) *cohortv1.ParticipantInfo {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		answer, err := c.Client.Cluster().ListParticipants(t.Context(), &cohortv1.ListParticipantsRequest{Group: "checkout"})
		var last *cohortv1.ParticipantInfo
		if err == nil {
			for _, p := range answer.Participants {
				if p.Name == "counts" {
					last = p
				}
			}
		}
		if last != nil && wanted(last) {
			return last
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not so: %v, %v", what, last, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func addCounts(t *testing.T, group *participant.Group, name string) {
	t.Helper()
	_, err := group.Run(t.Context(), func(tx *participant.Tx) error {
		var after int
		if err := tx.Call("counts", "add", name, &after); err != nil {
			return err
		}
		return tx.Store("orders").Add(name, 1)
	}, participant.MaxAttempts(1000))
	if err != nil {
		t.Fatal(err)
	}
}

// Would break: a standby that is not warm, that serves beside the active one, or
// that has not all that was acknowledged when it takes over.
func TestStandbyIsWarmAndTakesOver(t *testing.T) {
	c := participanttest.Start(t, ownCheckout)
	group := c.Client.Group("checkout")
	first, second := newHeldCounters(t), newHeldCounters(t)
	stop := serveApp(t, countsApp(first.counters, first), c.Addr)
	countsInfo(t, c, "the first instance is active", func(p *cohortv1.ParticipantInfo) bool { return p.State == "active" })
	serveApp(t, countsApp(second.counters, second), c.Addr)
	const adds = 20
	for range adds {
		addCounts(t, group, "c0")
	}
	warm := countsInfo(t, c, "the standby has caught up", func(p *cohortv1.ParticipantInfo) bool {
		return len(p.Standbys) == 1 && p.Standbys[0].OwnState && p.Standbys[0].Lag == 0 && p.Standbys[0].Phase == "following"
	})
	second.mu.Lock()
	held := second.image.Counters["c0"]
	second.mu.Unlock()
	if held != adds {
		t.Errorf("the standby holds %d of %d", held, adds)
	}
	// What the standby has not applied yet when the active one goes, it applies
	// before the first step.
	second.hold <- struct{}{}
	for range 5 {
		addCounts(t, group, "c0")
	}
	stop()
	<-second.hold
	var n int
	if _, err := group.Run(t.Context(), func(tx *participant.Tx) error { return tx.Call("counts", "get", "c0", &n) }, participant.MaxAttempts(1000)); err != nil || n != adds+5 {
		t.Errorf("after the takeover there are %d, want %d: %v", n, adds+5, err)
	}
	after := countsInfo(t, c, "the second is active", func(p *cohortv1.ParticipantInfo) bool { return p.State == "active" })
	if after.Instance != warm.Standbys[0].Instance || after.Epoch <= warm.Epoch {
		t.Errorf("active is %s under epoch %d, before it was %s under %d, with the standby %s", after.Instance, after.Epoch, warm.Instance, warm.Epoch, warm.Standbys[0].Instance)
	}
}

// Would break: an instance whose slowness holds up what does not need it, or is
// not seen.
func TestSlowInstanceHoldsUpNobody(t *testing.T) {
	c := participanttest.Start(t, ownCheckout)
	group := c.Client.Group("checkout")
	slow := newHeldCounters(t)
	serveApp(t, countsApp(slow.counters, slow), c.Addr)
	addCounts(t, group, "c0")
	// The next step's snapshot has the first: it is applied before the holding.
	countsInfo(t, c, "the first is applied", func(p *cohortv1.ParticipantInfo) bool { return p.Position > 0 && p.Lag == 0 })
	slow.hold <- struct{}{}
	addCounts(t, group, "c0") // committed, and not applied
	const others = 200
	for i := range others {
		if _, err := group.Run(t.Context(), func(tx *participant.Tx) error { return tx.Store("orders").Put(fmt.Sprint("o", i), i) }); err != nil {
			t.Fatal(err)
		}
	}
	var orders int
	err := group.View(t.Context(), func(tx *participant.ReadTx) error {
		orders = 0
		for _, err := range tx.Store("orders").Scan("o") {
			if err != nil {
				return err
			}
			orders++
		}
		return nil
	})
	if err != nil || orders != others {
		t.Errorf("%d orders are read, want %d: %v", orders, others, err)
	}
	countsInfo(t, c, "the lag is seen", func(p *cohortv1.ParticipantInfo) bool { return p.Lag >= others })
	<-slow.hold
	countsInfo(t, c, "the lag is made up", func(p *cohortv1.ParticipantInfo) bool { return p.Lag == 0 })
}
