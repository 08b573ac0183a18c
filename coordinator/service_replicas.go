package coordinator

import (
	"context"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/groups"
	"github.com/cohort-tx/cohort/txlog"
	"github.com/cohort-tx/cohort/txlog/command"
)

// ReportReplica takes what a node says of its replica; see Coordinator.ReportReplica.
func (s *peersService) ReportReplica(ctx context.Context, req *pb.ReportReplicaRequest) (*pb.ReportReplicaResponse, error) {
	if err := checkName("node", req.GetNode()); err != nil {
		return nil, err
	}
	record, err := s.record(ctx, req.GetGroup())
	if err != nil {
		return nil, err
	}
	if record.ShardID != req.GetShardId() {
		return nil, failure(codes.FailedPrecondition, reasonIncarnation, []string{"group", req.GetGroup()},
			"the report is of shard %d, and group %q is on shard %d", req.GetShardId(), req.GetGroup(), record.ShardID)
	}
	copies, err := copiesOf(req.GetCopies())
	if err != nil {
		return nil, err
	}
	c, err := s.transactor(req.GetGroup())
	if err != nil {
		return nil, err
	}
	disk := DiskReport{GroupBytes: req.GetGroupBytes(), FreeBytes: req.GetFreeBytes(), Refuse: req.GetRefuse()}
	if err := c.ReportReplica(ctx, req.GetNode(), copies, disk); err != nil {
		return nil, statusOf(req.GetGroup(), err)
	}
	return &pb.ReportReplicaResponse{}, nil
}

// ReportCapture takes a node's word on captured state; see Coordinator.ReportCapture.
func (s *peersService) ReportCapture(ctx context.Context, req *pb.ReportCaptureRequest) (*pb.ReportCaptureResponse, error) {
	report := command.ReportCapture{
		Number: req.GetCheckpoint(), Participant: req.GetParticipant(), Epoch: req.GetActivationEpoch(), Position: req.GetPosition(), Failure: req.GetFailure(),
	}
	if err := checkName("participant", report.Participant); err != nil {
		return nil, err
	}
	if report.Failure == "" {
		if err := checkName("node", req.GetNode()); err != nil {
			return nil, err
		}
		report.Node, report.Bytes = req.GetNode(), req.GetBytes()
		report.Section = command.Section{Name: command.SectionState + report.Participant, Keys: req.GetRecords(), Bytes: req.GetSectionBytes()}
		if len(req.GetDigest()) != len(report.Section.Digest) || len(req.GetSha256()) != len(report.SHA256) {
			return nil, invalid("digest", "has %d bytes and the sum %d: %d and %d are right", len(req.GetDigest()), len(req.GetSha256()), len(report.Section.Digest), len(report.SHA256))
		}
		copy(report.Section.Digest[:], req.GetDigest())
		copy(report.SHA256[:], req.GetSha256())
	}
	c, err := s.transactor(req.GetGroup())
	if err != nil {
		return nil, err
	}
	if err := c.ReportCapture(ctx, report); err != nil {
		return nil, statusOf(req.GetGroup(), err)
	}
	return &pb.ReportCaptureResponse{}, nil
}

func copiesOf(reports []*pb.CopyReport) ([]command.ReportCopy, error) {
	out := make([]command.ReportCopy, len(reports))
	for i, r := range reports {
		c := command.ReportCopy{Number: r.GetId(), Bytes: r.GetBytes(), WriteNanos: r.GetWriteNanos(), Detail: r.GetDetail(), Rebuilt: r.GetRebuilt()}
		switch r.GetState() {
		case command.CopyWritten.String():
			c.State = command.CopyWritten
		case command.CopyFailed.String():
			c.State = command.CopyFailed
		case command.CopyLost.String():
			c.State = command.CopyLost
		default:
			return nil, invalid("copies.state", "%q is none of written, failed, lost", r.GetState())
		}
		if c.State == command.CopyWritten && len(r.GetDigest()) != len(c.Digest) {
			return nil, invalid("copies.digest", "has %d bytes, not %d", len(r.GetDigest()), len(c.Digest))
		}
		copy(c.Digest[:], r.GetDigest())
		for _, section := range r.GetSections() {
			one := command.Section{Name: section.GetName(), Keys: section.GetKeys(), Bytes: section.GetBytes()}
			copy(one.Digest[:], section.GetDigest())
			c.Sections = append(c.Sections, one)
		}
		out[i] = c
	}
	return out, nil
}

