package node

import (
	"context"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/groups"
)

const (
	// driveEvery is the pause between looks at members that are not as they should
	// be.
	driveEvery = 250 * time.Millisecond
	// driveTimeout bounds one look and the steps after it.
	driveTimeout = 30 * time.Second
	// lonelyFor is how long a node without a leader of the directory waits before it
	// asks the others whether it is one of them: longer than an election.
	lonelyFor = 3 * time.Second
	// sameReason is how often a reason that stays the same is logged.
	sameReason = 30 * time.Second
)

// driver makes the members of all shards what the directory wants them to be. It
// runs on every node and works on the one that leads the directory. It remembers
// nothing that matters: another one goes on from what is the case.
type driver struct {
	node   *Node
	logger *zap.Logger
	// floors are what the leaders had applied at the last look, by shard.
	floors map[uint64]uint64
	// said is what was logged last of a shard that waits, and when.
	said map[uint64]saying
	// settled is the last state that needed nothing.
	settled *groups.DirectoryState
	// lonely is since when no leader of the directory is known, or when that was
	// asked about last.
	lonely time.Time
}

type saying struct {
	text string
	at   time.Time
}

func newDriver(n *Node) *driver {
	return &driver{node: n, logger: n.logger.Named("members"), floors: map[uint64]uint64{}, said: map[uint64]saying{}}
}

// run ends with ctx.
func (d *driver) run(ctx context.Context) {
	ticker := time.NewTicker(driveEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if err := d.displaced(ctx); err != nil {
			d.node.fail(err)
			return
		}
		if !d.node.leadsDirectory() || d.isSettled() {
			clear(d.floors)
			clear(d.said)
			continue
		}
		d.look(ctx)
	}
}

// isSettled looks at each state once: there may be many groups.
func (d *driver) isSettled() bool {
	state := d.node.directory.State()
	if d.settled == state {
		return true
	}
	if !state.MembersSettled() {
		return false
	}
	d.settled = state
	return true
}

// displaced tells whether this node is none of the cluster's any more: another
// data directory has taken its place, or it has left. A node that has left hears
// nothing more of the directory, so it asks.
func (d *driver) displaced(ctx context.Context) error {
	if d.replacedIn(d.node.directory.State()) {
		// What is applied here may be of the past.
		asking, cancel := context.WithTimeout(ctx, confirmTimeout)
		defer cancel()
		if state, err := d.node.directory.Read(asking); err == nil && d.replacedIn(state) {
			return ErrReplaced
		}
	}
	_, _, known, err := d.node.host.NodeHost().GetLeaderID(groups.DirectoryShard)
	if err == nil && known || ctx.Err() != nil {
		d.lonely = time.Time{}
		return nil
	}
	if d.lonely.IsZero() {
		d.lonely = time.Now()
	}
	if time.Since(d.lonely) < lonelyFor {
		return nil
	}
	d.lonely = time.Now()
	if d.node.wasRemoved(ctx) {
		return fmt.Errorf("%w; its data directory %s may be deleted", ErrRemoved, d.node.config.DataDir)
	}
	return nil
}

func (d *driver) replacedIn(state *groups.DirectoryState) bool {
	n, known := state.Node(d.node.config.Name)
	return known && n.DataID != d.node.data.ID()
}

// look takes one step of each shard.
func (d *driver) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, driveTimeout)
	defer cancel()
	state, err := d.node.directory.Read(ctx)
	if err != nil {
		return
	}
	floors := map[uint64]uint64{}
	for _, v := range d.node.service.MemberViews(ctx, state, d.floors) {
		if v.Raft != nil {
			floors[v.ShardID] = v.Reports[v.Raft.Leader].Applied
			if v.Floor == 0 {
				v.Floor = floors[v.ShardID] // the first look: the next one knows
			}
		}
		step := groups.NextStep(v)
		if !step.Acts() {
			d.say(v, step)
			continue
		}
		if err := d.take(ctx, state, v, step); err != nil {
			d.logger.Warn("a step about the members failed; it is decided anew", zap.String("group", v.Group), zap.String("step", step.Text()), zap.Error(err))
			continue
		}
		d.logger.Info("members changed", zap.String("group", v.Group), zap.Uint64("shard", v.ShardID), zap.String("step", step.Text()))
	}
	d.floors = floors
}

// say logs what a shard waits for, once in a while.
func (d *driver) say(v *groups.ShardView, step groups.Step) {
	was := d.said[v.ShardID]
	if step.Kind == groups.StepDone || was.text == step.Reason && time.Since(was.at) < sameReason {
		return
	}
	d.said[v.ShardID] = saying{step.Reason, time.Now()}
	d.logger.Info("members wait", zap.String("group", v.Group), zap.Uint64("shard", v.ShardID), zap.Stringer("kind", step.Kind), zap.String("reason", step.Reason))
}

func (d *driver) take(ctx context.Context, state *groups.DirectoryState, v *groups.ShardView, step groups.Step) error {
	directory := d.node.directory
	switch step.Kind {
	case groups.StepPlan:
		return directory.PlanMember(ctx, v.ShardID, step.Node)
	case groups.StepRecord:
		return directory.PromoteMember(ctx, v.ShardID, step.ReplicaID)
	case groups.StepDrop:
		return directory.DropMember(ctx, v.ShardID, step.ReplicaID)
	}
	req := &pb.ChangeShardRequest{ShardId: v.ShardID, Step: step.Kind.String(), ReplicaId: step.ReplicaID, Target: step.Target, ConfigId: step.ConfigID}
	if n, ok := state.Node(step.Node); ok {
		req.Address = n.RaftAddress
	}
	if step.Kind == groups.StepAdd {
		if err := d.compact(ctx, state, v); err != nil {
			return err
		}
	}
	return d.node.service.ChangeShard(ctx, nodeOf(v, v.Raft.Leader), req)
}

// compact makes the voters of a restored incarnation drop their logs: its log
// begins on top of files that a new replica does not have, so it must get a
// snapshot, whoever leads by then.
func (d *driver) compact(ctx context.Context, state *groups.DirectoryState, v *groups.ShardView) error {
	record, ok := state.GroupOfShard(v.ShardID)
	if !ok || record.Origin == nil {
		return nil
	}
	for _, m := range v.Members {
		if _, answers := v.Reports[m.ReplicaID]; !answers || !slices.Contains(v.Raft.Voters, m.ReplicaID) {
			continue
		}
		if err := d.node.service.ChangeShard(ctx, m.Node, &pb.ChangeShardRequest{ShardId: v.ShardID, Step: stepCompact}); err != nil {
			return err
		}
	}
	return nil
}

func nodeOf(v *groups.ShardView, replicaID uint64) string {
	for _, m := range v.Members {
		if m.ReplicaID == replicaID {
			return m.Node
		}
	}
	return ""
}
