package coordinator

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"google.golang.org/grpc"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/txlog/machine"
)

// Drill runs on the node that coordinates the group.
func (s *checkpointsService) Drill(req *pb.DrillRequest, stream grpc.ServerStreamingServer[pb.RestoreProgress]) error {
	ctx := stream.Context()
	return s.onCoordinator(ctx, req.GetGroup(), func() error {
		r := s.newRestoring(stream)
		ctx := asOwn(ctx)
		return r.run(func() (*pb.RestoreResult, error) { return r.drill(ctx, req.GetGroup()) })
	}, func(ctx context.Context, conn *grpc.ClientConn) error {
		from, err := pb.NewCheckpointsClient(conn).Drill(ctx, req)
		return passOn(from, err, stream.Send)
	})
}

// drill restores into a place of its own and compares with the state that was
// live when it began.
func (r *restoring) drill(ctx context.Context, group string) (*pb.RestoreResult, error) {
	r.phase(phasePlanning)
	local := r.config.Groups.Group(group)
	if local.Replica == nil || local.Keeper == nil {
		return nil, statusOf(group, ErrNotServing)
	}
	live, err := local.Replica.View(0)
	if err != nil {
		return nil, statusOf(group, err)
	}
	defer live.Close()
	meta, err := live.Meta()
	if err != nil {
		return nil, statusOf(group, err)
	}
	plan, err := r.plan(ctx, &pb.RestoreRequest{Group: group, To: &pb.RestoreRequest_Position{Position: meta.Position}})
	if err != nil {
		return nil, err
	}
	definition, err := plan.definition.MarshalJSON()
	if err != nil {
		return nil, statusOf(group, err)
	}
	done, err := r.hydrateAt(ctx, r.config.Node, &pb.HydrateRequest{
		Token: plan.token, SourceGroup: group, Checkpoint: plan.checkpoint, Position: plan.position,
		Group: group, Incarnation: plan.incarnation + 1, DefinitionJson: definition, Drill: true,
	})
	if err != nil {
		return nil, err
	}
	r.phase(phaseComparing)
	result := plan.result(group, plan.incarnation, &hydrated{nodes: []string{r.config.Node}, result: done})
	if result.Differences, err = differences(live, result.Participants); err != nil {
		return nil, statusOf(group, err)
	}
	result.Equal = len(result.Differences) == 0
	return result, nil
}

// differences compares participants' data with that of a state.
func differences(live View, restored []*pb.CheckpointParticipant) ([]string, error) {
	config, err := live.Config()
	if err != nil {
		return nil, err
	}
	_, sections, err := machine.ImageDigest(live.Reader(), config)
	if err != nil {
		return nil, err
	}
	var out []string
	want := participantSections(sectionsToWire(sections))
	for _, w := range want {
		i := slices.IndexFunc(restored, func(p *pb.CheckpointParticipant) bool { return p.Name == w.Name })
		switch {
		case i < 0:
			out = append(out, fmt.Sprintf("participant %s is missing from what was restored", w.Name))
		case !bytes.Equal(restored[i].Digest, w.Digest):
			out = append(out, fmt.Sprintf("participant %s: %d keys with digest %x were restored, %d keys with digest %x are live", w.Name, restored[i].Keys, restored[i].Digest, w.Keys, w.Digest))
		}
	}
	return out, nil
}
