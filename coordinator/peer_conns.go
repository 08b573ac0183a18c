package coordinator

import (
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"

	"github.com/cohort-tx/cohort/groups"
)

const (
	// peerKeepalive and peerKeepaliveTimeout find a peer that is gone without a
	// word; what waits for it fails then. ServerOptions allows as much.
	peerKeepalive        = 10 * time.Second
	peerKeepaliveTimeout = 5 * time.Second
	// maxPeerConns bounds the pool; beyond it connections to addresses that no
	// node has any more are closed.
	maxPeerConns = groups.MaxNodes
)

// peerConns pools client connections to nodes, one an address.
type peerConns struct {
	options []grpc.DialOption

	mu     sync.Mutex
	closed bool
	conns  map[string]*grpc.ClientConn
}

// newPeerConns takes the dial options that follow its own, credentials among
// them.
func newPeerConns(options []grpc.DialOption) *peerConns {
	own := []grpc.DialOption{
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxMessageBytes), grpc.MaxCallSendMsgSize(MaxMessageBytes)),
		// A node that restarts must be found again within an election's time.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 2 * time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: peerKeepalive, Timeout: peerKeepaliveTimeout}),
	}
	return &peerConns{options: append(own, options...), conns: make(map[string]*grpc.ClientConn)}
}

// to returns the connection to an address; it belongs to the pool. known are
// the addresses worth keeping.
func (p *peerConns) to(addr string, known func() map[string]bool) (*grpc.ClientConn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, errClosing()
	}
	if conn := p.conns[addr]; conn != nil {
		return conn, nil
	}
	if len(p.conns) >= maxPeerConns {
		keep := known()
		for other, conn := range p.conns {
			if !keep[other] {
				conn.Close()
				delete(p.conns, other)
			}
		}
	}
	conn, err := grpc.NewClient(addr, p.options...)
	if err != nil {
		return nil, fmt.Errorf("connect to the node at %s: %w", addr, err)
	}
	p.conns[addr] = conn
	return conn, nil
}

func (p *peerConns) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for addr, conn := range p.conns {
		conn.Close()
		delete(p.conns, addr)
	}
}
