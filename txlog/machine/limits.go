package machine

import "github.com/cohort-tx/cohort/txlog/command"

// Limits are those of the group's definition as of the last entry; zero before
// the first Configure and before the machine has loaded.
func (m *Machine) Limits() command.Limits { return m.config.Limits }

// Meta is the meta record as of the last entry; zero before the machine has
// loaded.
func (m *Machine) Meta() Meta { return m.meta }
