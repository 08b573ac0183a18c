package participant

import (
	"context"
	"sync"
	"time"
)

// work is what a serving App has under way: the goroutines of steps and votes,
// across streams. Handlers and voters have room of their own, so that votes do
// not wait for handlers that hang.
type work struct {
	ctx              context.Context
	cancel           context.CancelFunc
	handlers, voters chan struct{}

	mu       sync.Mutex
	running  int
	draining bool
	idle     chan struct{} // closed once draining and nothing runs
}

func newWork(parent context.Context) *work {
	ctx, cancel := context.WithCancel(parent)
	return &work{
		ctx: ctx, cancel: cancel, idle: make(chan struct{}),
		handlers: make(chan struct{}, maxHandlers), voters: make(chan struct{}, maxHandlers),
	}
}

// start runs fn in a goroutine, or tells that there is no room even to wait. fn
// takes its slot by the function it is given; it is freed when fn returns.
func (w *work) start(slots chan struct{}, fn func(slot func(context.Context) error)) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.draining || w.running >= maxWaitingSteps {
		return false
	}
	w.running++
	go func() {
		taken := false
		defer func() {
			if taken {
				<-slots
			}
			w.finished()
		}()
		fn(func(ctx context.Context) error {
			select {
			case slots <- struct{}{}:
				taken = true
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	return true
}

func (w *work) finished() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.running--; w.draining && w.running == 0 {
		close(w.idle)
	}
}

// drain takes nothing new; the channel is closed when all that runs has ended.
func (w *work) drain() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.draining {
		w.draining = true
		if w.running == 0 {
			close(w.idle)
		}
	}
	return w.idle
}

// end tells what still runs that nothing of it counts any more, and waits for it
// a last short while: a goroutine that heeds no context cannot be ended.
func (w *work) end() {
	w.cancel()
	t := time.NewTimer(closeGrace)
	defer t.Stop()
	select {
	case <-w.drain():
	case <-t.C:
	}
}

// within is ctx with a message's timeout, where it has one.
func within(ctx context.Context, timeoutMs int64) (context.Context, context.CancelFunc) {
	if timeoutMs <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Duration(timeoutMs)*time.Millisecond)
}
