package coordinator

import (
	"context"
	"errors"

	"google.golang.org/grpc"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
)

// onNode does something on a node, this one or another.
func (s *Service) onNode(ctx context.Context, node string, here func() error, there func(context.Context, *grpc.ClientConn) error) error {
	p, err := s.locateNode(node)
	if err != nil {
		return err
	}
	if p.here {
		return here()
	}
	conn, err := s.connect(p.addr)
	if err != nil {
		return err
	}
	return there(forwardedContext(ctx), conn)
}

// resultOf has a node, this one or another, do something that tells how far it is,
// and at its end a result.
func resultOf[P, R any](
	ctx context.Context, s *Service, node string, resultIn func(*P) *R, tell func(*P),
	here func(tell func(*P)) error, there func(context.Context, pb.PeersClient) (grpc.ServerStreamingClient[P], error),
) (*R, error) {
	var result *R
	take := func(p *P) {
		if r := resultIn(p); r != nil {
			result = r
			return
		}
		tell(p)
	}
	err := s.onNode(ctx, node, func() error {
		return here(take)
	}, func(ctx context.Context, conn *grpc.ClientConn) error {
		from, err := there(ctx, pb.NewPeersClient(conn))
		return passOn(from, err, func(p *P) error { take(p); return nil })
	})
	if err == nil && result == nil {
		err = errors.New("the node ended without a result")
	}
	return result, err
}

// passOn gives what another node sends to take, to the stream's end. err is the
// stream's opening's.
func passOn[T any](from grpc.ServerStreamingClient[T], err error, take func(*T) error) error {
	if err != nil {
		return err
	}
	for {
		m, err := from.Recv()
		if isEOF(err) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := take(m); err != nil {
			return err
		}
	}
}
