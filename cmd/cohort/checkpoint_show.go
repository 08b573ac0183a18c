package main

import (
	"encoding/hex"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
)

// checkpointDetail is a checkpoint with what each node says of its copy.
type checkpointDetail struct {
	checkpointView
	RequestedBy string `json:"requested_by"`
	// Only are the participants in it; empty means all.
	Only      []string   `json:"only"`
	Digest    string     `json:"digest"`
	MinCopies uint64     `json:"min_copies"`
	Completed *string    `json:"completed"`
	Nodes     []copyView `json:"nodes"`
}

// copyView is a node's copy. State is none, written, failed, lost or different.
type copyView struct {
	Node         string  `json:"node"`
	State        string  `json:"state"`
	Bytes        uint64  `json:"bytes"`
	WriteSeconds float64 `json:"write_seconds"`
	Rebuilt      uint64  `json:"rebuilt"`
	Reason       string  `json:"reason"`
}

func viewCheckpointDetail(c *pb.CheckpointInfo) checkpointDetail {
	view := checkpointDetail{
		checkpointView: viewCheckpoint(c), RequestedBy: c.RequestedBy, Only: listed(c.Only),
		Digest: hex.EncodeToString(c.Digest), MinCopies: c.MinCopies, Completed: moment(c.Completed), Nodes: []copyView{},
	}
	for _, copied := range c.Copies {
		view.Nodes = append(view.Nodes, copyView{
			Node: copied.Node, State: copied.State, Bytes: copied.Bytes, WriteSeconds: copied.WriteSeconds,
			Rebuilt: copied.Rebuilt, Reason: copied.Reason,
		})
	}
	return view
}

func newCheckpointShow(env *environment) *cobra.Command {
	return &cobra.Command{
		Use:   "show GROUP ID",
		Short: "One checkpoint: its parts and digests, and each node's copy",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := checkpointArg(args[1])
			if err != nil {
				return err
			}
			answer, err := env.listCheckpoints(cmd, &pb.ListCheckpointsRequest{Group: args[0], Id: id})
			if err != nil {
				return err
			}
			if len(answer) == 0 {
				return fmt.Errorf("group %s has no checkpoint %d: 'cohort checkpoint list %s' shows those it has", args[0], id, args[0])
			}
			view := viewCheckpointDetail(answer[0])
			return env.print(view, view.table)
		},
	}
}

func (v checkpointDetail) table(w *tabwriter.Writer) {
	fmt.Fprintf(w, "checkpoint %d of %s: %s\n", v.ID, v.Group, v.State)
	if v.why() != "" {
		fmt.Fprintf(w, "  ! %s\n", v.why())
	}
	trigger := v.Trigger
	if v.RequestedBy != "" {
		trigger += ", asked for by " + v.RequestedBy
	}
	for _, line := range [][2]string{
		{"position", fmt.Sprintf("%d of incarnation %d", v.Position, v.Incarnation)},
		{"taken", momentOrDash(v.Time)},
		{"complete", momentOrDash(v.Completed)},
		{"trigger", trigger},
		{"pause", fmt.Sprintf("%s, after waiting %s", secondsText(v.PauseSeconds), secondsText(v.WaitSeconds))},
		{"copies", fmt.Sprintf("%d whole, %d needed and a majority; the slowest took %s", len(v.Copies), v.MinCopies, secondsText(v.WriteSeconds))},
		{"size", sizeText(v.Bytes)},
		{"participants", orAll(v.Only)},
		{"digest", orDash(v.Digest)},
	} {
		fmt.Fprintf(w, "  %s\t%s\n", line[0], line[1])
	}
	fmt.Fprintln(w, "\n  PARTICIPANT\tKEYS\tSIZE\tOWN STATE\tDIGEST")
	for _, p := range v.Participants {
		fmt.Fprintf(w, "  %s\t%d\t%s\t%s\t%s\n", p.Name, p.Keys, sizeText(p.Bytes), p.OwnState.text(), p.Digest)
	}
	fmt.Fprintln(w, "\n  NODE\tCOPY\tSIZE\tWRITTEN IN\tREBUILT\tREASON")
	for _, n := range v.Nodes {
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%d\t%s\n", n.Node, n.State, sizeText(n.Bytes), secondsText(n.WriteSeconds), n.Rebuilt, orDash(n.Reason))
	}
}

func orAll(names []string) string {
	if len(names) == 0 {
		return "all"
	}
	return strings.Join(names, ",")
}
