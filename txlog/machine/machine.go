package machine

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/cohort-tx/cohort/txlog/command"
)

// Machine applies entries to a state. It holds nothing but what can be read from
// the state again, and memory that it uses again. Not for concurrent use.
type Machine struct {
	// loaded tells whether what follows is that of the state.
	loaded       bool
	meta         Meta
	config       Config
	schedule     Schedule
	participants map[string]*participant

	// cut is the checkpoint that the last entry recorded.
	cut *Checkpoint

	decoder command.Decoder
	writes  writeSet
	scan    scanHash
	// keyBuf holds the key of a read, recordBuf what the log hash is taken over.
	keyBuf    []byte
	recordBuf []byte
	slab      slab
}

// participant is a configured participant and its activation.
type participant struct {
	Participant
	activation Activation
}

// New gives a machine that loads from the first state it is given.
func New() *Machine { return &Machine{} }

// Reload reads the machine's caches from the state: after opening it, after
// installing a snapshot, and after discarding what an Apply did.
func (m *Machine) Reload(r Reader) error {
	m.loaded, m.cut = false, nil
	var err error
	if m.meta, err = ReadMeta(r); err != nil {
		return fmt.Errorf("load the state machine: %w", err)
	}
	if m.config, err = ReadConfig(r); err != nil {
		return fmt.Errorf("load the state machine: %w", err)
	}
	if m.schedule, err = ReadSchedule(r); err != nil {
		return fmt.Errorf("load the state machine: %w", err)
	}
	activations, err := ReadActivations(r)
	if err != nil {
		return fmt.Errorf("load the state machine: %w", err)
	}
	m.participants = make(map[string]*participant, len(m.config.Participants))
	for _, p := range m.config.Participants {
		m.participants[p.Name] = &participant{Participant: p}
	}
	for _, a := range activations {
		if p := m.participants[a.Participant]; p != nil {
			p.activation = a
		}
	}
	m.loaded = true
	return nil
}

// Apply runs the batch of the entry at index, which is above every earlier one.
// It gives one result for each command, in order, and the log entries of what
// committed, by position; the values of their changes may alias data. A batch
// that cannot be decoded has one result. The error is one of st, or a damaged
// record: what was written must then be discarded.
func (m *Machine) Apply(st State, index uint64, data []byte) ([]command.Result, []command.Entry, error) {
	if !m.loaded {
		if err := m.Reload(st); err != nil {
			return nil, nil, err
		}
	}
	// Until the end, the caches may be ahead of what the caller keeps.
	m.loaded, m.cut = false, nil
	run := &entryRun{m: m, st: st, index: index, used: entryOverhead(m.meta.FeatureLevel), before: m.meta}
	run.bound = EntryBound(m.config.Limits)
	results, err := run.batch(data)
	if err != nil {
		return nil, nil, fmt.Errorf("apply entry %d: %w", index, err)
	}
	m.loaded = true
	return results, run.entries, nil
}

// entryRun is the run of one entry.
type entryRun struct {
	m     *Machine
	st    State
	index uint64
	// epoch and now are the batch's coordinator epoch and its clamped time, clock the
	// time as it was proposed.
	epoch  uint64
	now    int64
	clock  int64
	before Meta
	// used counts towards bound, which holds for the entry as it begins.
	used, bound Size
	// changes is where the changes of all its log entries are cut from.
	changes []command.Change
	entries []command.Entry
	decided []string
	// alone: the entry has one command.
	alone bool
	// scheduleChanged: the schedule is to be written.
	scheduleChanged bool
}

func (e *entryRun) batch(data []byte) ([]command.Result, error) {
	m := e.m
	b, err := m.decoder.Batch(data)
	if err != nil {
		m.meta.Refusals++
		e.writeMeta()
		return []command.Result{refused(command.ReasonMalformed, "%v", err)}, nil
	}
	e.epoch = b.Epoch
	// A deposed coordinator has no say in the time either.
	if b.Epoch >= m.meta.CoordinatorEpoch {
		m.meta.TimeUnixNano = max(m.meta.TimeUnixNano, b.TimeUnixNano)
	}
	e.now, e.clock = m.meta.TimeUnixNano, b.TimeUnixNano
	e.reserve(b)
	e.alone = len(b.Commands) == 1
	results := make([]command.Result, len(b.Commands))
	for i, c := range b.Commands {
		if results[i], err = e.command(c); err != nil {
			return nil, err
		}
	}
	if len(e.decided) > 0 {
		row := decided{Index: e.index, TimeUnixNano: e.now, IDs: e.decided}
		e.st.Set(appendDecidedKey(nil, e.index), appendDecided(nil, &row))
		m.meta.LastDecided = e.index
	}
	if e.scheduleChanged {
		e.st.Set(scheduleKey, appendSchedule(nil, &m.schedule))
	}
	e.writeMeta()
	return results, nil
}

