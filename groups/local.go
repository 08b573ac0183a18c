package groups

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
)

// A local record is one header line and JSON:
//
//	cohort-KIND FORMAT CRC32C LENGTH\n
//	{...}\n
//
// CRC32C (Castagnoli, 8 hex digits) and LENGTH are of what follows the line. A
// record is replaced whole: written beside, fsynced, renamed, and the directory
// fsynced, so that a crash leaves the old one or the new one.
const (
	localFormat = 1
	// maxLocalBytes bounds a record: a line for each replica a node ever held.
	maxLocalBytes = 8 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func writeLocal(path, kind string, content any) error {
	body, err := json.MarshalIndent(content, "", " ")
	if err != nil {
		panic("groups: local record of plain data failed to encode: " + err.Error())
	}
	body = append(body, '\n')
	record := fmt.Appendf(nil, "cohort-%s %d %08x %d\n", kind, localFormat, crc32.Checksum(body, castagnoli), len(body))
	record = append(record, body...)
	if err := writeSynced(path+".tmp", record); err != nil {
		return err
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// readLocal reads a record. Its error wraps ErrCorrupt when it is not whole,
// and os.ErrNotExist when there is none.
func readLocal(path, kind string, into any) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.Size() > maxLocalBytes {
		return fmt.Errorf("%w: %s has %d bytes, at most %d", ErrCorrupt, path, info.Size(), maxLocalBytes)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return decodeLocal(path, kind, data, into)
}

func decodeLocal(path, kind string, data []byte, into any) error {
	header, body, ok := bytes.Cut(data, []byte("\n"))
	var foundKind string
	var format, sum uint32
	var length int
	if ok {
		n, err := fmt.Sscanf(string(header), "cohort-%s %d %x %d", &foundKind, &format, &sum, &length)
		ok = err == nil && n == 4
	}
	switch {
	case !ok || foundKind != kind:
		return fmt.Errorf("%w: %s does not begin as a record of kind %s", ErrCorrupt, path, kind)
	case format != localFormat:
		return fmt.Errorf("%w: %s has format %d, this version reads %d; run the version that wrote it", ErrCorrupt, path, format, localFormat)
	case length != len(body) || sum != crc32.Checksum(body, castagnoli):
		return fmt.Errorf("%w: %s fails its checksum", ErrCorrupt, path)
	}
	if err := strictJSON(body, into); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrCorrupt, path, err)
	}
	return nil
}
