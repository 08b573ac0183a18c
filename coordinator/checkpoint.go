package coordinator

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/cohort-tx/cohort/coordinator/protocol"
	"github.com/cohort-tx/cohort/groups"
	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/machine"
)

const (
	// lookEvery is how often the schedule is looked at: what the log's size
	// triggers has no moment of its own.
	lookEvery = 250 * time.Millisecond
	// awaitEvery is how often whoever waits for a checkpoint looks for it.
	awaitEvery = 20 * time.Millisecond
	// diskEarlyPercent of retention.max_disk brings an early checkpoint, so that
	// log can be dropped before commits must be refused.
	diskEarlyPercent = 75
)

// CheckpointRequest asks for a checkpoint.
type CheckpointRequest struct {
	// Token tells a request that is sent again from another one; empty makes one.
	Token   string
	Trigger command.Trigger
	// By is a participant or the node where an operator asks.
	By           string
	Participants []string
	// Wait for the checkpoint to be complete, not only for the cut.
	Wait bool
}

// RequestCheckpoint records the request in the log, so that it outlives this
// coordinator, and waits for the attempt that serves it. Errors: *Invalid,
// *Indeterminate, ErrNotServing, those of ctx.
func (c *Coordinator) RequestCheckpoint(ctx context.Context, req CheckpointRequest) (machine.Checkpoint, error) {
	g := c.reign.Load()
	if g == nil {
		return machine.Checkpoint{}, ErrNotServing
	}
	if req.Token == "" {
		req.Token = newToken()
	}
	names := c.definition.Load().ParticipantNames()
	req.Participants = slices.Compact(slices.Sorted(slices.Values(req.Participants))) // the log wants them so
	for _, p := range req.Participants {
		if !slices.Contains(names, p) {
			return machine.Checkpoint{}, &Invalid{Field: "participants", Detail: fmt.Sprintf("the group has no participant %q; it has %v", p, names)}
		}
	}
	if err := c.supportsCheckpoints(); err != nil {
		return machine.Checkpoint{}, err
	}
	before, err := c.schedule()
	if err != nil {
		return machine.Checkpoint{}, err
	}
	wish := command.CheckpointRequest{Token: req.Token, Trigger: req.Trigger, By: req.By, Participants: req.Participants, TimeUnixNano: time.Now().UnixNano()}
	if _, err := g.administer(ctx, &command.RequestCheckpoint{CheckpointRequest: wish}); err != nil {
		return machine.Checkpoint{}, err
	}
	c.wakeSchedule()
	return c.awaitCheckpoint(ctx, g, req, max(before.NextNumber, 1))
}

func newToken() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// awaitCheckpoint waits for the attempt that serves a token: the one that was
// made for it, or the first since from that took it along.
func (c *Coordinator) awaitCheckpoint(ctx context.Context, g *reign, req CheckpointRequest, from uint64) (machine.Checkpoint, error) {
	ticker := time.NewTicker(awaitEvery)
	defer ticker.Stop()
	for {
		found, err := c.findCheckpoint(req.Token, from)
		if err != nil {
			return machine.Checkpoint{}, err
		}
		if found != nil && (!req.Wait || found.State != machine.CheckpointWriting) {
			return *found, nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return machine.Checkpoint{}, ctx.Err()
		case <-g.over:
			return machine.Checkpoint{}, ErrNotServing
		}
	}
}

func (c *Coordinator) findCheckpoint(token string, from uint64) (*machine.Checkpoint, error) {
	snap, err := c.params.Replica.Snapshot()
	if err != nil {
		return nil, err
	}
	defer snap.Close()
	s, err := machine.ReadSchedule(snap.Reader())
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(s.Pending, func(p command.CheckpointRequest) bool { return p.Token == token }) {
		return nil, nil
	}
	all, err := machine.ReadCheckpoints(snap.Reader())
	if err != nil {
		return nil, err
	}
	for i := range all {
		if all[i].Request.Token == token {
			return &all[i], nil
		}
	}
	for i := range all {
		if all[i].Number >= from {
			return &all[i], nil
		}
	}
	return nil, nil
}

func (c *Coordinator) schedule() (machine.Schedule, error) {
	snap, err := c.params.Replica.Snapshot()
	if err != nil {
		return machine.Schedule{}, err
	}
	defer snap.Close()
	return machine.ReadSchedule(snap.Reader())
}

// Checkpoints reads the group's attempts, ascending, from this replica.
func (c *Coordinator) Checkpoints() ([]machine.Checkpoint, error) {
	snap, err := c.params.Replica.Snapshot()
	if err != nil {
		return nil, err
	}
	defer snap.Close()
	return machine.ReadCheckpoints(snap.Reader())
}

// supportsCheckpoints says why there are none yet, nil when they can be taken.
func (c *Coordinator) supportsCheckpoints() error {
	snap, err := c.params.Replica.Snapshot()
	if err != nil {
		return err
	}
	defer snap.Close()
	meta, err := snap.Meta()
	if err != nil {
		return err
	}
	if meta.FeatureLevel >= 2 {
		return nil
	}
	return &notServingError{detail: "the group's nodes have not all said yet that they can take checkpoints; they do as soon as they run this release"}
}

func (c *Coordinator) wakeSchedule() {
	select {
	case c.scheduling <- struct{}{}:
	default: // it is about to look
	}
}

