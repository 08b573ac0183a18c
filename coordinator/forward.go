package coordinator

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/txlog/command"
)

const (
	// forwardedHeader marks a request that another node sent on. It is done where
	// it arrives, or not at all: two nodes that each take the other for the
	// coordinator would pass it to and fro.
	forwardedHeader = "cohort-forwarded"
	// coordinatorHeader of a response names the API address of the coordinator
	// that did it, so that the client can go there itself.
	coordinatorHeader = "cohort-coordinator"
	// forwardTimeout bounds what is forwarded for a client that set no deadline.
	forwardTimeout = 10 * time.Minute
)

func isForwarded(ctx context.Context) bool {
	return len(metadata.ValueFromIncomingContext(ctx, forwardedHeader)) > 0
}

// forwardedContext is for requests to another node; the deadline goes along.
func forwardedContext(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, forwardedHeader, "1")
}

// target says who can do a request; exactly one kind of it is set.
type target struct {
	group string
	// coordinator: only the group's coordinator can.
	coordinator bool
	// replica: any node with a replica of the group can.
	replica bool
	// node: that node can.
	node string
}

func (t target) String() string {
	switch {
	case t.coordinator:
		return fmt.Sprintf("the coordinator of group %q", t.group)
	case t.replica:
		return fmt.Sprintf("a replica of group %q", t.group)
	}
	return fmt.Sprintf("node %q", t.node)
}

// route finds a request's target; nil is this node. Its error refuses the
// request at the edge, and may be an *Aborted, which the handler answers with.
type route struct {
	target func(req proto.Message) (*target, error)
	// newResponse makes an empty response of the method.
	newResponse func() proto.Message
}

func (s *Service) makeRoutes() map[string]route {
	coordinator := func(req proto.Message) (*target, error) {
		group := req.(interface{ GetGroup() string }).GetGroup()
		return &target{group: group, coordinator: true}, checkName("group", group)
	}
	routes := map[string]route{
		pb.Transactions_Begin_FullMethodName:            {target: coordinator},
		pb.Transactions_Call_FullMethodName:             {target: coordinator},
		pb.Transactions_Commit_FullMethodName:           {target: coordinator},
		pb.Transactions_Abort_FullMethodName:            {target: coordinator},
		pb.Transactions_Outcome_FullMethodName:          {target: coordinator},
		pb.Transactions_ListTransactions_FullMethodName: {target: coordinator},
		pb.Peers_Configure_FullMethodName:               {target: coordinator},
		pb.Checkpoints_CreateCheckpoint_FullMethodName:  {target: coordinator},
		pb.Peers_ReportReplica_FullMethodName:           {target: coordinator},
		pb.Peers_ReportCapture_FullMethodName:           {target: coordinator},
		pb.Participants_FindState_FullMethodName: {target: func(req proto.Message) (*target, error) {
			group := req.(*pb.FindStateRequest).GetGroup()
			return &target{group: group, replica: true}, checkName("group", group)
		}},
		pb.Transactions_Get_FullMethodName:  {target: s.readTarget},
		pb.Transactions_Scan_FullMethodName: {target: s.readTarget},
		pb.Transactions_BeginRead_FullMethodName: {target: func(req proto.Message) (*target, error) {
			group := req.(*pb.BeginReadRequest).GetGroup()
			return &target{group: group, replica: true}, checkName("group", group)
		}},
		pb.Transactions_EndRead_FullMethodName: {target: func(req proto.Message) (*target, error) {
			r := req.(*pb.EndReadRequest)
			if err := checkName("group", r.GetGroup()); err != nil {
				return nil, err
			}
			return s.sessionTarget(r.GetGroup(), r.GetReadSession()), nil
		}},
		pb.Cluster_Digest_FullMethodName: {target: func(req proto.Message) (*target, error) {
			r := req.(*pb.DigestRequest)
			if err := checkName("group", r.GetGroup()); err != nil {
				return nil, err
			}
			if r.GetNode() == "" {
				return &target{group: r.GetGroup(), replica: true}, nil
			}
			return &target{group: r.GetGroup(), node: r.GetNode()}, checkName("node", r.GetNode())
		}},
	}
	for method, r := range routes {
		r.newResponse = responseOf(method)
		routes[method] = r
	}
	return routes
}

// responseOf finds the response type of a method like "/cohort.v1.Log/Follow".
func responseOf(fullMethod string) func() proto.Message {
	for _, file := range []protoreflect.FileDescriptor{pb.File_cohort_v1_transactions_proto, pb.File_cohort_v1_participants_proto, pb.File_cohort_v1_cluster_proto, pb.File_cohort_v1_checkpoints_proto} {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				method := service.Methods().Get(j)
				if fmt.Sprintf("/%s/%s", service.FullName(), method.Name()) != fullMethod {
					continue
				}
				response, err := protoregistry.GlobalTypes.FindMessageByName(method.Output().FullName())
				if err != nil {
					panic("generated code registers every message: " + err.Error())
				}
				return func() proto.Message { return response.New().Interface() }
			}
		}
	}
	panic("no method " + fullMethod + " in the API")
}

// readRequest is what Get and Scan have in common.
type readRequest interface {
	GetGroup() string
	GetAttempt() *pb.Attempt
	GetReadSession() uint64
	GetStale() bool
}

