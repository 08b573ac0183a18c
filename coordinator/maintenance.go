package coordinator

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/cohort-tx/cohort/coordinator/protocol"
	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/machine"
)

// maintainEvery is how often outcomes and dropped data are looked at. The window
// of exactly-once is hours, so seconds do not matter.
const maintainEvery = 15 * time.Second

// maintain moves the outcome horizon and purges dropped participants' data, each
// in small commands between which transactions pass.
func (c *Coordinator) maintain(ctx context.Context, g *reign) {
	every := c.params.MaintainEvery
	if every == 0 {
		every = maintainEvery
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-c.purge:
		}
		if err := c.settleRestore(ctx, g); err != nil && ctx.Err() == nil {
			g.log.Warn("looking after a restore", zap.Error(err))
		}
		for {
			cmd, err := c.chore()
			if err != nil {
				g.log.Warn("looking for maintenance", zap.Error(err))
				break
			}
			if cmd == nil {
				break
			}
			ans, err := g.ask(ctx, func(request uint64) protocol.Event {
				return &protocol.Administer{Request: request, Command: cmd}
			})
			if done, ok := ans.(*protocol.Done); err != nil || !ok || done.Result.Status != command.StatusDone {
				break // tried again at the next turn
			}
		}
	}
}

// chore gives the next command that maintenance needs, nil when none.
func (c *Coordinator) chore() (command.Command, error) {
	snap, err := c.params.Replica.Snapshot()
	if err != nil {
		return nil, err
	}
	defer snap.Close()
	config, err := snap.Config()
	if err != nil {
		return nil, err
	}
	if len(config.Dropped) > 0 {
		return &command.Purge{}, nil
	}
	def := c.definition.Load()
	if cmd, err := retention(snap, def.Retention.Checkpoints); cmd != nil || err != nil {
		return cmd, err
	}
	outcomes := def.Outcomes
	to, ok, err := machine.HorizonTarget(snap.Reader(), time.Now().UnixNano(), outcomes.Age, outcomes.Count)
	if err != nil || !ok {
		return nil, err
	}
	return &command.MoveHorizon{To: to}, nil
}
