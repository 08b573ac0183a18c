package machine

import (
	"fmt"

	"github.com/cohort-tx/cohort/txlog/command"
)

// Size is an amount of store writes: keys, and the bytes of keys and values with
// writeOverhead for each.
type Size struct {
	Bytes uint64
	Keys  uint64
}

const (
	// writeOverhead is what a write may cost a store beyond its key and value.
	writeOverhead = 32
	// opOverhead is what an op adds to its key and value: the data key's prefix,
	// the version, and the write.
	opOverhead = dataPrefixLen + versionLen + writeOverhead
	// outcomeBytes bounds the outcome record of a decision and its id's place
	// among those that the entry decided: the id twice, a key and a participant's
	// name or a digest, the detail, and numbers.
	outcomeBytes = 2*command.MaxIDBytes + command.MaxKeyBytes + command.MaxNameBytes + command.MaxDetailBytes + 128 + writeOverhead
	// counterBytes is the longest decimal int64.
	counterBytes = 20
	// activationBytes bounds an activation's key and record.
	activationBytes = 2*command.MaxNameBytes + command.MaxIDBytes + 64 + writeOverhead
	// checkpointBytes bounds the key and record of a checkpoint: its names, its
	// copies with their details, and its sections.
	checkpointBytes = 64<<10 + dropSize64
	// captureBytes bounds what a participant's own state adds to the record of a
	// checkpoint: a capture and its section. At most one has a detail, for which there
	// is room in checkpointBytes.
	captureBytes = 512
	// ownStateBytes bounds the key and record of a participant's own state.
	ownStateBytes = 512
	// dropSize64 is what deleting a checkpoint's record costs.
	dropSize64 = 9 + writeOverhead
	// originBytes bounds the record of the origin.
	originBytes = command.MaxNameBytes + command.MaxIDBytes + 128 + writeOverhead
	// scheduleBytes bounds the schedule: the pending requests and the names of
	// dropped participants.
	scheduleBytes = maxPendingBytes + command.MaxParticipants*(command.MaxNameBytes+1) + 128 + writeOverhead
	// reservedBytes and reservedKeys are room beside the largest transaction. It
	// holds whatever the limits are: the largest definition, or forgetting the
	// largest entry, and the records written once per entry.
	reservedBytes = command.MaxDefinitionBytes + command.MaxParticipants*(command.MaxNameBytes+16+2*activationBytes) + 64<<10
	reservedKeys  = command.MaxBatchCommands + 64
	// entryRecords and entryRecordBytes: meta and the list of decided ids.
	entryRecords     = 2
	entryRecordBytes = 512
)

// EntryBound is the most that one entry writes under the limits. What would go
// beyond is refused as overloaded, so that an entry always fits one transaction
// of a store that is laid out for the bound.
func EntryBound(l command.Limits) Size {
	l = l.WithDefaults()
	return Size{
		Bytes: l.TransactionBytes + l.TransactionKeys*opOverhead + outcomeBytes + reservedBytes,
		Keys:  l.TransactionKeys + 1 + reservedKeys,
	}
}

var (
	// checkpointOverhead is what every entry counts for besides, from feature level
	// 2 on.
	checkpointOverhead = Size{Bytes: scheduleBytes + command.MaxIDBytes + 16, Keys: 1}
	dropSize           = Size{Bytes: dropSize64, Keys: 1}
)

// EntryOverhead is what every entry counts for before its first command, at most.
func EntryOverhead() Size { return entryOverhead(command.MaxFeatureLevel) }

// entryOverhead is that of a feature level: replicas of releases that know no
// other refuse alike.
func entryOverhead(level uint64) Size {
	s := Size{Bytes: entryRecordBytes, Keys: entryRecords}
	if level >= 2 {
		s = s.Add(checkpointOverhead)
	}
	return s
}

// Add gives the sum of two sizes.
func (s Size) Add(t Size) Size { return Size{s.Bytes + t.Bytes, s.Keys + t.Keys} }

// Within tells whether the size fits a bound.
func (s Size) Within(bound Size) bool { return s.Bytes <= bound.Bytes && s.Keys <= bound.Keys }

// recordSize is what the record of a checkpoint counts for.
func recordSize(c *Checkpoint) Size {
	return Size{Bytes: checkpointBytes + uint64(len(c.Captures))*captureBytes, Keys: 1}
}

