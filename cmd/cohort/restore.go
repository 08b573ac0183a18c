package main

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
)

// restoreView is what a restore or an import has made.
type restoreView struct {
	Group       string  `json:"group"`
	Incarnation uint64  `json:"incarnation"`
	Checkpoint  uint64  `json:"checkpoint"`
	Position    uint64  `json:"position"`
	Time        *string `json:"time"`
	// ComeBackCheckpoint of a restore in place takes the group back to what it was;
	// 0 for others.
	ComeBackCheckpoint uint64        `json:"come_back_checkpoint"`
	Seconds            float64       `json:"seconds"`
	LoadSeconds        float64       `json:"load_seconds"`
	ReplaySeconds      float64       `json:"replay_seconds"`
	EntriesReplayed    uint64        `json:"entries_replayed"`
	Bytes              uint64        `json:"bytes"`
	Participants       []sectionView `json:"participants"`
	Nodes              []string      `json:"nodes"`
}

func viewRestore(r *pb.RestoreResult) restoreView {
	return restoreView{
		Group: r.Group, Incarnation: r.Incarnation, Checkpoint: r.Checkpoint, Position: r.Position, Time: moment(r.Time),
		ComeBackCheckpoint: r.ComeBackCheckpoint, Seconds: r.Seconds, LoadSeconds: r.LoadSeconds, ReplaySeconds: r.ReplaySeconds,
		EntriesReplayed: r.EntriesReplayed, Bytes: r.Bytes, Participants: viewSections(r.Participants), Nodes: listed(r.Nodes),
	}
}

type restoreFlags struct {
	to, as       string
	inPlace, yes bool
}

func newRestore(env *environment) *cobra.Command {
	var flags restoreFlags
	cmd := &cobra.Command{
		Use:   "restore GROUP --to checkpoint:ID|position:N|time:T (--as NEWGROUP | --in-place --yes)",
		Short: "Make a new group of a point in a group's past, or take the group back to it",
		Long: `Make a new group of a point in a group's past, or with --in-place take the group
itself back to it. The point is a checkpoint, a position of the log, or a time in
RFC 3339, which means the last position committed by then.

In place, a checkpoint to come back to is taken first; then every transaction after
the point is taken back, and the group goes on in a new incarnation.`,
		Example: `  cohort restore checkout --to checkpoint:7 --as checkout-before
  cohort restore checkout --to time:2026-03-01T09:30:00Z --as checkout-before
  cohort restore checkout --to position:1200 --in-place --yes`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			request, err := flags.request(args[0])
			if err != nil {
				return err
			}
			conn, err := env.connect()
			if err != nil {
				return err
			}
			defer conn.Close()
			ctx, cancel := env.longRequest(cmd)
			defer cancel()
			stream, err := pb.NewCheckpointsClient(conn).Restore(ctx, request)
			if err != nil {
				return err
			}
			result, err := env.awaitRestored(stream)
			if err != nil {
				target := request.As
				if request.InPlace {
					target = request.Group
				}
				return restoreDoubt(target, err)
			}
			view := viewRestore(result)
			return env.print(view, view.table)
		},
	}
	cmd.Flags().StringVar(&flags.to, "to", "", "checkpoint:ID, position:N or time:T")
	cmd.Flags().StringVar(&flags.as, "as", "", "name of the new group")
	cmd.Flags().BoolVar(&flags.inPlace, "in-place", false, "take the group itself back")
	cmd.Flags().BoolVar(&flags.yes, "yes", false, "with --in-place: do it")
	return cmd
}

// request checks the flags against each other.
func (f *restoreFlags) request(group string) (*pb.RestoreRequest, error) {
	request := &pb.RestoreRequest{Group: group, As: f.as, InPlace: f.inPlace}
	if err := parseRestorePoint(f.to, request); err != nil {
		return nil, err
	}
	switch {
	case f.inPlace && f.as != "":
		return nil, usagef("restore takes either --as or --in-place, not both")
	case !f.inPlace && f.as == "":
		return nil, usagef("restore needs to know where: --as NEWGROUP makes a new group, --in-place takes %s itself back", group)
	case f.inPlace && !f.yes:
		return nil, usagef("restore --in-place would take a checkpoint of %s to come back to, and then take back every transaction after %s; nothing was done: give --yes to do it, or --as NEWGROUP to leave %s as it is", group, f.to, group)
	}
	return request, nil
}

// parseRestorePoint reads what --to says.
func parseRestorePoint(to string, request *pb.RestoreRequest) error {
	kind, value, _ := strings.Cut(to, ":")
	switch kind {
	case "checkpoint":
		id, err := checkpointArg(value)
		if err != nil {
			return err
		}
		request.To = &pb.RestoreRequest_Checkpoint{Checkpoint: id}
	case "position":
		position, err := strconv.ParseUint(value, 10, 64)
		if err != nil {
			return usagef("--to %s: a position is a whole number, as 'cohort log show' shows it", to)
		}
		request.To = &pb.RestoreRequest_Position{Position: position}
	case "time":
		at, err := time.Parse(time.RFC3339Nano, value)
		if err != nil {
			return usagef("--to %s: give the time in RFC 3339 with its zone, like time:2026-03-01T09:30:00Z", to)
		}
		request.To = &pb.RestoreRequest_Time{Time: timestamppb.New(at)}
	case "":
		return usagef("restore needs --to: checkpoint:ID, position:N or time:T")
	default:
		return usagef("--to %s: give checkpoint:ID, position:N or time:T", to)
	}
	return nil
}

// restoreStream is what restores, imports and drills answer with.
type restoreStream interface {
	Recv() (*pb.RestoreProgress, error)
}

// awaitRestored shows the phases and gives the result.
func (e *environment) awaitRestored(stream restoreStream) (*pb.RestoreResult, error) {
	progress := e.phases()
	defer progress.end()
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil, errNoResult
		}
		if err != nil {
			return nil, err
		}
		if m.Result != nil {
			return m.Result, nil
		}
		progress.phase(m.Phase, m.BytesDone, m.BytesTotal)
	}
}

var errNoResult = errors.New("the node ended without a result")

// restoreDoubt adds to an error that leaves open what was done where to look.
func restoreDoubt(group string, err error) error {
	if s, ok := grpcStatus(err); ok {
		if nobodyAnswered(s) {
			return err
		}
		switch s.Code() {
		case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Unknown:
		default:
			return err
		}
	} else if !errors.Is(err, errNoResult) {
		return err
	}
	return fmt.Errorf("%s; before you try again, 'cohort get groups' shows whether %s was restored, and in which incarnation it is", explain(err), group)
}

func (v restoreView) table(w *tabwriter.Writer) {
	fmt.Fprintf(w, "group %s is at position %d, in incarnation %d\n", v.Group, v.Position, v.Incarnation)
	fmt.Fprintf(w, "  checkpoint %d loaded in %s, %d entries replayed in %s; all in %s, on %s\n", v.Checkpoint,
		secondsText(v.LoadSeconds), v.EntriesReplayed, secondsText(v.ReplaySeconds), secondsText(v.Seconds), orDash(strings.Join(v.Nodes, ",")))
	if v.ComeBackCheckpoint > 0 {
		fmt.Fprintf(w, "  'cohort restore %s --to checkpoint:%d --in-place --yes' brings back what it was before\n", v.Group, v.ComeBackCheckpoint)
	}
	for _, p := range v.Participants {
		fmt.Fprintf(w, "  %s\t%d keys\t%s\n", p.Name, p.Keys, sizeText(p.Bytes))
	}
}
