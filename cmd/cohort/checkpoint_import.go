package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
)

// importChunkBytes is the size of the pieces that a file is sent in: far below
// what a node takes in one message.
const importChunkBytes = 256 << 10

func newCheckpointImport(env *environment) *cobra.Command {
	var file, as string
	cmd := &cobra.Command{
		Use:   "import --file F --as NEWGROUP",
		Short: "Make a new group of an exported file",
		Long: `Make a new group of an exported file. The file is verified here before any of it
is sent, and by the node before anything is made of it.`,
		Example: "  cohort checkpoint import --file checkout.tar --as checkout-copy",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" || as == "" {
				return usagef("%s needs --file F and --as NEWGROUP", cmd.CommandPath())
			}
			found, err := env.verifyFile(file, file)
			if err != nil {
				return err
			}
			if !found.Whole {
				return fmt.Errorf("%s; nothing was sent: export it again, or use another copy of the file", found.wrong())
			}
			conn, err := env.connect()
			if err != nil {
				return err
			}
			defer conn.Close()
			ctx, cancel := env.longRequest(cmd)
			defer cancel()
			result, err := env.importFile(ctx, pb.NewCheckpointsClient(conn), file, as)
			if err != nil {
				return restoreDoubt(as, err)
			}
			view := viewRestore(result)
			return env.print(view, view.table)
		},
	}
	cmd.Flags().StringVar(&file, "file", "", "exported file")
	cmd.Flags().StringVar(&as, "as", "", "name of the new group")
	return cmd
}

func (e *environment) importFile(ctx context.Context, client pb.CheckpointsClient, file, as string) (*pb.RestoreResult, error) {
	in, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("checkpoint file: %w", err)
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return nil, fmt.Errorf("checkpoint file: %w", err)
	}
	stream, err := client.ImportCheckpoint(ctx)
	if err != nil {
		return nil, err
	}
	header := &pb.ImportHeader{As: as, TotalBytes: uint64(info.Size())}
	if err := e.upload(in, header, stream.Send); err != nil {
		return nil, err
	}
	// Of a stream that the node has ended, receiving tells why.
	_ = stream.CloseSend()
	return e.awaitRestored(stream)
}

// upload sends the file. That the node ends the stream early is no error here.
func (e *environment) upload(in io.Reader, header *pb.ImportHeader, send func(*pb.ImportCheckpointRequest) error) error {
	progress := e.phases()
	defer progress.end()
	err := send(&pb.ImportCheckpointRequest{Message: &pb.ImportCheckpointRequest_Header{Header: header}})
	var done uint64
	for err == nil {
		buf := make([]byte, importChunkBytes)
		n, readErr := io.ReadFull(in, buf)
		switch {
		case errors.Is(readErr, io.EOF):
			return nil
		case readErr != nil && !errors.Is(readErr, io.ErrUnexpectedEOF):
			return fmt.Errorf("checkpoint file: %w", readErr)
		}
		err = send(&pb.ImportCheckpointRequest{Message: &pb.ImportCheckpointRequest_Data{Data: buf[:n]}})
		done += uint64(n)
		progress.phase("sending", done, header.TotalBytes)
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
