package groups

import (
	"context"
	"slices"
)

// maxRemoved bounds the nodes that are remembered as removed: the newest ones,
// and all that were initial nodes, whose replica ids are small and could come up
// again.
const maxRemoved = 256

// RemovedNode is a node that has left, or what it was before its data was lost.
type RemovedNode struct {
	Name      string `json:"name"`
	DataID    string `json:"data_id"`
	ReplicaID uint64 `json:"replica_id"`
}

// AddNode announces a node that is about to start for the first time. Nothing is
// placed on it until it has registered itself.
type AddNode struct {
	Name        string `json:"name"`
	APIAddress  string `json:"api_address"`
	RaftAddress string `json:"raft_address"`
	DataID      string `json:"data_id"`
}

// ReplaceNode gives a node whose data is lost a new data directory. Its replicas
// are replaced by new ones, which begin without a vote.
type ReplaceNode struct {
	Name        string `json:"name"`
	APIAddress  string `json:"api_address"`
	RaftAddress string `json:"raft_address"`
	DataID      string `json:"data_id"` // of the new directory
}

// LeaveNode begins to remove a node, or takes that back.
type LeaveNode struct {
	Name string `json:"name"`
	Stay bool   `json:"stay,omitempty"`
}

// PlanMember gives a node a replica in a group's shard that runs.
type PlanMember struct {
	ShardID uint64 `json:"shard_id"`
	Node    string `json:"node"`
}

// PromoteMember records that a replica votes: Raft says so.
type PromoteMember struct {
	ShardID   uint64 `json:"shard_id"`
	ReplicaID uint64 `json:"replica_id"`
}

// DropMember forgets a replica that Raft has removed for good. Of the directory's
// shard it is the last of a node that leaves.
type DropMember struct {
	ShardID   uint64 `json:"shard_id"`
	ReplicaID uint64 `json:"replica_id"`
}

// WasRemoved tells whether a node with this data directory, or as this replica
// of the directory, has left the cluster.
func (s *DirectoryState) WasRemoved(dataID string, replicaID uint64) bool {
	return slices.ContainsFunc(s.removed, func(r RemovedNode) bool {
		return r.DataID == dataID || replicaID != 0 && r.ReplicaID == replicaID
	})
}

// present are the nodes that groups can be placed on, by name.
func (s *DirectoryState) present() []string {
	names := make([]string, 0, len(s.sortedNodes))
	for _, n := range s.sortedNodes {
		if !n.Joining && !n.Leaving {
			names = append(names, n.Name)
		}
	}
	return names
}

// holdsAny tells whether a node holds a replica of any group.
func (s *DirectoryState) holdsAny(node string) bool {
	return slices.ContainsFunc(s.sortedRecords, func(g *GroupRecord) bool {
		return slices.ContainsFunc(g.Members, func(m Member) bool { return m.Node == node })
	})
}

// addressTaken refuses addresses that another node has.
func (s *DirectoryState) addressTaken(name, api, raft string) (DirectoryResult, bool) {
	for _, other := range s.sortedNodes {
		if other.Name == name {
			continue
		}
		if other.RaftAddress == raft {
			return refuse(RefusedExists, "node %s has the Raft address %s already; give each node its own", other.Name, raft), true
		}
		if other.APIAddress == api {
			return refuse(RefusedExists, "node %s has the API address %s already; give each node its own", other.Name, api), true
		}
	}
	return DirectoryResult{}, false
}

func (d *Directory) addNode(c *AddNode) DirectoryResult {
	if refusal := checkNode(c.Name, c.APIAddress, c.RaftAddress, c.DataID); refusal != "" {
		return refuse(RefusedMalformed, "%s", refusal)
	}
	if old, known := d.state.nodes[c.Name]; known {
		if old.DataID == c.DataID {
			return DirectoryResult{Node: old} // the same command again
		}
		return refuse(RefusedExists, "there is a node %s already: give this one another name, or rebuild that one with `cohort node replace` if its data is lost", c.Name)
	}
	if d.state.WasRemoved(c.DataID, 0) {
		return refuse(RefusedForeignData, "this data directory is of a node that was removed from the cluster; delete it")
	}
	if refusal, taken := d.state.addressTaken(c.Name, c.APIAddress, c.RaftAddress); taken {
		return refusal
	}
	if len(d.state.nodes) >= MaxNodes {
		return refuse(RefusedFull, "the cluster has %d nodes, which is the most; remove one first", MaxNodes)
	}
	n := &Node{Name: c.Name, APIAddress: c.APIAddress, RaftAddress: c.RaftAddress, DataID: c.DataID, Joining: true}
	d.change(func(s *DirectoryState) {
		n.ReplicaID = s.nextNodeID
		s.nextNodeID++
		s.nodes[n.Name] = n
	})
	return DirectoryResult{Node: n, Changed: true}
}

