package node

import (
	"fmt"

	"github.com/lni/dragonboat/v4"
	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/statemachine"

	"github.com/cohort-tx/cohort/coordinator"
	"github.com/cohort-tx/cohort/txlog"
)

// What a shard beside the groups' gets: the settings of theirs, see package txlog.
const (
	besideSnapshotEntries    = 50_000
	besideCompactionOverhead = 100_000
	besideMaxInMemLogBytes   = 256 << 20
)

// Coordinator is the group's on this node, for whoever runs in the node's process
// and wants no network between; nil when the node has no replica of the group. It
// serves while the node leads the group.
func (n *Node) Coordinator(group string) *coordinator.Coordinator {
	if h := n.manager.group(group); h != nil {
		return h.coordinator
	}
	return nil
}

// Replica is the group's on this node; nil when there is none.
func (n *Node) Replica(group string) *txlog.Replica {
	if h := n.manager.group(group); h != nil {
		return h.replica
	}
	return nil
}

// NodeHost is dragonboat's part of the node.
func (n *Node) NodeHost() *dragonboat.NodeHost { return n.host.NodeHost() }

// StartBeside starts a replica of a shard that is no group's, with the settings of
// the groups' shards: what Raft alone costs is measured on it. members are the Raft
// addresses by replica id.
func (n *Node) StartBeside(shardID, replicaID uint64, members map[uint64]string, machine func() statemachine.IOnDiskStateMachine) error {
	err := n.host.NodeHost().StartOnDiskReplica(members, false, func(uint64, uint64) statemachine.IOnDiskStateMachine { return machine() }, config.Config{
		ShardID: shardID, ReplicaID: replicaID, ElectionRTT: electionTicks, HeartbeatRTT: heartbeatTicks,
		CheckQuorum: true, PreVote: true, OrderedConfigChange: true,
		SnapshotEntries: besideSnapshotEntries, CompactionOverhead: besideCompactionOverhead, MaxInMemLogSize: besideMaxInMemLogBytes,
		WaitReady: true,
	})
	if err != nil {
		return fmt.Errorf("start shard %d on node %s: %w", shardID, n.config.Name, err)
	}
	return nil
}
