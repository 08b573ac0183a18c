package machine

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cohort-tx/cohort/txlog/command"
)

const (
	// maxPendingBytes bounds the pending requests, which are written again with
	// every entry that commits.
	maxPendingBytes = 24 << 10
	// maxUnfinished bounds the records of checkpoints that came to nothing.
	maxUnfinished = 16
)

// checkpointCommand runs a command of feature level 2 or 3, but FeatureLevel and
// Activate.
func (e *entryRun) checkpointCommand(c command.Command) (command.Result, error) {
	if e.m.meta.ConfigVersion == 0 {
		return refused(command.ReasonUnconfigured, "the group has no definition yet"), nil
	}
	switch c := c.(type) {
	case *command.RequestCheckpoint:
		return e.requestCheckpoint(c)
	case *command.Checkpoint:
		return e.checkpoint(c)
	case *command.AbandonCheckpoint:
		return e.abandonCheckpoint(c)
	case *command.NotePause:
		return e.notePause(c)
	case *command.ReportCopy:
		return e.reportCopy(c)
	case *command.ReportCapture:
		return e.reportCapture(c)
	case *command.Retain:
		return e.retain(c)
	case *command.Unseal:
		return e.unseal(c), nil
	case *command.Begin:
		return e.begin(c)
	}
	panic(fmt.Sprintf("machine: the decoder gave a command of type %T", c))
}

// levelOf is the feature level that a command needs the group to be at.
func levelOf(c command.Command) uint64 {
	switch c := c.(type) {
	case *command.Activate:
		if c.OwnState {
			return 3
		}
	case *command.Checkpoint:
		if len(c.Captures) > 0 {
			return 3
		}
		return 2
	case *command.ReportCapture:
		return 3
	case *command.RequestCheckpoint, *command.AbandonCheckpoint, *command.NotePause,
		*command.ReportCopy, *command.Retain, *command.Unseal, *command.Begin:
		return 2
	}
	return 1
}

// raiseLevel lets the level only rise.
func (e *entryRun) raiseLevel(c *command.FeatureLevel) command.Result {
	m := e.m
	if c.Level > command.MaxFeatureLevel {
		return refused(command.ReasonUnsupported, "feature level %d is not known to this release, only up to %d", c.Level, command.MaxFeatureLevel)
	}
	if c.Level < 2 || c.Level <= m.meta.FeatureLevel {
		return command.Result{Status: command.StatusDone}
	}
	if r, ok := e.reserveSize(checkpointOverhead); !ok {
		return r
	}
	if m.meta.FeatureLevel < 2 {
		m.schedule.NextNumber = max(m.schedule.NextNumber, 1)
		m.schedule.SinceUnixNano = e.clock
		e.scheduleChanged = true
	}
	m.meta.FeatureLevel = c.Level
	return command.Result{Status: command.StatusDone}
}

// byToken finds the newest attempt for a token.
func (e *entryRun) byToken(token string) (number uint64, all []Checkpoint, err error) {
	if all, err = ReadCheckpoints(e.st); err != nil {
		return 0, nil, err
	}
	for i := range all {
		if all[i].Request.Token == token {
			number = all[i].Number
		}
	}
	return number, all, nil
}

func cloneRequest(q *command.CheckpointRequest) command.CheckpointRequest {
	own := *q
	own.Token, own.By = strings.Clone(q.Token), strings.Clone(q.By)
	own.Participants = cloneNames(q.Participants)
	return own
}

func cloneNames(names []string) []string {
	var own []string
	for _, n := range names {
		own = append(own, strings.Clone(n))
	}
	return own
}

// checkRequest refuses a request that makes no sense for the group.
func (e *entryRun) checkRequest(q *command.CheckpointRequest) (command.Result, bool) {
	if err := command.CheckRequest(q); err != nil {
		return refused(command.ReasonMalformed, "%v", err), false
	}
	for _, p := range q.Participants {
		if e.m.participants[p] == nil {
			r := refused(command.ReasonUnknownParticipant, "the group has no such participant")
			r.Participant = p
			return r, false
		}
	}
	return command.Result{}, true
}

