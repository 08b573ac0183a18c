package machine

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cohort-tx/cohort/txlog/command"
)

const (
	// maxUnfinished bounds the abandoned and failed attempts that stay recorded: for
	// people to look at.
	maxUnfinished = 16
	// maxCheckpoints bounds all records: retention keeps far fewer.
	maxCheckpoints = 1024
)

// ErrOriginMismatch: the replica was made from another state than the group's.
var ErrOriginMismatch = errors.New("the replica's files are not those that the incarnation began with")

// sealed refuses what would change the group after its incarnation has ended.
func (e *entryRun) sealed() command.Result {
	return refused(command.ReasonSealed, "the group is being restored")
}

// extend gives an entry what feature level 2 keeps in the log.
func (e *entryRun) extend(entry *command.Entry, d *command.Decide) {
	m := e.m
	if m.meta.FeatureLevel < 2 {
		return
	}
	entry.RequestDigest = append(make([]byte, 0, len(d.RequestDigest)), d.RequestDigest...)
	if len(m.schedule.Dropped) > 0 {
		entry.Dropped = m.schedule.Dropped
		m.schedule.Dropped = nil
		e.scheduled = true
	}
}

// noteDropped remembers participants that the next log entry must tell of.
func (e *entryRun) noteDropped(names []string) {
	m := e.m
	if m.meta.FeatureLevel < 2 || len(names) == 0 {
		return
	}
	for _, name := range names {
		if !slices.Contains(m.schedule.Dropped, name) {
			m.schedule.Dropped = append(slices.Clone(m.schedule.Dropped), name)
		}
	}
	e.scheduled = true
}

// checkpointCommand runs a command of feature level 2.
func (e *entryRun) checkpointCommand(c command.Command) (command.Result, bool, error) {
	if f, ok := c.(*command.FeatureLevel); ok {
		return e.featureLevel(f), true, nil
	}
	if e.m.meta.FeatureLevel < 2 {
		return refused(command.ReasonUnsupported, "the group's feature level is %d", max(e.m.meta.FeatureLevel, 1)), true, nil
	}
	if r, ok := e.reserveSize(CommandSize(c)); !ok {
		return r, true, nil
	}
	var r command.Result
	var err error
	switch c := c.(type) {
	case *command.RequestCheckpoint:
		r, err = e.requestCheckpoint(c)
	case *command.Checkpoint:
		r, err = e.checkpoint(c)
	case *command.AbandonCheckpoint:
		r, err = e.abandonCheckpoint(c)
	case *command.NotePause:
		r, err = e.notePause(c)
	case *command.ReportCopy:
		r, err = e.reportCopy(c)
	case *command.Retain:
		r, err = e.retain(c)
	case *command.Unseal:
		r = e.unseal(c)
	case *command.Begin:
		r, err = e.begin(c)
	default:
		return r, false, nil
	}
	return r, true, err
}

func (e *entryRun) featureLevel(c *command.FeatureLevel) command.Result {
	m := e.m
	if c.Level > command.MaxFeatureLevel {
		return refused(command.ReasonUnsupported, "feature level %d is above this release's, %d", c.Level, command.MaxFeatureLevel)
	}
	if m.meta.ConfigVersion == 0 {
		return refused(command.ReasonUnconfigured, "the group has no definition yet")
	}
	if r, ok := e.reserveSize(Size{Bytes: scheduleBytes, Keys: 1}); !ok {
		return r
	}
	if c.Level > max(m.meta.FeatureLevel, 1) {
		m.meta.FeatureLevel = c.Level
		m.schedule.NextNumber = max(m.schedule.NextNumber, 1)
		m.schedule.SinceUnixNano = e.clock
		m.schedule.LogFrom = max(m.schedule.LogFrom, 1)
		e.scheduled = true
	}
	return command.Result{Status: command.StatusDone}
}

