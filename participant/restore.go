package participant

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	cohortv1 "github.com/cohort-tx/cohort/api/cohort/v1"
)

// restore replaces the state by a captured one.
func (o *ownState) restore(ctx context.Context, incarnation uint64, captured *cohortv1.CapturedState) error {
	at := Point{Incarnation: incarnation, Position: captured.GetPosition()}
	o.mu.Lock()
	// From the first byte on until the end the state is neither the old nor the new.
	o.touched, o.lost = true, true
	o.phase, o.unreported = cohortv1.Progress_PHASE_RESTORING, true
	o.dropChangesLocked()
	o.mu.Unlock()
	o.report()
	reading, cancel := context.WithCancel(ctx)
	defer cancel()
	r := &stateReader{ctx: reading, client: o.client, captured: captured, sum: sha256.New(), request: &cohortv1.ReadStateRequest{
		Group: o.app.group, Participant: o.app.participant, Incarnation: incarnation, Position: captured.GetPosition(), Digest: captured.GetDigest(),
	}}
	defer r.close()
	err := o.safely(func() error { return o.state.Restore(ctx, at, r) })
	if err == nil {
		// What Restore had no need for counts too: only the whole has a sum.
		_, err = io.Copy(io.Discard, r)
	}
	if r.err != nil && !errors.Is(r.err, io.EOF) {
		err = r.err // the cause, whatever Restore made of it
	}
	if err != nil {
		if errors.Is(err, ErrUnavailable) {
			return err
		}
		return o.stateError("restore", err)
	}
	return nil
}

// stateReader reads a captured state over as many streams as it takes, and checks
// the sum at its end. Its error stays.
type stateReader struct {
	ctx      context.Context
	client   *Client
	captured *cohortv1.CapturedState
	request  *cohortv1.ReadStateRequest

	stream cohortv1.Participants_ReadStateClient
	addr   string
	end    context.CancelFunc
	left   []byte
	offset uint64 // of what comes after left
	sum    hash.Hash
	err    error
}

func (r *stateReader) Read(p []byte) (int, error) {
	for len(r.left) == 0 && r.err == nil {
		r.left, r.err = r.next()
	}
	if len(r.left) == 0 {
		return 0, r.err
	}
	n := copy(p, r.left)
	r.left = r.left[n:]
	return n, nil
}

// next reads on, with a new stream where one breaks, until no node has given
// anything for the client's patience.
func (r *stateReader) next() ([]byte, error) {
	if r.offset == r.captured.GetBytes() {
		if sum := r.sum.Sum(nil); string(sum) != string(r.captured.GetSha256()) {
			return nil, fmt.Errorf("the captured state of position %d has sha256 %x, its record says %x", r.captured.GetPosition(), sum, r.captured.GetSha256())
		}
		return nil, io.EOF
	}
	pause, begun := newBackoff(20*time.Millisecond, time.Second), time.Now()
	for {
		data, err := r.receive()
		if err == nil {
			r.offset += uint64(len(data))
			r.sum.Write(data)
			return data, nil
		}
		r.close()
		err = requestError(r.ctx, "read state", r.request.Group, err)
		if !errors.Is(err, ErrUnavailable) || time.Since(begun) > r.client.opts.patience {
			return nil, err
		}
		r.client.failed(r.request.Group, r.addr)
		if pause.wait(r.ctx) != nil {
			return nil, r.ctx.Err()
		}
	}
}

// receive takes one chunk, of a new stream if there is none.
func (r *stateReader) receive() ([]byte, error) {
	if r.stream == nil {
		r.addr = r.client.target(r.request.Group)
		conn, err := r.client.conn(r.addr)
		if err != nil {
			return nil, err
		}
		r.request.Offset = r.offset
		var ctx context.Context
		ctx, r.end = context.WithCancel(r.ctx)
		if r.stream, err = cohortv1.NewParticipantsClient(conn).ReadState(ctx, r.request); err != nil {
			return nil, err
		}
	}
	chunk, err := r.stream.Recv()
	if errors.Is(err, io.EOF) {
		return nil, &RequestError{Op: "read state", Group: r.request.Group, kind: ErrUnavailable, Message: fmt.Sprintf("the node ended the stream at byte %d of %d", r.offset, r.captured.GetBytes())}
	}
	if err != nil {
		return nil, err
	}
	if data := chunk.GetData(); chunk.GetOffset() == r.offset && r.offset+uint64(len(data)) <= r.captured.GetBytes() && len(data) > 0 {
		return data, nil
	}
	return nil, fmt.Errorf("the node sent bytes %d to %d of a captured state of %d, and not from %d on",
		chunk.GetOffset(), chunk.GetOffset()+uint64(len(chunk.GetData())), r.captured.GetBytes(), r.offset)
}

func (r *stateReader) close() {
	if r.end != nil {
		r.end()
	}
	r.stream, r.end = nil, nil
}
