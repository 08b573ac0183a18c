package checkpoint

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"

	"github.com/cohort-tx/cohort/txlog/command"
)

// Captured states are kept in a directory of their own, each under the name of
// what it is, until no checkpoint is to be made of them any more:
//
//	stock-00000000000000000041-<digest of the section>.zst
//	stock-00000000000000000041-<digest of the section>.zst.fetch   coming from another node
//	stock-0000000007-00000000000000000041-3.part                   coming from an instance
//
// A whole one has its name; what may be a part of one has another.
const (
	fetchSuffix = ".fetch"
	partSuffix  = ".part"
)

var (
	statePattern = regexp.MustCompile(`^(.+)-(\d{20})-([0-9a-f]{64})\.zst$`)
	partPattern  = regexp.MustCompile(`^(.+)-(\d{10,20})-(\d{20})-(\d{1,20})\.part$`)
)

// StateID names a captured state: equal ones are the same state.
type StateID struct {
	Participant string
	Position    uint64
	// Digest of the section.
	Digest Digest
}

// FileName is the name of the state's file.
func (id StateID) FileName() string {
	return fmt.Sprintf("%s-%020d-%s.zst", id.Participant, id.Position, hex.EncodeToString(id.Digest[:]))
}

// FetchName is the name of what was fetched of it so far.
func (id StateID) FetchName() string { return id.FileName() + fetchSuffix }

func parseStateName(name string) (id StateID, ok bool) {
	match := statePattern.FindStringSubmatch(name)
	if match == nil || command.CheckName(match[1]) != nil {
		return id, false
	}
	position, err := strconv.ParseUint(match[2], 10, 64)
	if err != nil || id.Digest.UnmarshalText([]byte(match[3])) != nil {
		return id, false
	}
	id.Participant, id.Position = match[1], position
	return id, true
}

// UploadID names what an instance sends: its activation's capture for a checkpoint.
type UploadID struct {
	Participant                 string
	Checkpoint, Position, Epoch uint64
}

// PartName is the name of what has come of it so far.
func (id UploadID) PartName() string {
	return fmt.Sprintf("%s-%010d-%020d-%d%s", id.Participant, id.Checkpoint, id.Position, id.Epoch, partSuffix)
}

func parsePartName(name string) (id UploadID, ok bool) {
	match := partPattern.FindStringSubmatch(name)
	if match == nil || command.CheckName(match[1]) != nil {
		return id, false
	}
	id.Participant = match[1]
	var errs [3]error
	id.Checkpoint, errs[0] = strconv.ParseUint(match[2], 10, 64)
	id.Position, errs[1] = strconv.ParseUint(match[3], 10, 64)
	id.Epoch, errs[2] = strconv.ParseUint(match[4], 10, 64)
	return id, errors.Join(errs[:]...) == nil && id.PartName() == name
}

// States are the files in a directory of captured states.
type States struct {
	Whole []StateID
	// Fetches and Uploads are what is there in part.
	Fetches []StateID
	Uploads []UploadID
}

// ListStates lists a directory of captured states, which it makes when it is
// missing. What a crash has left under a temporary name is removed, other files are
// left alone.
func ListStates(dir string) (States, error) {
	var s States
	if err := makeDirs(dir); err != nil {
		return s, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return s, err
	}
	for _, e := range entries {
		name := e.Name()
		if id, ok := parseStateName(name); ok {
			s.Whole = append(s.Whole, id)
		} else if id, ok := parsePartName(name); ok {
			s.Uploads = append(s.Uploads, id)
		} else if id, ok := parseStateName(trimSuffix(name, fetchSuffix)); ok {
			s.Fetches = append(s.Fetches, id)
		} else if _, ok := parseStateName(trimSuffix(name, tmpSuffix)); ok {
			// A copy that was being made of a file that is still there.
			if err := removeFile(filepath.Join(dir, name)); err != nil {
				return s, err
			}
		}
	}
	return s, nil
}

// trimSuffix is "" for a name that does not end so.
func trimSuffix(name, suffix string) string {
	if n := len(name) - len(suffix); n > 0 && name[n:] == suffix {
		return name[:n]
	}
	return ""
}

// StoreState gives a whole and durable file in dir the name of its state.
func StoreState(dir, name string, id StateID) error {
	if err := rename(filepath.Join(dir, name), filepath.Join(dir, id.FileName())); err != nil {
		return err
	}
	return syncPath(dir)
}

// ShareState puts a state into dir whose file is elsewhere: the two share it where
// the file system can. One that is there already stays.
func ShareState(path, dir string, id StateID) error {
	to := filepath.Join(dir, id.FileName())
	if _, err := os.Lstat(to); err == nil {
		return syncPath(dir)
	}
	if err := removeAll(to + tmpSuffix); err != nil {
		return err
	}
	if err := linkOrCopy(path, to+tmpSuffix); err != nil {
		return err
	}
	if err := rename(to+tmpSuffix, to); err != nil {
		return err
	}
	return syncPath(dir)
}

// RemoveState removes a file of a state or of a part of one, with erase after
// overwriting it, if no checkpoint shares it. One that is gone is removed already.
func RemoveState(path string, erase bool) error {
	remove := removeFile
	if erase {
		remove = EraseLast
	}
	if err := remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
