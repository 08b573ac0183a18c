package command

import (
	"fmt"
	"unicode"
	"unicode/utf8"
)

// Bounds of what a command may hold. The state machine refuses what is beyond
// them, on every replica alike, so they may only be raised with a new version of
// the batch's format.
const (
	MaxIDBytes     = 256
	MaxKeyBytes    = 1024
	MaxNameBytes   = 63
	MaxDigestBytes = 64
	// MaxDetailBytes is where the detail of an abort is cut; it is for people.
	MaxDetailBytes = 512
	// MaxBatchCommands keeps the outcomes of one entry, and with them the work of
	// forgetting an entry, small.
	MaxBatchCommands = 1024
	// MaxParticipants of a group: each costs a cache entry on every replica.
	MaxParticipants = 256
	// MaxDefinitionBytes of a group's definition.
	MaxDefinitionBytes = 256 << 10
)

// They stand in for limits that are zero.
var defaultLimits = Limits{
	ValueBytes:       1 << 20,
	TransactionBytes: 4 << 20,
	TransactionKeys:  20_000,
	ScanKeys:         10_000,
}

// The largest limits that a group may have: a store transaction is held in
// memory several times over while it is applied.
var maxLimits = Limits{
	ValueBytes:       64 << 20,
	TransactionBytes: 64 << 20,
	TransactionKeys:  200_000,
	ScanKeys:         1_000_000,
}

// WithDefaults gives the limits with every zero replaced by its default: values
// of 1 MiB, transactions of 4 MiB and 20,000 keys, scans of 10,000 keys.
func (l Limits) WithDefaults() Limits {
	fill := func(v *uint64, d uint64) {
		if *v == 0 {
			*v = d
		}
	}
	fill(&l.ValueBytes, defaultLimits.ValueBytes)
	fill(&l.TransactionBytes, defaultLimits.TransactionBytes)
	fill(&l.TransactionKeys, defaultLimits.TransactionKeys)
	fill(&l.ScanKeys, defaultLimits.ScanKeys)
	return l
}

// Validate says which limit is above what any group may have.
func (l Limits) Validate() error {
	for _, c := range []struct {
		name     string
		have, at uint64
	}{
		{"value_bytes", l.ValueBytes, maxLimits.ValueBytes},
		{"transaction_bytes", l.TransactionBytes, maxLimits.TransactionBytes},
		{"transaction_keys", l.TransactionKeys, maxLimits.TransactionKeys},
		{"scan_keys", l.ScanKeys, maxLimits.ScanKeys},
	} {
		if c.have > c.at {
			return fmt.Errorf("%s of %d is too large: at most %d", c.name, c.have, c.at)
		}
	}
	return nil
}

// CheckID says what is wrong with a transaction's or instance's id.
func CheckID(id string) error {
	switch {
	case id == "":
		return fmt.Errorf("the id is empty: give 1 to %d bytes", MaxIDBytes)
	case len(id) > MaxIDBytes:
		return fmt.Errorf("the id has %d bytes: at most %d", len(id), MaxIDBytes)
	case !utf8.ValidString(id):
		return fmt.Errorf("the id is not valid UTF-8")
	}
	for _, c := range id {
		if unicode.IsControl(c) {
			return fmt.Errorf("the id holds the control character %U", c)
		}
	}
	return nil
}

// CheckName says what is wrong with the name of a group, participant or node.
func CheckName(name string) error {
	ok := name != "" && len(name) <= MaxNameBytes && name[0] >= 'a' && name[0] <= 'z'
	for i := 0; ok && i < len(name); i++ {
		c := name[i]
		ok = c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-'
	}
	if ok {
		return nil
	}
	const most = 100 // of a wrong name in a message
	return fmt.Errorf("%.*q is not a name: a lower-case letter, then up to 62 lower-case letters, digits and hyphens", most, name)
}

// CheckKey says what is wrong with a key of a participant's store.
func CheckKey(key string) error {
	if key == "" || len(key) > MaxKeyBytes {
		return fmt.Errorf("a key has 1 to %d bytes, not %d", MaxKeyBytes, len(key))
	}
	return nil
}

// CheckRequest says what is wrong with a request for a checkpoint.
func CheckRequest(q *CheckpointRequest) error {
	if err := CheckID(q.Token); err != nil {
		return fmt.Errorf("the token: %w", err)
	}
	if !q.Trigger.Valid() {
		return fmt.Errorf("%d is not a trigger", uint8(q.Trigger))
	}
	if q.By != "" {
		if err := CheckName(q.By); err != nil {
			return fmt.Errorf("who asks: %w", err)
		}
	}
	if len(q.Participants) > MaxParticipants {
		return fmt.Errorf("%d participants are more than a group can have, %d", len(q.Participants), MaxParticipants)
	}
	for i, p := range q.Participants {
		if err := CheckName(p); err != nil {
			return fmt.Errorf("participant %d: %w", i+1, err)
		}
		if i > 0 && p <= q.Participants[i-1] {
			return fmt.Errorf("participant %s does not come in order of the names, each once", p)
		}
	}
	return nil
}
