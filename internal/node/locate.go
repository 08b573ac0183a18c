package node

import (
	"github.com/cohort-tx/cohort/coordinator"
	"github.com/cohort-tx/cohort/groups"
)

// local is what this node knows of the cluster's groups by itself; the API
// services ask it at each request.
type local struct {
	node      string
	directory *groups.DirectoryHost
	manager   *manager
}

var _ coordinator.Groups = (*local)(nil)

// Directory is the directory as this node has applied it.
func (l *local) Directory() *groups.DirectoryState { return l.directory.State() }

// Group is what runs of a group here.
func (l *local) Group(name string) coordinator.LocalGroup {
	hosted := l.manager.group(name)
	if hosted == nil {
		return coordinator.LocalGroup{}
	}
	if hosted.replica == nil {
		return coordinator.LocalGroup{Err: hosted.err}
	}
	return coordinator.LocalGroup{
		Coordinator: coordinator.TransactorOf(hosted.coordinator),
		Replica:     coordinator.LocalReplicaOf(hosted.replica),
		Keeper:      hosted.keeper,
		Leader:      l.leader(hosted),
	}
}

// leader names the node that leads as far as the replica here knows.
func (l *local) leader(hosted *hostedGroup) string {
	leadership := hosted.replica.Leadership()
	if leadership.Self {
		return l.node
	}
	for _, member := range l.manager.current(hosted.record).Members {
		if leadership.LeaderReplica != 0 && member.ReplicaID == leadership.LeaderReplica {
			return member.Node
		}
	}
	return ""
}
