package machine

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cohort-tx/cohort/txlog/command"
)

// maxSectionName is the length of the longest name of a section.
const maxSectionName = len(sectionParticipant) + command.MaxNameBytes

// checkReport says what no correct replica reports.
func checkReport(c *command.ReportCopy) error {
	if err := command.CheckName(c.Node); err != nil {
		return fmt.Errorf("the node: %w", err)
	}
	if c.State < command.CopyWritten || c.State > command.CopyLost {
		return fmt.Errorf("a copy that is %v is not reported", c.State)
	}
	for i := range c.Sections {
		if n := len(c.Sections[i].Name); n > maxSectionName {
			return fmt.Errorf("the name of section %d has %d bytes: at most %d", i+1, n, maxSectionName)
		}
	}
	if len(c.Sections) > 0 && command.CheckpointDigest(c.Sections) != c.Digest {
		return fmt.Errorf("the digest is not that of the sections")
	}
	return nil
}

// reportCopy records a replica's report and decides what is complete and what is
// different.
func (e *entryRun) reportCopy(c *command.ReportCopy) (command.Result, error) {
	if err := checkReport(c); err != nil {
		return refused(command.ReasonMalformed, "%v", err), nil
	}
	record, r, ok, err := e.known(c.Number)
	if !ok || err != nil {
		return r, err
	}
	if record.State == CheckpointAbandoned {
		return refused(command.ReasonMalformed, "checkpoint %d was abandoned: there is nothing to copy", c.Number), nil
	}
	if most := command.MaxParticipants + 2 + len(record.Captures); len(c.Sections) > most {
		return refused(command.ReasonMalformed, "%d sections are more than the checkpoint has, %d", len(c.Sections), most), nil
	}
	if c.State == command.CopyWritten {
		if name, ok := undecided(&record); ok {
			return refused(command.ReasonNeeded, "the captured state of participant %s is not stored yet", name), nil
		}
		if len(c.Sections) > 0 {
			if err := checkStates(&record, c.Sections); err != nil {
				return refused(command.ReasonMalformed, "%v", err), nil
			}
		}
	}
	p := copyOf(&record, c.Node)
	if p == nil {
		return refused(command.ReasonOverloaded, "%d copies of checkpoint %d are recorded already", len(record.Copies), c.Number), nil
	}
	if p.State == command.CopyDifferent && !c.Rebuilt {
		return refused(command.ReasonConflict, "the copy of %s is different: its replica must be rebuilt", c.Node), nil
	}
	if r, ok := e.reserveSize(recordSize(&record)); !ok {
		return r, nil
	}
	if p.State == command.CopyDifferent {
		p.Rebuilt++
	}
	*p = Copy{Node: p.Node, State: c.State, TimeUnixNano: e.now, Detail: strings.Clone(cut(c.Detail)), Rebuilt: p.Rebuilt}
	if c.State == command.CopyWritten {
		p.Digest, p.Bytes, p.WriteNanos = c.Digest, c.Bytes, c.WriteNanos
	}
	done := command.Result{Status: command.StatusDone, Number: record.Number}
	if record.State == CheckpointWriting && c.State == command.CopyWritten && agreed(&record, c.Digest) {
		record.State = CheckpointComplete
		record.Digest = c.Digest
		record.Sections = cloneSections(c.Sections)
		record.CompletedUnixNano = e.now
		if r, ok, err := e.failOlder(record.Number); !ok || err != nil {
			return r, err
		}
		if r, ok, err := e.keepCaptures(&record); !ok || err != nil {
			return r, err
		}
	}
	if record.State == CheckpointComplete {
		for i := range record.Copies {
			if o := &record.Copies[i]; o.State == command.CopyWritten && o.Digest != record.Digest {
				o.State = command.CopyDifferent
			}
		}
	}
	e.putCheckpoint(&record)
	return done, nil
}

// copyOf finds the copy of a node, or makes room for it; nil if there is none.
// Members go before others.
func copyOf(record *Checkpoint, node string) *Copy {
	byNode := func(p Copy, node string) int { return strings.Compare(p.Node, node) }
	at, found := slices.BinarySearchFunc(record.Copies, node, byNode)
	if found {
		return &record.Copies[at]
	}
	if len(record.Copies) >= command.MaxCopies {
		stranger := slices.IndexFunc(record.Copies, func(p Copy) bool { return !slices.Contains(record.Members, p.Node) })
		if stranger < 0 || !slices.Contains(record.Members, node) {
			return nil
		}
		record.Copies = slices.Delete(record.Copies, stranger, stranger+1)
		at, _ = slices.BinarySearchFunc(record.Copies, node, byNode)
	}
	record.Copies = slices.Insert(record.Copies, at, Copy{Node: strings.Clone(node)})
	return &record.Copies[at]
}

// agreed tells whether enough members have written copies with the digest.
func agreed(record *Checkpoint, digest [32]byte) bool {
	equal := 0
	for i := range record.Copies {
		p := &record.Copies[i]
		if p.State == command.CopyWritten && p.Digest == digest && slices.Contains(record.Members, p.Node) {
			equal++
		}
	}
	return uint64(equal) >= max(record.MinCopies, uint64(len(record.Members)/2+1))
}

