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

// settleSeal looks after a group that was found sealed: whoever restored it is
// gone. The directory says whether the restore can still happen; cancelled there,
// it cannot, and the group goes on.
func (c *Coordinator) settleSeal(ctx context.Context, g *reign) error {
	snap, err := c.params.Replica.Snapshot()
	if err != nil {
		return err
	}
	meta, err := snap.Meta()
	snap.Close()
	if err != nil || !meta.Sealed || c.params.CancelRestore == nil {
		return err
	}
	if s := c.sealing.Load(); time.Since(g.began) < sealPatience || s != nil && s.token == meta.SealToken && time.Now().Before(s.until) {
		return nil
	}
	sealed, err := c.params.CancelRestore(ctx, meta.SealToken)
	if err != nil || !sealed {
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

// sealPatience is how long a new coordinator leaves a sealed group to whoever
// restores it.
const sealPatience = 15 * time.Second
