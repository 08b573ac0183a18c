package segment

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"sync"
)

// indexStrideBytes is how far apart a segment's index entries are: what a read
// passes over at most before it finds its position, against 16 bytes of memory.
const indexStrideBytes = 32 << 10

// file is one segment. It is opened when somebody uses it and closed when nobody
// does, so that a long log holds no descriptors; who uses it may go on after the
// file is unlinked.
type file struct {
	path  string
	first uint64

	mu     sync.Mutex
	handle *os.File
	users  int
	// index are places of records, ascending, a stride apart; it grows as records
	// are written or passed.
	index []place
}

type place struct{ position, offset uint64 }

func newFile(dir string, first uint64) *file {
	return &file{
		path: filepath.Join(dir, fileName(first)), first: first,
		index: []place{{position: first, offset: HeaderBytes}},
	}
}

// acquire opens the file if need be. The caller holds the log's lock or uses the
// file already, so that it has not been unlinked before.
func (f *file) acquire() (*os.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.handle == nil {
		h, err := os.OpenFile(f.path, os.O_RDWR, 0)
		if err != nil {
			return nil, fmt.Errorf("segment: %w", err)
		}
		f.handle = h
	}
	f.users++
	return f.handle, nil
}

// create makes the file and acquires it; what was there is lost.
func (f *file) create() (*os.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	h, err := os.OpenFile(f.path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return nil, fmt.Errorf("segment: %w", err)
	}
	f.handle, f.users = h, f.users+1
	return h, nil
}

func (f *file) release() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.users--; f.users > 0 {
		return nil
	}
	h := f.handle
	f.handle = nil
	return h.Close()
}

// used tells whether somebody reads the file or has yet to sync it.
func (f *file) used() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.users > 0
}

// note remembers where a record is.
func (f *file) note(position, offset uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if offset >= f.index[len(f.index)-1].offset+indexStrideBytes {
		f.index = append(f.index, place{position: position, offset: offset})
	}
}

// near is the last known place at or before position.
func (f *file) near(position uint64) place {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := sort.Search(len(f.index), func(i int) bool { return f.index[i].position > position })
	return f.index[i-1]
}

func (f *file) corrupt(offset uint64, format string, args ...any) error {
	return &CorruptError{File: f.path, Offset: offset, Detail: fmt.Sprintf(format, args...)}
}

// readAt reads all of b; a file that ends before is corrupt.
func (f *file) readAt(h *os.File, b []byte, offset uint64) error {
	n, err := h.ReadAt(b, int64(offset))
	if err == io.EOF {
		return f.corrupt(offset+uint64(n), "the file ends here, before the end of the log")
	}
	if err != nil {
		return fmt.Errorf("segment: %w", err)
	}
	return nil
}
