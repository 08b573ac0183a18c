package participanttest

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cohort-tx/cohort/participant"
)

// Content says what a state under test is about, so that Conform can change it and
// look at it.
type Content interface {
	// Change makes a change as a handler would give it to StepTx.Log.
	Change(r *rand.Rand) []byte
	// Dump gives all that the state holds, in a form that is equal when states are.
	// The place in the log is no part of it.
	Dump(s participant.OwnState) (string, error)
}

// FirstContent is a Content of a state whose handlers change it before the
// decision (AlreadyApplied).
type FirstContent interface {
	Content
	// Make makes a change in the state as a handler does.
	Make(s participant.OwnState, change []byte) error
}

type conformOptions struct {
	reopen func(testing.TB, participant.OwnState) participant.OwnState
	model  func([][]byte) string
	seeds  int
}

// ConformOption changes what Conform does.
type ConformOption func(*conformOptions)

// Reopens is for a state that outlives its process and stores its Point: reopen
// gives what a new process finds when the old one, which had s, was killed. s is
// not used any more; it must not be closed in an orderly way first.
func Reopens(reopen func(t testing.TB, s participant.OwnState) participant.OwnState) ConformOption {
	return func(o *conformOptions) { o.reopen = reopen }
}

// Model says what Dump gives of a state that got changes in this order. Without it
// a new state that gets each change in an Apply of its own is the model.
func Model(model func(changes [][]byte) string) ConformOption {
	return func(o *conformOptions) { o.model = model }
}

// Seeds is how many random histories are run; the default is 50.
func Seeds(n int) ConformOption { return func(o *conformOptions) { o.seeds = n } }

// Conform drives an implementation of OwnState through what the SDK may do with
// it, in random histories that a seed repeats, and holds it against a model:
//
//   - transactions applied one by one and, for a BatchApplier, several at once;
//   - captures whose WriteTo runs later, beside further Applies, is broken off,
//     and runs again;
//   - restores over whatever the state holds, in small pieces, to older and newer
//     positions and to another incarnation; restores that break in the middle and
//     at the end;
//   - contexts that end at each point of a callback where the state looks;
//   - with Reopens, a crash before, in and after each callback: what is found must
//     be the state as of its Point;
//   - with FirstContent, changes made before the decision, and Undo;
//   - and through the SDK itself, an App that serves the state to a node that sends
//     notices twice, late and not at all, cuts checkpoints, breaks streams, and
//     kills the application.
//
// newState gives a state as a first process finds it, with nothing in it; each one
// is independent of the others. Files belong into directories of the test.
//
// What it finds fails the test, with the seed and what was done last.
func Conform(t *testing.T, newState func(testing.TB) participant.OwnState, content Content, opts ...ConformOption) {
	t.Helper()
	o := conformOptions{seeds: 50}
	for _, opt := range opts {
		opt(&o)
	}
	for _, part := range conformParts {
		t.Run(part.name, func(t *testing.T) {
			for seed := range max(1, o.seeds/part.cost) {
				if err := part.run(&subject{TB: t, newState: newState, content: content, options: o}, uint64(seed)); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
			}
		})
	}
}

// conformPart is one way of driving a state. cost divides the number of seeds.
type conformPart struct {
	name string
	cost int
	run  func(s *subject, seed uint64) error
}

var conformParts = []conformPart{
	{"callbacks", 1, (*subject).callbacks},
	{"served", 5, (*subject).served},
}

// subject is the implementation that is being driven.
type subject struct {
	testing.TB
	newState func(testing.TB) participant.OwnState
	content  Content
	options  conformOptions
	models   map[string]string
}

// want is what a state holds that got changes in this order.
func (s *subject) want(changes [][]byte) (string, error) {
	if s.options.model != nil {
		return s.options.model(changes), nil
	}
	key := fmt.Sprintf("%q", changes)
	if dump, ok := s.models[key]; ok {
		return dump, nil
	}
	state := s.newState(s.TB)
	for i, change := range changes {
		e := participant.Entry{Incarnation: 1, Position: uint64(i + 1), ID: fmt.Sprintf("model-%d", i+1), Begun: uint64(i + 1), Changes: []participant.Change{{
			Kind: participant.ChangeLog, Participant: conformParticipant, Value: change,
		}}}
		if err := state.Apply(s.Context(), e); err != nil {
			return "", fmt.Errorf("its Apply of change %q to a state that is the model: %w", change, err)
		}
	}
	dump, err := s.content.Dump(state)
	if err != nil {
		return "", fmt.Errorf("its Dump: %w", err)
	}
	if s.models == nil {
		s.models = map[string]string{}
	}
	s.models[key] = dump
	return dump, nil
}

// conformParticipant is the name of the participant that a state under test is.
const conformParticipant = "subject"
