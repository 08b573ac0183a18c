package protocol

import (
	"slices"
	"time"

	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/machine"
)

// work is a command on its way to the log, of exactly one owner.
type work struct {
	command command.Command
	size    machine.Size
	// bytes are about what it takes in the entry.
	bytes uint64
	// alone: in an entry of its own.
	alone       bool
	attempt     *attempt
	admin       *admin
	participant *participant
	instance    *instance // of an activation
	checkpoint  *checkpoint
	note        bool // of a pause or a failed capture, which nobody waits for
}

func (w *work) wanted() bool {
	if w.checkpoint != nil {
		return w.checkpoint.work == w
	}
	return w.attempt == nil || w.attempt.state == StateQueued
}

// entry is one Raft entry on its way.
type entry struct {
	id    uint64
	works []*work
	// doubtful: it may be in the log already. It is proposed again as it is, which
	// is the same as once: the log knows every decision of it.
	doubtful bool
	tries    int
	timer    timer
}

// enqueueAttempt is where an attempt's Decide is complete. One Decide of an id is
// under way at a time, so that a receipt tells which attempt committed.
func (c *Core) enqueueAttempt(a *attempt) {
	a.state = StateQueued
	for o := c.ids[a.name.ID]; o != nil; o = o.next {
		if o != a && !o.behind && (o.state == StateQueued || o.state == StateProposed) {
			a.behind = true
			return
		}
	}
	c.enqueue(&work{command: a.decide, attempt: a})
}

// letBehind brings on the longest waiting attempt of an id after another ended.
func (c *Core) letBehind(id string) {
	var first *attempt
	for o := c.ids[id]; o != nil; o = o.next {
		if !o.behind && (o.state == StateQueued || o.state == StateProposed) {
			return
		}
		if o.behind && o.state == StateQueued {
			first = o // new ones are put in front
		}
	}
	if first != nil {
		first.behind = false
		c.enqueue(&work{command: first.decide, attempt: first})
	}
}

func (c *Core) enqueue(w *work) {
	w.size = machine.CommandSize(w.command)
	w.bytes = w.size.Bytes
	if w.attempt != nil {
		w.bytes = uint64(w.attempt.bytes) // without the room kept for its outcome
	}
	c.queue = append(c.queue, w)
	c.queueBytes += w.bytes
}

// requeue puts a proposed attempt back: its entry is certainly decided, or not in
// the log.
func (c *Core) requeue(a *attempt) {
	a.uncertain = a.vague
	if c.now >= a.deadline && !a.uncertain {
		c.end(a, &Aborted{ID: a.name.ID, Reason: command.ReasonTimeout, Detail: "log entries were full until its timeout"})
		return
	}
	a.state = StateQueued
	c.enqueue(&work{command: a.decide, attempt: a})
}

// flush proposes what the batching rule lets: at once when nothing is in flight,
// otherwise once as much is queued as is in flight, or an entry is full. So a
// lone transaction waits for nobody, and under load entries grow by doubling
// until they are as large as they should be. While a checkpoint drains nothing
// comes after what is queued, so it goes on its way at once: the pause is two
// entries long, this and the cut's.
func (c *Core) flush() {
	draining := c.checkpoint != nil && c.checkpoint.phase == phaseDraining
	most := MaxEntriesInFlight
	if draining {
		most = MaxProposals
	}
	for len(c.queue) > 0 && len(c.entries) < most && c.pauseTimer.place == 0 {
		if !draining && len(c.entries) > 0 && len(c.queue) < min(c.inEntries, MaxEntryCommands) && c.queueBytes < MaxEntryBytes {
			return
		}
		if works := c.takeBatch(); len(works) > 0 {
			en := &entry{id: c.number(), works: works}
			en.timer.owner = en
			c.entries[en.id] = en
			c.entryOrder = append(c.entryOrder, en)
			c.inEntries += len(works)
			c.propose(en)
		}
	}
}

// takeBatch takes from the queue what goes into one entry.
func (c *Core) takeBatch() []*work {
	bound := machine.EntryBound(c.config.Limits)
	size := machine.EntryOverhead()
	var works []*work
	var bytes uint64
	taken := 0
	for _, w := range c.queue {
		if !w.wanted() {
			c.unwanted--
			c.queueBytes -= w.bytes
			taken++
			continue
		}
		next := size.Add(w.size)
		if len(works) > 0 && (w.alone || works[0].alone || len(works) >= MaxEntryCommands || bytes+w.bytes > MaxEntryBytes || !next.Within(bound)) {
			break
		}
		size = next
		bytes += w.bytes
		works = append(works, w)
		c.queueBytes -= w.bytes
		taken++
	}
	clear(c.queue[:taken])
	if c.queue = c.queue[taken:]; len(c.queue) == 0 {
		c.queue = nil
	}
	return works
}

