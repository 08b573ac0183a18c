package coordinator

import (
	"context"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/groups"
)

const (
	// coordinatorWait is how long a request waits for a coordinator: elections take
	// about a second, and the new leader has entries to apply.
	coordinatorWait = 5 * time.Second
	// retryPauseMin and retryPauseMax bound the pause between looks at who
	// coordinates, where nobody tells of changes.
	retryPauseMin = 10 * time.Millisecond
	retryPauseMax = 200 * time.Millisecond
	// probeTimeout is how long a node may take to say what it knows.
	probeTimeout = time.Second
	// directoryLookTimeout bounds the look whether a group was created just now.
	directoryLookTimeout = 2 * time.Second
)

// place is where a request is to be done. Neither here nor an address means
// that nobody is known who could.
type place struct {
	here bool
	node string
	addr string
	// changed is closed when it is worth looking again; may be nil.
	changed <-chan struct{}
}

// hints remember who led groups that have no replica on this node. A wrong one
// costs a round trip.
type hints struct {
	mu      sync.Mutex
	leaders map[string]string
}

func (h *hints) get(group string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.leaders[group]
}

// set remembers a leader; empty forgets it. Only groups of the directory come
// here, which bounds the map.
func (h *hints) set(group, node string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if node == "" {
		delete(h.leaders, group)
		return
	}
	h.leaders[group] = node
}

// record finds a group in the directory, asking for its newest state before it
// says that there is none.
func (s *Service) record(ctx context.Context, group string) (*groups.GroupRecord, error) {
	if record, ok := s.config.Groups.Directory().Group(group); ok {
		return record, nil
	}
	return s.newestRecord(ctx, group)
}

// newestRecord asks the directory. What a node has applied does not tell that a
// group is not there: a node that has just started knows none.
func (s *Service) newestRecord(ctx context.Context, group string) (*groups.GroupRecord, error) {
	ctx, cancel := context.WithTimeout(ctx, directoryLookTimeout)
	defer cancel()
	state, err := s.config.Directory.Read(ctx)
	if err != nil {
		return nil, failure(codes.Unavailable, reasonDirectory, []string{"group", group}, "node %q does not know group %q, and the directory does not answer (%v); try again later", s.config.Node, group, err)
	}
	if record, ok := state.Group(group); ok {
		return record, nil
	}
	return nil, failure(codes.NotFound, reasonUnknownGroup, []string{"group", group}, "there is no group %q; declare it with `cohort apply -f FILE`", group)
}

// placeOf is a node's place.
func (s *Service) placeOf(node string, changed <-chan struct{}) place {
	if node == s.config.Node {
		return place{here: true, node: node, addr: s.config.Addr, changed: changed}
	}
	n, ok := s.config.Groups.Directory().Node(node)
	if !ok {
		return place{changed: changed}
	}
	return place{node: node, addr: n.APIAddress, changed: changed}
}

// locateCoordinator tells where the group's coordinator runs, as far as is
// known.
func (s *Service) locateCoordinator(ctx context.Context, group string) (place, error) {
	record, err := s.record(ctx, group)
	if err != nil {
		return place{}, err
	}
	local := s.config.Groups.Group(group)
	if local.Coordinator != nil {
		if _, serving := local.Coordinator.Serving(); serving {
			return s.placeOf(s.config.Node, local.Changed), nil
		}
	}
	if local.Replica != nil && s.votesHere(record) {
		if local.Leader == "" || local.Leader == s.config.Node {
			return place{changed: local.Changed}, nil // an election, or this node is taking office
		}
		return s.placeOf(local.Leader, local.Changed), nil
	}
	if isForwarded(ctx) {
		return place{}, nil // a node that asks others on behalf of others makes circles
	}
	leader := s.hints.get(group)
	if leader == "" {
		leader = s.askForLeader(ctx, record)
		s.hints.set(group, leader)
	}
	if leader == "" {
		return place{}, nil
	}
	return s.placeOf(leader, nil), nil
}

// votesHere tells whether this node's replica of a group is a full one. One that
// joins may have nothing yet: it neither reads for clients nor knows who leads.
func (s *Service) votesHere(record *groups.GroupRecord) bool {
	member, ok := record.Member(s.config.Node)
	return ok && member.Voter()
}

// askForLeader asks the group's members who coordinates; one that does so itself
// is believed first.
func (s *Service) askForLeader(ctx context.Context, record *groups.GroupRecord) string {
	leader := ""
	for node, answer := range s.probe(ctx, record.Voters(), record.Name) {
		for _, replica := range answer.GetReplicas() {
			if replica.GetGroup() != record.Name {
				continue
			}
			if replica.GetServing() {
				return node
			}
			if replica.GetLeader() != "" {
				leader = replica.GetLeader()
			}
		}
	}
	return leader
}

