package participant_test

import (
	"context"
	"errors"
	"testing"

	"google.golang.org/protobuf/types/known/wrapperspb"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/participant"
)

// slowVoter says yes when it is let go on.
type slowVoter struct {
	asked   chan *participant.Prepare
	goOn    chan struct{}
	notices chan participant.Notice
}

func vote(app *participant.App) slowVoter {
	v := slowVoter{make(chan *participant.Prepare), make(chan struct{}), make(chan participant.Notice, 10)}
	app.OnPrepare(func(ctx context.Context, p *participant.Prepare) error {
		select {
		case v.asked <- p:
			<-v.goOn
		case <-ctx.Done():
		}
		return ctx.Err()
	})
	app.OnOutcome(func(n participant.Notice) { v.notices <- n })
	return v
}

func abortOf(p *participant.Prepare) *pb.NodeMessage {
	attempt := &pb.Attempt{Id: p.ID, Begun: p.Begun, Nonce: p.Nonce}
	return &pb.NodeMessage{Message: &pb.NodeMessage_Notice{Notice: &pb.Notice{Attempt: attempt, Abort: &pb.Abort{Id: p.ID, Reason: pb.Reason_REASON_VOTE}}}}
}

// passed waits until the instance has taken what it was told before: it answers a
// step of an activation that is over.
func (g *fakeGroup) passed(t *testing.T, participantName string) {
	t.Helper()
	g.ask(testContext(t), g.active(participantName), func(call, epoch uint64) *pb.NodeMessage { return stepMessage(call, epoch+1, "none") })
}

// Without it the locks of what another participant refused would stay for the time
// of the question, whenever a voter takes longer than the refusal.
func TestAbortThatComesWhileTheVoterThinks(t *testing.T) {
	g, group := started(t, "bank")
	g.notify = 0
	b := newBank()
	app := bankApp("bank", b, b.balance)
	v := vote(app)
	serve(t, app, g.node(t).addr)
	g.waitReady(t, "bank")
	answer := make(chan error, 1)
	go func() {
		_, err := group.Run(testContext(t), func(tx *participant.Tx) error {
			return tx.Call("bank", "deposit", deposit{"ann", 1}, nil)
		}, participant.MaxAttempts(1))
		answer <- err
	}()
	p := <-v.asked
	g.active("bank").tell(abortOf(p))
	g.passed(t, "bank")
	v.goOn <- struct{}{}
	if err := <-answer; !errors.Is(err, participant.ErrConflict) {
		t.Fatalf("the vote for what is over gave %v, want a conflict", err)
	}
	// The voter said yes, so it hears what became of it, though nobody counted it.
	if n := <-v.notices; n.ID != p.ID || n.Nonce != p.Nonce || n.Committed {
		t.Errorf("%+v", n)
	}
}

// The same of a participant without state of its own.
func TestNoticeThatComesWhileTheVoterThinks(t *testing.T) {
	g, group := started(t, "inventory")
	g.notify = 0
	app := inventory()
	v := vote(app)
	serve(t, app, g.node(t).addr)
	g.waitAttached(t, "inventory", 1)
	answer := make(chan error, 1)
	go func() {
		_, err := group.Run(testContext(t), func(tx *participant.Tx) error {
			return tx.Call("inventory", "upper", wrapperspb.String("x"), nil)
		})
		answer <- err
	}()
	p := <-v.asked
	g.active("inventory").tell(abortOf(p))
	g.passed(t, "inventory")
	select {
	case n := <-v.notices:
		t.Errorf("told while the voter thinks: %+v", n)
	default:
	}
	v.goOn <- struct{}{}
	<-answer
	if n := <-v.notices; n.ID != p.ID || n.Committed {
		t.Errorf("%+v", n)
	}
}
