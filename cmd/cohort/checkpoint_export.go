package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
)

// exportMode keeps a group's data from other users of the machine.
const exportMode = 0o600

func newCheckpointExport(env *environment) *cobra.Command {
	var (
		file  string
		force bool
	)
	cmd := &cobra.Command{
		Use:   "export GROUP [ID] --file F",
		Short: "Write a complete checkpoint, the newest without ID, as one file",
		Long: `Write a complete checkpoint, the newest one without ID, as one file. It is written
under the name F.tmp, verified, and gets its name only when it is whole.`,
		Example: `  cohort checkpoint export checkout --file checkout.tar
  cohort checkpoint verify --file checkout.tar`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if file == "" {
				return usagef("%s needs --file F: where to write it", cmd.CommandPath())
			}
			request := &pb.ExportCheckpointRequest{Group: args[0]}
			if len(args) > 1 {
				id, err := checkpointArg(args[1])
				if err != nil {
					return err
				}
				request.Id = id
			}
			conn, err := env.connect()
			if err != nil {
				return err
			}
			defer conn.Close()
			ctx, cancel := env.longRequest(cmd)
			defer cancel()
			view, err := env.export(ctx, pb.NewCheckpointsClient(conn), request, file, force)
			if err != nil {
				return err
			}
			return env.print(view, func(w *tabwriter.Writer) {
				fmt.Fprintf(w, "%s: checkpoint %d of %s, position %d of incarnation %d, %s, verified\n", view.File, view.ID, view.Group, view.Position, view.Incarnation, sizeText(uint64(view.Bytes)))
			})
		},
	}
	cmd.Flags().StringVar(&file, "file", "", "file to write")
	cmd.Flags().BoolVar(&force, "force", false, "overwrite the file, and what an export that was killed has left of it")
	return cmd
}

// export writes the file. A crash leaves F.tmp at most; an error leaves nothing.
func (e *environment) export(ctx context.Context, client pb.CheckpointsClient, request *pb.ExportCheckpointRequest, file string, force bool) (fileView, error) {
	if err := checkFree(file, force); err != nil {
		return fileView{}, err
	}
	// The node is asked first: its answer may be that there is nothing to write.
	stream, err := client.ExportCheckpoint(ctx, request)
	if err != nil {
		return fileView{}, err
	}
	first, err := stream.Recv()
	if errors.Is(err, io.EOF) {
		return fileView{}, errors.New("the node sent nothing; ask again")
	}
	if err != nil {
		return fileView{}, err
	}
	partial := file + ".tmp"
	out, err := createPartial(partial, force)
	if err != nil {
		return fileView{}, err
	}
	view, err := e.fill(ctx, out, first, stream, file)
	if err == nil {
		err = checkFree(file, force)
	}
	if err == nil {
		err = os.Rename(partial, file)
	}
	if err != nil {
		return view, errors.Join(err, os.Remove(partial))
	}
	return view, syncDir(filepath.Dir(file))
}

// checkFree refuses to overwrite.
func checkFree(file string, force bool) error {
	info, err := os.Lstat(file)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("export: %w", err)
	case info.IsDir():
		return fmt.Errorf("%s is a directory: give --file the name of a file in it", file)
	case !force:
		return fmt.Errorf("%s exists: give another name, or --force to overwrite it", file)
	}
	return nil
}

func createPartial(partial string, force bool) (*os.File, error) {
	if force {
		if err := os.Remove(partial); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("export: %w", err)
		}
	}
	out, err := os.OpenFile(partial, os.O_WRONLY|os.O_CREATE|os.O_EXCL, exportMode)
	if errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("%s exists: another export writes it, or was killed; remove it then, or give --force", partial)
	}
	if err != nil {
		return nil, fmt.Errorf("export: %w", err)
	}
	return out, nil
}

// fill writes all chunks, durably, and verifies the file as it is on disk.
func (e *environment) fill(ctx context.Context, out *os.File, first *pb.FileChunk, stream grpc.ServerStreamingClient[pb.FileChunk], file string) (fileView, error) {
	err := e.receive(out, first, stream)
	if err == nil {
		err = out.Sync()
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return fileView{}, err
	}
	view, err := e.verifyFile(out.Name(), file)
	if err == nil && !view.Whole {
		err = fmt.Errorf("what the node sent is not whole: %s; 'cohort checkpoint verify' tells which copy is damaged, then export again", view.wrong())
	}
	if err == nil {
		err = ctx.Err() // interrupted while it was verified
	}
	return view, err
}

func (e *environment) receive(out io.Writer, first *pb.FileChunk, stream grpc.ServerStreamingClient[pb.FileChunk]) error {
	progress := e.phases()
	defer progress.end()
	var done uint64
	for chunk := first; ; {
		n, err := out.Write(chunk.Data)
		if err != nil {
			return fmt.Errorf("export: %w", err)
		}
		done += uint64(n)
		progress.phase("exporting", done, first.TotalBytes)
		chunk, err = stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