// checkRequest says what no correct coordinator sends.
func (e *entryRun) checkRequest(c *command.CheckpointRequest, serves []string) error {
	if err := command.CheckID(c.Token); err != nil {
		return fmt.Errorf("the token: %w", err)
	}
	if !c.Trigger.Valid() {
		return fmt.Errorf("%d is no trigger", c.Trigger)
	}
	if c.By != "" {
		if err := command.CheckName(c.By); err != nil {
			return fmt.Errorf("who asked: %w", err)
		}
	}
	if len(serves) > command.MaxRequests {
		return fmt.Errorf("it serves %d requests: at most %d wait", len(serves), command.MaxRequests)
	}
	for i, p := range c.Participants {
		if e.m.participants[p] == nil {
			return fmt.Errorf("the group has no participant %.63q", p)
		}
		if slices.Contains(c.Participants[:i], p) {
			return fmt.Errorf("participant %s is listed twice", p)
		}
	}
	return nil
}

// known finds the attempt that a token was recorded with.
func (e *entryRun) known(token string) (*Checkpoint, error) {
	all, err := ReadCheckpoints(e.st)
	if err != nil {
		return nil, err
	}
	for i := range all {
		if all[i].Request.Token == token {
			return &all[i], nil
		}
	}
	return nil, nil
}

func (e *entryRun) requestCheckpoint(c *command.RequestCheckpoint) (command.Result, error) {
	m := e.m
	if err := e.checkRequest(&c.CheckpointRequest, nil); err != nil {
		return refused(command.ReasonMalformed, "%v", err), nil
	}
	done := command.Result{Status: command.StatusDone}
	if slices.ContainsFunc(m.schedule.Pending, func(p command.CheckpointRequest) bool { return p.Token == c.Token }) {
		return done, nil
	}
	if known, err := e.known(c.Token); err != nil || known != nil {
		return done, err
	}
	if len(m.schedule.Pending) >= command.MaxRequests {
		return done, nil // those that wait bring what it asks for
	}
	m.schedule.Pending = append(slices.Clone(m.schedule.Pending), cloneRequest(&c.CheckpointRequest))
	e.scheduled = true
	return done, nil
}

func cloneRequest(c *command.CheckpointRequest) command.CheckpointRequest {
	out := *c
	out.Participants = slices.Clone(c.Participants)
	return out
}

// attempt gives an attempt its number and takes what it serves from the pending
// requests.
func (e *entryRun) attempt(c *command.CheckpointRequest, serves []string) Checkpoint {
	m := e.m
	s := &m.schedule
	rec := Checkpoint{
		Number: s.NextNumber, Request: cloneRequest(c), Incarnation: m.meta.Incarnation, Index: e.index,
		Position: m.meta.Position, LogHash: m.meta.LogHash, TimeUnixNano: e.now,
	}
	s.NextNumber++
	s.AttemptUnixNano = e.clock
	s.Pending = slices.DeleteFunc(slices.Clone(s.Pending), func(p command.CheckpointRequest) bool {
		return p.Token == c.Token || slices.Contains(serves, p.Token)
	})
	e.scheduled = true
	return rec
}

func (e *entryRun) putCheckpoint(c *Checkpoint) {
	e.st.Set(appendCheckpointKey(nil, c.Number), AppendCheckpoint(nil, c))
}

func (e *entryRun) checkpoint(c *command.Checkpoint) (command.Result, error) {
	m := e.m
	err := e.checkRequest(&c.CheckpointRequest, c.Serves)
	switch {
	case err != nil:
	case !e.alone:
		err = errors.New("a checkpoint must be alone in its entry")
	case len(c.Members) == 0 || len(c.Members) > command.MaxCopies:
		err = fmt.Errorf("%d members; a group has 1 to %d", len(c.Members), command.MaxCopies)
	case c.MinCopies > uint64(len(c.Members)):
		err = fmt.Errorf("%d copies cannot be on %d members", c.MinCopies, len(c.Members))
	case c.Seal && command.CheckID(c.SealToken) != nil:
		err = errors.New("a seal has a token")
	}
	for _, node := range c.Members {
		if err == nil {
			err = command.CheckName(node)
		}
	}
	if err != nil {
		return refused(command.ReasonMalformed, "%v", err), nil
	}
	all, err := ReadCheckpoints(e.st)
	if err != nil {
		return command.Result{}, err
	}
	for i := range all {
		if all[i].Request.Token == c.Token {
			return command.Result{Status: command.StatusDone, Number: all[i].Number}, nil
		}
	}
	if m.meta.Sealed {
		return e.sealed(), nil
	}
	if len(all) >= maxCheckpoints {
		return refused(command.ReasonOverloaded, "%d checkpoints are recorded", len(all)), nil
	}
	rec := e.attempt(&c.CheckpointRequest, c.Serves)
	rec.State, rec.WaitNanos, rec.Members, rec.MinCopies = CheckpointWriting, c.WaitNanos, slices.Clone(c.Members), c.MinCopies
	e.putCheckpoint(&rec)
	if rec.Whole() {
		s := &m.schedule
		s.CutNumber, s.CutUnixNano, s.CutPosition, s.CutLogBytes = rec.Number, e.clock, rec.Position, m.meta.LogBytes
	}
	if c.Seal {
		m.meta.Sealed, m.meta.SealToken = true, c.SealToken
	}
	m.cut = &rec
	return command.Result{Status: command.StatusDone, Number: rec.Number}, nil
}

