package machine

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/cohort-tx/cohort/txlog/command"
)

// maxDropped bounds the dropped participants whose data waits for Purge.
const maxDropped = 1024

// activate makes an instance the active one. Whoever expects another epoch than
// the current one is late.
func (e *entryRun) activate(c *command.Activate) (command.Result, error) {
	if e.m.meta.ConfigVersion == 0 {
		return refused(command.ReasonUnconfigured, "the group has no definition yet"), nil
	}
	if r, sealed := e.sealed(); sealed {
		return r, nil
	}
	if c.Instance != "" {
		if err := command.CheckID(c.Instance); err != nil {
			return refused(command.ReasonMalformed, "the instance: %v", err), nil
		}
	}
	if c.OwnState && c.Instance == "" {
		return refused(command.ReasonMalformed, "no instance keeps no state"), nil
	}
	if c.Instance != "" || c.Node != "" {
		if err := command.CheckName(c.Node); err != nil {
			return refused(command.ReasonMalformed, "the instance's node: %v", err), nil
		}
	}
	p := e.m.participants[c.Participant]
	if p == nil {
		return refused(command.ReasonUnknownParticipant, "the group has no such participant"), nil
	}
	if c.Expect != p.activation.Epoch {
		r := refused(command.ReasonStaleVersion, "the activation epoch is %d, not %d", p.activation.Epoch, c.Expect)
		r.Participant, r.Epoch = p.Name, p.activation.Epoch
		return r, nil
	}
	if r, ok := e.reserveSize(CommandSize(c)); !ok {
		return r, nil
	}
	e.setActivation(p, Activation{
		Participant: p.Name,
		Node:        strings.Clone(c.Node),
		Instance:    strings.Clone(c.Instance),
		Epoch:       p.activation.Epoch + 1,
	})
	done := command.Result{Status: command.StatusDone, Participant: p.Name, Epoch: p.activation.Epoch}
	if !c.OwnState {
		return done, nil
	}
	return done, e.ownStateActivated(p.Name)
}

func (e *entryRun) setActivation(p *participant, a Activation) {
	a.Index, a.Position, a.TimeUnixNano = e.index, e.m.meta.Position, e.now
	p.activation = a
	e.st.Set(appendActivationKey(nil, p.Name), appendActivation(nil, &a))
}

// configure sets the definition.
func (e *entryRun) configure(c *command.Configure) (command.Result, error) {
	m := e.m
	if r, sealed := e.sealed(); sealed {
		return r, nil
	}
	if c.Version != m.config.Version+1 {
		return refused(command.ReasonStaleVersion, "the next version is %d, not %d", m.config.Version+1, c.Version), nil
	}
	if err := checkConfigure(c, &m.meta); err != nil {
		return refused(command.ReasonMalformed, "%v", err), nil
	}
	drop := m.dropped(c.Participants)
	var hold []uint32 // the dropped ids that have data
	var owned []string
	// The next log entry names them; one name is enough for several lives of it.
	names := slices.Clone(m.schedule.Dropped)
	for _, p := range drop {
		has, err := e.hasData(p.ID)
		if err != nil {
			return command.Result{}, err
		}
		_, own, err := ReadOwnState(e.st, p.Name)
		if err != nil {
			return command.Result{}, err
		}
		if !has && !own {
			continue
		}
		if !c.Prune {
			r := refused(command.ReasonHasData, "the participant has data: prune it with the definition, or keep the participant")
			r.Participant = p.Name
			return r, nil
		}
		if has {
			hold = append(hold, p.ID)
		}
		if own {
			owned = append(owned, p.Name)
		}
		if m.meta.FeatureLevel >= 2 && !slices.Contains(names, p.Name) {
			names = append(names, p.Name)
		}
	}
	if len(names) > command.MaxParticipants {
		return refused(command.ReasonOverloaded, "%d participants were dropped since the last transaction", len(m.schedule.Dropped)), nil
	}
	if len(m.config.Dropped)+len(hold) > maxDropped {
		return refused(command.ReasonOverloaded, "%d dropped participants wait to be purged", len(m.config.Dropped)), nil
	}
	// What is counted for a dropped participant's activation has room for the bytes of
	// two deletions.
	if r, ok := e.reserveSize(CommandSize(c).Add(Size{Keys: uint64(len(owned))})); !ok {
		return r, nil
	}
	for _, name := range owned {
		e.st.Delete(appendOwnStateKey(nil, name))
	}
	if c.Version == 1 {
		m.meta.Incarnation = c.Incarnation
	}
	m.meta.ConfigVersion = c.Version
	if len(names) > len(m.schedule.Dropped) {
		m.schedule.Dropped, e.scheduleChanged = names, true
	}
	e.reconfigure(c, drop, hold)
	return command.Result{Status: command.StatusDone}, nil
}

