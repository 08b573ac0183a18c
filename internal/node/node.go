package node

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	"github.com/cohort-tx/cohort/configs"
	"github.com/cohort-tx/cohort/coordinator"
	"github.com/cohort-tx/cohort/groups"
	"github.com/cohort-tx/cohort/txlog"
)

const (
	// heartbeatTicks and electionTicks are Raft's, in ticks of a fifth of the
	// configured round trip: a heartbeat every round trip, an election after ten to
	// twenty without one.
	ticksPerRTT    = 5
	heartbeatTicks = ticksPerRTT
	electionTicks  = 10 * ticksPerRTT
	// maxStreams bounds the requests that one client connection has under way.
	maxStreams = 16384
)

// Params is what a Node is made from.
type Params struct {
	Config configs.Node
	// Version of the program, shown to operators.
	Version string
	Logger  *zap.Logger
	// Metrics takes the node's metrics and gives them to /metrics; nil makes one.
	Metrics *prometheus.Registry
}

// Node is one node of a cluster: its replicas, its coordinators, its agent and
// its servers. Start it once and Close it once.
type Node struct {
	params   Params
	config   configs.Node
	logger   *zap.Logger
	security security

	data      *groups.DataDir
	host      *txlog.Host
	directory *groups.DirectoryHost
	manager   *manager
	service   *coordinator.Service
	agent     *groups.Agent
	grpc      *grpc.Server
	health    *health.Server
	http      *httpServer

	// cancel ends what runs in the background; running counts it.
	cancel  context.CancelFunc
	running sync.WaitGroup

	// failed is closed when the node cannot go on; failure says why.
	failed chan struct{}

	mu         sync.Mutex
	failure    error
	registered bool
	draining   bool
	closed     bool
}

// New checks the parameters and reads the files of TLS; it starts nothing.
func New(p Params) (*Node, error) {
	p.Config.EnsureDefaults()
	if err := p.Config.Validate(); err != nil {
		return nil, err
	}
	if p.Logger == nil {
		p.Logger = zap.NewNop()
	}
	if p.Metrics == nil {
		p.Metrics = prometheus.NewRegistry()
	}
	s, err := newSecurity(p.Config.TLS)
	if err != nil {
		return nil, err
	}
	return &Node{
		params: p, config: p.Config, security: s,
		logger: p.Logger.Named("node").With(zap.String("node", p.Config.Name)),
		failed: make(chan struct{}),
	}, nil
}

// Start opens the data directory, takes the addresses and begins to work. It
// does not wait for other nodes; Ready does. When it fails nothing is left
// running.
func (n *Node) Start(context.Context) (err error) {
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel = cancel
	defer func() {
		if err != nil {
			n.stop(context.Background())
		}
	}()
	if n.data, err = groups.OpenDataDir(n.config.DataDir, n.config.Name, n.config.ClusterID()); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", n.config.API.Address)
	if err != nil {
		return fmt.Errorf("api.address: %w; is another node running with it?", err)
	}
	defer func() {
		if err != nil {
			listener.Close()
		}
	}()
	if err := n.startRaft(ctx); err != nil {
		return err
	}
	n.startServices(listener)
	if n.http, err = startHTTP(n.config.HTTP, n.params.Metrics, n.Err, n.ready); err != nil {
		return err
	}
	n.running.Go(func() { n.register(ctx) })
	n.running.Go(func() { newDriver(n).run(ctx) })
	n.logger.Info("node started", zap.String("api", n.config.APIAddress()), zap.String("raft", n.config.RaftAddress()),
		zap.String("http", n.http.addr()), zap.String("version", n.params.Version))
	return nil
}

