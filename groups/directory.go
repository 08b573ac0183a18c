package groups

import (
	"bytes"
	"fmt"
	"maps"
	"net"
	"slices"
	"sort"
	"unicode/utf8"
)

// Bounds of the directory. It is kept whole in memory on every node and its
// state is copied at each change, so it has to stay small.
const (
	// MaxNodes bounds the nodes ever registered and not removed.
	MaxNodes = 128
	// MaxGroups bounds groups: each is a Raft shard with a database of its own on
	// every replica, and hundreds of those are what a node carries.
	MaxGroups = 1024
	// MaxMembers bounds the replicas of one group and the initial nodes, who are the
	// directory's; a quorum of more is slow and
	// no safer.
	MaxMembers = 15
	// maxAddressBytes is a DNS name of the longest kind and a port.
	maxAddressBytes = 253 + 6
	// maxDataIDBytes bounds the identity of a data directory.
	maxDataIDBytes = 64
)

const (
	// DirectoryShard is the Raft shard of the directory.
	DirectoryShard uint64 = 1
	// firstJoinedNode is the directory replica of the first node that joins; the
	// numbers below belong to initial nodes, who may come later than it.
	firstJoinedNode uint64 = 100
	// firstGroupShard leaves room below for shards of the cluster's own.
	firstGroupShard uint64 = 100
)

// Node is a registered node.
type Node struct {
	Name string `json:"name"`
	// ReplicaID is the node's replica in the directory's shard; never reused.
	ReplicaID uint64 `json:"replica_id"`
	// APIAddress and RaftAddress are where other nodes and clients reach it.
	APIAddress  string `json:"api_address"`
	RaftAddress string `json:"raft_address"`
	// DataID is the identity of its data directory: a node that comes back with
	// another one has lost its memory.
	DataID string `json:"data_id"`
	// FeatureLevel is the newest that its release supports; 0 is 1.
	FeatureLevel uint64 `json:"feature_level,omitempty"`
	// Joining is set until the node has started and registered itself: until then
	// nothing is placed on it. Leaving is set from the request to remove it on.
	Joining bool `json:"joining,omitempty"`
	Leaving bool `json:"leaving,omitempty"`
	// Promoted is set once a node that joined votes in the directory.
	Promoted bool `json:"promoted,omitempty"`
}

// directoryMember is the node's replica of the directory.
func (n *Node) directoryMember() Member {
	return Member{Node: n.Name, ReplicaID: n.ReplicaID, Started: true, Joined: n.ReplicaID >= firstJoinedNode, Promoted: n.Promoted}
}

// DirectoryVoter tells whether the node votes in the directory, as far as is
// recorded.
func (n *Node) DirectoryVoter() bool { return n.directoryMember().Voter() }

// Member is one replica of a shard.
type Member struct {
	Node string `json:"node"`
	// ReplicaID is unique within the shard and never reused.
	ReplicaID uint64 `json:"replica_id"`
	// Started is set before the replica first starts: from then on it may have
	// voted, and must not start without its data.
	Started bool `json:"started"`
	// Joined is set of a replica that was added to a shard that ran. It starts
	// without initial members and without a vote; Promoted is set once it votes.
	Joined   bool `json:"joined,omitempty"`
	Promoted bool `json:"promoted,omitempty"`
	// Leaving is set of a replica whose data is lost: it is never started again.
	Leaving bool `json:"leaving,omitempty"`
}

// Voter tells whether the replica votes, as far as is recorded.
func (m Member) Voter() bool { return !m.Joined || m.Promoted }