func (d *Directory) replaceNode(c *ReplaceNode) DirectoryResult {
	if refusal := checkNode(c.Name, c.APIAddress, c.RaftAddress, c.DataID); refusal != "" {
		return refuse(RefusedMalformed, "%s", refusal)
	}
	old, known := d.state.nodes[c.Name]
	switch {
	case !known:
		return refuse(RefusedUnknown, "there is no node %s; a new one joins with `cohort node join`", c.Name)
	case old.DataID == c.DataID:
		return DirectoryResult{Node: old} // the same command again
	case old.Leaving:
		return refuse(RefusedExists, "node %s is about to leave the cluster; wait until it has, then use `cohort node join`", c.Name)
	case d.state.WasRemoved(c.DataID, 0):
		return refuse(RefusedForeignData, "this data directory was a node's before; make a new one")
	}
	if refusal, taken := d.state.addressTaken(c.Name, c.APIAddress, c.RaftAddress); taken {
		return refusal
	}
	n := &Node{Name: c.Name, APIAddress: c.APIAddress, RaftAddress: c.RaftAddress, DataID: c.DataID, Joining: true}
	d.change(func(s *DirectoryState) {
		lost := old.directoryMember()
		lost.Leaving = true
		s.retired = append(s.retired, lost)
		s.remember(old)
		n.ReplicaID = s.nextNodeID
		s.nextNodeID++
		s.nodes[n.Name] = n
		for name, group := range s.groups {
			if _, here := group.Member(n.Name); here {
				s.groups[name] = group.replaced(n.Name)
			}
		}
	})
	return DirectoryResult{Node: n, Changed: true}
}

// replaced gives a node a new replica in place of the one whose data is lost.
func (g *GroupRecord) replaced(node string) *GroupRecord {
	c := g.clone()
	for i := range c.Members {
		if c.Members[i].Node == node {
			c.Members[i].Leaving = true
		}
	}
	c.addMember(node)
	return c
}

func (g *GroupRecord) addMember(node string) {
	g.Members = append(g.Members, Member{Node: node, ReplicaID: g.NextReplicaID, Joined: true})
	g.NextReplicaID++
	g.Changed = true
}

func (d *Directory) leaveNode(c *LeaveNode) DirectoryResult {
	old, known := d.state.nodes[c.Name]
	switch {
	case !known:
		return refuse(RefusedUnknown, "there is no node %s", c.Name)
	case old.Leaving != c.Stay:
		return DirectoryResult{Node: old} // the same command again
	case old.Leaving && !d.state.holdsAny(c.Name):
		// Raft may have removed its replica of the directory already.
		return refuse(RefusedVersion, "node %s holds nothing any more; let it leave, and have it back with `cohort node join`", c.Name)
	case old.Leaving:
	case !slices.ContainsFunc(d.state.present(), func(name string) bool { return name != c.Name }):
		return refuse(RefusedUnknown, "node %s is the last one that serves: the cluster would be gone", c.Name)
	}
	n := *old
	n.Leaving = !c.Stay
	d.change(func(s *DirectoryState) { s.nodes[n.Name] = &n })
	return DirectoryResult{Node: &n, Changed: true}
}

func (d *Directory) planMember(c *PlanMember) DirectoryResult {
	old, ok := d.state.GroupOfShard(c.ShardID)
	n, known := d.state.nodes[c.Node]
	switch {
	case !ok:
		return refuse(RefusedUnknown, "there is no group with shard %d", c.ShardID)
	case !known || n.Leaving || n.Joining:
		return refuse(RefusedUnknown, "group %s: %s is no node of the cluster that stays", old.Name, c.Node)
	case len(old.Members) >= 2*MaxMembers:
		return refuse(RefusedFull, "group %s has %d replicas that come or go; wait until some are gone", old.Name, len(old.Members))
	}
	if _, here := old.Member(c.Node); here {
		return DirectoryResult{Group: old} // the same command again
	}
	g := old.clone()
	g.addMember(c.Node)
	d.change(func(s *DirectoryState) { s.groups[g.Name] = g })
	return DirectoryResult{Group: g, Changed: true}
}

func (d *Directory) promoteMember(c *PromoteMember) DirectoryResult {
	if c.ShardID == DirectoryShard {
		return d.promoteNode(c.ReplicaID)
	}
	old, ok := d.state.GroupOfShard(c.ShardID)
	if !ok {
		return refuse(RefusedUnknown, "there is no group with shard %d", c.ShardID)
	}
	i := slices.IndexFunc(old.Members, func(m Member) bool { return m.ReplicaID == c.ReplicaID })
	switch {
	case i < 0:
		return refuse(RefusedUnknown, "group %s has no replica %d", old.Name, c.ReplicaID)
	case old.Members[i].Voter():
		return DirectoryResult{Group: old}
	}
	g := old.clone()
	g.Members[i].Promoted = true
	d.change(func(s *DirectoryState) { s.groups[g.Name] = g })
	return DirectoryResult{Group: g, Changed: true}
}

