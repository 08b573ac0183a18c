package coordinator

import (
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/cohort-tx/cohort/txlog/command"
)

// Bounds of read sessions. Each pins versions that could otherwise be discarded.
const (
	// maxReadSessions open on one node.
	maxReadSessions = 4096
	// defaultReadIdle and maxReadIdle bound how long a session may be idle.
	defaultReadIdle = 30 * time.Second
	maxReadIdle     = 5 * time.Minute
	// maxReadLife ends a session that is never idle: the store must be able to
	// discard what it pins.
	maxReadLife = 15 * time.Minute
	// readReapEvery is how far beyond its bounds a session may live.
	readReapEvery = time.Second
	// A session's number tells the node that holds it: its replica in the
	// directory, which is never given twice, above readNumberBits random ones. So
	// any node can send a read to where its session is.
	readNumberBits = 40
)

// readSession is a pinned snapshot that a read-only transaction reads.
type readSession struct {
	group       string
	incarnation uint64
	position    uint64
	view        View
	idle        time.Duration
	begun       time.Time

	// The registry's mu guards the rest.
	used  time.Time
	users int
	ended bool // out of the registry; the last user closes the view
}

// readSessions holds the read sessions of one node and ends those whose time is
// over. It is safe for concurrent use.
type readSessions struct {
	now func() time.Time

	mu       sync.Mutex
	sessions map[uint64]*readSession
	closed   bool
	stop     chan struct{}
	reaping  sync.WaitGroup
}

func newReadSessions(now func() time.Time) *readSessions {
	r := &readSessions{now: now, sessions: make(map[uint64]*readSession), stop: make(chan struct{})}
	r.reaping.Go(r.reap)
	return r
}

// close ends every session.
func (r *readSessions) close() {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return
	}
	r.closed = true
	for number, s := range r.sessions {
		r.endLocked(number, s)
	}
	r.mu.Unlock()
	close(r.stop)
	r.reaping.Wait()
}

// open registers a session, whose view belongs to the registry from then on,
// also when it is refused.
func (r *readSessions) open(node uint64, s *readSession) (uint64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || len(r.sessions) >= maxReadSessions {
		s.view.Close()
		if r.closed {
			return 0, errClosing()
		}
		return 0, failure(codes.ResourceExhausted, reasonOverloaded, []string{"group", s.group},
			"this node holds %d read sessions, its bound; end those that are done, or ask another node", maxReadSessions)
	}
	s.begun = r.now()
	s.used = s.begun
	if s.idle == 0 {
		s.idle = defaultReadIdle
	}
	s.idle = min(s.idle, maxReadIdle)
	for {
		number := node<<readNumberBits | rand.Uint64N(1<<readNumberBits-1) + 1
		if _, taken := r.sessions[number]; !taken {
			r.sessions[number] = s
			return number, nil
		}
	}
}

// use gives a session to one reader, who releases it.
func (r *readSessions) use(group string, number uint64) (*readSession, func(), error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sessions[number]
	if s != nil && s.group == group && r.overLocked(s) {
		r.endLocked(number, s)
		s = nil
	}
	if s == nil || s.group != group {
		return nil, nil, &Aborted{Reason: command.ReasonSnapshotTooOld, Detail: "there is no such read session, or its time is over; begin another"}
	}
	s.users++
	return s, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		s.used = r.now()
		s.users--
		if s.ended && s.users == 0 {
			s.view.Close()
		}
	}, nil
}

// end ends a session; one that is not there has ended.
func (r *readSessions) end(group string, number uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.sessions[number]; s != nil && s.group == group {
		r.endLocked(number, s)
	}
}

func (r *readSessions) endLocked(number uint64, s *readSession) {
	delete(r.sessions, number)
	s.ended = true
	if s.users == 0 {
		s.view.Close()
	}
}

func (r *readSessions) overLocked(s *readSession) bool {
	now := r.now()
	return s.users == 0 && now.Sub(s.used) > s.idle || now.Sub(s.begun) > maxReadLife
}

func (r *readSessions) reap() {
	ticker := time.NewTicker(readReapEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-r.stop:
			return
		}
		r.mu.Lock()
		for number, s := range r.sessions {
			if r.overLocked(s) {
				r.endLocked(number, s)
			}
		}
		r.mu.Unlock()
	}
}

// readNode is the directory replica of the node that holds a read session.
func readNode(number uint64) uint64 { return number >> readNumberBits }
