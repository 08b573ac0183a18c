package main

import (
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
)

// drillView is how a restore for practice went.
type drillView struct {
	Group       string   `json:"group"`
	Incarnation uint64   `json:"incarnation"`
	Checkpoint  uint64   `json:"checkpoint"`
	Position    uint64   `json:"position"`
	Equal       bool     `json:"equal"`
	Differences []string `json:"differences"`
	// Seconds is all of it, with the comparison; RecoverySeconds is loading and
	// replaying.
	Seconds                float64       `json:"seconds"`
	RecoverySeconds        float64       `json:"recovery_seconds"`
	LoadSeconds            float64       `json:"load_seconds"`
	ReplaySeconds          float64       `json:"replay_seconds"`
	LoadBytesPerSecond     float64       `json:"load_bytes_per_second"`
	ReplayEntriesPerSecond float64       `json:"replay_entries_per_second"`
	EntriesReplayed        uint64        `json:"entries_replayed"`
	Bytes                  uint64        `json:"bytes"`
	Participants           []sectionView `json:"participants"`
	Nodes                  []string      `json:"nodes"`
}

func viewDrill(r *pb.RestoreResult) drillView {
	return drillView{
		Group: r.Group, Incarnation: r.Incarnation, Checkpoint: r.Checkpoint, Position: r.Position,
		Equal: r.Equal, Differences: listed(r.Differences),
		Seconds: r.Seconds, RecoverySeconds: r.LoadSeconds + r.ReplaySeconds, LoadSeconds: r.LoadSeconds, ReplaySeconds: r.ReplaySeconds,
		LoadBytesPerSecond:     perSecond(r.Bytes, r.LoadSeconds),
		ReplayEntriesPerSecond: perSecond(r.EntriesReplayed, r.ReplaySeconds),
		EntriesReplayed:        r.EntriesReplayed, Bytes: r.Bytes, Participants: viewSections(r.Participants), Nodes: listed(r.Nodes),
	}
}

// perSecond is a rate; 0 when nothing took any time.
func perSecond(n uint64, seconds float64) float64 {
	if seconds <= 0 {
		return 0
	}
	return float64(n) / seconds
}

func newDrill(env *environment) *cobra.Command {
	return &cobra.Command{
		Use:   "drill GROUP",
		Short: "Restore for practice and compare with the live group; exit code 1 when not equal",
		Long: `Restore a group on one node into a place of its own, replay the log, compare with
the live group, tell how long recovery takes, and clean up. The group goes on
meanwhile, and nothing of it changes.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			conn, err := env.connect()
			if err != nil {
				return err
			}
			defer conn.Close()
			ctx, cancel := env.longRequest(cmd)
			defer cancel()
			stream, err := pb.NewCheckpointsClient(conn).Drill(ctx, &pb.DrillRequest{Group: args[0]})
			if err != nil {
				return err
			}
			result, err := env.awaitRestored(stream)
			if errors.Is(err, errNoResult) {
				return fmt.Errorf("%w; nothing was changed: ask again", err)
			}
			if err != nil {
				return err
			}
			view := viewDrill(result)
			if err := env.print(view, view.table); err != nil {
				return err
			}
			if !view.Equal {
				return fmt.Errorf("what would be restored of %s is not what is live: 'cohort checkpoint verify %s' tells which copies are damaged; keep the nodes' data until it is clear why", view.Group, view.Group)
			}
			return nil
		},
	}
}

func (v drillView) table(w *tabwriter.Writer) {
	verdict := "equal to the live group"
	if !v.Equal {
		verdict = "NOT EQUAL to the live group"
	}
	fmt.Fprintf(w, "%s: checkpoint %d and the log to position %d are %s\n", v.Group, v.Checkpoint, v.Position, verdict)
	for _, d := range v.Differences {
		fmt.Fprintf(w, "  ! %s\n", d)
	}
	fmt.Fprintf(w, "  recovery\t%s\ton %s\n", secondsText(v.RecoverySeconds), orDash(firstOf(v.Nodes)))
	fmt.Fprintf(w, "  load\t%s\t%s, %s/s\n", secondsText(v.LoadSeconds), sizeText(v.Bytes), sizeText(uint64(v.LoadBytesPerSecond)))
	fmt.Fprintf(w, "  replay\t%s\t%d entries, %.0f/s\n", secondsText(v.ReplaySeconds), v.EntriesReplayed, v.ReplayEntriesPerSecond)
	fmt.Fprintf(w, "  all\t%s\twith the comparison\n", secondsText(v.Seconds))
}
