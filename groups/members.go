package groups

import (
	"fmt"
	"maps"
	"slices"
)

// MaxCatchUpLag is how many entries a replica may be behind its leader and count
// as caught up: what is on its way while a group works.
const MaxCatchUpLag = 1000

// ShardView is all that decides about the replicas of one shard: what the
// directory says, what Raft says, and what the nodes say of their replicas.
type ShardView struct {
	// Group is empty for the directory itself.
	Group   string
	ShardID uint64
	// Members are the directory's, Wanted the nodes that should hold a replica.
	Members []Member
	Wanted  []string
	// MaxVoters bounds the replicas that vote; those of further nodes follow only.
	MaxVoters int
	// Held says, by node, why its replica must not be removed yet.
	Held map[string]string
	// Problem is why nobody can say what is wanted; empty otherwise.
	Problem string
	// Raft is what the shard's leader says of its members; nil while nobody leads.
	Raft *RaftMembers
	// Reports are those of the replicas that answer, by replica.
	Reports map[uint64]ReplicaReport
	// Floor is what the leader had applied a moment ago: a replica that gets the log
	// has it too. 0 when nobody looked then.
	Floor uint64
}

// RaftMembers are a shard's members as its log has them.
type RaftMembers struct {
	Leader           uint64
	Voters, Learners []uint64
	// Removed are for good.
	Removed []uint64
	// ConfigID is that of the last change; a change that does not name it is
	// refused.
	ConfigID uint64
}

// ReplicaReport is what a node says of its replica.
type ReplicaReport struct {
	// Applied counts what it has of the log: its index.
	Applied uint64
	// Problem is why it is no good; empty otherwise.
	Problem string
}

// StepKind is a kind of Step.
type StepKind uint8

const (
	// StepDone: everything is as it should be.
	StepDone StepKind = 1
	// StepWait: what is to happen next happens by itself, or somebody else does it.
	StepWait StepKind = 2
	// StepBlocked: nothing can be done safely until an operator has done something.
	StepBlocked StepKind = 3
	// StepPlan: the directory gives the node a replica.
	StepPlan StepKind = 4
	// StepAdd: Raft takes the replica in, without a vote.
	StepAdd StepKind = 5
	// StepPromote: Raft gives the replica a vote.
	StepPromote StepKind = 6
	// StepRecord: the directory learns that the replica votes.
	StepRecord StepKind = 7
	// StepTransfer: the replica, which is to be removed, makes Target the leader.
	StepTransfer StepKind = 8
	// StepRemove: Raft removes the replica, for good.
	StepRemove StepKind = 9
	// StepDrop: the directory forgets the replica.
	StepDrop StepKind = 10
)

// String names the kind.
func (k StepKind) String() string {
	switch k {
	case StepDone:
		return "done"
	case StepWait:
		return "wait"
	case StepBlocked:
		return "blocked"
	case StepPlan:
		return "plan"
	case StepAdd:
		return "add"
	case StepPromote:
		return "promote"
	case StepRecord:
		return "record"
	case StepTransfer:
		return "transfer"
	case StepRemove:
		return "remove"
	case StepDrop:
		return "drop"
	default:
		return fmt.Sprintf("StepKind(%d)", uint8(k))
	}
}

// Step is the one thing to do next about a shard's members.
type Step struct {
	Kind      StepKind
	Node      string
	ReplicaID uint64
	// Target of a transfer.
	Target uint64
	// ConfigID that a change of Raft's members has to name.
	ConfigID uint64
	// Reason of waiting or of being blocked.
	Reason string
}

// Acts tells whether there is something to do.
func (s Step) Acts() bool { return s.Kind >= StepPlan }

