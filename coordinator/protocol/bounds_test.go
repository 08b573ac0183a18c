package protocol

import (
	"fmt"
	"testing"
	"time"

	"github.com/cohort-tx/cohort/txlog/command"
)

// bounded is a core that counts.
type bounded struct {
	t       *testing.T
	core    *Core
	now     time.Duration
	replies map[uint64]Answer
	entries []*Propose
	sends   []*Send
}

func newBounded(t *testing.T) *bounded {
	config := testConfig()
	config.InFlight, config.Open, config.StagedBytes = 1<<20, 1<<20, 1<<40
	return &bounded{t: t, core: New(config), replies: map[uint64]Answer{}}
}

func (b *bounded) do(ev Event) {
	b.t.Helper()
	for _, e := range b.core.Step(b.now, ev) {
		switch e := e.(type) {
		case *Reply:
			b.replies[e.Request] = e.Answer
		case *Propose:
			b.entries = append(b.entries, e)
		case *Send:
			b.sends = append(b.sends, e)
		}
	}
}

func (b *bounded) commit(request uint64, bytes int) {
	b.do(&Commit{
		Request: request, Attempt: Attempt{ID: fmt.Sprint(request), Nonce: request}, Published: 50,
		Ops: []command.Op{{Kind: command.OpPut, Participant: "inv", Key: "k", Value: make([]byte, bytes)}},
	})
}

func (b *bounded) open(request uint64) Attempt {
	b.t.Helper()
	b.do(&Begin{Request: request, ID: fmt.Sprint("t", request)})
	b.do(&Pinned{Handle: b.core.handles, Begun: 40})
	o, ok := b.replies[request].(*Opened)
	if !ok {
		b.t.Fatalf("not opened: %v", b.replies[request])
	}
	return o.Attempt
}

// Entries are bounded in number, in commands and in bytes, however many commits
// wait.
func TestEntriesAreBounded(t *testing.T) {
	b := newBounded(t)
	for i := range 10 * MaxEntryCommands {
		b.commit(uint64(i+1), 10)
	}
	for range 10 {
		b.do(Flush{})
	}
	if len(b.entries) != MaxEntriesInFlight {
		t.Errorf("%d entries in flight", len(b.entries))
	}
	for _, e := range b.entries {
		if len(e.Commands) != MaxEntryCommands {
			t.Errorf("%d commands in an entry", len(e.Commands))
		}
	}
	b = newBounded(t)
	for i := range 10 {
		b.commit(uint64(i+1), MaxEntryBytes/4)
	}
	b.do(Flush{})
	if n := len(b.entries[0].Commands); n > 4 {
		t.Errorf("%d commands of a quarter of an entry's bytes in one", n)
	}
}

// A log that takes nothing does not make the queue grow: what timed out goes.
func TestQueueForgetsWhatEnded(t *testing.T) {
	b := newBounded(t)
	b.commit(1, 10)
	b.do(Flush{})
	b.do(&Doubtful{Entry: b.entries[0].Entry})
	for round := range 20 {
		for i := range MaxEntryCommands {
			b.commit(uint64(10+round*MaxEntryCommands+i), 10)
			b.do(&Abort{Attempt: Attempt{ID: fmt.Sprint(10 + round*MaxEntryCommands + i), Nonce: uint64(10 + round*MaxEntryCommands + i)}})
		}
	}
	if n := len(b.core.queue); n > 2*MaxEntryCommands {
		t.Errorf("%d ended commits in the queue", n)
	}
	if b.core.queueBytes > 1<<20 {
		t.Errorf("%d bytes counted for them", b.core.queueBytes)
	}
}

// Waiting calls of a participant in motion are bounded: the next hears so.
func TestLineIsBounded(t *testing.T) {
	b := newBounded(t)
	for i := range MaxWaitingCalls + 1 {
		a := b.open(uint64(2*i + 1))
		b.do(&Call{Request: uint64(2*i + 2), Attempt: a, Step: 1, Participant: "inv"})
	}
	if b.replies[2*MaxWaitingCalls] != nil {
		t.Errorf("the last that may wait does not: %v", b.replies[2*MaxWaitingCalls])
	}
	if f, ok := b.replies[2*MaxWaitingCalls+2].(*StepFailed); !ok || f.Code != FailureRecovering {
		t.Errorf("one too many waits: %v", b.replies[2*MaxWaitingCalls+2])
	}
}

