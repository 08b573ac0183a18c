package cluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cohort-tx/cohort/configs"
	"github.com/cohort-tx/cohort/groups"
	"github.com/cohort-tx/cohort/internal/ports"
)

// maxNodes bounds a cluster on one machine.
const maxNodes = 9

// Options say what cluster to run.
type Options struct {
	// Dir holds the nodes' files. What is there is continued with.
	Dir string
	// Nodes is how many; 0 means as many as Dir holds, or one.
	Nodes int
	// API is the address that the first node prefers for its API; it is used when
	// free. Empty means none.
	API string
	// RTT is Raft's round trip; 0 means the default of a node. Short ones make
	// elections fast, and false alarms likely on a busy machine.
	RTT time.Duration
	// LogLevel of the nodes; empty means warn.
	LogLevel configs.Level
	// ShutdownGrace of the nodes; 0 means the default of a node.
	ShutdownGrace time.Duration
}

// Member is a node of the cluster as its configuration file says.
type Member struct {
	Name string
	// Addr is that of its API.
	Addr string
	// ConfigPath is its file, Dir its directory.
	ConfigPath, Dir string
	Config          configs.Node
}

// prepare makes the members' files and data directories, or reads those there. It
// makes no data directory of a cluster that exists: one that was lost must not
// vote as if it were new.
func prepare(o Options) ([]Member, error) {
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, err
	}
	members, err := existing(dir)
	if err != nil {
		return nil, err
	}
	if len(members) == 0 {
		if members, err = create(dir, o); err != nil {
			return nil, err
		}
	} else if o.Nodes != 0 && o.Nodes != len(members) {
		return nil, fmt.Errorf("%s holds a cluster of %d nodes, not %d: ask for %d, or name another directory", dir, len(members), o.Nodes, len(members))
	}
	return members, nil
}

// existing reads the members whose files are in dir.
func existing(dir string) ([]Member, error) {
	var members []Member
	for i := 1; i <= maxNodes; i++ {
		m := memberIn(dir, i)
		config, err := configs.Load(m.ConfigPath)
		if errors.Is(err, os.ErrNotExist) {
			break
		}
		if err != nil {
			return nil, err
		}
		m.Config, m.Addr = config, config.APIAddress()
		members = append(members, m)
	}
	return members, nil
}

func memberIn(dir string, number int) Member {
	name := fmt.Sprintf("n%d", number)
	own := filepath.Join(dir, name)
	return Member{Name: name, Dir: own, ConfigPath: filepath.Join(own, "node.yaml")}
}

// siblingDir is where the files of another node of the cluster are.
func (m Member) siblingDir(name string) string { return filepath.Join(filepath.Dir(m.Dir), name) }

func (m Member) configPath() string { return filepath.Join(m.Dir, "node.yaml") }

// create makes the data directories and writes the files of a new cluster. The
// first node's file comes last: a directory without it is made anew.
func create(dir string, o Options) ([]Member, error) {
	nodes := max(o.Nodes, 1)
	if nodes > maxNodes {
		return nil, fmt.Errorf("a cluster on one machine has %d nodes at most, not %d", maxNodes, nodes)
	}
	members := make([]Member, nodes)
	peers := make([]configs.Peer, nodes)
	for i := range members {
		members[i] = memberIn(dir, i+1)
		api, err := ports.Claim()
		if i == 0 && o.API != "" && ports.Free(o.API) {
			api, err = o.API, nil
		}
		raft, raftErr := ports.Claim()
		if err := errors.Join(err, raftErr); err != nil {
			return nil, err
		}
		members[i].Addr = api
		peers[i] = configs.Peer{Name: members[i].Name, API: api, Raft: raft}
	}
	for i := nodes - 1; i >= 0; i-- {
		m := &members[i]
		http, err := ports.Claim()
		if err != nil {
			return nil, err
		}
		text := nodeFile(*m, peers, peers[i], http, o)
		if m.Config, err = configs.Parse(m.ConfigPath, []byte(text)); err != nil {
			return nil, err
		}
		err = groups.InitDataDir(m.Config.DataDir, m.Name, m.Config.ClusterID())
		if errors.Is(err, groups.ErrDataDirExists) {
			return nil, fmt.Errorf("%s holds data of %s, but %s is missing: put it back, or name an empty directory", dir, m.Name, members[0].ConfigPath)
		}
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(m.ConfigPath, []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	return members, nil
}

// nodeFile is a node's configuration as text.
func nodeFile(m Member, peers []configs.Peer, own configs.Peer, http string, o Options) string {
	defaults := configs.Default()
	level := o.LogLevel
	if level == "" {
		level = "warn"
	}
	rtt, grace := o.RTT, o.ShutdownGrace
	if rtt == 0 {
		rtt = defaults.Raft.RTT
	}
	if grace == 0 {
		grace = defaults.ShutdownGrace
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# A node of a development cluster. Start it by itself with\n#   cohort serve --config %s\n", m.ConfigPath)
	fmt.Fprintf(&b, "name: %s\ndata_dir: %q\n", m.Name, filepath.Join(m.Dir, "data"))
	fmt.Fprintf(&b, "api: {address: %q}\nraft: {address: %q, rtt: %s}\nhttp: {address: %q}\n", own.API, own.Raft, rtt, http)
	fmt.Fprintf(&b, "log: {level: %s, format: console}\nshutdown_grace: %s\ncluster:\n", level, grace)
	for _, p := range peers {
		fmt.Fprintf(&b, "  - {name: %s, api: %q, raft: %q}\n", p.Name, p.API, p.Raft)
	}
	return b.String()
}
