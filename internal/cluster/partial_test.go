package cluster_test

import (
	"io"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
)

// exportFile is a checkpoint's export file.
func (v *vault) exportFile(id uint64) []byte {
	v.t.Helper()
	stream, err := v.checkpoints.ExportCheckpoint(v.t.Context(), &pb.ExportCheckpointRequest{Group: "vault", Id: id})
	if err != nil {
		v.t.Fatal(err)
	}
	var data []byte
	for {
		chunk, err := stream.Recv()
		if err == io.EOF {
			return data
		}
		if err != nil {
			v.t.Fatal(err)
		}
		data = append(data, chunk.Data...)
	}
}

// importFile makes a group of an export file.
func (v *vault) importFile(data []byte, as string) (*pb.RestoreResult, error) {
	v.t.Helper()
	stream, err := v.checkpoints.ImportCheckpoint(v.t.Context())
	if err != nil {
		v.t.Fatal(err)
	}
	_ = stream.Send(&pb.ImportCheckpointRequest{Message: &pb.ImportCheckpointRequest_Header{Header: &pb.ImportHeader{As: as, TotalBytes: uint64(len(data))}}})
	for len(data) > 0 {
		n := min(len(data), 256<<10)
		_ = stream.Send(&pb.ImportCheckpointRequest{Message: &pb.ImportCheckpointRequest_Data{Data: data[:n]}})
		data = data[n:]
	}
	_ = stream.CloseSend() // Recv tells what went wrong
	for {
		p, err := stream.Recv()
		if err != nil {
			return nil, err
		}
		if p.Result != nil {
			return p.Result, nil
		}
	}
}

// Would break: a group made of a checkpoint of some participants alone, in which
// the others are silently empty.
func TestPartialCheckpointMakesNoGroup(t *testing.T) {
	v := openVault(t, vaultGroup)
	partial := v.create(&pb.CreateCheckpointRequest{Wait: true, Participants: []string{"left"}})
	whole := v.create(&pb.CreateCheckpointRequest{Wait: true})
	if partial.State != "complete" || whole.State != "complete" {
		t.Fatalf("%v, %v", partial, whole)
	}
	_, err := v.importFile(v.exportFile(partial.Id), "half")
	mustRefuse(t, err, codes.InvalidArgument, "a checkpoint of left alone", "the data of right", "without --participant")
	_, err = v.restore(&pb.RestoreRequest{To: &pb.RestoreRequest_Checkpoint{Checkpoint: partial.Id}, As: "half"})
	mustRefuse(t, err, codes.FailedPrecondition, "of left alone", "restore to its position")
	if _, err := v.importFile(v.exportFile(whole.Id), "copy"); err != nil {
		t.Fatal(err)
	}
	if got := v.total("copy"); got != vaultTotal {
		t.Fatalf("the imported group holds %d", got)
	}
}

// mustRefuse wants an error that says all of it.
func mustRefuse(t *testing.T, err error, code codes.Code, says ...string) {
	t.Helper()
	st := status.Convert(err)
	if st.Code() != code {
		t.Fatalf("it should be refused as %v: %v", code, err)
	}
	for _, text := range says {
		if !strings.Contains(st.Message(), text) {
			t.Fatalf("it should say %q: %v", text, err)
		}
	}
}
