package coordinator

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/txlog"
	"github.com/cohort-tx/cohort/txlog/checkpoint"
	"github.com/cohort-tx/cohort/txlog/machine"
)

type captureStream = grpc.BidiStreamingServer[pb.CaptureChunk, pb.CaptureProgress]

// WriteCapture takes a captured state on this node, if it has a replica of the
// group, else passes it on to one that has. What a stream brought is kept when it
// breaks: the next one goes on from there.
func (s *stateService) WriteCapture(stream captureStream) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	h := first.GetHeader()
	if h == nil || len(first.GetData()) > 0 || first.GetEnd() != nil {
		return invalid("header", "the first message must be a header and nothing else")
	}
	if err := errors.Join(checkName("header.group", h.GetGroup()), checkName("header.participant", h.GetParticipant())); err != nil {
		return err
	}
	if h.GetCheckpoint() == 0 || h.GetActivationEpoch() == 0 {
		return invalid("header", "checkpoint and activation_epoch must be those of the Capture message")
	}
	_, err = s.dispatch(stream.Context(), target{group: h.GetGroup(), replica: true}, func(ctx context.Context) (any, error) {
		return nil, s.writeCaptureHere(ctx, h, stream)
	}, func(ctx context.Context, conn *grpc.ClientConn) (any, error) {
		return nil, writeCaptureThere(ctx, conn, first, stream)
	})
	return err
}

// writeCaptureThere passes a stream on. Once the other node has answered, what it
// took cannot be sent again from here: the instance begins another stream.
func writeCaptureThere(ctx context.Context, conn *grpc.ClientConn, first *pb.CaptureChunk, stream captureStream) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	there, err := pb.NewParticipantsClient(conn).WriteCapture(ctx)
	if err != nil {
		return err
	}
	if err := there.Send(first); err != nil && !isEOF(err) {
		return err
	}
	answer, err := there.Recv()
	if err != nil {
		return err
	}
	// Ends with either stream; this one ends when its handler returns.
	go func() {
		for {
			m, err := stream.Recv()
			if err == nil {
				err = there.Send(m)
			}
			if err != nil {
				_ = there.CloseSend()
				return
			}
		}
	}()
	for {
		if err := stream.Send(answer); err != nil {
			return err
		}
		if answer, err = there.Recv(); err != nil {
			if isEOF(err) {
				return nil
			}
			if status.Code(err) == codes.Unavailable {
				return failure(codes.Aborted, reasonNoReplica, nil, "the node that stores the state has gone (%s); begin another stream", plain(err))
			}
			return err
		}
	}
}

// errNotWanted tells an instance that nobody waits for what it has captured.
func errNotWanted(group string, err error) error {
	return failure(codes.FailedPrecondition, reasonNotWanted, []string{"group", group}, "%s", err.Error())
}

// captureError is the status of an error of an upload.
func captureError(group string, err error) error {
	var not *txlog.NotWantedError
	switch {
	case errors.As(err, &not):
		return errNotWanted(group, not)
	case errors.Is(err, txlog.ErrNoRoom), errors.Is(err, txlog.ErrOverloaded):
		return failure(codes.ResourceExhausted, reasonOverloaded, []string{"group", group}, "%v", err)
	case errors.Is(err, txlog.ErrReplaced):
		return failure(codes.Aborted, reasonNotWanted, []string{"group", group}, "%v", err)
	}
	return statusOf(group, err)
}

// captured is what the log says of a capture, not older than the call.
func (s *Service) captured(ctx context.Context, h *pb.CaptureHeader) (*machine.Capture, LocalKeeper, error) {
	local := s.config.Groups.Group(h.GetGroup())
	if local.Replica == nil || local.Keeper == nil {
		return nil, nil, statusOf(h.GetGroup(), txlog.ErrNotReady)
	}
	ctx, cancel := context.WithTimeout(ctx, logEndWait)
	defer cancel()
	if _, err := local.Replica.ReadIndex(ctx); err != nil {
		return nil, nil, statusOf(h.GetGroup(), txlog.ErrNotReady)
	}
	c, err := local.Keeper.Captured(h.GetIncarnation(), uploadOf(h))
	if err != nil {
		return nil, nil, captureError(h.GetGroup(), err)
	}
	return c, local.Keeper, nil
}

