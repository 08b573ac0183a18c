package groups

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// directoryCommandFormat numbers the encoding of commands; never reuse one.
const directoryCommandFormat = 1

// maxDirectoryCommandBytes bounds a command: a definition in base64, the names
// of its members, the records of checkpoints that a restore carries, and room.
const maxDirectoryCommandBytes = MaxDefinitionBytes*4/3 + 256<<10

// directoryCommand is one Raft entry of the directory: exactly one field besides
// Format is set. Sending any of them again is harmless.
type directoryCommand struct {
	Format        uint32         `json:"format"`
	RegisterNode  *RegisterNode  `json:"register_node,omitempty"`
	CreateGroup   *CreateGroup   `json:"create_group,omitempty"`
	SetDefinition *SetDefinition `json:"set_definition,omitempty"`
	MarkStarted   *MarkStarted   `json:"mark_started,omitempty"`

	PlanRestore      *PlanRestore      `json:"plan_restore,omitempty"`
	CancelRestore    *CancelRestore    `json:"cancel_restore,omitempty"`
	BeginIncarnation *BeginIncarnation `json:"begin_incarnation,omitempty"`

	AddNode       *AddNode       `json:"add_node,omitempty"`
	ReplaceNode   *ReplaceNode   `json:"replace_node,omitempty"`
	LeaveNode     *LeaveNode     `json:"leave_node,omitempty"`
	PlanMember    *PlanMember    `json:"plan_member,omitempty"`
	PromoteMember *PromoteMember `json:"promote_member,omitempty"`
	DropMember    *DropMember    `json:"drop_member,omitempty"`
}

// RegisterNode adds a node or changes its API address.
type RegisterNode struct {
	Name string `json:"name"`
	// ReplicaID of an initial node is its place in the cluster's list, from 1; 0
	// asks for a new one.
	ReplicaID   uint64 `json:"replica_id"`
	APIAddress  string `json:"api_address"`
	RaftAddress string `json:"raft_address"`
	DataID      string `json:"data_id"`
	// FeatureLevel is the newest that the node's release supports.
	FeatureLevel uint64 `json:"feature_level,omitempty"`
}

// CreateGroup adds a group with replicas on the given nodes.
type CreateGroup struct {
	Group          string   `json:"group"`
	DefinitionJSON []byte   `json:"definition_json"`
	Members        []string `json:"members"`
	// Incarnation and Origin of a group that was restored; 0 and nil of one that is
	// declared.
	Incarnation uint64  `json:"incarnation,omitempty"`
	Origin      *Origin `json:"origin,omitempty"`
}

// SetDefinition moves a group's definition from version Expect to Version.
type SetDefinition struct {
	Group          string `json:"group"`
	Expect         uint64 `json:"expect"`
	Version        uint64 `json:"version"`
	DefinitionJSON []byte `json:"definition_json"`
}

// MarkStarted records, before it happens, that a replica is started for the
// first time.
type MarkStarted struct {
	ShardID   uint64 `json:"shard_id"`
	ReplicaID uint64 `json:"replica_id"`
}

// DirectoryResult answers a command.
type DirectoryResult struct {
	// Refused is 0 when the command took effect, now or before.
	Refused RefusalCode `json:"refused,omitempty"`
	Detail  string      `json:"detail,omitempty"`
	// Changed tells a command that took effect now from a repeated one.
	Changed bool         `json:"changed,omitempty"`
	Node    *Node        `json:"node,omitempty"`
	Group   *GroupRecord `json:"group,omitempty"`
}

func encodeDirectoryCommand(c directoryCommand) []byte {
	c.Format = directoryCommandFormat
	data, err := json.Marshal(c)
	if err != nil {
		panic("groups: directory command of plain data failed to encode: " + err.Error())
	}
	return data
}

func decodeDirectoryCommand(data []byte) (directoryCommand, error) {
	var c directoryCommand
	if len(data) > maxDirectoryCommandBytes {
		return c, fmt.Errorf("command of %d bytes, at most %d", len(data), maxDirectoryCommandBytes)
	}
	if err := strictJSON(data, &c); err != nil {
		return c, fmt.Errorf("command cannot be read: %w", err)
	}
	if c.Format != directoryCommandFormat {
		return c, fmt.Errorf("command has format %d, this version reads %d", c.Format, directoryCommandFormat)
	}
	set := 0
	for _, given := range []bool{c.RegisterNode != nil, c.CreateGroup != nil, c.SetDefinition != nil, c.MarkStarted != nil,
		c.PlanRestore != nil, c.CancelRestore != nil, c.BeginIncarnation != nil,
		c.AddNode != nil, c.ReplaceNode != nil, c.LeaveNode != nil, c.PlanMember != nil, c.PromoteMember != nil, c.DropMember != nil} {
		if given {
			set++
		}
	}
	if set != 1 {
		return c, fmt.Errorf("command holds %d commands, want 1", set)
	}
	return c, nil
}

// strictJSON decodes one value and refuses unknown keys and anything after it.
func strictJSON(data []byte, into any) error {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more follows the value")
	}
	return nil
}
