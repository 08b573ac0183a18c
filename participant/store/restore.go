package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/pb"
	"github.com/dgraph-io/ristretto/v2/z"
)

const (
	// The store's own keys and the others are two sorted streams to badger.
	streamOwn  = 1
	streamKeys = 2
	// streamBufferBytes is what is collected before badger gets it.
	streamBufferBytes = 4 << 20
)

// Restore replaces the state by the snapshot that Save wrote to r, whose index
// must be index, or any when index is 0, and not below what is published. Views
// open before go on reading the old state, which is deleted when the last one is
// closed. On an error the old state stays as it is. There must be no open Update.
func (s *Store) Restore(r io.Reader, index uint64, stop <-chan struct{}) error {
	if !s.updating.CompareAndSwap(false, true) {
		panic("store: invariant: no Restore during an Update")
	}
	defer s.updating.Store(false)
	if err := s.Err(); err != nil {
		return err
	}
	if s.isClosed() {
		return ErrClosed
	}
	in, err := openSnapshot(r)
	if err != nil {
		return err
	}
	if index != 0 && in.index != index {
		return fmt.Errorf("store: the snapshot is of index %d, not of %d", in.index, index)
	}
	if published := s.published.Load(); in.index < published {
		return fmt.Errorf("store: the snapshot is of index %d, which is behind the published %d", in.index, published)
	}
	number := s.current.number + 1
	dir := filepath.Join(s.options.Dir, generationName(number))
	g, err := s.buildGeneration(dir, number, in, stop)
	if err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	return s.swap(g)
}

// buildGeneration makes a generation of the snapshot, durable and open.
func (s *Store) buildGeneration(dir string, number uint64, in *snapshotReader, stop <-chan struct{}) (*generation, error) {
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	db, err := badger.OpenManaged(s.options.badger(dir))
	if err != nil {
		return nil, err
	}
	if err := errors.Join(s.load(db, in, stop), db.Close()); err != nil {
		return nil, err
	}
	if err := createSynced(dir, in.index); err != nil {
		return nil, err
	}
	if err := syncTree(dir); err != nil {
		return nil, err
	}
	if err := syncPath(s.options.Dir); err != nil {
		return nil, err
	}
	return openGeneration(&s.options, number)
}

// load writes the snapshot's records into an empty database.
func (s *Store) load(db *badger.DB, in *snapshotReader, stop <-chan struct{}) error {
	out := loader{index: in.index, writer: db.NewStreamWriter(), buf: z.NewBuffer(streamBufferBytes, "restore")}
	defer func() { _ = out.buf.Release() }()
	if err := out.writer.Prepare(); err != nil {
		out.writer.Cancel()
		return err
	}
	err := s.loadRecords(&out, in, stop)
	if err != nil {
		// Flush would make a half-written database; only it or Cancel lets badger
		// close.
		out.writer.Cancel()
		return err
	}
	return out.writer.Flush()
}

func (s *Store) loadRecords(out *loader, in *snapshotReader, stop <-chan struct{}) error {
	for {
		select {
		case <-stop:
			return ErrStopped
		case <-s.stop:
			return ErrClosed
		default:
		}
		rec, err := in.next()
		if err == io.EOF {
			return out.end()
		}
		if err == nil {
			err = out.add(rec)
		}
		if err != nil {
			return err
		}
	}
}

// loader feeds a stream writer.
type loader struct {
	index  uint64
	writer *badger.StreamWriter
	buf    *z.Buffer
	// blobs counts the large values: an entry at index cannot come any more, so
	// their identities are free.
	blobs uint32
	// began is set once the applied index is written, which sorts before chunks.
	began bool
}

func (l *loader) add(rec snapshotRecord) error {
	l.begin()
	if len(rec.value) <= LargeValueBytes {
		l.put(streamKeys, rec.version, 0, rec.key, rec.value)
		return l.spill(streamBufferBytes)
	}
	b := blob{index: l.index, ordinal: l.blobs, chunks: uint32(chunkCount(len(rec.value)))}
	l.blobs++
	for n := range b.chunks {
		l.put(streamOwn, rec.version, 0, b.chunkKey(n), chunk(rec.value, n))
		if err := l.spill(streamBufferBytes); err != nil {
			return err
		}
	}
	l.put(streamKeys, rec.version, metaLarge, rec.key, reference(b, len(rec.value)))
	return l.spill(streamBufferBytes)
}

// begin writes what sorts before everything else.
func (l *loader) begin() {
	if !l.began {
		l.began = true
		l.put(streamOwn, l.index, 0, appliedKey, binary.BigEndian.AppendUint64(nil, l.index))
	}
}

func (l *loader) end() error {
	l.begin()
	return l.spill(0)
}

func (l *loader) put(stream uint32, version uint64, meta byte, key, value []byte) {
	kv := &pb.KV{StreamId: stream, Version: version, Key: key, Value: value}
	if meta != 0 {
		kv.UserMeta = []byte{meta}
	}
	badger.KVToBuffer(kv, l.buf)
}

// spill hands what is collected to badger when it is more than limit.
func (l *loader) spill(limit int) error {
	if l.buf.LenNoPadding() <= limit {
		return nil
	}
	err := l.writer.Write(l.buf)
	l.buf.Reset()
	return err
}

// swap makes g the current generation. Until the rename the old one is what a
// crash leaves, after it the new one.
func (s *Store) swap(g *generation) error {
	s.barrierMu.Lock()
	defer s.barrierMu.Unlock()
	if s.isClosed() {
		return errors.Join(ErrClosed, g.close(), os.RemoveAll(g.dir))
	}
	if err := writeCurrent(s.options.Dir, g.number); err != nil {
		// Whether the rename is on disk is not known.
		return errors.Join(s.fail(fmt.Errorf("store: making %s current: %w", g.dir, err)), g.close())
	}
	s.mu.Lock()
	old := s.current
	s.current = g
	s.published.Store(g.synced.Load())
	s.mu.Unlock()
	old.retire()
	s.tasks.Go(func() { s.dispose(old) })
	return nil
}
