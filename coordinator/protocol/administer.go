package protocol

import (
	"fmt"

	"github.com/cohort-tx/cohort/txlog/command"
)

// admin is a command that is no attempt's.
type admin struct {
	request uint64
	command command.Command
	// lost is set for the settlement of an attempt whose coordinator is gone: the
	// answer is that of a commit.
	lost *Attempt
	// doubted: an entry with it may be in the log, whatever became of later ones.
	doubted bool
}

// administer queues a command. Settling what is open here and not proposed also
// ends it, since it would lose anyway.
func (c *Core) administer(e *Administer) {
	c.startAdmin(&admin{request: e.Request, command: e.Command})
}

func (c *Core) settleLost(e *Commit) {
	name := e.Attempt
	c.startAdmin(&admin{
		request: e.Request,
		command: &command.Settle{ID: name.ID, Begun: name.Begun, Reason: reasonMoved, Detail: "the coordinator changed; the steps' changes went with the old one"},
		lost:    &name,
	})
}

func (c *Core) startAdmin(ad *admin) {
	if c.administering >= MaxAdministering {
		// Nothing was proposed, but of a lost attempt nothing is known either.
		if ad.lost != nil {
			c.reply(ad.request, &Indeterminate{Detail: fmt.Sprintf("%d settlements are under way; ask again later", MaxAdministering)})
		} else {
			c.reply(ad.request, &NotServing{Detail: fmt.Sprintf("%d commands are under way; try again later", MaxAdministering)})
		}
		return
	}
	c.administering++
	c.enqueue(&work{command: ad.command, admin: ad})
}

func (c *Core) finishAdmin(ad *admin, ans Answer) {
	c.administering--
	if n, ok := ans.(*NotServing); ok && (ad.lost != nil || ad.doubted) {
		ans = &Indeterminate{Detail: "the command may have taken effect: " + n.Detail}
	}
	c.reply(ad.request, ans)
}

// administered takes the log's answer.
func (c *Core) administered(ad *admin, r *command.Result) {
	if r.Status == command.StatusRefused && r.Reason == command.ReasonOverloaded {
		c.enqueue(&work{command: ad.command, admin: ad, alone: true}) // the entry was full
		return
	}
	if r.Status == command.StatusRefused && r.Reason == command.ReasonStaleEpoch {
		c.finishAdmin(ad, &NotServing{Detail: "a newer coordinator is in charge"})
		c.emit(Superseded{})
		return
	}
	if s, ok := ad.command.(*command.Settle); ok && (r.Status == command.StatusDone || r.Status == command.StatusAborted) {
		c.endSettled(s)
	}
	if rc, ok := ad.command.(*command.ReportCapture); ok && r.Status == command.StatusDone {
		c.captureStored(rc)
	}
	if ad.lost == nil {
		c.finishAdmin(ad, &Done{Result: *r})
		return
	}
	switch {
	case r.Status == command.StatusCommitted:
		c.finishAdmin(ad, &Committed{Receipt: r.Receipt})
	case r.Status == command.StatusRefused:
		c.finishAdmin(ad, &Indeterminate{Detail: "the attempt could not be settled: " + r.Detail})
	default:
		ab := abortOf(ad.lost.ID, r)
		if ab.Reason == command.ReasonNone {
			ab.Reason, ab.Detail = reasonMoved, "the coordinator changed"
		}
		c.answers.remember(*ad.lost, ab)
		c.finishAdmin(ad, ab)
	}
}

// endSettled ends the attempts that a tombstone covers. Those proposed hear it
// from the log.
func (c *Core) endSettled(s *command.Settle) {
	var over []*attempt
	for a := c.ids[s.ID]; a != nil; a = a.next {
		if a.begun <= s.Begun && !a.uncertain {
			over = append(over, a)
		}
	}
	for _, a := range over {
		c.end(a, &Aborted{ID: s.ID, Reason: command.ReasonSuperseded, Detail: "the outcome was settled before a decision was asked for"})
	}
}
