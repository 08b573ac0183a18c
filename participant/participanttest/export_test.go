package participanttest

import (
	"testing"

	"github.com/cohort-tx/cohort/participant"
)

// Examine is Conform that gives what it finds.
func Examine(t testing.TB, newState func(testing.TB) participant.OwnState, content Content, opts ...ConformOption) error {
	o := conformOptions{seeds: 50}
	for _, opt := range opts {
		opt(&o)
	}
	for _, part := range conformParts {
		for seed := range o.seeds / part.cost {
			if err := part.run(&subject{TB: t, newState: newState, content: content, options: o}, uint64(seed)); err != nil {
				return err
			}
		}
	}
	return nil
}
