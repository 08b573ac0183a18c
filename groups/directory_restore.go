package groups

import (
	"context"
	"fmt"
	"slices"
	"unicode/utf8"
)

const (
	// MaxIncarnation bounds the lives of a group's log. A coordinator numbers what it
	// handles by its epoch in the upper half of 64 bits, and epochs of an incarnation
	// begin at EpochBase: this is what fits there.
	MaxIncarnation = 4095
	// indexBits is the room for the Raft indexes of one incarnation: years of the
	// fastest log. Sums stay below 2^53, where every JSON reader is exact, for the
	// first 512 incarnations.
	indexBits = 44
	// epochBits is the room for the Raft terms of one incarnation.
	epochBits = 20
	// maxPast bounds the earlier incarnations' shards that are remembered, for nodes
	// that were away to clear.
	maxPast = 8
	// maxTokenBytes bounds the name of a restore.
	maxTokenBytes = 64
)

// IndexBase is added to the Raft indexes of an incarnation, so that they come
// after those of the one before.
func IndexBase(incarnation uint64) uint64 { return (max(incarnation, 1) - 1) << indexBits }

// EpochBase is added to the Raft terms of an incarnation, likewise.
func EpochBase(incarnation uint64) uint64 { return (max(incarnation, 1) - 1) << epochBits }

// Origin says what a restored incarnation was made from.
type Origin struct {
	// Token names the restore; its files are made under it.
	Token string `json:"token"`
	// Digest of the state, 32 bytes.
	Digest            []byte `json:"digest"`
	SourceGroup       string `json:"source_group"`
	SourceIncarnation uint64 `json:"source_incarnation"`
	Checkpoint        uint64 `json:"checkpoint"`
	Position          uint64 `json:"position"`
	// Hydrated are the nodes that have the files. A member that is none of them gets
	// its state from one that is.
	Hydrated []string `json:"hydrated"`
	// Carried are the records of earlier checkpoints that stay usable, as the state
	// machine encodes them.
	Carried [][]byte `json:"carried,omitempty"`
}

// Restoring is a restore in place that is under way.
type Restoring struct {
	Token string `json:"token"`
}

// PastShard is the shard of an earlier incarnation.
type PastShard struct {
	ShardID     uint64   `json:"shard_id"`
	Incarnation uint64   `json:"incarnation"`
	Members     []Member `json:"members"`
}

// PlanRestore announces a restore in place. Until BeginIncarnation or
// CancelRestore with its token, no other one can begin.
type PlanRestore struct {
	Group       string `json:"group"`
	Token       string `json:"token"`
	Incarnation uint64 `json:"incarnation"` // the present one
}

// CancelRestore takes a restore back: after it, its incarnation never begins.
type CancelRestore struct {
	Group string `json:"group"`
	Token string `json:"token"`
}

// BeginIncarnation gives a group a new shard, whose replicas start from the files
// of a restore. The shard before is over.
type BeginIncarnation struct {
	Group       string `json:"group"`
	Token       string `json:"token"`
	Incarnation uint64 `json:"incarnation"` // the new one
	Origin      Origin `json:"origin"`
	// Version and DefinitionJSON are those of the restored state.
	Version        uint64 `json:"version"`
	DefinitionJSON []byte `json:"definition_json"`
}

func checkToken(token string) string {
	if token == "" || len(token) > maxTokenBytes || !utf8.ValidString(token) {
		return fmt.Sprintf("a restore's token has 1 to %d bytes, not %d", maxTokenBytes, len(token))
	}
	return ""
}

func (o *Origin) check(members []string) string {
	if refusal := checkToken(o.Token); refusal != "" {
		return refusal
	}
	if len(o.Digest) != 32 {
		return fmt.Sprintf("the digest of the restored state has %d bytes, not 32", len(o.Digest))
	}
	count := 0
	for i, node := range o.Hydrated {
		if !slices.Contains(members, node) || slices.Contains(o.Hydrated[:i], node) {
			return fmt.Sprintf("%s has the files and is no member, or is listed twice", node)
		}
		count++
	}
	if count < len(members)/2+1 {
		return fmt.Sprintf("%d of %d members have the files: a majority must", count, len(members))
	}
	return ""
}

func (d *Directory) planRestore(c *PlanRestore) DirectoryResult {
	if refusal := checkToken(c.Token); refusal != "" {
		return refuse(RefusedMalformed, "%s", refusal)
	}
	old, ok := d.state.groups[c.Group]
	switch {
	case !ok:
		return refuse(RefusedUnknown, "there is no group %s", c.Group)
	case old.Restoring != nil && old.Restoring.Token == c.Token:
		return DirectoryResult{Group: old} // the same command again
	case old.Restoring != nil:
		return refuse(RefusedExists, "group %s is being restored; wait until that is over", c.Group)
	case old.LastRestore == c.Token:
		return refuse(RefusedVersion, "the restore of group %s is over", c.Group)
	case old.Incarnation != c.Incarnation:
		return refuse(RefusedVersion, "group %s is in incarnation %d, not %d", c.Group, old.Incarnation, c.Incarnation)
	case old.Incarnation >= MaxIncarnation:
		return refuse(RefusedFull, "group %s is in its last incarnation, %d; restore it under a new name", c.Group, old.Incarnation)
	}
	g := old.clone()
	g.Restoring, g.LastRestore = &Restoring{Token: c.Token}, c.Token
	d.change(func(s *DirectoryState) { s.groups[g.Name] = g })
	return DirectoryResult{Group: g, Changed: true}
}

