package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cohort-tx/cohort/txlog/checkpoint"
)

// fileView is what reading an export file has found.
type fileView struct {
	File  string `json:"file"`
	Whole bool   `json:"whole"`
	// Part is the file within it, and Section the section, that is wrong.
	Part    string `json:"part"`
	Section string `json:"section"`
	Reason  string `json:"reason"`

	Group        string        `json:"group"`
	ID           uint64        `json:"id"`
	Incarnation  uint64        `json:"incarnation"`
	Position     uint64        `json:"position"`
	Time         *string       `json:"time"`
	Digest       string        `json:"digest"`
	Bytes        int64         `json:"bytes"`
	Participants []sectionView `json:"participants"`
}

// verifyFile reads an export file to its end. What is wrong with the file is in
// the view; the error is of reading it. name is how messages call it.
func (e *environment) verifyFile(path, name string) (fileView, error) {
	view := fileView{File: name, Participants: []sectionView{}}
	info, err := os.Stat(path)
	if err != nil {
		return view, fmt.Errorf("checkpoint file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return view, fmt.Errorf("checkpoint file %s is no regular file", name)
	}
	view.Bytes = info.Size()
	progress := e.phases()
	defer progress.end()
	progress.phase("verifying "+name, 0, uint64(view.Bytes))
	var done uint64
	manifest, err := checkpoint.VerifyExport(path, func(bytes int64) {
		done += uint64(bytes)
		progress.phase("verifying "+name, done, uint64(view.Bytes))
	})
	if err != nil {
		if !view.fault(err) {
			return view, fmt.Errorf("checkpoint file %s: %w", name, err)
		}
		return view, nil
	}
	view.describe(&manifest)
	return view, nil
}

func (v *fileView) describe(m *checkpoint.Manifest) {
	at := time.Unix(0, m.TimeUnixNano).UTC().Format(time.RFC3339Nano)
	v.Whole, v.Group, v.ID, v.Incarnation, v.Position, v.Time = true, m.Group, m.Number, m.Incarnation, m.Position, &at
	v.Digest = fmt.Sprintf("%x", m.Digest)
	for _, s := range m.Sections {
		if name, ok := strings.CutPrefix(s.Name, "participant/"); ok {
			v.Participants = append(v.Participants, sectionView{Name: name, Keys: s.Keys, Bytes: s.Bytes, Digest: fmt.Sprintf("%x", s.Digest)})
		}
	}
}

// fault takes in what is wrong with the file, and tells whether err is that.
func (v *fileView) fault(err error) bool {
	var (
		corrupt *checkpoint.CorruptError
		newer   *checkpoint.VersionError
	)
	switch {
	case errors.As(err, &corrupt):
		v.Section, v.Reason = corrupt.Section, corrupt.Detail
		// Parts are told by where they were unpacked, the whole by what it is.
		if filepath.IsAbs(corrupt.File) {
			v.Part = filepath.Base(corrupt.File)
		} else if _, part, ok := strings.Cut(corrupt.File, ", "); ok {
			v.Part = part
		}
	case errors.As(err, &newer):
		v.Reason = fmt.Sprintf("it has format %d, and this release reads up to %d; use a newer release", newer.Found, newer.Supported)
	case errors.Is(err, checkpoint.ErrIncomplete):
		v.Reason = "it ends too early: it was cut off"
	default:
		return false
	}
	return true
}

// wrong tells on one line what is wrong with the file.
func (v *fileView) wrong() string {
	where := v.File
	for _, part := range []string{v.Part, v.Section} {
		if part != "" {
			where += ", " + part
		}
	}
	return where + ": " + v.Reason
}