func (e *entryRun) requestCheckpoint(c *command.RequestCheckpoint) (command.Result, error) {
	m, done := e.m, command.Result{Status: command.StatusDone}
	if r, ok := e.checkRequest(&c.CheckpointRequest); !ok {
		return r, nil
	}
	pending := m.schedule.Pending
	for i := range pending {
		if pending[i].Token == c.Token {
			return done, nil
		}
	}
	number, _, err := e.byToken(c.Token)
	if err != nil || number != 0 {
		done.Number = number
		return done, err
	}
	pending = append(slices.Clone(pending), cloneRequest(&c.CheckpointRequest))
	size := 0
	for i := range pending {
		size += len(command.AppendCheckpointRequest(nil, &pending[i]))
	}
	if len(pending) > command.MaxRequests || size > maxPendingBytes {
		for i := range m.schedule.Pending {
			q := &m.schedule.Pending[i]
			if len(q.Participants) == 0 || slices.Equal(q.Participants, c.Participants) {
				return done, nil // the one that is waited for serves this too
			}
		}
		return refused(command.ReasonOverloaded, "%d requests for checkpoints wait already", len(m.schedule.Pending)), nil
	}
	m.schedule.Pending = pending
	e.scheduleChanged = true
	return done, nil
}

// served takes requests from the pending ones.
func (e *entryRun) served(token string, serves []string) {
	var left []command.CheckpointRequest
	for _, q := range e.m.schedule.Pending {
		if q.Token != token && !slices.Contains(serves, q.Token) {
			left = append(left, q)
		}
	}
	e.m.schedule.Pending = left
	e.scheduleChanged = true
}

// checkCheckpoint says what no correct coordinator sends.
func checkCheckpoint(c *command.Checkpoint) error {
	if len(c.Members) == 0 || len(c.Members) > command.MaxCopies {
		return fmt.Errorf("a group has 1 to %d members, not %d", command.MaxCopies, len(c.Members))
	}
	for i, n := range c.Members {
		if err := command.CheckName(n); err != nil {
			return fmt.Errorf("member %d: %w", i+1, err)
		}
		if slices.Contains(c.Members[:i], n) {
			return fmt.Errorf("member %s is listed twice", n)
		}
	}
	if c.MinCopies > command.MaxCopies {
		return fmt.Errorf("%d copies are asked for: at most %d", c.MinCopies, command.MaxCopies)
	}
	if !c.Seal {
		if c.SealToken != "" {
			return fmt.Errorf("a token of a seal, and no seal")
		}
		return nil
	}
	if len(c.Participants) > 0 {
		return fmt.Errorf("an incarnation ends with a checkpoint of all participants")
	}
	if err := command.CheckID(c.SealToken); err != nil {
		return fmt.Errorf("the seal's token: %w", err)
	}
	return nil
}

// checkpoint records the cut.
func (e *entryRun) checkpoint(c *command.Checkpoint) (command.Result, error) {
	m := e.m
	if !e.alone {
		return refused(command.ReasonMalformed, "a checkpoint is not alone in its entry"), nil
	}
	if r, ok := e.checkRequest(&c.CheckpointRequest); !ok {
		return r, nil
	}
	if err := checkCheckpoint(c); err != nil {
		return refused(command.ReasonMalformed, "%v", err), nil
	}
	number, all, err := e.byToken(c.Token)
	if err != nil || number != 0 {
		return command.Result{Status: command.StatusDone, Number: number}, err
	}
	if c.Seal && m.meta.Sealed && m.meta.SealToken != c.SealToken {
		return refused(command.ReasonSealed, "the group is sealed for another restore"), nil
	}
	own, err := ReadOwnStates(e.st)
	if err != nil {
		return command.Result{}, err
	}
	if r, ok := checkCaptures(c, own); !ok {
		return r, nil
	}
	if r, ok := e.reserveSize(CommandSize(c).Add(Size{Bytes: uint64(len(own)) * captureBytes})); !ok {
		return r, nil
	}
	if c.Seal {
		m.meta.Sealed, m.meta.SealToken = true, strings.Clone(c.SealToken)
	}
	record := e.newCheckpoint(&c.CheckpointRequest, c.Serves, CheckpointWriting, c.WaitNanos)
	record.Members, record.MinCopies = cloneNames(c.Members), c.MinCopies
	e.captures(&record, c.Captures, own)
	if s := &m.schedule; record.Whole() {
		s.Cut = Cut{Number: record.Number, UnixNano: e.clock, Position: record.Position, LogBytes: s.LogBytes}
	}
	e.putCheckpoint(&record)
	m.cut = &record
	return command.Result{Status: command.StatusDone, Number: record.Number}, e.prune(all)
}

