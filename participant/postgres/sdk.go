package postgres

import "github.com/cohort-tx/cohort/participant"

// callOf, prepareKey and noticeKey take from the SDK's types what is needed.
func callOf(step *participant.StepTx) call {
	panic("not yet")
}

func prepareKey(p *participant.Prepare) attemptKey { return attemptKey{id: p.ID, begun: p.Begun} }

func noticeKey(n participant.Notice) attemptKey { return attemptKey{id: n.ID, begun: n.Begun} }
