package coordinator

import (
	"context"
	"fmt"
	"slices"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/groups"
)

// lagWorthMention is how many positions a replica may be behind without being
// called unhealthy: entries on their way are not a reason to wake anybody.
const lagWorthMention = 1000

// survey is what the nodes of the cluster said of themselves, at about one time.
// Its methods only put it together.
type survey struct {
	directory *groups.DirectoryState
	records   []*groups.GroupRecord
	answers   map[string]*pb.ProbeResponse // by node; without those that were silent
}

// survey asks every node about a group, or about all when it is empty.
func (s *Service) survey(ctx context.Context, group string) *survey {
	directory := s.config.Groups.Directory()
	sv := &survey{directory: directory}
	for _, record := range directory.Groups() {
		if group == "" || record.Name == group {
			sv.records = append(sv.records, record)
		}
	}
	names := make([]string, len(directory.Nodes()))
	for i, n := range directory.Nodes() {
		names[i] = n.Name
	}
	sv.answers = s.probe(ctx, names, group)
	return sv
}

// replica is what a node said of its replica of a group; nil when it said
// nothing.
func (sv *survey) replica(node, group string) *pb.ReplicaProbe {
	for _, r := range sv.answers[node].GetReplicas() {
		if r.GetGroup() == group {
			return r
		}
	}
	return nil
}

// serving is the replica whose node coordinates the group: of two that say so,
// the one with the higher epoch.
func (sv *survey) serving(record *groups.GroupRecord) (node string, replica *pb.ReplicaProbe) {
	for _, member := range record.Nodes() {
		r := sv.replica(member, record.Name)
		if r.GetServing() && (replica == nil || r.GetCoordinatorEpoch() > replica.GetCoordinatorEpoch()) {
			node, replica = member, r
		}
	}
	return node, replica
}

// position is the highest one that any replica has applied.
func (sv *survey) position(record *groups.GroupRecord) (position uint64) {
	for _, member := range record.Nodes() {
		position = max(position, sv.replica(member, record.Name).GetPosition())
	}
	return position
}

func (sv *survey) nodes() []*pb.NodeInfo {
	out := make([]*pb.NodeInfo, 0, len(sv.directory.Nodes()))
	for _, n := range sv.directory.Nodes() {
		info := &pb.NodeInfo{Name: n.Name, Addr: n.APIAddress, RaftAddr: n.RaftAddress, State: "down"}
		if answer := sv.answers[n.Name]; answer != nil {
			info.State, info.Version, info.DirectoryLeader = "up", answer.GetVersion(), answer.GetDirectoryLeader()
		}
		for _, record := range sv.directory.Groups() {
			if _, member := record.Member(n.Name); member {
				info.Groups = append(info.Groups, record.Name)
			}
		}
		out = append(out, info)
	}
	return out
}

func (sv *survey) groups() []*pb.GroupInfo {
	out := make([]*pb.GroupInfo, 0, len(sv.records))
	for _, record := range sv.records {
		info := &pb.GroupInfo{
			Name: record.Name, Incarnation: record.Incarnation, Replicas: record.Nodes(), Version: record.Version,
			DefinitionJson: record.DefinitionJSON, Position: sv.position(record),
		}
		if definition, err := record.Definition(); err == nil {
			info.Participants = definition.ParticipantNames()
		}
		if node, replica := sv.serving(record); replica != nil {
			info.Coordinator, info.Version = node, max(info.Version, replica.GetVersion())
			if n, ok := sv.directory.Node(node); ok {
				info.CoordinatorAddr = n.APIAddress
			}
		}
		out = append(out, info)
	}
	return out
}

// participants are as the coordinator sees them; without one, by name only.
func (sv *survey) participants(record *groups.GroupRecord) []*pb.ParticipantInfo {
	if _, replica := sv.serving(record); replica != nil {
		return replica.GetParticipants()
	}
	definition, err := record.Definition()
	if err != nil {
		return nil
	}
	var out []*pb.ParticipantInfo
	for _, name := range definition.ParticipantNames() {
		out = append(out, &pb.ParticipantInfo{Group: record.Name, Name: name, State: "detached", Reason: "the group has no coordinator now"})
	}
	return out
}

