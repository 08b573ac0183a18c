package txlog

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/cohort-tx/cohort/txlog/checkpoint"
	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/machine"
)

// maxUploads bounds the captured states that a group's instances send to a node at
// once: each takes about 12 MiB of memory.
const maxUploads = 8

// NotWantedError says why an instance's captured state is not taken.
type NotWantedError struct{ Detail string }

func (e *NotWantedError) Error() string { return "txlog: " + e.Detail }

func notWanted(format string, args ...any) error {
	return &NotWantedError{Detail: fmt.Sprintf(format, args...)}
}

// StateMismatchError says that a captured state is not what its instance says that
// it is.
type StateMismatchError struct{ Detail string }

func (e *StateMismatchError) Error() string { return "txlog: " + e.Detail }

// ErrReplaced: another stream goes on with the upload.
var ErrReplaced = errors.New("txlog: another stream of the instance goes on with its captured state")

// Upload is a captured state on its way from an instance to this node. It outlives
// the streams that bring it, until the records do not want it any more.
//
//	.part ─ Write … ─▶ .part, whole ─ Store ─▶ named by its digest ─▶ reported ─▶ recorded
//
// After a crash it goes on behind what was durable; after the file has its name and
// before the record says so, from the start.
type Upload struct {
	captures *captures
	id       checkpoint.UploadID
	// holder has a token while a stream, or the keeper, works on what is below.
	holder chan struct{}
	// cancel ends the stream that holds it; guarded by captures.mu.
	cancel context.CancelCauseFunc
	// over is why it is not wanted any more; guarded by captures.mu.
	over error
	// made is the report once it is stored; guarded by captures.mu.
	made *command.ReportCapture

	// writer is the holder's; nil before the first stream.
	writer *checkpoint.StateWriter
}

func newUpload(c *captures, id checkpoint.UploadID) *Upload {
	return &Upload{captures: c, id: id, holder: make(chan struct{}, 1)}
}

func (u *Upload) path() string { return filepath.Join(u.captures.dir, u.id.PartName()) }

func (u *Upload) madeLocked() checkpoint.StateID {
	if u.made == nil {
		return checkpoint.StateID{}
	}
	return checkpoint.StateID{Participant: u.made.Participant, Position: u.made.Position, Digest: u.made.Section.Digest}
}

// wantedCapture finds the record of a capture that is asked for.
func wantedCapture(rec *records, id checkpoint.UploadID) (*machine.Capture, error) {
	for i := range rec.checkpoints {
		c := &rec.checkpoints[i]
		if c.Number != id.Checkpoint {
			continue
		}
		for j := range c.Captures {
			s := &c.Captures[j]
			if s.Participant != id.Participant {
				continue
			}
			if s.Epoch != id.Epoch || s.Position != id.Position || c.Incarnation != rec.meta.Incarnation {
				return nil, notWanted("checkpoint %d wants the state of %s as of position %d under activation epoch %d, and this one is as of position %d under %d",
					id.Checkpoint, id.Participant, s.Position, s.Epoch, id.Position, id.Epoch)
			}
			if c.State != machine.CheckpointWriting && s.State != machine.CaptureStored {
				return nil, notWanted("checkpoint %d is %s: %s", c.Number, c.State, c.Detail)
			}
			return s, nil
		}
		return nil, notWanted("checkpoint %d does not want the state of %s", id.Checkpoint, id.Participant)
	}
	return nil, notWanted("there is no checkpoint %d", id.Checkpoint)
}

// Captured gives what the log says of a capture that it asked for: it is still
// wanted, or stored. The records must be as new as what the instance was told. The
// error is a *NotWantedError when it is neither.
func (k *Keeper) Captured(incarnation uint64, id checkpoint.UploadID) (*machine.Capture, error) {
	rec, err := k.read()
	if err != nil {
		return nil, err
	}
	if incarnation != rec.meta.Incarnation {
		return nil, notWanted("the state is of incarnation %d, and the group is in %d", incarnation, rec.meta.Incarnation)
	}
	s, err := wantedCapture(&rec, id)
	if err != nil {
		return nil, err
	}
	if s.State != machine.CaptureWanted && s.State != machine.CaptureStored {
		return nil, notWanted("the state of %s for checkpoint %d is %s already: %s", id.Participant, id.Checkpoint, s.State, s.Detail)
	}
	return s, nil
}