// locateReplica tells where a replica of the group can be read: here if there is
// one, else at each try another member.
func (s *Service) locateReplica(ctx context.Context, group string, try int) (place, error) {
	record, err := s.record(ctx, group)
	if err != nil {
		return place{}, err
	}
	if s.config.Groups.Group(group).Replica != nil && s.votesHere(record) {
		return s.placeOf(s.config.Node, nil), nil
	}
	nodes := slices.DeleteFunc(record.Voters(), func(node string) bool { return node == s.config.Node })
	if len(nodes) == 0 {
		return place{}, nil
	}
	return s.placeOf(nodes[try%len(nodes)], nil), nil
}

// locateNode tells where a node is.
func (s *Service) locateNode(node string) (place, error) {
	p := s.placeOf(node, nil)
	if !p.here && p.addr == "" {
		return place{}, failure(codes.NotFound, reasonUnknownNode, []string{"node", node}, "there is no node %q; `cohort get nodes` lists them", node)
	}
	return p, nil
}

func (s *Service) connect(addr string) (*grpc.ClientConn, error) {
	return s.peers.to(addr, func() map[string]bool {
		known := make(map[string]bool)
		for _, n := range s.config.Groups.Directory().Nodes() {
			known[n.APIAddress] = true
		}
		return known
	})
}

// probe asks nodes at once what they know of a group, or of all when group is
// empty. Nodes that do not answer in time are left out.
func (s *Service) probe(ctx context.Context, nodes []string, group string) map[string]*pb.ProbeResponse {
	ctx, cancel := context.WithTimeout(forwardedContext(ctx), probeTimeout)
	defer cancel()
	type answer struct {
		node     string
		response *pb.ProbeResponse
	}
	answers := make(chan answer, len(nodes))
	for _, node := range nodes { // at most groups.MaxNodes
		go func() { // ends within probeTimeout; collected below
			response, err := s.probeOne(ctx, node, group)
			if err != nil {
				response = nil
			}
			answers <- answer{node, response}
		}()
	}
	out := make(map[string]*pb.ProbeResponse, len(nodes))
	for range nodes {
		if a := <-answers; a.response != nil {
			out[a.node] = a.response
		}
	}
	return out
}

func (s *Service) probeOne(ctx context.Context, node, group string) (*pb.ProbeResponse, error) {
	p, err := s.locateNode(node)
	if err != nil {
		return nil, err
	}
	if p.here {
		return s.selfProbe(ctx, group), nil
	}
	conn, err := s.connect(p.addr)
	if err != nil {
		return nil, err
	}
	return pb.NewPeersClient(conn).Probe(ctx, &pb.ProbeRequest{Group: group})
}

// AgentCoordinators finds coordinators for the node's agent.
func (s *Service) AgentCoordinators() groups.Coordinators { return agentCoordinators{s} }

type agentCoordinators struct{ service *Service }

// Participants looks at what this node has applied, and asks the directory when
// that does not have the wanted one.
func (a agentCoordinators) Participants(ctx context.Context, group, wanted string) ([]string, error) {
	if record, ok := a.service.config.Groups.Directory().Group(group); ok {
		if names, err := participantsOf(record); err == nil && slices.Contains(names, wanted) {
			return names, nil
		}
	}
	if checkName("group", group) != nil {
		return nil, groups.ErrNoGroup // no directory needs to be asked
	}
	record, err := a.service.newestRecord(ctx, group)
	if status.Code(err) == codes.NotFound {
		return nil, groups.ErrNoGroup
	}
	if err != nil {
		return nil, err
	}
	return participantsOf(record)
}

func participantsOf(record *groups.GroupRecord) ([]string, error) {
	definition, err := record.Definition()
	if err != nil {
		return nil, err
	}
	return definition.ParticipantNames(), nil
}

// Connect does not trust hints: it is called when the last session is lost.
func (a agentCoordinators) Connect(ctx context.Context, group string) (grpc.ClientConnInterface, error) {
	s := a.service
	pause := retryPauseMin
	for {
		s.hints.set(group, "")
		p, err := s.locateCoordinator(ctx, group)
		if err != nil {
			return nil, err
		}
		if p.addr != "" {
			return s.connect(p.addr)
		}
		if err := waitForChange(ctx, p.changed, pause); err != nil {
			return nil, failure(codes.Unavailable, reasonNoCoordinator, []string{"group", group}, "no node coordinates group %q now", group)
		}
		pause = min(2*pause, retryPauseMax)
	}
}

// waitForChange returns after a change or the pause, with an error when ctx
// ended.
func waitForChange(ctx context.Context, changed <-chan struct{}, pause time.Duration) error {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-changed:
		return nil
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
