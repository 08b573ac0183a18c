package store

import (
	"io/fs"
	"os"
	"path/filepath"
)

// DiskBytes is what the store's files take on the disk.
func (s *Store) DiskBytes() int64 {
	var sum int64
	// Files come and go meanwhile: what cannot be looked at is not counted.
	_ = filepath.WalkDir(s.options.Dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := os.Lstat(path); err == nil {
				sum += allocated(info)
			}
		}
		return nil
	})
	return sum
}

// Reclaim has badger merge its levels, which throws away what lies below the
// discard floor and is superseded or deleted. It takes as long as there is data,
// beside reads and writes; badger does the same by itself, later, as writes come.
func (s *Store) Reclaim() error {
	s.mu.RLock()
	g, closed := s.current, s.closed
	s.mu.RUnlock()
	if closed {
		return ErrClosed
	}
	if err := g.enter(); err != nil {
		return err
	}
	defer g.leave()
	return g.db.Flatten(1)
}
