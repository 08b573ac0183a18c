package coordinator

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/cohort-tx/cohort/coordinator/protocol"
	"github.com/cohort-tx/cohort/txlog"
	"github.com/cohort-tx/cohort/txlog/command"
)

// proposeTimeout bounds one proposal. It is longer than an election: what is not
// answered by then is proposed again, or the reign has ended.
const proposeTimeout = 3 * time.Second

// reign is one life of the group's coordinator on this node: a core, the loop
// that drives it, and the goroutines that do for it what takes time. The loop
// owns what is not said to be shared.
//
//	callers, sessions ──▶ inbox ──▶ loop: core.Step ──▶ effects
//	                        ▲                             │
//	                        ├── proposers ◀── Propose ────┤
//	                        └── reader    ◀── Pin ────────┘
type reign struct {
	group       string
	epoch       uint64
	incarnation uint64
	replica     Replica
	log         *zap.Logger
	metrics     *groupMetrics
	began       time.Time

	inbox     *mailbox
	reader    *reader
	proposals chan *protocol.Propose
	// requests numbers waiters, whose places are used again; both are shared.
	requests atomic.Uint64
	waiters  sync.Pool
	// level is the group's feature level as last seen; refused tells whether the core
	// was told to refuse commits. Both are shared.
	level   atomic.Uint64
	refused atomic.Bool

	core *protocol.Core
	// snapshots of attempts by handle; nil while one is being pinned.
	snapshots map[uint64]*shared
	waiting   map[uint64]*waiter
	sessions  map[uint64]*Session
	idle      []chan struct{} // closed when the core is idle

	// over is closed when the loop has ended; superseded is why it ended itself.
	over       chan struct{}
	superseded bool
}

func newReign(c *Coordinator, epoch, incarnation uint64, config protocol.Config) *reign {
	return &reign{
		group:       c.params.Group,
		epoch:       epoch,
		incarnation: incarnation,
		replica:     c.params.Replica,
		log:         c.log.With(zap.Uint64("epoch", epoch)),
		metrics:     c.metrics,
		began:       time.Now(),
		inbox:       newMailbox(),
		reader:      newReader(),
		waiters:     sync.Pool{New: newWaiter},
		proposals:   make(chan *protocol.Propose, protocol.MaxProposals),
		core:        protocol.New(config),
		snapshots:   make(map[uint64]*shared),
		waiting:     make(map[uint64]*waiter),
		sessions:    make(map[uint64]*Session),
		over:        make(chan struct{}),
	}
}

// run drives the core until ctx ends or the log knows a newer coordinator; then
// everybody who waits has an answer and every goroutine has ended.
func (g *reign) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	var helpers sync.WaitGroup
	helpers.Go(func() { g.read(ctx) })
	for range protocol.MaxProposals {
		helpers.Go(func() { g.proposer(ctx) })
	}
	g.loop(ctx)
	cancel()
	g.finish()
	close(g.over)
	helpers.Wait()
}

func (g *reign) loop(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var batch []letter
	for !g.superseded {
		select {
		case <-ctx.Done():
			return
		case <-g.inbox.wake:
		case <-timer.C:
		}
		batch = g.inbox.take(batch)
		for i := range batch {
			g.handle(&batch[i])
		}
		clear(batch)
		now := g.now()
		if at, ok := g.core.NextDeadline(); ok && at <= now {
			g.step(protocol.Tick{})
		}
		g.step(protocol.Flush{})
		if at, ok := g.core.NextDeadline(); ok {
			timer.Reset(max(at-g.now(), 0))
		}
		g.metrics.load(g.core.Load())
		g.checkIdle()
	}
}

func (g *reign) handle(l *letter) {
	if l.do != nil {
		l.do()
		return
	}
	if l.waiter != nil {
		g.waiting[l.request] = l.waiter
	}
	g.step(l.event)
}

// now is the core's clock: monotonic, from the reign's beginning.
func (g *reign) now() time.Duration { return time.Since(g.began) }

