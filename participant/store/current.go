package store

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
)

const (
	currentFile    = "CURRENT"
	currentTmp     = "CURRENT.tmp"
	currentVersion = 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func generationName(n uint64) string { return fmt.Sprintf("gen-%08d", n) }

func currentBody(version uint32, n uint64) string {
	body := fmt.Sprintf("cohort-store %d %s", version, generationName(n))
	return fmt.Sprintf("%s %08x\n", body, crc32.Checksum([]byte(body), castagnoli))
}

// readCurrent returns the number of the current generation; ok is false when
// there is no CURRENT.
func readCurrent(dir string) (n uint64, ok bool, err error) {
	path := filepath.Join(dir, currentFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	var version, sum uint32
	if _, err := fmt.Sscanf(string(data), "cohort-store %d gen-%d %x", &version, &n, &sum); err != nil && version <= currentVersion {
		return 0, false, &CorruptError{File: path, Detail: fmt.Sprintf("%.80q", data)}
	}
	// A newer format may look different behind its version.
	if version > currentVersion {
		return 0, false, &VersionError{File: path, Found: version, Supported: currentVersion}
	}
	if string(data) != currentBody(currentVersion, n) {
		return 0, false, &CorruptError{File: path, Detail: fmt.Sprintf("%.80q", data)}
	}
	return n, true, nil
}

// writeCurrent makes n the current generation. A crash leaves the former CURRENT
// or this one, never a part.
func writeCurrent(dir string, n uint64) error {
	tmp := filepath.Join(dir, currentTmp)
	f, err := os.Create(tmp)
	if err != nil {
		return err
	}
	_, err = f.WriteString(currentBody(currentVersion, n))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, filepath.Join(dir, currentFile)); err != nil {
		return err
	}
	return syncPath(dir)
}