func (d *Directory) promoteNode(replicaID uint64) DirectoryResult {
	i := slices.IndexFunc(d.state.sortedNodes, func(n *Node) bool { return n.ReplicaID == replicaID })
	if i < 0 {
		return refuse(RefusedUnknown, "no node has replica %d of the directory", replicaID)
	}
	n := *d.state.sortedNodes[i]
	if n.DirectoryVoter() {
		return DirectoryResult{Node: &n}
	}
	n.Promoted = true
	d.change(func(s *DirectoryState) { s.nodes[n.Name] = &n })
	return DirectoryResult{Node: &n, Changed: true}
}

func (d *Directory) dropMember(c *DropMember) DirectoryResult {
	if c.ShardID == DirectoryShard {
		return d.dropNode(c.ReplicaID)
	}
	old, ok := d.state.GroupOfShard(c.ShardID)
	if !ok {
		return refuse(RefusedUnknown, "there is no group with shard %d", c.ShardID)
	}
	g := old.clone()
	g.Members = slices.DeleteFunc(g.Members, func(m Member) bool { return m.ReplicaID == c.ReplicaID })
	if len(g.Members) == len(old.Members) {
		return DirectoryResult{Group: old} // the same command again
	}
	g.Changed = true
	d.change(func(s *DirectoryState) { s.groups[g.Name] = g })
	return DirectoryResult{Group: g, Changed: true}
}

// dropNode forgets a retired replica of the directory, or a node that leaves and
// whose replica was its last.
func (d *Directory) dropNode(replicaID uint64) DirectoryResult {
	retired := func(m Member) bool { return m.ReplicaID == replicaID }
	if slices.ContainsFunc(d.state.retired, retired) {
		d.change(func(s *DirectoryState) { s.retired = slices.DeleteFunc(s.retired, retired) })
		return DirectoryResult{Changed: true}
	}
	i := slices.IndexFunc(d.state.sortedNodes, func(n *Node) bool { return n.ReplicaID == replicaID })
	if i < 0 {
		return DirectoryResult{} // the same command again
	}
	n := d.state.sortedNodes[i]
	if !n.Leaving {
		return refuse(RefusedVersion, "node %s does not leave", n.Name)
	}
	if d.state.holdsAny(n.Name) {
		return refuse(RefusedVersion, "node %s holds replicas of groups", n.Name)
	}
	d.change(func(s *DirectoryState) {
		delete(s.nodes, n.Name)
		s.remember(n)
	})
	return DirectoryResult{Changed: true}
}

// remember keeps the identity of what does not come back.
func (s *DirectoryState) remember(n *Node) {
	s.removed = append(s.removed, RemovedNode{Name: n.Name, DataID: n.DataID, ReplicaID: n.ReplicaID})
	joined := slices.IndexFunc(s.removed, func(r RemovedNode) bool { return r.ReplicaID >= firstJoinedNode })
	if len(s.removed) > maxRemoved && joined >= 0 {
		s.removed = slices.Delete(s.removed, joined, joined+1)
	}
}

func checkNode(name, api, raft, dataID string) string {
	c := RegisterNode{Name: name, APIAddress: api, RaftAddress: raft, DataID: dataID}
	return c.check()
}

// AddNode announces a node; see the command of that name.
func (h *DirectoryHost) AddNode(ctx context.Context, c AddNode) (*Node, error) {
	result, err := h.propose(ctx, directoryCommand{AddNode: &c})
	return result.Node, err
}

// ReplaceNode gives a node whose data is lost a new data directory.
func (h *DirectoryHost) ReplaceNode(ctx context.Context, c ReplaceNode) (*Node, error) {
	result, err := h.propose(ctx, directoryCommand{ReplaceNode: &c})
	return result.Node, err
}

// LeaveNode begins to remove a node, or takes that back.
func (h *DirectoryHost) LeaveNode(ctx context.Context, c LeaveNode) (*Node, error) {
	result, err := h.propose(ctx, directoryCommand{LeaveNode: &c})
	return result.Node, err
}

// PlanMember gives a node a replica in a group's shard.
func (h *DirectoryHost) PlanMember(ctx context.Context, shardID uint64, node string) error {
	_, err := h.propose(ctx, directoryCommand{PlanMember: &PlanMember{ShardID: shardID, Node: node}})
	return err
}

// PromoteMember records that a replica votes.
func (h *DirectoryHost) PromoteMember(ctx context.Context, shardID, replicaID uint64) error {
	_, err := h.propose(ctx, directoryCommand{PromoteMember: &PromoteMember{ShardID: shardID, ReplicaID: replicaID}})
	return err
}

// DropMember forgets a replica that Raft has removed.
func (h *DirectoryHost) DropMember(ctx context.Context, shardID, replicaID uint64) error {
	_, err := h.propose(ctx, directoryCommand{DropMember: &DropMember{ShardID: shardID, ReplicaID: replicaID}})
	return err
}
