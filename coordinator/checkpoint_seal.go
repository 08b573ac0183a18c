package coordinator

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/cohort-tx/cohort/coordinator/protocol"
	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/machine"
)

// sealWait bounds the wait for the checkpoint to come back to: its cut is
// instant, and its files take as long as there is data.
const sealWait = 10 * time.Minute

// Seal ends the incarnation with a checkpoint to come back to: from its cut on
// nothing commits, and what arrives waits at the gate. It returns when the
// checkpoint is complete. On an error the group may be sealed all the same, until
// Unseal.
func (c *Coordinator) Seal(ctx context.Context, token string) (machine.Checkpoint, error) {
	g := c.reign.Load()
	if g == nil {
		return machine.Checkpoint{}, ErrNotServing
	}
	ctx, cancel := context.WithTimeout(ctx, sealWait)
	defer cancel()
	c.sealing.Store(&sealing{token: token, until: time.Now().Add(sealWait + sealPatience)})
	s, err := c.schedule()
	if err != nil {
		return machine.Checkpoint{}, err
	}
	take := &protocol.TakeCheckpoint{
		Wish: command.CheckpointRequest{Token: "seal-" + token, Trigger: command.TriggerRestore, By: c.params.NodeName, TimeUnixNano: time.Now().UnixNano()},
		Seal: true, SealToken: token,
	}
	for {
		ans, err := c.takeCheckpoint(ctx, g, take)
		if err != nil {
			return machine.Checkpoint{}, err
		}
		switch a := ans.(type) {
		case *protocol.CheckpointAbandoned:
			return machine.Checkpoint{}, &Invalid{Field: "group", Detail: "the checkpoint to come back to could not be taken: " + a.Detail}
		case *protocol.Busy:
			if !sleep(ctx, awaitEvery) {
				return machine.Checkpoint{}, ctx.Err()
			}
			continue
		}
		break
	}
	done, err := c.awaitCheckpoint(ctx, g, CheckpointRequest{Token: take.Wish.Token, Wait: true}, max(s.NextNumber, 1))
	if err != nil {
		return done, err
	}
	if done.State != machine.CheckpointComplete {
		return done, &Invalid{Field: "group", Detail: "the checkpoint to come back to is " + done.State.String()}
	}
	return done, nil
}

// Unseal lets the group go on after a Seal for the token; nothing happens when it
// is not sealed for it.
func (c *Coordinator) Unseal(ctx context.Context, token string) error {
	c.sealing.Store(nil)
	g := c.reign.Load()
	if g == nil {
		return ErrNotServing
	}
	if _, err := g.administer(ctx, &command.Unseal{Token: token}); err != nil {
		var no *Invalid
		if !errors.As(err, &no) {
			return err
		}
	}
	return g.inLoop(ctx, func() { g.step(protocol.Unsealed{}) })
}

// Restoring tells that a restore in place runs on this node, from before the
// directory has its plan until done: it is not taken back here meanwhile.
func (c *Coordinator) Restoring(token string) (done func()) {
	c.restoring.Store(token, nil)
	return func() { c.restoring.Delete(token) }
}

// settleRestore looks after a restore in place whose process is gone, or could
// not take back what it had planned. The directory says whether it can still
// happen; cancelled there, it cannot. A group that is not sealed yet goes on
// meanwhile, but no other restore could begin.
func (c *Coordinator) settleRestore(ctx context.Context, g *reign) error {
	if c.params.CancelRestore == nil || time.Since(g.began) < sealPatience {
		return nil
	}
	if err := c.settlePlan(ctx, g); err != nil {
		return err
	}
	return c.settleSeal(ctx, g)
}

// settlePlan takes back what is planned, and neither runs here nor has sealed
// the group. It may run on a node that coordinated the group before: that one
// cannot seal it any more.
func (c *Coordinator) settlePlan(ctx context.Context, g *reign) error {
	if c.params.PlannedRestore == nil {
		return nil
	}
	token := c.params.PlannedRestore()
	if token == "" {
		return nil
	}
	if _, here := c.restoring.Load(token); here {
		return nil
	}
	meta, err := c.meta()
	if err != nil || meta.Sealed {
		return err
	}
	cancelled, err := c.params.CancelRestore(ctx, token)
	if cancelled {
		g.log.Warn("a restore was given up before it had begun", zap.String("token", token))
	}
	return err
}

func (c *Coordinator) meta() (machine.Meta, error) {
	snap, err := c.params.Replica.Snapshot()
	if err != nil {
		return machine.Meta{}, err
	}
	defer snap.Close()
	return snap.Meta()
}

// settleSeal lets a group go on that was found sealed.
func (c *Coordinator) settleSeal(ctx context.Context, g *reign) error {
	meta, err := c.meta()
	if err != nil || !meta.Sealed {
		return err
	}
	if s := c.sealing.Load(); s != nil && s.token == meta.SealToken && time.Now().Before(s.until) {
		return nil
	}
	cancelled, err := c.params.CancelRestore(ctx, meta.SealToken)
	if err != nil || !cancelled {
		return err
	}
	g.log.Warn("a restore was given up; the group goes on", zap.String("token", meta.SealToken))
	return c.Unseal(ctx, meta.SealToken)
}

// sealing says who looks after a seal, and how long.
type sealing struct {
	token string
	until time.Time
}

// sealPatience is how long a new coordinator leaves a group to whoever restores
// it.
const sealPatience = 15 * time.Second
