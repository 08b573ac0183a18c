package machine_test

import (
	"maps"
	"math/big"
	"slices"
	"strconv"

	"github.com/cohort-tx/cohort/txlog/command"
)

// model is the state machine written a second time, for clarity alone: whole maps
// are copied, nothing is cached or encoded, numbers are big. Details of messages
// are not modelled.
type model struct {
	epoch, horizon, incarnation, version uint64
	time                                 int64
	parts                                map[string]*modelParticipant
	limits                               command.Limits
	floor                                uint64
	outcomes                             map[string]modelOutcome
	decidedAt                            map[uint64][]string
	log                                  []command.Entry
	refusals                             uint64
	// garbage counts the keys of dropped participants.
	garbage int
}

type modelParticipant struct {
	data     map[string]modelValue
	epoch    uint64
	instance string
}

type modelValue struct {
	value   string
	version uint64
}

type modelOutcome struct {
	committed bool
	receipt   command.Receipt
	digest    string
	through   uint64
	reason    command.Reason
	part, key string
	index     uint64
}

// modelScan is a scan as the client saw it: what the hash stands for.
type modelScan struct {
	keys map[string]uint64
}

func newModel() *model {
	return &model{parts: map[string]*modelParticipant{}, outcomes: map[string]modelOutcome{}, decidedAt: map[uint64][]string{}}
}

// scan gives the live keys of a range with their versions.
func (m *model) scan(part, start, end string) modelScan {
	s := modelScan{keys: map[string]uint64{}}
	if p := m.parts[part]; p != nil {
		for k, v := range p.data {
			if k >= start && (end == "" || k < end) {
				s.keys[k] = v.version
			}
		}
	}
	return s
}

func refuse(r command.Reason) command.Result {
	return command.Result{Status: command.StatusRefused, Reason: r}
}

// apply runs one command. scans are what the Decide's scans saw.
func (m *model) apply(index, epoch uint64, now int64, c command.Command, scans []modelScan) command.Result {
	if epoch >= m.epoch {
		m.time = max(m.time, now)
	}
	stale := epoch != m.epoch || m.epoch == 0
	switch c := c.(type) {
	case *command.RaiseEpoch:
		if epoch <= m.epoch {
			return refuse(command.ReasonStaleEpoch)
		}
		m.epoch = epoch
		return command.Result{Status: command.StatusDone, Epoch: epoch}
	case *command.Decide:
		return m.attempt(index, stale, c.Attempt, string(c.RequestDigest), func() *modelOutcome { return m.validate(c, scans) }, c)
	case *command.Settle:
		r := m.attempt(index, stale, command.Attempt{ID: c.ID, Begun: c.Begun}, "", func() *modelOutcome { return &modelOutcome{reason: c.Reason} }, nil)
		if r.Status == command.StatusAborted {
			r.Status = command.StatusDone
		}
		return r
	case *command.Unknown:
		m.refusals++
		return refuse(command.ReasonMalformed)
	}
	if stale {
		return refuse(command.ReasonStaleEpoch)
	}
	switch c := c.(type) {
	case *command.Activate:
		return m.activate(c)
	case *command.Configure:
		return m.configure(c)
	case *command.MoveHorizon:
		if c.To > index {
			return refuse(command.ReasonMalformed)
		}
		if c.To > m.horizon {
			m.horizon = c.To
			maps.DeleteFunc(m.outcomes, func(_ string, o modelOutcome) bool { return o.index < c.To })
		}
	case *command.Purge:
		m.garbage = 0
	}
	return command.Result{Status: command.StatusDone}
}

// attempt is the part that Decide (with d) and Settle share. judge says why it
// aborts, nil when it commits.
func (m *model) attempt(index uint64, stale bool, at command.Attempt, digest string, judge func() *modelOutcome, d *command.Decide) command.Result {
	old, known := m.outcomes[at.ID]
	switch {
	case at.Begun >= index:
		return refuse(command.ReasonMalformed)
	case known && old.committed && d != nil && old.digest != digest:
		return refuse(command.ReasonIDReused)
	case known && old.committed:
		return command.Result{Status: command.StatusCommitted, Receipt: old.receipt}
	case stale:
		return refuse(command.ReasonStaleEpoch)
	case m.version == 0:
		return refuse(command.ReasonUnconfigured)
	case at.Begun < m.horizon:
		return refuse(command.ReasonExpired)
	}
	if !known || at.Begun > old.through {
		through := old.through
		o := judge()
		if o == nil {
			o = m.commit(index, at, digest, d)
			o.through = through
		} else {
			o.through = at.Begun
		}
		o.index = index
		m.outcomes[at.ID] = *o
		m.decidedAt[index] = append(m.decidedAt[index], at.ID)
		old = *o
	}
	if old.committed {
		return command.Result{Status: command.StatusCommitted, Receipt: old.receipt}
	}
	return command.Result{Status: command.StatusAborted, Reason: old.reason, Participant: old.part, Key: old.key}
}

