package coordinator

import (
	"context"
	"slices"
	"time"

	cohortv1 "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/coordinator/protocol"
	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/machine"
)

// OutcomeRequest asks what became of an id's attempts begun up to Begun; 0 means
// up to now.
type OutcomeRequest struct {
	ID     string
	Begun  uint64
	Settle bool
}

// OutcomeInfo is what is known of an id.
type OutcomeInfo struct {
	State cohortv1.OutcomeResponse_State
	// Receipt is set when it committed, Aborted when it aborted.
	Receipt *command.Receipt
	Aborted *Aborted
	// Horizon is the Raft index before which outcomes are forgotten.
	Horizon uint64
}

// Outcome tells what became of an id. By default it only looks, at a
// linearizable state; told to settle, it writes a tombstone when nothing is
// decided. Errors: *Indeterminate, *Invalid, ErrNotServing.
func (c *Coordinator) Outcome(ctx context.Context, req OutcomeRequest) (OutcomeInfo, error) {
	if err := checkRequest(req.ID, nil); err != nil {
		return OutcomeInfo{}, err
	}
	g := c.reign.Load()
	if g == nil {
		return OutcomeInfo{}, ErrNotServing
	}
	// Pending is asked first: what ends in between is in the state looked at then.
	ans, err := g.ask(ctx, func(request uint64) protocol.Event { return &protocol.Look{Request: request, ID: req.ID} })
	if err != nil {
		return OutcomeInfo{}, err
	}
	looked, ok := ans.(*protocol.Looked)
	if !ok {
		return OutcomeInfo{}, errorOf(ans)
	}
	if err := g.confirm(ctx); err != nil {
		return OutcomeInfo{}, err
	}
	info, index, err := c.look(&req)
	if err != nil || info.State != cohortv1.OutcomeResponse_STATE_UNKNOWN {
		return info, err
	}
	if req.Settle {
		begun := req.Begun
		if begun == 0 {
			begun = index
		}
		return c.settle(ctx, g, req.ID, begun, info.Horizon)
	}
	if looked.Pending {
		info.State = cohortv1.OutcomeResponse_STATE_PENDING
	}
	return info, nil
}

// look reads the published state.
func (c *Coordinator) look(req *OutcomeRequest) (info OutcomeInfo, index uint64, err error) {
	snap, err := c.params.Replica.Snapshot()
	if err != nil {
		return OutcomeInfo{}, 0, err
	}
	defer snap.Close()
	meta, err := snap.Meta()
	if err != nil {
		return OutcomeInfo{}, 0, err
	}
	begun := req.Begun
	if begun == 0 {
		begun = snap.Index()
	}
	d, o, err := snap.Decision(req.ID, begun)
	if err != nil {
		return OutcomeInfo{}, 0, err
	}
	if d == machine.DecisionNone && req.Begun == 0 {
		// Nobody named an attempt: the last abort of the id is what became of it.
		d, o, err = lastAbort(snap, req.ID)
	}
	info = OutcomeInfo{State: cohortv1.OutcomeResponse_STATE_UNKNOWN, Horizon: meta.Horizon}
	switch d {
	case machine.DecisionCommitted:
		info.State, info.Receipt = cohortv1.OutcomeResponse_STATE_COMMITTED, &o.Receipt
	case machine.DecisionAborted:
		info.State = cohortv1.OutcomeResponse_STATE_ABORTED
		info.Aborted = &Aborted{ID: req.ID, Reason: o.Reason, Participant: o.Participant, Key: o.Key, Detail: o.Detail}
	case machine.DecisionForgotten:
		info.State = cohortv1.OutcomeResponse_STATE_UNKNOWN_BEFORE_HORIZON
	}
	return info, snap.Index(), err
}

func lastAbort(snap Snapshot, id string) (machine.Decision, machine.Outcome, error) {
	o, found, err := machine.ReadOutcome(snap.Reader(), id)
	if err != nil || !found || o.Committed {
		return machine.DecisionNone, machine.Outcome{}, err
	}
	return machine.DecisionAborted, o, nil
}

