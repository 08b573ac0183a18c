package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/cohort-tx/cohort/coordinator"
	"github.com/cohort-tx/cohort/internal/cluster"
	"github.com/cohort-tx/cohort/internal/node"
	"github.com/cohort-tx/cohort/txlog/command"
)

// directGroup is a group by its coordinator's Go API, in the node's process: what
// the SDK does, without gRPC.
type directGroup struct {
	cluster *cluster.Embedded
	// leader is the node that served last.
	leader atomic.Pointer[node.Node]
	run    int64
	next   atomic.Uint64
}

func newDirectGroup(c *cluster.Embedded) *directGroup {
	return &directGroup{cluster: c, run: time.Now().UnixNano()}
}

// serving finds the node that runs the group's coordinator.
func (d *directGroup) serving() (*node.Node, error) {
	if n := d.leader.Load(); n != nil {
		return n, nil
	}
	for _, m := range d.cluster.Members() {
		n := d.cluster.Node(m.Name)
		if n == nil {
			continue
		}
		if c := n.Coordinator(groupName); c != nil {
			if _, ok := c.Serving(); ok {
				d.leader.Store(n)
				return n, nil
			}
		}
	}
	return nil, coordinator.ErrNotServing
}

func (d *directGroup) update(ctx context.Context, fn func(tx) error) (attempts int, err error) {
	pause := pause{next: firstPause}
	for attempts = 1; ; attempts++ {
		err = d.attempt(ctx, fn)
		if err == nil || attempts == maxAttempts || !d.again(err) || pause.wait(ctx) != nil {
			return attempts, err
		}
	}
}

// again tells whether another attempt may succeed, by the SDK's rules.
func (d *directGroup) again(err error) bool {
	if errors.Is(err, coordinator.ErrNotServing) {
		d.leader.Store(nil)
		return true
	}
	var aborted *coordinator.Aborted
	if !errors.As(err, &aborted) {
		return false
	}
	switch aborted.Reason {
	case command.ReasonConflict, command.ReasonMoved, command.ReasonRecovering, command.ReasonOverloaded, command.ReasonSnapshotTooOld:
		return true
	}
	return false
}

func (d *directGroup) attempt(ctx context.Context, fn func(tx) error) error {
	n, err := d.serving()
	if err != nil {
		return err
	}
	t := &directTx{ctx: ctx, coordinator: n.Coordinator(groupName)}
	t.attempt.ID = fmt.Sprintf("bench-%x-%d", d.run, d.next.Add(1))
	if err := fn(t); err != nil {
		if t.attempt.Begun > 0 {
			// What could not be given up times out by itself.
			_ = t.coordinator.Abort(ctx, t.attempt, "the operation failed")
		}
		return err
	}
	_, err = t.coordinator.Commit(ctx, coordinator.CommitRequest{Attempt: t.attempt, Reads: t.reads, Ops: t.ops, Steps: t.steps})
	return err
}

func (d *directGroup) view(ctx context.Context, fn func(reader) error) error {
	n, err := d.serving()
	if err != nil {
		return err
	}
	replica := n.Replica(groupName)
	if _, err := replica.ReadIndex(ctx); err != nil {
		return err
	}
	snapshot, err := replica.Snapshot(0)
	if err != nil {
		return err
	}
	defer snapshot.Close()
	return fn(directReader{snapshot})
}

// directTx is one attempt. Its reads do not see its own writes: no workload reads
// what it has written.
type directTx struct {
	ctx         context.Context
	coordinator *coordinator.Coordinator
	attempt     coordinator.Attempt
	reads       []command.Read
	ops         []command.Op
	steps       uint32
}

// begin opens the attempt, once something needs a snapshot.
func (t *directTx) begin() error {
	if t.attempt.Begun > 0 {
		return nil
	}
	opened, err := t.coordinator.Begin(t.ctx, coordinator.BeginRequest{ID: t.attempt.ID, Fresh: true})
	if err == nil {
		t.attempt = opened.Attempt
	}
	return err
}

func (t *directTx) get(participant, key string) ([]byte, bool, error) {
	if err := t.begin(); err != nil {
		return nil, false, err
	}
	view, _, release, err := t.coordinator.AttemptView(t.ctx, t.attempt)
	if err != nil {
		return nil, false, err
	}
	defer release()
	value, version, found, err := view.Get(participant, key)
	if err != nil {
		return nil, false, err
	}
	t.reads = append(t.reads, command.Read{Participant: participant, Key: key, Version: version})
	return append([]byte(nil), value...), found, nil
}

func (t *directTx) put(participant, key string, value []byte) error {
	t.ops = append(t.ops, command.Op{Kind: command.OpPut, Participant: participant, Key: key, Value: value})
	return nil
}

func (t *directTx) add(participant, key string, delta int64) error {
	t.ops = append(t.ops, command.Op{Kind: command.OpAdd, Participant: participant, Key: key, Delta: delta})
	return nil
}

func (t *directTx) call(participant, method string, in any) error {
	payload, err := json.Marshal(in)
	if err != nil {
		return err
	}
	if err := t.begin(); err != nil {
		return err
	}
	t.steps++
	ops := t.ops
	t.ops = nil
	_, err = t.coordinator.Call(t.ctx, coordinator.CallRequest{
		Attempt: t.attempt, Step: t.steps, Participant: participant, Method: method,
		Payload: payload, ContentType: "application/json", Ops: ops,
	})
	return err
}

type directReader struct {
	snapshot interface {
		Get(participant, key string) (value []byte, version uint64, found bool, err error)
	}
}

func (r directReader) get(participant, key string) ([]byte, bool, error) {
	value, _, found, err := r.snapshot.Get(participant, key)
	return value, found, err
}
