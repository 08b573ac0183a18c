package coordinator

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/cohort-tx/cohort/coordinator/protocol"
	"github.com/cohort-tx/cohort/groups"
	"github.com/cohort-tx/cohort/txlog"
	"github.com/cohort-tx/cohort/txlog/command"
)

// Params is what a Coordinator needs.
type Params struct {
	Group    string
	NodeName string
	// Replica is the group's on this node.
	Replica Replica
	// InitialDefinition gives the definition and the incarnation that the group's
	// log begins with, from the directory. It is asked for when the log has none.
	InitialDefinition func(context.Context) (groups.Definition, uint64, error)
	// Members are the nodes with a replica, and FeatureLevel what all of them
	// support. nil means this node alone, and this release's.
	Members      func() []string
	FeatureLevel func() uint64
	// Origin tells what a restored incarnation begins with: the digest of its state,
	// and the records of earlier checkpoints that stay usable. nil where no group was
	// restored.
	Origin func(context.Context) (digest [32]byte, carried [][]byte, err error)
	// PlannedRestore is the token of the restore in place that the directory has as
	// under way, empty for none. CancelRestore takes one back, if that can still be;
	// true when it will never happen. nil leaves such a group as it is.
	PlannedRestore func() string
	CancelRestore  func(ctx context.Context, token string) (cancelled bool, err error)
	// Logger and Metrics may be nil.
	Logger  *zap.Logger
	Metrics *Metrics
	// MaintainEvery is the time between two looks for maintenance; 0 means 15 s.
	MaintainEvery time.Duration
}

// Coordinator runs the transactions of one group while its node leads it. Its
// methods may be called from any goroutine.
type Coordinator struct {
	params  Params
	log     *zap.Logger
	metrics *groupMetrics

	leadership atomic.Pointer[txlog.Leadership]
	reign      atomic.Pointer[reign]
	// definition is the one in force, as last read.
	definition atomic.Pointer[groups.Definition]
	// configuring lets one Configure be under way.
	configuring sync.Mutex
	// purge wakes maintenance.
	purge chan struct{}
	// scheduling wakes the schedule of checkpoints.
	scheduling chan struct{}
	disks      disks
	// sealing is the restore that has sealed the group here, if one has.
	sealing atomic.Pointer[sealing]
	// restoring holds the tokens of the restores in place that run on this node.
	restoring sync.Map

	cancel context.CancelFunc
	done   chan struct{}
}