// Upload gives a stream of an instance the upload to write a wanted state to, and
// ends an earlier stream that did. streaming is ctx, and ends with a cause when the
// stream is replaced, or the state not wanted any more. release must be called.
func (k *Keeper) Upload(ctx context.Context, id checkpoint.UploadID) (streaming context.Context, u *Upload, release func(), err error) {
	if err := k.room(); err != nil {
		return nil, nil, nil, err
	}
	streaming, cancel := context.WithCancelCause(ctx)
	u, err = k.captures.take(streaming, id, cancel)
	if err != nil {
		cancel(nil)
		return nil, nil, nil, err
	}
	release = func() {
		u.release()
		cancel(nil)
	}
	if err := u.open(); err != nil {
		release()
		return nil, nil, nil, err
	}
	return streaming, u, release, nil
}

// room is an error when this node's disk is about to be full.
func (k *Keeper) room() error {
	if free := k.Usage().FreeBytes; free > 0 && free < k.config.MinFree {
		return fmt.Errorf("%w: %d bytes are free on this node's disk, and limits.min_free_disk is %d", ErrNoRoom, free, k.config.MinFree)
	}
	return nil
}

// take makes a stream the holder of an upload.
func (c *captures) take(ctx context.Context, id checkpoint.UploadID, cancel context.CancelCauseFunc) (*Upload, error) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil, ErrClosed
	}
	if c.streaming >= maxUploads {
		c.mu.Unlock()
		return nil, fmt.Errorf("%w: %d captured states are coming in already", ErrOverloaded, maxUploads)
	}
	u := c.uploads[id]
	if u == nil {
		u = newUpload(c, id)
		c.uploads[id] = u
	}
	if u.cancel != nil {
		u.cancel(ErrReplaced)
	}
	u.cancel = cancel
	c.streaming++
	c.mu.Unlock()
	failed := func(err error) (*Upload, error) {
		c.mu.Lock()
		c.streaming--
		c.mu.Unlock()
		return nil, err
	}
	select {
	case u.holder <- struct{}{}:
	case <-ctx.Done():
		return failed(context.Cause(ctx))
	}
	c.mu.Lock()
	over := u.over
	c.mu.Unlock()
	if over != nil {
		<-u.holder
		return failed(over)
	}
	return u, nil
}

// open makes the writer, on what is there.
func (u *Upload) open() (err error) {
	if u.writer == nil && u.stored() == nil {
		u.writer, err = checkpoint.ResumeState(u.path(), checkpoint.StateSection(u.id.Participant))
	}
	return err
}

func (u *Upload) stored() *command.ReportCapture {
	u.captures.mu.Lock()
	defer u.captures.mu.Unlock()
	return u.made
}

// Offset is how many bytes of the state are here, durable or not.
func (u *Upload) Offset() uint64 {
	if made := u.stored(); made != nil {
		return made.Bytes
	}
	return u.writer.Taken()
}

// Write takes the bytes at Offset.
func (u *Upload) Write(p []byte) (int, error) {
	if made := u.stored(); made != nil {
		return 0, &StateMismatchError{Detail: fmt.Sprintf("the state of %s had %d bytes before, and now has more", u.id.Participant, made.Bytes)}
	}
	if uint64(len(p)) > checkpoint.MaxStateBytes-u.writer.Taken() {
		return 0, &StateMismatchError{Detail: fmt.Sprintf("the state of %s is larger than %d bytes, the most that is taken", u.id.Participant, uint64(checkpoint.MaxStateBytes))}
	}
	return u.writer.Write(p)
}

