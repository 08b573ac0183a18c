package coordinator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/cohort-tx/cohort/coordinator/protocol"
	"github.com/cohort-tx/cohort/groups"
	"github.com/cohort-tx/cohort/txlog"
	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/machine"
)

// The pause between two tries to take office doubles between these.
const (
	officeRetryMin = 10 * time.Millisecond
	officeRetryMax = time.Second
)

// errSuperseded: the log knows a newer coordinator.
var errSuperseded = errors.New("a newer coordinator is in charge")

// govern waits for this node to lead the group, takes office under the term as
// epoch, and reigns until leadership is lost; again and again until ctx ends.
func (c *Coordinator) govern(ctx context.Context) {
	changed := make(chan struct{}, 1)
	var served uint64 // the last term in which office was taken
	cancel := c.params.Replica.Watch(func(l txlog.Leadership) {
		c.leadership.Store(&l)
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	defer cancel()
	for {
		l := *c.leadership.Load()
		if l.Self && l.Term > served {
			served = l.Term
			c.governTerm(ctx, l.Term, changed)
		}
		if now := c.leadership.Load(); *now != l {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// governTerm is one term, until its end or ctx's.
func (c *Coordinator) governTerm(ctx context.Context, term uint64, changed <-chan struct{}) {
	termCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.reignOver(termCtx, term)
	}()
	for {
		select {
		case <-done:
			return
		case <-changed:
			if l := c.leadership.Load(); !l.Self || l.Term != term {
				cancel()
			}
		case <-ctx.Done():
			cancel()
			<-done
			return
		}
	}
}

// reignOver takes office and reigns. Of one term there is at most one reign, since
// its numbers are made from the term; failing to take office is tried again.
func (c *Coordinator) reignOver(ctx context.Context, term uint64) {
	log := c.log.With(zap.Uint64("epoch", term))
	config, incarnation, err := c.takeOffice(ctx, term)
	for err != nil {
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, errSuperseded) {
			log.Info("office not taken", zap.Error(err))
			return
		}
		log.Warn("office not taken, trying again", zap.Error(err))
		if !sleep(ctx, officeRetryMax) {
			return
		}
		config, incarnation, err = c.takeOffice(ctx, term)
	}
	g := newReign(c, term, incarnation, config)
	c.reign.Store(g)
	c.metrics.epoch.Set(float64(term))
	log.Info("coordinating the group")
	upkeep := make(chan struct{})
	upkeepCtx, stop := context.WithCancel(ctx)
	go func() {
		defer close(upkeep)
		var tasks sync.WaitGroup
		tasks.Go(func() { c.maintain(upkeepCtx, g) })
		tasks.Go(func() { c.takeCheckpoints(upkeepCtx, g) })
		tasks.Wait()
	}()
	g.run(ctx)
	c.reign.CompareAndSwap(g, nil)
	c.metrics.epoch.Set(0)
	stop()
	<-upkeep
	log.Info("not coordinating the group any more", zap.Bool("superseded", g.superseded))
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// takeOffice raises the group's epoch to the term and sees that the group has a
// definition. A crash anywhere in it leaves nothing to undo: the next leader
// raises the epoch further, and finds the definition or makes it.
func (c *Coordinator) takeOffice(ctx context.Context, term uint64) (protocol.Config, uint64, error) {
	raise := func() ([]command.Command, error) {
		return []command.Command{&command.RaiseEpoch{Node: c.params.NodeName}}, nil
	}
	r, err := c.insist(ctx, term, raise)
	if err != nil {
		return protocol.Config{}, 0, err
	}
	// A refusal that names the very term is the answer to our own command, which
	// an earlier try brought to the log: a term has one leader.
	if r.Status != command.StatusDone && r.Epoch != term {
		return protocol.Config{}, 0, errSuperseded
	}
	for {
		config, incarnation, err := c.loadConfig(term)
		if err != nil {
			return protocol.Config{}, 0, fmt.Errorf("reading the group's configuration: %w", err)
		}
		if config != nil {
			return *config, incarnation, c.beginIncarnation(ctx, term)
		}
		r, err := c.insist(ctx, term, c.firstConfigure(ctx))
		if err != nil {
			return protocol.Config{}, 0, err
		}
		if r.Status != command.StatusDone && r.Reason != command.ReasonStaleVersion {
			return protocol.Config{}, 0, fmt.Errorf("the log refused the group's first definition: %s", r.Detail)
		}
	}
}

// beginIncarnation proposes the first command of an incarnation that a restore has
// made, unless it is there. A replica that was made from something else halts at
// it.
func (c *Coordinator) beginIncarnation(ctx context.Context, term uint64) error {
	snap, err := c.params.Replica.Snapshot()
	if err != nil {
		return err
	}
	origin, found, err := machine.ReadOrigin(snap.Reader())
	meta, metaErr := snap.Meta()
	snap.Close()
	if err = errors.Join(err, metaErr); err != nil || !found || origin.Begun {
		return err
	}
	r, err := c.insist(ctx, term, func() ([]command.Command, error) {
		digest, carried, err := c.params.Origin(ctx)
		if err != nil {
			return nil, fmt.Errorf("what the incarnation begins with: %w", err)
		}
		return []command.Command{&command.Begin{Incarnation: meta.Incarnation, Digest: digest, Carried: carried}}, nil
	})
	if err == nil && r.Status != command.StatusDone {
		err = fmt.Errorf("the log refused to begin the incarnation: %s", r.Detail)
	}
	return err
}

// firstConfigure makes the command that gives the log its first definition.
func (c *Coordinator) firstConfigure(ctx context.Context) func() ([]command.Command, error) {
	return func() ([]command.Command, error) {
		def, incarnation, err := c.params.InitialDefinition(ctx)
		if err != nil {
			return nil, fmt.Errorf("the group's first definition: %w", err)
		}
		cmd, err := configureCommand(&def, 1, false)
		if err != nil {
			return nil, err
		}
		cmd.Incarnation = incarnation
		return []command.Command{cmd}, nil
	}
}

// insist proposes one command until its result is known. It is for commands that
// may be applied twice without harm.
func (c *Coordinator) insist(ctx context.Context, epoch uint64, commands func() ([]command.Command, error)) (command.Result, error) {
	for pause := officeRetryMin; ; pause = min(2*pause, officeRetryMax) {
		cmds, err := commands()
		if err == nil {
			var results []command.Result
			batch := &command.Batch{Epoch: epoch, TimeUnixNano: time.Now().UnixNano(), Commands: cmds}
			if results, err = c.params.Replica.Propose(ctx, batch, proposeTimeout); err == nil {
				if len(results) != 1 {
					return command.Result{}, fmt.Errorf("the log gave %d results for one command", len(results))
				}
				return results[0], nil
			}
		}
		if ctx.Err() != nil {
			return command.Result{}, ctx.Err()
		}
		c.log.Info("taking office: trying again", zap.Duration("pause", pause), zap.Error(err))
		if !sleep(ctx, pause) {
			return command.Result{}, ctx.Err()
		}
	}
}

// loadConfig reads what the core needs to know from the published state; nil
// when the group has no definition yet.
func (c *Coordinator) loadConfig(epoch uint64) (*protocol.Config, uint64, error) {
	snap, err := c.params.Replica.Snapshot()
	if err != nil {
		return nil, 0, err
	}
	defer snap.Close()
	config, err := snap.Config()
	if err != nil || config.Version == 0 {
		return nil, 0, err
	}
	meta, err := snap.Meta()
	if err != nil {
		return nil, 0, err
	}
	active, err := activations(snap)
	if err != nil {
		return nil, 0, err
	}
	def, err := groups.Decode(config.Definition)
	if err != nil {
		return nil, 0, err
	}
	pc := coreConfig(&def, &config, epoch)
	pc.Activations, pc.FeatureLevel = active, meta.FeatureLevel
	c.definition.Store(&def)
	return &pc, meta.Incarnation, nil
}

func coreConfig(def *groups.Definition, config *machine.Config, epoch uint64) protocol.Config {
	pc := protocol.Config{
		Epoch:        epoch,
		Limits:       config.Limits,
		InFlight:     int(def.Limits.InFlight),
		Open:         int(def.Limits.Open),
		StagedBytes:  int64(def.Limits.StagedBytes),
		Timeout:      def.Limits.Timeout,
		FailAfter:    def.Failover.FailAfter,
		Grace:        def.Failover.Grace,
		AutoFailover: def.Failover.Mode == groups.ModeAuto,
		Checkpoint: protocol.Checkpoint{
			MaxWait: def.Checkpoint.MaxWait, MaxPause: def.Checkpoint.MaxPause, MinGap: def.Checkpoint.MinGap,
		},
	}
	if def.Checkpoint.WaitFor == groups.WaitForStarted {
		pc.Checkpoint.WaitFor = protocol.WaitForStarted
	}
	for _, p := range config.Participants {
		pc.Participants = append(pc.Participants, p.Name)
	}
	return pc
}

func activations(snap Snapshot) ([]protocol.Activation, error) {
	all, err := snap.Activations()
	if err != nil {
		return nil, err
	}
	states, err := machine.ReadOwnStates(snap.Reader())
	if err != nil {
		return nil, err
	}
	out := make([]protocol.Activation, len(all))
	for i, a := range all {
		out[i] = protocol.Activation{
			Participant: a.Participant, Node: a.Node, Instance: a.Instance, Epoch: a.Epoch,
			OwnState: slices.ContainsFunc(states, func(o machine.OwnState) bool { return o.Participant == a.Participant }),
		}
	}
	return out, nil
}

func configureCommand(def *groups.Definition, version uint64, prune bool) (*command.Configure, error) {
	encoded, err := def.MarshalJSON()
	if err != nil {
		return nil, fmt.Errorf("encoding the definition: %w", err)
	}
	participants, limits := def.MachineConfig()
	return &command.Configure{Version: version, Participants: participants, Limits: limits, Definition: encoded, Prune: prune}, nil
}