// GroupRecord is what the directory knows of a group. The group's own log is
// the authority on its definition once it runs; the directory follows.
type GroupRecord struct {
	Name    string `json:"name"`
	ShardID uint64 `json:"shard_id"`
	// Incarnation counts the lives of the group's log, from 1.
	Incarnation uint64 `json:"incarnation"`
	// Version of the definition, from 1.
	Version uint64 `json:"version"`
	// DefinitionJSON is the canonical form; see Decode.
	DefinitionJSON []byte   `json:"definition_json"`
	Members        []Member `json:"members"`
	// NextReplicaID is the next one to give in this shard.
	NextReplicaID uint64 `json:"next_replica_id"`
	// Changed is set once the members are others than the shard began with: from
	// then on no replica starts as an initial member.
	Changed bool `json:"changed,omitempty"`
	// Origin of an incarnation that a restore has made; nil of others.
	Origin *Origin `json:"origin,omitempty"`
	// Restoring is set while a restore in place is under way, LastRestore the token
	// of the last one.
	Restoring   *Restoring `json:"restoring,omitempty"`
	LastRestore string     `json:"last_restore,omitempty"`
	// Past are the shards of earlier incarnations, the newest last.
	Past []PastShard `json:"past,omitempty"`
}

// Definition decodes the record's definition.
func (g *GroupRecord) Definition() (Definition, error) { return Decode(g.DefinitionJSON) }

// Member returns the replica on a node; one that is leaving is none.
func (g *GroupRecord) Member(node string) (Member, bool) {
	for _, m := range g.Members {
		if m.Node == node && !m.Leaving {
			return m, true
		}
	}
	return Member{}, false
}

// Nodes returns the nodes that hold a replica, in replica order.
func (g *GroupRecord) Nodes() []string {
	return g.nodesOf(func(m Member) bool { return !m.Leaving })
}

// Voters returns the nodes whose replica votes, in replica order.
func (g *GroupRecord) Voters() []string {
	return g.nodesOf(func(m Member) bool { return !m.Leaving && m.Voter() })
}

func (g *GroupRecord) nodesOf(holds func(Member) bool) []string {
	names := make([]string, 0, len(g.Members))
	for _, m := range g.Members {
		if holds(m) {
			names = append(names, m.Node)
		}
	}
	return names
}

func (g *GroupRecord) clone() *GroupRecord {
	c := *g
	c.Members = slices.Clone(g.Members)
	return &c // DefinitionJSON is replaced, never written into
}

// DirectoryState is the directory after some command. It is immutable: share it
// freely, change nothing in it.
type DirectoryState struct {
	// Revision counts the commands that changed something.
	Revision uint64

	nodes       map[string]*Node
	groups      map[string]*GroupRecord
	nextNodeID  uint64
	nextGroupID uint64
	// retired are replicas of the directory whose data is lost and that are still
	// its members; removed are the data directories of nodes that have left, the
	// newest last.
	retired       []Member
	removed       []RemovedNode
	sortedNodes   []*Node
	sortedRecords []*GroupRecord
}

// Nodes returns all nodes by name.
func (s *DirectoryState) Nodes() []*Node { return s.sortedNodes }

// Groups returns all groups by name.
func (s *DirectoryState) Groups() []*GroupRecord { return s.sortedRecords }

// Node returns the node of that name.
func (s *DirectoryState) Node(name string) (*Node, bool) {
	n, ok := s.nodes[name]
	return n, ok
}

// Group returns the group of that name.
func (s *DirectoryState) Group(name string) (*GroupRecord, bool) {
	g, ok := s.groups[name]
	return g, ok
}

// GroupOfShard returns the group that runs on the shard.
func (s *DirectoryState) GroupOfShard(shardID uint64) (*GroupRecord, bool) {
	for _, g := range s.sortedRecords {
		if g.ShardID == shardID {
			return g, true
		}
	}
	return nil, false
}

// RaftMembers returns a group's initial members as Raft wants them: replica id
// to address. They are known until the members have changed.
func (s *DirectoryState) RaftMembers(g *GroupRecord) map[uint64]string {
	members := make(map[uint64]string, len(g.Members))
	for _, m := range g.Members {
		if n, ok := s.nodes[m.Node]; ok && !m.Joined {
			members[m.ReplicaID] = n.RaftAddress
		}
	}
	return members
}

