package machine

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cohort-tx/cohort/txlog/command"
)

// ownStateActivated makes the record of a participant whose instance keeps state
// of its own, if it is the first such.
func (e *entryRun) ownStateActivated(participant string) error {
	_, found, err := ReadOwnState(e.st, participant)
	if err != nil || found {
		return err
	}
	e.putOwnState(&OwnState{Participant: participant, Base: e.m.meta.Position})
	return nil
}

func (e *entryRun) putOwnState(s *OwnState) {
	e.st.Set(appendOwnStateKey(nil, s.Participant), appendOwnState(nil, s))
}

// checkCaptures refuses to ask for the state of what has none.
func checkCaptures(c *command.Checkpoint, own []OwnState) (command.Result, bool) {
	for i, name := range c.Captures {
		if i > 0 && name <= c.Captures[i-1] {
			return refused(command.ReasonMalformed, "capture %d does not come in order of the names, each once", i+1), false
		}
		if !slices.ContainsFunc(own, func(s OwnState) bool { return s.Participant == name }) || !isOf(c.Participants, name) {
			r := refused(command.ReasonUnknownParticipant, "the checkpoint is of no state that the participant keeps by itself")
			if command.CheckName(name) == nil {
				r.Participant = strings.Clone(name)
			}
			return r, false
		}
	}
	return command.Result{}, true
}

// isOf tells whether a checkpoint of some participants is of one; none are all.
func isOf(participants []string, name string) bool {
	return len(participants) == 0 || slices.Contains(participants, name)
}

// captures fills in what a cut has of participants with state of their own: what
// is asked for is wanted as of the cut, of the others it is the last one, and the
// log that leads from there to the cut is kept.
func (e *entryRun) captures(record *Checkpoint, asked []string, own []OwnState) {
	for i := range own {
		s := &own[i]
		if !isOf(record.Request.Participants, s.Participant) {
			continue
		}
		if slices.Contains(asked, s.Participant) {
			record.Captures = append(record.Captures, Capture{
				Participant: s.Participant,
				State:       CaptureWanted,
				Checkpoint:  record.Number,
				Epoch:       e.m.participants[s.Participant].activation.Epoch,
				Position:    record.Position,
			})
			continue
		}
		if s.Last.State != 0 {
			last := s.Last
			last.State = CaptureInherited
			record.Captures = append(record.Captures, last)
		}
		if from := s.From() + 1; from <= record.Position && (record.LogFrom == 0 || from < record.LogFrom) {
			record.LogFrom = from
		}
	}
	if len(record.Captures) > 0 && record.Whole() {
		record.Before = e.m.schedule.Cut
	}
}

// checkCapture says what no correct node reports.
func checkCapture(c *command.ReportCapture) error {
	if c.Failure != "" {
		if c.Node != "" || c.Section != (command.Section{}) || c.Bytes != 0 || c.SHA256 != [32]byte{} {
			return fmt.Errorf("a capture has failed, and there is one")
		}
		return nil
	}
	if err := command.CheckName(c.Node); err != nil {
		return fmt.Errorf("the node: %w", err)
	}
	if want := command.SectionState + c.Participant; c.Section.Name != want {
		return fmt.Errorf("the section is %.*q, not %q", maxSectionName, c.Section.Name, want)
	}
	return nil
}

// reportCapture records what became of a participant's capture. Without it the
// checkpoint is not one, so a failure abandons it.
func (e *entryRun) reportCapture(c *command.ReportCapture) (command.Result, error) {
	record, r, ok, err := e.known(c.Number)
	if !ok || err != nil {
		return r, err
	}
	at := slices.IndexFunc(record.Captures, func(p Capture) bool { return p.Participant == c.Participant })
	if at < 0 {
		return refused(command.ReasonUnknownParticipant, "checkpoint %d is of no state that the participant keeps by itself", c.Number), nil
	}
	p := &record.Captures[at]
	if err := checkCapture(c); err != nil {
		return refused(command.ReasonMalformed, "%v", err), nil
	}
	done := command.Result{Status: command.StatusDone, Number: record.Number, Participant: p.Participant}
	switch {
	case c.Epoch != p.Epoch || c.Position != p.Position:
		return refused(command.ReasonStaleVersion, "the state is of activation epoch %d at position %d; checkpoint %d is of epoch %d at %d",
			c.Epoch, c.Position, c.Number, p.Epoch, p.Position), nil
	case p.State == CaptureStored && c.Failure == "" && p.Section == c.Section && p.Bytes == c.Bytes && p.SHA256 == c.SHA256:
		return done, nil // once more
	case p.State != CaptureWanted:
		return refused(command.ReasonNone, "the state is %v already", p.State), nil
	case record.State != CheckpointWriting:
		return refused(command.ReasonExpired, "checkpoint %d is %v", c.Number, record.State), nil
	}
	if r, ok := e.reserveSize(recordSize(&record)); !ok {
		return r, nil
	}
	if c.Failure != "" {
		p.State, p.Detail = CaptureFailed, strings.Clone(cut(c.Failure))
		return done, e.captureFailed(&record, p)
	}
	p.State, p.Node = CaptureStored, strings.Clone(c.Node)
	p.Section, p.Bytes, p.SHA256 = c.Section, c.Bytes, c.SHA256
	p.Section.Name = command.SectionState + p.Participant
	e.putCheckpoint(&record)
	return done, nil
}

