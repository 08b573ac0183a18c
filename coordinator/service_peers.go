package coordinator

import (
	"context"
	"errors"
	"io"
	"strconv"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/groups"
)

const (
	// sessionQueueMessages and sessionQueueBytes bound what waits for a node's
	// agent to read it. An agent that lets it fill up loses its session and opens
	// another: the coordinator's loop never waits for it.
	sessionQueueMessages = 32768
	sessionQueueBytes    = 256 << 20
	// recentForLastCommit outcomes are looked through for the last commit.
	recentForLastCommit = 16
)

type peersService struct {
	pb.UnimplementedPeersServer
	*Service
}

func isEOF(err error) bool { return errors.Is(err, io.EOF) }

func uintText(v uint64) string { return strconv.FormatUint(v, 10) }

// Session connects the agent of a node with the coordinator here; an agent that
// came to the wrong node looks for the right one.
func (s *peersService) Session(stream grpc.BidiStreamingServer[pb.AgentMessage, pb.CoordinatorMessage]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	hello := first.GetHello()
	if hello == nil {
		return invalid("message", "the first message of a session must be a hello")
	}
	if err := checkName("hello.node", hello.GetNode()); err != nil {
		return err
	}
	if err := checkName("hello.group", hello.GetGroup()); err != nil {
		return err
	}
	c, err := s.transactor(hello.GetGroup())
	if err != nil {
		return err
	}
	outgoing := newSessionQueue()
	session, err := c.OpenSession(hello.GetNode(), outgoing.push)
	if err != nil {
		return statusOf(hello.GetGroup(), err)
	}
	defer session.Close()

	// Both goroutines end with the stream, which ends when this method returns:
	// Recv and Send fail then. Neither touches the session after it: the receiver
	// stops at done.
	done := make(chan struct{})
	var receiving sync.Mutex // held while the session gets a message
	defer func() {
		receiving.Lock()
		close(done)
		receiving.Unlock()
	}()
	ended := make(chan error, 2)
	go func() {
		for {
			m, err := stream.Recv()
			if err == nil {
				receiving.Lock()
				select {
				case <-done:
					receiving.Unlock()
					return
				default:
				}
				err = session.Receive(m)
				receiving.Unlock()
			}
			if err != nil {
				if isEOF(err) {
					err = nil // the agent has said its last
				}
				ended <- err
				return
			}
		}
	}()
	go func() { ended <- outgoing.drain(stream, done) }()
	select {
	case err := <-ended:
		if err == nil {
			return nil
		}
		return statusOf(hello.GetGroup(), err)
	case <-session.Done():
		return statusOf(hello.GetGroup(), ErrNotServing)
	case <-outgoing.overflowed:
		return failure(codes.ResourceExhausted, reasonOverloaded, nil, "the agent does not read its session: more than %d messages or %d bytes were waiting", sessionQueueMessages, sessionQueueBytes)
	}
}

// sessionQueue takes messages from the coordinator's loop without ever making it
// wait.
type sessionQueue struct {
	mu       sync.Mutex
	messages []*pb.CoordinatorMessage
	bytes    int
	ready    chan struct{} // holds a token when there is something to do
	// overflowed is closed when too much waited; drain may be stuck in a Send then.
	overflowed chan struct{}
	overflow   sync.Once
}

func newSessionQueue() *sessionQueue {
	return &sessionQueue{ready: make(chan struct{}, 1), overflowed: make(chan struct{})}
}

func (q *sessionQueue) push(m *pb.CoordinatorMessage) {
	size := proto.Size(m)
	q.mu.Lock()
	if len(q.messages) >= sessionQueueMessages || q.bytes+size > sessionQueueBytes {
		q.overflow.Do(func() { close(q.overflowed) })
	} else {
		q.messages = append(q.messages, m)
		q.bytes += size
	}
	q.mu.Unlock()
	select {
	case q.ready <- struct{}{}:
	default: // a token is there already
	}
}

// drain sends what is pushed until the stream ends.
func (q *sessionQueue) drain(stream grpc.BidiStreamingServer[pb.AgentMessage, pb.CoordinatorMessage], done <-chan struct{}) error {
	for {
		select {
		case <-q.ready:
		case <-done:
			return nil
		}
		q.mu.Lock()
		batch := q.messages
		q.messages, q.bytes = nil, 0
		q.mu.Unlock()
		for _, m := range batch {
			if err := stream.Send(m); err != nil {
				return err
			}
		}
	}
}