// Placement returns the nodes that hold a group's replicas: those of its list, or
// all registered ones. It says which of the list are not registered, or about to
// leave.
func (s *DirectoryState) Placement(d *Definition) ([]string, error) {
	if d.Replicas == nil {
		names := s.present()
		if len(names) == 0 {
			return nil, fmt.Errorf("group %s: no node is registered yet; start the nodes first", d.Group)
		}
		if len(names) > MaxMembers {
			return nil, fmt.Errorf("group %s: `replicas: all` would be %d replicas, at most %d; list the nodes", d.Group, len(names), MaxMembers)
		}
		return names, nil
	}
	for _, name := range d.Replicas {
		n, ok := s.nodes[name]
		switch {
		case !ok:
			return nil, fmt.Errorf("group %s: replicas names %s, which is no node of the cluster; nodes are %v", d.Group, name, slices.Sorted(maps.Keys(s.nodes)))
		case n.Leaving:
			return nil, fmt.Errorf("group %s: replicas names %s, which is about to leave the cluster; nodes are %v", d.Group, name, s.present())
		case n.Joining:
			return nil, fmt.Errorf("group %s: replicas names %s, which has not started yet; start it with `cohort serve` first", d.Group, name)
		}
	}
	return slices.Clone(d.Replicas), nil
}

// Directory is the directory's state machine: pure, deterministic, driven by
// one goroutine. Refusals are results, never errors.
type Directory struct {
	state *DirectoryState // replaced at each change, never written into
}

// NewDirectory returns an empty directory.
func NewDirectory() *Directory {
	s := &DirectoryState{
		nodes:       map[string]*Node{},
		groups:      map[string]*GroupRecord{},
		nextNodeID:  firstJoinedNode,
		nextGroupID: firstGroupShard,
	}
	s.sort()
	return &Directory{state: s}
}

// State returns the present state.
func (d *Directory) State() *DirectoryState { return d.state }

// Apply decodes and executes one command.
func (d *Directory) Apply(data []byte) DirectoryResult {
	c, err := decodeDirectoryCommand(data)
	if err != nil {
		return refuse(RefusedMalformed, "%v", err)
	}
	switch {
	case c.RegisterNode != nil:
		return d.registerNode(c.RegisterNode)
	case c.CreateGroup != nil:
		return d.createGroup(c.CreateGroup)
	case c.SetDefinition != nil:
		return d.setDefinition(c.SetDefinition)
	case c.PlanRestore != nil:
		return d.planRestore(c.PlanRestore)
	case c.CancelRestore != nil:
		return d.cancelRestore(c.CancelRestore)
	case c.BeginIncarnation != nil:
		return d.beginIncarnation(c.BeginIncarnation)
	case c.AddNode != nil:
		return d.addNode(c.AddNode)
	case c.ReplaceNode != nil:
		return d.replaceNode(c.ReplaceNode)
	case c.LeaveNode != nil:
		return d.leaveNode(c.LeaveNode)
	case c.PlanMember != nil:
		return d.planMember(c.PlanMember)
	case c.PromoteMember != nil:
		return d.promoteMember(c.PromoteMember)
	case c.DropMember != nil:
		return d.dropMember(c.DropMember)
	default:
		return d.markStarted(c.MarkStarted)
	}
}

func refuse(code RefusalCode, format string, args ...any) DirectoryResult {
	return DirectoryResult{Refused: code, Detail: fmt.Sprintf(format, args...)}
}

// change installs a successor of the state made by edit.
func (d *Directory) change(edit func(*DirectoryState)) {
	next := &DirectoryState{
		Revision:    d.state.Revision + 1,
		nodes:       maps.Clone(d.state.nodes),
		groups:      maps.Clone(d.state.groups),
		nextNodeID:  d.state.nextNodeID,
		nextGroupID: d.state.nextGroupID,
		retired:     slices.Clone(d.state.retired),
		removed:     slices.Clone(d.state.removed),
	}
	edit(next)
	next.sort()
	next.check()
	d.state = next
}

