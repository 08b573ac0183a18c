package participant

import (
	"context"
	"fmt"

	cohortv1 "github.com/cohort-tx/cohort/api/cohort/v1"
)

// activated begins an activation, or goes on with it after a broken stream. One
// older than what this instance has heard of, or from an older coordinator, is
// passed over: messages of a deposed coordinator may come late, and so may those
// for the instance that this process was before.
func (a *App) activated(serving context.Context, instance string, m *cohortv1.Activated) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if instance != a.nonce {
		return false
	}
	if m.Incarnation > a.incarnation {
		// Another life of the log counts its coordinators anew.
		a.incarnation, a.newest, a.coordinator = m.Incarnation, 0, 0
	}
	if m.Epoch == 0 || m.Epoch < a.newest || m.CoordinatorEpoch < a.coordinator || m.Incarnation < a.incarnation {
		return false
	}
	a.newest, a.coordinator = m.Epoch, m.CoordinatorEpoch
	if a.epoch != m.Epoch {
		a.endTermLocked()
		a.epoch = m.Epoch
		a.term, a.endTerm = context.WithCancel(serving)
	}
	return true
}

// deactivated ends the activation for another one's sake: epoch is that of the
// other, or the one that ended.
func (a *App) deactivated(instance string, epoch uint64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if instance != a.nonce {
		return false
	}
	if epoch != 0 && epoch < a.epoch {
		return false
	}
	a.newest = max(a.newest, epoch)
	a.endTermLocked()
	return true
}

// endTermLocked tells the handlers of the activation that nothing of them counts
// any more.
func (a *App) endTermLocked() {
	if a.endTerm != nil {
		a.endTerm()
	}
	a.epoch, a.term, a.endTerm = 0, nil, nil
}

// renew makes this process another instance, on a stream of its own: what the one
// before knew of its transactions is lost.
func (a *App) renew(reason string) {
	a.mu.Lock()
	a.nonce = newInstanceNonce()
	a.endTermLocked()
	at := a.at
	a.mu.Unlock()
	if at != nil {
		at.renew(reason)
	}
}

// termOf is the context of an activation, if that is the one of this instance and
// the coordinator that asks is not a deposed one.
func (a *App) termOf(epoch, coordinator uint64) (context.Context, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.epoch == 0 || a.epoch != epoch || coordinator < a.coordinator {
		return nil, false
	}
	a.coordinator = coordinator
	return a.term, true
}

func notActive(epoch uint64) string {
	return fmt.Sprintf("this instance is not the active one of epoch %d", epoch)
}
