package machine

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/cohort-tx/cohort/txlog/command"
)

// ImageSpec says what a restored incarnation is.
type ImageSpec struct {
	Incarnation uint64
	// IndexBase is the index that the incarnation's first entry comes after; every
	// index of its source is below it.
	IndexBase uint64
	// Participants, Limits and Definition of the new group.
	Participants []string
	Limits       command.Limits
	Definition   []byte
	// SourceGroup, SourceIncarnation and SourceCheckpoint name what it is made
	// from, Token the restore.
	SourceGroup       string
	SourceIncarnation uint64
	SourceCheckpoint  uint64
	Token             string
	TimeUnixNano      int64
	// Captures are those of the checkpoint that it is made from: the states that
	// participants keep by themselves are brought back from them.
	Captures []Capture
}

// ImageWriter is the state that an image is written to, empty at first. What was
// set may be committed between two calls of an Image: it need only stay visible.
type ImageWriter interface{ State }

// Image builds the state of a restored incarnation: the sections of a checkpoint,
// in their order, then log entries, then Finish. Without sections it begins at
// position 0. After an error the state must be discarded.
//
// What the source aborted is left out: the horizon of the new incarnation is
// above all that began before it.
type Image struct {
	w    ImageWriter
	spec ImageSpec
	// machine gives the log's chain.
	machine  Machine
	schedule Schedule
	ids      map[string]uint32
	// names are those of ids, in order of the ids, which begin at 1.
	names []string
	// dropped are ids whose data waits for Purge.
	dropped []uint32
	floor   uint64
	nextID  uint32
	// own are the participants with state of their own.
	own map[string]*OwnState
	// outcomes and lastDecided are the new meta's.
	outcomes, lastDecided uint64
}

// ImageResult says what was made.
type ImageResult struct {
	// Digest over Sections: see ImageDigest.
	Digest   [32]byte
	Sections []command.Section
	Meta     Meta
}

// NewImage begins an image.
func NewImage(w ImageWriter, spec ImageSpec) *Image {
	im := &Image{w: w, spec: spec, ids: make(map[string]uint32), nextID: 1, own: make(map[string]*OwnState)}
	im.machine.meta.Incarnation = spec.SourceIncarnation
	for _, p := range spec.Participants {
		im.id(p)
	}
	for _, c := range spec.Captures {
		if !c.Exists() {
			continue
		}
		c.State, c.Checkpoint, c.Node = CaptureStored, 0, ""
		im.id(c.Participant)
		im.own[c.Participant] = &OwnState{Participant: c.Participant, Base: c.Position, Last: c}
	}
	return im
}

// id gives the id that a participant's data is kept under.
func (im *Image) id(participant string) uint32 {
	id, ok := im.ids[participant]
	if !ok {
		id = im.nextID
		im.nextID++
		im.ids[participant] = id
		im.names = append(im.names, participant)
	}
	return id
}

// Load takes a record of a checkpoint's section.
func (im *Image) Load(section string, key, value []byte) error {
	switch {
	case section == sectionMeta:
		return im.loadMeta(string(key), value)
	case section == sectionOutcomes:
		o, err := decodeOutcome(appendOutcomeKey(nil, string(key)), value)
		if err != nil {
			return err
		}
		if !o.Committed {
			return nil
		}
		return im.record(&o)
	case strings.HasPrefix(section, sectionParticipant):
		k := appendDataKey(nil, im.id(strings.TrimPrefix(section, sectionParticipant)), string(key))
		version, _, err := splitData(k, value)
		if err != nil {
			return err
		}
		if version == 0 || version > im.Loaded() {
			return fmt.Errorf("load %s: key %q has version %d, and the cut is at %d", section, key, version, im.Loaded())
		}
		im.w.Set(k, bytes.Clone(value))
		return nil
	}
	return fmt.Errorf("a checkpoint has no section %q", section)
}

func (im *Image) loadMeta(name string, value []byte) (err error) {
	switch {
	case name == "meta":
		im.machine.meta, err = decodeMeta(value)
	case name == "schedule":
		im.schedule, err = decodeSchedule(value)
	case name == "config":
		var c Config
		if c, err = decodeConfig(value); err == nil {
			im.floor = max(im.floor, c.EpochFloor)
		}
	case strings.HasPrefix(name, metaActivation):
		var a Activation
		if a, err = decodeActivation(appendActivationKey(nil, strings.TrimPrefix(name, metaActivation)), value); err == nil {
			im.floor = max(im.floor, a.Epoch)
		}
	case strings.HasPrefix(name, metaOwnState):
		var s OwnState
		if s, err = decodeOwnState(appendOwnStateKey(nil, strings.TrimPrefix(name, metaOwnState)), value); err == nil {
			im.loadOwnState(&s)
		}
	default:
		err = fmt.Errorf("the section meta has no record %q", name)
	}
	return err
}

