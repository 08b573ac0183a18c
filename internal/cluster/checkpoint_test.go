package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/internal/cluster"
	"github.com/cohort-tx/cohort/participant"
	"github.com/cohort-tx/cohort/txlog/checkpoint"
)

const (
	vaultAccounts = 20
	vaultOpening  = 1000
)

// vault is a bank on an embedded cluster, with money moving from participant to
// participant all the time.
type vault struct {
	t           *testing.T
	b           *bench
	cluster     *cluster.Embedded
	checkpoints pb.CheckpointsClient
	moved       atomic.Int64
	stop        context.CancelFunc
	movers      sync.WaitGroup
}

const vaultGroup = `group: vault
participants: [{name: left}, {name: right}]
checkpoint: {interval: 1h, log_bytes: 0, log_entries: 0, min_gap: 1ms, max_wait: 10s, max_pause: 1s}
`

func openVault(t *testing.T, group string) *vault {
	t.Helper()
	return openVaultOn(t, cluster.Options{Nodes: 3}, group)
}

func openVaultOn(t *testing.T, o cluster.Options, group string) *vault {
	t.Helper()
	b := startBench(t, o, group)
	conn, err := grpc.NewClient(b.cluster.Members()[0].Addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	v := &vault{t: t, b: b, cluster: b.cluster, checkpoints: pb.NewCheckpointsClient(conn)}
	_, err = b.group("vault").Run(t.Context(), func(tx *participant.Tx) error {
		for _, side := range []string{"left", "right"} {
			for n := range vaultAccounts {
				if err := tx.Store(side).Put(account(n), []byte(strconv.Itoa(vaultOpening))); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// move keeps clients busy until the test ends or halt.
func (v *vault) move(clients int) {
	ctx, cancel := context.WithCancel(v.t.Context())
	v.stop = cancel
	for range clients {
		v.movers.Go(func() {
			for ctx.Err() == nil {
				from, to := "left", "right"
				if rand.IntN(2) == 0 {
					from, to = to, from
				}
				amount := int64(1 + rand.IntN(50))
				source, target := account(rand.IntN(vaultAccounts)), account(rand.IntN(vaultAccounts))
				_, err := v.b.group("vault").Run(ctx, func(tx *participant.Tx) error {
					if err := tx.Store(from).Add(source, -amount, participant.AtLeast(0)); err != nil {
						return err
					}
					return tx.Store(to).Add(target, amount)
				})
				switch {
				case err == nil:
					v.moved.Add(1)
				case ctx.Err() != nil, errors.Is(err, participant.ErrConstraint):
				default:
					v.t.Errorf("a transfer failed: %v", err)
					return
				}
			}
		})
	}
	v.t.Cleanup(v.halt)
}

func (v *vault) halt() {
	v.stop()
	v.movers.Wait()
}

func (v *vault) create(req *pb.CreateCheckpointRequest) *pb.CheckpointInfo {
	v.t.Helper()
	req.Group = "vault"
	info, err := v.checkpoints.CreateCheckpoint(v.t.Context(), req)
	if err != nil {
		v.t.Fatal(err)
	}
	return info
}

// readBack exports a checkpoint and adds up the money in it.
func (v *vault) readBack(id uint64) (checkpoint.Manifest, int64) {
	v.t.Helper()
	stream, err := v.checkpoints.ExportCheckpoint(v.t.Context(), &pb.ExportCheckpointRequest{Group: "vault", Id: id})
	if err != nil {
		v.t.Fatal(err)
	}
	out, in := io.Pipe()
	go func() {
		for {
			chunk, err := stream.Recv()
			if err != nil {
				in.CloseWithError(err) // io.EOF at the end
				return
			}
			if _, err := in.Write(chunk.Data); err != nil {
				return
			}
		}
	}()
	dir := filepath.Join(v.t.TempDir(), fmt.Sprint(id))
	m, err := checkpoint.ReadExport(out, dir, nil)
	if err != nil {
		v.t.Fatalf("checkpoint %d: %v", id, err)
	}
	r, err := checkpoint.Open(dir)
	if err != nil {
		v.t.Fatal(err)
	}
	total := int64(0)
	for _, name := range []string{"participant/left", "participant/right"} {
		s, err := r.Section(name)
		if err != nil {
			v.t.Fatal(err)
		}
		for {
			_, value, err := s.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				v.t.Fatal(err)
			}
			n, err := strconv.ParseInt(string(value[8:]), 10, 64)
			if err != nil {
				v.t.Fatal(err)
			}
			total += n
		}
		s.Close()
	}
	return m, total
}

// total reads a group's money in one snapshot.
func (v *vault) total(group string) int64 {
	v.t.Helper()
	total := int64(0)
	err := v.b.group(group).View(v.t.Context(), func(view *participant.ReadTx) error {
		total = 0
		for _, side := range []string{"left", "right"} {
			for n := range vaultAccounts {
				var amount int64
				found, err := view.Store(side).Get(account(n), &amount)
				if err != nil || !found {
					return fmt.Errorf("%s/%s: %v", side, account(n), err)
				}
				total += amount
			}
		}
		return nil
	})
	if err != nil {
		v.t.Fatal(err)
	}
	return total
}

const vaultTotal = 2 * vaultAccounts * vaultOpening

// restore runs a restore to its end.
func (v *vault) restore(req *pb.RestoreRequest) (*pb.RestoreResult, error) {
	req.Group = "vault"
	stream, err := v.checkpoints.Restore(v.t.Context(), req)
	if err != nil {
		return nil, err
	}
	return lastResult(stream)
}

func lastResult(stream grpc.ServerStreamingClient[pb.RestoreProgress]) (*pb.RestoreResult, error) {
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

// Would break: a checkpoint that is no exact point: half a transfer in it, money
// made or lost, or a position that does not say what is in it.
func TestFaultCheckpointsUnderLoadAreExact(t *testing.T) {
	rounds := 15
	if os.Getenv("COHORT_FAULT_SECONDS") != "" {
		rounds = 200 // the longer fault runs
	}
	v := openVault(t, vaultGroup)
	v.move(8)
	var last uint64
	for range rounds {
		info := v.create(&pb.CreateCheckpointRequest{Wait: true})
		if info.State != "complete" {
			t.Fatalf("checkpoint %d is %s: %s (%s %s)", info.Id, info.State, info.Reason, info.Transaction, info.Participant)
		}
		m, total := v.readBack(info.Id)
		if total != vaultTotal {
			t.Fatalf("checkpoint %d at position %d holds %d, not %d", info.Id, info.Position, total, vaultTotal)
		}
		if m.Position != info.Position || info.Position < last || len(info.Participants) != 2 {
			t.Fatalf("checkpoint %d: %v after position %d, its files say %d", info.Id, info, last, m.Position)
		}
		last = info.Position
	}
	v.halt()
	if v.moved.Load() == 0 {
		t.Fatal("nothing moved")
	}
	t.Logf("%d checkpoints, %d transfers", rounds, v.moved.Load())
}

// Would break: a restore that is another state than the group had.
func TestRestoreToANewGroupAndInPlace(t *testing.T) {
	v := openVault(t, vaultGroup)
	v.move(4)
	first := v.create(&pb.CreateCheckpointRequest{Wait: true})
	for before := v.moved.Load(); v.moved.Load() < before+100; {
		time.Sleep(time.Millisecond)
	}
	v.halt()
	_, err := v.restore(&pb.RestoreRequest{To: &pb.RestoreRequest_Time{Time: timestamppb.New(time.Now().Add(time.Hour))}, As: "tomorrow"})
	mustRefuse(t, err, codes.InvalidArgument, "is yet to come", "a moment of the past")
	result, err := v.restore(&pb.RestoreRequest{To: &pb.RestoreRequest_Checkpoint{Checkpoint: first.Id}, As: "copy"})
	if err != nil {
		t.Fatal(err)
	}
	if got := v.total("copy"); got != vaultTotal || result.Position != first.Position || result.Incarnation != 2 {
		t.Fatalf("the restored group holds %d: %v", got, result)
	}
	drill, err := v.checkpoints.Drill(t.Context(), &pb.DrillRequest{Group: "vault"})
	if err != nil {
		t.Fatal(err)
	}
	drilled, err := lastResult(drill)
	if err != nil || !drilled.Equal || drilled.EntriesReplayed == 0 {
		t.Fatalf("drill: %v, %v", drilled, err)
	}
	position := first.Position + 50
	back, err := v.restore(&pb.RestoreRequest{To: &pb.RestoreRequest_Position{Position: position}, InPlace: true})
	if err != nil {
		t.Fatal(err)
	}
	if got := v.total("vault"); got != vaultTotal || back.Position != position || back.Incarnation != 2 || back.ComeBackCheckpoint == 0 {
		t.Fatalf("after the restore in place: %d, %v", got, back)
	}
	receipt, err := v.b.group("vault").Run(t.Context(), func(tx *participant.Tx) error { return tx.Store("left").Add(account(1), 0) })
	if err != nil || receipt.Incarnation != 2 || receipt.Position != position+1 {
		t.Fatalf("the next commit: %v, %v", receipt, err)
	}
	again, err := v.restore(&pb.RestoreRequest{To: &pb.RestoreRequest_Checkpoint{Checkpoint: back.ComeBackCheckpoint}, InPlace: true})
	if err != nil {
		t.Fatal(err)
	}
	if got := v.total("vault"); got != vaultTotal || again.Incarnation != 3 {
		t.Fatalf("after coming back: %d, %v", got, again)
	}
}
