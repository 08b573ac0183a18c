package participant

import (
	"context"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	grpcbackoff "google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
)

// coordinatorHeader names the coordinator's node in answers that were forwarded.
const coordinatorHeader = "cohort-coordinator"

// reconnectBackoff is gRPC's own pause between connects to a dead node: short,
// since nodes come back and elections take less than a second.
var reconnectBackoff = grpcbackoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second}

// target is where a request for a group goes first.
func (c *Client) target(group string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if addr, ok := c.leaders[group]; ok && group != "" {
		return addr
	}
	return c.addrs[c.next%len(c.addrs)]
}

// answered learns from an answer of addr where the group's coordinator is.
func (c *Client) answered(group, addr string, header metadata.MD) {
	if group == "" {
		return
	}
	if v := header.Get(coordinatorHeader); len(v) == 1 && v[0] != "" && c.checkAddr(v[0]) == nil {
		addr = v[0]
	} else if _, known := c.leader(group); known {
		return
	}
	c.mu.Lock()
	c.leaders[group] = addr
	c.mu.Unlock()
}

func (c *Client) leader(group string) (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	addr, ok := c.leaders[group]
	return addr, ok
}

// failed forgets a leader that did not answer, and turns to the next address.
func (c *Client) failed(group, addr string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.leaders[group] == addr {
		delete(c.leaders, group)
	}
	if c.addrs[c.next%len(c.addrs)] == addr {
		c.next++
	}
}

// route sends a request that may be sent again to a node that answers: to the
// group's coordinator where that is known, then to one address after the other,
// until ctx ends or patience does. The error of the last try is returned, with why
// the one before failed when it only ran out of time.
func (c *Client) route(ctx context.Context, group string, send func(ctx context.Context, conn *grpc.ClientConn) error) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.opts.patience)
		defer cancel()
	}
	pause := newBackoff(20*time.Millisecond, 500*time.Millisecond)
	var before error
	for try := 1; ; try++ {
		addr := c.target(group)
		conn, err := c.conn(addr)
		if err != nil {
			return err
		}
		if err = send(ctx, conn); status.Code(err) != codes.Unavailable {
			if status.Code(err) == codes.DeadlineExceeded && before != nil {
				err = status.Errorf(codes.DeadlineExceeded, "%s; before that: %s", status.Convert(err).Message(), status.Convert(before).Message())
			}
			return err
		}
		before = err
		c.failed(group, addr)
		// The first round over the addresses needs no pause.
		if try >= len(c.addrs) && pause.wait(ctx) != nil {
			return err
		}
	}
}

// method is a unary method of the API, as its generated code has it but with the
// connection as a parameter.
type method[Req, Resp any] func(ctx context.Context, conn grpc.ClientConnInterface, req *Req, opts ...grpc.CallOption) (*Resp, error)

// call sends one unary request of a group; op names it in errors.
func call[Req, Resp any](ctx context.Context, c *Client, op, group string, req *Req, method method[Req, Resp]) (*Resp, error) {
	var resp *Resp
	err := c.route(ctx, group, func(ctx context.Context, conn *grpc.ClientConn) error {
		var header metadata.MD
		var err error
		if resp, err = method(ctx, conn, req, grpc.Header(&header)); err == nil {
			c.answered(group, conn.Target()[len("passthrough:///"):], header)
		}
		return err
	})
	return resp, requestError(ctx, op, group, err)
}

// sendings counts how often a request left this process. A Commit that never did
// has certainly not committed.
type sendings struct{ count atomic.Int32 }

type sendingsKey struct{}

// sendingsCounter counts for the requests whose context asks for it.
type sendingsCounter struct{}

func (sendingsCounter) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

func (sendingsCounter) HandleRPC(ctx context.Context, s stats.RPCStats) {
	if _, ok := s.(*stats.OutPayload); !ok {
		return
	}
	if sent, ok := ctx.Value(sendingsKey{}).(*sendings); ok {
		sent.count.Add(1)
	}
}

func (sendingsCounter) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

func (sendingsCounter) HandleConn(context.Context, stats.ConnStats) {}
