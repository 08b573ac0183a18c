package machine

import (
	"fmt"

	"github.com/cohort-tx/cohort/txlog/command"
)

// abort says why an attempt aborts.
type abort struct {
	reason      command.Reason
	participant string
	key         string
	detail      string
}

// decide runs the rules of the package's documentation in their order.
func (e *entryRun) decide(d *command.Decide) (command.Result, error) {
	m := e.m
	if r, ok := e.checkAttempt(d.Attempt); !ok {
		return r, nil
	}
	if len(d.RequestDigest) > command.MaxDigestBytes {
		return refused(command.ReasonMalformed, "the request digest has %d bytes: at most %d", len(d.RequestDigest), command.MaxDigestBytes), nil
	}
	o, found, err := e.readOutcome(d.ID)
	if err != nil {
		return command.Result{}, err
	}
	known := decision(&o, found, d.Begun, m.meta.Horizon)
	if known == DecisionCommitted {
		if string(o.RequestDigest) != string(d.RequestDigest) {
			return refused(command.ReasonIDReused, "the id committed another request"), nil
		}
		return command.Result{Status: command.StatusCommitted, Receipt: o.Receipt}, nil
	}
	if r, ok := e.checkOpen(known, d.Begun); !ok {
		return r, nil
	}
	if known == DecisionAborted {
		return recordedAbort(command.StatusAborted, &o), nil
	}
	if r, sealed := e.sealed(); sealed {
		return r, nil
	}
	if err := checkShape(d); err != nil {
		return refused(command.ReasonMalformed, "%v", err), nil
	}
	a := e.checkContent(d)
	if a == nil {
		if r, ok := e.reserveSize(CommandSize(d)); !ok {
			return r, nil
		}
		if a, err = e.validate(d); err != nil {
			return command.Result{}, err
		}
	} else if r, ok := e.reserveSize(Size{Bytes: outcomeBytes, Keys: 1}); !ok {
		return r, nil
	}
	if a != nil {
		return e.abort(d.Attempt, a, &o, found), nil
	}
	return e.commit(d, &o, found), nil
}

// checkAttempt refuses an attempt that cannot exist. A snapshot is older than
// the entry that decides: an attempt begun later could outlive the record of its
// abort.
func (e *entryRun) checkAttempt(a command.Attempt) (command.Result, bool) {
	if err := command.CheckID(a.ID); err != nil {
		return refused(command.ReasonMalformed, "%v", err), false
	}
	if a.Begun >= e.index {
		return refused(command.ReasonMalformed, "the attempt began at %d, not before this entry, %d", a.Begun, e.index), false
	}
	return command.Result{}, true
}

// checkOpen is rules b and c, with the group's first definition between them.
func (e *entryRun) checkOpen(known Decision, begun uint64) (command.Result, bool) {
	if r, stale := e.staleEpoch(); stale {
		return r, false
	}
	if e.m.meta.ConfigVersion == 0 {
		return refused(command.ReasonUnconfigured, "the group has no definition yet"), false
	}
	if known == DecisionForgotten {
		return refused(command.ReasonExpired, "the attempt began at %d, before the outcome horizon, %d", begun, e.m.meta.Horizon), false
	}
	return command.Result{}, true
}

// checkShape says what no correct coordinator sends.
func checkShape(d *command.Decide) error {
	if len(d.Fences) > command.MaxParticipants {
		return fmt.Errorf("%d fences are more than a group can have participants, %d", len(d.Fences), command.MaxParticipants)
	}
	for i := range d.Ops {
		o := &d.Ops[i]
		if o.Kind == command.OpLog {
			continue
		}
		if err := command.CheckKey(o.Key); err != nil {
			return fmt.Errorf("op %d: %w", i+1, err)
		}
	}
	for i := range d.Reads {
		if err := command.CheckKey(d.Reads[i].Key); err != nil {
			return fmt.Errorf("read %d: %w", i+1, err)
		}
	}
	for i := range d.Scans {
		// The end of a range cut after a key of the full length is one byte longer.
		if s := &d.Scans[i]; len(s.Start) > command.MaxKeyBytes+1 || len(s.End) > command.MaxKeyBytes+1 {
			return fmt.Errorf("scan %d: a bound is longer than any key", i+1)
		}
	}
	return nil
}

