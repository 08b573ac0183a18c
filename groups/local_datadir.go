package groups

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// Files of a data directory that this package owns.
const (
	identityFile = "NODE"
	replicasFile = "REPLICAS"
	joinFile     = "JOIN"
)

// maxLocalReplicas bounds the replicas a node holds at a time.
const maxLocalReplicas = 2 * MaxGroups

// identity says whose data directory it is. It is written once.
type identity struct {
	Node    string `json:"node"`
	Cluster string `json:"cluster"`
	// ID is random: a directory that is wiped and initialised again is another.
	ID string `json:"id"`
}

// LocalReplica is a replica that this node runs or is about to run.
type LocalReplica struct {
	Group     string `json:"group"` // for display; empty for the directory's
	ShardID   uint64 `json:"shard_id"`
	ReplicaID uint64 `json:"replica_id"`
	// Bootstrapped is set when the replica has started once and its Raft log
	// exists: from then on a missing log is a loss.
	Bootstrapped bool `json:"bootstrapped"`
}

type replicasRecord struct {
	Replicas []LocalReplica `json:"replicas"`
}

// Join is what a node that was added to a running cluster, or begins anew there,
// knows of it.
type Join struct {
	// DirectoryReplica is its replica of the directory, added without a vote.
	DirectoryReplica uint64 `json:"directory_replica"`
	// Peers are API addresses of nodes that were there then.
	Peers []string `json:"peers"`
}

// DataDir is a node's data directory: its identity, and its own memory of the
// replicas it may start. Its methods are safe for concurrent use; one process
// at a time opens a directory, which the Raft log's lock below it ensures.
type DataDir struct {
	dir string
	id  identity
	// join is nil on an initial node.
	join *Join

	mu       sync.Mutex
	replicas []LocalReplica // by shard; what the file says
}

// InitDataDir makes dir the data directory of a new node, once. cluster is any
// text that tells this cluster from others. A crash leaves a directory that can
// be initialised again or one that is initialised, never a half.
func InitDataDir(dir, name, cluster string) error {
	if !ValidName(name) {
		return fmt.Errorf("%q is no name for a node; use a lower-case letter, then lower-case letters, digits and hyphens, 63 at most", name)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		switch e.Name() {
		case identityFile:
			return fmt.Errorf("%w: %s; start the node with `cohort serve`", ErrDataDirExists, dir)
		case identityFile + ".tmp", replicasFile, replicasFile + ".tmp", joinFile, joinFile + ".tmp", "lost+found":
			// What an interrupted initialisation or a fresh file system leaves.
		default:
			return fmt.Errorf("%s is not empty (it holds %s): name an empty directory, or empty this one if its data is not needed", dir, e.Name())
		}
	}
	random := make([]byte, 16)
	if _, err := rand.Read(random); err != nil {
		return err
	}
	// The identity is written last: its presence says that the rest is there.
	if err := writeLocal(filepath.Join(dir, replicasFile), "replicas", replicasRecord{Replicas: []LocalReplica{}}); err != nil {
		return err
	}
	if err := writeLocal(filepath.Join(dir, identityFile), "node", identity{Node: name, Cluster: cluster, ID: hex.EncodeToString(random)}); err != nil {
		return err
	}
	return syncDir(filepath.Dir(filepath.Clean(dir)))
}

// OpenDataDir opens an initialised data directory. Its error wraps ErrNoDataDir
// for one that was never initialised or was wiped, ErrForeignDataDir for one of
// another node or cluster, and ErrCorrupt for a damaged one.
func OpenDataDir(dir, name, cluster string) (*DataDir, error) {
	d := &DataDir{dir: dir}
	err := readLocal(filepath.Join(dir, identityFile), "node", &d.id)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("%w: %s. If this node is new, run `cohort node init --config FILE` once. If it has run before, its data is gone and it must not vote again: put the directory back, or rebuild the node with `cohort node replace`", ErrNoDataDir, dir)
	case err != nil:
		return nil, err
	case d.id.Node != name:
		return nil, fmt.Errorf("%w: %s belongs to node %s, and the configuration says %s; correct `name` or `data_dir`", ErrForeignDataDir, dir, d.id.Node, name)
	case d.id.Cluster != cluster:
		return nil, fmt.Errorf("%w: %s belongs to cluster %s, and the configuration says %s; correct `cluster` or `data_dir`", ErrForeignDataDir, dir, d.id.Cluster, cluster)
	}
	var record replicasRecord
	err = readLocal(filepath.Join(dir, replicasFile), "replicas", &record)
	if errors.Is(err, os.ErrNotExist) {
		// It was written before the identity, so somebody deleted it.
		return nil, fmt.Errorf("%w: %s lacks %s; put it back from a copy", ErrCorrupt, dir, replicasFile)
	}
	if err != nil {
		return nil, err
	}
	d.replicas = record.Replicas
	var join Join
	switch err := readLocal(filepath.Join(dir, joinFile), "join", &join); {
	case err == nil:
		d.join = &join
	case !errors.Is(err, os.ErrNotExist):
		return nil, err
	}
	return d, nil
}

// PrepareJoin makes the data directory of a node that is to join a running
// cluster, or opens one that was made for that and never used. RecordJoin
// completes it.
func PrepareJoin(dir, name, cluster string) (*DataDir, error) {
	err := InitDataDir(dir, name, cluster)
	if err != nil && !errors.Is(err, ErrDataDirExists) {
		return nil, err
	}
	d, err := OpenDataDir(dir, name, cluster)
	if err != nil {
		return nil, err
	}
	if len(d.replicas) > 0 {
		return nil, fmt.Errorf("%w: %s is the data directory of a node that has run; start it with `cohort serve`", ErrDataDirExists, dir)
	}
	return d, nil
}

