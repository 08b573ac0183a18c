package participanttest

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
)

// piecesReader gives bytes in pieces of any size, and then end, or a panic as a
// crash would look from inside.
type piecesReader struct {
	data   []byte
	r      *rand.Rand
	end    error
	killed bool
	ended  bool
}

func (p *piecesReader) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	if len(p.data) == 0 {
		switch {
		case p.killed:
			panic("the process is killed")
		case p.end != nil:
			return 0, p.end
		}
		p.ended = true
		return 0, io.EOF
	}
	n := copy(b, p.data[:1+p.r.IntN(min(len(p.data), 64))])
	p.data = p.data[n:]
	return n, nil
}

// breakingWriter fails after so many bytes.
type breakingWriter struct {
	left  int
	broke bool
}

func (w *breakingWriter) Write(b []byte) (int, error) {
	if len(b) <= w.left {
		w.left -= len(b)
		return len(b), nil
	}
	w.broke = true
	n := w.left
	w.left = 0
	return n, errors.New("the node does not want it any more")
}

// handingWriter lets somebody else have a turn before each write.
type handingWriter struct {
	to   io.Writer
	hand chan struct{}
}

func (w *handingWriter) Write(b []byte) (int, error) {
	w.hand <- struct{}{}
	return w.to.Write(b)
}

// ending is a context that ends after it was looked at so often.
type ending struct {
	context.Context
	mu    sync.Mutex
	looks int
	done  chan struct{}
}

func newEnding(ctx context.Context, looks int) *ending {
	return &ending{Context: ctx, looks: looks, done: make(chan struct{})}
}

func (c *ending) look() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.looks--; c.looks < 0 {
		if c.looks == -1 {
			close(c.done)
		}
		return true
	}
	return false
}

func (c *ending) Done() <-chan struct{} {
	c.look()
	return c.done
}

func (c *ending) Err() error {
	if c.look() {
		return context.Canceled
	}
	return nil
}
