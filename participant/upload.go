package participant

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	cohortv1 "github.com/cohort-tx/cohort/api/cohort/v1"
)

const (
	// maxUploadTries bounds streams in a row that bring nothing forward, and
	// maxUploadRuns how often WriteTo is run for one capture.
	maxUploadTries = 8
	maxUploadRuns  = 4
	// uploadPatience bounds one upload: the coordinator gives up sooner.
	uploadPatience = 30 * time.Minute
)

// uploads sends captured states to a node, one at a time: a newer one ends the
// one before.
type uploads struct {
	mu      sync.Mutex
	current *upload
	closed  bool
}

// open lets uploads begin, again after stop.
func (u *uploads) open() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.closed = false
}

// begin sends a captured state in the background, once the one before has ended.
func (u *uploads) begin(next *upload) {
	u.mu.Lock()
	defer u.mu.Unlock()
	before := u.current
	next.ctx, next.cancel = context.WithTimeout(context.Background(), uploadPatience)
	next.done = make(chan struct{})
	if before != nil {
		before.cancel()
	}
	if u.closed {
		next.cancel()
	}
	u.current = next
	go func() {
		defer close(next.done)
		defer next.cancel()
		if before != nil {
			<-before.done
		}
		next.run()
	}()
}

// cancel ends the upload under way.
func (u *uploads) cancel() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.current != nil {
		u.current.cancel()
	}
}

// stop ends it and waits: a WriteTo that does not return is left behind.
func (u *uploads) stop() {
	u.mu.Lock()
	u.closed = true
	current := u.current
	u.mu.Unlock()
	if current == nil {
		return
	}
	current.cancel()
	grace := time.NewTimer(closeGrace)
	defer grace.Stop()
	select {
	case <-current.done:
	case <-grace.C:
	}
}

// upload is one captured state on its way to a node.
type upload struct {
	client *Client
	header *cohortv1.CaptureHeader
	state  io.WriterTo
	// failed is told when it is given up for another reason than that it is not
	// wanted any more.
	failed func(error)

	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{}

	window *uploadWindow
	writer chan struct{} // closed when the window's WriteTo has returned
	runs   int
}

func (u *upload) run() {
	err := u.send()
	u.endWriter()
	if c, ok := u.state.(io.Closer); ok {
		if closing := c.Close(); closing != nil {
			u.client.opts.logger.Warn("a captured state could not be closed", "group", u.header.Group, "participant", u.header.Participant, "error", closing)
		}
	}
	if err != nil && !errors.Is(u.ctx.Err(), context.Canceled) {
		u.failed(fmt.Errorf("send the captured state: %w", err))
	}
}

// send tries until all is stored: over another stream where one breaks, from the
// offset that the node names then.
func (u *upload) send() error {
	pause, tries, before := newBackoff(50*time.Millisecond, 2*time.Second), 0, uint64(0)
	for {
		reached, err := u.try()
		switch {
		case err == nil:
			return nil
		case u.ctx.Err() != nil:
			return u.ctx.Err()
		case refusedCapture(err):
			return requestError(u.ctx, "write capture", u.header.Group, err)
		}
		if reached > before {
			before, tries, pause = reached, 0, newBackoff(50*time.Millisecond, 2*time.Second)
		}
		if tries++; tries >= maxUploadTries || u.runs >= maxUploadRuns && !u.window.has(reached) {
			return err
		}
		if pause.wait(u.ctx) != nil {
			return u.ctx.Err()
		}
	}
}

// refusedCapture tells that the node will not take this capture, however often it
// is sent.
func refusedCapture(err error) bool {
	switch status.Code(err) {
	case codes.InvalidArgument, codes.NotFound, codes.Unimplemented, codes.FailedPrecondition:
		return true
	}
	return false
}

// try is one stream. reached is what the node had stored in the end.
func (u *upload) try() (reached uint64, err error) {
	ctx, cancel := context.WithCancel(u.ctx)
	defer cancel()
	addr := u.client.target(u.header.Group)
	conn, err := u.client.conn(addr)
	if err != nil {
		return 0, err
	}
	defer func() {
		if status.Code(err) == codes.Unavailable {
			u.client.failed(u.header.Group, addr)
		}
	}()
	stream, err := cohortv1.NewParticipantsClient(conn).WriteCapture(ctx)
	if err == nil {
		err = stream.Send(&cohortv1.CaptureChunk{Header: u.header})
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	wanted, err := stream.Recv()
	if err != nil {
		return 0, err
	}
	if wanted.Done {
		return wanted.Offset, nil
	}
	reached = wanted.Offset
	if err := u.writeFrom(reached); err != nil {
		return reached, err
	}
	// The receiver and the sender of one stream; the first one's end ends the other.
	var progress atomic.Uint64
	progress.Store(reached)
	received := make(chan error, 1)
	window := u.window
	go func() {
		err := u.receive(stream, window, &progress)
		cancel()
		window.nudge()
		received <- err
	}()
	stop := context.AfterFunc(ctx, window.nudge)
	defer stop()
	sendErr := u.sendFrom(ctx, stream, window, reached)
	if sendErr != nil {
		cancel()
	}
	err = <-received
	if errors.Is(sendErr, errUploadOver) || errors.Is(sendErr, io.EOF) {
		sendErr = nil // the receiver knows why
	}
	if err != nil && sendErr != nil {
		err = sendErr
	}
	return progress.Load(), err
}

// writeFrom has a WriteTo run whose bytes from an offset on are not gone.
func (u *upload) writeFrom(offset uint64) error {
	if u.window != nil && u.window.has(offset) {
		u.window.store(offset)
		return nil
	}
	if u.runs >= maxUploadRuns {
		return fmt.Errorf("the node wants byte %d again, and WriteTo has run %d times", offset, u.runs)
	}
	u.endWriter()
	u.runs++
	window, writer := newUploadWindow(offset, uploadWindowBytes), make(chan struct{})
	u.window, u.writer = window, writer
	go func() {
		defer close(writer)
		window.finish(u.write(window))
	}()
	return nil
}

func (u *upload) write(window *uploadWindow) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("WriteTo panicked: %v", p)
			u.client.opts.logger.Error("a captured state panicked", "group", u.header.Group, "participant", u.header.Participant, "panic", p, "stack", string(debug.Stack()))
		}
	}()
	_, err = u.state.WriteTo(window)
	return err
}

func (u *upload) endWriter() {
	if u.window != nil {
		u.window.stop()
		<-u.writer
	}
}

func (u *upload) sendFrom(ctx context.Context, stream cohortv1.Participants_WriteCaptureClient, window *uploadWindow, offset uint64) error {
	for {
		data, total, sum, err := window.next(offset, func() bool { return ctx.Err() != nil })
		if errors.Is(err, io.EOF) {
			if err := stream.Send(&cohortv1.CaptureChunk{Offset: total, End: &cohortv1.CaptureEnd{Bytes: total, Sha256: sum}}); err != nil {
				return err
			}
			return stream.CloseSend()
		}
		if err != nil {
			return err
		}
		if err := stream.Send(&cohortv1.CaptureChunk{Offset: offset, Data: data}); err != nil {
			return err
		}
		offset += uint64(len(data))
	}
}

func (u *upload) receive(stream cohortv1.Participants_WriteCaptureClient, window *uploadWindow, progress *atomic.Uint64) error {
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return status.Error(codes.Unavailable, "the node ended the stream before all was stored")
		}
		if err != nil {
			return err
		}
		progress.Store(max(progress.Load(), m.Offset))
		window.store(m.Offset)
		if m.Done {
			return nil
		}
	}
}
