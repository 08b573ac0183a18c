package cluster_test

import (
	"context"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/participant"
	"github.com/cohort-tx/cohort/txlog/checkpoint"
)

// balances is a group's money, by participant and account.
type balances map[string]int64

func (b balances) total() (total int64) {
	for _, n := range b {
		total += n
	}
	return total
}

// differs names one account that is not the same in both.
func (b balances) differs(other balances) string {
	for _, one := range []balances{b, other} {
		for key := range one {
			if b[key] != other[key] {
				return fmt.Sprintf("%s is %d, and not %d", key, b[key], other[key])
			}
		}
	}
	return ""
}

// export reads a checkpoint of one node, or whatever that node finds, and what is
// in it.
func export(ctx context.Context, t *testing.T, c pb.CheckpointsClient, group string, id uint64) (checkpoint.Manifest, balances, error) {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.ExportCheckpoint(ctx, &pb.ExportCheckpointRequest{Group: group, Id: id})
	if err != nil {
		return checkpoint.Manifest{}, nil, err
	}
	out, in := io.Pipe()
	broken := make(chan error, 1)
	go func() {
		for {
			chunk, err := stream.Recv()
			if err != nil {
				broken <- err
				in.CloseWithError(err) // io.EOF at the end
				return
			}
			if _, err := in.Write(chunk.Data); err != nil {
				broken <- err
				return
			}
		}
	}()
	dir := filepath.Join(t.TempDir(), "export")
	m, err := checkpoint.ReadExport(out, dir, nil)
	out.Close()
	cancel()
	if ended := <-broken; ended != io.EOF && err != nil {
		return m, nil, ended // the node died, or has no such copy: nothing is said of the file
	}
	if err != nil {
		t.Errorf("group %s, checkpoint %d: the export that came to its end is no checkpoint: %v", group, id, err)
		return m, nil, err
	}
	held, err := readBalances(dir)
	if err != nil {
		t.Errorf("group %s, checkpoint %d: %v", group, id, err)
	}
	return m, held, err
}

func readBalances(dir string) (balances, error) {
	r, err := checkpoint.Open(dir)
	if err != nil {
		return nil, err
	}
	held := balances{}
	for _, section := range r.Manifest().Sections {
		side, ok := strings.CutPrefix(section.Name, "participant/")
		if !ok || side == ballast {
			continue
		}
		s, err := r.Section(section.Name)
		if err != nil {
			return nil, err
		}
		defer s.Close()
		for {
			key, value, err := s.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				return nil, err
			}
			if held[side+"/"+string(key)], err = strconv.ParseInt(string(value[8:]), 10, 64); err != nil {
				return nil, err
			}
		}
	}
	return held, nil
}

// ballast is a participant without money, which makes the log long.
const ballast = "ballast"

var vaultSides = []string{"left", "right"}

// live reads participants of a group in one snapshot, and its position.
func live(ctx context.Context, client *participant.Client, group string, participants ...string) (position uint64, held balances, err error) {
	err = client.Group(group).View(ctx, func(view *participant.ReadTx) error {
		position, held = view.Position(), balances{}
		for _, side := range participants {
			for item, err := range view.Store(side).Scan("") {
				if err != nil {
					return err
				}
				var n int64
				if err := item.Decode(&n); err != nil {
					return err
				}
				held[side+"/"+item.Key] = n
			}
		}
		return nil
	})
	return position, held, err
}

// history is what a group's log, read through the API, makes of the state at a
// position: the state at every later one.
type history struct {
	first  uint64
	states []balances
}

// replay reads the log after a position to its end.
func replay(ctx context.Context, client *participant.Client, group string, position uint64, held balances) (*history, error) {
	h := &history{first: position, states: []balances{held}}
	for entry, err := range client.Group(group).Log(ctx, position+1, participant.NoWait()) {
		if err != nil {
			return nil, err
		}
		if entry.Position != h.last()+1 {
			return nil, fmt.Errorf("position %d follows %d", entry.Position, h.last())
		}
		next := maps.Clone(h.states[len(h.states)-1])
		for _, change := range entry.Changes {
			if change.Participant == ballast {
				continue
			}
			key := change.Participant + "/" + change.Key
			switch change.Kind {
			case participant.ChangeAdd:
				next[key] += change.Delta
			case participant.ChangePut:
				if next[key], err = strconv.ParseInt(string(change.Value), 10, 64); err != nil {
					return nil, err
				}
			default:
				return nil, fmt.Errorf("position %d: nobody here makes a %s", entry.Position, change.Kind)
			}
		}
		h.states = append(h.states, next)
	}
	return h, nil
}

func (h *history) last() uint64 { return h.first + uint64(len(h.states)) - 1 }

func (h *history) at(position uint64) balances { return h.states[position-h.first] }
