package txlog

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"go.uber.org/zap"

	"github.com/cohort-tx/cohort/participant/store"
	"github.com/cohort-tx/cohort/txlog/segment"
)

// A Raft snapshot is, integers big-endian:
//
//	magic [8] | version u32 | index u64 | incarnation u64 | first u64 | next u64 | crc32c u32
//	for each position from first to next-1: length u32 | crc32c u32 | payload
//	the store's snapshot, with its own count and hash
const (
	installVersion     = 1
	installHeaderBytes = 8 + 4 + 4*8 + 4
	// installReadBytes is how much log is read at a time.
	installReadBytes = 4 << 20
)

var (
	installMagic = [8]byte{'C', 'H', 'T', 'R', 'A', 'F', 'T', 'S'}
	castagnoli   = crc32.MakeTable(crc32.Castagnoli)
)

type installHeader struct{ index, incarnation, first, next uint64 }

func (h installHeader) encode() []byte {
	b := append(make([]byte, 0, installHeaderBytes), installMagic[:]...)
	b = binary.BigEndian.AppendUint32(b, installVersion)
	for _, v := range []uint64{h.index, h.incarnation, h.first, h.next} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func readInstallHeader(r io.Reader) (h installHeader, err error) {
	b := make([]byte, installHeaderBytes)
	if _, err := io.ReadFull(r, b); err != nil {
		return h, fmt.Errorf("txlog: the Raft snapshot ends in its header: %w", err)
	}
	if [8]byte(b) != installMagic || crc32.Checksum(b[:len(b)-4], castagnoli) != binary.BigEndian.Uint32(b[len(b)-4:]) {
		return h, errors.New("txlog: the Raft snapshot's header is damaged")
	}
	if v := binary.BigEndian.Uint32(b[8:]); v != installVersion {
		return h, fmt.Errorf("txlog: the Raft snapshot has format %d, and this release reads %d", v, installVersion)
	}
	h = installHeader{
		index: binary.BigEndian.Uint64(b[12:]), incarnation: binary.BigEndian.Uint64(b[20:]),
		first: binary.BigEndian.Uint64(b[28:]), next: binary.BigEndian.Uint64(b[36:]),
	}
	if h.first == 0 || h.first > h.next {
		return h, fmt.Errorf("txlog: the Raft snapshot's log goes from %d to %d", h.first, h.next)
	}
	return h, nil
}

// save streams a pinned state and the log that leads to it.
func (r *Replica) save(snap *Snapshot, w io.Writer, stop <-chan struct{}) error {
	meta, err := snap.Meta()
	if err != nil {
		return err
	}
	out := bufio.NewWriterSize(w, 1<<20)
	log := snap.files.log
	h := installHeader{index: snap.Index(), incarnation: meta.Incarnation, first: log.First(), next: meta.Position + 1}
	if _, err := out.Write(h.encode()); err != nil {
		return err
	}
	if err := saveLog(log, h, out, stop); err != nil {
		return err
	}
	if err := snap.store.Save(snap.view, out, stop); err != nil {
		return err
	}
	return out.Flush()
}

func saveLog(log *segment.Log, h installHeader, w io.Writer, stop <-chan struct{}) error {
	next := h.first
	var head [8]byte
	for next < h.next {
		select {
		case <-stop:
			return store.ErrStopped
		default:
		}
		before := next
		for rec, err := range log.Read(next, installReadBytes) {
			if err != nil {
				return err
			}
			if rec.Position >= h.next {
				break
			}
			binary.BigEndian.PutUint32(head[:], uint32(len(rec.Payload)))
			binary.BigEndian.PutUint32(head[4:], crc32.Checksum(rec.Payload, castagnoli))
			if _, err := w.Write(head[:]); err != nil {
				return err
			}
			if _, err := w.Write(rec.Payload); err != nil {
				return err
			}
			next = rec.Position + 1
		}
		if next == before {
			return fmt.Errorf("txlog: the log ends at %d, before the state's %d", next, h.next)
		}
	}
	return nil
}

// install replaces state and log by what another replica streamed. What a crash
// leaves is in the package's documentation.
func (r *Replica) install(in io.Reader, stop <-chan struct{}) error {
	br := bufio.NewReaderSize(in, 1<<20)
	h, err := readInstallHeader(br)
	if err != nil {
		return err
	}
	if h.index == r.files.id {
		// Its log directory is in use: this very snapshot was installed before, and
		// nothing older can be wanted.
		return nil
	}
	files, err := r.installLog(br, h, stop)
	if err != nil {
		return errors.Join(err, os.RemoveAll(r.logDir(h.index)))
	}
	if err := r.store.Restore(br, h.index, stop); err != nil {
		return errors.Join(err, files.log.Close(), os.RemoveAll(files.dir))
	}
	r.mu.Lock()
	old := r.files
	r.files, r.located = files, false
	r.mu.Unlock()
	if err := r.reload(r.store); err != nil {
		return err
	}
	if m := r.machine.Meta(); m.Position+1 != h.next || m.Incarnation != h.incarnation {
		return fmt.Errorf("txlog: the Raft snapshot's state is at position %d, its log at %d", m.Position, h.next-1)
	}
	r.publish(h.next - 1)
	// What is left of the old log is removed at the next start too.
	if err := errors.Join(old.log.Close(), os.RemoveAll(old.dir)); err != nil {
		r.log.Warn("removing the log before the Raft snapshot", zap.Error(err))
	}
	return r.grow()
}

func (r *Replica) installLog(in io.Reader, h installHeader, stop <-chan struct{}) (*logFiles, error) {
	dir := r.logDir(h.index)
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	log, err := segment.Open(segment.Options{Dir: dir, End: segment.Start(h.first), Incarnation: h.incarnation, SegmentBytes: r.segmentBytes})
	if err != nil {
		return nil, err
	}
	err = fillLog(log, in, h, stop)
	if err == nil {
		err = log.Sync()
	}
	if err == nil {
		err = writeEnd(dir, h.index, log.End())
	}
	if err == nil {
		err = errors.Join(syncDir(dir), syncDir(r.dir))
	}
	if err != nil {
		return nil, errors.Join(err, log.Close())
	}
	return &logFiles{id: h.index, dir: dir, log: log}, nil
}

func fillLog(log *segment.Log, in io.Reader, h installHeader, stop <-chan struct{}) error {
	var head [8]byte
	for p := h.first; p < h.next; p++ {
		select {
		case <-stop:
			return store.ErrStopped
		default:
		}
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return fmt.Errorf("txlog: the Raft snapshot ends at position %d of %d: %w", p, h.next-1, err)
		}
		n := binary.BigEndian.Uint32(head[:])
		if n == 0 || n > segment.MaxPayloadBytes {
			return fmt.Errorf("txlog: the Raft snapshot's record %d has an impossible length, %d", p, n)
		}
		payload := make([]byte, n)
		if _, err := io.ReadFull(in, payload); err != nil {
			return fmt.Errorf("txlog: the Raft snapshot ends at position %d of %d: %w", p, h.next-1, err)
		}
		if crc32.Checksum(payload, castagnoli) != binary.BigEndian.Uint32(head[4:]) {
			return fmt.Errorf("txlog: the Raft snapshot's record %d is damaged", p)
		}
		if err := log.Append(p, payload); err != nil {
			return err
		}
		if p%1024 == 0 {
			if err := log.Flush(); err != nil {
				return err
			}
		}
	}
	return log.Flush()
}
