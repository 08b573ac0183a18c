package groups

import (
	"context"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
)

const (
	// instanceQueueMessages and instanceQueueBytes bound what waits for one
	// instance to read it. An instance that lets it fill up is detached: making
	// the session wait would stop every other instance of its group.
	instanceQueueMessages = 8192
	instanceQueueBytes    = 64 << 20
	// maxOutstandingCalls of one instance; the answer to an older one is dropped.
	// It is above what limits.in_flight admits by default.
	maxOutstandingCalls = 16384
)

// agentInstance is one attached instance: what the agent knows about it, and
// the messages on their way to it.
type agentInstance struct {
	hello *pb.Hello
	// cancel ends the stream.
	cancel context.CancelFunc

	mu    sync.Mutex
	cause error // why the agent ended the stream, if it did
	// queue holds messages for the instance in order; ready has room for one token,
	// there when the queue is not empty.
	queue      []*pb.NodeMessage
	queueBytes int
	ready      chan struct{}
	// calls maps the numbers that the instance sees to where they came from.
	// Coordinators number their calls independently, so the instance gets numbers
	// of the agent's own.
	calls    map[uint64]agentCall
	lastCall uint64
	// oldestCall is a lower bound of the numbers in calls.
	oldestCall uint64
}

// agentCall is where a call came from.
type agentCall struct {
	link *agentLink
	call uint64
}

func newAgentInstance(hello *pb.Hello, cancel context.CancelFunc) *agentInstance {
	return &agentInstance{
		hello:      hello,
		cancel:     cancel,
		ready:      make(chan struct{}, 1),
		calls:      make(map[uint64]agentCall),
		oldestCall: 1,
	}
}

// key identifies the instance within its group.
func (in *agentInstance) key() instanceKey {
	return instanceKey{in.hello.GetParticipant(), in.hello.GetInstance()}
}

type instanceKey struct{ participant, instance string }

// end ends the instance's stream with an error that it gets to see.
func (in *agentInstance) end(cause error) {
	in.mu.Lock()
	if in.cause == nil {
		in.cause = cause
	}
	in.mu.Unlock()
	in.cancel()
}

func (in *agentInstance) endCause() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.cause
}

// deliver queues a message of the coordinator, never blocking. The message is
// the caller's to give away: call numbers are rewritten in place.
func (in *agentInstance) deliver(link *agentLink, m *pb.NodeMessage) {
	size := proto.Size(m)
	in.mu.Lock()
	if len(in.queue) >= instanceQueueMessages || in.queueBytes+size > instanceQueueBytes {
		in.mu.Unlock()
		in.end(status.Errorf(codes.ResourceExhausted,
			"the instance does not read its messages: more than %d messages or %d bytes are waiting", instanceQueueMessages, instanceQueueBytes))
		return
	}
	switch {
	case m.GetStep() != nil:
		m.GetStep().Call = in.registerLocked(link, m.GetStep().GetCall())
	case m.GetPrepare() != nil:
		m.GetPrepare().Call = in.registerLocked(link, m.GetPrepare().GetCall())
	}
	in.queue = append(in.queue, m)
	in.queueBytes += size
	in.mu.Unlock()
	select {
	case in.ready <- struct{}{}:
	default: // a token is there already
	}
}

func (in *agentInstance) registerLocked(link *agentLink, call uint64) uint64 {
	for len(in.calls) >= maxOutstandingCalls {
		delete(in.calls, in.oldestCall)
		in.oldestCall++
	}
	in.lastCall++
	in.calls[in.lastCall] = agentCall{link, call}
	return in.lastCall
}

// resolve takes the number of an answered call back to the coordinator's own;
// false when it was not asked through link, or has been answered.
func (in *agentInstance) resolve(link *agentLink, number uint64) (uint64, bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	call, ok := in.calls[number]
	delete(in.calls, number)
	return call.call, ok && call.link == link
}

// send writes queued messages to the stream until it or ctx ends.
func (in *agentInstance) send(ctx context.Context, stream pb.Participants_AttachServer) error {
	for {
		select {
		case <-in.ready:
		case <-ctx.Done():
			return in.endCause()
		}
		in.mu.Lock()
		batch := in.queue
		in.queue, in.queueBytes = nil, 0
		in.mu.Unlock()
		for _, m := range batch {
			if err := stream.Send(m); err != nil {
				return err
			}
		}
	}
}
