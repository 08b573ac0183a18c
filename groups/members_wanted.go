package groups

import "slices"

// MembersOf is the directory's part of the view of a group's shard.
func (s *DirectoryState) MembersOf(g *GroupRecord) *ShardView {
	v := &ShardView{Group: g.Name, ShardID: g.ShardID, Members: g.Members, MaxVoters: MaxMembers}
	definition, err := g.Definition()
	if err != nil {
		v.Problem = "its definition cannot be read by this version: " + err.Error()
		return v
	}
	v.Wanted = s.wanted(g, definition.Replicas)
	return v
}

// wanted are the nodes that should hold a replica of a group: of its list those
// that stay, or all. Of more nodes than a group may have replicas those that have
// one come first.
func (s *DirectoryState) wanted(g *GroupRecord, list []string) []string {
	present := s.present()
	if list != nil {
		return slices.DeleteFunc(slices.Clone(list), func(node string) bool { return !s.stays(node) })
	}
	// A node that is being replaced stays one of them: its replica is on its way.
	for _, n := range s.sortedNodes {
		if _, here := g.Member(n.Name); n.Joining && !n.Leaving && here {
			present = append(present, n.Name)
		}
	}
	slices.SortStableFunc(present, func(a, b string) int {
		_, holdsA := g.Member(a)
		_, holdsB := g.Member(b)
		switch {
		case holdsA == holdsB:
			return 0
		case holdsA:
			return -1
		}
		return 1
	})
	return present[:min(len(present), MaxMembers)]
}

// stays tells whether a node is there and is not about to leave.
func (s *DirectoryState) stays(node string) bool {
	n, ok := s.nodes[node]
	return ok && !n.Leaving
}

// DirectoryMembers is the directory's part of the view of its own shard: every
// node holds a replica of the directory, since it works from it, and the first
// MaxMembers of them vote. A node that leaves keeps its replica until it holds
// none of a group.
func (s *DirectoryState) DirectoryMembers() *ShardView {
	v := &ShardView{ShardID: DirectoryShard, MaxVoters: MaxMembers, Held: map[string]string{}}
	v.Members = append(v.Members, s.retired...)
	for _, n := range s.sortedNodes {
		v.Members = append(v.Members, n.directoryMember())
		if !n.Leaving {
			v.Wanted = append(v.Wanted, n.Name)
			continue
		}
		for _, g := range s.sortedRecords {
			if slices.ContainsFunc(g.Members, func(m Member) bool { return m.Node == n.Name }) {
				v.Held[n.Name] = "node " + n.Name + " holds a replica of group " + g.Name
				break
			}
		}
	}
	return v
}

// MembersSettled tells whether the members of all shards are as they should be,
// as far as the directory knows, so that nobody needs to ask the nodes.
func (s *DirectoryState) MembersSettled() bool {
	if len(s.retired) > 0 || !s.DirectoryMembers().settled() {
		return false
	}
	for _, n := range s.sortedNodes {
		if n.Joining || n.Leaving {
			return false
		}
	}
	for _, g := range s.sortedRecords {
		v := s.MembersOf(g)
		if _, missing := v.planNext(); missing || !v.settled() {
			return false
		}
	}
	return true
}
