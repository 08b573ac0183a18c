package cluster_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/internal/cluster"
	"github.com/cohort-tx/cohort/participant"
)

// operators are the operator's APIs of all nodes: whoever asks while nodes die
// asks the next one.
type operators map[string]pb.CheckpointsClient

func dialOperators(t *testing.T, members []cluster.Member) operators {
	t.Helper()
	all := operators{}
	for _, m := range members {
		soon := backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1, MaxDelay: 50 * time.Millisecond}
		conn, err := grpc.NewClient(m.Addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithConnectParams(grpc.ConnectParams{Backoff: soon, MinConnectTimeout: time.Second}))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		all[m.Name] = pb.NewCheckpointsClient(conn)
	}
	return all
}

// ask asks the nodes one after the other until one answers or ctx ends.
func ask[T any](ctx context.Context, o operators, request func(ctx context.Context, node string, c pb.CheckpointsClient) (T, error)) (answer T, err error) {
	for {
		for node, c := range o {
			if answer, err = request(ctx, node, c); err == nil {
				return answer, nil
			}
		}
		select {
		case <-ctx.Done():
			return answer, fmt.Errorf("no node answered: %w", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// list gives a group's checkpoints, ascending.
func (o operators) list(ctx context.Context, group string) ([]*pb.CheckpointInfo, error) {
	answer, err := ask(ctx, o, func(ctx context.Context, _ string, c pb.CheckpointsClient) (*pb.ListCheckpointsResponse, error) {
		return c.ListCheckpoints(ctx, &pb.ListCheckpointsRequest{Group: group})
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(answer.Checkpoints, func(a, b *pb.CheckpointInfo) int { return cmp.Compare(a.Id, b.Id) })
	return answer.Checkpoints, nil
}

// create asks for a checkpoint and waits for it, at whatever node answers.
func (o operators) create(ctx context.Context, group, token string) (*pb.CheckpointInfo, error) {
	return ask(ctx, o, func(ctx context.Context, _ string, c pb.CheckpointsClient) (*pb.CheckpointInfo, error) {
		return c.CreateCheckpoint(ctx, &pb.CreateCheckpointRequest{Group: group, Token: token, Wait: true})
	})
}

const (
	scheduleGap = 300 * time.Millisecond
	// scheduled has an interval, and keeps all checkpoints to be looked at.
	scheduled = `group: vault
participants: [{name: left}, {name: right}]
checkpoint: {interval: 1s, log_bytes: 0, log_entries: 0, min_gap: 300ms, max_wait: 10s, max_pause: 1s}
retention: {checkpoints: 100}
`
)

// Would break: a schedule that ends, or comes twice, with its coordinator; a
// request that dies with it, or that one token makes two checkpoints of.
func TestScheduleOutlivesCoordinators(t *testing.T) {
	const kills = 3
	b := startBench(t, cluster.Options{Nodes: 3, RTT: 20 * time.Millisecond}, scheduled)
	o := dialOperators(t, b.cluster.Members())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	put := func() {
		_, err := b.group("vault").Run(ctx, func(tx *participant.Tx) error { return tx.Store("left").Add("n", 1) })
		want(t, nil, err)
	}
	put()
	asked := map[uint64]string{}
	for n := range kills {
		token := fmt.Sprintf("kill-%d", n)
		listed, err := o.list(ctx, "vault")
		want(t, nil, err)
		before := len(listed)
		answers := make(chan *pb.CheckpointInfo, 1)
		go func() {
			defer close(answers)
			info, err := o.create(ctx, "vault", token)
			if err != nil {
				t.Errorf("%s: %v", token, err)
				return
			}
			answers <- info
		}()
		leader := b.coordinator(t)
		if n > 0 { // the first kill is before the cut, the others are just after one
			b.eventually(t, "a checkpoint is cut", func() bool {
				all, err := o.list(ctx, "vault")
				return err == nil && len(all) > before
			})
		}
		want(t, nil, b.cluster.Kill(leader))
		first, ok := <-answers
		if !ok {
			return
		}
		b.start(t, leader)
		again, err := o.create(ctx, "vault", token)
		want(t, nil, err)
		if again.Id != first.Id || first.State != "complete" {
			t.Errorf("%s was answered with checkpoint %d, %s, and later with %d", token, first.Id, first.State, again.Id)
		}
		if other, twice := asked[first.Id]; twice {
			t.Errorf("%s and %s have one checkpoint, %d", other, token, first.Id)
		}
		asked[first.Id] = token
		put()
	}
	newest := slices.Max(slices.Collect(maps.Keys(asked)))
	b.eventually(t, "the schedule goes on after the last kill", func() bool {
		all, err := o.list(ctx, "vault")
		want(t, nil, err)
		byInterval := 0
		for _, c := range all {
			if c.Trigger == "interval" && c.State == "complete" && c.Id > newest {
				byInterval++
			}
		}
		return byInterval >= 2
	})
	all, err := o.list(ctx, "vault")
	want(t, nil, err)
	for i, c := range all {
		t.Logf("checkpoint %d %s %s at %s: %s", c.Id, c.Trigger, c.State, c.Time.AsTime().Format("05.000"), c.Reason)
		if c.Id != uint64(i)+1 || c.State != "complete" && i < len(all)-1 {
			t.Errorf("checkpoint %d is %s (%s), at place %d of the list", c.Id, c.State, c.Reason, i+1)
		}
		if (c.Trigger == "operator") != (asked[c.Id] != "") {
			t.Errorf("checkpoint %d was triggered by %s, and asked for as %q", c.Id, c.Trigger, asked[c.Id])
		}
		if i == 0 {
			continue
		}
		gap := c.Time.AsTime().Sub(all[i-1].Time.AsTime())
		if gap < scheduleGap || c.Trigger == "interval" && gap < time.Second {
			t.Errorf("checkpoint %d (%s) came %s after the one before", c.Id, c.Trigger, gap)
		}
		if gap > patience/2 {
			t.Errorf("checkpoint %d (%s) came only %s after the one before", c.Id, c.Trigger, gap)
		}
	}
}

// restore runs a restore at some node to its end.
func (o operators) restore(ctx context.Context, req *pb.RestoreRequest) (*pb.RestoreResult, error) {
	for _, c := range o {
		stream, err := c.Restore(ctx, req)
		if err != nil {
			return nil, err
		}
		return lastResult(stream)
	}
	return nil, errors.New("no node to ask")
}