// checkConfigure says what no correct coordinator sends.
func checkConfigure(c *command.Configure, meta *Meta) error {
	if len(c.Participants) == 0 || len(c.Participants) > command.MaxParticipants {
		return fmt.Errorf("a group has 1 to %d participants, not %d", command.MaxParticipants, len(c.Participants))
	}
	for i, name := range c.Participants {
		if err := command.CheckName(name); err != nil {
			return fmt.Errorf("participant %d: %w", i+1, err)
		}
		if slices.Contains(c.Participants[:i], name) {
			return fmt.Errorf("participant %s is listed twice", name)
		}
	}
	if len(c.Definition) > command.MaxDefinitionBytes {
		return fmt.Errorf("the definition has %d bytes: at most %d", len(c.Definition), command.MaxDefinitionBytes)
	}
	if c.Version == 1 && c.Incarnation == 0 {
		return fmt.Errorf("the first definition names no incarnation")
	}
	if c.Version != 1 && c.Incarnation != 0 && c.Incarnation != meta.Incarnation {
		return fmt.Errorf("the log is in incarnation %d, not %d", meta.Incarnation, c.Incarnation)
	}
	return c.Limits.Validate()
}

// dropped gives the participants that are not listed any more, in their order.
func (m *Machine) dropped(listed []string) []Participant {
	var drop []Participant
	for _, p := range m.config.Participants {
		if !slices.Contains(listed, p.Name) {
			drop = append(drop, p)
		}
	}
	return drop
}

// reconfigure writes the new definition and the activations that change by it.
func (e *entryRun) reconfigure(c *command.Configure, drop []Participant, hold []uint32) {
	m := e.m
	next := Config{
		Version:    c.Version,
		Limits:     c.Limits.WithDefaults(),
		Definition: bytes.Clone(c.Definition),
		NextID:     max(m.config.NextID, 1),
		Dropped:    append(slices.Clone(m.config.Dropped), hold...),
		EpochFloor: m.config.EpochFloor,
	}
	for _, d := range drop {
		p := m.participants[d.Name]
		if p.activation.Epoch > 0 {
			next.EpochFloor = max(next.EpochFloor, p.activation.Epoch)
			e.st.Delete(appendActivationKey(nil, d.Name))
		}
	}
	participants := make(map[string]*participant, len(c.Participants))
	for _, name := range c.Participants {
		p := m.participants[name]
		if p == nil {
			p = &participant{Participant: Participant{Name: strings.Clone(name), ID: next.NextID}}
			next.NextID++
			if next.EpochFloor > 0 {
				e.setActivation(p, Activation{Participant: p.Name, Epoch: next.EpochFloor})
			}
		}
		participants[p.Name] = p
		next.Participants = append(next.Participants, p.Participant)
	}
	m.config, m.participants = next, participants
	e.st.Set(configKey, appendConfig(nil, &next))
}

func (e *entryRun) hasData(participant uint32) (bool, error) {
	has := false
	err := scanData(e.st, participant, "", "", func(_, _ []byte) (bool, error) {
		has = true
		return false, nil
	})
	return has, err
}

