package postgres

import "github.com/cohort-tx/cohort/participant"

// callOf, prepareKey and noticeKey take from the SDK's types what is needed here.
func callOf(step *participant.StepTx) call {
	return call{
		attempt: attemptKey{id: step.ID(), begun: step.Begun(), nonce: step.Nonce()},
		number:  step.Number(),
		log:     func(change []byte) error { return step.Log(change) },
		over:    func(fn func()) { step.WhenOver(fn) },
		step:    step,
	}
}

func prepareKey(p *participant.Prepare) attemptKey {
	return attemptKey{id: p.ID, begun: p.Begun, nonce: p.Nonce}
}

func noticeKey(n participant.Notice) attemptKey {
	return attemptKey{id: n.ID, begun: n.Begun, nonce: n.Nonce}
}
