package main

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
)

type checkpointList struct {
	Checkpoints []checkpointView `json:"checkpoints"`
}

// newCheckpointList makes the command that lists checkpoints, which has a name
// of its own beside the other things that 'get' lists.
func newCheckpointList(env *environment, name string) *cobra.Command {
	return &cobra.Command{
		Use:   name + " [GROUP]",
		Short: "Checkpoints and attempts at one, newest first, of one group or of all",
		Args:  optionalArg("group name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			answer, err := env.listCheckpoints(cmd, &pb.ListCheckpointsRequest{Group: firstOf(args)})
			if err != nil {
				return err
			}
			view := checkpointList{Checkpoints: []checkpointView{}}
			for _, c := range answer {
				view.Checkpoints = append(view.Checkpoints, viewCheckpoint(c))
			}
			return env.print(view, view.table)
		},
	}
}

func newGetCheckpoints(env *environment) *cobra.Command {
	return newCheckpointList(env, "checkpoints")
}

func (e *environment) listCheckpoints(cmd *cobra.Command, question *pb.ListCheckpointsRequest) ([]*pb.CheckpointInfo, error) {
	conn, err := e.connect()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	ctx, cancel := e.request(cmd)
	defer cancel()
	answer, err := pb.NewCheckpointsClient(conn).ListCheckpoints(ctx, question)
	if err != nil {
		return nil, err
	}
	return answer.Checkpoints, nil
}

func (l checkpointList) table(w *tabwriter.Writer) {
	fmt.Fprintln(w, "GROUP\tID\tSTATE\tINCARNATION\tPOSITION\tTRIGGER\tPAUSE\tSIZE\tCOPIES\tTIME\tREASON")
	for _, c := range l.Checkpoints {
		fmt.Fprintf(w, "%s\t%d\t%s\t%d\t%d\t%s\t%s\t%s\t%s\t%s\t%s\n", c.Group, c.ID, c.State, c.Incarnation, c.Position, c.Trigger,
			secondsText(c.PauseSeconds), sizeText(c.Bytes), orDash(strings.Join(c.Copies, ",")), momentOrDash(c.Time), orDash(c.why()))
	}
}
