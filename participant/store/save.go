package store

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"hash/crc32"
	"io"
)

const (
	snapshotVersion     = 1
	snapshotHeaderBytes = 8 + 4 + 8
	// snapshotBlockBytes is the size at which a block is written: large enough to
	// make its checksum and the calls free.
	snapshotBlockBytes = 256 << 10
	// maxSnapshotBlockBytes bounds a block on reading: one record goes over
	// snapshotBlockBytes, and no value is longer than an entry.
	maxSnapshotBlockBytes = largestEntryBytes + snapshotBlockBytes + MaxKeyBytes + 3*binary.MaxVarintLen64
)

var snapshotMagic = [8]byte{'C', 'H', 'T', 'S', 'N', 'A', 'P', 'S'}

// Save writes the state at v's index, without the keys local to this replica, as
// the package's documentation draws it. Closing stop, or the store, ends it with
// ErrStopped or ErrClosed.
func (s *Store) Save(v *View, w io.Writer, stop <-chan struct{}) error {
	if err := v.enter(); err != nil {
		return err
	}
	defer v.generation.leave()
	out := snapshotWriter{w: w, hash: sha256.New()}
	if err := out.header(v.index); err != nil {
		return err
	}
	c := openCursor(v.generation, v.txn, []byte{LocalPrefix + 1}, nil)
	defer c.close()
	for c.valid() {
		value, err := c.value()
		if err != nil {
			return err
		}
		if err := out.record(c.version(), c.key(), value, stop); err != nil {
			return err
		}
		if err := c.next(); err != nil {
			return err
		}
	}
	return out.end()
}

type snapshotWriter struct {
	w     io.Writer
	hash  hash.Hash
	block []byte
	count uint64
}

func (o *snapshotWriter) header(index uint64) error {
	b := append(make([]byte, 0, snapshotHeaderBytes), snapshotMagic[:]...)
	b = binary.BigEndian.AppendUint32(b, snapshotVersion)
	b = binary.BigEndian.AppendUint64(b, index)
	o.hash.Write(b)
	_, err := o.w.Write(b)
	return err
}

func (o *snapshotWriter) record(version uint64, key, value []byte, stop <-chan struct{}) error {
	b := o.block
	b = binary.AppendUvarint(b, version)
	b = binary.AppendUvarint(b, uint64(len(key)))
	b = binary.AppendUvarint(b, uint64(len(value)))
	b = append(b, key...)
	o.block = append(b, value...)
	o.count++
	if len(o.block) < snapshotBlockBytes {
		return nil
	}
	select {
	case <-stop:
		return ErrStopped
	default:
		return o.flush()
	}
}

func (o *snapshotWriter) flush() error {
	if len(o.block) == 0 {
		return nil
	}
	o.hash.Write(o.block)
	var head [8]byte
	binary.BigEndian.PutUint32(head[:], uint32(len(o.block)))
	binary.BigEndian.PutUint32(head[4:], crc32.Checksum(o.block, castagnoli))
	if _, err := o.w.Write(head[:]); err != nil {
		return err
	}
	_, err := o.w.Write(o.block)
	o.block = o.block[:0]
	return err
}

func (o *snapshotWriter) end() error {
	if err := o.flush(); err != nil {
		return err
	}
	b := make([]byte, 4, 4+8+sha256.Size)
	b = binary.BigEndian.AppendUint64(b, o.count)
	_, err := o.w.Write(o.hash.Sum(b))
	return err
}
