package groups

import (
	"encoding/json"
	"fmt"
)

// directorySnapshotFormat is the format of snapshots; never reuse a number.
const directorySnapshotFormat = 1

// directorySnapshot is the state as it is saved: sorted, so that equal states
// give equal bytes.
type directorySnapshot struct {
	Format      uint32         `json:"format"`
	Revision    uint64         `json:"revision"`
	NextNodeID  uint64         `json:"next_node_id"`
	NextGroupID uint64         `json:"next_group_id"`
	Nodes       []*Node        `json:"nodes"`
	Groups      []*GroupRecord `json:"groups"`
	Retired     []Member       `json:"retired,omitempty"`
	Removed     []RemovedNode  `json:"removed,omitempty"`
}

// Snapshot encodes the state.
func (d *Directory) Snapshot() []byte {
	s := d.state
	data, err := json.Marshal(directorySnapshot{
		Format: directorySnapshotFormat, Revision: s.Revision,
		NextNodeID: s.nextNodeID, NextGroupID: s.nextGroupID,
		Nodes: s.sortedNodes, Groups: s.sortedRecords,
		Retired: s.retired, Removed: s.removed,
	})
	if err != nil {
		panic("groups: directory snapshot of plain data failed to encode: " + err.Error())
	}
	return data
}

// Restore replaces the state by that of a snapshot.
func (d *Directory) Restore(data []byte) error {
	var snapshot directorySnapshot
	if err := strictJSON(data, &snapshot); err != nil {
		return fmt.Errorf("groups: directory snapshot: %w", err)
	}
	if snapshot.Format != directorySnapshotFormat {
		return fmt.Errorf("groups: directory snapshot has format %d, this version reads %d; run the version that wrote it", snapshot.Format, directorySnapshotFormat)
	}
	s := &DirectoryState{
		Revision:    snapshot.Revision,
		nodes:       make(map[string]*Node, len(snapshot.Nodes)),
		groups:      make(map[string]*GroupRecord, len(snapshot.Groups)),
		nextNodeID:  snapshot.NextNodeID,
		nextGroupID: snapshot.NextGroupID,
		retired:     snapshot.Retired,
		removed:     snapshot.Removed,
	}
	for _, n := range snapshot.Nodes {
		if n == nil || s.nodes[n.Name] != nil {
			return fmt.Errorf("groups: directory snapshot lists a node twice or not at all")
		}
		s.nodes[n.Name] = n
	}
	for _, g := range snapshot.Groups {
		if g == nil || s.groups[g.Name] != nil {
			return fmt.Errorf("groups: directory snapshot lists a group twice or not at all")
		}
		s.groups[g.Name] = g
	}
	s.sort()
	if err := s.invariants(); err != nil {
		return fmt.Errorf("groups: directory snapshot: %w", err)
	}
	d.state = s
	return nil
}