func (s *DirectoryState) sort() {
	s.sortedNodes = make([]*Node, 0, len(s.nodes))
	for _, name := range slices.Sorted(maps.Keys(s.nodes)) {
		s.sortedNodes = append(s.sortedNodes, s.nodes[name])
	}
	s.sortedRecords = make([]*GroupRecord, 0, len(s.groups))
	for _, name := range slices.Sorted(maps.Keys(s.groups)) {
		s.sortedRecords = append(s.sortedRecords, s.groups[name])
	}
}

// check panics when an invariant does not hold: ids are unique and below the
// next ones to give, so that none is ever given twice.
func (s *DirectoryState) check() {
	if err := s.invariants(); err != nil {
		panic("groups: directory invariant: " + err.Error())
	}
}

func (s *DirectoryState) invariants() error {
	ids, raftAddresses := map[uint64]string{}, map[string]string{}
	for _, n := range s.sortedNodes {
		if n.ReplicaID == 0 || n.ReplicaID >= s.nextNodeID {
			return fmt.Errorf("node %s has replica id %d, next is %d", n.Name, n.ReplicaID, s.nextNodeID)
		}
		if other, taken := ids[n.ReplicaID]; taken {
			return fmt.Errorf("nodes %s and %s share replica id %d", n.Name, other, n.ReplicaID)
		}
		if other, taken := raftAddresses[n.RaftAddress]; taken {
			return fmt.Errorf("nodes %s and %s share raft address %s", n.Name, other, n.RaftAddress)
		}
		ids[n.ReplicaID], raftAddresses[n.RaftAddress] = n.Name, n.Name
	}
	for _, m := range s.retired {
		if other, taken := ids[m.ReplicaID]; taken || m.ReplicaID == 0 || m.ReplicaID >= s.nextNodeID {
			return fmt.Errorf("the retired replica %d of the directory on %s is %s's or was never given", m.ReplicaID, m.Node, other)
		}
		ids[m.ReplicaID] = m.Node
	}
	shards := map[uint64]string{}
	for _, g := range s.sortedRecords {
		if g.ShardID < firstGroupShard || g.ShardID >= s.nextGroupID {
			return fmt.Errorf("group %s has shard %d, next is %d", g.Name, g.ShardID, s.nextGroupID)
		}
		if other, taken := shards[g.ShardID]; taken {
			return fmt.Errorf("groups %s and %s share shard %d", g.Name, other, g.ShardID)
		}
		shards[g.ShardID] = g.Name
		last := uint64(0)
		for _, m := range g.Members {
			if m.ReplicaID <= last || m.ReplicaID >= g.NextReplicaID {
				return fmt.Errorf("group %s has replica id %d after %d, next is %d", g.Name, m.ReplicaID, last, g.NextReplicaID)
			}
			last = m.ReplicaID
		}
		if nodes := slices.Sorted(slices.Values(g.Nodes())); len(slices.Compact(slices.Clone(nodes))) != len(nodes) {
			return fmt.Errorf("group %s has two replicas that stay on one node: %v", g.Name, nodes)
		}
	}
	return nil
}

