package participanttest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	cohortv1 "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/participant"
)

const (
	conformGroup = "conform"
	// servedSteps is how many things happen in one served history.
	servedSteps = 40
	// servedWait bounds each wait for the application.
	servedWait = 20 * time.Second
	// servedOpen bounds attempts that are open at once.
	servedOpen = 4
)

// served drives an App that serves the state.
type served struct {
	*subject
	r    *rand.Rand
	node *conformNode

	state participant.OwnState
	stop  func() error
	// open are attempts that ran steps and are not decided, the newest last; late
	// are notices to be sent some time, unsent those that met no stream.
	open   []*conformAttempt
	late   []*cohortv1.Notice
	unsent []*cohortv1.Notice
	done   []string

	mu sync.Mutex
	// told counts outcomes by attempt, of the application that runs now.
	told map[string]int
	// yes are attempts that it voted for.
	yes map[string]bool
}

type conformAttempt struct {
	name *cohortv1.Attempt
	ops  []*cohortv1.Op
	// epoch that its steps ran under.
	epoch uint64
}

// conformCall is what a step is asked for.
type conformCall struct {
	Key     string
	Changes [][]byte
}

func (s *subject) served(seed uint64) error {
	node, err := startConformNode()
	if err != nil {
		return err
	}
	defer node.close()
	v := &served{subject: s, r: rand.New(rand.NewPCG(seed, 2)), node: node}
	v.serve(s.newState(s.TB))
	defer func() { v.stop() }()
	if err := v.run(); err != nil {
		return fmt.Errorf("%w\nafter: %s", err, strings.Join(v.done, ", "))
	}
	return nil
}

func (v *served) did(format string, args ...any) {
	v.done = append(v.done, fmt.Sprintf(format, args...))
}