func (m *model) validate(d *command.Decide, scans []modelScan) *modelOutcome {
	if o := m.tooLarge(d); o != nil {
		return o
	}
	var named []string
	for _, f := range d.Fences {
		named = append(named, f.Participant)
	}
	for _, r := range d.Reads {
		named = append(named, r.Participant)
	}
	for _, s := range d.Scans {
		named = append(named, s.Participant)
	}
	for _, o := range d.Ops {
		named = append(named, o.Participant)
	}
	for _, n := range named {
		if m.parts[n] == nil {
			return &modelOutcome{reason: command.ReasonUnknownParticipant, part: n}
		}
	}
	fences := slices.Clone(d.Fences)
	for _, o := range d.Ops {
		if o.Kind == command.OpLog && o.AppliedEpoch != 0 {
			fences = append(fences, command.Fence{Participant: o.Participant, Epoch: o.AppliedEpoch})
		}
	}
	for _, f := range fences {
		if p := m.parts[f.Participant]; p.instance == "" || p.epoch != f.Epoch {
			return &modelOutcome{reason: command.ReasonMoved, part: f.Participant}
		}
	}
	for _, r := range d.Reads {
		if m.parts[r.Participant].data[r.Key].version != r.Version {
			return &modelOutcome{reason: command.ReasonConflict, part: r.Participant, key: r.Key}
		}
	}
	scanned := 0
	for i, s := range d.Scans {
		now := m.scan(s.Participant, s.Start, s.End)
		if scanned += len(now.keys); scanned > int(m.limits.ScanKeys) {
			return &modelOutcome{reason: command.ReasonTooLarge, part: s.Participant, key: s.Start}
		}
		if !maps.Equal(now.keys, scans[i].keys) {
			return &modelOutcome{reason: command.ReasonConflict, part: s.Participant, key: s.Start}
		}
	}
	_, _, o := m.run(d)
	return o
}

func (m *model) tooLarge(d *command.Decide) *modelOutcome {
	for _, o := range d.Ops {
		if len(o.Value) > int(m.limits.ValueBytes) {
			return &modelOutcome{reason: command.ReasonTooLarge, part: o.Participant, key: o.Key}
		}
	}
	if len(d.Ops)+len(d.Reads)+len(d.Scans) > int(m.limits.TransactionKeys) {
		return &modelOutcome{reason: command.ReasonTooLarge}
	}
	return nil
}

// run gives the data that the ops make of the present one, and the log's changes.
func (m *model) run(d *command.Decide) (after map[string]map[string]modelValue, changes []command.Change, failed *modelOutcome) {
	version := uint64(len(m.log)) + 1
	after = map[string]map[string]modelValue{}
	for n, p := range m.parts {
		after[n] = maps.Clone(p.data)
	}
	for _, o := range d.Ops {
		data := after[o.Participant]
		c := command.Change{Kind: o.Kind, Participant: o.Participant, Key: o.Key, Value: o.Value}
		switch o.Kind {
		case command.OpPut:
			data[o.Key] = modelValue{string(o.Value), version}
		case command.OpDelete:
			delete(data, o.Key)
		case command.OpAdd:
			sum, ok := modelAdd(data, o)
			if !ok {
				return nil, nil, &modelOutcome{reason: command.ReasonConstraint, part: o.Participant, key: o.Key}
			}
			data[o.Key] = modelValue{sum, version}
			c.Value, c.Delta = []byte(sum), o.Delta
		case command.OpLog:
			c.AppliedEpoch = o.AppliedEpoch
		}
		changes = append(changes, c)
	}
	return after, changes, nil
}

func modelAdd(data map[string]modelValue, o command.Op) (string, bool) {
	text := "0"
	if v, ok := data[o.Key]; ok {
		text = v.value
	}
	n, ok := new(big.Int).SetString(text, 10)
	if !ok || n.String() != text || !n.IsInt64() {
		return "", false
	}
	n.Add(n, big.NewInt(o.Delta))
	if !n.IsInt64() || o.AtLeast != nil && n.Int64() < *o.AtLeast || o.AtMost != nil && n.Int64() > *o.AtMost {
		return "", false
	}
	return strconv.FormatInt(n.Int64(), 10), true
}

func (m *model) commit(index uint64, at command.Attempt, digest string, d *command.Decide) *modelOutcome {
	after, changes, _ := m.run(d)
	for n, data := range after {
		m.parts[n].data = data
	}
	receipt := command.Receipt{ID: at.ID, Incarnation: m.incarnation, Position: uint64(len(m.log)) + 1, Begun: at.Begun, TimeUnixNano: m.time}
	m.log = append(m.log, command.Entry{
		Position: receipt.Position, ID: at.ID, Begun: at.Begun, Index: index, TimeUnixNano: m.time, Changes: changes,
	})
	return &modelOutcome{committed: true, receipt: receipt, digest: digest}
}

func (m *model) activate(c *command.Activate) command.Result {
	if m.version == 0 {
		return refuse(command.ReasonUnconfigured)
	}
	p := m.parts[c.Participant]
	if p == nil {
		return refuse(command.ReasonUnknownParticipant)
	}
	if p.epoch != c.Expect {
		return command.Result{Status: command.StatusRefused, Reason: command.ReasonStaleVersion, Participant: c.Participant, Epoch: p.epoch}
	}
	p.epoch++
	p.instance = c.Instance
	return command.Result{Status: command.StatusDone, Participant: c.Participant, Epoch: p.epoch}
}

func (m *model) configure(c *command.Configure) command.Result {
	if c.Version != m.version+1 {
		return refuse(command.ReasonStaleVersion)
	}
	for _, n := range slices.Sorted(maps.Keys(m.parts)) {
		if !slices.Contains(c.Participants, n) && len(m.parts[n].data) > 0 && !c.Prune {
			return command.Result{Status: command.StatusRefused, Reason: command.ReasonHasData}
		}
	}
	for n, p := range m.parts {
		if !slices.Contains(c.Participants, n) {
			m.floor = max(m.floor, p.epoch)
			m.garbage += len(p.data)
			delete(m.parts, n)
		}
	}
	for _, n := range c.Participants {
		if m.parts[n] == nil {
			m.parts[n] = &modelParticipant{data: map[string]modelValue{}, epoch: m.floor}
		}
	}
	if m.version == 0 {
		m.incarnation = c.Incarnation
	}
	m.version, m.limits = c.Version, c.Limits.WithDefaults()
	return command.Result{Status: command.StatusDone}
}