func (d *Directory) registerNode(c *RegisterNode) DirectoryResult {
	if refusal := c.check(); refusal != "" {
		return refuse(RefusedMalformed, "%s", refusal)
	}
	old, known := d.state.nodes[c.Name]
	if known {
		switch {
		case old.DataID != c.DataID:
			return refuse(RefusedForeignData, "node %s is registered with another data directory (%s, not %s): this one was initialised anew, and what the node had voted is lost; put the old directory back, or rebuild the node with `cohort node replace`", c.Name, old.DataID, c.DataID)
		case c.ReplicaID != 0 && c.ReplicaID != old.ReplicaID:
			return refuse(RefusedExists, "node %s is registered as replica %d of the directory, not %d; keep the order of `cluster` in the node's configuration as it was", c.Name, old.ReplicaID, c.ReplicaID)
		case c.RaftAddress != old.RaftAddress:
			return refuse(RefusedExists, "node %s is registered with the Raft address %s, not %s; a member's Raft address stays as it is", c.Name, old.RaftAddress, c.RaftAddress)
		case c.APIAddress == old.APIAddress && c.FeatureLevel == old.FeatureLevel && !old.Joining:
			return DirectoryResult{Node: old}
		}
	}
	if !known && d.state.WasRemoved(c.DataID, c.ReplicaID) {
		return refuse(RefusedForeignData, "node %s was removed from the cluster; to have it back, delete its data directory and use `cohort node join`", c.Name)
	}
	if refusal, taken := d.state.addressTaken(c.Name, c.APIAddress, c.RaftAddress); taken {
		return refusal
	}
	for _, other := range d.state.sortedNodes {
		if other.Name == c.Name {
			continue
		}
		if c.ReplicaID != 0 && other.ReplicaID == c.ReplicaID {
			return refuse(RefusedExists, "node %s is replica %d of the directory already", other.Name, c.ReplicaID)
		}
	}
	if !known && len(d.state.nodes) >= MaxNodes {
		return refuse(RefusedFull, "the cluster has %d nodes, which is the most; remove one first", MaxNodes)
	}
	n := &Node{Name: c.Name, ReplicaID: c.ReplicaID, APIAddress: c.APIAddress, RaftAddress: c.RaftAddress, DataID: c.DataID, FeatureLevel: c.FeatureLevel}
	d.change(func(s *DirectoryState) {
		if known {
			n.ReplicaID, n.Leaving, n.Promoted = old.ReplicaID, old.Leaving, old.Promoted
		} else if n.ReplicaID == 0 {
			n.ReplicaID = s.nextNodeID
			s.nextNodeID++
		}
		s.nodes[n.Name] = n
	})
	return DirectoryResult{Node: n, Changed: true}
}

func (d *Directory) createGroup(c *CreateGroup) DirectoryResult {
	if refusal := c.check(); refusal != "" {
		return refuse(RefusedMalformed, "%s", refusal)
	}
	if g, taken := d.state.groups[c.Group]; taken {
		if g.Version == 1 && bytes.Equal(g.DefinitionJSON, c.DefinitionJSON) && slices.Equal(g.Nodes(), c.Members) && sameOrigin(g.Origin, c.Origin) {
			return DirectoryResult{Group: g} // the same command again
		}
		return refuse(RefusedExists, "group %s exists at version %d; change it instead", c.Group, g.Version)
	}
	if len(d.state.groups) >= MaxGroups {
		return refuse(RefusedFull, "the cluster has %d groups, which is the most", MaxGroups)
	}
	for _, name := range c.Members {
		n, ok := d.state.nodes[name]
		if !ok {
			return refuse(RefusedUnknown, "group %s: %s is no node of the cluster", c.Group, name)
		}
		if n.Leaving || n.Joining {
			return refuse(RefusedUnknown, "group %s: node %s joins or leaves the cluster just now", c.Group, name)
		}
	}
	g := &GroupRecord{Name: c.Group, Incarnation: max(c.Incarnation, 1), Version: 1, Origin: c.Origin, DefinitionJSON: c.DefinitionJSON, NextReplicaID: 1}
	for _, name := range c.Members {
		g.Members = append(g.Members, Member{Node: name, ReplicaID: g.NextReplicaID})
		g.NextReplicaID++
	}
	d.change(func(s *DirectoryState) {
		g.ShardID = s.nextGroupID
		s.nextGroupID++
		s.groups[g.Name] = g
	})
	return DirectoryResult{Group: g, Changed: true}
}

