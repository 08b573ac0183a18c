package coordinator

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/groups"
)

// ImportCheckpoint takes the file in, verifies it, and makes a group of it.
func (s *checkpointsService) ImportCheckpoint(stream grpc.BidiStreamingServer[pb.ImportCheckpointRequest, pb.RestoreProgress]) error {
	ctx := stream.Context()
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	as := first.GetHeader().GetAs()
	if err := checkName("as", as); err != nil {
		return err
	}
	r := s.newRestoring(stream)
	return r.run(func() (*pb.RestoreResult, error) {
		token := newToken()
		defer s.config.Hydrator.Discard(token)
		file, err := s.config.Hydrator.SaveImport(ctx, token, &importReader{from: stream})
		if err != nil {
			return nil, failure(codes.InvalidArgument, reasonInvalid, []string{"field", "file"}, "the file cannot be imported: %v", err)
		}
		plan, err := r.planImport(ctx, token, as, &file)
		if err != nil {
			return nil, err
		}
		return r.asNewGroup(ctx, plan, as)
	})
}

func (r *restoring) planImport(ctx context.Context, token, as string, file *ImportedFile) (*restorePlan, error) {
	definition, err := groups.Decode(file.Definition)
	if err != nil {
		return nil, failure(codes.InvalidArgument, reasonInvalid, []string{"field", "file"}, "the definition in the file cannot be read by this release: %v", err)
	}
	// The nodes it names are of the cluster that it comes from.
	definition.Group, definition.Replicas = as, nil
	for i := range definition.Participants {
		definition.Participants[i].Nodes = nil
	}
	directory, err := r.config.Directory.Read(ctx)
	if err != nil {
		return nil, statusOf(as, err)
	}
	nodes, err := directory.Placement(&definition)
	if err != nil {
		return nil, failure(codes.FailedPrecondition, reasonInvalid, []string{"group", as}, "%v", err)
	}
	if copies := uint64(len(nodes)); definition.Checkpoint.MinCopies > copies {
		definition.Checkpoint.MinCopies = copies
	}
	plan := &restorePlan{
		token: token, source: file.Group, incarnation: file.Incarnation, checkpoint: file.Checkpoint,
		position: file.Position, importNode: r.config.Node, definition: definition, nodes: nodes,
	}
	plan.keepParticipants(file.Participants)
	return plan, nil
}

type importReader struct {
	from interface {
		Recv() (*pb.ImportCheckpointRequest, error)
	}
	rest []byte
}

func (r *importReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		m, err := r.from.Recv()
		if err != nil {
			return 0, err
		}
		r.rest = m.GetData()
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}