// startRaft starts the Raft host, the directory's replica, and the following of
// what the directory places here.
func (n *Node) startRaft(ctx context.Context) error {
	var err error
	n.host, err = txlog.NewHost(txlog.HostConfig{
		Dir:           n.config.DataDir,
		RaftAddress:   n.config.RaftAddress(),
		ListenAddress: n.config.Raft.Address,
		RTT:           max(n.config.Raft.RTT/ticksPerRTT, time.Millisecond),
		HeartbeatRTT:  heartbeatTicks,
		ElectionRTT:   electionTicks,
		TLS:           n.security.raft,
		Logger:        n.logger,
	})
	if err != nil {
		return err
	}
	if err := n.startDirectory(ctx); err != nil {
		return err
	}
	n.manager = &manager{
		node: n.config.Name, host: n.host, directory: n.directory, data: n.data,
		metrics: coordinator.NewMetrics(n.params.Metrics), logger: n.logger,
	}
	n.manager.hydrator = newHydrator(n.config.DataDir, n.manager, n.logger)
	n.manager.keepers = &keepers{node: n.config.Name, dir: n.config.DataDir, minFree: n.config.Limits.MinFreeDisk, logger: n.logger}
	return nil
}

// startServices begins to answer on listener.
func (n *Node) startServices(listener net.Listener) {
	n.service = coordinator.NewService(coordinator.ServiceConfig{
		Node: n.config.Name, Addr: n.config.APIAddress(), Version: n.params.Version,
		Groups:         &local{node: n.config.Name, directory: n.directory, manager: n.manager},
		Directory:      n.directory,
		LeadsDirectory: n.leadsDirectory,
		DialOptions:    []grpc.DialOption{grpc.WithTransportCredentials(n.security.client)},
		ClusterID:      n.config.ClusterID(),
		Shards:         &shards{n},
		Hydrator:       n.manager.hydrator,
		Logger:         n.logger,
	})
	n.manager.keepers.service, n.manager.hydrator.service = n.service, n.service
	n.manager.start()
	n.agent = groups.NewAgent(groups.AgentConfig{
		Node: n.config.Name, Coordinators: n.service.AgentCoordinators(), Logger: n.logger,
	})
	options := append(n.service.ServerOptions(), grpc.Creds(n.security.server), grpc.MaxConcurrentStreams(maxStreams))
	n.grpc = grpc.NewServer(options...)
	n.service.Register(n.grpc)
	n.service.RegisterParticipants(n.grpc, n.agent)
	n.health = health.NewServer()
	n.health.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
	healthpb.RegisterHealthServer(n.grpc, n.health)
	reflection.Register(n.grpc)
	n.running.Go(func() {
		if err := n.grpc.Serve(listener); err != nil {
			n.fail(fmt.Errorf("the API stopped: %w", err))
		}
	})
}

// fail records why the node cannot go on; the first reason stays.
func (n *Node) fail(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.failure != nil || n.closed {
		return
	}
	n.failure = err
	close(n.failed)
}

// Failed is closed when the node cannot go on; Err says why, and Close is what
// is left to do.
func (n *Node) Failed() <-chan struct{} { return n.failed }

// Err is why the node cannot go on; nil while it can.
func (n *Node) Err() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.failure
}

// ready is nil when the node can do its part.
func (n *Node) ready() error {
	n.mu.Lock()
	failure, registered, draining := n.failure, n.registered, n.draining
	n.mu.Unlock()
	switch {
	case failure != nil:
		return failure
	case draining:
		return fmt.Errorf("%w: it is shutting down", ErrNotReady)
	case !registered:
		return fmt.Errorf("%w: it is not registered with the directory, which needs a majority of the nodes", ErrNotReady)
	}
	return n.manager.ready()
}

// Ready waits until the node is registered with the directory and runs what is
// placed on it, or until it failed or ctx ends.
func (n *Node) Ready(ctx context.Context) error {
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := n.ready()
		if err == nil {
			return nil
		}
		select {
		case <-ticker.C:
		case <-n.failed:
			return n.Err()
		case <-ctx.Done():
			return fmt.Errorf("%w (%w)", err, ctx.Err())
		}
	}
}

// Name is the node's name.
func (n *Node) Name() string { return n.config.Name }

// Addr is where clients reach the API.
func (n *Node) Addr() string { return n.config.APIAddress() }