// Text says it for people.
func (s Step) Text() string {
	switch s.Kind {
	case StepDone:
		return "nothing is to be done"
	case StepWait, StepBlocked:
		return s.Reason
	case StepPlan:
		return fmt.Sprintf("give node %s a replica", s.Node)
	case StepAdd:
		return fmt.Sprintf("add replica %d on %s without a vote", s.ReplicaID, s.Node)
	case StepPromote:
		return fmt.Sprintf("give replica %d on %s a vote", s.ReplicaID, s.Node)
	case StepRecord:
		return fmt.Sprintf("record that replica %d on %s votes", s.ReplicaID, s.Node)
	case StepTransfer:
		return fmt.Sprintf("make replica %d the leader in place of replica %d on %s", s.Target, s.ReplicaID, s.Node)
	case StepRemove:
		return fmt.Sprintf("remove replica %d on %s", s.ReplicaID, s.Node)
	default:
		return fmt.Sprintf("forget replica %d on %s", s.ReplicaID, s.Node)
	}
}

// NextStep decides the next single step, or why there is none. Whatever was
// interrupted, by whatever crash, it goes on from what is the case. Its steps
// keep these:
//
//   - A change of Raft's voters happens only while a quorum of those before it
//     is healthy (otherwise it could not be agreed on), and only if a quorum of
//     those after it is: healthy is a replica that answers, has no problem and is
//     caught up.
//   - A new replica gets a vote when it is caught up, and never before.
//   - Replicas that work leave after those that take their place vote; those that
//     are gone leave first, since they only make the quorum larger.
//   - A replica whose data is lost is removed before the one that takes its place on
//     the same node is added: Raft knows one an address.
//   - A leader hands over before it is removed.
//   - The directory forgets a replica when Raft has removed it for good, so that
//     its id is known until nothing can bring it back.
func NextStep(v *ShardView) Step {
	if step, ok := v.planNext(); ok {
		return step
	}
	if v.Raft == nil {
		if v.settled() {
			return Step{Kind: StepDone}
		}
		return Step{Kind: StepBlocked, Reason: "no replica leads: a majority of the voting replicas must be connected" + v.silentText()}
	}
	for _, next := range []func() (Step, bool){v.recordNext, v.removeGoneNext, v.addNext, v.promoteNext, v.removeLiveNext} {
		if step, ok := next(); ok {
			return step
		}
	}
	return Step{Kind: StepDone}
}

// settled tells whether the directory's part is as it should be.
func (v *ShardView) settled() bool {
	voters := 0
	for _, m := range v.Members {
		if v.unwanted(m) {
			return false
		}
		if m.Voter() {
			voters++
		}
	}
	return v.Problem == "" && voters >= min(len(v.Wanted), v.MaxVoters)
}

func (v *ShardView) wanted(node string) bool { return slices.Contains(v.Wanted, node) }

// unwanted tells whether a replica is to go.
func (v *ShardView) unwanted(m Member) bool { return m.Leaving || !v.wanted(m.Node) }

func (v *ShardView) inRaft(id uint64) bool {
	return slices.Contains(v.Raft.Voters, id) || slices.Contains(v.Raft.Learners, id)
}

// planNext gives wanted nodes a replica.
func (v *ShardView) planNext() (Step, bool) {
	if v.Problem != "" {
		return Step{Kind: StepBlocked, Reason: v.Problem}, true
	}
	if len(v.Wanted) == 0 {
		return Step{Kind: StepBlocked, Reason: "no node that stays may hold a replica"}, true
	}
	for _, node := range slices.Sorted(slices.Values(v.Wanted)) {
		if !slices.ContainsFunc(v.Members, func(m Member) bool { return m.Node == node && !m.Leaving }) {
			return Step{Kind: StepPlan, Node: node}, true
		}
	}
	return Step{}, false
}

// recordNext tells the directory what Raft has done.
func (v *ShardView) recordNext() (Step, bool) {
	for _, m := range v.Members {
		if slices.Contains(v.Raft.Removed, m.ReplicaID) {
			return Step{Kind: StepDrop, Node: m.Node, ReplicaID: m.ReplicaID}, true
		}
		if !m.Voter() && !m.Leaving && slices.Contains(v.Raft.Voters, m.ReplicaID) {
			return Step{Kind: StepRecord, Node: m.Node, ReplicaID: m.ReplicaID}, true
		}
	}
	return Step{}, false
}

// healthy tells whether a replica can do its part of a quorum.
func (v *ShardView) healthy(id uint64) bool { return v.illness(id) == "" }

