package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
)

type logFlags struct {
	group        string
	from, limit  uint64
	participants []string
}

type entryView struct {
	Position uint64       `json:"position"`
	ID       string       `json:"id"`
	Time     *string      `json:"time"`
	Changes  []changeView `json:"changes"`
}

// changeView is one applied write. The value of an add is the counter's result,
// that of a delete is null.
type changeView struct {
	Participant string  `json:"participant"`
	Op          string  `json:"op"`
	Key         string  `json:"key"`
	Value       *string `json:"value"`
	Delta       *int64  `json:"delta,omitempty"`
}

func viewEntry(entry *pb.LogEntry) entryView {
	view := entryView{Position: entry.Position, ID: entry.Id, Time: moment(entry.Time), Changes: []changeView{}}
	for _, c := range entry.Changes {
		change := changeView{Participant: c.Participant, Key: text(c.Key)}
		value := text(c.Value)
		change.Value = &value
		switch c.Kind {
		case pb.Change_KIND_PUT:
			change.Op = "put"
		case pb.Change_KIND_DELETE:
			change.Op, change.Value = "delete", nil
		case pb.Change_KIND_ADD:
			change.Op, change.Delta = "add", &c.Delta
		case pb.Change_KIND_LOG:
			change.Op = "log"
		default:
			change.Op = strings.ToLower(c.Kind.String())
		}
		view.Changes = append(view.Changes, change)
	}
	return view
}

func (v entryView) table(w *tabwriter.Writer) {
	fmt.Fprintf(w, "%d\t%s\t%s\n", v.Position, momentOrDash(v.Time), v.ID)
	for _, c := range v.Changes {
		switch {
		case c.Op == "delete":
			fmt.Fprintf(w, "\tdelete %s/%s\n", c.Participant, c.Key)
		case c.Delta != nil:
			fmt.Fprintf(w, "\tadd %s/%s %+d = %s\n", c.Participant, c.Key, *c.Delta, *c.Value)
		case c.Op == "log":
			fmt.Fprintf(w, "\tlog %s %s\n", c.Participant, *c.Value)
		default:
			fmt.Fprintf(w, "\t%s %s/%s = %s\n", c.Op, c.Participant, c.Key, *c.Value)
		}
	}
}

func newLog(env *environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "log show|follow --group G",
		Short: "A group's committed transactions, in their order",
	}
	cmd.AddCommand(
		newLogRead(env, "show", "Print the entries there are", false),
		newLogRead(env, "follow", "Print entries as they are committed, until interrupted", true),
	)
	requireSubcommand(cmd)
	return cmd
}

func newLogRead(env *environment, name, short string, follow bool) *cobra.Command {
	var flags logFlags
	cmd := &cobra.Command{
		Use:   name + " --group G [--from POSITION]",
		Short: short,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if flags.group == "" {
				return usagef("log %s needs --group: 'cohort get groups' lists them", name)
			}
			ctx, cancel := env.request(cmd)
			if follow {
				cancel()
				ctx, cancel = signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			}
			defer cancel()
			return env.readLog(ctx, flags, follow)
		},
	}
	cmd.Flags().StringVarP(&flags.group, "group", "g", "", "group whose log to read")
	cmd.Flags().Uint64Var(&flags.from, "from", 1, "first position wanted")
	cmd.Flags().Uint64Var(&flags.limit, "limit", 0, "stop after so many entries; 0 means no limit")
	cmd.Flags().StringSliceVar(&flags.participants, "participant", nil, "show only changes of these participants")
	return cmd
}

// readLog prints entries from flags.from on: those acknowledged before it was
// called, or without end.
func (e *environment) readLog(ctx context.Context, flags logFlags, follow bool) error {
	conn, err := e.connect()
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	request := &pb.FollowRequest{Group: flags.group, From: flags.from, Participants: flags.participants}
	last := uint64(math.MaxUint64)
	if !follow {
		last, err = logEnd(ctx, pb.NewTransactionsClient(conn), flags.group)
		switch {
		case status.Code(err) == codes.Unavailable:
			fmt.Fprintf(e.stderr, "cohort: the group does not confirm where its log ends (%s); this is what one node has applied\n", status.Convert(err).Message())
			request.NoWait, request.Stale = true, true
		case err != nil:
			return err
		case last < max(flags.from, 1):
			return nil
		}
	}
	if flags.limit > 0 && flags.limit <= math.MaxUint64-max(flags.from, 1) {
		last = min(last, max(flags.from, 1)+flags.limit-1)
	}
	stream, err := pb.NewLogClient(conn).Follow(ctx, request)
	if err != nil {
		return err
	}
	for {
		answer, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && follow && ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		for _, entry := range answer.Entries {
			view := viewEntry(entry)
			if err := e.print(view, view.table); err != nil {
				return err
			}
			if entry.Position >= last {
				return nil
			}
		}
	}
}

// logEnd is the last position that was acknowledged before the call. Following
// without it would end where the answering node happens to be.
func logEnd(ctx context.Context, client pb.TransactionsClient, group string) (uint64, error) {
	read, err := client.BeginRead(ctx, &pb.BeginReadRequest{Group: group})
	if err != nil {
		return 0, err
	}
	// The session ends by itself when this does not reach its node.
	_, _ = client.EndRead(ctx, &pb.EndReadRequest{Group: group, ReadSession: read.ReadSession})
	return read.Position, nil
}
