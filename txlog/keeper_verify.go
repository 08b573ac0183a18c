package txlog

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/cohort-tx/cohort/txlog/checkpoint"
	"github.com/cohort-tx/cohort/txlog/machine"
	"github.com/cohort-tx/cohort/txlog/segment"
)

// Verified is what reading a copy, or a file of the archive, found.
type Verified struct {
	// Number of the checkpoint; 0 for archived log.
	Number uint64
	// File, for the archive.
	File  string
	Bytes uint64
	// Err is what is wrong; *checkpoint.CorruptError names file and section. Nil
	// when all is whole.
	Err error
}

// Verify reads every byte of this node's copy of a checkpoint, or, when number is
// 0, of all its copies and its archive. A copy found damaged is given up and
// fetched again. progress, if not nil, is told of the bytes read and of their
// total.
func (k *Keeper) Verify(ctx context.Context, number uint64, progress func(done, total uint64)) ([]Verified, error) {
	numbers := []uint64{number}
	var archived []string
	if number == 0 {
		numbers = k.Copies()
		slices.Sort(numbers)
		var err error
		if archived, err = k.archivedFiles(); err != nil {
			return nil, err
		}
	}
	v := &verifier{ctx: ctx, progress: progress}
	k.mu.Lock()
	for _, n := range numbers {
		if c := k.copies[n]; c != nil {
			v.total += c.bytes
		}
	}
	k.mu.Unlock()
	for _, path := range archived {
		v.total += sizeOf(path)
	}
	var out []Verified
	for _, n := range numbers {
		one := k.verifyCopy(n, v)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		out = append(out, one)
	}
	for _, path := range archived {
		one := verifyArchived(path)
		v.read(int64(one.Bytes))
		out = append(out, one)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	return out, nil
}

type verifier struct {
	ctx         context.Context
	progress    func(done, total uint64)
	done, total uint64
}

func (v *verifier) read(bytes int64) {
	v.done += uint64(bytes)
	if v.progress != nil {
		v.progress(v.done, v.total)
	}
}

func (k *Keeper) verifyCopy(number uint64, v *verifier) Verified {
	out := Verified{Number: number}
	r, release, err := k.Open(number)
	if err != nil {
		out.Err = err
		return out
	}
	defer release()
	m := r.Manifest()
	out.Bytes = m.FileBytes()
	if out.Err = r.Verify(v.ctx, v.read); out.Err != nil && v.ctx.Err() == nil {
		k.Damaged(number, out.Err)
	}
	return out
}

// archivedFiles are all files of this node's archive of the group.
func (k *Keeper) archivedFiles() ([]string, error) {
	rec, err := k.read()
	if err != nil || rec.policy.ArchiveDir == "" {
		return nil, err
	}
	var paths []string
	root := filepath.Dir(k.archiveDir(rec.policy, 1))
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path == root {
			return nil
		}
		if err == nil && d.Type().IsRegular() && filepath.Ext(path) != ".tmp" {
			paths = append(paths, path)
		}
		return err
	})
	return paths, err
}

// verifyArchived reads a file of the archive, and wants it to hold what its name
// says.
func verifyArchived(path string) Verified {
	out := Verified{File: path, Bytes: sizeOf(path)}
	if filepath.Ext(path) == ".tar" {
		var m checkpoint.Manifest
		if m, out.Err = checkpoint.VerifyExport(path, nil); out.Err == nil {
			out.Err = misnamed(path, checkpoint.ArchivedCheckpointName(m.Number))
		}
		return out
	}
	out.Err = verifySegment(path)
	return out
}

func verifySegment(path string) error {
	in, err := checkpoint.ReadArchived(path)
	if err != nil {
		return err
	}
	var first, next uint64
	for r, err := range segment.ReadStream(in, path) {
		if err != nil {
			return errors.Join(err, in.Close())
		}
		if next = r.Position + 1; first == 0 {
			first = r.Position
		}
	}
	return errors.Join(misnamed(path, checkpoint.ArchivedSegmentName(first, next)), in.Close())
}

func misnamed(path, should string) error {
	if filepath.Base(path) == should {
		return nil
	}
	return &checkpoint.CorruptError{File: path, Detail: "what it holds belongs into " + should}
}

// sizeOf is 0 for a file that is gone: reading it says so.
func sizeOf(path string) uint64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return uint64(info.Size())
}

// RestorableFrom is the first position that the group can be restored to here,
// checkpoints' own positions aside.
func (k *Keeper) RestorableFrom() (position uint64, ok bool) {
	rec, err := k.read()
	if err != nil {
		return 0, false
	}
	for i := range rec.checkpoints {
		c := &rec.checkpoints[i]
		if c.State == machine.CheckpointComplete && c.Whole() && c.Incarnation == rec.meta.Incarnation {
			return c.Position, true
		}
	}
	return 0, false
}