// Cut is the checkpoint that the last applied entry recorded.
func (m *Machine) Cut() (Checkpoint, bool) {
	if m.cut == nil {
		return Checkpoint{}, false
	}
	return *m.cut, true
}

func (e *entryRun) abandonCheckpoint(c *command.AbandonCheckpoint) (command.Result, error) {
	if err := e.checkRequest(&c.CheckpointRequest, c.Serves); err != nil {
		return refused(command.ReasonMalformed, "%v", err), nil
	}
	if known, err := e.known(c.Token); err != nil {
		return command.Result{}, err
	} else if known != nil {
		return command.Result{Status: command.StatusDone, Number: known.Number}, nil
	}
	rec := e.attempt(&c.CheckpointRequest, c.Serves)
	rec.State, rec.WaitNanos, rec.Detail = CheckpointAbandoned, c.WaitNanos, cut(c.Detail)
	rec.Transaction, rec.Participant = cut(c.Transaction), cut(c.Participant)
	e.putCheckpoint(&rec)
	return command.Result{Status: command.StatusDone, Number: rec.Number}, e.dropUnfinished()
}

// dropUnfinished keeps the newest abandoned and failed attempts only.
func (e *entryRun) dropUnfinished() error {
	all, err := ReadCheckpoints(e.st)
	if err != nil {
		return err
	}
	kept := 0
	for _, c := range slices.Backward(all) {
		if c.State != CheckpointAbandoned && c.State != CheckpointFailed {
			continue
		}
		if kept++; kept > maxUnfinished {
			e.st.Delete(appendCheckpointKey(nil, c.Number))
		}
	}
	return nil
}

func (e *entryRun) notePause(c *command.NotePause) (command.Result, error) {
	rec, found, err := ReadCheckpoint(e.st, c.Number)
	if err != nil {
		return command.Result{}, err
	}
	if !found {
		return refused(command.ReasonMalformed, "there is no checkpoint %d", c.Number), nil
	}
	rec.PauseNanos = c.PauseNanos
	e.putCheckpoint(&rec)
	return command.Result{Status: command.StatusDone, Number: rec.Number}, nil
}

func checkReport(c *command.ReportCopy) error {
	if err := command.CheckName(c.Node); err != nil {
		return fmt.Errorf("the node: %w", err)
	}
	if c.State != command.CopyWritten && c.State != command.CopyFailed && c.State != command.CopyLost {
		return fmt.Errorf("%s is not reported", c.State)
	}
	if len(c.Sections) > command.MaxSections {
		return fmt.Errorf("%d sections: at most %d", len(c.Sections), command.MaxSections)
	}
	for i := range c.Sections {
		if n := len(c.Sections[i].Name); n == 0 || n > maxSectionName {
			return fmt.Errorf("a section's name has %d bytes", n)
		}
	}
	if c.State == command.CopyWritten && command.CheckpointDigest(c.Sections) != c.Digest {
		return errors.New("the digest is not that of the sections")
	}
	return nil
}

// maxSectionName is "participant/" and a name.
const maxSectionName = len(sectionParticipant) + command.MaxNameBytes

