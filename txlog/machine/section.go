package machine

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cohort-tx/cohort/txlog/command"
)

// Names of sections; a participant's has its name after the prefix.
const (
	sectionMeta        = "meta"
	sectionOutcomes    = "outcomes"
	sectionParticipant = "participant/"
	// metaActivation stands before a participant's name among the keys of meta.
	metaActivation = "activation/"
	// metaOwnState likewise.
	metaOwnState = "own_state/"
)

// SectionNames gives the sections of a checkpoint in their order: of the
// participants in only, or of all when it is empty.
func SectionNames(cfg Config, only []string) []string {
	names := []string{sectionMeta, sectionOutcomes}
	for _, p := range cfg.Participants {
		if len(only) == 0 || slices.Contains(only, p.Name) {
			names = append(names, sectionParticipant+p.Name)
		}
	}
	slices.Sort(names[2:])
	return names
}

// ScanSection goes through the records of a section in key order until fn
// returns false. What it hands to fn holds until fn returns.
func ScanSection(r Reader, cfg Config, name string, fn func(key, value []byte) (more bool, err error)) error {
	switch {
	case name == sectionMeta:
		return scanMetaSection(r, fn)
	case name == sectionOutcomes:
		return r.Scan([]byte{tableOutcome}, tableEnd(tableOutcome), func(k, v []byte) (bool, error) { return fn(k[1:], v) })
	case strings.HasPrefix(name, sectionParticipant):
		participant := strings.TrimPrefix(name, sectionParticipant)
		p, ok := cfg.Participant(participant)
		if !ok {
			return &UnknownParticipantError{Participant: participant}
		}
		return scanData(r, p.ID, "", "", func(k, v []byte) (bool, error) { return fn(k[dataPrefixLen:], v) })
	}
	return fmt.Errorf("a checkpoint has no section %q", name)
}

func scanMetaSection(r Reader, fn func(key, value []byte) (bool, error)) error {
	more := true
	table := func(table byte, prefix string) error {
		if !more {
			return nil
		}
		return r.Scan([]byte{table}, tableEnd(table), func(k, v []byte) (_ bool, err error) {
			more, err = fn(append([]byte(prefix), k[1:]...), v)
			return more, err
		})
	}
	record := func(name string, key []byte) error {
		if !more {
			return nil
		}
		v, found, err := r.Get(key)
		if err != nil || !found {
			return err
		}
		more, err = fn([]byte(name), v)
		return err
	}
	// In order of the keys.
	for _, part := range []func() error{
		func() error { return table(tableActivation, metaActivation) },
		func() error { return record("config", configKey) },
		func() error { return record("meta", metaKey) },
		func() error { return table(tableOwnState, metaOwnState) },
		func() error { return record("schedule", scheduleKey) },
	} {
		if err := part(); err != nil {
			return err
		}
	}
	return nil
}

// ImageDigest is the digest over what a restore brings back: the commits of all
// known ids, and the data of the participants that have any. It is the same for
// a live state and for one restored to the same position, if both remember the
// same ids; the sections tell where they differ.
func ImageDigest(r Reader, cfg Config) (digest [32]byte, sections []command.Section, err error) {
	outcomes := command.NewSectionHash(sectionOutcomes)
	err = r.Scan([]byte{tableOutcome}, tableEnd(tableOutcome), func(k, v []byte) (bool, error) {
		o, err := decodeOutcome(k, v)
		if err == nil && o.Committed {
			// What was aborted before it is of no use after a restore.
			o.AbortedThrough = 0
			outcomes.Add(k[1:], appendOutcome(nil, &o))
		}
		return true, err
	})
	if err != nil {
		return digest, nil, err
	}
	sections = append(sections, outcomes.Section())
	for _, name := range SectionNames(cfg, nil)[2:] {
		h := command.NewSectionHash(name)
		if err := ScanSection(r, cfg, name, func(k, v []byte) (bool, error) { h.Add(k, v); return true, nil }); err != nil {
			return digest, nil, err
		}
		if s := h.Section(); s.Keys > 0 {
			sections = append(sections, s)
		}
	}
	return command.CheckpointDigest(sections), sections, nil
}
