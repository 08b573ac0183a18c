package store

import (
	"encoding/binary"
	"fmt"

	"github.com/dgraph-io/badger/v4"
)

const (
	ownPrefix byte = 0x00
	// LocalPrefix begins the keys that are this replica's alone: they live and
	// commit like others, but Save leaves them out and after Restore there are
	// none.
	LocalPrefix byte = 0x01

	tableApplied byte = 'a'
	tableChunk   byte = 'c'
	tableGarbage byte = 'g'

	// metaLarge is badger's user meta of a key that holds a reference to chunks.
	metaLarge byte = 1

	chunkKeyBytes   = 2 + 8 + 4 + 4
	garbageKeyBytes = 2 + 8 + 4
	// referenceBytes is a blob and the value's length.
	referenceBytes   = garbageBlobBytes + 8
	garbageBlobBytes = 8 + 4 + 4

	// sweepChunks bounds the chunks that one entry deletes. It is far more than
	// the chunks an entry of the default size can write, so garbage does not pile
	// up; and little beside the limits.
	sweepChunks = 128
	// garbagePartBlobs bounds a record of garbage to 64 KiB, a normal value.
	garbagePartBlobs = 4096
)

var appliedKey = []byte{ownPrefix, tableApplied}

// blob identifies the chunks of one large value: the entry that wrote it and an
// ordinal within. No chunks is no blob.
type blob struct {
	index   uint64
	ordinal uint32
	chunks  uint32
}

func chunkCount(valueBytes int) int { return (valueBytes + LargeValueBytes - 1) / LargeValueBytes }

func (b blob) chunkKey(n uint32) []byte {
	k := make([]byte, 0, chunkKeyBytes)
	k = append(k, ownPrefix, tableChunk)
	k = binary.BigEndian.AppendUint64(k, b.index)
	k = binary.BigEndian.AppendUint32(k, b.ordinal)
	return binary.BigEndian.AppendUint32(k, n)
}

// chunk is the n-th piece of value.
func chunk(value []byte, n uint32) []byte {
	from := int(n) * LargeValueBytes
	return value[from:min(from+LargeValueBytes, len(value))]
}

func (b blob) append(to []byte) []byte {
	to = binary.BigEndian.AppendUint64(to, b.index)
	to = binary.BigEndian.AppendUint32(to, b.ordinal)
	return binary.BigEndian.AppendUint32(to, b.chunks)
}

func decodeBlob(from []byte) blob {
	return blob{
		index:   binary.BigEndian.Uint64(from),
		ordinal: binary.BigEndian.Uint32(from[8:]),
		chunks:  binary.BigEndian.Uint32(from[12:]),
	}
}

// reference is what the key of a large value holds.
func reference(b blob, valueBytes int) []byte {
	return binary.BigEndian.AppendUint64(b.append(make([]byte, 0, referenceBytes)), uint64(valueBytes))
}

func decodeReference(v []byte) (b blob, valueBytes uint64, ok bool) {
	if len(v) != referenceBytes {
		return blob{}, 0, false
	}
	b, valueBytes = decodeBlob(v), binary.BigEndian.Uint64(v[garbageBlobBytes:])
	return b, valueBytes, valueBytes <= largestEntryBytes && int(b.chunks) == chunkCount(int(valueBytes))
}

// itemBlob is the blob that an item refers to, none for a value in one piece.
func itemBlob(item *badger.Item) (blob, uint64, error) {
	if item.UserMeta() != metaLarge {
		return blob{}, 0, nil
	}
	var b blob
	var size uint64
	err := item.Value(func(v []byte) error {
		var ok bool
		if b, size, ok = decodeReference(v); !ok {
			return &CorruptError{File: "badger", Detail: fmt.Sprintf("the reference of large value %q", item.Key())}
		}
		return nil
	})
	return b, size, err
}

// itemValue is a copy of an item's value, a large one put together from its
// chunks.
func itemValue(txn *badger.Txn, item *badger.Item) ([]byte, error) {
	if item.UserMeta() != metaLarge {
		return item.ValueCopy(nil)
	}
	b, size, err := itemBlob(item)
	if err != nil {
		return nil, err
	}
	value := make([]byte, 0, size)
	for n := range b.chunks {
		piece, err := txn.Get(b.chunkKey(n))
		if err == nil {
			err = piece.Value(func(v []byte) error { value = append(value, v...); return nil })
		}
		if err != nil {
			return nil, fmt.Errorf("store: chunk %d of %d of large value %q: %w", n, b.chunks, item.Key(), err)
		}
	}
	if uint64(len(value)) != size {
		return nil, &CorruptError{File: "badger",
			Detail: fmt.Sprintf("large value %q has %d bytes in its chunks instead of %d", item.Key(), len(value), size)}
	}
	return value, nil
}