// loadOwnState takes the record as of the cut, whose last capture is older than the
// checkpoint's own.
func (im *Image) loadOwnState(s *OwnState) {
	if known := im.own[s.Participant]; known != nil {
		known.Base = s.Base
		return
	}
	im.id(s.Participant)
	// Its files are not here: it begins with what it had at its base.
	im.own[s.Participant] = &OwnState{Participant: s.Participant, Base: s.Base}
}

// Loaded is the position that the image stands at.
func (im *Image) Loaded() uint64 { return im.machine.meta.Position }

// Incarnation is the one that the entries to replay belong to.
func (im *Image) Incarnation() uint64 { return im.machine.meta.Incarnation }

// LogHash is the chain of the log up to Loaded, to be held against the record of
// a checkpoint at that position.
func (im *Image) LogHash() [32]byte { return im.machine.meta.LogHash }

// record writes the outcome of a commit and lists it, so that it is forgotten in
// its turn.
func (im *Image) record(o *Outcome) error {
	if o.Index >= im.spec.IndexBase {
		return fmt.Errorf("the outcome of %q is of index %d, not below that of the incarnation, %d", o.ID, o.Index, im.spec.IndexBase)
	}
	meta := &im.machine.meta
	key := appendOutcomeKey(nil, o.ID)
	_, known, err := im.w.Get(key)
	if err != nil {
		return err
	}
	rowKey := appendDecidedKey(nil, o.Index)
	v, found, err := im.w.Get(rowKey)
	if err != nil {
		return err
	}
	row := decided{Index: o.Index, TimeUnixNano: o.TimeUnixNano}
	if found {
		if row, err = decodeDecided(rowKey, v); err != nil {
			return err
		}
	}
	row.IDs = append(row.IDs, o.ID)
	o.AbortedThrough = 0
	im.w.Set(rowKey, appendDecided(nil, &row))
	im.w.Set(key, appendOutcome(nil, o))
	if !known {
		im.outcomes++
	}
	im.lastDecided = max(im.lastDecided, o.Index)
	meta.TimeUnixNano = max(meta.TimeUnixNano, o.TimeUnixNano)
	return nil
}

// Replay takes the log entry of the next position, and the length of its encoding.
func (im *Image) Replay(entry command.Entry, encodedLen int) error {
	meta := &im.machine.meta
	if entry.Position != meta.Position+1 {
		return fmt.Errorf("replay position %d after %d: the log has a gap", entry.Position, meta.Position)
	}
	hash, length := im.machine.chain(&entry)
	if length != encodedLen {
		return fmt.Errorf("replay position %d: the entry has %d bytes, not %d", entry.Position, length, encodedLen)
	}
	meta.LogHash, meta.Position = hash, entry.Position
	im.schedule.LogBytes += uint64(length)
	for _, name := range entry.Dropped {
		if err := im.drop(name); err != nil {
			return fmt.Errorf("replay position %d: %w", entry.Position, err)
		}
	}
	for i := range entry.Changes {
		c := &entry.Changes[i]
		key := appendDataKey(nil, im.id(c.Participant), c.Key)
		switch c.Kind {
		case command.OpPut, command.OpAdd:
			im.w.Set(key, appendData(nil, entry.Position, c.Value))
		case command.OpDelete:
			im.w.Delete(key)
		case command.OpLog:
			im.floor = max(im.floor, c.AppliedEpoch)
			if im.own[c.Participant] == nil {
				// Activated since the checkpoint: this is the first change of its state.
				im.own[c.Participant] = &OwnState{Participant: c.Participant, Base: entry.Position - 1}
			}
		}
	}
	err := im.record(&Outcome{
		ID:            entry.ID,
		Committed:     true,
		Receipt:       command.Receipt{Incarnation: meta.Incarnation, Position: entry.Position, Begun: entry.Begun},
		RequestDigest: entry.RequestDigest,
		Index:         entry.Index,
		TimeUnixNano:  entry.TimeUnixNano,
	})
	if err != nil {
		return fmt.Errorf("replay position %d: %w", entry.Position, err)
	}
	return nil
}

func (im *Image) hasData(id uint32) (has bool, err error) {
	err = scanData(im.w, id, "", "", func(_, _ []byte) (bool, error) {
		has = true
		return false, nil
	})
	return has, err
}