// RecordJoin records durably as what the node starts.
func (d *DataDir) RecordJoin(j Join) error {
	if err := writeLocal(filepath.Join(d.dir, joinFile), "join", j); err != nil {
		return fmt.Errorf("record how this node joins: %w", err)
	}
	d.join = &j
	return nil
}

// Join tells how the node came into the cluster; nil on an initial node.
func (d *DataDir) Join() *Join { return d.join }

// ID is the identity of the directory; see RegisterNode.
func (d *DataDir) ID() string { return d.id.ID }

// Path is the directory.
func (d *DataDir) Path() string { return d.dir }

// Replicas returns what may be started here.
func (d *DataDir) Replicas() []LocalReplica {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.replicas)
}

// Plan records durably that this node is about to start a replica. It comes
// before MarkStarted: a crash between the two leaves a plan that is carried out
// next time.
func (d *DataDir) Plan(group string, shardID, replicaID uint64) error {
	return d.update(func(replicas []LocalReplica) ([]LocalReplica, error) {
		for _, r := range replicas {
			if r.ShardID != shardID {
				continue
			}
			if r.ReplicaID == replicaID {
				return replicas, nil
			}
			return nil, fmt.Errorf("shard %d has replica %d here; forget it before planning replica %d", shardID, r.ReplicaID, replicaID)
		}
		if len(replicas) >= maxLocalReplicas {
			return nil, fmt.Errorf("this node holds %d replicas, which is the most", maxLocalReplicas)
		}
		return append(replicas, LocalReplica{Group: group, ShardID: shardID, ReplicaID: replicaID}), nil
	})
}

// Bootstrapped records durably that a planned replica has started once.
func (d *DataDir) Bootstrapped(shardID, replicaID uint64) error {
	return d.update(func(replicas []LocalReplica) ([]LocalReplica, error) {
		for i, r := range replicas {
			if r.ShardID == shardID && r.ReplicaID == replicaID {
				replicas[i].Bootstrapped = true
				return replicas, nil
			}
		}
		return nil, fmt.Errorf("replica %d of shard %d was not planned here", replicaID, shardID)
	})
}

// Forget drops a replica that was removed from its shard; its id is never used
// again.
func (d *DataDir) Forget(shardID, replicaID uint64) error {
	return d.update(func(replicas []LocalReplica) ([]LocalReplica, error) {
		return slices.DeleteFunc(replicas, func(r LocalReplica) bool {
			return r.ShardID == shardID && r.ReplicaID == replicaID
		}), nil
	})
}

// update writes what edit makes of a copy; when it fails, memory and file stay
// as they are (the file may have the new content, which is as good: every
// change here is safe to find after a crash).
func (d *DataDir) update(edit func([]LocalReplica) ([]LocalReplica, error)) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	next, err := edit(slices.Clone(d.replicas))
	if err != nil {
		return err
	}
	if slices.Equal(next, d.replicas) {
		return nil
	}
	slices.SortFunc(next, func(a, b LocalReplica) int {
		if a.ShardID < b.ShardID {
			return -1
		}
		return 1
	})
	if err := writeLocal(filepath.Join(d.dir, replicasFile), "replicas", replicasRecord{Replicas: next}); err != nil {
		return fmt.Errorf("record replicas of this node: %w", err)
	}
	d.replicas = next
	return nil
}

// StartMode says how a replica is to be started.
type StartMode uint8

const (
	// StartBootstrap: for the first time, with its initial members.
	StartBootstrap StartMode = 1
	// StartRestart: from its Raft log, with no members given.
	StartRestart StartMode = 2
)

// String names the mode.
func (m StartMode) String() string {
	switch m {
	case StartBootstrap:
		return "bootstrap"
	case StartRestart:
		return "restart"
	default:
		return fmt.Sprintf("StartMode(%d)", uint8(m))
	}
}

// StartMode decides how a replica may start, from what the directory says
// (marked as started), what the Raft log store says (hasLog, from NodeHost's
// HasNodeInfo), and this directory's own record. Its error wraps ErrAmnesia when
// the replica has run before and what it voted is lost.
//
//	own record     marked   log    →
//	none           no       no     bootstrap (after Plan and MarkStarted)
//	none           yes      any    amnesia: the record went with the data
//	none           no       yes    amnesia: a log that nobody planned
//	planned        any      no     bootstrap: crashed before the first start
//	planned        any      yes    restart: crashed before Bootstrapped
//	bootstrapped   any      yes    restart
//	bootstrapped   any      no     amnesia: the Raft log is gone
func (d *DataDir) StartMode(shardID, replicaID uint64, marked, hasLog bool) (StartMode, error) {
	d.mu.Lock()
	at := slices.IndexFunc(d.replicas, func(r LocalReplica) bool {
		return r.ShardID == shardID && r.ReplicaID == replicaID
	})
	var own LocalReplica
	if at >= 0 {
		own = d.replicas[at]
	}
	d.mu.Unlock()
	amnesia := func(detail string) error {
		return fmt.Errorf("%w: replica %d of shard %d: %s. Put the data directory back, or rebuild the node with `cohort node replace`: it must not vote again without it", ErrAmnesia, replicaID, shardID, detail)
	}
	switch {
	case at < 0 && marked:
		return 0, amnesia("the directory has it as started, and this node has no record of it")
	case at < 0 && hasLog:
		return 0, amnesia("there is a Raft log, and this node has no record of it")
	case at >= 0 && own.Bootstrapped && !hasLog:
		return 0, amnesia("it was started here, and its Raft log is gone")
	case hasLog:
		return StartRestart, nil
	default:
		return StartBootstrap, nil
	}
}