func uploadOf(h *pb.CaptureHeader) checkpoint.UploadID {
	return checkpoint.UploadID{Participant: h.GetParticipant(), Checkpoint: h.GetCheckpoint(), Position: h.GetPosition(), Epoch: h.GetActivationEpoch()}
}

func (s *Service) writeCaptureHere(ctx context.Context, h *pb.CaptureHeader, stream captureStream) error {
	c, keeper, err := s.captured(ctx, h)
	if err != nil {
		return err
	}
	if c.State == machine.CaptureStored {
		return stream.Send(&pb.CaptureProgress{Offset: c.Bytes, Done: true})
	}
	streaming, upload, release, err := keeper.Upload(ctx, uploadOf(h))
	if err != nil {
		return captureError(h.GetGroup(), err)
	}
	defer release()
	if err := stream.Send(&pb.CaptureProgress{Offset: upload.Offset()}); err != nil {
		return err
	}
	end, err := takeCapture(streaming, upload, stream)
	if err == nil {
		err = s.storeCapture(ctx, h, upload, end)
	}
	if wrong := (*txlog.StateMismatchError)(nil); errors.As(err, &wrong) {
		s.reportFailed(ctx, h.GetGroup(), uploadOf(h), wrong)
		return invalid("end", "%v", wrong)
	}
	if err != nil {
		return captureError(h.GetGroup(), err)
	}
	return stream.Send(&pb.CaptureProgress{Offset: end.GetBytes(), Done: true})
}

// takeCapture writes what comes to the upload, until the end that the instance
// tells. Nothing is read ahead of what is written: a slow disk holds the instance
// back.
func takeCapture(ctx context.Context, upload *txlog.Upload, stream captureStream) (*pb.CaptureEnd, error) {
	type received struct {
		m   *pb.CaptureChunk
		err error
	}
	chunks := make(chan received)
	go func() { // ends with the stream, or with ctx, which ends when the handler returns
		for {
			m, err := stream.Recv()
			select {
			case chunks <- received{m, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	for said := upload.Offset(); ; {
		var got received
		select {
		case got = <-chunks:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if isEOF(got.err) {
			return nil, invalid("end", "is missing: the stream ended after byte %d", upload.Offset())
		}
		if got.err != nil {
			return nil, got.err
		}
		if err := takeChunk(upload, got.m); err != nil {
			return nil, err
		}
		if end := got.m.GetEnd(); end != nil {
			return end, nil
		}
		if upload.Offset()-said >= captureAckBytes {
			said = upload.Offset()
			if err := stream.Send(&pb.CaptureProgress{Offset: said}); err != nil {
				return nil, err
			}
		}
	}
}

func takeChunk(upload *txlog.Upload, m *pb.CaptureChunk) error {
	if m.GetHeader() != nil {
		return invalid("header", "comes once")
	}
	if len(m.GetData()) == 0 {
		return nil
	}
	if len(m.GetData()) > maxCaptureChunk {
		return invalid("data", "has %d bytes; at most %d in a message", len(m.GetData()), maxCaptureChunk)
	}
	if m.GetOffset() != upload.Offset() {
		return invalid("offset", "is %d, and %d is what comes next", m.GetOffset(), upload.Offset())
	}
	_, err := upload.Write(m.GetData())
	return err
}

// storeCapture ends the upload, and returns when the log says so.
func (s *Service) storeCapture(ctx context.Context, h *pb.CaptureHeader, upload *txlog.Upload, end *pb.CaptureEnd) error {
	var sum [32]byte
	if len(end.GetSha256()) != len(sum) {
		return invalid("end.sha256", "has %d bytes, not %d", len(end.GetSha256()), len(sum))
	}
	copy(sum[:], end.GetSha256())
	report, err := upload.Store(s.config.Node, end.GetBytes(), sum)
	if err != nil {
		return err
	}
	for pause := retryPauseMin; ; pause = min(2*pause, retryPauseMax) {
		// Whatever it answers, the log is what counts.
		reported := s.ReportCaptured(ctx, h.GetGroup(), &report)
		c, _, err := s.captured(ctx, h)
		switch {
		case err != nil:
			return err
		case c.State == machine.CaptureStored:
			return nil
		case reported == nil:
			reported = failure(codes.Unavailable, reasonIndeterminate, nil, "the log does not have it")
		}
		if status.Code(reported) != codes.Unavailable {
			return reported
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return reported
		}
	}
}