// Report sends a keeper's report to the group's coordinator, wherever it is.
func (s *Service) Report(ctx context.Context, record *groups.GroupRecord, report txlog.Report, refuse string) error {
	req := &pb.ReportReplicaRequest{
		Group: record.Name, Node: s.config.Node, ShardId: record.ShardID,
		GroupBytes: report.GroupBytes, FreeBytes: report.FreeBytes, Refuse: refuse,
	}
	for i := range report.Copies {
		c := &report.Copies[i]
		req.Copies = append(req.Copies, &pb.CopyReport{
			Id: c.Number, State: c.State.String(), Digest: c.Digest[:], Sections: sectionsToWire(c.Sections),
			Bytes: c.Bytes, WriteNanos: c.WriteNanos, Detail: c.Detail, Rebuilt: c.Rebuilt,
		})
	}
	_, err := s.dispatch(ctx, target{group: record.Name, coordinator: true}, func(ctx context.Context) (any, error) {
		return (&peersService{Service: s}).ReportReplica(ctx, req)
	}, func(ctx context.Context, conn *grpc.ClientConn) (any, error) {
		return pb.NewPeersClient(conn).ReportReplica(ctx, req)
	})
	return err
}

// FetchCheckpoint sends this node's copy of a checkpoint, or a file that is being
// imported here.
func (s *peersService) FetchCheckpoint(req *pb.FetchCheckpointRequest, stream grpc.ServerStreamingServer[pb.FileChunk]) error {
	if token := req.GetImportToken(); token != "" {
		in, size, err := s.config.Hydrator.OpenImport(token)
		if err != nil {
			return failure(codes.NotFound, reasonUnknownCheckpoint, nil, "%v", err)
		}
		defer in.Close()
		return sendFile(in, size, stream)
	}
	if err := checkName("group", req.GetGroup()); err != nil {
		return err
	}
	file, err := s.openOwnCopy(req.GetGroup(), req.GetId())
	if err != nil {
		return failure(codes.NotFound, reasonUnknownCheckpoint, []string{"group", req.GetGroup(), "checkpoint", uintText(req.GetId())}, "%v", err)
	}
	defer file.Close()
	return sendFile(file, file.size, stream)
}

// FetchCopy gets another node's copy of a checkpoint, for a keeper that lacks it.
func (s *Service) FetchCopy(ctx context.Context, group string, id uint64) (io.ReadCloser, error) {
	wanted, err := s.wantedCheckpoint(ctx, group, id)
	if err != nil {
		return nil, err
	}
	for _, copy := range wanted.GetCopies() {
		if copy.GetNode() == s.config.Node || copy.GetState() != command.CopyWritten.String() {
			continue
		}
		var file *copyFile
		if file, err = s.fetchFrom(ctx, copy.GetNode(), &pb.FetchCheckpointRequest{Group: group, Id: id}); err == nil {
			return file, nil
		}
	}
	if err == nil {
		err = txlog.ErrNoCopy
	}
	return nil, err
}

// FetchImport gets a file that is being imported on another node.
func (s *Service) FetchImport(ctx context.Context, node, token string) (io.ReadCloser, error) {
	return s.fetchFrom(ctx, node, &pb.FetchCheckpointRequest{ImportToken: token})
}

// FetchState sends the state of this node's replica at an index.
func (s *peersService) FetchState(req *pb.FetchStateRequest, stream grpc.ServerStreamingServer[pb.FileChunk]) error {
	replica := s.config.Groups.Group(req.GetGroup()).Replica
	if replica == nil || replica.ShardID() != req.GetShardId() {
		return failure(codes.FailedPrecondition, reasonNoReplica, []string{"group", req.GetGroup(), "node", s.config.Node},
			"node %q has no replica of shard %d of group %q that runs", s.config.Node, req.GetShardId(), req.GetGroup())
	}
	out, in := io.Pipe()
	saved := make(chan struct{})
	go func() { // ends when all is sent, or the pipe is closed
		defer close(saved)
		_ = in.CloseWithError(replica.SaveState(stream.Context(), req.GetIndex(), in))
	}()
	err := sendFile(out, 0, stream)
	_ = out.Close()
	<-saved
	return err
}

// FetchReplicaState asks the group's other members, one after the other, for the
// state at an index.
func (s *Service) FetchReplicaState(ctx context.Context, record *groups.GroupRecord, index uint64) (io.ReadCloser, error) {
	err := error(txlog.ErrNotReady)
	for _, node := range record.Voters() {
		if node == s.config.Node {
			continue
		}
		p, placeErr := s.locateNode(node)
		if placeErr != nil {
			err = placeErr
			continue
		}
		conn, connErr := s.connect(p.addr)
		if connErr != nil {
			err = connErr
			continue
		}
		streaming, cancel := context.WithCancel(forwardedContext(ctx))
		from, fetchErr := pb.NewPeersClient(conn).FetchState(streaming, &pb.FetchStateRequest{Group: record.Name, ShardId: record.ShardID, Index: index})
		if fetchErr != nil {
			cancel()
			err = fetchErr
			continue
		}
		file, openErr := openChunks(from, cancel)
		if openErr != nil {
			err = openErr
			continue
		}
		return file, nil
	}
	return nil, err
}