// checkContent holds a transaction against the limits and the participants.
func (e *entryRun) checkContent(d *command.Decide) *abort {
	if t := CheckSize(e.m.config.Limits, d); t != nil {
		return &abort{command.ReasonTooLarge, t.Participant, t.Key, t.Detail}
	}
	for i := range d.Fences {
		if a := e.checkParticipant(d.Fences[i].Participant); a != nil {
			return a
		}
	}
	for i := range d.Reads {
		if a := e.checkParticipant(d.Reads[i].Participant); a != nil {
			return a
		}
	}
	for i := range d.Scans {
		if a := e.checkParticipant(d.Scans[i].Participant); a != nil {
			return a
		}
	}
	for i := range d.Ops {
		if a := e.checkParticipant(d.Ops[i].Participant); a != nil {
			return a
		}
	}
	return nil
}

func (e *entryRun) checkParticipant(name string) *abort {
	if e.m.participants[name] != nil {
		return nil
	}
	// The name may be anything; it goes into the record only if it is one.
	if command.CheckName(name) != nil {
		name = ""
	}
	return &abort{reason: command.ReasonUnknownParticipant, participant: name, detail: "the group has no such participant"}
}

// validate is rules d, e and f; it leaves the transaction's writes staged.
func (e *entryRun) validate(d *command.Decide) (*abort, error) {
	if a := e.checkFences(d); a != nil {
		return a, nil
	}
	if a, err := e.checkReads(d); a != nil || err != nil {
		return a, err
	}
	if a, err := e.checkScans(d); a != nil || err != nil {
		return a, err
	}
	return e.evaluate(d)
}

// checkFences is rule d.
func (e *entryRun) checkFences(d *command.Decide) *abort {
	for i := range d.Fences {
		if a := e.checkFence(d.Fences[i].Participant, d.Fences[i].Epoch); a != nil {
			return a
		}
	}
	for i := range d.Ops {
		if o := &d.Ops[i]; o.AppliedEpoch != 0 {
			if a := e.checkFence(o.Participant, o.AppliedEpoch); a != nil {
				return a
			}
		}
	}
	return nil
}

func (e *entryRun) checkFence(name string, epoch uint64) *abort {
	p := e.m.participants[name]
	if p.activation.Epoch == epoch && p.activation.Instance != "" {
		return nil
	}
	detail := fmt.Sprintf("the activation epoch is %d, not %d", p.activation.Epoch, epoch)
	if p.activation.Instance == "" {
		detail = "the participant has no active instance"
	}
	return &abort{reason: command.ReasonMoved, participant: name, detail: detail}
}

// checkReads is rule e for keys.
func (e *entryRun) checkReads(d *command.Decide) (*abort, error) {
	for i := range d.Reads {
		r := &d.Reads[i]
		version, _, _, err := e.readData(e.m.participants[r.Participant].ID, r.Key)
		if err != nil {
			return nil, err
		}
		if version != r.Version {
			return &abort{command.ReasonConflict, r.Participant, r.Key,
				fmt.Sprintf("read at version %d, now at %d", r.Version, version)}, nil
		}
	}
	return nil, nil
}

// checkScans is rule e for ranges: the scan is run again.
func (e *entryRun) checkScans(d *command.Decide) (*abort, error) {
	rest := e.m.config.Limits.ScanKeys
	for i := range d.Scans {
		s := &d.Scans[i]
		h := &e.m.scan
		h.reset()
		tooMany := false
		err := scanData(e.st, e.m.participants[s.Participant].ID, s.Start, s.End, func(k, record []byte) (bool, error) {
			if tooMany = uint64(h.keys) == rest; tooMany {
				return false, nil
			}
			version, _, err := splitData(k, record)
			if err == nil {
				h.add(k[dataPrefixLen:], version)
			}
			return true, err
		})
		if err != nil {
			return nil, err
		}
		// A cut range's bound may be a byte longer than a key: no key of the store.
		key := s.Start
		if len(key) > command.MaxKeyBytes {
			key = key[:command.MaxKeyBytes]
		}
		if tooMany {
			return &abort{command.ReasonTooLarge, s.Participant, key,
				fmt.Sprintf("the scans read more than limits.scan_keys, %d", e.m.config.Limits.ScanKeys)}, nil
		}
		if h.sum() != s.Hash {
			return &abort{command.ReasonConflict, s.Participant, key, "the range from this key has changed"}, nil
		}
		rest -= uint64(h.keys)
	}
	return nil, nil
}

