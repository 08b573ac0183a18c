package participant

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
)

// Without it the bytes that a node gets could differ from those that WriteTo wrote,
// in any order of writing, sending, acknowledging and beginning again.
func TestUploadWindowGivesWhatWasWritten(t *testing.T) {
	never := func() bool { return false }
	for seed := range uint64(8) {
		r := rand.New(rand.NewPCG(seed, 2))
		state := make([]byte, r.IntN(2<<20))
		for i := range state {
			state[i] = byte(i) ^ byte(i>>8) ^ byte(i>>16)
		}
		begin := uint64(0)
		if len(state) > 0 {
			begin = r.Uint64N(uint64(len(state)))
		}
		w := newUploadWindow(begin, 600<<10)
		pieces := rand.New(rand.NewPCG(seed, 3))
		go func() {
			for left := state; len(left) > 0; {
				n := min(len(left), 1+pieces.IntN(400<<10))
				if _, err := w.Write(left[:n]); err != nil {
					w.finish(err)
					return
				}
				left = left[n:]
			}
			w.finish(nil)
		}()
		got := bytes.Clone(state[:begin])
		sent, stored := begin, begin
		for {
			if !w.has(sent) {
				t.Fatalf("seed %d: byte %d is gone", seed, sent)
			}
			data, total, sum, err := w.next(sent, never)
			if errors.Is(err, io.EOF) {
				want := sha256.Sum256(state)
				if total != uint64(len(state)) || !bytes.Equal(sum, want[:]) {
					t.Fatalf("seed %d: %d bytes, sum %x", seed, total, sum)
				}
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			got = append(got[:sent], data...)
			sent += uint64(len(data))
			switch n := r.IntN(4); {
			case n == 0: // the stream breaks: again from what is stored
				sent = stored
			case n > 1 || sent-stored > 200<<10: // a node says so often enough
				stored = sent
				w.store(stored)
			}
			if kept := w.kept(); kept > 600<<10+uploadChunkBytes {
				t.Fatalf("seed %d: %d bytes are kept", seed, kept)
			}
		}
		if !bytes.Equal(got, state) {
			t.Fatalf("seed %d: other bytes", seed)
		}
	}
}

func (w *uploadWindow) kept() (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.chunks {
		n += len(c)
	}
	return n
}

// Without it a WriteTo whose capture is not wanted would stay for ever, and its
// error would pass for the state's end.
func TestUploadWindowEnds(t *testing.T) {
	w := newUploadWindow(0, 10)
	done := make(chan error)
	go func() {
		_, err := w.Write(make([]byte, 100<<10))
		if err == nil {
			_, err = w.Write([]byte("x"))
		}
		done <- err
	}()
	w.stop()
	if err := <-done; !errors.Is(err, errUploadOver) {
		t.Error(err)
	}
	if _, _, _, err := w.next(0, func() bool { return false }); !errors.Is(err, errUploadOver) {
		t.Error(err)
	}
	w = newUploadWindow(0, 10)
	w.finish(errors.New("broken"))
	if _, _, _, err := w.next(0, func() bool { return false }); err == nil || errors.Is(err, io.EOF) {
		t.Error(err)
	}
	if w.has(0) {
		t.Error("what comes after an error is not to be had")
	}
}
