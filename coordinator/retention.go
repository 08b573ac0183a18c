package coordinator

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/cohort-tx/cohort/coordinator/protocol"
	"github.com/cohort-tx/cohort/groups"
	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/machine"
)

// retain gives the command that drops what retention does not keep, nil when
// there is nothing to drop: all but the newest complete checkpoints, what is older
// than those, and the log that neither they nor the state of any participant needs.
func retain(all []machine.Checkpoint, own []machine.OwnState, s machine.Schedule, incarnation uint64, keep uint64) *command.Retain {
	newestFirst := slices.Clone(all)
	slices.SortFunc(newestFirst, func(a, b machine.Checkpoint) int { return cmp.Compare(b.Number, a.Number) })
	var oldest *machine.Checkpoint
	kept := uint64(0)
	for i := range newestFirst {
		c := &newestFirst[i]
		if c.State == machine.CheckpointComplete && c.Whole() && kept < max(keep, 1) {
			kept++
			oldest = c
		}
	}
	if oldest == nil || kept < max(keep, 1) {
		return nil
	}
	out := &command.Retain{}
	var stay []machine.Checkpoint
	for i := range all {
		c := &all[i]
		dropped := c.Number < oldest.Number && (c.State == machine.CheckpointComplete || c.State == machine.CheckpointFailed)
		if dropped {
			out.Drop = append(out.Drop, c.Number)
		} else {
			stay = append(stay, *c)
		}
	}
	// Log before this incarnation's first position is not there to be kept.
	if need, found := machine.LogNeed(stay, own); found && oldest.Incarnation == incarnation && need.From > s.LogFrom {
		out.LogFrom = need.From
	}
	if len(out.Drop) == 0 && out.LogFrom == 0 {
		return nil
	}
	return out
}

// disks is what the replicas of a group said of their disks.
type disks struct {
	mu      sync.Mutex
	reports map[string]DiskReport
	refused string
}

// DiskReport is what one replica says of its node's disk.
type DiskReport struct {
	// GroupBytes is what the group's log and checkpoints take there.
	GroupBytes, FreeBytes uint64
	// Refuse says why the node wants no more writes; empty when it takes them.
	Refuse string
	at     time.Time
}

// diskReportAge is how long a report counts: a node that is gone must not hold
// up the others for ever.
const diskReportAge = 30 * time.Second

// ReportReplica takes a replica's word about its copies and its disk.
func (c *Coordinator) ReportReplica(ctx context.Context, node string, copies []command.ReportCopy, disk DiskReport) error {
	g := c.reign.Load()
	if g == nil {
		return ErrNotServing
	}
	for i := range copies {
		copies[i].Node = node
		if _, err := g.administer(ctx, &copies[i]); err != nil {
			return err
		}
		c.noteCompletion(copies[i].Number)
	}
	disk.at = time.Now()
	c.disks.mu.Lock()
	if c.disks.reports == nil {
		c.disks.reports = make(map[string]DiskReport)
	}
	c.disks.reports[node] = disk
	c.disks.mu.Unlock()
	return c.judgeDisks(ctx, g)
}

// judgeDisks refuses commits, or lets them on again, and asks for an early
// checkpoint before it must.
func (c *Coordinator) judgeDisks(ctx context.Context, g *reign) error {
	def := c.definition.Load()
	c.disks.mu.Lock()
	refuse, early := judgeDisks(def, c.disks.reports, time.Now())
	changed := refuse != c.disks.refused
	c.disks.refused = refuse
	c.disks.mu.Unlock()
	if changed || refuse != "" && g.refused.CompareAndSwap(false, true) {
		g.refused.Store(refuse != "")
		if refuse != "" {
			g.log.Warn("commits are refused", zap.String("reason", refuse))
		} else {
			g.log.Info("commits are taken again")
		}
		if err := g.inLoop(ctx, func() { g.step(&protocol.Refuse{Detail: refuse}) }); err != nil {
			return err
		}
	}
	if !early {
		return nil
	}
	return c.askEarly(ctx, g)
}

// askEarly asks for a checkpoint on behalf of the disk, unless one is asked for,
// under way, or would free nothing.
func (c *Coordinator) askEarly(ctx context.Context, g *reign) error {
	snap, err := c.params.Replica.Snapshot()
	if err != nil {
		return err
	}
	defer snap.Close()
	meta, err := snap.Meta()
	if err != nil || meta.FeatureLevel < 2 || meta.Sealed {
		return err
	}
	s, err := machine.ReadSchedule(snap.Reader())
	if err != nil || len(s.Pending) > 0 || s.Cut.Position == meta.Position {
		return err
	}
	if s.Cut.Number > 0 {
		last, found, err := machine.ReadCheckpoint(snap.Reader(), s.Cut.Number)
		if err != nil || found && last.State == machine.CheckpointWriting {
			return err
		}
	}
	wish := command.CheckpointRequest{Token: fmt.Sprintf("max_disk-%d-%d", s.Cut.Number, s.AttemptUnixNano), Trigger: command.TriggerDisk, By: c.params.NodeName, TimeUnixNano: time.Now().UnixNano()}
	if _, err := g.administer(ctx, &command.RequestCheckpoint{CheckpointRequest: wish}); err != nil {
		return err
	}
	c.wakeSchedule()
	return nil
}

// judgeDisks is the rule: a node's own word first, then the group's bound.
func judgeDisks(def *groups.Definition, reports map[string]DiskReport, now time.Time) (refuse string, early bool) {
	nodes := make([]string, 0, len(reports))
	for node := range reports {
		nodes = append(nodes, node)
	}
	slices.Sort(nodes)
	for _, node := range nodes {
		r := reports[node]
		if now.Sub(r.at) > diskReportAge {
			continue
		}
		if r.Refuse != "" && refuse == "" {
			refuse = fmt.Sprintf("node %s: %s", node, r.Refuse)
		}
		bound := def.Retention.MaxDisk
		if bound == 0 {
			continue
		}
		if r.GroupBytes >= bound && refuse == "" {
			refuse = fmt.Sprintf("the group's log and checkpoints take %d bytes on node %s, and retention.max_disk is %d; raise it, keep fewer checkpoints, or wait until the next one is complete",
				r.GroupBytes, node, bound)
		}
		early = early || r.GroupBytes >= bound/100*diskEarlyPercent
	}
	return refuse, early
}

// retention looks for what is to be dropped, nil when nothing is.
func retention(snap Snapshot, keep uint64) (command.Command, error) {
	meta, err := snap.Meta()
	if err != nil || meta.FeatureLevel < 2 {
		return nil, err
	}
	s, err := machine.ReadSchedule(snap.Reader())
	if err != nil {
		return nil, err
	}
	all, err := machine.ReadCheckpoints(snap.Reader())
	if err != nil {
		return nil, err
	}
	own, err := machine.ReadOwnStates(snap.Reader())
	if err != nil {
		return nil, err
	}
	if cmd := retain(all, own, s, meta.Incarnation, keep); cmd != nil {
		return cmd, nil
	}
	return nil, nil
}

// noteCompletion lets retention run at once when a checkpoint was completed.
func (c *Coordinator) noteCompletion(number uint64) {
	snap, err := c.params.Replica.Snapshot()
	if err != nil {
		return
	}
	defer snap.Close()
	rec, found, err := machine.ReadCheckpoint(snap.Reader(), number)
	if err != nil || !found || rec.State != machine.CheckpointComplete {
		return
	}
	c.metrics.checkpointCompleted(&rec)
	select {
	case c.purge <- struct{}{}:
	default:
	}
}