// reportCopy takes a replica's word, and judges. A checkpoint is complete when
// enough members have written equal copies; from then on a different one is
// wrong.
func (e *entryRun) reportCopy(c *command.ReportCopy) (command.Result, error) {
	if err := checkReport(c); err != nil {
		return refused(command.ReasonMalformed, "%v", err), nil
	}
	rec, found, err := ReadCheckpoint(e.st, c.Number)
	if err != nil {
		return command.Result{}, err
	}
	if !found || rec.State != CheckpointWriting && rec.State != CheckpointComplete {
		return refused(command.ReasonMalformed, "checkpoint %d takes no copies", c.Number), nil
	}
	mine := rec.copyOf(c.Node)
	if mine == nil {
		if len(rec.Copies) >= command.MaxCopies {
			return refused(command.ReasonOverloaded, "%d nodes have reported", len(rec.Copies)), nil
		}
		rec.Copies = append(rec.Copies, Copy{Node: c.Node})
		mine = &rec.Copies[len(rec.Copies)-1]
	}
	if mine.State == command.CopyDifferent && !c.Rebuilt {
		return command.Result{Status: command.StatusDone, Number: rec.Number}, nil // found wrong already
	}
	if mine.State == command.CopyDifferent {
		mine.Rebuilt++
	}
	mine.State, mine.Digest, mine.Bytes, mine.WriteNanos = c.State, c.Digest, c.Bytes, c.WriteNanos
	mine.TimeUnixNano, mine.Detail = e.now, cut(c.Detail)
	if rec.State == CheckpointWriting && rec.enough(c.Digest) {
		rec.State, rec.Digest, rec.CompletedUnixNano = CheckpointComplete, c.Digest, e.now
		rec.Sections = slices.Clone(c.Sections)
		if err := e.failOlder(rec.Number); err != nil {
			return command.Result{}, err
		}
	}
	if rec.State == CheckpointComplete {
		for i := range rec.Copies {
			if other := &rec.Copies[i]; other.State == command.CopyWritten && other.Digest != rec.Digest {
				other.State, other.Detail = command.CopyDifferent, "its digest differs from the others'"
			}
		}
	}
	e.putCheckpoint(&rec)
	return command.Result{Status: command.StatusDone, Number: rec.Number}, nil
}

func (c *Checkpoint) copyOf(node string) *Copy {
	for i := range c.Copies {
		if c.Copies[i].Node == node {
			return &c.Copies[i]
		}
	}
	return nil
}

// enough tells whether equal copies are written at min_copies and a majority of
// the members.
func (c *Checkpoint) enough(digest [32]byte) bool {
	n := 0
	for i := range c.Copies {
		if o := &c.Copies[i]; o.State == command.CopyWritten && o.Digest == digest && slices.Contains(c.Members, o.Node) {
			n++
		}
	}
	return n >= max(int(c.MinCopies), len(c.Members)/2+1)
}

// failOlder gives up cuts that a newer checkpoint was completed before.
func (e *entryRun) failOlder(number uint64) error {
	all, err := ReadCheckpoints(e.st)
	if err != nil {
		return err
	}
	for i := range all {
		if c := &all[i]; c.Number < number && c.State == CheckpointWriting {
			c.State, c.Detail = CheckpointFailed, fmt.Sprintf("checkpoint %d was complete before it", number)
			e.putCheckpoint(c)
		}
	}
	return e.dropUnfinished()
}

// retain drops checkpoints and log, and refuses to drop what is needed.
func (e *entryRun) retain(c *command.Retain) (command.Result, error) {
	all, err := ReadCheckpoints(e.st)
	if err != nil {
		return command.Result{}, err
	}
	var oldest, newest *Checkpoint // of the whole and complete ones that stay
	had := false
	for i := range all {
		rec := &all[i]
		drop := slices.Contains(c.Drop, rec.Number)
		if drop && rec.State == CheckpointWriting {
			return refused(command.ReasonNeeded, "checkpoint %d is being written", rec.Number), nil
		}
		if rec.State != CheckpointComplete || !rec.Whole() {
			continue
		}
		had = true
		if drop {
			continue
		}
		if rec.Incarnation == e.m.meta.Incarnation && oldest == nil {
			oldest = rec
		}
		newest = rec
	}
	if had && newest == nil {
		return refused(command.ReasonNeeded, "no complete checkpoint would be left"), nil
	}
	if c.LogFrom > e.m.schedule.LogFrom && (oldest == nil || c.LogFrom > oldest.Position+1) {
		return refused(command.ReasonNeeded, "the log from position %d would not lead on from the oldest checkpoint", c.LogFrom), nil
	}
	for i := range all {
		if slices.Contains(c.Drop, all[i].Number) {
			e.st.Delete(appendCheckpointKey(nil, all[i].Number))
		}
	}
	if c.LogFrom > e.m.schedule.LogFrom {
		e.m.schedule.LogFrom = c.LogFrom
		e.scheduled = true
	}
	return command.Result{Status: command.StatusDone}, nil
}

