package checkpoint

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// What a checkpoint that is being removed is called; one whose files are to be
// overwritten first is told from the others, so that a crash does not save them.
const (
	goneSuffix  = ".gone" + tmpSuffix
	eraseSuffix = ".erase" + tmpSuffix
)

// Recover removes what crashes have left in the directory of checkpoints, and
// gives the numbers of those that have their names, ascending.
func Recover(parent string) ([]uint64, error) {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return nil, err
	}
	var numbers []uint64
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), tmpSuffix) {
			path := filepath.Join(parent, e.Name())
			if err := removeGone(path, strings.HasSuffix(path, eraseSuffix)); err != nil {
				return nil, err
			}
			continue
		}
		if n, ok := numberOf(e.Name()); ok && e.IsDir() {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// Remove removes a checkpoint, with erase after overwriting its files. One that
// is not there is removed already.
func Remove(dir string, erase bool) error {
	gone := dir + goneSuffix
	if erase {
		gone = dir + eraseSuffix
	}
	if err := removeGone(gone, erase); err != nil {
		return err
	}
	if err := os.Rename(dir, gone); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	}
	if err := syncDir(filepath.Dir(dir)); err != nil {
		return err
	}
	return removeGone(gone, erase)
}

func removeGone(gone string, erase bool) error {
	if erase {
		entries, err := os.ReadDir(gone)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := Erase(filepath.Join(gone, e.Name())); err != nil {
				return err
			}
		}
	}
	return os.RemoveAll(gone)
}

// eraseBytes is written at a time.
const eraseBytes = 1 << 20

// Erase overwrites a file with zeros, waits until they are on the disk, and
// removes it. What that is worth depends on what is below: a file system that
// copies on write, a snapshot of it, or a disk that levels its wear keeps the old
// content somewhere.
func Erase(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil {
		err = overwrite(f, info.Size())
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Remove(path)
}

func overwrite(f *os.File, size int64) error {
	zeros := make([]byte, min(size, eraseBytes))
	for at := int64(0); at < size; at += int64(len(zeros)) {
		if _, err := f.WriteAt(zeros[:min(int64(len(zeros)), size-at)], at); err != nil {
			return err
		}
	}
	return nil
}