// newCheckpoint is the record of an attempt at this entry.
func (e *entryRun) newCheckpoint(q *command.CheckpointRequest, serves []string, state CheckpointState, waitNanos uint64) Checkpoint {
	m := e.m
	record := Checkpoint{
		Number:       m.schedule.NextNumber,
		State:        state,
		Request:      cloneRequest(q),
		Incarnation:  m.meta.Incarnation,
		Index:        e.index,
		Position:     m.meta.Position,
		LogHash:      m.meta.LogHash,
		TimeUnixNano: e.now,
		WaitNanos:    waitNanos,
	}
	m.schedule.NextNumber++
	m.schedule.AttemptUnixNano = e.clock
	e.served(q.Token, serves)
	return record
}

func (e *entryRun) putCheckpoint(c *Checkpoint) {
	e.st.Set(appendCheckpointKey(nil, c.Number), AppendCheckpoint(nil, c))
}

// prune drops the oldest of the records that came to nothing.
func (e *entryRun) prune(all []Checkpoint) error {
	var unfinished []uint64
	for i := range all {
		if s := all[i].State; s == CheckpointAbandoned || s == CheckpointFailed {
			unfinished = append(unfinished, all[i].Number)
		}
	}
	for len(unfinished) > maxUnfinished {
		if _, ok := e.reserveSize(dropSize); !ok {
			return nil // the next one does it
		}
		e.st.Delete(appendCheckpointKey(nil, unfinished[0]))
		unfinished = unfinished[1:]
	}
	return nil
}

func (e *entryRun) abandonCheckpoint(c *command.AbandonCheckpoint) (command.Result, error) {
	if r, ok := e.checkRequest(&c.CheckpointRequest); !ok {
		return r, nil
	}
	number, all, err := e.byToken(c.Token)
	if err != nil || number != 0 {
		return command.Result{Status: command.StatusDone, Number: number}, err
	}
	if r, ok := e.reserveSize(CommandSize(c)); !ok {
		return r, nil
	}
	record := e.newCheckpoint(&c.CheckpointRequest, c.Serves, CheckpointAbandoned, c.WaitNanos)
	record.Detail = strings.Clone(cut(c.Detail))
	if command.CheckID(c.Transaction) == nil {
		record.Transaction = strings.Clone(c.Transaction)
	}
	if command.CheckName(c.Participant) == nil {
		record.Participant = strings.Clone(c.Participant)
	}
	e.putCheckpoint(&record)
	return command.Result{Status: command.StatusDone, Number: record.Number}, e.prune(append(all, record))
}

// known reads the record that a command is about, or says why there is none.
func (e *entryRun) known(number uint64) (Checkpoint, command.Result, bool, error) {
	if number == 0 || number >= e.m.schedule.NextNumber {
		return Checkpoint{}, refused(command.ReasonMalformed, "there was no checkpoint %d yet", number), false, nil
	}
	record, found, err := ReadCheckpoint(e.st, number)
	if err == nil && !found {
		return Checkpoint{}, refused(command.ReasonExpired, "checkpoint %d was dropped", number), false, nil
	}
	return record, command.Result{}, found, err
}

func (e *entryRun) notePause(c *command.NotePause) (command.Result, error) {
	record, r, ok, err := e.known(c.Number)
	if !ok || err != nil {
		return r, err
	}
	if r, ok := e.reserveSize(recordSize(&record)); !ok {
		return r, nil
	}
	record.PauseNanos = c.PauseNanos
	e.putCheckpoint(&record)
	return command.Result{Status: command.StatusDone, Number: record.Number}, nil
}

func (e *entryRun) unseal(c *command.Unseal) command.Result {
	m := e.m
	if m.meta.Sealed && m.meta.SealToken != c.Token {
		return refused(command.ReasonSealed, "the group is sealed for another restore")
	}
	m.meta.Sealed, m.meta.SealToken = false, ""
	return command.Result{Status: command.StatusDone}
}

func (e *entryRun) sealed() (command.Result, bool) {
	if !e.m.meta.Sealed {
		return command.Result{}, false
	}
	return refused(command.ReasonSealed, "the group is sealed: this incarnation has ended"), true
}