func (c *Coordinator) settle(ctx context.Context, g *reign, id string, begun, horizon uint64) (OutcomeInfo, error) {
	cmd := &command.Settle{ID: id, Begun: begun, Reason: command.ReasonSuperseded, Detail: "settled: nothing was decided when its outcome was asked for"}
	ans, err := g.ask(ctx, func(request uint64) protocol.Event { return &protocol.Administer{Request: request, Command: cmd} })
	if err != nil {
		if ctx.Err() != nil {
			return OutcomeInfo{}, &Indeterminate{Detail: "the settlement may take effect: " + err.Error()}
		}
		return OutcomeInfo{}, err
	}
	done, ok := ans.(*protocol.Done)
	if !ok {
		return OutcomeInfo{}, errorOf(ans)
	}
	r := done.Result
	info := OutcomeInfo{Horizon: horizon}
	switch {
	case r.Status == command.StatusCommitted:
		info.State, info.Receipt = cohortv1.OutcomeResponse_STATE_COMMITTED, &r.Receipt
	case r.Status == command.StatusDone || r.Status == command.StatusAborted:
		info.State = cohortv1.OutcomeResponse_STATE_ABORTED
		info.Aborted = &Aborted{ID: id, Reason: r.Reason, Participant: r.Participant, Key: r.Key, Detail: r.Detail}
		if r.Reason == command.ReasonNone {
			info.Aborted.Reason, info.Aborted.Detail = cmd.Reason, cmd.Detail
		}
	case r.Reason == command.ReasonExpired:
		info.State = cohortv1.OutcomeResponse_STATE_UNKNOWN_BEFORE_HORIZON
	default:
		return OutcomeInfo{}, &Invalid{Field: "begun", Detail: r.Detail}
	}
	return info, nil
}

