package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
)

// snapshotRecord is a key as a snapshot holds it. Its slices are good until the
// next block is read.
type snapshotRecord struct {
	version    uint64
	key, value []byte
}

// snapshotReader reads a snapshot stream and trusts nothing in it: whatever Save
// cannot have written is a *CorruptError.
type snapshotReader struct {
	r       io.Reader
	hash    hash.Hash
	index   uint64
	block   bytes.Buffer
	rest    []byte
	count   uint64
	lastKey []byte
}

func corruptSnapshot(format string, args ...any) error {
	return &CorruptError{File: "snapshot", Detail: fmt.Sprintf(format, args...)}
}

func openSnapshot(r io.Reader) (*snapshotReader, error) {
	in := &snapshotReader{r: r, hash: sha256.New()}
	var b [snapshotHeaderBytes]byte
	if err := in.full(b[:], "header"); err != nil {
		return nil, err
	}
	if [8]byte(b[:]) != snapshotMagic {
		return nil, corruptSnapshot("it does not begin like one")
	}
	if version := binary.BigEndian.Uint32(b[8:]); version > snapshotVersion {
		return nil, &VersionError{File: "snapshot", Found: version, Supported: snapshotVersion}
	}
	in.index = binary.BigEndian.Uint64(b[12:])
	in.hash.Write(b[:])
	return in, nil
}

// next returns the next record, or io.EOF when the stream has ended and count and
// hash are right.
func (in *snapshotReader) next() (snapshotRecord, error) {
	if len(in.rest) == 0 {
		if err := in.nextBlock(); err != nil {
			return snapshotRecord{}, err
		}
	}
	var rec snapshotRecord
	var sizes [2]uint64
	for i, to := range []*uint64{&rec.version, &sizes[0], &sizes[1]} {
		v, n := binary.Uvarint(in.rest)
		if n <= 0 {
			return snapshotRecord{}, corruptSnapshot("field %d of record %d", i, in.count+1)
		}
		*to, in.rest = v, in.rest[n:]
	}
	if left := uint64(len(in.rest)); sizes[0] > left || sizes[1] > left-sizes[0] {
		return snapshotRecord{}, corruptSnapshot("record %d is longer than its block", in.count+1)
	}
	rec.key, in.rest = in.rest[:sizes[0]], in.rest[sizes[0]:]
	rec.value, in.rest = in.rest[:sizes[1]], in.rest[sizes[1]:]
	if err := in.check(rec); err != nil {
		return snapshotRecord{}, err
	}
	in.count++
	in.lastKey = append(in.lastKey[:0], rec.key...)
	return rec, nil
}

func (in *snapshotReader) check(rec snapshotRecord) error {
	switch {
	case checkKey(rec.key) != nil || rec.key[0] == LocalPrefix:
		return corruptSnapshot("record %d has the key %.32q", in.count+1, rec.key)
	case bytes.Compare(rec.key, in.lastKey) <= 0:
		return corruptSnapshot("record %d is out of order", in.count+1)
	case rec.version == 0 || rec.version > in.index:
		return corruptSnapshot("record %d was written at %d, after the snapshot's index %d", in.count+1, rec.version, in.index)
	case len(rec.value) > largestEntryBytes:
		return corruptSnapshot("record %d has a value of %d bytes", in.count+1, len(rec.value))
	}
	return nil
}

func (in *snapshotReader) nextBlock() error {
	var size, sum [4]byte
	if err := in.full(size[:], "block"); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n == 0 {
		return in.end()
	}
	if n > maxSnapshotBlockBytes {
		return corruptSnapshot("a block of %d bytes", n)
	}
	if err := in.full(sum[:], "block"); err != nil {
		return err
	}
	// Grows with what arrives: a wrong length costs no more memory than the stream.
	in.block.Reset()
	if _, err := io.CopyN(&in.block, in.r, int64(n)); err != nil {
		return cutSnapshot(err, "block")
	}
	in.rest = in.block.Bytes()
	if crc32.Checksum(in.rest, castagnoli) != binary.BigEndian.Uint32(sum[:]) {
		return corruptSnapshot("the checksum of the block after record %d", in.count)
	}
	in.hash.Write(in.rest)
	return nil
}

func (in *snapshotReader) end() error {
	var b [8 + sha256.Size]byte
	if err := in.full(b[:], "end"); err != nil {
		return err
	}
	if count := binary.BigEndian.Uint64(b[:]); count != in.count {
		return corruptSnapshot("it has %d records and says %d", in.count, count)
	}
	if !bytes.Equal(in.hash.Sum(nil), b[8:]) {
		return corruptSnapshot("its hash is another")
	}
	return io.EOF
}

func (in *snapshotReader) full(b []byte, what string) error {
	_, err := io.ReadFull(in.r, b)
	return cutSnapshot(err, what)
}

// cutSnapshot tells a stream that ends too early from one that cannot be read.
func cutSnapshot(err error, what string) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return corruptSnapshot("it is cut off in a %s", what)
	}
	return err
}
