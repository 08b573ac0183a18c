package participant

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	cohortv1 "github.com/cohort-tx/cohort/api/cohort/v1"
)

// Bounds of a client.
const (
	// maxMessageBytes is the largest answer taken: a page of a scan.
	maxMessageBytes = 32 << 20
	// maxConns bounds connections to nodes; a cluster is smaller than this.
	maxConns = 64
	// keepaliveEvery and keepaliveTimeout find a node that hangs or a network that
	// swallows packets.
	keepaliveEvery   = 10 * time.Second
	keepaliveTimeout = 3 * time.Second
)

// Client talks to a cluster. It is safe for concurrent use; Close it when done.
type Client struct {
	opts  clientOptions
	addrs []string

	mu    sync.Mutex
	conns map[string]*grpc.ClientConn
	// leaders is where each group's coordinator was last.
	leaders map[string]string
	// next is the index in addrs that is tried when no leader is known.
	next   int
	closed bool
}

type clientOptions struct {
	tls      *tls.Config
	insecure bool
	patience time.Duration
	logger   *slog.Logger
	dial     []grpc.DialOption
}

// ClientOption changes how a Client connects.
type ClientOption func(*clientOptions)

// WithTLS encrypts connections.
func WithTLS(config *tls.Config) ClientOption {
	return func(o *clientOptions) { o.tls = config }
}

// WithInsecure allows unencrypted connections to addresses beyond loopback.
func WithInsecure() ClientOption {
	return func(o *clientOptions) { o.insecure = true }
}

// WithPatience bounds how long a request whose context has no deadline looks for
// a node that answers. The default is 30 s.
func WithPatience(d time.Duration) ClientOption {
	return func(o *clientOptions) { o.patience = d }
}

// WithLogger is where a handler's panic and a service's lost connections are
// written. The default is slog.Default.
func WithLogger(logger *slog.Logger) ClientOption {
	return func(o *clientOptions) { o.logger = logger }
}

// WithDialOptions adds options of gRPC itself, for tracing or tests.
func WithDialOptions(opts ...grpc.DialOption) ClientOption {
	return func(o *clientOptions) { o.dial = append(o.dial, opts...) }
}

// Dial makes a client of the cluster that has nodes at addrs: one host:port, or
// several separated by commas. Not all of them need to be up, and others are
// found through those that are. Dial itself connects to nothing.
//
// Connections are unencrypted only to loopback addresses, unless WithInsecure
// says otherwise.
func Dial(addrs string, opts ...ClientOption) (*Client, error) {
	c := &Client{
		opts:    clientOptions{patience: 30 * time.Second, logger: slog.Default()},
		conns:   make(map[string]*grpc.ClientConn),
		leaders: make(map[string]string),
	}
	for _, opt := range opts {
		opt(&c.opts)
	}
	for addr := range strings.SplitSeq(addrs, ",") {
		addr = strings.TrimSpace(addr)
		if addr == "" || slices.Contains(c.addrs, addr) {
			continue
		}
		if err := c.checkAddr(addr); err != nil {
			return nil, err
		}
		c.addrs = append(c.addrs, addr)
	}
	if len(c.addrs) == 0 {
		return nil, fmt.Errorf("%w: no address given; write host:port, several separated by commas", ErrInvalid)
	}
	return c, nil
}

func (c *Client) checkAddr(addr string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("dial %q: %w; write host:port", addr, err)
	}
	if c.opts.tls != nil || c.opts.insecure || loopback(host) {
		return nil
	}
	return fmt.Errorf("dial %s: not a loopback address; give WithTLS, or WithInsecure to send everything in the clear", addr)
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Close ends all connections. Requests under way fail.
func (c *Client) Close() error {
	c.mu.Lock()
	conns := c.conns
	c.conns, c.closed = nil, true
	c.mu.Unlock()
	var errs []error
	for _, conn := range conns {
		errs = append(errs, conn.Close())
	}
	return errors.Join(errs...)
}

// Group gives a handle on a consistency group. It asks nothing.
func (c *Client) Group(name string) *Group { return &Group{client: c, name: name} }

// Cluster gives the operator's API at any node, with the client's connections.
func (c *Client) Cluster() cohortv1.ClusterClient {
	return cohortv1.NewClusterClient(anyNode{c})
}

// Checkpoints gives the operator's API of checkpoints and restores, likewise.
func (c *Client) Checkpoints() cohortv1.CheckpointsClient {
	return cohortv1.NewCheckpointsClient(anyNode{c})
}

// conn returns a connection to addr, which need not be up.
func (c *Client) conn(addr string) (*grpc.ClientConn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, ErrClosed
	}
	if conn, ok := c.conns[addr]; ok {
		return conn, nil
	}
	if err := c.checkAddr(addr); err != nil {
		return nil, err
	}
	if len(c.conns) >= maxConns {
		return nil, fmt.Errorf("connect to %s: more than %d nodes", addr, maxConns)
	}
	creds := insecure.NewCredentials()
	if c.opts.tls != nil {
		creds = credentials.NewTLS(c.opts.tls)
	}
	conn, err := grpc.NewClient("passthrough:///"+addr, append([]grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessageBytes), grpc.MaxCallSendMsgSize(maxMessageBytes)),
		grpc.WithStatsHandler(sendingsCounter{}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveEvery, Timeout: keepaliveTimeout}),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: reconnectBackoff, MinConnectTimeout: time.Second}),
	}, c.opts.dial...)...)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", addr, err)
	}
	c.conns[addr] = conn
	return conn, nil
}

// anyNode sends requests to whichever node answers.
type anyNode struct{ c *Client }

func (a anyNode) Invoke(ctx context.Context, method string, in, out any, opts ...grpc.CallOption) error {
	return a.c.route(ctx, "", func(ctx context.Context, conn *grpc.ClientConn) error {
		return conn.Invoke(ctx, method, in, out, opts...)
	})
}

func (a anyNode) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	conn, err := a.c.conn(a.c.target(""))
	if err != nil {
		return nil, err
	}
	return conn.NewStream(ctx, desc, method, opts...)
}
