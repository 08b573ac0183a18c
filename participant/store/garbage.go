package store

import (
	"encoding/binary"
	"fmt"

	"github.com/dgraph-io/badger/v4"
)

// garbage is the queue of chunks that no key refers to any more, oldest first,
// as the last committed entry left it. It mirrors the records under 0x00 'g',
// so that a replay, which starts from the records at S, deletes the same chunks
// in the same entries. Only the open Update touches it.
type garbage struct{ records []garbageRecord }

type garbageRecord struct {
	key   []byte
	blobs []blob
}

func garbageKey(index uint64, part uint32) []byte {
	k := make([]byte, 0, garbageKeyBytes)
	k = append(k, ownPrefix, tableGarbage)
	k = binary.BigEndian.AppendUint64(k, index)
	return binary.BigEndian.AppendUint32(k, part)
}

// loadGarbage reads the queue as it is at txn's index.
func loadGarbage(txn *badger.Txn) (garbage, error) {
	var g garbage
	it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte{ownPrefix, tableGarbage}})
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		r := garbageRecord{key: it.Item().KeyCopy(nil)}
		err := it.Item().Value(func(v []byte) error {
			if len(v) == 0 || len(v)%garbageBlobBytes != 0 {
				return &CorruptError{File: "badger", Detail: fmt.Sprintf("the garbage record %x", r.key)}
			}
			for ; len(v) > 0; v = v[garbageBlobBytes:] {
				r.blobs = append(r.blobs, decodeBlob(v))
			}
			return nil
		})
		if err != nil {
			return garbage{}, err
		}
		g.records = append(g.records, r)
	}
	return g, nil
}

// hasChunks tells whether a chunk is live at txn's index.
func hasChunks(txn *badger.Txn) bool {
	it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte{ownPrefix, tableChunk}})
	defer it.Close()
	it.Rewind()
	return it.Valid()
}

// sweep deletes up to sweepChunks chunks within the entry at index that txn
// writes, first old garbage, then fresh: the blobs which the entry itself has
// made garbage. What is left is recorded in the same entry.
func (g *garbage) sweep(txn *badger.Txn, index uint64, fresh []blob) error {
	budget := uint32(sweepChunks)
	for len(g.records) > 0 && budget > 0 {
		r := &g.records[0]
		rest, err := deleteChunks(txn, r.blobs, &budget)
		if err != nil {
			return err
		}
		if r.blobs = rest; len(rest) > 0 {
			if err := txn.Set(r.key, encodeBlobs(rest)); err != nil {
				return err
			}
			break
		}
		if err := txn.Delete(r.key); err != nil {
			return err
		}
		g.records = g.records[1:]
	}
	fresh, err := deleteChunks(txn, fresh, &budget)
	if err != nil {
		return err
	}
	for part := uint32(0); len(fresh) > 0; part++ {
		n := min(len(fresh), garbagePartBlobs)
		r := garbageRecord{key: garbageKey(index, part), blobs: fresh[:n:n]}
		if err := txn.Set(r.key, encodeBlobs(r.blobs)); err != nil {
			return err
		}
		g.records = append(g.records, r)
		fresh = fresh[n:]
	}
	return nil
}

// deleteChunks deletes the chunks of blobs, each from its last one, as far as the
// budget goes, and returns what is left.
func deleteChunks(txn *badger.Txn, blobs []blob, budget *uint32) ([]blob, error) {
	for len(blobs) > 0 && *budget > 0 {
		b := blobs[0]
		for b.chunks > 0 && *budget > 0 {
			b.chunks--
			*budget--
			if err := txn.Delete(b.chunkKey(b.chunks)); err != nil {
				return nil, err
			}
		}
		if b.chunks > 0 {
			// A new slice: what came in is not this function's to change.
			return append([]blob{b}, blobs[1:]...), nil
		}
		blobs = blobs[1:]
	}
	return blobs, nil
}

func encodeBlobs(blobs []blob) []byte {
	v := make([]byte, 0, len(blobs)*garbageBlobBytes)
	for _, b := range blobs {
		v = b.append(v)
	}
	return v
}