// Store ends the state, whose size and sum the instance tells, and gives what is to
// be reported of it: it is whole and durable. Done again it says the same again. A
// *StateMismatchError leaves nothing of it.
func (u *Upload) Store(node string, bytes uint64, sum [32]byte) (command.ReportCapture, error) {
	if made := u.stored(); made != nil {
		return *made, mismatch(u.id.Participant, made.Bytes, made.SHA256, bytes, sum)
	}
	f, err := u.writer.Finish(u.id.Position)
	if err == nil {
		err = mismatch(u.id.Participant, f.State.Bytes, f.State.SHA256, bytes, sum)
	}
	err = errors.Join(err, u.writer.Close())
	u.writer = nil
	if err != nil {
		// What is there is of no use: a writer that has failed, or ended, does not go on.
		return command.ReportCapture{}, errors.Join(err, checkpoint.RemoveState(u.path(), false))
	}
	id := checkpoint.StateID{Participant: u.id.Participant, Position: u.id.Position, Digest: f.Digest}
	if err := checkpoint.StoreState(u.captures.dir, u.id.PartName(), id); err != nil {
		return command.ReportCapture{}, err
	}
	made := command.ReportCapture{
		Number: u.id.Checkpoint, Participant: u.id.Participant, Epoch: u.id.Epoch, Position: u.id.Position, Node: node,
		Section: f.Section(), Bytes: f.State.Bytes, SHA256: f.State.SHA256,
	}
	u.captures.mu.Lock()
	u.made = &made
	u.captures.mu.Unlock()
	u.captures.put(id, f)
	return made, nil
}

func mismatch(participant string, bytes uint64, sum [32]byte, saidBytes uint64, said [32]byte) error {
	if bytes == saidBytes && sum == said {
		return nil
	}
	return &StateMismatchError{Detail: fmt.Sprintf("of the state of %s, %d bytes with SHA-256 %x came, and it is said to have %d with %x", participant, bytes, sum, saidBytes, said)}
}

// release lets another stream go on. What came is kept.
func (u *Upload) release() {
	if u.writer != nil {
		if err := u.writer.Park(); err != nil {
			// It goes on from what is in the file.
			_ = u.writer.Close()
			u.writer = nil
		}
	}
	u.captures.mu.Lock()
	u.captures.streaming--
	u.captures.mu.Unlock()
	<-u.holder
}

// endUploads ends those that the records do not want any more, and removes what
// has come of them. One that a stream still works on is ended in a later turn.
func (c *captures) endUploads(wanted func(checkpoint.UploadID) error, erase bool) error {
	c.mu.Lock()
	var ended []*Upload
	for id, u := range c.uploads {
		if u.over == nil {
			u.over = wanted(id)
		}
		if u.over == nil {
			continue
		}
		if u.cancel != nil {
			u.cancel(u.over)
		}
		select {
		case u.holder <- struct{}{}: // for good
			ended = append(ended, u)
			delete(c.uploads, id)
		default:
		}
	}
	c.mu.Unlock()
	var errs []error
	for _, u := range ended {
		if u.writer != nil {
			errs = append(errs, u.writer.Close())
		}
		errs = append(errs, checkpoint.RemoveState(u.path(), erase))
	}
	return errors.Join(errs...)
}

// closeUploads ends all streams and waits for them; what came stays.
func (c *captures) closeUploads() {
	c.mu.Lock()
	c.closed = true
	all := make([]*Upload, 0, len(c.uploads))
	for _, u := range c.uploads {
		u.over = ErrClosed
		if u.cancel != nil {
			u.cancel(ErrClosed)
		}
		all = append(all, u)
	}
	c.mu.Unlock()
	for _, u := range all {
		u.holder <- struct{}{}
		if u.writer != nil {
			_ = u.writer.Close() // parked when its stream ended
		}
	}
}

// unreported are the stored ones that the records still wait for.
func (c *captures) unreported() []command.ReportCapture {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []command.ReportCapture
	for _, u := range c.uploads {
		if u.made != nil && u.over == nil {
			out = append(out, *u.made)
		}
	}
	return out
}