// serve starts an application with a state.
func (v *served) serve(state participant.OwnState) {
	v.state = state
	told, yes := map[string]int{}, map[string]bool{}
	v.mu.Lock()
	v.told, v.yes = told, yes
	v.mu.Unlock()
	app := participant.New(conformGroup, conformParticipant)
	first, isFirst := v.content.(FirstContent)
	_, undoes := state.(participant.Undoer)
	isFirst = isFirst && undoes
	var opts []participant.StateOption
	if isFirst {
		opts = append(opts, participant.AppliesFirst())
	}
	app.State(state, opts...)
	app.Handle("change", participant.Func(func(_ context.Context, tx *participant.StepTx, in conformCall) (any, error) {
		if isFirst {
			// Its changes happen in the order of the steps: one after the other.
			in.Key = "all"
		}
		if err := tx.Lock(in.Key); err != nil {
			return nil, err
		}
		for _, change := range in.Changes {
			if !isFirst {
				if err := tx.Log(change); err != nil {
					return nil, err
				}
				continue
			}
			if err := tx.Log(change, participant.AlreadyApplied()); err != nil {
				return nil, err
			}
			if err := first.Make(state, change); err != nil {
				return nil, err
			}
		}
		return nil, nil
	}))
	app.Handle("dump", participant.Func(func(_ context.Context, tx *participant.StepTx, _ any) (string, error) {
		if isFirst {
			if err := tx.RLock("all"); err != nil { // what is not decided is not seen
				return "", err
			}
		}
		return v.content.Dump(state)
	}))
	app.OnOutcome(func(n participant.Notice) {
		v.mu.Lock()
		defer v.mu.Unlock()
		told[fmt.Sprintf("%s/%d", n.ID, n.Begun)]++
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- app.Serve(ctx, v.node.addr, participant.WithLogger(slog.New(slog.DiscardHandler))) }()
	var once sync.Once
	var err error
	v.stop = func() error {
		once.Do(func() {
			cancel()
			err = <-ended
		})
		return err
	}
}

func (v *served) run() error {
	for range servedSteps {
		var err error
		switch n := v.r.IntN(20); {
		case n < 8:
			err = v.step()
		case n < 14:
			err = v.decide()
		case n < 15:
			v.sendLate()
		case n < 16:
			err = v.checkpoint()
		case n < 17:
			v.did("the stream breaks")
			v.node.breakStreams()
		case n < 18:
			err = v.kill()
		default:
			err = v.look()
		}
		if err != nil {
			return err
		}
	}
	for len(v.open) > 0 {
		if err := v.decide(); err != nil {
			return err
		}
	}
	v.sendLate()
	if err := v.look(); err != nil {
		return err
	}
	return v.outcomes()
}

// outcomes waits until each yes has had its one notice.
func (v *served) outcomes() error {
	counted := func() error {
		v.mu.Lock()
		defer v.mu.Unlock()
		for attempt := range v.yes {
			if n := v.told[attempt]; n != 1 {
				return fmt.Errorf("attempt %s, which was voted for, was told its outcome %d times", attempt, n)
			}
		}
		return nil
	}
	err := counted()
	for end := time.Now().Add(servedWait); err != nil && time.Now().Before(end); err = counted() {
		time.Sleep(time.Millisecond)
	}
	return err
}

// step lets an attempt call the application, a new one or one that is open.
func (v *served) step() error {
	// Only the newest takes steps: an older one would wait for it.
	var a *conformAttempt
	if len(v.open) == servedOpen || len(v.open) > 0 && v.r.IntN(3) == 0 {
		a = v.open[len(v.open)-1]
	} else {
		a = &conformAttempt{name: v.node.begin()}
		v.open = append(v.open, a)
	}
	v.sendUnsent()
	in := conformCall{Key: fmt.Sprint("key-", v.r.IntN(3))}
	for range 1 + v.r.IntN(3) {
		in.Changes = append(in.Changes, v.content.Change(v.r))
	}
	result, epoch, err := v.call(a.name, "change", in)
	if err != nil {
		return err
	}
	if a.epoch == 0 {
		a.epoch = epoch
	}
	v.did("step of %s", a.name.Id)
	if f := result.GetFailure(); f != nil {
		if f.Code != cohortv1.StepFailure_CODE_CONFLICT && f.Code != cohortv1.StepFailure_CODE_INSTANCE_LOST && f.Code != cohortv1.StepFailure_CODE_TIMEOUT {
			return fmt.Errorf("a step failed: %s", f.Message)
		}
		v.end(a, 0)
		return nil
	}
	if a.epoch != epoch {
		v.end(a, 0)
		return nil
	}
	a.ops = append(a.ops, result.GetOps()...)
	return nil
}

func (v *served) call(a *cohortv1.Attempt, method string, in any) (*cohortv1.StepResult, uint64, error) {
	payload, err := json.Marshal(in)
	if err != nil {
		return nil, 0, err
	}
	return v.node.step(a, method, payload)
}

// decide ends an open attempt: by a commit, if the vote is yes, or not.
func (v *served) decide() error {
	if len(v.open) == 0 {
		return nil
	}
	a := v.open[v.r.IntN(len(v.open))]
	if v.r.IntN(5) == 0 {
		v.did("%s is given up", a.name.Id)
		v.end(a, 0)
		return nil
	}
	v.sendUnsent()
	yes, epoch, err := v.node.prepare(a.name)
	if err != nil {
		return err
	}
	if a.epoch != epoch {
		v.did("%s has moved", a.name.Id)
		v.end(a, 0)
		return nil
	}
	if yes {
		v.mu.Lock()
		v.yes[fmt.Sprintf("%s/%d", a.name.Id, a.name.Begun)] = true
		v.mu.Unlock()
	}
	if !yes || v.r.IntN(4) == 0 {
		v.did("%s aborts", a.name.Id)
		v.end(a, 0)
		return nil
	}
	position := v.node.commit(a)
	v.did("%s commits at %d", a.name.Id, position)
	v.end(a, position)
	return nil
}

// end takes an attempt out. The notice of a commit comes once, several times, late,
// or never; that of an abort at once, and perhaps again.
func (v *served) end(a *conformAttempt, position uint64) {
	v.open = slices.DeleteFunc(v.open, func(o *conformAttempt) bool { return o == a })
	n := &cohortv1.Notice{Attempt: a.name, Position: position}
	if position == 0 {
		v.node.abort(a.name)
		v.send(n)
	}
	switch v.r.IntN(3) {
	case 0:
		v.late = append(v.late, n, n)
	case 1:
		v.send(n)
	}
}

func (v *served) send(n *cohortv1.Notice) {
	if !v.node.notice(n) {
		v.unsent = append(v.unsent, n)
	}
}

func (v *served) sendUnsent() {
	again := v.unsent
	v.unsent = nil
	for _, n := range again {
		v.send(n)
	}
}

// sendLate sends the notices that were held back, in any order.
func (v *served) sendLate() {
	v.did("late notices")
	v.r.Shuffle(len(v.late), func(i, j int) { v.late[i], v.late[j] = v.late[j], v.late[i] })
	again := v.late
	v.late = nil
	for _, n := range again {
		v.send(n)
	}
}

// checkpoint cuts one at the log's end.
func (v *served) checkpoint() error {
	_, first := v.content.(FirstContent)
	if first {
		// As the coordinator does: none is open whose changes were made first.
		for len(v.open) > 0 {
			v.end(v.open[0], 0)
		}
		v.sendLate()
	}
	failure, err := v.node.capture()
	if err != nil {
		return err
	}
	v.did("checkpoint at %d: %q", v.node.end(), failure)
	if failure != "" && !strings.Contains(failure, "not the active one") && !first {
		return fmt.Errorf("the capture failed: %s", failure)
	}
	return nil
}

// kill ends the application; the next one finds what its state has stored.
func (v *served) kill() error {
	v.did("killed")
	if err := v.stop(); err != nil {
		return fmt.Errorf("its Serve: %w", err)
	}
	v.open, v.late, v.unsent = nil, nil, nil
	state := v.state
	if v.options.reopen != nil {
		state = v.options.reopen(v.TB, state)
	} else {
		state = v.newState(v.TB)
	}
	v.serve(state)
	return nil
}

// look compares what the application holds with the log.
func (v *served) look() error {
	if first, ok := v.content.(FirstContent); ok && first != nil && len(v.open) > 0 {
		return nil // what they made first is seen
	}
	if len(v.late) > 0 {
		v.sendLate()
	}
	v.sendUnsent()
	a := v.node.begin()
	defer v.end(&conformAttempt{name: a}, 0)
	result, _, err := v.call(a, "dump", nil)
	if err != nil {
		return err
	}
	if f := result.GetFailure(); f != nil {
		if f.Code == cohortv1.StepFailure_CODE_INSTANCE_LOST {
			return nil
		}
		return errors.New(f.Message)
	}
	v.did("looked at %d", v.node.end())
	want, err := v.want(v.node.changes())
	if err != nil {
		return err
	}
	if got := string(result.GetReply().GetPayload()); got != want {
		return fmt.Errorf("as of position %d the application holds what its transactions do not make of it:\n got %s\nwant %s", v.node.end(), short(got), short(want))
	}
	return nil
}
