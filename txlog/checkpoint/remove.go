package checkpoint

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// What the name of a checkpoint's directory gets before it is removed says how to
// go on after a crash.
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
			if err := discard(filepath.Join(parent, e.Name())); err != nil {
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
// is not there is removed already. What was interrupted goes on as it began.
func Remove(dir string, erase bool) error {
	for _, suffix := range []string{goneSuffix, eraseSuffix} {
		if err := discard(dir + suffix); err != nil {
			return err
		}
	}
	gone := dir + goneSuffix
	if erase {
		gone = dir + eraseSuffix
	}
	if err := rename(dir, gone); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	}
	if err := syncPath(filepath.Dir(dir)); err != nil {
		return err
	}
	return discard(gone)
}

// discard removes a temporary file or directory, after overwriting its files if
// its name says so. A link is removed, not what it points to.
func discard(path string) error {
	if strings.HasSuffix(path, eraseSuffix) {
		entries, err := os.ReadDir(path)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		for _, e := range entries {
			if !e.Type().IsRegular() {
				continue
			}
			remove := Erase
			if strings.HasPrefix(e.Name(), stateFilePrefix) {
				remove = EraseLast
			}
			if err := remove(filepath.Join(path, e.Name())); err != nil {
				return err
			}
		}
	}
	return removeAll(path)
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
	if err = errors.Join(err, syncHandle(f), f.Close()); err != nil {
		return err
	}
	return removeFile(path)
}

// EraseLast is Erase for a file that may have other names, under which it is
// needed: it is overwritten when its last name goes.
func EraseLast(path string) error {
	others, err := shared(path)
	if err != nil {
		return err
	}
	if others {
		return removeFile(path)
	}
	return Erase(path)
}

func overwrite(f *os.File, size int64) error {
	if err := beforeStep("overwrite", f.Name()); err != nil {
		return err
	}
	zeros := make([]byte, min(size, eraseBytes))
	for at := int64(0); at < size; at += int64(len(zeros)) {
		if _, err := f.WriteAt(zeros[:min(int64(len(zeros)), size-at)], at); err != nil {
			return err
		}
	}
	return nil
}