// Probe tells what this node knows by itself.
func (s *peersService) Probe(ctx context.Context, req *pb.ProbeRequest) (*pb.ProbeResponse, error) {
	if req.GetGroup() != "" {
		if err := checkName("group", req.GetGroup()); err != nil {
			return nil, err
		}
	}
	return s.selfProbe(ctx, req.GetGroup()), nil
}

func (s *Service) selfProbe(ctx context.Context, group string) *pb.ProbeResponse {
	out := &pb.ProbeResponse{Node: s.config.Node, Version: s.config.Version, DirectoryLeader: s.config.LeadsDirectory()}
	for _, record := range s.config.Groups.Directory().Groups() {
		if group != "" && record.Name != group {
			continue
		}
		if _, member := record.Member(s.config.Node); member {
			out.Replicas = append(out.Replicas, s.probeReplica(ctx, record))
		}
	}
	return out
}

func (s *Service) probeReplica(ctx context.Context, record *groups.GroupRecord) *pb.ReplicaProbe {
	out := &pb.ReplicaProbe{Group: record.Name}
	local := s.config.Groups.Group(record.Name)
	if local.Replica == nil {
		out.Error = "the replica is starting"
		if local.Err != nil {
			out.Error = "the replica does not run: " + local.Err.Error()
		}
		return out
	}
	state := local.Replica.Status()
	out.Leader, out.Position, out.AppliedIndex = local.Leader, state.Position, state.Published
	out.Incarnation, out.FirstPosition, out.LogBytes = state.Incarnation, state.FirstPosition, uint64(max(state.LogBytes, 0))
	if state.Err != nil {
		out.Error = state.Err.Error()
	} else if err := errors.Join(probeView(local.Replica, out), probeCheckpoints(local, out)); err != nil {
		out.Error = err.Error()
	}
	if local.Coordinator == nil {
		return out
	}
	epoch, serving := local.Coordinator.Serving()
	if !serving {
		return out
	}
	out.Serving, out.CoordinatorEpoch, out.Leader = true, epoch, s.config.Node
	if participants, err := local.Coordinator.Participants(ctx); err == nil {
		for _, p := range participants {
			out.Participants = append(out.Participants, participantToWire(record.Name, p, state.Position))
		}
	}
	if transactions, err := local.Coordinator.Transactions(ctx, maxListLimit); err == nil {
		for _, t := range transactions {
			if t.State != "committed" && t.State != "aborted" {
				out.OpenTransactions++
			}
		}
	}
	return out
}

// probeView adds what only the state itself tells.
func probeView(replica LocalReplica, out *pb.ReplicaProbe) error {
	view, err := replica.View(0)
	if err != nil {
		return err
	}
	defer view.Close()
	meta, err := view.Meta()
	if err != nil {
		return err
	}
	out.Outcomes, out.Horizon, out.Version = meta.Outcomes, meta.Horizon, meta.ConfigVersion
	recent, err := view.RecentOutcomes(recentForLastCommit)
	if err != nil {
		return err
	}
	for _, o := range recent {
		if o.Committed {
			out.LastCommitUnixNano = o.TimeUnixNano
			break
		}
	}
	return nil
}

// Configure changes a group at its coordinator and lets the directory follow.
func (s *peersService) Configure(ctx context.Context, req *pb.ConfigureRequest) (*pb.ConfigureResponse, error) {
	definition, err := groups.Decode(req.GetDefinitionJson())
	if err != nil {
		return nil, invalid("definition_json", "%v", err)
	}
	if definition.Group != req.GetGroup() {
		return nil, invalid("definition_json", "defines group %q, not %q", definition.Group, req.GetGroup())
	}
	c, err := s.transactor(req.GetGroup())
	if err != nil {
		return nil, err
	}
	version, err := c.Configure(ctx, definition, req.GetPrune())
	if err != nil {
		return nil, statusOf(req.GetGroup(), err)
	}
	// A crash here leaves the directory behind the log, until the coordinating
	// node brings it up.
	state, err := s.config.Directory.Read(ctx)
	if err != nil {
		return nil, statusOf(req.GetGroup(), err)
	}
	record, ok := state.Group(req.GetGroup())
	if ok && record.Version < version {
		if _, err := s.config.Directory.SetDefinition(ctx, &definition, record.Version, version); err != nil {
			return nil, statusOf(req.GetGroup(), err)
		}
	}
	return &pb.ConfigureResponse{Version: version}, nil
}