// moveHorizon forgets whole entries' outcomes, from the oldest. Forgetting what
// was decided at an index moves the horizon above it, so that attempts that could
// have been decided there have expired.
func (e *entryRun) moveHorizon(c *command.MoveHorizon) (command.Result, error) {
	m := e.m
	if c.To > e.index {
		return refused(command.ReasonMalformed, "the horizon would be at %d, after this entry, %d", c.To, e.index), nil
	}
	done := command.Result{Status: command.StatusDone}
	// After a restore there are outcomes below the horizon too.
	rows, full, err := e.forgettable(c.To)
	if err != nil {
		return command.Result{}, err
	}
	for i := range rows {
		if err := e.forget(&rows[i]); err != nil {
			return command.Result{}, err
		}
	}
	switch {
	case !full:
		m.meta.Horizon = max(m.meta.Horizon, c.To)
	case len(rows) > 0:
		m.meta.Horizon = max(m.meta.Horizon, rows[len(rows)-1].Index+1)
	}
	done.Remaining = full
	return done, nil
}

// forgettable reads the rows below index that one command may forget; full when
// there are more. It counts their deletion towards the entry's bound.
func (e *entryRun) forgettable(index uint64) (rows []decided, full bool, err error) {
	ids := 0
	err = e.st.Scan(appendDecidedKey(nil, 0), appendDecidedKey(nil, index), func(k, v []byte) (bool, error) {
		row, err := decodeDecided(k, v)
		if err != nil {
			return false, err
		}
		full = ids > 0 && ids+len(row.IDs) > forgetAtMost
		if !full {
			_, fits := e.reserveSize(forgetSize(&row))
			full = !fits
		}
		if full {
			return false, nil
		}
		ids += len(row.IDs)
		rows = append(rows, row)
		return true, nil
	})
	return rows, full, err
}

func forgetSize(row *decided) Size {
	s := Size{Bytes: 9 + writeOverhead, Keys: 1}
	for _, id := range row.IDs {
		s = s.Add(Size{Bytes: uint64(1+len(id)) + writeOverhead, Keys: 1})
	}
	return s
}

// forget deletes a row and the outcomes that are still of its entry.
func (e *entryRun) forget(row *decided) error {
	for _, id := range row.IDs {
		o, found, err := e.readOutcome(id)
		if err != nil {
			return err
		}
		if found && o.Index == row.Index {
			e.st.Delete(appendOutcomeKey(nil, id))
			e.m.meta.Outcomes--
		}
	}
	e.st.Delete(appendDecidedKey(nil, row.Index))
	return nil
}

// purgeAtMost bounds the keys that one Purge deletes.
const purgeAtMost = 1000

// purge deletes data of dropped participants, the longest dropped first.
func (e *entryRun) purge() (command.Result, error) {
	m := e.m
	rest := purgeAtMost
	dropped := m.config.Dropped
	for len(dropped) > 0 && rest > 0 {
		var keys [][]byte
		full := false
		err := scanData(e.st, dropped[0], "", "", func(k, _ []byte) (bool, error) {
			full = len(keys) == rest
			if !full {
				_, fits := e.reserveSize(Size{Bytes: uint64(len(k)) + writeOverhead, Keys: 1})
				full = !fits
			}
			if full {
				return false, nil
			}
			keys = append(keys, bytes.Clone(k))
			return true, nil
		})
		if err != nil {
			return command.Result{}, err
		}
		for _, k := range keys {
			e.st.Delete(k)
		}
		rest -= len(keys)
		if full {
			break
		}
		dropped = dropped[1:]
	}
	if len(dropped) < len(m.config.Dropped) {
		m.config.Dropped = slices.Clone(dropped)
		e.st.Set(configKey, appendConfig(nil, &m.config))
	}
	return command.Result{Status: command.StatusDone, Remaining: len(dropped) > 0}, nil
}
