package configs

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/cohort-tx/cohort/internal/strictyaml"
)

// Bounds of a node's configuration.
const (
	minRTT = time.Millisecond
	// maxRTT: an election takes about 10 of them.
	maxRTT           = 10 * time.Second
	maxShutdownGrace = 10 * time.Minute
	// minMessageBytes lets the smallest useful transaction through.
	minMessageBytes = 64 << 10
	// maxMessageBytes is above the largest transaction a group may allow, with its
	// reads; a message is held in memory whole.
	maxMessageBytes = 64 << 20
	maxInstances    = 1 << 16
	// maxInitialNodes are members of the directory, all of which vote.
	maxInitialNodes = 15
)

var namePattern = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)

const nameForm = "use a lower-case letter, then lower-case letters, digits and hyphens, 63 at most"

// EnsureDefaults fills in what is empty and may not be, and the cluster of a
// node that is alone.
func (n *Node) EnsureDefaults() {
	d := Default()
	if n.API.Address == "" {
		n.API.Address = d.API.Address
	}
	if n.Raft.Address == "" {
		n.Raft.Address = d.Raft.Address
	}
	if n.Raft.RTT == 0 {
		n.Raft.RTT = d.Raft.RTT
	}
	if n.Log.Level == "" {
		n.Log.Level = d.Log.Level
	}
	if n.Log.Format == "" {
		n.Log.Format = d.Log.Format
	}
	if n.ShutdownGrace == 0 {
		n.ShutdownGrace = d.ShutdownGrace
	}
	if n.Limits.MessageBytes == 0 {
		n.Limits.MessageBytes = d.Limits.MessageBytes
	}
	if n.Limits.Instances == 0 {
		n.Limits.Instances = d.Limits.Instances
	}
	n.ensureCluster()
}

// ensureCluster makes a node that lists no others a cluster of its own.
func (n *Node) ensureCluster() {
	if len(n.Cluster) == 0 && n.Name != "" {
		n.Cluster = []Peer{{Name: n.Name, API: n.APIAddress(), Raft: n.RaftAddress()}}
	}
}

// APIAddress is where others reach the API.
func (n *Node) APIAddress() string { return orElse(n.API.Advertise, n.API.Address) }

// RaftAddress is where other nodes reach Raft.
func (n *Node) RaftAddress() string { return orElse(n.Raft.Advertise, n.Raft.Address) }

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// InitialReplicaID is the node's place in the cluster's list from 1, which is
// its replica in the directory; 0 when it is not in the list.
func (n *Node) InitialReplicaID() uint64 {
	for i, p := range n.Cluster {
		if p.Name == n.Name {
			return uint64(i + 1)
		}
	}
	return 0
}

// InitialMembers are the directory's first replicas: replica id to Raft address.
func (n *Node) InitialMembers() map[uint64]string {
	members := make(map[uint64]string, len(n.Cluster))
	for i, p := range n.Cluster {
		members[uint64(i+1)] = p.Raft
	}
	return members
}

// ClusterID tells this cluster from others by the names and Raft addresses of
// its initial nodes, in order.
func (n *Node) ClusterID() string {
	hash := sha256.New()
	for _, p := range n.Cluster {
		fmt.Fprintf(hash, "%q %q\n", p.Name, p.Raft)
	}
	return hex.EncodeToString(hash.Sum(nil)[:8])
}

// InvalidError is everything wrong with a configuration made in Go.
type InvalidError struct{ Problems strictyaml.Problems }

// Error lists the problems.
func (e *InvalidError) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.Path + ": " + p.Message
	}
	return "node configuration: " + strings.Join(lines, "; ")
}

// Validate returns an *InvalidError with everything wrong, or nil. Files that
// the configuration names are not looked at.
func (n *Node) Validate() error {
	if problems := n.problems(); len(problems) > 0 {
		return &InvalidError{Problems: problems}
	}
	return nil
}

func (n *Node) problems() strictyaml.Problems {
	var p strictyaml.Problems
	switch {
	case n.Name == "":
		p.Add("name", "the node has no name; write one, as in `name: n1`")
	case !namePattern.MatchString(n.Name):
		p.Add("name", "%s is no name for a node; %s", strictyaml.Show(n.Name), nameForm)
	}
	if n.DataDir == "" {
		p.Add("data_dir", "the node has no data directory; write one, as in `data_dir: /var/lib/cohort`")
	}
	n.addressProblems(&p)
	n.tlsProblems(&p)
	n.clusterProblems(&p)
	between(&p, "raft.rtt", n.Raft.RTT, minRTT, maxRTT, strictyaml.FormatDuration)
	between(&p, "shutdown_grace", n.ShutdownGrace, 0, maxShutdownGrace, strictyaml.FormatDuration)
	oneOf(&p, "log.level", string(n.Log.Level), n.Log.Level.Values())
	oneOf(&p, "log.format", string(n.Log.Format), n.Log.Format.Values())
	between(&p, "limits.message_bytes", n.Limits.MessageBytes, minMessageBytes, maxMessageBytes, strictyaml.FormatSize)
	between(&p, "limits.instances", n.Limits.Instances, 1, maxInstances, func(v uint64) string { return strconv.FormatUint(v, 10) })
	if n.HTTP.Pprof && n.HTTP.Address == "" {
		p.Add("http.pprof", "profiles are asked for, and http.address is empty; give an address to serve them at")
	}
	return p
}