// captureFailed abandons a checkpoint. Its cut counts as none: what was due before
// it is due again.
func (e *entryRun) captureFailed(record *Checkpoint, failed *Capture) error {
	record.State = CheckpointAbandoned
	record.Participant = failed.Participant
	record.Detail = cut(fmt.Sprintf("participant %s: %s", failed.Participant, failed.Detail))
	all, err := ReadCheckpoints(e.st)
	if err != nil {
		return err
	}
	for i := range all {
		if all[i].Number == record.Number {
			all[i] = *record
		}
	}
	for s := &e.m.schedule; s.Cut.Number != 0; {
		at := slices.IndexFunc(all, func(c Checkpoint) bool { return c.Number == s.Cut.Number })
		if at < 0 || all[at].State != CheckpointAbandoned {
			break
		}
		s.Cut = all[at].Before
		e.scheduleChanged = true
	}
	e.putCheckpoint(record)
	return e.prune(all)
}

// undecided finds a capture that is neither stored nor failed.
func undecided(record *Checkpoint) (string, bool) {
	for i := range record.Captures {
		if record.Captures[i].State == CaptureWanted {
			return record.Captures[i].Participant, true
		}
	}
	return "", false
}

// checkStates holds the sections of a copy against what was captured.
func checkStates(record *Checkpoint, sections []command.Section) error {
	for i := range record.Captures {
		want := &record.Captures[i].Section
		if !slices.Contains(sections, *want) {
			return fmt.Errorf("the section %s is not what was captured", want.Name)
		}
	}
	return nil
}

// keepCaptures makes the captures of a complete checkpoint the participants' last.
func (e *entryRun) keepCaptures(record *Checkpoint) (command.Result, bool, error) {
	for i := range record.Captures {
		c := &record.Captures[i]
		if c.State != CaptureStored {
			continue
		}
		s, found, err := ReadOwnState(e.st, c.Participant)
		if err != nil {
			return command.Result{}, false, err
		}
		if !found {
			continue // dropped since
		}
		if r, ok := e.reserveSize(Size{Bytes: ownStateBytes, Keys: 1}); !ok {
			return r, false, nil
		}
		s.Last = *c
		e.putOwnState(&s)
	}
	return command.Result{}, true, nil
}

// Need says from where on the log is needed, and for what.
type Need struct {
	From uint64
	// Checkpoint that needs it, or else the Participant.
	Checkpoint  uint64
	Participant string
}

func (n Need) String() string {
	if n.Participant != "" {
		return fmt.Sprintf("the state of participant %s needs the log from %d on", n.Participant, n.From)
	}
	return fmt.Sprintf("checkpoint %d needs the log from %d on", n.Checkpoint, n.From)
}

// LogNeed gives the first position of the log that is needed to bring back, at its
// cut or later, any of the checkpoints that are complete and of all participants,
// and the state of every participant that keeps its own. Without such a checkpoint
// all log is needed, and found is false.
func LogNeed(checkpoints []Checkpoint, own []OwnState) (need Need, found bool) {
	for i := range checkpoints {
		c := &checkpoints[i]
		if c.State != CheckpointComplete || !c.Whole() {
			continue
		}
		from := c.Position + 1
		if c.LogFrom != 0 {
			from = min(from, c.LogFrom)
		}
		if !found || from < need.From {
			need, found = Need{From: from, Checkpoint: c.Number}, true
		}
	}
	if !found {
		return Need{}, false
	}
	for i := range own {
		if from := own[i].From() + 1; from < need.From {
			need = Need{From: from, Participant: own[i].Participant}
		}
	}
	return need, true
}