// CommandSize is what a command counts for in an entry's bound. MoveHorizon and
// Purge count for what they find and do as much as fits. What is about a
// checkpoint counts besides for the captures in its record, a ReportCopy also for
// the older checkpoints that it ends and the states that become the last ones, a
// Configure for the states that it drops.
func CommandSize(c command.Command) Size {
	switch c := c.(type) {
	case *command.Decide:
		s := Size{Bytes: outcomeBytes, Keys: 1}
		for i := range c.Ops {
			s = s.Add(opSize(&c.Ops[i]))
		}
		return s
	case *command.Settle:
		return Size{Bytes: outcomeBytes, Keys: 1}
	case *command.Activate:
		if c.OwnState {
			return Size{Bytes: activationBytes + ownStateBytes, Keys: 2}
		}
		return Size{Bytes: activationBytes, Keys: 1}
	case *command.Configure:
		n := uint64(len(c.Participants) + command.MaxParticipants) // added and dropped
		return Size{
			Bytes: uint64(len(c.Definition)) + n*(command.MaxNameBytes+16+activationBytes) + 1024,
			Keys:  n + 1,
		}
	case *command.Checkpoint, *command.AbandonCheckpoint:
		return Size{Bytes: checkpointBytes + dropSize64, Keys: 2}
	case *command.NotePause, *command.ReportCopy, *command.ReportCapture:
		return Size{Bytes: checkpointBytes, Keys: 1}
	case *command.Retain:
		return Size{Bytes: uint64(len(c.Drop)) * dropSize64, Keys: uint64(len(c.Drop))}
	case *command.Begin:
		s := Size{Bytes: originBytes, Keys: 1}
		for _, record := range c.Carried {
			s = s.Add(Size{Bytes: uint64(len(record)) + dropSize64, Keys: 1})
		}
		return s
	}
	return Size{}
}

// opSize is what an op writes; an OpLog writes nothing to the store.
func opSize(o *command.Op) Size {
	if o.Kind == command.OpLog {
		return Size{}
	}
	return Size{Bytes: uint64(len(o.Key)+opValueBytes(o)) + opOverhead, Keys: 1}
}

func opValueBytes(o *command.Op) int {
	if o.Kind == command.OpAdd {
		return counterBytes
	}
	return len(o.Value)
}

// TransactionSize is what a transaction counts for against limits: its ops,
// reads and scans, and the bytes of their names, keys and values.
func TransactionSize(d *command.Decide) (bytes, keys uint64) {
	n := 0
	for i := range d.Ops {
		o := &d.Ops[i]
		n += len(o.Participant) + len(o.Key) + opValueBytes(o)
	}
	for i := range d.Reads {
		n += len(d.Reads[i].Participant) + len(d.Reads[i].Key) + 8
	}
	for i := range d.Scans {
		s := &d.Scans[i]
		n += len(s.Participant) + len(s.Start) + len(s.End) + len(s.Hash)
	}
	return uint64(n), uint64(len(d.Ops) + len(d.Reads) + len(d.Scans))
}

// CheckSize says which limit a transaction breaks, nil when none. The state
// machine aborts what breaks one as too_large; whoever checks before proposing
// must use this.
func CheckSize(l command.Limits, d *command.Decide) *TooLargeError {
	l = l.WithDefaults()
	for i := range d.Ops {
		o := &d.Ops[i]
		if uint64(len(o.Value)) > l.ValueBytes {
			return &TooLargeError{
				Participant: o.Participant,
				Key:         o.Key,
				Detail:      fmt.Sprintf("a value of %d bytes is larger than limits.value_bytes, %d", len(o.Value), l.ValueBytes),
			}
		}
	}
	bytes, keys := TransactionSize(d)
	if keys > l.TransactionKeys {
		return &TooLargeError{Detail: fmt.Sprintf("%d keys are more than limits.transaction_keys, %d", keys, l.TransactionKeys)}
	}
	if bytes > l.TransactionBytes {
		return &TooLargeError{Detail: fmt.Sprintf("%d bytes are more than limits.transaction_bytes, %d", bytes, l.TransactionBytes)}
	}
	return nil
}
