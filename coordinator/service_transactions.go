package coordinator

import (
	"context"
	"errors"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/txlog"
	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/machine"
)

const (
	// maxReplyBytes of one Get or Scan: a Scan answers less and says that there is
	// more, a Get is refused.
	maxReplyBytes = 16 << 20
	// defaultScanLimit and maxScanLimit bound the items of one Scan.
	defaultScanLimit = 1000
	maxScanLimit     = 10_000
	// defaultListLimit and maxListLimit bound ListTransactions.
	defaultListLimit = 100
	maxListLimit     = 1000
	// maxAbortReason is text of the caller, for operators.
	maxAbortReason = 512
)

type transactionsService struct {
	pb.UnimplementedTransactionsServer
	*Service
}

// transactor is the group's coordinator on this node.
func (s *Service) transactor(group string) (Transactor, error) {
	if c := s.config.Groups.Group(group).Coordinator; c != nil {
		return c, nil
	}
	return nil, statusOf(group, ErrNotServing)
}

func (s *Service) replica(group string) (LocalReplica, error) {
	if r := s.config.Groups.Group(group).Replica; r != nil {
		return r, nil
	}
	return nil, failure(codes.Unavailable, reasonNoReplica, []string{"group", group}, "node %q has no replica of group %q", s.config.Node, group)
}

// asAborted finds what is answered as an abort, not as an error.
func asAborted(err error) (Aborted, bool) {
	var (
		a       *Aborted
		unknown *machine.UnknownParticipantError
	)
	switch {
	case errors.As(err, &a):
		return *a, true
	case errors.As(err, &unknown):
		return *abortedWith(command.ReasonUnknownParticipant, unknown.Participant, unknown.Error()), true
	case errors.Is(err, txlog.ErrSnapshotTooOld):
		return *abortedWith(command.ReasonSnapshotTooOld, "", "the versions of that snapshot are not kept any more; begin again"), true
	}
	return Aborted{}, false
}

func (s *transactionsService) Begin(ctx context.Context, req *pb.BeginRequest) (*pb.BeginResponse, error) {
	timeout, err := timeoutOf(req.GetTimeoutMs())
	if err != nil {
		return nil, err
	}
	if err := checkDigest(req.GetRequestDigest()); err != nil {
		return nil, err
	}
	id, fresh := req.GetId(), false
	if id == "" {
		made, err := uuid.NewV7() // ids that sort by time are found together
		if err != nil {
			return nil, statusOf(req.GetGroup(), err)
		}
		id, fresh = made.String(), true
	} else if err := checkID("id", id); err != nil {
		return nil, err
	}
	c, err := s.transactor(req.GetGroup())
	if err != nil {
		return nil, err
	}
	opened, err := c.Begin(ctx, BeginRequest{ID: id, RequestDigest: req.GetRequestDigest(), Timeout: timeout, Fresh: fresh})
	var committed *Committed
	if errors.As(err, &committed) {
		return &pb.BeginResponse{Result: &pb.BeginResponse_Committed{Committed: receiptToWire(committed.Receipt)}}, nil
	}
	if abort, ok := aborted(id, err); ok {
		return &pb.BeginResponse{Result: &pb.BeginResponse_Abort{Abort: abort}}, nil
	}
	if err != nil {
		return nil, statusOf(req.GetGroup(), err)
	}
	return &pb.BeginResponse{Result: &pb.BeginResponse_Opened{Opened: &pb.Opened{
		Attempt: attemptToWire(opened.Attempt), CoordinatorEpoch: opened.Epoch, Incarnation: opened.Incarnation, Position: opened.Position,
	}}}, nil
}

func (s *transactionsService) Call(ctx context.Context, req *pb.CallRequest) (*pb.CallResponse, error) {
	attempt, err := begunAttemptOf(req.GetAttempt())
	if err != nil {
		return nil, err
	}
	if req.GetStep() == 0 {
		return nil, invalid("step", "is 0; the first call of an attempt is step 1")
	}
	if err := checkName("participant", req.GetParticipant()); err != nil {
		return nil, err
	}
	if err := checkMethod(req.GetMethod()); err != nil {
		return nil, err
	}
	if n := len(req.GetContentType()); n > maxContentTypeBytes {
		return nil, invalid("content_type", "has %d bytes; at most %d, as in application/json", n, maxContentTypeBytes)
	}
	ops, err := opsOf(req.GetOps())
	if err != nil {
		return nil, err
	}
	timeout, err := timeoutOf(req.GetTimeoutMs())
	if err != nil {
		return nil, err
	}
	c, err := s.transactor(req.GetGroup())
	if err != nil {
		return nil, err
	}
	reply, err := c.Call(ctx, CallRequest{
		Attempt: attempt, Step: req.GetStep(), Participant: req.GetParticipant(), Method: req.GetMethod(),
		Payload: req.GetPayload(), ContentType: req.GetContentType(), Ops: ops, Timeout: timeout,
	})
	var failed *StepFailure
	if errors.As(err, &failed) {
		return &pb.CallResponse{Result: &pb.CallResponse_Failure{Failure: &pb.StepFailure{
			Code: failed.Code, Participant: failed.Participant, Message: failed.Message,
		}}}, nil
	}
	if abort, ok := aborted(attempt.ID, err); ok {
		return &pb.CallResponse{Result: &pb.CallResponse_Abort{Abort: abort}}, nil
	}
	if err != nil {
		return nil, statusOf(req.GetGroup(), err)
	}
	return &pb.CallResponse{Result: &pb.CallResponse_Reply{Reply: &pb.StepReply{Payload: reply.Payload, ContentType: reply.ContentType}}}, nil
}

