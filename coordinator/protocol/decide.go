package protocol

import (
	"github.com/cohort-tx/cohort/txlog/command"
)

// decided takes the log's answer to an attempt's Decide.
func (c *Core) decided(a *attempt, r *command.Result) {
	if a.state != StateProposed {
		panic("protocol: a result for an attempt that is " + a.state.String())
	}
	switch r.Status {
	case command.StatusCommitted:
		a.uncertain = false
		if r.Receipt.Begun == a.begun && !a.overtaken {
			c.overtake(a)
		}
		c.end(a, &Committed{Receipt: r.Receipt})
	case command.StatusAborted:
		a.uncertain = false
		c.end(a, abortOf(a.name.ID, r))
	case command.StatusRefused:
		c.refused(a, r)
	default:
		panic("protocol: the log answered a Decide with neither commit, abort nor refusal")
	}
}

// overtake marks the other attempts of the id with the same begun: the log will
// give them this one's receipt.
func (c *Core) overtake(a *attempt) {
	for o := c.ids[a.name.ID]; o != nil; o = o.next {
		if o != a && o.begun == a.begun {
			o.overtaken = true
		}
	}
}

func abortOf(id string, r *command.Result) *Aborted {
	return &Aborted{ID: id, Reason: r.Reason, Participant: r.Participant, Key: r.Key, Detail: r.Detail}
}

// refused takes a refusal, which records nothing.
func (c *Core) refused(a *attempt, r *command.Result) {
	switch {
	case r.Reason == command.ReasonOverloaded:
		// The entry was full. The attempt is as undecided as before.
		c.requeue(a)
	case r.Reason == command.ReasonStaleEpoch:
		// A newer coordinator is in charge: it may yet be asked for this attempt.
		c.end(a, &Indeterminate{Detail: "a newer coordinator is in charge"})
		c.emit(Superseded{})
	case r.Reason == command.ReasonExpired && a.vague:
		// It may have been decided, and forgotten since. An old unknown is no abort.
		c.end(a, &Indeterminate{Detail: r.Detail + "; what became of it is not remembered any more"})
	case r.Reason == command.ReasonSealed && a.vague:
		c.end(a, &Indeterminate{Detail: r.Detail})
	case r.Reason == command.ReasonSealed:
		// The next incarnation may take it.
		a.uncertain = false
		c.end(a, &Aborted{ID: a.name.ID, Reason: reasonMoved, Detail: "the group is sealed: " + r.Detail})
	case r.Reason < command.ReasonStaleEpoch && r.Reason != command.ReasonNone:
		a.uncertain = false
		c.end(a, abortOf(a.name.ID, r))
	default:
		// Malformed or not configured: nothing was done, and nothing will be.
		c.end(a, &Invalid{Field: "transaction", Detail: "the log refused it: " + r.Detail})
	}
}
