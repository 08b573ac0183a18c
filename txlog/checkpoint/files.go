package checkpoint

import (
	"errors"
	"io"
	"os"
	"syscall"
)

// beforeStep runs before every operation below, and an error takes the place of
// the operation: so tests let the disk fail, or the process end, at each.
var beforeStep = func(step, path string) error { return nil }

func mkdirAll(dir string) error {
	if err := beforeStep("mkdir", dir); err != nil {
		return err
	}
	return os.MkdirAll(dir, 0o755)
}

// createFile makes a file; mode is O_EXCL or O_TRUNC.
func createFile(path string, mode int) (*os.File, error) {
	if err := beforeStep("create", path); err != nil {
		return nil, err
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|mode, 0o644)
}

func syncHandle(f *os.File) error {
	if err := beforeStep("sync", f.Name()); err != nil {
		return err
	}
	return f.Sync()
}

// syncPath makes a file, or the names in a directory, durable.
func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(syncHandle(f), f.Close())
}

func rename(from, to string) error {
	if err := beforeStep("rename", to); err != nil {
		return err
	}
	return os.Rename(from, to)
}

// linkOrCopy gives the file from a second name; where the file system cannot, a
// durable copy has it.
func linkOrCopy(from, to string) error {
	if err := beforeStep("link", to); err != nil {
		return err
	}
	err := os.Link(from, to)
	if err == nil || errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrExist) {
		return err
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := createFile(to, os.O_EXCL)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, syncHandle(out), out.Close())
}

// shared tells whether a file has other names.
func shared(path string) (bool, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return false, err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && stat.Nlink > 1, nil
}

func removeFile(path string) error {
	if err := beforeStep("remove", path); err != nil {
		return err
	}
	return os.Remove(path)
}

func removeAll(path string) error {
	if err := beforeStep("remove", path); err != nil {
		return err
	}
	return os.RemoveAll(path)
}