// readTarget: attempts are read where they were begun, sessions where they are,
// and stale reads anywhere.
func (s *Service) readTarget(req proto.Message) (*target, error) {
	r := req.(readRequest)
	if err := checkName("group", r.GetGroup()); err != nil {
		return nil, err
	}
	switch {
	case r.GetAttempt() != nil:
		return &target{group: r.GetGroup(), coordinator: true}, nil
	case r.GetReadSession() != 0:
		return s.sessionTarget(r.GetGroup(), r.GetReadSession()), nil
	case r.GetStale():
		return &target{group: r.GetGroup(), replica: true}, nil
	}
	return nil, invalid("at", "is missing; give an attempt, a read_session, or stale")
}

// sessionTarget is the node that holds a read session; nil when no node can, and
// then the answer is made here.
func (s *Service) sessionTarget(group string, number uint64) *target {
	for _, n := range s.config.Groups.Directory().Nodes() {
		if n.ReplicaID == readNode(number) {
			return &target{group: group, node: n.Name}
		}
	}
	return nil
}

// forwardUnary does a request here if it can be done here, else where it can. It
// waits, bounded, while nobody is known who could, as during an election.
func (s *Service) forwardUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	r, ok := s.routes[info.FullMethod]
	if !ok {
		return handler(ctx, req)
	}
	message := req.(proto.Message)
	t, err := r.target(message)
	if err != nil {
		return nil, err
	}
	if t == nil {
		return handler(ctx, req)
	}
	return s.dispatch(ctx, *t, func(ctx context.Context) (any, error) {
		return handler(ctx, req)
	}, func(ctx context.Context, conn *grpc.ClientConn) (any, error) {
		response := r.newResponse()
		return response, conn.Invoke(ctx, info.FullMethod, message, response)
	})
}

// dispatch has a request done by its target: by here on this node, or by there
// over a connection to another one. What fails because the target has moved, or
// before it could be reached, is done again; every request of the API may be
// sent again.
func (s *Service) dispatch(ctx context.Context, t target, here func(context.Context) (any, error), there func(context.Context, *grpc.ClientConn) (any, error)) (any, error) {
	forwarded := isForwarded(ctx)
	wait, cancel := context.WithTimeout(ctx, s.wait)
	defer cancel()
	pause := retryPauseMin
	var last error
	for try := 0; ; try++ {
		p, err := s.locate(ctx, t, try)
		if err != nil {
			return nil, err
		}
		switch {
		case p.here:
			response, err := here(ctx)
			if err == nil || !movedOn(err) {
				return response, err
			}
			last = err
		case forwarded:
			last = statusOf(t.group, ErrNotServing)
		case p.addr != "":
			response, err := s.send(ctx, p, there)
			if err == nil && t.coordinator {
				// The header is a convenience: without it the client asks here again.
				_ = grpc.SetHeader(ctx, metadata.Pairs(coordinatorHeader, p.addr))
			}
			if err == nil || !movedOn(err) {
				return response, err
			}
			last = err
			s.hints.set(t.group, "")
		}
		if forwarded {
			return nil, last
		}
		if err := waitForChange(wait, p.changed, pause); err != nil {
			if ctx.Err() != nil {
				return nil, status.FromContextError(ctx.Err()).Err()
			}
			return nil, unreachable(t, s.wait, last)
		}
		pause = min(2*pause, retryPauseMax)
	}
}

func (s *Service) locate(ctx context.Context, t target, try int) (place, error) {
	switch {
	case t.coordinator:
		return s.locateCoordinator(ctx, t.group)
	case t.replica:
		return s.locateReplica(ctx, t.group, try)
	}
	return s.locateNode(t.node)
}

func (s *Service) send(ctx context.Context, p place, there func(context.Context, *grpc.ClientConn) (any, error)) (any, error) {
	conn, err := s.connect(p.addr)
	if err != nil {
		return nil, err
	}
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, forwardTimeout)
		defer cancel()
	}
	return there(forwardedContext(ctx), conn)
}

// movedOn tells whether a request should be tried again, perhaps elsewhere: its
// target could not be reached or is not what it was taken for.
func movedOn(err error) bool {
	if status.Code(err) != codes.Unavailable {
		return false
	}
	return !hasReason(err, reasonDirectory)
}

// unreachable is the answer after the wait.
func unreachable(t target, wait time.Duration, last error) error {
	reason := reasonNoCoordinator
	if !t.coordinator {
		reason = reasonNoReplica
	}
	why := "none is known"
	if last != nil {
		why = status.Convert(last).Message()
	}
	return failure(codes.Unavailable, reason, []string{"group", t.group, "node", t.node},
		"%s could not be reached within %s (%s); try again later, `cohort status` says more", t, wait, why)
}

// aborted gives an error of a read its place in a response, if it has one.
func aborted(id string, err error) (*pb.Abort, bool) {
	a, ok := asAborted(err)
	if !ok {
		return nil, false
	}
	if a.ID == "" {
		a.ID = id
	}
	return abortToWire(&a), true
}

// abortedWith makes an abort that concerns no key.
func abortedWith(reason command.Reason, participant, detail string) *Aborted {
	return &Aborted{Reason: reason, Participant: participant, Detail: detail}
}
