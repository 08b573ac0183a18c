package txlog

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/cohort-tx/cohort/txlog/checkpoint"
	"github.com/cohort-tx/cohort/txlog/machine"
)

// sweepAfter is how long a captured state must have been without use before its
// file goes: after a start the records may be older than the files for a while.
const sweepAfter = time.Minute

// captures keeps the files of participants' captured states on a node. A file that
// a checkpoint here shares takes no room of its own.
type captures struct {
	dir string

	mu      sync.Mutex
	files   map[checkpoint.StateID]*captureFile
	fetches map[checkpoint.StateID]bool
	uploads map[checkpoint.UploadID]*Upload
	// streaming counts the uploads that an instance sends to now.
	streaming int
	closed    bool
}

// captureFile is a whole one.
type captureFile struct {
	// known is what a manifest says of it, once all of it was read in this process.
	known *checkpoint.SectionFile
	// inUse counts who reads it.
	inUse int
	// idle is since when no record needs it, zero while one does.
	idle time.Time
}

func openCaptures(dir string) (*captures, error) {
	c := &captures{
		dir: dir, files: make(map[checkpoint.StateID]*captureFile), fetches: make(map[checkpoint.StateID]bool),
		uploads: make(map[checkpoint.UploadID]*Upload),
	}
	found, err := checkpoint.ListStates(dir)
	if err != nil {
		return nil, err
	}
	for _, id := range found.Whole {
		c.files[id] = &captureFile{}
	}
	for _, id := range found.Fetches {
		c.fetches[id] = true
	}
	for _, id := range found.Uploads {
		c.uploads[id] = newUpload(c, id)
	}
	return c, nil
}

// adopt takes over the captured states in a directory, which is removed.
func (c *captures) adopt(from string) error {
	if _, err := os.Lstat(from); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	found, err := checkpoint.ListStates(from)
	if err != nil {
		return err
	}
	for _, id := range found.Whole {
		if err := checkpoint.ShareState(filepath.Join(from, id.FileName()), c.dir, id); err != nil {
			return err
		}
		c.add(id)
	}
	return os.RemoveAll(from)
}

func (c *captures) path(id checkpoint.StateID) string { return filepath.Join(c.dir, id.FileName()) }

func stateID(s *machine.Capture) checkpoint.StateID {
	return checkpoint.StateID{Participant: s.Participant, Position: s.Position, Digest: s.Section.Digest}
}

func stateOf(s *machine.Capture) checkpoint.State {
	return checkpoint.State{Position: s.Position, Bytes: s.Bytes, SHA256: s.SHA256}
}

// has tells whether the file is here, and what is known of it.
func (c *captures) has(id checkpoint.StateID) (known *checkpoint.SectionFile, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.files[id]
	if f == nil {
		return nil, false
	}
	return f.known, true
}

// add records a whole file of which nothing else is known.
func (c *captures) add(id checkpoint.StateID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.files[id] == nil {
		c.files[id] = &captureFile{}
	}
}

// fetching records that a part of a file may be there.
func (c *captures) fetching(id checkpoint.StateID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fetches[id] = true
}

// put records a whole file.
func (c *captures) put(id checkpoint.StateID, f checkpoint.SectionFile) {
	c.mu.Lock()
	defer c.mu.Unlock()
	file := c.files[id]
	if file == nil {
		file = &captureFile{}
		c.files[id] = file
	}
	file.known = &f
	delete(c.fetches, id)
}

// inspect reads a file that is here to its end; one that is damaged is removed.
func (c *captures) inspect(ctx context.Context, s *machine.Capture) (checkpoint.SectionFile, error) {
	id := stateID(s)
	known, ok := c.has(id)
	if !ok {
		return checkpoint.SectionFile{}, fmt.Errorf("%w: the state of %s at position %d", ErrNoState, s.Participant, s.Position)
	}
	if known != nil && *known.State == stateOf(s) {
		return *known, nil
	}
	f, err := checkpoint.InspectState(ctx, c.path(id), s.Section, stateOf(s))
	var corrupt *checkpoint.CorruptError
	if errors.As(err, &corrupt) {
		return f, errors.Join(err, c.drop(id, false))
	}
	if err == nil {
		c.put(id, f)
	}
	return f, err
}

// hold gives a file's path; it stays until release is called.
func (c *captures) hold(id checkpoint.StateID) (path string, release func(), ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.files[id]
	if f == nil {
		return "", nil, false
	}
	f.inUse++
	return c.path(id), sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		f.inUse--
	}), true
}

// drop removes a file.
func (c *captures) drop(id checkpoint.StateID, erase bool) error {
	c.mu.Lock()
	delete(c.files, id)
	c.mu.Unlock()
	return checkpoint.RemoveState(c.path(id), erase)
}

// sweep removes what nobody needs: whole files that were not needed for a while,
// and what has come of others.
func (c *captures) sweep(now time.Time, needed func(checkpoint.StateID) bool, erase bool) error {
	c.mu.Lock()
	var idle []checkpoint.StateID
	for id, f := range c.files {
		switch {
		case needed(id) || f.inUse > 0 || c.pendingLocked(id):
			f.idle = time.Time{}
		case f.idle.IsZero():
			f.idle = now
		case now.Sub(f.idle) >= sweepAfter:
			idle = append(idle, id)
			delete(c.files, id)
		}
	}
	var fetches []checkpoint.StateID
	for id := range c.fetches {
		if !needed(id) {
			fetches = append(fetches, id)
			delete(c.fetches, id)
		}
	}
	c.mu.Unlock()
	var errs []error
	for _, id := range idle {
		errs = append(errs, checkpoint.RemoveState(c.path(id), erase))
	}
	for _, id := range fetches {
		errs = append(errs, checkpoint.RemoveState(filepath.Join(c.dir, id.FetchName()), erase))
	}
	return errors.Join(errs...)
}

// pendingLocked tells whether an upload has made the file and the records do not
// say so yet.
func (c *captures) pendingLocked(id checkpoint.StateID) bool {
	for _, u := range c.uploads {
		if u.madeLocked() == id {
			return true
		}
	}
	return false
}

// paths are those of the whole files.
func (c *captures) paths() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]string, 0, len(c.files))
	for id := range c.files {
		out = append(out, c.path(id))
	}
	return out
}