// An attempt has a bounded number of steps, and holds a bounded number of bytes.
func TestAttemptsAreBounded(t *testing.T) {
	b := newBounded(t)
	b.do(&Attached{Session: 1, Node: "n1", Participant: "inv", Instance: "i"})
	b.do(Flush{})
	b.do(&Applied{Entry: b.entries[0].Entry, Results: []command.Result{{Status: command.StatusDone, Epoch: 1}}})
	a := b.open(1)
	for i := 1; i <= MaxSteps+1; i++ {
		b.do(&Call{Request: uint64(i + 1), Attempt: a, Step: uint32(i), Participant: "inv"})
		if s, ok := b.sends[len(b.sends)-1].Message.(*Step); ok {
			b.do(&StepResult{Session: 1, Participant: "inv", Instance: "i", Call: s.Call})
		}
	}
	if _, ok := b.replies[MaxSteps+1].(*StepDone); !ok {
		t.Errorf("the last step: %v", b.replies[MaxSteps+1])
	}
	if ab, ok := b.replies[MaxSteps+2].(*Aborted); !ok || ab.Reason != command.ReasonTooLarge {
		t.Errorf("one step too many: %v", b.replies[MaxSteps+2])
	}
	a = b.open(5000)
	b.do(&Call{Request: 5001, Attempt: a, Step: 1, Participant: "inv", Payload: make([]byte, 17<<20)})
	if ab, ok := b.replies[5001].(*Aborted); !ok || ab.Reason != command.ReasonTooLarge {
		t.Errorf("17 MiB in an attempt: %v", b.replies[5001])
	}
}

// Instances of a participant are bounded, but the active one always comes back.
func TestInstancesAreBounded(t *testing.T) {
	b := newBounded(t)
	for i := range MaxInstances + 1 {
		b.do(&Attached{Session: 1, Node: "n1", Participant: "inv", Instance: fmt.Sprint("i", i)})
	}
	last := b.sends[len(b.sends)-1]
	if r, ok := last.Message.(*Refused); !ok || r.Code != RefusalTooMany {
		t.Errorf("one too many: %v", showMessage(last.Message))
	}
}

// Answers are remembered up to a number, the oldest forgotten first.
func TestAnswersAreBounded(t *testing.T) {
	r := newAnswers()
	name := func(i int) Attempt { return Attempt{ID: "t", Nonce: uint64(i + 1)} }
	for i := range 3*MaxRemembered + 5 {
		r.remember(name(i), &Aborted{})
	}
	if len(r.byName) != MaxRemembered || len(r.order) != MaxRemembered {
		t.Errorf("%d answers are remembered", len(r.byName))
	}
	if _, ok := r.recall(name(3*MaxRemembered + 4)); !ok {
		t.Error("the newest is forgotten")
	}
	if _, ok := r.recall(name(2*MaxRemembered + 4)); ok {
		t.Error("an old one is remembered")
	}
}

// Commands that are no transactions are bounded; a lost attempt is not called
// aborted for it.
func TestAdministeringIsBounded(t *testing.T) {
	b := newBounded(t)
	for i := range MaxAdministering + 1 {
		b.do(&Administer{Request: uint64(i + 1), Command: &command.Purge{}})
	}
	if _, ok := b.replies[MaxAdministering+1].(*NotServing); !ok {
		t.Errorf("one too many: %v", b.replies[MaxAdministering+1])
	}
	b.do(&Commit{Request: 1 << 20, Attempt: Attempt{ID: "lost", Begun: 3, Nonce: 4}, Steps: 1})
	if _, ok := b.replies[1<<20].(*Indeterminate); !ok {
		t.Errorf("a lost attempt: %v", b.replies[1<<20])
	}
}