func between[T time.Duration | uint64](p *strictyaml.Problems, path string, v, low, high T, show func(T) string) {
	if v < low || v > high {
		p.Add(path, "%s is out of range; want %s to %s", show(v), show(low), show(high))
	}
}

func oneOf(p *strictyaml.Problems, path, v string, values []string) {
	for _, allowed := range values {
		if v == allowed {
			return
		}
	}
	p.Add(path, "%s is none of %s", strictyaml.Show(v), strings.Join(values, ", "))
}

func (n *Node) addressProblems(p *strictyaml.Problems) {
	listening := map[string]string{}
	for _, at := range []struct {
		path, address string
		optional      bool
	}{
		{"api.address", n.API.Address, false}, {"raft.address", n.Raft.Address, false}, {"http.address", n.HTTP.Address, true},
	} {
		if at.address == "" && at.optional {
			continue
		}
		host, port, message := splitAddress(at.address)
		if message != "" {
			p.Add(at.path, "%s", message)
			continue
		}
		if first, taken := listening[at.address]; taken && port != "0" {
			p.Add(at.path, "%s is the address of %s already; give each its own port", strictyaml.Show(at.address), first)
		}
		listening[at.address] = at.path
		if loopback(host) || n.Insecure {
			continue
		}
		if at.path == "http.address" {
			p.Add(at.path, "%s is reachable from other machines, and this endpoint has no TLS; listen on 127.0.0.1, or write `insecure: true` if the network is trusted", strictyaml.Show(at.address))
		} else if n.TLS == nil {
			p.Add(at.path, "%s is reachable from other machines without TLS; give `tls`, listen on 127.0.0.1, or write `insecure: true` if the network is trusted", strictyaml.Show(at.address))
		}
	}
	advertised(p, "api", n.API.Address, n.API.Advertise)
	advertised(p, "raft", n.Raft.Address, n.Raft.Advertise)
}

// advertised checks that others can reach what is advertised.
func advertised(p *strictyaml.Problems, section, address, advertise string) {
	path := section + ".advertise"
	if advertise == "" {
		if host, _, message := splitAddress(address); message == "" && unspecified(host) {
			p.Add(path, "%s.address %s names no host that others could reach; write the one they should use", section, strictyaml.Show(address))
		}
		return
	}
	host, port, message := splitAddress(advertise)
	switch {
	case message != "":
		p.Add(path, "%s", message)
	case unspecified(host):
		p.Add(path, "%s names no host that others could reach; write one", strictyaml.Show(advertise))
	case port == "0":
		p.Add(path, "%s has no port that others could reach; write one", strictyaml.Show(advertise))
	}
}

func (n *Node) tlsProblems(p *strictyaml.Problems) {
	if n.TLS == nil {
		return
	}
	for _, f := range []struct{ key, value string }{
		{"cert_file", n.TLS.CertFile}, {"key_file", n.TLS.KeyFile}, {"ca_file", n.TLS.CAFile},
	} {
		if f.value == "" {
			p.Add("tls."+f.key, "the file is not given; TLS needs cert_file, key_file and ca_file")
		}
	}
}

func (n *Node) clusterProblems(p *strictyaml.Problems) {
	if len(n.Cluster) > maxInitialNodes {
		p.Add("cluster", "%d initial nodes, at most %d: each votes in the directory; start with fewer and join the others", len(n.Cluster), maxInitialNodes)
		return
	}
	names := make([]string, len(n.Cluster))
	for i, peer := range n.Cluster {
		names[i] = peer.Name
	}
	labels := strictyaml.Labels(names)
	taken := map[string]string{}
	for i, peer := range n.Cluster {
		path := "cluster[" + labels[i] + "]"
		switch {
		case !namePattern.MatchString(peer.Name):
			p.Add(path+".name", "%s is no name for a node; %s", strictyaml.Show(peer.Name), nameForm)
		case labels[i] != peer.Name:
			p.Add(path+".name", "node %s is listed twice; leave one", strictyaml.Show(peer.Name))
		}
		for _, at := range []struct{ path, address string }{{path + ".api", peer.API}, {path + ".raft", peer.Raft}} {
			_, _, message := splitAddress(at.address)
			first, twice := taken[at.address]
			switch {
			case message != "":
				p.Add(at.path, "%s", message)
			case twice:
				p.Add(at.path, "%s is the address of %s already; give each its own", strictyaml.Show(at.address), first)
			}
			taken[at.address] = at.path
		}
		if peer.Name == n.Name && n.Name != "" {
			same(p, path+".api", peer.API, "api", n.APIAddress())
			same(p, path+".raft", peer.Raft, "raft", n.RaftAddress())
		}
	}
}

func same(p *strictyaml.Problems, path, listed, section, own string) {
	if listed != own {
		p.Add(path, "%s is not what this node advertises, %s; make %s.advertise (or %s.address) and this the same", strictyaml.Show(listed), strictyaml.Show(own), section, section)
	}
}

// splitAddress reads host:port; message says what is wrong.
func splitAddress(address string) (host, port, message string) {
	host, port, err := net.SplitHostPort(address)
	number, portErr := strconv.ParseUint(port, 10, 16)
	if err != nil || portErr != nil || strings.ContainsAny(host, " \t\n/") || strconv.FormatUint(number, 10) != port {
		return "", "", fmt.Sprintf("%s is not an address; write host:port, as in 127.0.0.1:7070", strictyaml.Show(address))
	}
	return host, port, ""
}

func unspecified(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "" || (err == nil && ip.IsUnspecified())
}

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || (err == nil && ip.Unmap().IsLoopback())
}