func (d *Directory) setDefinition(c *SetDefinition) DirectoryResult {
	if refusal := c.check(); refusal != "" {
		return refuse(RefusedMalformed, "%s", refusal)
	}
	old, ok := d.state.groups[c.Group]
	switch {
	case !ok:
		return refuse(RefusedUnknown, "there is no group %s", c.Group)
	case old.Version == c.Version && bytes.Equal(old.DefinitionJSON, c.DefinitionJSON):
		return DirectoryResult{Group: old} // the same command again
	case old.Version != c.Expect:
		return refuse(RefusedVersion, "group %s is at version %d, not %d; read it again and apply the change to that", c.Group, old.Version, c.Expect)
	}
	g := old.clone()
	g.Version, g.DefinitionJSON = c.Version, c.DefinitionJSON
	d.change(func(s *DirectoryState) { s.groups[g.Name] = g })
	return DirectoryResult{Group: g, Changed: true}
}

func (d *Directory) markStarted(c *MarkStarted) DirectoryResult {
	old, ok := d.state.GroupOfShard(c.ShardID)
	if !ok {
		return refuse(RefusedUnknown, "there is no group with shard %d", c.ShardID)
	}
	i := slices.IndexFunc(old.Members, func(m Member) bool { return m.ReplicaID == c.ReplicaID })
	if i < 0 {
		return refuse(RefusedUnknown, "group %s has no replica %d", old.Name, c.ReplicaID)
	}
	if old.Members[i].Started {
		return DirectoryResult{Group: old}
	}
	g := old.clone()
	g.Members[i].Started = true
	d.change(func(s *DirectoryState) { s.groups[g.Name] = g })
	return DirectoryResult{Group: g, Changed: true}
}

func (c *RegisterNode) check() string {
	switch {
	case !ValidName(c.Name):
		return fmt.Sprintf("%q is no name for a node", c.Name)
	case c.DataID == "" || len(c.DataID) > maxDataIDBytes || !utf8.ValidString(c.DataID):
		return "the node's data directory has no identity"
	case c.ReplicaID > MaxMembers:
		return fmt.Sprintf("replica id %d is not that of an initial node, 1 to %d", c.ReplicaID, MaxMembers)
	}
	for _, address := range []string{c.APIAddress, c.RaftAddress} {
		if host, port, err := net.SplitHostPort(address); err != nil || host == "" || port == "" || len(address) > maxAddressBytes || !utf8.ValidString(address) {
			return fmt.Sprintf("%q is not an address of the form host:port", address)
		}
	}
	return ""
}

func (c *CreateGroup) check() string {
	switch {
	case !ValidName(c.Group):
		return fmt.Sprintf("%q is no name for a group", c.Group)
	case len(c.Members) == 0 || len(c.Members) > MaxMembers:
		return fmt.Sprintf("a group has 1 to %d replicas, not %d", MaxMembers, len(c.Members))
	}
	sorted := slices.Clone(c.Members)
	sort.Strings(sorted)
	if len(slices.Compact(sorted)) != len(c.Members) {
		return "a node is listed twice among the replicas"
	}
	if c.Origin != nil {
		if refusal := c.Origin.check(c.Members); refusal != "" {
			return refusal
		}
	}
	if c.Incarnation > MaxIncarnation || c.Origin == nil && c.Incarnation > 1 {
		return fmt.Sprintf("a group does not begin in incarnation %d", c.Incarnation)
	}
	return checkDefinitionJSON(c.DefinitionJSON)
}

func sameOrigin(a, b *Origin) bool {
	return a == nil && b == nil || a != nil && b != nil && a.Token == b.Token
}

func (c *SetDefinition) check() string {
	if c.Version <= c.Expect || c.Expect == 0 {
		return fmt.Sprintf("version %d does not follow %d", c.Version, c.Expect)
	}
	return checkDefinitionJSON(c.DefinitionJSON)
}

// checkDefinitionJSON looks at the size alone: what a definition may say changes
// between versions of the program, and replicas of different ones must agree.
func checkDefinitionJSON(data []byte) string {
	if len(data) == 0 || len(data) > MaxDefinitionBytes {
		return fmt.Sprintf("the definition has %d bytes; 1 to %d are kept", len(data), MaxDefinitionBytes)
	}
	return ""
}