func (d *Directory) cancelRestore(c *CancelRestore) DirectoryResult {
	old, ok := d.state.groups[c.Group]
	switch {
	case !ok:
		return refuse(RefusedUnknown, "there is no group %s", c.Group)
	case old.Restoring == nil || old.Restoring.Token != c.Token:
		if old.Origin != nil && old.Origin.Token == c.Token {
			return refuse(RefusedVersion, "the restore of group %s has happened", c.Group)
		}
		return DirectoryResult{Group: old} // the same command again, or one that was never planned
	}
	g := old.clone()
	g.Restoring = nil
	d.change(func(s *DirectoryState) { s.groups[g.Name] = g })
	return DirectoryResult{Group: g, Changed: true}
}

func (d *Directory) beginIncarnation(c *BeginIncarnation) DirectoryResult {
	old, ok := d.state.groups[c.Group]
	switch {
	case !ok:
		return refuse(RefusedUnknown, "there is no group %s", c.Group)
	case old.Incarnation == c.Incarnation && old.Origin != nil && old.Origin.Token == c.Token:
		return DirectoryResult{Group: old} // the same command again
	case old.Restoring == nil || old.Restoring.Token != c.Token || c.Origin.Token != c.Token:
		return refuse(RefusedVersion, "group %s is not being restored by this one: it was taken back", c.Group)
	case c.Incarnation != old.Incarnation+1 || c.Incarnation > MaxIncarnation:
		return refuse(RefusedVersion, "incarnation %d does not follow %d", c.Incarnation, old.Incarnation)
	}
	if refusal := c.Origin.check(old.Voters()); refusal != "" {
		return refuse(RefusedMalformed, "group %s: %s", c.Group, refusal)
	}
	if refusal := checkDefinitionJSON(c.DefinitionJSON); refusal != "" || c.Version == 0 {
		return refuse(RefusedMalformed, "group %s: version %d: %s", c.Group, c.Version, refusal)
	}
	g := old.clone()
	g.Version, g.DefinitionJSON = c.Version, c.DefinitionJSON
	g.Past = append(slices.Clone(old.Past), PastShard{ShardID: old.ShardID, Incarnation: old.Incarnation, Members: old.Members})
	if len(g.Past) > maxPast {
		g.Past = g.Past[len(g.Past)-maxPast:]
	}
	g.Restoring = nil
	g.Incarnation, g.Origin = c.Incarnation, &c.Origin
	g.Members, g.Changed = nil, false
	for _, m := range old.Members {
		if m.Leaving {
			continue
		}
		// One that did not vote yet joins the new shard as it would have the old one.
		g.Members = append(g.Members, Member{Node: m.Node, ReplicaID: g.NextReplicaID, Joined: !m.Voter()})
		g.NextReplicaID++
	}
	d.change(func(s *DirectoryState) {
		g.ShardID = s.nextGroupID
		s.nextGroupID++
		s.groups[g.Name] = g
	})
	return DirectoryResult{Group: g, Changed: true}
}

// FeatureLevel is what all members of a group support.
func (s *DirectoryState) FeatureLevel(g *GroupRecord) uint64 {
	if len(g.Members) == 0 {
		return 1
	}
	level := ^uint64(0)
	for _, m := range g.Members {
		if m.Leaving {
			continue
		}
		supported := uint64(1)
		if n, ok := s.nodes[m.Node]; ok {
			supported = max(n.FeatureLevel, 1)
		}
		level = min(level, supported)
	}
	return level
}

// CreateGroupFrom is CreateGroup for a group that a restore has made the files of.
func (h *DirectoryHost) CreateGroupFrom(ctx context.Context, d *Definition, nodes []string, incarnation uint64, origin Origin) (*GroupRecord, error) {
	data, err := d.MarshalJSON()
	if err != nil {
		return nil, err
	}
	result, err := h.propose(ctx, directoryCommand{CreateGroup: &CreateGroup{
		Group: d.Group, DefinitionJSON: data, Members: nodes, Incarnation: incarnation, Origin: &origin,
	}})
	return result.Group, err
}

// PlanRestore announces a restore in place of a group.
func (h *DirectoryHost) PlanRestore(ctx context.Context, group, token string, incarnation uint64) (*GroupRecord, error) {
	result, err := h.propose(ctx, directoryCommand{PlanRestore: &PlanRestore{Group: group, Token: token, Incarnation: incarnation}})
	return result.Group, err
}

// CancelRestore takes a restore back. It is refused when the incarnation has
// begun.
func (h *DirectoryHost) CancelRestore(ctx context.Context, group, token string) (*GroupRecord, error) {
	result, err := h.propose(ctx, directoryCommand{CancelRestore: &CancelRestore{Group: group, Token: token}})
	return result.Group, err
}

// BeginIncarnation switches a group to the shard of a restore.
func (h *DirectoryHost) BeginIncarnation(ctx context.Context, c BeginIncarnation) (*GroupRecord, error) {
	result, err := h.propose(ctx, directoryCommand{BeginIncarnation: &c})
	return result.Group, err
}
