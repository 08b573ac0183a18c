package coordinator

import (
	"context"
	"runtime/debug"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
)

// ServiceConfig is what a node's API needs.
type ServiceConfig struct {
	// Node is this node's name, Addr its API address as other nodes reach it, and
	// Version the program's.
	Node, Addr, Version string
	Groups              Groups
	Directory           Directory
	// LeadsDirectory tells whether this node leads the directory; nil means never.
	LeadsDirectory func() bool
	// ClusterID tells this cluster from others; Shards are this node's replicas, nil
	// where members never change.
	ClusterID string
	Shards    LocalShards
	// Hydrator makes files for restored groups; nil where none is restored.
	Hydrator Hydrator
	// DialOptions for connections to other nodes: their credentials at least.
	DialOptions []grpc.DialOption
	Logger      *zap.Logger
}

// Service is a node's API: Transactions, Log, Cluster, Nodes and Peers. Any node
// answers any request; what another one must do is forwarded to it, once.
type Service struct {
	config ServiceConfig
	logger *zap.Logger
	peers  *peerConns
	reads  *readSessions
	hints  hints
	routes map[string]route
	// wait is coordinatorWait, shorter in tests.
	wait time.Duration
}

// NewService returns a node's API. Close it after the gRPC server has stopped.
func NewService(config ServiceConfig) *Service {
	if config.Logger == nil {
		config.Logger = zap.NewNop()
	}
	if config.Shards == nil {
		config.Shards = noShards{}
	}
	if config.LeadsDirectory == nil {
		config.LeadsDirectory = func() bool { return false }
	}
	s := &Service{
		config: config,
		logger: config.Logger.Named("api"),
		peers:  newPeerConns(config.DialOptions),
		reads:  newReadSessions(time.Now),
		hints:  hints{leaders: make(map[string]string)},
		wait:   coordinatorWait,
	}
	s.routes = s.makeRoutes()
	return s
}

// Close ends read sessions and connections to other nodes.
func (s *Service) Close() {
	s.reads.close()
	s.peers.close()
}

// Register adds the services to a server that was made with ServerOptions.
func (s *Service) Register(server grpc.ServiceRegistrar) {
	pb.RegisterTransactionsServer(server, &transactionsService{Service: s})
	pb.RegisterLogServer(server, &logService{Service: s})
	pb.RegisterClusterServer(server, &clusterService{Service: s})
	pb.RegisterCheckpointsServer(server, &checkpointsService{Service: s})
	pb.RegisterPeersServer(server, &peersService{Service: s})
	pb.RegisterNodesServer(server, &nodesService{Service: s})
	pb.RegisterShardsServer(server, &shardsService{Service: s})
}

// ServerOptions are what the services need of their gRPC server: forwarding,
// recovery from panics, the message bound, and that peers may ask whether it is
// alive.
func (s *Service) ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(MaxMessageBytes),
		grpc.MaxSendMsgSize(MaxMessageBytes),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: peerKeepalive / 2, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: peerKeepalive, Timeout: peerKeepaliveTimeout}),
		grpc.ChainUnaryInterceptor(s.recoverUnary, s.forwardUnary),
		grpc.ChainStreamInterceptor(s.recoverStream),
	}
}

// recoverUnary turns a handler's panic into an error: one bad request must not
// take the node's groups down.
func (s *Service) recoverUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	defer func() {
		if p := recover(); p != nil {
			resp, err = nil, s.panicked(info.FullMethod, p)
		}
	}()
	return handler(ctx, req)
}

func (s *Service) recoverStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = s.panicked(info.FullMethod, p)
		}
	}()
	return handler(srv, stream)
}

func (s *Service) panicked(method string, p any) error {
	s.logger.Error("a request handler panicked", zap.String("method", method), zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
	return failure(codes.Internal, reasonInternal, []string{"method", method}, "%s failed inside; the node's log says where", method)
}

func errClosing() error {
	return failure(codes.Unavailable, reasonClosing, nil, "this node is shutting down; ask another one")
}
