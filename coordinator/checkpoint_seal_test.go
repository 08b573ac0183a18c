package coordinator

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/cohort-tx/cohort/groups"
)

// fakePlan is the directory's plan of a restore in place.
type fakePlan struct{ token atomic.Value }

func (p *fakePlan) planned() string { return p.token.Load().(string) }

func (p *fakePlan) cancel(_ context.Context, token string) (bool, error) {
	return p.token.CompareAndSwap(token, ""), nil
}

// settle looks after the plan, as maintenance does.
func (p *fakePlan) settle(t *testing.T, running ...string) (left string) {
	t.Helper()
	c := newTestCoordinator(t, func(_ *groups.Definition, params *Params) {
		params.PlannedRestore, params.CancelRestore = p.planned, p.cancel
	})
	for _, token := range running {
		defer c.Restoring(token)()
	}
	if err := c.settlePlan(ctx, c.reign.Load()); err != nil {
		t.Fatal(err)
	}
	return p.planned()
}

// Would break: a restore whose process died before it sealed the group, and that
// no other one can follow.
func TestPlanWithoutARestoreIsTakenBack(t *testing.T) {
	p := &fakePlan{}
	p.token.Store("orphan")
	if left := p.settle(t, "another"); left != "" {
		t.Errorf("the plan is still %q", left)
	}
}

// Would break: a restore of much data that is taken back while it runs.
func TestPlanOfARestoreUnderWayStays(t *testing.T) {
	p := &fakePlan{}
	p.token.Store("running")
	if left := p.settle(t, "another", "running"); left != "running" {
		t.Errorf("the plan is %q while its restore runs", left)
	}
}
