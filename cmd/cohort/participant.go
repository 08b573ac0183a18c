package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"text/tabwriter"

	"github.com/spf13/cobra"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
)

func newParticipant(env *environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "participant echo",
		Short: "Participants for tours and tests",
	}
	cmd.AddCommand(newParticipantEcho(env))
	requireSubcommand(cmd)
	return cmd
}

// echoView is the one line that echo prints once it is attached.
type echoView struct {
	Ready       bool   `json:"ready"`
	Group       string `json:"group"`
	Participant string `json:"participant"`
	State       string `json:"state"`
	PID         int    `json:"pid"`
}

func newParticipantEcho(env *environment) *cobra.Command {
	var group, name string
	cmd := &cobra.Command{
		Use:   "echo [--group G] [--participant P]",
		Short: "Serve a participant that stores and returns what it is sent",
		Long: `Attach as a participant and answer any method: the payload is stored under the key
last/METHOD in the participant's store, within the caller's transaction, and
returned. It prints one line when it is attached and ends on SIGINT or SIGTERM.

Without the flags the environment says what to attach as: COHORT_ADDR, COHORT_GROUP
and COHORT_PARTICIPANT.`,
		Example: `  cohort participant echo --group checkout --participant inventory
  cohort tx run --group checkout --call 'inventory/reserve={"n":1}' --get inventory/last/reserve`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if group == "" {
				group = env.getenv("COHORT_GROUP")
			}
			if name == "" {
				name = env.getenv("COHORT_PARTICIPANT")
			}
			if group == "" || name == "" {
				return usagef("echo needs to know what to attach as: --group and --participant, or COHORT_GROUP and COHORT_PARTICIPANT")
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			return env.echo(ctx, group, name)
		},
	}
	cmd.Flags().StringVarP(&group, "group", "g", "", "group of the participant (COHORT_GROUP)")
	cmd.Flags().StringVar(&name, "participant", "", "participant to attach as (COHORT_PARTICIPANT)")
	return cmd
}

func (e *environment) echo(ctx context.Context, group, name string) error {
	conn, err := e.connect()
	if err != nil {
		return err
	}
	defer conn.Close()
	states := make(chan string, 1)
	instance, err := newEchoInstance(group, name, func(state string) {
		select {
		case states <- state:
		default: // one line is printed
		}
	})
	if err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() { served <- instance.serve(ctx, pb.NewParticipantsClient(conn)) }()
	select {
	case err := <-served:
		return err
	case state := <-states:
		view := echoView{Ready: true, Group: group, Participant: name, State: state, PID: os.Getpid()}
		err := e.print(view, func(w *tabwriter.Writer) {
			fmt.Fprintf(w, "ready: %s/%s is %s\n", view.Group, view.Participant, view.State)
		})
		return errors.Join(err, <-served)
	}
}
