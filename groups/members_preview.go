package groups

import "slices"

// maxPreview bounds a preview: three steps to add a replica, four to remove one,
// on as many nodes as a shard can be on, and room.
const maxPreview = 8 * 2 * MaxMembers

// Preview are the steps that lead to what is wanted, if nothing more fails: nodes
// that answer start and catch up their replicas. The last one is StepDone, or says
// what they would wait for or be blocked by. up tells which nodes answer.
func Preview(v *ShardView, up func(node string) bool) []Step {
	v = v.clone()
	if v.Reports == nil {
		v.Reports = map[uint64]ReplicaReport{}
	}
	v.Held = nil
	var steps []Step
	for range maxPreview {
		v.catchUp(up)
		step := NextStep(v)
		steps = append(steps, step)
		if !step.Acts() {
			break
		}
		v.take(step)
	}
	return steps
}

// catchUp lets the new replicas on nodes that answer start and catch up.
func (v *ShardView) catchUp(up func(node string) bool) {
	if v.Raft == nil {
		return
	}
	for _, m := range v.Members {
		if m.Joined && !m.Promoted && !m.Leaving && up(m.Node) {
			v.Reports[m.ReplicaID] = ReplicaReport{Applied: v.Reports[v.Raft.Leader].Applied}
		}
	}
}

// take does a step, as it is when it succeeds.
func (v *ShardView) take(s Step) {
	at := slices.IndexFunc(v.Members, func(m Member) bool { return m.ReplicaID == s.ReplicaID })
	is := func(id uint64) bool { return id == s.ReplicaID }
	switch s.Kind {
	case StepPlan:
		next := uint64(1)
		for _, m := range v.Members {
			next = max(next, m.ReplicaID+1)
		}
		if v.Raft != nil {
			for _, id := range v.Raft.Removed {
				next = max(next, id+1)
			}
		}
		v.Members = append(v.Members, Member{Node: s.Node, ReplicaID: next, Joined: true})
	case StepAdd:
		v.Raft.Learners = append(v.Raft.Learners, s.ReplicaID)
		v.Raft.ConfigID++
	case StepPromote:
		v.Raft.Learners = slices.DeleteFunc(v.Raft.Learners, is)
		v.Raft.Voters = append(v.Raft.Voters, s.ReplicaID)
		v.Raft.ConfigID++
	case StepRecord:
		v.Members[at].Promoted = true
	case StepTransfer:
		v.Raft.Leader = s.Target
	case StepRemove:
		v.Raft.Learners = slices.DeleteFunc(v.Raft.Learners, is)
		v.Raft.Voters = slices.DeleteFunc(v.Raft.Voters, is)
		v.Raft.Removed = append(v.Raft.Removed, s.ReplicaID)
		v.Raft.ConfigID++
	case StepDrop:
		v.Members = slices.Delete(v.Members, at, at+1)
	}
}
