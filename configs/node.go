package configs

import (
	"time"
)

// Node is the configuration of one node, as its file gives it.
type Node struct {
	// Name of the node, unique in the cluster.
	Name string `yaml:"name" example:"n1"`
	// DataDir holds everything the node keeps. A relative path is relative to the
	// working directory.
	DataDir string `yaml:"data_dir" example:"/var/lib/cohort"`
	API     API    `yaml:"api" example:"{address: \"127.0.0.1:7070\"}"`
	Raft    Raft   `yaml:"raft" example:"{address: \"127.0.0.1:7071\"}"`
	HTTP    HTTP   `yaml:"http" example:"{address: \"127.0.0.1:7072\"}"`
	// TLS protects the API and Raft; nil means neither.
	TLS *TLS `yaml:"tls" example:"{cert_file: node.crt, key_file: node.key, ca_file: ca.crt}"`
	// Insecure allows addresses beyond loopback without TLS.
	Insecure bool `yaml:"insecure" example:"false"`
	// Cluster lists the initial nodes, the same in the same order in the file of
	// each; empty means a cluster of this node alone.
	Cluster []Peer `yaml:"cluster" example:"[{name: n1, api: \"10.0.0.1:7070\", raft: \"10.0.0.1:7071\"}]"`
	Log     Log    `yaml:"log" example:"{level: info, format: json}"`
	// ShutdownGrace bounds how long a stopping node finishes what it has begun.
	ShutdownGrace time.Duration `yaml:"shutdown_grace" example:"10s"`
	Limits        Limits        `yaml:"limits" example:"{message_bytes: 16MiB}"`
}

// API is the gRPC endpoint for clients, instances and other nodes.
type API struct {
	// Address to listen on.
	Address string `yaml:"address" example:"\"127.0.0.1:7070\""`
	// Advertise is where others reach it; empty means Address.
	Advertise string `yaml:"advertise" example:"\"n1.example.com:7070\""`
}

// Raft is the endpoint for replication between nodes.
type Raft struct {
	Address   string `yaml:"address" example:"\"127.0.0.1:7071\""`
	Advertise string `yaml:"advertise" example:"\"n1.example.com:7071\""`
	// RTT is the longest usual round trip between nodes, and the tick of Raft's
	// clock: heartbeats come every RTT, elections after about 10 of them without
	// one.
	RTT time.Duration `yaml:"rtt" example:"50ms"`
}

// HTTP is the endpoint for metrics and health.
type HTTP struct {
	// Address to listen on; empty means none.
	Address string `yaml:"address" example:"\"127.0.0.1:7072\""`
	// Pprof serves profiles there.
	Pprof bool `yaml:"pprof" example:"false"`
}

// TLS names PEM files. A relative path is relative to the working directory.
type TLS struct {
	CertFile string `yaml:"cert_file" example:"node.crt"`
	KeyFile  string `yaml:"key_file" example:"node.key"`
	// CAFile verifies other nodes and clients, who must show certificates.
	CAFile string `yaml:"ca_file" example:"ca.crt"`
}

// Peer is an initial node of the cluster.
type Peer struct {
	Name string `yaml:"name" example:"n1"`
	// API and Raft are the addresses others reach it at.
	API  string `yaml:"api" example:"\"10.0.0.1:7070\""`
	Raft string `yaml:"raft" example:"\"10.0.0.1:7071\""`
}

// Log says what is logged, to standard error.
type Log struct {
	Level  Level  `yaml:"level" example:"info"`
	Format Format `yaml:"format" example:"json"`
}

// Level is the least severe level that is logged.
type Level string

// Values lists what a file may say.
func (Level) Values() []string { return []string{"debug", "info", "warn", "error"} }

// Format is that of log lines.
type Format string

// Values lists what a file may say.
func (Format) Values() []string { return []string{"json", "console"} }

// Limits are the bounds of a node, whatever its groups allow.
type Limits struct {
	// MessageBytes bounds one message of the API.
	MessageBytes uint64 `yaml:"message_bytes,size" example:"16MiB"`
	// Instances bounds the application processes attached to this node.
	Instances uint64 `yaml:"instances" example:"1024"`
	// MinFreeDisk is the reserve below which the node reports a full disk.
	MinFreeDisk uint64 `yaml:"min_free_disk,size" example:"256MiB"`
}

// Default returns the configuration of which nothing is said. It lacks a name
// and a data directory.
func Default() Node {
	return Node{
		API:           API{Address: "127.0.0.1:7070"},
		Raft:          Raft{Address: "127.0.0.1:7071", RTT: 50 * time.Millisecond},
		HTTP:          HTTP{Address: "127.0.0.1:7072"},
		Log:           Log{Level: "info", Format: "json"},
		ShutdownGrace: 10 * time.Second,
		Limits:        Limits{MessageBytes: 16 << 20, Instances: 1024, MinFreeDisk: 256 << 20},
	}
}