// commit is rule g.
func (e *entryRun) commit(d *command.Decide, o *Outcome, found bool) command.Result {
	m := e.m
	entry := command.Entry{
		Position:     m.meta.Position + 1,
		ID:           d.ID,
		Begun:        d.Begun,
		Index:        e.index,
		TimeUnixNano: e.now,
		Changes:      e.takeChanges(),
	}
	level2 := m.meta.FeatureLevel >= 2
	if level2 {
		if entry.RequestDigest = d.RequestDigest; entry.RequestDigest == nil {
			entry.RequestDigest = []byte{}
		}
		entry.Dropped, m.schedule.Dropped = m.schedule.Dropped, nil
	}
	hash, length := m.chain(&entry)
	m.meta.LogHash = hash
	if level2 {
		m.schedule.LogBytes += uint64(length)
		e.scheduleChanged = true
	}
	m.meta.Position = entry.Position
	e.entries = append(e.entries, entry)
	e.applyWrites(entry.Position)
	receipt := command.Receipt{
		ID:           d.ID,
		Incarnation:  m.meta.Incarnation,
		Position:     entry.Position,
		Begun:        d.Begun,
		TimeUnixNano: e.now,
	}
	e.record(&Outcome{
		ID:             d.ID,
		Committed:      true,
		Receipt:        receipt,
		RequestDigest:  d.RequestDigest,
		AbortedThrough: o.AbortedThrough,
	}, found)
	return command.Result{Status: command.StatusCommitted, Receipt: receipt}
}

// abort records that the attempt never commits.
func (e *entryRun) abort(at command.Attempt, a *abort, o *Outcome, found bool) command.Result {
	next := Outcome{
		ID:             at.ID,
		AbortedThrough: max(at.Begun, o.AbortedThrough),
		Reason:         a.reason,
		Participant:    a.participant,
		Key:            a.key,
		Detail:         cut(a.detail),
	}
	e.record(&next, found)
	return recordedAbort(command.StatusAborted, &next)
}

func recordedAbort(status command.Status, o *Outcome) command.Result {
	return command.Result{Status: status, Reason: o.Reason, Participant: o.Participant, Key: o.Key, Detail: o.Detail}
}

// settle writes a tombstone, unless there is an answer already.
func (e *entryRun) settle(c *command.Settle) (command.Result, error) {
	at := command.Attempt{ID: c.ID, Begun: c.Begun}
	if r, ok := e.checkAttempt(at); !ok {
		return r, nil
	}
	if c.Reason == command.ReasonNone || c.Reason >= command.ReasonStaleEpoch {
		return refused(command.ReasonMalformed, "%d is not a reason to abort", c.Reason), nil
	}
	o, found, err := e.readOutcome(c.ID)
	if err != nil {
		return command.Result{}, err
	}
	known := decision(&o, found, c.Begun, e.m.meta.Horizon)
	if known == DecisionCommitted {
		return command.Result{Status: command.StatusCommitted, Receipt: o.Receipt}, nil
	}
	if r, ok := e.checkOpen(known, c.Begun); !ok {
		return r, nil
	}
	if known == DecisionAborted {
		return recordedAbort(command.StatusDone, &o), nil
	}
	if r, sealed := e.sealed(); sealed {
		return r, nil
	}
	if r, ok := e.reserveSize(CommandSize(c)); !ok {
		return r, nil
	}
	r := e.abort(at, &abort{reason: c.Reason, detail: c.Detail}, &o, found)
	r.Status = command.StatusDone
	return r, nil
}

func (e *entryRun) readOutcome(id string) (Outcome, bool, error) {
	e.m.keyBuf = appendOutcomeKey(e.m.keyBuf[:0], id)
	v, found, err := e.st.Get(e.m.keyBuf)
	if err != nil || !found {
		return Outcome{}, false, err
	}
	o, err := decodeOutcome(e.m.keyBuf, v)
	return o, err == nil, err
}

// record writes the outcome of an id at this entry.
func (e *entryRun) record(o *Outcome, known bool) {
	m := e.m
	o.Index, o.TimeUnixNano = e.index, e.now
	key := appendOutcomeKey(m.slab.make(1+len(o.ID)), o.ID)
	e.st.Set(key, appendOutcome(m.slab.make(outcomeLen(o)), o))
	if !known {
		m.meta.Outcomes++
	}
	e.decided = append(e.decided, o.ID)
}

// outcomeLen is an upper bound of a record's length.
func outcomeLen(o *Outcome) int {
	return 80 + len(o.RequestDigest) + len(o.Participant) + len(o.Key) + len(o.Detail)
}
