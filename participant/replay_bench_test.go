package participant_test

import (
	"context"
	"fmt"
	"io"
	"testing"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/participant"
)

// countingState applies as fast as can be: what is measured is the way to it.
type countingState struct {
	want uint64
	n    int
	done chan struct{}
}

func (s *countingState) Point(context.Context) (participant.Point, error) {
	return participant.Point{}, nil
}

func (s *countingState) Apply(_ context.Context, e participant.Entry) error {
	for _, c := range e.Changes {
		s.n += len(c.Value)
	}
	if e.Position == s.want {
		close(s.done)
	}
	return nil
}

func (s *countingState) Restore(context.Context, participant.Point, io.Reader) error { return nil }

func (s *countingState) Capture(context.Context) (io.WriterTo, error) { return nil, nil }

// BenchmarkReplay applies small entries through the log's stream, on one machine
// with the node that sends them.
func BenchmarkReplay(b *testing.B) {
	for _, others := range []int{0, 3} {
		b.Run(fmt.Sprintf("others=%d", others), func(b *testing.B) {
			g := newFakeGroup("bank", "orders")
			g.followMany = 256
			change := []byte(`{"account":"account-0","balance":100}`)
			for range b.N {
				g.position++
				e := &pb.LogEntry{Position: g.position, Id: fmt.Sprintf("t-%d", g.position), Begun: g.position, Changes: []*pb.Change{{Participant: "bank", Kind: pb.Change_KIND_LOG, Value: change}}}
				for n := range others {
					e.Changes = append(e.Changes, &pb.Change{Participant: "orders", Kind: pb.Change_KIND_PUT, Key: []byte{byte(n)}, Value: change})
				}
				g.log = append(g.log, e)
			}
			s := &countingState{want: g.position, done: make(chan struct{})}
			app := participant.New(groupName, "bank")
			app.State(s)
			addr := g.node(b).addr
			b.ResetTimer()
			serve(b, app, addr)
			<-s.done
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "entries/s")
		})
	}
}
