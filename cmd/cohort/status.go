package main

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
)

type statusView struct {
	Healthy bool              `json:"healthy"`
	Reasons []string          `json:"reasons"`
	Nodes   []nodeView        `json:"nodes"`
	Groups  []groupStatusView `json:"groups"`
}

type groupStatusView struct {
	Name             string   `json:"name"`
	Healthy          bool     `json:"healthy"`
	Reasons          []string `json:"reasons"`
	Coordinator      string   `json:"coordinator"`
	CoordinatorEpoch uint64   `json:"coordinator_epoch"`
	Incarnation      uint64   `json:"incarnation"`
	Version          uint64   `json:"version"`
	Position         uint64   `json:"position"`
	FirstPosition    uint64   `json:"first_position"`
	LogBytes         uint64   `json:"log_bytes"`
	LastCommit       *string  `json:"last_commit"`
	OpenTransactions uint64   `json:"open_transactions"`
	Outcomes         uint64   `json:"outcomes"`
	Horizon          uint64   `json:"horizon"`
	checkpointState
	Replicas     []replicaView     `json:"replicas"`
	Participants []participantView `json:"participants"`
}

// checkpointState is what a group could be restored from: its newest complete
// checkpoint, 0 when there is none, and the first position that can be reached.
type checkpointState struct {
	Checkpoint           uint64  `json:"checkpoint"`
	CheckpointPosition   uint64  `json:"checkpoint_position"`
	CheckpointTime       *string `json:"checkpoint_time"`
	CheckpointAgeSeconds float64 `json:"checkpoint_age_seconds"`
	CheckpointBytes      uint64  `json:"checkpoint_bytes"`
	RestorableFrom       uint64  `json:"restorable_from"`
}

func viewCheckpointState(g *pb.GroupStatus) checkpointState {
	return checkpointState{
		Checkpoint: g.Checkpoint, CheckpointPosition: g.CheckpointPosition, CheckpointTime: moment(g.CheckpointTime),
		CheckpointAgeSeconds: g.CheckpointAgeSeconds, CheckpointBytes: g.CheckpointBytes, RestorableFrom: g.RestorableFrom,
	}
}

func (c checkpointState) text() string {
	if c.Checkpoint == 0 {
		return "no checkpoint is complete"
	}
	return fmt.Sprintf("checkpoint %d of position %d, %s old, %s; restorable from position %d on",
		c.Checkpoint, c.CheckpointPosition, ageText(c.CheckpointAgeSeconds), sizeText(c.CheckpointBytes), c.RestorableFrom)
}

// ageText shows an age in whole seconds.
func ageText(seconds float64) string {
	return time.Duration(seconds * float64(time.Second)).Truncate(time.Second).String()
}

type replicaView struct {
	Node         string `json:"node"`
	Role         string `json:"role"`
	Position     uint64 `json:"position"`
	AppliedIndex uint64 `json:"applied_index"`
	Lag          uint64 `json:"lag"`
	Reason       string `json:"reason"`
}

func viewStatus(answer *pb.StatusResponse) statusView {
	view := statusView{
		Healthy: answer.Healthy, Reasons: listed(answer.Reasons), Nodes: []nodeView{}, Groups: []groupStatusView{},
	}
	for _, node := range answer.Nodes {
		view.Nodes = append(view.Nodes, viewNode(node))
	}
	for _, g := range answer.Groups {
		group := groupStatusView{
			Name: g.Name, Healthy: g.Healthy, Reasons: listed(g.Reasons), Coordinator: g.Coordinator,
			CoordinatorEpoch: g.CoordinatorEpoch, Incarnation: g.Incarnation, Version: g.Version,
			Position: g.Position, FirstPosition: g.FirstPosition, LogBytes: g.LogBytes, LastCommit: moment(g.LastCommit),
			OpenTransactions: g.OpenTransactions, Outcomes: g.Outcomes, Horizon: g.Horizon,
			checkpointState: viewCheckpointState(g),
			Replicas:        []replicaView{}, Participants: []participantView{},
		}
		for _, r := range g.Replicas {
			group.Replicas = append(group.Replicas, replicaView{
				Node: r.Node, Role: r.Role, Position: r.Position, AppliedIndex: r.AppliedIndex, Lag: r.Lag, Reason: r.Reason,
			})
		}
		for _, p := range g.Participants {
			group.Participants = append(group.Participants, viewParticipant(p))
		}
		view.Groups = append(view.Groups, group)
	}
	return view
}

func newStatus(env *environment) *cobra.Command {
	return &cobra.Command{
		Use:   "status [GROUP]",
		Short: "What an operator needs at 3 a.m.; exit code 1 when something is unhealthy",
		Args:  optionalArg("group name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			answer, err := askCluster(env, cmd, pb.ClusterClient.Status, &pb.StatusRequest{Group: firstOf(args)})
			if err != nil {
				return err
			}
			view := viewStatus(answer)
			if err := env.print(view, view.table); err != nil {
				return err
			}
			if !view.Healthy {
				return errSaid
			}
			return nil
		},
	}
}

func (v statusView) table(w *tabwriter.Writer) {
	health := "healthy"
	if !v.Healthy {
		health = "NOT HEALTHY"
	}
	fmt.Fprintln(w, health)
	for _, reason := range v.Reasons {
		fmt.Fprintf(w, "  ! %s\n", reason)
	}
	fmt.Fprintln(w, "\nNODE\tADDR\tSTATE\tGROUPS")
	for _, node := range v.Nodes {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", node.Name, node.Addr, node.State, orDash(strings.Join(node.Groups, ",")))
	}
	for _, group := range v.Groups {
		group.table(w)
	}
}

func (g groupStatusView) table(w *tabwriter.Writer) {
	health := "healthy"
	if !g.Healthy {
		health = "NOT HEALTHY"
	}
	fmt.Fprintf(w, "\ngroup %s: %s, coordinator %s (epoch %d), position %d, %d open, log %s from position %d, last commit %s\n",
		g.Name, health, orDash(g.Coordinator), g.CoordinatorEpoch, g.Position, g.OpenTransactions,
		sizeText(g.LogBytes), g.FirstPosition, momentOrDash(g.LastCommit))
	for _, reason := range g.Reasons {
		fmt.Fprintf(w, "  ! %s\n", reason)
	}
	fmt.Fprintf(w, "  %s\n", g.text())
	fmt.Fprintln(w, "  REPLICA\tROLE\tPOSITION\tLAG\tREASON")
	for _, r := range g.Replicas {
		fmt.Fprintf(w, "  %s\t%s\t%d\t%d\t%s\n", r.Node, r.Role, r.Position, r.Lag, orDash(r.Reason))
	}
	fmt.Fprintln(w, "  PARTICIPANT\tSTATE\tNODE\tEPOCH\tPOSITION\tLAG\tREASON")
	for _, p := range g.Participants {
		fmt.Fprintf(w, "  %s\t%s\t%s\t%d\t%d\t%d\t%s\n", p.Name, p.State, orDash(p.Node), p.Epoch, p.Position, p.Lag, orDash(p.Reason))
		for _, s := range p.Standbys {
			fmt.Fprintln(w, s.row("  "))
		}
	}
}

// sizeText shows bytes in the largest binary unit that leaves a whole part.
func sizeText(n uint64) string {
	const units = "KMGTP"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n)/1024, 0
	for value >= 1024 && unit < len(units)-1 {
		value, unit = value/1024, unit+1
	}
	return fmt.Sprintf("%.1f %ciB", value, units[unit])
}
