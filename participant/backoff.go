package participant

import (
	"context"
	"math/rand/v2"
	"time"
)

// backoff pauses between tries: the pause doubles from first to most, and each
// is shortened by a random part of up to a half, so that clients that failed
// together do not come back together.
type backoff struct{ next, most time.Duration }

func newBackoff(first, most time.Duration) *backoff { return &backoff{next: first, most: most} }

// wait pauses, or returns the context's error at its end.
func (b *backoff) wait(ctx context.Context) error {
	pause := b.next - time.Duration(rand.Int64N(int64(b.next)/2+1))
	b.next = min(2*b.next, b.most)
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
