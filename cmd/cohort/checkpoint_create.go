package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
)

// lookEvery is how often whoever waits for a checkpoint looks how far it is.
const lookEvery = 500 * time.Millisecond

func newCheckpointCreate(env *environment) *cobra.Command {
	var (
		participants []string
		wait         bool
	)
	cmd := &cobra.Command{
		Use:   "create GROUP [--participant P]... [--wait]",
		Short: "Take a checkpoint; exit code 1 when it was abandoned or failed",
		Long: `Take a checkpoint: one exact point of the whole group. The answer comes when the
point is recorded, and the nodes write their copies after it; with --wait it comes
when enough copies are written. --timeout bounds --wait only when it is given.`,
		Example: `  cohort checkpoint create checkout --wait
  cohort checkpoint create checkout --participant orders -o json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			conn, err := env.connect()
			if err != nil {
				return err
			}
			defer conn.Close()
			request := &pb.CreateCheckpointRequest{Group: args[0], Participants: participants, Wait: wait, Token: requestToken()}
			bounded := env.request
			if wait {
				bounded = env.longRequest
			}
			ctx, cancel := bounded(cmd)
			defer cancel()
			info, err := env.createCheckpoint(ctx, pb.NewCheckpointsClient(conn), request)
			if err != nil {
				return createError(args[0], err)
			}
			view := viewCheckpoint(info)
			if err := env.print(view, view.brief); err != nil {
				return err
			}
			return view.verdict()
		},
	}
	cmd.Flags().StringArrayVar(&participants, "participant", nil, "only this participant; may be repeated; all without it")
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until enough nodes have written their copies")
	return cmd
}

// requestToken names a request, so that it counts once however often it is sent.
func requestToken() string {
	var b [16]byte
	rand.Read(b[:]) // never fails: crypto/rand ends the process instead
	return hex.EncodeToString(b[:])
}

// createCheckpoint asks for one and, when it waits, shows how far it is.
func (e *environment) createCheckpoint(ctx context.Context, client pb.CheckpointsClient, request *pb.CreateCheckpointRequest) (*pb.CheckpointInfo, error) {
	if !request.Wait {
		return client.CreateCheckpoint(ctx, request)
	}
	looking, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		e.watchCheckpoint(looking, client, request.Group)
	}()
	info, err := client.CreateCheckpoint(ctx, request)
	stop()
	<-done
	return info, err
}

// watchCheckpoint shows what the group's newest attempt is about, until ctx ends.
// It only shows: what it cannot see is no error.
func (e *environment) watchCheckpoint(ctx context.Context, client pb.CheckpointsClient, group string) {
	progress := e.phases()
	defer progress.end()
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		answer, err := client.ListCheckpoints(ctx, &pb.ListCheckpointsRequest{Group: group})
		if err != nil {
			continue
		}
		progress.phase(attemptText(answer.Checkpoints), 0, 0)
	}
}

// attemptText tells of the newest attempt, which comes first.
func attemptText(newestFirst []*pb.CheckpointInfo) string {
	if len(newestFirst) == 0 || newestFirst[0].State != checkpointWriting {
		return "waiting for the cut"
	}
	newest := viewCheckpoint(newestFirst[0])
	return fmt.Sprintf("checkpoint %d is at position %d: %d of %d copies are written", newest.ID, newest.Position, len(newest.Copies), len(newestFirst[0].Copies))
}

func createError(group string, err error) error {
	s, ok := grpcStatus(err)
	if !ok || s.Code() != codes.DeadlineExceeded && s.Code() != codes.Canceled {
		return err
	}
	return fmt.Errorf("%s; the checkpoint may still be taken: 'cohort checkpoint list %s' shows it", explainStatus(s), group)
}

func (v checkpointView) brief(w *tabwriter.Writer) {
	switch v.State {
	case checkpointAbandoned:
		fmt.Fprintf(w, "checkpoint %d of %s was abandoned: %s\n", v.ID, v.Group, v.why())
		return
	case checkpointFailed:
		fmt.Fprintf(w, "checkpoint %d of %s failed: %s\n", v.ID, v.Group, v.why())
		return
	}
	fmt.Fprintf(w, "checkpoint %d of %s is %s: position %d, pause %s\n", v.ID, v.Group, v.State, v.Position, secondsText(v.PauseSeconds))
	if v.State != checkpointComplete {
		return
	}
	fmt.Fprintf(w, "  %s, on %d node(s), written in %s\n", sizeText(v.Bytes), len(v.Copies), secondsText(v.WriteSeconds))
	for _, p := range v.Participants {
		fmt.Fprintf(w, "  %s\t%d keys\t%s", p.Name, p.Keys, sizeText(p.Bytes))
		if p.OwnState != nil {
			fmt.Fprintf(w, "\town state %s", p.OwnState.text())
		}
		fmt.Fprintln(w)
	}
}

// verdict makes a checkpoint that did not come about a failure that says what to
// do.
func (v checkpointView) verdict() error {
	switch v.State {
	case checkpointAbandoned:
		look := fmt.Sprintf("'cohort get transactions %s' shows what is open", v.Group)
		if v.Transaction != "" {
			look = fmt.Sprintf("'cohort tx show %s --group %s' shows what was in the way", v.Transaction, v.Group)
		}
		return fmt.Errorf("no checkpoint was taken; %s; ask again, or raise checkpoint.max_wait or max_pause in the group's file", look)
	case checkpointFailed:
		return fmt.Errorf("too few nodes hold the same copy; 'cohort checkpoint show %s %d' tells what each says; ask again when that is mended", v.Group, v.ID)
	}
	return nil
}
