package machine

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cohort-tx/cohort/txlog/command"
)

// ImageSpec says what a restored incarnation becomes.
type ImageSpec struct {
	// Incarnation to begin, and the index base that its entries come after.
	Incarnation, IndexBase uint64
	// Definition of the group, with what of it the state machine goes by.
	Definition   []byte
	Participants []string
	Limits       command.Limits
	// Group, Checkpoint and Token of the Origin.
	Group      string
	Checkpoint uint64
	Token      string
	// TimeUnixNano from which the schedule counts. It is the same on every replica.
	TimeUnixNano int64
}

// Image makes the state of a restored incarnation: from the sections of a
// checkpoint, in their order, and the log entries after it. It is pure, and
// replicas that make an image of the same have the same state.
type Image struct {
	spec ImageSpec
	// source is the group's state that the checkpoint holds.
	source       Meta
	sourceConfig Config
	schedule     Schedule
	epochFloor   uint64
	// ids of participants by name, in the new state; next is the next to give.
	ids   map[string]uint32
	names []string // in the order of their ids
	next  uint32
}

// ImageResult describes what was made.
type ImageResult struct {
	Digest   [32]byte
	Sections []command.Section
	Meta     Meta
}

// NewImage begins an image.
func NewImage(spec ImageSpec) *Image {
	m := &Image{spec: spec, ids: make(map[string]uint32), next: 1}
	for _, name := range spec.Participants {
		m.id(name)
	}
	return m
}

// id gives a participant's id in the new state.
func (m *Image) id(name string) uint32 {
	id, ok := m.ids[name]
	if !ok {
		id = m.next
		m.next++
		m.ids[name] = id
		m.names = append(m.names, name)
	}
	return id
}

// Load takes the next record of a section into st.
func (m *Image) Load(st State, section string, key, value []byte) error {
	switch section {
	case "meta":
		return m.loadMeta(string(key), value)
	case "outcomes":
		o, err := decodeOutcome(appendOutcomeKey(nil, string(key)), value)
		if err != nil {
			return err
		}
		m.putOutcome(st, &o)
		return nil
	}
	name, ok := strings.CutPrefix(section, sectionParticipant)
	if !ok {
		return fmt.Errorf("image: there is no section %q", section)
	}
	if _, _, err := splitData(key, value); err != nil {
		return err
	}
	st.Set(appendDataKey(nil, m.id(name), string(key)), bytes.Clone(value))
	return nil
}

func (m *Image) loadMeta(name string, value []byte) (err error) {
	participant, isActivation := strings.CutPrefix(name, "activation/")
	switch {
	case isActivation:
		var a Activation
		a, err = decodeActivation(appendActivationKey(nil, participant), value)
		m.epochFloor = max(m.epochFloor, a.Epoch)
	case name == "meta":
		m.source, err = decodeMeta(value)
	case name == "config":
		m.sourceConfig, err = decodeConfig(value)
		m.epochFloor = max(m.epochFloor, m.sourceConfig.EpochFloor)
	case name == "schedule":
		m.schedule, err = decodeSchedule(value)
	default:
		err = fmt.Errorf("image: the checkpoint has a record %q that this release does not know", name)
	}
	return err
}

// putOutcome writes an outcome, and lists its id at the index that decided it, so
// that it is forgotten in its turn.
func (m *Image) putOutcome(st State, o *Outcome) {
	st.Set(appendOutcomeKey(nil, o.ID), appendOutcome(nil, o))
	// A row per outcome: index and id make the key of what is merged by Finish. Rows
	// of one index come in any order of ids, so each is a row of its own table.
	st.Set(appendPendingKey(o.Index, o.ID), binary.AppendVarint(nil, o.TimeUnixNano))
	m.source.Outcomes++
}

// tablePending is used while an image is made, and empty afterwards.
const tablePending = 0x0f

func appendPendingKey(index uint64, id string) []byte {
	return append(binary.BigEndian.AppendUint64([]byte{tablePending}, index), id...)
}

// Position is that of the state so far.
func (m *Image) Position() uint64 { return m.source.Position }

