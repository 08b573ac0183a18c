package coordinator

import (
	"context"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/txlog/command"
)

// ReportCapture takes what a node says of a captured state; see
// Coordinator.ReportCapture.
func (s *peersService) ReportCapture(ctx context.Context, req *pb.ReportCaptureRequest) (*pb.ReportCaptureResponse, error) {
	report := command.ReportCapture{
		Number: req.GetCheckpoint(), Participant: req.GetParticipant(), Epoch: req.GetActivationEpoch(), Position: req.GetPosition(), Failure: req.GetFailure(),
	}
	if err := checkName("participant", report.Participant); err != nil {
		return nil, err
	}
	if report.Failure == "" {
		report.Node, report.Bytes = req.GetNode(), req.GetBytes()
		report.Section = command.Section{Name: command.SectionState + report.Participant, Keys: req.GetRecords(), Bytes: req.GetSectionBytes()}
		if err := checkName("node", report.Node); err != nil {
			return nil, err
		}
		if copy(report.Section.Digest[:], req.GetDigest()) != len(req.GetDigest()) || len(req.GetDigest()) != len(report.Section.Digest) {
			return nil, invalid("digest", "has %d bytes, want %d", len(req.GetDigest()), len(report.Section.Digest))
		}
		if copy(report.SHA256[:], req.GetSha256()) != len(req.GetSha256()) || len(req.GetSha256()) != len(report.SHA256) {
			return nil, invalid("sha256", "has %d bytes, want %d", len(req.GetSha256()), len(report.SHA256))
		}
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
