package coordinator

import (
	"fmt"
	"time"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/groups"
	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/machine"
)

// overdueAfter is how many intervals may pass without a complete checkpoint
// before that is worth a mention.
const overdueAfter = 3

// probeCheckpoints adds what a replica and its keeper know of checkpoints.
func probeCheckpoints(local LocalGroup, out *pb.ReplicaProbe) error {
	view, err := local.Replica.View(0)
	if err != nil {
		return err
	}
	defer view.Close()
	all, err := machine.ReadCheckpoints(view.Reader())
	if err != nil {
		return err
	}
	for i := range all {
		c := &all[i]
		if c.State != machine.CheckpointComplete || !c.Whole() {
			continue
		}
		out.Checkpoint, out.CheckpointPosition, out.CheckpointUnixNano = c.Number, c.Position, c.TimeUnixNano
		out.CheckpointCopies, out.CheckpointWanted = copiesOfCheckpoint(c)
	}
	if local.Keeper == nil {
		return nil
	}
	out.CheckpointBytes = local.Keeper.Usage().CheckpointBytes
	if from, ok := local.Keeper.RestorableFrom(); ok {
		out.RestorableFrom = from
	}
	if err := local.Keeper.Problem(); err != nil {
		out.CheckpointError = err.Error()
	}
	return nil
}

// copiesOfCheckpoint counts the whole copies, and those that must be.
func copiesOfCheckpoint(c *machine.Checkpoint) (have, wanted uint64) {
	for i := range c.Copies {
		if c.Copies[i].State == command.CopyWritten && c.Copies[i].Digest == c.Digest {
			have++
		}
	}
	return have, max(c.MinCopies, uint64(len(c.Members)/2+1))
}

// checkpointStatus judges a group's checkpoints, by its coordinator's word.
func (sv *survey) checkpointStatus(record *groups.GroupRecord, serving *pb.ReplicaProbe, out *pb.GroupStatus) {
	out.Checkpoint, out.CheckpointPosition = serving.GetCheckpoint(), serving.GetCheckpointPosition()
	out.CheckpointTime, out.CheckpointBytes = timeToWire(serving.GetCheckpointUnixNano()), serving.GetCheckpointBytes()
	out.RestorableFrom = serving.GetRestorableFrom()
	if out.Checkpoint != 0 {
		age := max(time.Since(time.Unix(0, serving.GetCheckpointUnixNano())), 0)
		out.CheckpointAgeSeconds = age.Seconds()
		if have, wanted := serving.GetCheckpointCopies(), serving.GetCheckpointWanted(); have < wanted {
			out.Reasons = append(out.Reasons, fmt.Sprintf("checkpoint %d has %d whole copies of %d: `cohort checkpoint show %s %d` says which are missing", out.Checkpoint, have, wanted, record.Name, out.Checkpoint))
		}
		if d, err := record.Definition(); err == nil && d.Checkpoint.Interval > 0 && age > overdueAfter*d.Checkpoint.Interval+d.Checkpoint.MaxWait {
			out.Reasons = append(out.Reasons, fmt.Sprintf("the newest complete checkpoint is %s old, and checkpoint.interval is %s: `cohort checkpoint list %s` says why none was taken since", age.Round(time.Second), d.Checkpoint.Interval, record.Name))
		}
	}
	for _, member := range record.Nodes() {
		if problem := sv.replica(member, record.Name).GetCheckpointError(); problem != "" {
			out.Reasons = append(out.Reasons, fmt.Sprintf("checkpoints on %s: %s", member, problem))
		}
	}
}
