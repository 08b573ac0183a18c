package participant

import (
	"fmt"
	"testing"
)

// Without it an attempt that was given up here could be voted for, once enough
// others were given up after it.
func TestDeadAttemptsAreNeverFoundAgain(t *testing.T) {
	table := newAttempts()
	name := func(begun uint64) attemptKey { return attemptKey{id: fmt.Sprint(begun), begun: begun, nonce: 1} }
	for begun := uint64(1); begun <= 2*maxDeadAttempts; begun++ {
		a, why := table.find(name(begun), 1, 1)
		if a == nil {
			t.Fatalf("%d is new: %s", begun, why)
		}
		a.end()
		table.bury(a.key)
		table.forget(a)
	}
	for begun := uint64(1); begun <= 2*maxDeadAttempts; begun++ {
		if a, _ := table.find(name(begun), 1, 1); a != nil {
			t.Fatalf("%d is back", begun)
		}
	}
	if len(table.dead) > maxDeadAttempts || len(table.byKey) != 0 || len(table.byID) != 0 {
		t.Errorf("kept %d dead, %d, %d", len(table.dead), len(table.byKey), len(table.byID))
	}
	for n := range uint64(maxAttempts) { // all open
		if a, why := table.find(name(10*maxDeadAttempts+n), 1, 1); a == nil {
			t.Fatal(why)
		} else {
			a.end()
		}
	}
	if a, _ := table.find(name(1<<40), 1, 1); a != nil {
		t.Error("the bound does not hold")
	}
}

// Without it the wrong one of two attempts of a transaction would keep its changes,
// or a change be made twice or left out.
func TestEntryIsMatchedWithItsAttempt(t *testing.T) {
	change := func(value string, epoch uint64) Change {
		return Change{Kind: ChangeLog, Participant: "bank", Value: []byte(value), AppliedEpoch: epoch}
	}
	values := func(changes []Change) (s string) {
		for _, c := range changes {
			s += string(c.Value)
		}
		return s
	}
	table := newAttempts()
	add := func(begun, nonce uint64, state attemptState, first string) *attempt {
		a, _ := table.find(attemptKey{id: "x", begun: begun, nonce: nonce}, 7, 1)
		a.state = state
		for _, r := range first {
			a.changes = append(a.changes, firstChange{change: change(string(r), 7)})
		}
		t.Cleanup(a.end)
		return a
	}
	open := add(5, 1, attemptOpen, "ab")
	voted := add(5, 2, attemptVoted, "axb")
	twin := add(5, 3, attemptVoted, "ab")
	later := add(6, 4, attemptVoted, "ab")

	entry := &Entry{ID: "x", Begun: 5, Changes: []Change{change("a", 7), change("b", 7)}}
	winner, losers := table.decided(entry)
	if winner != twin || len(losers) != 3 {
		t.Error("the one with the entry's changes committed")
	}
	voted.toldCommitted = true
	if winner, _ = table.decided(entry); winner != voted {
		t.Error("a notice is surer")
	}
	if apply, undo := voted.match(entry.Changes); len(apply) != 0 || values(undo) != "x" {
		t.Errorf("apply %q, undo %q", values(apply), values(undo))
	}
	mixed := []Change{change("a", 0), change("a", 7), change("c", 7), change("b", 8)}
	if apply, undo := twin.match(mixed); values(apply) != "acb" || values(undo) != "b" {
		t.Errorf("apply %q, undo %q", values(apply), values(undo))
	}
	for _, a := range []*attempt{voted, twin, later} {
		table.forget(a)
	}
	if winner, losers = table.decided(entry); winner != nil || len(losers) != 1 || losers[0] != open {
		t.Error("one that has not voted cannot have committed")
	}
	if winner, losers = table.decided(&Entry{ID: "y", Begun: 5}); winner != nil || losers != nil {
		t.Error("another transaction")
	}
}
