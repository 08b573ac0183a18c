package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
)

// lookEvery is the pause between looks at what nobody announces.
const lookEvery = 20 * time.Millisecond

// dial connects to a node of this machine, trying often: it is just starting.
func dial(addr string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+addr,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: lookEvery, Multiplier: 1.2, MaxDelay: 5 * lookEvery},
			MinConnectTimeout: time.Second,
		}))
}

// waitServing waits until the node's health service says so.
func waitServing(ctx context.Context, addr string, ended <-chan struct{}) error {
	conn, err := dial(addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	health := healthpb.NewHealthClient(conn)
	return look(ctx, ended, func() error {
		answer, err := health.Check(ctx, &healthpb.HealthCheckRequest{}, grpc.WaitForReady(false))
		if err != nil {
			return err
		}
		if answer.Status != healthpb.HealthCheckResponse_SERVING {
			return fmt.Errorf("it says %s", answer.Status)
		}
		return nil
	})
}

// WaitGroups waits until every group that the cluster knows has a coordinator.
// addr is any node.
func WaitGroups(ctx context.Context, addr string) error {
	conn, err := dial(addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	client := pb.NewClusterClient(conn)
	return look(ctx, nil, func() error {
		answer, err := client.ListGroups(ctx, &pb.ListGroupsRequest{})
		if err != nil {
			return err
		}
		for _, group := range answer.Groups {
			if group.Coordinator == "" {
				return fmt.Errorf("group %s has no coordinator", group.Name)
			}
		}
		return nil
	})
}

// look calls check until it returns nil, ended is closed or ctx ends.
func look(ctx context.Context, ended <-chan struct{}, check func() error) error {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ticker.C:
		case <-ended:
			return errors.New("its process ended")
		case <-ctx.Done():
			return fmt.Errorf("%w (%w)", err, ctx.Err())
		}
	}
}