// status judges what was found. Of a single group, only the nodes that it is on
// matter.
func (sv *survey) status(everything bool) *pb.StatusResponse {
	out := &pb.StatusResponse{Nodes: sv.nodes()}
	if everything {
		for _, n := range out.Nodes {
			if n.State != "up" {
				out.Reasons = append(out.Reasons, fmt.Sprintf("node %s at %s does not answer", n.Name, n.Addr))
			}
		}
	}
	for _, record := range sv.records {
		out.Groups = append(out.Groups, sv.groupStatus(record))
	}
	out.Healthy = len(out.Reasons) == 0
	for _, g := range out.Groups {
		out.Healthy = out.Healthy && g.Healthy
	}
	return out
}

func (sv *survey) groupStatus(record *groups.GroupRecord) *pb.GroupStatus {
	out := &pb.GroupStatus{
		Name: record.Name, Incarnation: record.Incarnation, Version: record.Version, Position: sv.position(record),
		Participants: sv.participants(record),
	}
	node, serving := sv.serving(record)
	voters, running := record.Voters(), 0
	for _, member := range record.Nodes() {
		r := sv.replicaStatus(record, member, node, out.Position)
		if r.Reason != "" {
			out.Reasons = append(out.Reasons, fmt.Sprintf("replica on %s: %s", member, r.Reason))
		}
		if r.Role != "unreachable" && slices.Contains(voters, member) {
			running++
		}
		out.Replicas = append(out.Replicas, r)
	}
	quorum := len(voters)/2 + 1
	switch {
	case running < quorum:
		out.Reasons = append(out.Reasons, fmt.Sprintf("only %d of %d replicas answer and a quorum is %d: nothing can commit until more are back", running, len(voters), quorum))
	case serving == nil:
		out.Reasons = append(out.Reasons, "no node coordinates the group: an election may be under way")
	}
	if serving != nil {
		out.Coordinator, out.CoordinatorEpoch = node, serving.GetCoordinatorEpoch()
		out.OpenTransactions, out.LastCommit = serving.GetOpenTransactions(), timeToWire(serving.GetLastCommitUnixNano())
		out.LogBytes, out.FirstPosition, out.Outcomes, out.Horizon = serving.GetLogBytes(), serving.GetFirstPosition(), serving.GetOutcomes(), serving.GetHorizon()
		out.Version = max(out.Version, serving.GetVersion())
		sv.checkpointStatus(record, serving, out)
		for _, p := range out.Participants {
			if p.Reason != "" {
				out.Reasons = append(out.Reasons, fmt.Sprintf("participant %s is %s: %s", p.Name, p.State, p.Reason))
			}
		}
	}
	out.Healthy = len(out.Reasons) == 0
	return out
}

func (sv *survey) replicaStatus(record *groups.GroupRecord, node, coordinator string, position uint64) *pb.ReplicaStatus {
	out := &pb.ReplicaStatus{Node: node, Role: "unreachable"}
	if sv.answers[node] == nil {
		out.Reason = "the node does not answer"
		return out
	}
	r := sv.replica(node, record.Name)
	joining := !slices.Contains(record.Voters(), node)
	if r == nil && joining {
		out.Role = "joining"
		return out
	}
	if r == nil {
		out.Reason = "the node does not know of it yet"
		return out
	}
	out.Position, out.AppliedIndex, out.Lag = r.GetPosition(), r.GetAppliedIndex(), position-r.GetPosition()
	out.Role = "follower"
	switch {
	case r.GetError() != "":
		out.Role, out.Reason = "unreachable", r.GetError()
	case node == coordinator:
		out.Role = "leader"
	case joining:
		out.Role = "joining"
	}
	if out.Reason == "" && !joining && out.Lag > lagWorthMention {
		out.Reason = fmt.Sprintf("%d positions behind", out.Lag)
	}
	return out
}
