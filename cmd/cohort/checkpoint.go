package main

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
)

func newCheckpoint(env *environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "checkpoint create|list|show|verify|export|import",
		Short: "Take checkpoints of a whole group, and look after them",
	}
	cmd.AddCommand(
		newCheckpointCreate(env), newCheckpointList(env, "list"), newCheckpointShow(env),
		newCheckpointVerify(env), newCheckpointExport(env), newCheckpointImport(env),
	)
	requireSubcommand(cmd)
	return cmd
}

// States of a checkpoint, and of a copy that is whole.
const (
	checkpointWriting   = "writing"
	checkpointComplete  = "complete"
	checkpointAbandoned = "abandoned"
	checkpointFailed    = "failed"
	copyWritten         = "written"
)

// checkpointView is a checkpoint, or an attempt at one. State is writing,
// complete, abandoned or failed.
type checkpointView struct {
	ID           uint64        `json:"id"`
	Group        string        `json:"group"`
	Position     uint64        `json:"position"`
	State        string        `json:"state"`
	Trigger      string        `json:"trigger"`
	Reason       string        `json:"reason"`
	Transaction  string        `json:"transaction"`
	Participant  string        `json:"participant"`
	PauseSeconds float64       `json:"pause_seconds"`
	WaitSeconds  float64       `json:"wait_seconds"`
	WriteSeconds float64       `json:"write_seconds"`
	Bytes        uint64        `json:"bytes"`
	Participants []sectionView `json:"participants"`
	// Copies are the nodes that hold a whole one.
	Copies      []string `json:"copies"`
	Time        *string  `json:"time"`
	Incarnation uint64   `json:"incarnation"`
}

// sectionView is a participant's part of a checkpoint.
type sectionView struct {
	Name   string `json:"name"`
	Keys   uint64 `json:"keys"`
	Bytes  uint64 `json:"bytes"`
	Digest string `json:"digest"`
	// OwnState is null for a participant without state of its own.
	OwnState *ownStateView `json:"own_state"`
}

// ownStateView is the captured state of a participant. State is wanted, captured,
// inherited or failed.
type ownStateView struct {
	State    string `json:"state"`
	Position uint64 `json:"position"`
	Bytes    uint64 `json:"bytes"`
	SHA256   string `json:"sha256"`
	Reason   string `json:"reason"`
}

// text tells of the state in a few words.
func (s *ownStateView) text() string {
	switch {
	case s == nil:
		return "-"
	case s.SHA256 == "":
		return s.State
	}
	return fmt.Sprintf("%s, %s of position %d", s.State, sizeText(s.Bytes), s.Position)
}

func viewCheckpoint(c *pb.CheckpointInfo) checkpointView {
	view := checkpointView{
		ID: c.Id, Group: c.Group, Position: c.Position, State: c.State, Trigger: c.Trigger,
		Reason: c.Reason, Transaction: c.Transaction, Participant: c.Participant,
		PauseSeconds: c.PauseSeconds, WaitSeconds: c.WaitSeconds, WriteSeconds: c.WriteSeconds,
		Bytes: c.Bytes, Participants: viewSections(c.Participants), Copies: []string{},
		Time: moment(c.Time), Incarnation: c.Incarnation,
	}
	for _, copied := range c.Copies {
		if copied.State == copyWritten {
			view.Copies = append(view.Copies, copied.Node)
		}
	}
	return view
}

func viewSections(sections []*pb.CheckpointParticipant) []sectionView {
	views := []sectionView{}
	for _, s := range sections {
		view := sectionView{Name: s.Name, Keys: s.Keys, Bytes: s.Bytes, Digest: hex.EncodeToString(s.Digest)}
		if own := s.State; own != nil {
			view.OwnState = &ownStateView{State: own.State, Position: own.Position, Bytes: own.Bytes, SHA256: hex.EncodeToString(own.Sha256), Reason: own.Reason}
		}
		views = append(views, view)
	}
	return views
}

// why tells what was in the way of a checkpoint, on one line.
func (v checkpointView) why() string {
	said := v.Reason
	for _, part := range []struct{ what, name string }{{"transaction", v.Transaction}, {"participant", v.Participant}} {
		if part.name != "" {
			said += fmt.Sprintf(" (%s %s)", part.what, part.name)
		}
	}
	return said
}

// checkpointArg reads the id of a checkpoint.
func checkpointArg(argument string) (uint64, error) {
	id, err := strconv.ParseUint(argument, 10, 64)
	if err != nil || id == 0 {
		return 0, usagef("%q is no checkpoint: give its id, a number from 1, as 'cohort checkpoint list' shows it", argument)
	}
	return id, nil
}

// secondsText shows a duration with three digits or so.
func secondsText(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d >= time.Second:
		d = d.Round(10 * time.Millisecond)
	case d >= time.Millisecond:
		d = d.Round(10 * time.Microsecond)
	default:
		d = d.Round(time.Microsecond)
	}
	return d.String()
}