// Replay applies the next log entry; encoded is the size of its encoding.
func (m *Image) Replay(st State, e *command.Entry, encoded int) error {
	if e.Position != m.source.Position+1 {
		return fmt.Errorf("image: position %d does not follow %d", e.Position, m.source.Position)
	}
	for _, name := range e.Dropped {
		if err := m.drop(st, name); err != nil {
			return err
		}
	}
	for i := range e.Changes {
		m.change(st, &e.Changes[i], e.Position)
	}
	if err := m.outcome(st, e); err != nil {
		return err
	}
	m.chain(e)
	m.source.Position = e.Position
	m.source.TimeUnixNano = max(m.source.TimeUnixNano, e.TimeUnixNano)
	m.source.LastDecided = e.Index
	if m.source.FeatureLevel >= 2 {
		m.source.LogBytes += uint64(encoded)
	}
	return nil
}

func (m *Image) chain(e *command.Entry) {
	h := Machine{meta: m.source}
	m.source.LogHash = h.chain(e)
}

func (m *Image) change(st State, c *command.Change, position uint64) {
	key := appendDataKey(nil, m.id(c.Participant), c.Key)
	switch c.Kind {
	case command.OpPut, command.OpAdd:
		st.Set(key, appendData(nil, position, c.Value))
	case command.OpDelete:
		st.Delete(key)
	}
}

// drop deletes a participant's data: the group lost it there.
func (m *Image) drop(st State, name string) error {
	id, ok := m.ids[name]
	if !ok {
		return nil
	}
	var keys [][]byte
	if err := scanData(st, id, "", "", func(k, _ []byte) (bool, error) {
		keys = append(keys, bytes.Clone(k))
		return true, nil
	}); err != nil {
		return err
	}
	for _, k := range keys {
		st.Delete(k)
	}
	return nil
}

func (m *Image) outcome(st State, e *command.Entry) error {
	key := appendOutcomeKey(nil, e.ID)
	v, found, err := st.Get(key)
	if err != nil {
		return err
	}
	next := Outcome{
		ID: e.ID, Committed: true, RequestDigest: e.RequestDigest, Index: e.Index, TimeUnixNano: e.TimeUnixNano,
		Receipt: command.Receipt{ID: e.ID, Incarnation: m.source.Incarnation, Position: e.Position, Begun: e.Begun, TimeUnixNano: e.TimeUnixNano},
	}
	if found {
		before, err := decodeOutcome(key, v)
		if err != nil {
			return err
		}
		next.AbortedThrough = before.AbortedThrough
		st.Delete(appendPendingKey(before.Index, e.ID))
		m.source.Outcomes--
	}
	m.putOutcome(st, &next)
	return nil
}

// rowIDs bounds the ids of a row: MoveHorizon forgets whole rows.
const rowIDs = 512

// Rows turns the outcomes so far into rows that the horizon moves along, at most
// limit of them a call; call it until it reports that none is left.
func (m *Image) Rows(st State, limit int) (more bool, err error) {
	var done [][]byte
	var rows []decided
	err = st.Scan([]byte{tablePending}, tableEnd(tablePending), func(k, v []byte) (bool, error) {
		if len(done) == limit {
			more = true
			return false, nil
		}
		index, id := binary.BigEndian.Uint64(k[1:]), string(k[9:])
		at, _ := binary.Varint(v)
		if n := len(rows); n == 0 || rows[n-1].Index != index {
			rows = append(rows, decided{Index: index, TimeUnixNano: at})
		}
		last := &rows[len(rows)-1]
		last.IDs = append(last.IDs, id)
		done = append(done, bytes.Clone(k))
		return true, nil
	})
	if err != nil {
		return false, err
	}
	for i := range rows {
		row := &rows[i]
		// A row may have been begun by the call before.
		key := appendDecidedKey(nil, row.Index)
		v, found, err := st.Get(key)
		if err != nil {
			return false, err
		}
		if found {
			before, err := decodeDecided(key, v)
			if err != nil {
				return false, err
			}
			row.IDs = append(before.IDs, row.IDs...)
		}
		st.Set(key, appendDecided(nil, row))
	}
	for _, k := range done {
		st.Delete(k)
	}
	return more, nil
}