// reserve makes room for all that the batch can commit at once.
func (e *entryRun) reserve(b *command.Batch) {
	ops, decides := 0, 0
	for _, c := range b.Commands {
		if d, ok := c.(*command.Decide); ok {
			decides++
			ops += len(d.Ops)
		}
	}
	if decides == 0 {
		return
	}
	e.changes = make([]command.Change, 0, ops)
	e.entries = make([]command.Entry, 0, decides)
	e.decided = make([]string, 0, decides)
}

func (e *entryRun) command(c command.Command) (command.Result, error) {
	switch c := c.(type) {
	case *command.Decide:
		return e.decide(c)
	case *command.Settle:
		return e.settle(c)
	case *command.RaiseEpoch:
		return e.raiseEpoch(c), nil
	case *command.Unknown:
		e.m.meta.Refusals++
		return refused(command.ReasonMalformed, "a command of kind %d is not known to this release", c.Kind), nil
	}
	if level := levelOf(c); level > max(e.m.meta.FeatureLevel, 1) {
		// Counted as releases do that do not know them.
		e.m.meta.Refusals++
		return refused(command.ReasonUnsupported, "the group's feature level is below %d", level), nil
	}
	if r, stale := e.staleEpoch(); stale {
		return r, nil
	}
	switch c := c.(type) {
	case *command.FeatureLevel:
		return e.raiseLevel(c), nil
	case *command.Activate:
		return e.activate(c)
	case *command.Configure:
		return e.configure(c)
	case *command.MoveHorizon:
		return e.moveHorizon(c)
	case *command.Purge:
		return e.purge()
	}
	return e.checkpointCommand(c)
}

func (e *entryRun) writeMeta() {
	if e.m.meta != e.before {
		e.st.Set(metaKey, appendMeta(nil, &e.m.meta))
	}
}

// staleEpoch is rule b. An epoch that was never raised is refused too: fencing
// holds from the entry that raises it.
func (e *entryRun) staleEpoch() (command.Result, bool) {
	current := e.m.meta.CoordinatorEpoch
	if e.epoch == current && current != 0 {
		return command.Result{}, false
	}
	r := refused(command.ReasonStaleEpoch, "the coordinator's epoch is %d, the group's is %d", e.epoch, current)
	r.Epoch = current
	return r, true
}

// reserveSize counts a command towards the entry's bound, or says that it does
// not fit.
func (e *entryRun) reserveSize(s Size) (command.Result, bool) {
	if total := e.used.Add(s); total.Within(e.bound) {
		e.used = total
		return command.Result{}, true
	}
	return refused(command.ReasonOverloaded, "the entry is full: propose it again in another"), false
}

// raiseEpoch lets the epoch only rise; a coordinator's term never comes twice.
func (e *entryRun) raiseEpoch(c *command.RaiseEpoch) command.Result {
	m := e.m
	if err := command.CheckName(c.Node); err != nil {
		return refused(command.ReasonMalformed, "the coordinator's node: %v", err)
	}
	if e.epoch <= m.meta.CoordinatorEpoch {
		r := refused(command.ReasonStaleEpoch, "epoch %d is not above the group's, %d", e.epoch, m.meta.CoordinatorEpoch)
		r.Epoch = m.meta.CoordinatorEpoch
		return r
	}
	m.meta.CoordinatorEpoch = e.epoch
	m.meta.CoordinatorNode = strings.Clone(c.Node)
	m.meta.FirstIndexOfEpoch = e.index
	return command.Result{Status: command.StatusDone, Epoch: e.epoch}
}

func refused(reason command.Reason, format string, args ...any) command.Result {
	return command.Result{Status: command.StatusRefused, Reason: reason, Detail: cut(fmt.Sprintf(format, args...))}
}

// cut shortens a detail to its bound, at a character.
func cut(s string) string {
	if len(s) <= command.MaxDetailBytes {
		return s
	}
	n := command.MaxDetailBytes
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// chain is the log hash after an entry, and the length of the entry's encoding.
func (m *Machine) chain(entry *command.Entry) (sum [32]byte, length int) {
	m.recordBuf = append(m.recordBuf[:0], m.meta.LogHash[:]...)
	m.recordBuf = command.AppendEntry(m.recordBuf, entry)
	length = len(m.recordBuf) - len(m.meta.LogHash)
	sum = sha256.Sum256(m.recordBuf)
	if cap(m.recordBuf) > keptBufferBytes {
		m.recordBuf = nil
	}
	return sum, length
}

// keptBufferBytes bounds the scratch memory kept after a large transaction.
const keptBufferBytes = 64 << 10

// slab cuts small slices from larger pieces of memory. They are never taken
// back: a State may keep what it is given.
type slab struct{ free []byte }

const slabBytes = 4 << 10

// make gives n bytes' room, length 0.
func (s *slab) make(n int) []byte {
	if n > slabBytes/4 {
		return make([]byte, 0, n)
	}
	if cap(s.free)-len(s.free) < n {
		s.free = make([]byte, 0, slabBytes)
	}
	at := len(s.free)
	s.free = slices.Grow(s.free, n)[:at+n]
	return s.free[at : at : at+n]
}
