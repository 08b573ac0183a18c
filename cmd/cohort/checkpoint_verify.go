package main

import (
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
)

// verifyView is what the nodes have found in their copies, and in the archive.
type verifyView struct {
	Group  string         `json:"group"`
	Whole  bool           `json:"whole"`
	Copies []verifiedView `json:"copies"`
}

// verifiedView is one copy; its id is 0 for archived log.
type verifiedView struct {
	Node    string `json:"node"`
	ID      uint64 `json:"id"`
	Whole   bool   `json:"whole"`
	File    string `json:"file"`
	Section string `json:"section"`
	Reason  string `json:"reason"`
	Bytes   uint64 `json:"bytes"`
}

func newCheckpointVerify(env *environment) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "verify GROUP [ID] | verify --file F",
		Short: "Read copies to their last byte; exit code 1 when one is not whole",
		Long: `Have every node read its copies of a checkpoint, or without ID of all complete
checkpoints and its archive of the log, and tell what is wrong with each. With
--file an exported file is read here, without a cluster.`,
		Args: cobra.MaximumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if file != "" {
				if len(args) > 0 {
					return usagef("verify --file reads that file alone: leave out %q", args[0])
				}
				return env.verifyFileAlone(file)
			}
			if len(args) == 0 {
				return usagef("%s needs a group, or --file F", cmd.CommandPath())
			}
			request := &pb.VerifyCheckpointRequest{Group: args[0]}
			if len(args) > 1 {
				id, err := checkpointArg(args[1])
				if err != nil {
					return err
				}
				request.Id = id
			}
			return env.verifyCopies(cmd, request)
		},
	}
	cmd.Flags().StringVar(&file, "file", "", "an exported file")
	return cmd
}

func (e *environment) verifyFileAlone(file string) error {
	view, err := e.verifyFile(file, file)
	if err != nil {
		return err
	}
	err = e.print(view, func(w *tabwriter.Writer) {
		if !view.Whole {
			return // the error says it
		}
		fmt.Fprintf(w, "%s is whole: checkpoint %d of %s, position %d of incarnation %d, %s\n", view.File, view.ID, view.Group, view.Position, view.Incarnation, sizeText(uint64(view.Bytes)))
		for _, p := range view.Participants {
			fmt.Fprintf(w, "  %s\t%d keys\t%s\n", p.Name, p.Keys, sizeText(p.Bytes))
		}
	})
	if err == nil && !view.Whole {
		err = fmt.Errorf("%s; export it again, or use another copy of the file", view.wrong())
	}
	return err
}

func (e *environment) verifyCopies(cmd *cobra.Command, request *pb.VerifyCheckpointRequest) error {
	conn, err := e.connect()
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := e.longRequest(cmd)
	defer cancel()
	stream, err := pb.NewCheckpointsClient(conn).VerifyCheckpoint(ctx, request)
	if err != nil {
		return err
	}
	result, err := e.awaitVerified(stream)
	if err != nil {
		return err
	}
	view := verifyView{Group: request.Group, Whole: result.Whole, Copies: []verifiedView{}}
	for _, c := range result.Copies {
		view.Copies = append(view.Copies, verifiedView{
			Node: c.Node, ID: c.Id, Whole: c.Whole, File: c.File, Section: c.Section, Reason: c.Reason, Bytes: c.Bytes,
		})
	}
	if err := e.print(view, view.table); err != nil {
		return err
	}
	return view.verdict()
}

func (e *environment) awaitVerified(stream grpc.ServerStreamingClient[pb.VerifyProgress]) (*pb.VerifyResult, error) {
	progress := e.phases()
	defer progress.end()
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil, errors.New("the node ended without a result; ask again")
		}
		if err != nil {
			return nil, err
		}
		if m.Result != nil {
			return m.Result, nil
		}
		progress.phase("verifying", m.BytesDone, m.BytesTotal)
	}
}

func (v verifyView) table(w *tabwriter.Writer) {
	fmt.Fprintln(w, "NODE\tCHECKPOINT\tWHOLE\tSIZE\tFILE\tSECTION\tREASON")
	for _, c := range v.Copies {
		id, whole := "archive", "yes"
		if c.ID > 0 {
			id = fmt.Sprint(c.ID)
		}
		if !c.Whole {
			whole = "NO"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", c.Node, id, whole, sizeText(c.Bytes), orDash(c.File), orDash(c.Section), orDash(c.Reason))
	}
}

func (v verifyView) verdict() error {
	if len(v.Copies) == 0 {
		return fmt.Errorf("there is nothing to verify: group %s has no complete checkpoint; take one with 'cohort checkpoint create %s --wait'", v.Group, v.Group)
	}
	copies, archived := 0, 0
	for _, c := range v.Copies {
		switch {
		case c.Whole:
		case c.ID == 0:
			archived++
		default:
			copies++
		}
	}
	if copies+archived == 0 && v.Whole {
		return nil
	}
	wrong := fmt.Sprintf("%d of %d are not whole", copies+archived, len(v.Copies))
	if copies > 0 {
		wrong += "; a node fetches a damaged copy again from another one by itself: verify again in a while"
	}
	if archived > 0 {
		wrong += "; a damaged file of an archive stays as it is: put the file of that name from another node's archive in its place"
	}
	return errors.New(wrong + ", and look at the node's disk")
}
