package coordinator

import (
	"errors"
	"fmt"
	"strings"

	cohortv1 "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/txlog/command"
)

// ErrNotServing says that this node does not run the group's coordinator now:
// it does not lead, or has not taken office yet, or is closing. The caller asks
// the node that does, or this one again later.
var ErrNotServing = errors.New("this node does not run the group's coordinator")

// notServingError is ErrNotServing with more to say.
type notServingError struct{ detail string }

func (e *notServingError) Error() string { return ErrNotServing.Error() + ": " + e.detail }
func (e *notServingError) Unwrap() error { return ErrNotServing }

// Aborted is the answer that an attempt did not and will not commit.
type Aborted struct {
	ID          string
	Reason      command.Reason
	Participant string
	Key         string
	Detail      string
}

func (e *Aborted) Error() string {
	s := fmt.Sprintf("transaction %q aborted: %s", e.ID, ReasonName(e.Reason))
	if e.Participant != "" {
		s += fmt.Sprintf(": participant %q", e.Participant)
	}
	if e.Key != "" {
		s += fmt.Sprintf(": key %q", e.Key)
	}
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	return s
}

// ReasonName is the reason as operators and clients see it: "conflict", "id_reused".
func ReasonName(r command.Reason) string {
	if name, ok := cohortv1.Reason_name[int32(r)]; ok {
		return strings.ToLower(strings.TrimPrefix(name, "REASON_"))
	}
	return fmt.Sprintf("refusal_%d", r)
}

// Committed is Begin's answer for an id that has committed before: there is
// nothing left to do.
type Committed struct{ Receipt command.Receipt }

func (e *Committed) Error() string {
	return fmt.Sprintf("transaction %q is committed already, at position %d", e.Receipt.ID, e.Receipt.Position)
}

// Indeterminate says that the decision is not known here: not an abort. Outcome
// settles it, and so does sending Commit again.
type Indeterminate struct{ Detail string }

func (e *Indeterminate) Error() string { return "outcome not known: " + e.Detail }

// StepFailure says that one step failed. The attempt goes on until its caller
// ends it.
type StepFailure struct {
	Code        cohortv1.StepFailure_Code
	Participant string
	Message     string
}

func (e *StepFailure) Error() string {
	return fmt.Sprintf("step at participant %q failed (%s): %s", e.Participant, e.Code, e.Message)
}

// Invalid says what is wrong with a request and what would be right.
type Invalid struct{ Field, Detail string }

func (e *Invalid) Error() string { return e.Field + ": " + e.Detail }
