package store

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// syncPath fsyncs a file or a directory by its path.
func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// syncMemtables fsyncs every memtable file in dir, then dir. A file that goes
// away meanwhile has been flushed to a table, which badger has synced.
func syncMemtables(dir string) error {
	mems, err := filepath.Glob(filepath.Join(dir, "*.mem"))
	if err != nil {
		return err
	}
	for _, mem := range mems {
		if err := syncPath(mem); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return syncPath(dir)
}

// syncTree fsyncs every file in dir, then dir.
func syncTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		if err := syncPath(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return syncPath(dir)
}