func (s *transactionsService) Commit(ctx context.Context, req *pb.CommitRequest) (*pb.CommitResponse, error) {
	commit, err := commitOf(req)
	if err != nil {
		return nil, err
	}
	c, err := s.transactor(req.GetGroup())
	if err != nil {
		return nil, err
	}
	receipt, err := c.Commit(ctx, commit)
	var indeterminate *Indeterminate
	if errors.As(err, &indeterminate) {
		return &pb.CommitResponse{Result: &pb.CommitResponse_Indeterminate{Indeterminate: &pb.Indeterminate{Detail: indeterminate.Detail}}}, nil
	}
	if abort, ok := aborted(commit.Attempt.ID, err); ok {
		return &pb.CommitResponse{Result: &pb.CommitResponse_Abort{Abort: abort}}, nil
	}
	if err != nil {
		return nil, statusOf(req.GetGroup(), err)
	}
	return &pb.CommitResponse{Result: &pb.CommitResponse_Receipt{Receipt: receiptToWire(receipt)}}, nil
}

func commitOf(req *pb.CommitRequest) (CommitRequest, error) {
	var c CommitRequest
	var err error
	if c.Attempt, err = attemptOf(req.GetAttempt()); err != nil {
		return c, err
	}
	if c.Attempt.Begun == 0 && (len(req.GetReads()) > 0 || len(req.GetScans()) > 0 || req.GetSteps() > 0) {
		return c, invalid("attempt.begun", "is 0, which begins and commits in one round: only for transactions that read nothing and called nobody; Begin this one")
	}
	if err = checkDigest(req.GetRequestDigest()); err != nil {
		return c, err
	}
	c.RequestDigest, c.Steps = req.GetRequestDigest(), req.GetSteps()
	if c.Reads, err = readsOf(req.GetReads()); err != nil {
		return c, err
	}
	if c.Scans, err = scansOf(req.GetScans()); err != nil {
		return c, err
	}
	if c.Ops, err = opsOf(req.GetOps()); err != nil {
		return c, err
	}
	c.Timeout, err = timeoutOf(req.GetTimeoutMs())
	return c, err
}

func (s *transactionsService) Abort(ctx context.Context, req *pb.AbortRequest) (*pb.AbortResponse, error) {
	attempt, err := attemptOf(req.GetAttempt())
	if err != nil {
		return nil, err
	}
	if n := len(req.GetReason()); n > maxAbortReason {
		return nil, invalid("reason", "has %d bytes; at most %d", n, maxAbortReason)
	}
	c, err := s.transactor(req.GetGroup())
	if err != nil {
		return nil, err
	}
	if err := c.Abort(ctx, attempt, req.GetReason()); err != nil {
		return nil, statusOf(req.GetGroup(), err)
	}
	return &pb.AbortResponse{}, nil
}

func (s *transactionsService) Outcome(ctx context.Context, req *pb.OutcomeRequest) (*pb.OutcomeResponse, error) {
	if err := checkID("id", req.GetId()); err != nil {
		return nil, err
	}
	c, err := s.transactor(req.GetGroup())
	if err != nil {
		return nil, err
	}
	info, err := c.Outcome(ctx, OutcomeRequest{ID: req.GetId(), Begun: req.GetBegun(), Settle: req.GetSettle()})
	if err != nil {
		return nil, statusOf(req.GetGroup(), err)
	}
	out := &pb.OutcomeResponse{State: info.State, Horizon: info.Horizon}
	if info.Receipt != nil {
		out.Receipt = receiptToWire(*info.Receipt)
	}
	if info.Aborted != nil {
		out.Abort, _ = aborted(req.GetId(), info.Aborted)
	}
	return out, nil
}

func (s *transactionsService) ListTransactions(ctx context.Context, req *pb.ListTransactionsRequest) (*pb.ListTransactionsResponse, error) {
	limit := int(req.GetLimit())
	switch {
	case limit == 0:
		limit = defaultListLimit
	case limit > maxListLimit:
		return nil, invalid("limit", "%d is too large; at most %d", limit, maxListLimit)
	}
	list := limit
	if id := req.GetId(); id != "" {
		if err := checkID("id", id); err != nil {
			return nil, err
		}
		list = maxListLimit
	}
	c, err := s.transactor(req.GetGroup())
	if err != nil {
		return nil, err
	}
	transactions, err := c.Transactions(ctx, list)
	if err != nil {
		return nil, statusOf(req.GetGroup(), err)
	}
	out := &pb.ListTransactionsResponse{}
	for _, t := range transactions {
		if (req.GetId() == "" || t.ID == req.GetId()) && len(out.Transactions) < limit {
			out.Transactions = append(out.Transactions, transactionToWire(t))
		}
	}
	return out, nil
}