// confirm waits until a ReadIndex begun after the call has succeeded.
func (g *reign) confirm(ctx context.Context) error {
	done := make(chan error, 1)
	g.reader.confirm(func(err error) { done <- err })
	select {
	case err := <-done:
		if err != nil {
			return &notServingError{detail: "no linearizable read: " + err.Error()}
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-g.over:
		return ErrNotServing
	}
}

// TransactionInfo describes an open or recently decided transaction.
type TransactionInfo struct {
	ID           string
	State        string // open, waiting, preparing, deciding, committed or aborted
	Begun        uint64
	Position     uint64
	Reason       command.Reason
	Detail       string
	Participants []string
	Age          time.Duration
	TimeUnixNano int64
}

// Transactions lists open transactions, oldest first, then recently decided
// ones, newest first; at most limit in all.
func (c *Coordinator) Transactions(ctx context.Context, limit int) ([]TransactionInfo, error) {
	g := c.reign.Load()
	if g == nil {
		return nil, ErrNotServing
	}
	// fn may run after the caller has gone: it writes only what it hands over.
	found := make(chan []protocol.AttemptInfo, 1)
	if err := g.inLoop(ctx, func() { found <- g.core.Attempts(limit) }); err != nil {
		return nil, err
	}
	var infos []TransactionInfo
	for _, a := range <-found {
		infos = append(infos, TransactionInfo{ID: a.Attempt.ID, State: stateName(a.State), Begun: a.Attempt.Begun, Participants: a.Participants, Age: a.Age})
	}
	snap, err := c.params.Replica.Snapshot()
	if err != nil {
		return nil, err
	}
	defer snap.Close()
	recent, err := snap.RecentOutcomes(limit - len(infos))
	if err != nil {
		return nil, err
	}
	for _, o := range recent {
		t := TransactionInfo{ID: o.ID, State: "aborted", Begun: o.AbortedThrough, Reason: o.Reason, Detail: o.Detail, TimeUnixNano: o.TimeUnixNano}
		if o.Committed {
			t = TransactionInfo{ID: o.ID, State: "committed", Begun: o.Receipt.Begun, Position: o.Receipt.Position, TimeUnixNano: o.TimeUnixNano}
		} else if o.Participant != "" {
			t.Participants = []string{o.Participant}
		}
		infos = append(infos, t)
	}
	return infos, nil
}

func stateName(s protocol.State) string {
	switch s {
	case protocol.StateWaiting:
		return "waiting"
	case protocol.StatePreparing:
		return "preparing"
	case protocol.StateQueued, protocol.StateProposed:
		return "deciding"
	}
	return "open"
}

// InstanceInfo describes a standby.
type InstanceInfo struct {
	Node, Instance, Description string
	// Position that one with state of its own has applied, and what it does.
	Position uint64
	OwnState bool
	Phase    string
}

// ParticipantInfo describes a participant as the coordinator sees it.
type ParticipantInfo struct {
	Name        string
	State       string // store_only, active, detached or activating
	Node        string
	Instance    string
	Description string
	Epoch       uint64
	Position    uint64
	Votes       bool
	// OwnState: it keeps state of its own. Phase is what its active instance does,
	// restoring or following; CapturedPosition is of its newest captured state, 0 for
	// none.
	OwnState         bool
	Phase            string
	CapturedPosition uint64
	Reason           string
	Standbys         []InstanceInfo
}

// Participants describes the group's participants in the definition's order.
func (c *Coordinator) Participants(ctx context.Context) ([]ParticipantInfo, error) {
	g := c.reign.Load()
	if g == nil {
		return nil, ErrNotServing
	}
	found := make(chan []protocol.ParticipantInfo, 1)
	if err := g.inLoop(ctx, func() { found <- g.core.Participants() }); err != nil {
		return nil, err
	}
	states, checkpoints, err := c.ownStates()
	if err != nil {
		return nil, err
	}
	position := c.params.Replica.Position()
	var infos []ParticipantInfo
	for _, p := range <-found {
		info := ParticipantInfo{Name: p.Name, Epoch: p.Activation.Epoch, Node: p.Activation.Node, Instance: p.Activation.Instance, Position: position}
		switch {
		case p.Active != nil:
			info.State = "active"
			info.Node, info.Description = p.Active.Node, p.Active.Description
			info.Votes, info.OwnState = p.Active.Votes, p.Active.OwnState
			info.Reason = p.Reason
			if p.Active.OwnState {
				info.Position, info.Phase = p.Active.Position, p.Active.Phase.String()
			}
		case p.Activating:
			info.State, info.Reason = "activating", p.Reason
		case p.Activation.Instance == "":
			info.State = "store_only"
		default:
			info.State, info.Reason = "detached", p.Reason
		}
		for _, s := range p.Standbys {
			info.Standbys = append(info.Standbys, InstanceInfo{
				Node: s.Node, Instance: s.Instance, Description: s.Description, Position: s.Position, OwnState: s.OwnState, Phase: s.Phase.String(),
			})
		}
		if i := slices.IndexFunc(states, func(o machine.OwnState) bool { return o.Participant == p.Name }); i >= 0 {
			own := &states[i]
			info.OwnState = true
			if own.Last.State != 0 {
				info.CapturedPosition = own.Last.Position
			}
			if p.Active == nil {
				info.Position = own.From() // where an instance would begin
			}
			if info.Reason == "" {
				info.Reason = ownStateReason(&p, own, checkpoints, position)
			}
		}
		infos = append(infos, info)
	}
	return infos, nil
}

// ownStates reads what the log knows of states that participants keep by
// themselves.
func (c *Coordinator) ownStates() ([]machine.OwnState, []machine.Checkpoint, error) {
	snap, err := c.params.Replica.Snapshot()
	if err != nil {
		return nil, nil, err
	}
	defer snap.Close()
	states, err := machine.ReadOwnStates(snap.Reader())
	if err != nil || len(states) == 0 {
		return nil, nil, err
	}
	checkpoints, err := machine.ReadCheckpoints(snap.Reader())
	return states, checkpoints, err
}