// administer has a command applied and tells a refusal as an error.
func (g *reign) administer(ctx context.Context, cmd command.Command) (command.Result, error) {
	ans, err := g.ask(ctx, func(request uint64) protocol.Event { return &protocol.Administer{Request: request, Command: cmd} })
	if err != nil {
		return command.Result{}, err
	}
	done, ok := ans.(*protocol.Done)
	if !ok {
		return command.Result{}, errorOf(ans)
	}
	if done.Result.Status != command.StatusDone {
		return done.Result, &Invalid{Field: "command", Detail: done.Result.Detail}
	}
	return done.Result, nil
}

// takeCheckpoints watches the schedule for a reign's time. Everything it goes by
// is in the log, so that another coordinator goes on where this one ends.
func (c *Coordinator) takeCheckpoints(ctx context.Context, g *reign) {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-c.scheduling:
		}
		if err := c.takeDue(ctx, g); err != nil && ctx.Err() == nil && !errors.Is(err, ErrNotServing) {
			g.log.Warn("looking for checkpoints that are due", zap.Error(err))
		}
		if err := c.failStranded(ctx, g); err != nil && ctx.Err() == nil && !errors.Is(err, ErrNotServing) {
			g.log.Warn("looking for captured states that will not come", zap.Error(err))
		}
	}
}

// takeDue takes what is due now, if anything is.
func (c *Coordinator) takeDue(ctx context.Context, g *reign) error {
	ready, err := c.raiseFeatureLevel(ctx, g)
	if err != nil || !ready {
		return err
	}
	def := c.definition.Load()
	now := time.Now()
	wish, serves, due, err := c.due(def, now)
	if err != nil || !due {
		return err
	}
	_, err = c.takeCheckpoint(ctx, g, &protocol.TakeCheckpoint{Wish: wish, Serves: serves})
	return err
}

func (c *Coordinator) due(def *groups.Definition, now time.Time) (wish command.CheckpointRequest, serves []string, due bool, err error) {
	snap, err := c.params.Replica.Snapshot()
	if err != nil {
		return wish, nil, false, err
	}
	defer snap.Close()
	meta, err := snap.Meta()
	if err != nil || meta.Sealed {
		return wish, nil, false, err
	}
	s, err := machine.ReadSchedule(snap.Reader())
	if err != nil {
		return wish, nil, false, err
	}
	all, err := machine.ReadCheckpoints(snap.Reader())
	if err != nil {
		return wish, nil, false, err
	}
	wish, serves, due, _ = protocol.Due(s, meta.Position, schedulePolicy(def), writingSince(all, meta.Incarnation), now.UnixNano())
	return wish, serves, due, nil
}

// writingSince is when the newest checkpoint was cut, if that is still being written.
func writingSince(all []machine.Checkpoint, incarnation uint64) int64 {
	for i := len(all) - 1; i >= 0; i-- {
		if all[i].Incarnation == incarnation && all[i].State == machine.CheckpointWriting {
			return all[i].TimeUnixNano
		}
	}
	return 0
}

func schedulePolicy(def *groups.Definition) protocol.Policy {
	p := protocol.Policy{Interval: def.Checkpoint.Interval, LogBytes: def.Checkpoint.LogBytes, LogEntries: def.Checkpoint.LogEntries, MinGap: def.Checkpoint.MinGap}
	for _, at := range def.Checkpoint.At {
		p.At = append(p.At, int(at))
	}
	return p
}

// takeCheckpoint brings one attempt to its end.
func (c *Coordinator) takeCheckpoint(ctx context.Context, g *reign, take *protocol.TakeCheckpoint) (protocol.Answer, error) {
	members := c.params.Members()
	def := c.definition.Load()
	take.Members = members
	take.MinCopies = min(def.Checkpoint.MinCopies, uint64(len(members)))
	take.Waited = max(time.Since(time.Unix(0, take.Wish.TimeUnixNano)), 0)
	ans, err := g.ask(ctx, func(request uint64) protocol.Event {
		t := *take
		t.Request = request
		return &t
	})
	if err != nil {
		return nil, err
	}
	log := g.log.With(zap.Stringer("trigger", take.Wish.Trigger))
	switch a := ans.(type) {
	case *protocol.CheckpointTaken:
		c.metrics.checkpointTaken(a.Pause, a.Wait)
		log.Info("checkpoint cut", zap.Uint64("checkpoint", a.Number), zap.Duration("pause", a.Pause), zap.Duration("wait", a.Wait))
	case *protocol.CheckpointAbandoned:
		c.metrics.checkpoints.WithLabelValues("abandoned").Inc()
		log.Warn("checkpoint abandoned", zap.Uint64("checkpoint", a.Number), zap.String("detail", a.Detail),
			zap.String("txn_id", a.Transaction), zap.String("participant", a.Participant))
	case *protocol.Busy:
		return ans, nil
	default:
		return ans, errorOf(ans)
	}
	return ans, nil
}

// raiseFeatureLevel lets the group have what all its members support.
func (c *Coordinator) raiseFeatureLevel(ctx context.Context, g *reign) (ready bool, err error) {
	if g.level.Load() >= command.MaxFeatureLevel {
		return true, nil
	}
	snap, err := c.params.Replica.Snapshot()
	if err != nil {
		return false, err
	}
	meta, err := snap.Meta()
	snap.Close()
	if err != nil {
		return false, err
	}
	level := meta.FeatureLevel
	if supported := min(c.params.FeatureLevel(), command.MaxFeatureLevel); supported > max(level, 1) {
		if _, err := g.administer(ctx, &command.FeatureLevel{Level: supported}); err != nil {
			return false, err
		}
		level = supported
	}
	if g.level.Swap(level) != level {
		err = g.inLoop(ctx, func() { g.step(protocol.Leveled{Level: level}) })
	}
	return level >= 2, err
}