func (e *entryRun) unseal(c *command.Unseal) command.Result {
	m := e.m
	if m.meta.Sealed && m.meta.SealToken == c.Token {
		m.meta.Sealed, m.meta.SealToken = false, ""
	}
	return command.Result{Status: command.StatusDone}
}

// begin is the first command of a restored incarnation.
func (e *entryRun) begin(c *command.Begin) (command.Result, error) {
	m := e.m
	origin, found, err := ReadOrigin(e.st)
	if err != nil {
		return command.Result{}, err
	}
	if !found || c.Incarnation != m.meta.Incarnation {
		return refused(command.ReasonMalformed, "the log is in incarnation %d", m.meta.Incarnation), nil
	}
	if origin.Digest != c.Digest {
		return command.Result{}, fmt.Errorf("%w: made from %x, and it began with %x", ErrOriginMismatch, origin.Digest[:8], c.Digest[:8])
	}
	if origin.Begun {
		return command.Result{Status: command.StatusDone}, nil
	}
	var carried []Checkpoint
	for _, data := range c.Carried {
		rec, err := DecodeCheckpoint(data)
		if err != nil || rec.State != CheckpointComplete || rec.Incarnation >= m.meta.Incarnation || rec.Number == 0 {
			return refused(command.ReasonMalformed, "a record that is carried over is none: %v", err), nil
		}
		carried = append(carried, rec)
	}
	for i := range carried {
		e.putCheckpoint(&carried[i])
		m.schedule.NextNumber = max(m.schedule.NextNumber, carried[i].Number+1)
	}
	origin.Begun = true
	e.st.Set(originKey, appendOrigin(nil, &origin))
	e.scheduled = true
	return command.Result{Status: command.StatusDone}, nil
}

// sectionParticipant begins the names of participants' sections.
const sectionParticipant = "participant/"

// SectionNames are the sections of a checkpoint of the group, or of some of its
// participants.
func SectionNames(cfg Config, only []string) []string {
	names := []string{"meta", "outcomes"}
	var participants []string
	for _, p := range cfg.Participants {
		if len(only) == 0 || slices.Contains(only, p.Name) {
			participants = append(participants, sectionParticipant+p.Name)
		}
	}
	slices.Sort(participants)
	return append(names, participants...)
}

// ScanSection goes through the records of a section in key order: of "meta" the
// group's records by name, of "outcomes" the outcome records by id, and of
// "participant/NAME" the participant's keys, each with its version in 8 bytes,
// big-endian, before its value. Key and value hold until fn returns.
func ScanSection(r Reader, cfg Config, name string, fn func(key, value []byte) (more bool, err error)) error {
	switch name {
	case "meta":
		return scanMetaSection(r, fn)
	case "outcomes":
		return r.Scan([]byte{tableOutcome}, tableEnd(tableOutcome), func(k, v []byte) (bool, error) { return fn(k[1:], v) })
	}
	p, ok := cfg.Participant(strings.TrimPrefix(name, sectionParticipant))
	if !ok || !strings.HasPrefix(name, sectionParticipant) {
		return fmt.Errorf("there is no section %q", name)
	}
	return scanData(r, p.ID, "", "", func(k, record []byte) (bool, error) { return fn(k[dataPrefixLen:], record) })
}

func scanMetaSection(r Reader, fn func(key, value []byte) (bool, error)) error {
	more, err := true, error(nil)
	err = r.Scan([]byte{tableActivation}, tableEnd(tableActivation), func(k, v []byte) (bool, error) {
		more, err = fn(append([]byte("activation/"), k[1:]...), v)
		return more, err
	})
	for _, record := range []struct {
		name string
		key  []byte
	}{{"config", configKey}, {"meta", metaKey}, {"schedule", scheduleKey}} {
		if err != nil || !more {
			return err
		}
		v, found, getErr := r.Get(record.key)
		if getErr != nil || !found {
			return getErr
		}
		more, err = fn([]byte(record.name), v)
	}
	return err
}