// step gives the core an event and performs its effects.
func (g *reign) step(ev protocol.Event) {
	for _, effect := range g.core.Step(g.now(), ev) {
		switch e := effect.(type) {
		case *protocol.Reply:
			if w := g.waiting[e.Request]; w != nil {
				delete(g.waiting, e.Request)
				w.answer <- e.Answer
			}
		case *protocol.Propose:
			g.proposals <- e // never full: the core bounds its entries in flight
		case *protocol.Send:
			if s := g.sessions[e.Session]; s != nil {
				s.deliver(e)
			}
		case protocol.Pin:
			g.snapshots[e.Handle] = nil
			g.reader.pin(pin{handle: e.Handle, id: e.ID})
		case protocol.Unpin:
			g.unpin(e.Handle)
		case protocol.ReadActivation:
			g.readActivation(e.Participant)
		case protocol.Superseded:
			g.superseded = true
		default:
			panic("coordinator: an effect that is not known")
		}
	}
}

// finish ends the reign: the core answers for all attempts, sessions hear that
// they are over, and what still comes in is turned away.
func (g *reign) finish() {
	g.step(&protocol.Deposed{})
	for _, l := range g.inbox.close() {
		g.handle(&l)
	}
	for _, s := range g.sessions {
		s.end()
	}
	if len(g.waiting) > 0 {
		panic("coordinator: a request without an answer")
	}
	for _, s := range g.snapshots {
		if s != nil {
			panic("coordinator: a snapshot was never let go")
		}
	}
	g.metrics.load(protocol.Load{})
	for _, ch := range g.idle {
		close(ch)
	}
}

func (g *reign) checkIdle() {
	if len(g.idle) > 0 && g.core.Idle() {
		for _, ch := range g.idle {
			close(ch)
		}
		g.idle = nil
	}
}

// proposer sends entries to the log and brings back what became of them. There
// are as many as there may be on their way.
func (g *reign) proposer(ctx context.Context) {
	for {
		var e *protocol.Propose
		select {
		case <-ctx.Done():
			return
		case e = <-g.proposals:
		}
		batch := &command.Batch{Epoch: g.epoch, TimeUnixNano: time.Now().UnixNano(), Commands: e.Commands}
		g.metrics.entryCommands.Observe(float64(len(e.Commands)))
		results, err := g.replica.Propose(ctx, batch, proposeTimeout)
		g.inbox.postInside(letter{event: g.proposed(e.Entry, results, err)})
	}
}

func (g *reign) proposed(entry uint64, results []command.Result, err error) protocol.Event {
	switch {
	case err == nil:
		g.metrics.applied.Inc()
		return &protocol.Applied{Entry: entry, Results: results, Position: g.replica.Position()}
	case notProposed(err):
		g.metrics.notProposed.Inc()
		return &protocol.NotProposed{Entry: entry, TooLarge: errors.Is(err, txlog.ErrTooLarge)}
	}
	g.metrics.doubtful.Inc()
	return &protocol.Doubtful{Entry: entry}
}

// readActivation reads the published state, in which the refused Activate is
// applied.
func (g *reign) readActivation(participant string) {
	snap, err := g.replica.Snapshot()
	if err != nil {
		g.log.Warn("reading a participant's activation", zap.String("participant", participant), zap.Error(err))
		g.superseded = true // a replica that cannot be read cannot coordinate
		return
	}
	defer snap.Close()
	all, err := activations(snap)
	if err != nil {
		g.log.Warn("reading a participant's activation", zap.String("participant", participant), zap.Error(err))
		g.superseded = true
		return
	}
	found := protocol.Activation{Participant: participant}
	if i := slices.IndexFunc(all, func(a protocol.Activation) bool { return a.Participant == participant }); i >= 0 {
		found = all[i]
	}
	g.inbox.postInside(letter{event: &protocol.ActivationRead{Activation: found}})
}

// ask brings a request to the loop and waits for its answer, or for ctx's end.
func (g *reign) ask(ctx context.Context, event func(request uint64) protocol.Event) (protocol.Answer, error) {
	w := g.waiters.Get().(*waiter)
	request := g.requests.Add(1)
	if !g.inbox.post(letter{event: event(request), request: request, waiter: w}) {
		g.waiters.Put(w)
		return nil, ErrNotServing
	}
	select {
	case ans := <-w.answer:
		g.waiters.Put(w)
		return ans, nil
	case <-ctx.Done():
		return nil, ctx.Err() // the answer may still come: the place is not used again
	}
}

// inLoop runs fn on the loop.
func (g *reign) inLoop(ctx context.Context, fn func()) error {
	done := make(chan struct{})
	if !g.inbox.post(letter{do: func() { fn(); close(done) }}) {
		return ErrNotServing
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
