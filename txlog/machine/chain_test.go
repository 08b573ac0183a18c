package machine_test

import (
	"crypto/sha256"

	"github.com/cohort-tx/cohort/txlog/command"
)

// chain computes Meta.LogHash from the log alone.
func chain(entries []command.Entry) (sum [32]byte) {
	for i := range entries {
		sum = sha256.Sum256(command.AppendEntry(sum[:], &entries[i]))
	}
	return sum
}