func (v *ShardView) illness(id uint64) string {
	r, ok := v.Reports[id]
	leader := v.Reports[v.Raft.Leader]
	switch {
	case !ok:
		return "does not answer"
	case r.Problem != "":
		return r.Problem
	case r.Applied == 0:
		return "has nothing yet"
	case r.Applied+MaxCatchUpLag < leader.Applied, r.Applied < v.Floor:
		return fmt.Sprintf("is %d entries behind", max(leader.Applied, v.Floor)-r.Applied)
	}
	return ""
}

func (v *ShardView) healthyVoters() (n int) {
	for _, id := range v.Raft.Voters {
		if v.healthy(id) {
			n++
		}
	}
	return n
}

func quorum(voters int) int { return voters/2 + 1 }

// noQuorum says that nothing can be agreed on now.
func (v *ShardView) noQuorum() (Step, bool) {
	healthy, needed := v.healthyVoters(), quorum(len(v.Raft.Voters))
	if healthy >= needed {
		return Step{}, false
	}
	return Step{Kind: StepBlocked, Reason: fmt.Sprintf("%d of %d voting replicas are well and %d must be%s", healthy, len(v.Raft.Voters), needed, v.silentText())}, true
}

// silentText names the voting replicas that are not well.
func (v *ShardView) silentText() string {
	text := ""
	for _, m := range v.Members {
		why := "does not answer"
		if v.Raft != nil {
			if !slices.Contains(v.Raft.Voters, m.ReplicaID) {
				continue
			}
			why = v.illness(m.ReplicaID)
		} else if r, ok := v.Reports[m.ReplicaID]; ok {
			why = r.Problem
		}
		if why != "" {
			text += fmt.Sprintf("; replica %d on %s: %s", m.ReplicaID, m.Node, why)
		}
	}
	return text
}

// removeGoneNext removes the replicas that are to go and do nothing for their
// shard: those that do not answer, and those without a vote.
func (v *ShardView) removeGoneNext() (Step, bool) {
	for _, m := range v.Members {
		if !v.unwanted(m) {
			continue
		}
		if _, answers := v.Reports[m.ReplicaID]; answers && slices.Contains(v.Raft.Voters, m.ReplicaID) {
			continue
		}
		if v.Held[m.Node] != "" && !m.Leaving {
			continue
		}
		return v.remove(m), true
	}
	return Step{}, false
}

// removeLiveNext removes one that is to go and works still.
func (v *ShardView) removeLiveNext() (Step, bool) {
	for _, m := range v.Members {
		if !v.unwanted(m) {
			continue
		}
		if held := v.Held[m.Node]; held != "" && !m.Leaving {
			return Step{Kind: StepWait, Node: m.Node, ReplicaID: m.ReplicaID, Reason: held}, true
		}
		return v.remove(m), true
	}
	return Step{}, false
}

// remove is the step that removes a replica, if it is safe.
func (v *ShardView) remove(m Member) Step {
	if blocked, ok := v.noQuorum(); ok {
		return blocked
	}
	step := Step{Kind: StepRemove, Node: m.Node, ReplicaID: m.ReplicaID, ConfigID: v.Raft.ConfigID}
	if !slices.Contains(v.Raft.Voters, m.ReplicaID) {
		return step // without a vote it is in no quorum
	}
	left := len(v.Raft.Voters) - 1
	healthy := v.healthyVoters()
	if v.healthy(m.ReplicaID) {
		healthy--
	}
	if left == 0 {
		return Step{Kind: StepBlocked, Reason: fmt.Sprintf("replica %d on %s is the last one that votes", m.ReplicaID, m.Node)}
	}
	if healthy < quorum(left) {
		return Step{Kind: StepBlocked, Reason: fmt.Sprintf("without replica %d on %s, %d of %d voting replicas would be well, and %d must be: the quorum would be lost%s",
			m.ReplicaID, m.Node, healthy, left, quorum(left), v.silentText())}
	}
	if v.Raft.Leader != m.ReplicaID {
		return step
	}
	for _, other := range v.Members {
		if other.ReplicaID != m.ReplicaID && !v.unwanted(other) && slices.Contains(v.Raft.Voters, other.ReplicaID) && v.healthy(other.ReplicaID) {
			return Step{Kind: StepTransfer, Node: m.Node, ReplicaID: m.ReplicaID, Target: other.ReplicaID}
		}
	}
	return Step{Kind: StepBlocked, Reason: fmt.Sprintf("replica %d on %s leads, and no other that stays is well", m.ReplicaID, m.Node)}
}

