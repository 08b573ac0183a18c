package machine

import "github.com/cohort-tx/cohort/txlog/command"

// Limits are those of the group's definition as of the last entry; zero before
// the first Configure and before the machine has loaded.
func (m *Machine) Limits() command.Limits { return m.config.Limits }

// Cut is the checkpoint that the last applied entry recorded, if it did.
func (m *Machine) Cut() (Checkpoint, bool) {
	if m.cut == nil {
		return Checkpoint{}, false
	}
	return *m.cut, true
}

// Meta is the meta record as of the last entry; zero before the machine has
// loaded.
func (m *Machine) Meta() Meta { return m.meta }