// abandon says that a queued work is not wanted any more. It goes at the latest
// when half of the queue are such, so that a log that takes nothing does not make
// the queue grow.
func (c *Core) abandon() {
	c.unwanted++
	if c.unwanted < MaxEntryCommands || c.unwanted < len(c.queue)/2 {
		return
	}
	c.queue = slices.DeleteFunc(c.queue, func(w *work) bool {
		if !w.wanted() {
			c.queueBytes -= w.bytes
			return true
		}
		return false
	})
	c.unwanted = 0
}

func (c *Core) propose(en *entry) {
	commands := make([]command.Command, len(en.works))
	for i, w := range en.works {
		commands[i] = w.command
		if a := w.attempt; a != nil {
			a.state = StateProposed
			a.uncertain = true
		}
	}
	c.emit(&Propose{Entry: en.id, Commands: commands})
}

// applied takes the results of an entry.
func (c *Core) applied(e *Applied) {
	en := c.takeEntry(e.Entry)
	if en == nil {
		return // answered before
	}
	c.pause = 0
	results := e.Results
	if len(results) != len(en.works) {
		// The log could not read the entry, and will not another time.
		results = make([]command.Result, len(en.works))
		for i := range results {
			results[i] = command.Result{Status: command.StatusRefused, Reason: command.ReasonMalformed, Detail: "the log could not read the entry"}
		}
	}
	for i, w := range en.works {
		switch {
		case w.attempt != nil:
			c.decided(w.attempt, &results[i])
		case w.admin != nil:
			c.administered(w.admin, &results[i])
		case w.checkpoint != nil:
			c.checkpointed(w, &results[i], e.Position)
		case w.note:
			c.noted(w, &results[i])
		default:
			c.activationResult(w, &results[i])
		}
	}
}

func (c *Core) takeEntry(id uint64) *entry {
	en := c.entries[id]
	if en == nil {
		return nil
	}
	delete(c.entries, id)
	c.entryOrder = slices.DeleteFunc(c.entryOrder, func(o *entry) bool { return o == en })
	c.inEntries -= len(en.works)
	c.timers.stop(&en.timer)
	return en
}

// notProposed takes back an entry that is certainly not in the log, unless an
// earlier proposal of it may be.
func (c *Core) notProposed(e *NotProposed) {
	en := c.entries[e.Entry]
	if en == nil {
		return
	}
	if en.doubtful {
		c.doubtful(&Doubtful{Entry: e.Entry})
		return
	}
	c.takeEntry(e.Entry)
	tooLarge := e.TooLarge && len(en.works) == 1
	back := c.queue
	c.queue = nil
	for _, w := range en.works {
		w.alone = w.alone || e.TooLarge
		switch {
		case tooLarge && w.attempt != nil && !w.attempt.vague:
			w.attempt.uncertain = false
			c.end(w.attempt, &Aborted{ID: w.attempt.name.ID, Reason: command.ReasonTooLarge, Detail: "it does not fit one log entry"})
			continue
		case tooLarge && w.admin != nil:
			c.finishAdmin(w.admin, &Invalid{Field: "command", Detail: "it does not fit one log entry"})
			continue
		case w.checkpoint != nil:
			if !c.checkpointNotProposed(w, tooLarge) {
				continue
			}
		case w.note && tooLarge:
			continue
		case w.attempt != nil:
			a := w.attempt
			a.uncertain = a.vague
			if c.now >= a.deadline && !a.uncertain {
				c.end(a, &Aborted{ID: a.name.ID, Reason: command.ReasonTimeout, Detail: "the log took no proposal until its timeout"})
				continue
			}
			a.state = StateQueued
		}
		c.queue = append(c.queue, w)
		c.queueBytes += w.bytes
	}
	c.queue = append(c.queue, back...)
	if !e.TooLarge {
		c.pause = backoff(c.pause)
		c.timers.set(&c.pauseTimer, c.now+c.pause)
	}
}

// doubtful keeps an entry whose fate is unknown, to propose it again.
func (c *Core) doubtful(e *Doubtful) {
	en := c.entries[e.Entry]
	if en == nil {
		return
	}
	en.doubtful = true
	for _, w := range en.works {
		if w.attempt != nil {
			w.attempt.vague = true
		}
		if w.admin != nil {
			w.admin.doubted = true
		}
		if w.checkpoint != nil {
			w.checkpoint.doubted = true
		}
	}
	wait := RetryMin << min(en.tries, 16)
	en.tries++
	c.timers.set(&en.timer, c.now+min(wait, RetryMax))
}

func (c *Core) retry(en *entry) { c.propose(en) }

func backoff(last time.Duration) time.Duration {
	if last == 0 {
		return RetryMin
	}
	return min(2*last, RetryMax)
}
