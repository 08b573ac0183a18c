package groups

import (
	"encoding/json"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/lni/dragonboat/v4/statemachine"
)

// maxDirectorySnapshotBytes bounds what is read back: full of groups with the
// longest definitions, in base64.
const maxDirectorySnapshotBytes = MaxGroups * 2 * MaxDefinitionBytes

// directoryMachine is the Directory as dragonboat drives it: in memory, its
// calls serialized, snapshots whole.
type directoryMachine struct {
	directory *Directory
	// publish hands over each new state; it must not block.
	publish func(*DirectoryState)
	// applied is told the index of each entry.
	applied *atomic.Uint64
}

var _ statemachine.IStateMachine = (*directoryMachine)(nil)

// Update applies one entry. It never fails: an error would stop the replica for
// good.
func (m *directoryMachine) Update(entry statemachine.Entry) (statemachine.Result, error) {
	defer m.applied.Store(entry.Index)
	before := m.directory.State()
	result := m.directory.Apply(entry.Cmd)
	if after := m.directory.State(); after != before {
		m.publish(after)
	}
	data, err := json.Marshal(result)
	if err != nil {
		panic("groups: directory result of plain data failed to encode: " + err.Error())
	}
	return statemachine.Result{Value: uint64(result.Refused), Data: data}, nil
}

// Lookup returns the state, whatever is asked.
func (m *directoryMachine) Lookup(any) (any, error) { return m.directory.State(), nil }

// SaveSnapshot writes the whole state.
func (m *directoryMachine) SaveSnapshot(w io.Writer, _ statemachine.ISnapshotFileCollection, _ <-chan struct{}) error {
	_, err := w.Write(m.directory.Snapshot())
	return err
}

// RecoverFromSnapshot replaces the state.
func (m *directoryMachine) RecoverFromSnapshot(r io.Reader, _ []statemachine.SnapshotFile, _ <-chan struct{}) error {
	data, err := io.ReadAll(io.LimitReader(r, maxDirectorySnapshotBytes+1))
	if err != nil {
		return err
	}
	if len(data) > maxDirectorySnapshotBytes {
		return fmt.Errorf("groups: directory snapshot has more than %d bytes", maxDirectorySnapshotBytes)
	}
	if err := m.directory.Restore(data); err != nil {
		return err
	}
	m.publish(m.directory.State())
	return nil
}

// Close has nothing to release.
func (m *directoryMachine) Close() error { return nil }