// drop gives a participant another id: the data under the old one, of any
// amount, is left to Purge.
func (im *Image) drop(name string) error {
	delete(im.own, name)
	id, ok := im.ids[name]
	if !ok {
		return nil
	}
	has, err := im.hasData(id)
	if err != nil || !has {
		return err
	}
	im.dropped = append(im.dropped, id)
	im.ids[name] = im.nextID
	im.nextID++
	return nil
}

// restoredEpochs is the distance of the activation epochs of two incarnations:
// those that the source used after the position of the restore stay fenced too.
const restoredEpochs = 1 << 20

// Finish writes the rest of the state, and says what was made.
func (im *Image) Finish() (ImageResult, error) {
	spec := &im.spec
	var errs []error
	listed := make(map[string]bool)
	for _, p := range spec.Participants {
		listed[p] = true
	}
	for _, name := range im.names {
		if listed[name] {
			continue
		}
		has, err := im.hasData(im.ids[name])
		if err != nil {
			return ImageResult{}, err
		}
		if has || im.own[name] != nil {
			errs = append(errs, fmt.Errorf("participant %s has data and the definition does not list it", name))
		}
	}
	for i := range spec.Captures {
		if c := &spec.Captures[i]; c.Position > im.Loaded() {
			errs = append(errs, fmt.Errorf("the captured state of participant %s is of position %d, after that of the image, %d", c.Participant, c.Position, im.Loaded()))
		}
	}
	if len(errs) > 0 {
		return ImageResult{}, errors.Join(errs...)
	}
	meta := &im.machine.meta
	if spec.Incarnation <= meta.Incarnation {
		return ImageResult{}, fmt.Errorf("incarnation %d does not come after that of the source, %d", spec.Incarnation, meta.Incarnation)
	}
	source := meta.Incarnation
	*meta = Meta{
		Incarnation:   spec.Incarnation,
		Position:      meta.Position,
		LogHash:       meta.LogHash,
		Horizon:       spec.IndexBase + 1,
		Outcomes:      im.outcomes,
		LastDecided:   im.lastDecided,
		TimeUnixNano:  max(meta.TimeUnixNano, spec.TimeUnixNano),
		ConfigVersion: max(meta.ConfigVersion, 1),
		FeatureLevel:  max(meta.FeatureLevel, 2),
	}
	if len(im.own) > 0 {
		meta.FeatureLevel = max(meta.FeatureLevel, 3)
	}
	for _, name := range im.names {
		if s := im.own[name]; s != nil {
			im.w.Set(appendOwnStateKey(nil, name), appendOwnState(nil, s))
		}
	}
	cfg := im.config(meta)
	im.w.Set(configKey, appendConfig(nil, &cfg))
	im.w.Set(metaKey, appendMeta(nil, meta))
	schedule := Schedule{NextNumber: max(im.schedule.NextNumber, 1), LogBytes: im.schedule.LogBytes, SinceUnixNano: meta.TimeUnixNano}
	im.w.Set(scheduleKey, appendSchedule(nil, &schedule))
	result := ImageResult{Meta: *meta}
	var err error
	if result.Digest, result.Sections, err = ImageDigest(im.w, cfg); err != nil {
		return ImageResult{}, err
	}
	im.w.Set(originKey, appendOrigin(nil, &Origin{
		Digest:      result.Digest,
		Group:       spec.SourceGroup,
		Incarnation: source,
		Position:    meta.Position,
		Checkpoint:  spec.SourceCheckpoint,
		Token:       spec.Token,
	}))
	return result, nil
}

// config is the new definition; every participant's activation begins above all
// that the source had.
func (im *Image) config(meta *Meta) Config {
	spec := &im.spec
	cfg := Config{
		Version:    meta.ConfigVersion,
		Limits:     spec.Limits.WithDefaults(),
		Definition: bytes.Clone(spec.Definition),
		NextID:     im.nextID,
		Dropped:    im.dropped,
		EpochFloor: max(im.floor, (spec.Incarnation-1)*restoredEpochs),
	}
	for _, name := range spec.Participants {
		cfg.Participants = append(cfg.Participants, Participant{Name: name, ID: im.ids[name]})
		im.w.Set(appendActivationKey(nil, name), appendActivation(nil, &Activation{
			Epoch: cfg.EpochFloor, Index: spec.IndexBase, Position: meta.Position, TimeUnixNano: meta.TimeUnixNano,
		}))
	}
	return cfg
}
