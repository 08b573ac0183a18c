package coordinator

import (
	"sync"

	"github.com/cohort-tx/cohort/coordinator/protocol"
)

// maxMailbox is how many letters may wait for the loop. Whoever brings more from
// outside waits, so that a burst is held back where it comes from.
const maxMailbox = 16384

// letter is for the loop: an event, and who waits for its answer, or something to
// do there.
type letter struct {
	event   protocol.Event
	request uint64
	waiter  *waiter
	do      func()
}

// waiter is one caller's place to wait for an answer. It is used again only by
// callers that got theirs.
type waiter struct{ answer chan protocol.Answer }

func newWaiter() any { return &waiter{answer: make(chan protocol.Answer, 1)} }

// mailbox is the loop's queue: taken as a whole, so that a burst costs one lock.
type mailbox struct {
	mu      sync.Mutex
	room    sync.Cond
	letters []letter
	closed  bool
	wake    chan struct{}
}

func newMailbox() *mailbox {
	m := &mailbox{wake: make(chan struct{}, 1)}
	m.room.L = &m.mu
	return m
}

// post brings a letter from outside; it waits for room. False: the reign is over.
func (m *mailbox) post(l letter) bool {
	m.mu.Lock()
	for len(m.letters) >= maxMailbox && !m.closed {
		m.room.Wait()
	}
	return m.put(l)
}

// postInside brings a letter of the driver's own goroutines, whose number is
// bounded by what the core has under way.
func (m *mailbox) postInside(l letter) bool {
	m.mu.Lock()
	return m.put(l)
}

func (m *mailbox) put(l letter) bool {
	if m.closed {
		m.mu.Unlock()
		return false
	}
	m.letters = append(m.letters, l)
	first := len(m.letters) == 1
	m.mu.Unlock()
	if first {
		select {
		case m.wake <- struct{}{}:
		default:
		}
	}
	return true
}

// take empties the mailbox into the space of an emptied batch.
func (m *mailbox) take(space []letter) []letter {
	m.mu.Lock()
	defer m.mu.Unlock()
	batch := m.letters
	m.letters = space[:0]
	if len(batch) >= maxMailbox {
		m.room.Broadcast()
	}
	return batch
}

// close lets nothing more in and gives what is there.
func (m *mailbox) close() []letter {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	m.room.Broadcast()
	rest := m.letters
	m.letters = nil
	return rest
}