// addNext lets Raft know of replicas that have started.
func (v *ShardView) addNext() (Step, bool) {
	for _, m := range v.Members {
		if v.unwanted(m) || v.inRaft(m.ReplicaID) || !m.Joined {
			continue
		}
		if _, started := v.Reports[m.ReplicaID]; !started {
			continue // promoteNext says that it is waited for
		}
		if blocked, ok := v.noQuorum(); ok {
			return blocked, true
		}
		return Step{Kind: StepAdd, Node: m.Node, ReplicaID: m.ReplicaID, ConfigID: v.Raft.ConfigID}, true
	}
	return Step{}, false
}

// promoteNext gives those that are caught up a vote, and waits for the others.
func (v *ShardView) promoteNext() (Step, bool) {
	var ready, others []Member
	voters := 0
	for _, m := range v.Members {
		if slices.Contains(v.Raft.Voters, m.ReplicaID) {
			if !v.unwanted(m) {
				voters++
			}
			continue
		}
		if v.unwanted(m) || !m.Joined {
			continue
		}
		if v.inRaft(m.ReplicaID) && v.healthy(m.ReplicaID) {
			ready = append(ready, m)
		} else {
			others = append(others, m)
		}
	}
	if voters >= v.MaxVoters {
		ready, others = nil, slices.DeleteFunc(others, func(m Member) bool { return v.inRaft(m.ReplicaID) })
	}
	if len(ready) > 0 && !v.betterTogether(others) {
		if blocked, ok := v.noQuorum(); ok {
			return blocked, true
		}
		m := ready[0]
		if v.healthyVoters()+1 < quorum(len(v.Raft.Voters)+1) {
			return Step{Kind: StepBlocked, Reason: fmt.Sprintf("with replica %d on %s a quorum would need more voting replicas than are well%s", m.ReplicaID, m.Node, v.silentText())}, true
		}
		return Step{Kind: StepPromote, Node: m.Node, ReplicaID: m.ReplicaID, ConfigID: v.Raft.ConfigID}, true
	}
	if len(others) > 0 {
		m := others[0]
		return Step{Kind: StepWait, Node: m.Node, ReplicaID: m.ReplicaID, Reason: fmt.Sprintf("replica %d on %s %s", m.ReplicaID, m.Node, v.lateText(m))}, true
	}
	return Step{}, false
}

// betterTogether tells whether to wait with a vote: with an even number of voters
// a shard bears no more losses than with one less, so two replicas that are on
// their way get theirs one right after the other.
func (v *ShardView) betterTogether(others []Member) bool {
	return len(v.Raft.Voters)%2 == 1 && slices.ContainsFunc(others, func(m Member) bool {
		r, answers := v.Reports[m.ReplicaID]
		return answers && r.Problem == ""
	})
}

func (v *ShardView) lateText(m Member) string {
	r, started := v.Reports[m.ReplicaID]
	switch {
	case !started:
		return "has not started: is node " + m.Node + " up?"
	case !v.inRaft(m.ReplicaID):
		return "waits to be added"
	case r.Problem != "":
		return r.Problem
	default:
		return v.illness(m.ReplicaID)
	}
}

// clone copies what Apply writes into.
func (v *ShardView) clone() *ShardView {
	c := *v
	c.Members = slices.Clone(v.Members)
	c.Reports = maps.Clone(v.Reports)
	if v.Raft != nil {
		raft := *v.Raft
		raft.Voters, raft.Learners, raft.Removed = slices.Clone(raft.Voters), slices.Clone(raft.Learners), slices.Clone(raft.Removed)
		c.Raft = &raft
	}
	return &c
}