// New starts coordinating the group whenever its node leads it, until Close.
func New(p Params) *Coordinator {
	if p.Logger == nil {
		p.Logger = zap.NewNop()
	}
	if p.Metrics == nil {
		p.Metrics = NewMetrics(nil)
	}
	if p.Members == nil {
		p.Members = func() []string { return []string{p.NodeName} }
	}
	if p.FeatureLevel == nil {
		p.FeatureLevel = func() uint64 { return command.MaxFeatureLevel }
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &Coordinator{
		params:  p,
		log:     p.Logger.Named("coordinator").With(zap.String("group", p.Group), zap.String("node", p.NodeName)),
		metrics: p.Metrics.of(p.Group),
		purge:   make(chan struct{}, 1),

		scheduling: make(chan struct{}, 1),
		cancel:     cancel,
		done:       make(chan struct{}),
	}
	c.leadership.Store(&txlog.Leadership{})
	go func() {
		defer close(c.done)
		c.govern(ctx)
	}()
	return c
}

// Close ends the reign, if there is one, and waits: every open attempt has been
// answered then.
func (c *Coordinator) Close() {
	c.cancel()
	<-c.done
}

// Drain refuses what begins anew and waits until what is open has ended, or for
// ctx's end.
func (c *Coordinator) Drain(ctx context.Context) error {
	g := c.reign.Load()
	if g == nil {
		return nil
	}
	idle := make(chan struct{})
	err := g.inLoop(ctx, func() {
		g.step(protocol.Drain{})
		g.idle = append(g.idle, idle)
	})
	if errors.Is(err, ErrNotServing) {
		return nil
	}
	if err != nil {
		return err
	}
	select {
	case <-idle:
		return nil
	case <-g.over:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Serving tells whether this node runs the group's coordinator now, and under
// which coordinator epoch.
func (c *Coordinator) Serving() (epoch uint64, ok bool) {
	if g := c.reign.Load(); g != nil {
		return g.epoch, true
	}
	return 0, false
}

// ask brings a request to the reign there is.
func (c *Coordinator) ask(ctx context.Context, event func(request uint64) protocol.Event) (protocol.Answer, *reign, error) {
	g := c.reign.Load()
	if g == nil {
		return nil, nil, ErrNotServing
	}
	ans, err := g.ask(ctx, event)
	return ans, g, err
}

// errorOf is the error that an answer other than the one hoped for is.
func errorOf(ans protocol.Answer) error {
	switch a := ans.(type) {
	case *protocol.Aborted:
		return &Aborted{ID: a.ID, Reason: a.Reason, Participant: a.Participant, Key: a.Key, Detail: a.Detail}
	case *protocol.Committed:
		return &Committed{Receipt: a.Receipt}
	case *protocol.Indeterminate:
		return &Indeterminate{Detail: a.Detail}
	case *protocol.StepFailed:
		return stepFailure(a)
	case *protocol.Invalid:
		return &Invalid{Field: a.Field, Detail: a.Detail}
	case *protocol.NotServing:
		return &notServingError{detail: a.Detail}
	}
	panic("coordinator: an answer to another question")
}

// GateClose makes commits wait before they prepare; GateOpen lets them on. They
// are a checkpoint's; the reign's end opens the gate.
func (c *Coordinator) GateClose(ctx context.Context) error { return c.gate(ctx, protocol.CloseGate{}) }

// GateOpen lets on what waits at the gate.
func (c *Coordinator) GateOpen(ctx context.Context) error { return c.gate(ctx, protocol.OpenGate{}) }

func (c *Coordinator) gate(ctx context.Context, ev protocol.Event) error {
	g := c.reign.Load()
	if g == nil {
		return ErrNotServing
	}
	return g.inLoop(ctx, func() { g.step(ev) })
}

// Configure makes def the group's definition and returns its version. Errors:
// *Invalid when the log refuses it (data without prune, say), *Indeterminate,
// ErrNotServing.
func (c *Coordinator) Configure(ctx context.Context, def groups.Definition, prune bool) (version uint64, err error) {
	c.configuring.Lock()
	defer c.configuring.Unlock()
	g := c.reign.Load()
	if g == nil {
		return 0, ErrNotServing
	}
	current, err := c.configVersion()
	if err != nil {
		return 0, err
	}
	cmd, err := configureCommand(&def, current+1, prune)
	if err != nil {
		return 0, &Invalid{Field: "definition", Detail: err.Error()}
	}
	ans, err := g.ask(ctx, func(request uint64) protocol.Event { return &protocol.Administer{Request: request, Command: cmd} })
	if err != nil {
		if ctx.Err() != nil {
			return 0, &Indeterminate{Detail: "the definition may take effect: " + err.Error()}
		}
		return 0, err
	}
	done, ok := ans.(*protocol.Done)
	if !ok {
		return 0, errorOf(ans)
	}
	// A version that is taken is our own command's, from an entry whose answer was
	// lost: one Configure is under way at a time, and one coordinator.
	if r := done.Result; r.Status != command.StatusDone && r.Reason != command.ReasonStaleVersion {
		field := "definition"
		if r.Participant != "" {
			field = "participants." + r.Participant
		}
		return 0, &Invalid{Field: field, Detail: r.Detail}
	}
	config, _, err := c.loadConfig(g.epoch)
	if err != nil {
		return 0, err
	}
	if err := g.inLoop(context.WithoutCancel(ctx), func() { g.step(&protocol.Configured{Config: *config}) }); err != nil {
		return 0, err
	}
	select {
	case c.purge <- struct{}{}:
	default:
	}
	c.wakeSchedule()
	return cmd.Version, nil
}

func (c *Coordinator) configVersion() (uint64, error) {
	snap, err := c.params.Replica.Snapshot()
	if err != nil {
		return 0, err
	}
	defer snap.Close()
	config, err := snap.Config()
	return config.Version, err
}
