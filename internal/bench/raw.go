package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/lni/dragonboat/v4"
	"github.com/lni/dragonboat/v4/client"
	"github.com/lni/dragonboat/v4/statemachine"

	"github.com/cohort-tx/cohort/coordinator"
)

const (
	// rawShard is beyond those that a directory hands out.
	rawShard = 1 << 40
	// rawBytes is the size of a plain entry.
	rawBytes   = 256
	rawTimeout = 10 * time.Second
)

// noop is a machine that does nothing: what Raft costs alone.
type noop struct{}

func (noop) Open(<-chan struct{}) (uint64, error)                        { return 0, nil }
func (noop) Update(e []statemachine.Entry) ([]statemachine.Entry, error) { return e, nil }
func (noop) Lookup(any) (any, error)                                     { return nil, nil }
func (noop) Sync() error                                                 { return nil }
func (noop) PrepareSnapshot() (any, error)                               { return nil, nil }
func (noop) SaveSnapshot(any, io.Writer, <-chan struct{}) error          { return nil }
func (noop) RecoverFromSnapshot(io.Reader, <-chan struct{}) error        { return nil }
func (noop) Close() error                                                { return nil }

// rawGroup is a shard of noop machines on the nodes of the group.
type rawGroup struct {
	host    *dragonboat.NodeHost
	session *client.Session
	payload []byte
}

// startRaw starts the shard, led from the node that leads the group, so that both
// send over the same connections.
func (t *target) startRaw(ctx context.Context) (*rawGroup, error) {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	leader, err := newDirectGroup(t.embedded).serving()
	if err != nil {
		return nil, err
	}
	members := map[uint64]string{}
	var replica uint64
	for i, m := range t.embedded.Members() {
		members[uint64(i+1)] = m.Config.RaftAddress()
		if m.Name == leader.Name() {
			replica = uint64(i + 1)
		}
	}
	for i, m := range t.embedded.Members() {
		n := t.embedded.Node(m.Name)
		if n == nil {
			return nil, fmt.Errorf("node %s has ended: %w", m.Name, coordinator.ErrNotServing)
		}
		if err := n.StartBeside(rawShard, uint64(i+1), members, func() statemachine.IOnDiskStateMachine { return noop{} }); err != nil {
			return nil, err
		}
	}
	host := leader.NodeHost()
	err = t.wait(ctx, "the raw shard is not led from where the group is", func() (bool, error) {
		id, _, known, err := host.GetLeaderID(rawShard)
		if err != nil || !known || id == replica {
			return err == nil && known, err
		}
		for _, m := range t.embedded.Members() {
			// The leader among them passes it on; the others refuse.
			_ = t.embedded.Node(m.Name).NodeHost().RequestLeaderTransfer(rawShard, replica)
		}
		return false, nil
	})
	return &rawGroup{host: host, session: host.GetNoOPSession(rawShard), payload: make([]byte, rawBytes)}, err
}

// propose is one operation.
func (r *rawGroup) propose(ctx context.Context, _ *worker) error {
	request, err := r.host.Propose(r.session, r.payload, rawTimeout)
	if err != nil {
		return err
	}
	defer request.Release()
	select {
	case result := <-request.ResultC():
		if !result.Completed() {
			return errors.New("the entry was not applied")
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
