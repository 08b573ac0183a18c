package participant

import (
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"sync"
)

const (
	// uploadWindowBytes bounds what of a captured state is kept to be sent again, and
	// with it how far WriteTo runs ahead of what the node has stored.
	uploadWindowBytes = 8 << 20
	// uploadChunkBytes is the size of one message.
	uploadChunkBytes = 256 << 10
)

// errUploadOver is what a WriteTo gets that nobody waits for any more.
var errUploadOver = errors.New("the capture is not wanted any more")

// uploadWindow is the piece of a captured state between what the node has stored
// and what WriteTo has written. The writer waits while it is full, the sender while
// there is nothing to send.
//
//	0 ──── stored ───────────── written ──── …
//	gone │  kept to be sent again │  not written yet
type uploadWindow struct {
	mu      sync.Mutex
	changed *sync.Cond
	most    int
	// stored is what the node has, from the first byte on; first and written bound
	// what is kept. first runs ahead of stored by nothing, behind it by part of a chunk.
	stored, first, written uint64
	chunks                 [][]byte
	sum                    hash.Hash
	// ended: WriteTo has returned, with err. over: it shall.
	ended, over bool
	err         error
}

func newUploadWindow(stored uint64, most int) *uploadWindow {
	w := &uploadWindow{most: most, stored: stored, sum: sha256.New()}
	w.changed = sync.NewCond(&w.mu)
	return w
}

// Write is WriteTo's: it waits while the window is full.
func (w *uploadWindow) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	total := len(p)
	for len(p) > 0 {
		for !w.over && w.written >= w.stored && w.written-w.first >= uint64(w.most) {
			w.changed.Wait()
		}
		if w.over {
			return total - len(p), errUploadOver
		}
		n := min(len(p), uploadChunkBytes)
		if last := len(w.chunks) - 1; last >= 0 && len(w.chunks[last]) < uploadChunkBytes {
			n = min(n, uploadChunkBytes-len(w.chunks[last]))
			w.chunks[last] = append(w.chunks[last], p[:n]...)
		} else {
			w.chunks = append(w.chunks, append(make([]byte, 0, uploadChunkBytes), p[:n]...))
		}
		w.sum.Write(p[:n])
		w.written += uint64(n)
		p = p[n:]
		w.trim()
		w.changed.Broadcast()
	}
	return total, nil
}

// trim lets go of whole chunks that are stored.
func (w *uploadWindow) trim() {
	for len(w.chunks) > 0 && w.first+uint64(len(w.chunks[0])) <= w.stored {
		if len(w.chunks) == 1 && len(w.chunks[0]) < uploadChunkBytes && !w.ended {
			return // still being filled
		}
		w.first += uint64(len(w.chunks[0]))
		w.chunks[0] = nil
		w.chunks = w.chunks[1:]
	}
}

// finish says that WriteTo has returned.
func (w *uploadWindow) finish(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended, w.err = true, err
	w.changed.Broadcast()
}

// stop ends a WriteTo that is not wanted, and whoever waits.
func (w *uploadWindow) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	w.changed.Broadcast()
}

// store takes the node's word for what it has.
func (w *uploadWindow) store(offset uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stored = max(w.stored, offset)
	w.trim()
	w.changed.Broadcast()
}

// has tells whether everything from an offset on is there, or will be written.
func (w *uploadWindow) has(offset uint64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return offset >= w.first && w.err == nil && !w.over
}

// next gives bytes from an offset on, waiting for them; io.EOF at the end, then
// total and sum say what there was. The bytes are valid until they are stored.
// stopped tells that nobody sends any more.
func (w *uploadWindow) next(offset uint64, stopped func() bool) (data []byte, total uint64, sum []byte, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		switch {
		case w.over || stopped():
			return nil, 0, nil, errUploadOver
		case w.ended && w.err != nil:
			return nil, 0, nil, w.err
		case offset < w.written && offset >= w.first:
			return w.at(offset), 0, nil, nil
		case w.ended:
			return nil, w.written, w.sum.Sum(nil), io.EOF
		}
		w.changed.Wait()
	}
}

// at is the rest of the chunk that holds an offset, as far as it is filled.
func (w *uploadWindow) at(offset uint64) []byte {
	begin := w.first
	for _, c := range w.chunks {
		if offset < begin+uint64(len(c)) {
			return c[offset-begin : len(c) : len(c)]
		}
		begin += uint64(len(c))
	}
	panic("participant: an offset inside the window is in no chunk")
}

// nudge wakes who waits, to look whether it should go on.
func (w *uploadWindow) nudge() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.changed.Broadcast()
}