func cloneSections(sections []command.Section) []command.Section {
	own := slices.Clone(sections)
	for i := range own {
		own[i].Name = strings.Clone(own[i].Name)
	}
	return own
}

// failOlder ends the older checkpoints that are still being written.
func (e *entryRun) failOlder(number uint64) (command.Result, bool, error) {
	all, err := ReadCheckpoints(e.st)
	if err != nil {
		return command.Result{}, false, err
	}
	size := Size{}
	for i := range all {
		if all[i].Number < number && all[i].State == CheckpointWriting {
			size = size.Add(recordSize(&all[i]))
		}
	}
	if r, ok := e.reserveSize(size); !ok {
		return r, false, nil
	}
	for i := range all {
		if c := &all[i]; c.Number < number && c.State == CheckpointWriting {
			c.State = CheckpointFailed
			e.putCheckpoint(c)
		}
	}
	return command.Result{}, true, e.prune(all)
}

// retain drops what the newest complete checkpoint makes superfluous.
func (e *entryRun) retain(c *command.Retain) (command.Result, error) {
	all, err := ReadCheckpoints(e.st)
	if err != nil {
		return command.Result{}, err
	}
	own, err := ReadOwnStates(e.st)
	if err != nil {
		return command.Result{}, err
	}
	var drop []uint64
	var kept []Checkpoint
	var newest *Checkpoint // complete and whole
	for i := range all {
		r := &all[i]
		if r.State == CheckpointComplete && r.Whole() {
			newest = r
		}
		if !slices.Contains(c.Drop, r.Number) {
			kept = append(kept, *r)
			continue
		}
		if r.State == CheckpointWriting {
			return refused(command.ReasonNeeded, "checkpoint %d is being written", r.Number), nil
		}
		drop = append(drop, r.Number)
	}
	if newest != nil && slices.Contains(c.Drop, newest.Number) {
		return refused(command.ReasonNeeded, "checkpoint %d is the newest complete one of all participants", newest.Number), nil
	}
	s := &e.m.schedule
	if c.LogFrom > s.LogFrom {
		need, found := LogNeed(kept, own)
		if !found {
			return refused(command.ReasonNeeded, "there is no complete checkpoint of all participants: all log is needed"), nil
		}
		if c.LogFrom > need.From {
			return refused(command.ReasonNeeded, "%v", need), nil
		}
	}
	if r, ok := e.reserveSize(Size{Bytes: uint64(len(drop)) * dropSize.Bytes, Keys: uint64(len(drop)) * dropSize.Keys}); !ok {
		return r, nil
	}
	for _, n := range drop {
		e.st.Delete(appendCheckpointKey(nil, n))
	}
	if c.LogFrom > s.LogFrom {
		s.LogFrom = c.LogFrom
		e.scheduleChanged = true
	}
	return command.Result{Status: command.StatusDone}, nil
}

// begin starts an incarnation that was made by a restore. What it carries beyond
// the entry's bound is not kept; the newest goes first.
func (e *entryRun) begin(c *command.Begin) (command.Result, error) {
	m := e.m
	origin, found, err := ReadOrigin(e.st)
	if err != nil {
		return command.Result{}, err
	}
	if !found || c.Incarnation != m.meta.Incarnation {
		return refused(command.ReasonMalformed, "incarnation %d was not made by a restore", c.Incarnation), nil
	}
	if origin.Digest != c.Digest {
		return command.Result{}, fmt.Errorf("begin incarnation %d with digest %x, have %x: %w", c.Incarnation, c.Digest, origin.Digest, ErrOriginMismatch)
	}
	if origin.Begun {
		return command.Result{Status: command.StatusDone}, nil
	}
	var carried []Checkpoint
	for i, data := range c.Carried {
		r, err := DecodeCheckpoint(data)
		if err == nil && (uint64(len(data)) > recordSize(&r).Bytes-dropSize64 || r.Number == 0 || r.Number == 1<<64-1) {
			err = errWrongKey
		}
		if err != nil {
			return refused(command.ReasonMalformed, "carried record %d: %v", i+1, err), nil
		}
		carried = append(carried, r)
	}
	slices.SortFunc(carried, func(a, b Checkpoint) int {
		if a.Number > b.Number {
			return -1
		}
		return 1
	})
	if r, ok := e.reserveSize(Size{Bytes: originBytes, Keys: 1}); !ok {
		return r, nil
	}
	for i := range carried {
		r := &carried[i]
		m.schedule.NextNumber = max(m.schedule.NextNumber, r.Number+1)
		if r.State != CheckpointComplete {
			continue // it never will be
		}
		record := AppendCheckpoint(nil, r)
		if _, ok := e.reserveSize(Size{Bytes: uint64(len(record)) + dropSize.Bytes, Keys: 1}); !ok {
			break
		}
		e.st.Set(appendCheckpointKey(nil, r.Number), record)
	}
	e.scheduleChanged = true
	origin.Begun = true
	e.st.Set(originKey, appendOrigin(nil, &origin))
	return command.Result{Status: command.StatusDone}, nil
}