// Finish writes the records of the new incarnation, after the last Rows.
func (m *Image) Finish(st State) (ImageResult, error) {
	if m.source.ConfigVersion == 0 || m.sourceConfig.Version == 0 {
		return ImageResult{}, errors.New("image: the checkpoint has no group in it")
	}
	config, err := m.config(st)
	if err != nil {
		return ImageResult{}, err
	}
	st.Set(configKey, appendConfig(nil, &config))
	meta := m.source
	meta.Incarnation = m.spec.Incarnation
	meta.CoordinatorEpoch, meta.CoordinatorNode, meta.FirstIndexOfEpoch = 0, "", 0
	meta.Horizon = m.spec.IndexBase + 1
	meta.Sealed, meta.SealToken = false, ""
	meta.Refusals = 0
	meta.FeatureLevel = max(meta.FeatureLevel, 2)
	if m.epochFloor > 0 {
		for _, p := range config.Participants {
			a := Activation{Participant: p.Name, Epoch: m.epochFloor, Index: m.spec.IndexBase, Position: meta.Position, TimeUnixNano: meta.TimeUnixNano}
			st.Set(appendActivationKey(nil, p.Name), appendActivation(nil, &a))
		}
	}
	schedule := Schedule{
		NextNumber: max(m.schedule.NextNumber, m.spec.Checkpoint+1), SinceUnixNano: m.spec.TimeUnixNano,
		LogFrom: meta.Position + 1,
	}
	st.Set(scheduleKey, appendSchedule(nil, &schedule))
	_, sections, err := ImageDigest(st, config)
	if err != nil {
		return ImageResult{}, err
	}
	outcomes := command.NewSectionHash("outcomes")
	if err := ScanSection(st, config, "outcomes", func(key, value []byte) (bool, error) {
		outcomes.Add(key, value)
		return true, nil
	}); err != nil {
		return ImageResult{}, err
	}
	sections = append([]command.Section{outcomes.Section()}, sections...)
	digest := command.CheckpointDigest(sections)
	origin := Origin{
		Digest: digest, Group: m.spec.Group, Incarnation: m.source.Incarnation, Position: meta.Position,
		Checkpoint: m.spec.Checkpoint, Token: m.spec.Token,
	}
	st.Set(originKey, appendOrigin(nil, &origin))
	st.Set(metaKey, appendMeta(nil, &meta))
	return ImageResult{Digest: digest, Sections: sections, Meta: meta}, nil
}

// config is the new definition. Participants that are not in it must not have
// data.
func (m *Image) config(st State) (Config, error) {
	c := Config{
		Version: m.sourceConfig.Version, Limits: m.spec.Limits.WithDefaults(), Definition: bytes.Clone(m.spec.Definition),
		NextID: m.next, EpochFloor: m.epochFloor,
	}
	for _, name := range m.spec.Participants {
		c.Participants = append(c.Participants, Participant{Name: name, ID: m.ids[name]})
	}
	var lost []string
	for _, name := range m.names {
		if slices.Contains(m.spec.Participants, name) {
			continue
		}
		id := m.ids[name]
		has := false
		if err := scanData(st, id, "", "", func(_, _ []byte) (bool, error) {
			has = true
			return false, nil
		}); err != nil {
			return c, err
		}
		if has {
			lost = append(lost, name)
		}
	}
	if len(lost) > 0 {
		return c, fmt.Errorf("image: %s had data then and is not in the definition", strings.Join(lost, ", "))
	}
	return c, nil
}

// ImageDigest hashes what a restore brings back: the participants' data, each a
// section. Equal data at equal versions has equal digests, whatever incarnation
// it is of.
func ImageDigest(r Reader, cfg Config) (sum [32]byte, sections []command.Section, err error) {
	for _, name := range SectionNames(cfg, nil) {
		if !strings.HasPrefix(name, sectionParticipant) {
			continue
		}
		h := command.NewSectionHash(name)
		if err := ScanSection(r, cfg, name, func(key, value []byte) (bool, error) {
			h.Add(key, value)
			return true, nil
		}); err != nil {
			return sum, nil, err
		}
		sections = append(sections, h.Section())
	}
	return command.CheckpointDigest(sections), sections, nil
}
