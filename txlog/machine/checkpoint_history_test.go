package machine_test

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/machine"
	"github.com/cohort-tx/cohort/txlog/machine/memstate"
)

// TestCheckpointHistories: over random checkpoint commands a replica that
// restarts at each entry answers as one that does not, an entry writes no more
// than is counted, nothing commits under a seal, what is complete has its
// copies, and what a restore needs stays.
func TestCheckpointHistories(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := func(label string, most int) int { return rapid.IntRange(0, most).Draw(t, label) }
		nodes := []string{"n1", "n2", "n3", "n4"}
		s, other, m := memstate.New(), memstate.New(), machine.New()
		var logBytes uint64
		hadWhole, numbers := false, uint64(0)
		apply := func(commands ...command.Command) {
			index := s.Index() + 1
			meta, _ := machine.ReadMeta(s.Latest())
			u := s.Begin()
			results, entries, err := m.Apply(u, index, encode(commands...))
			if err != nil {
				t.Fatal(err)
			}
			counted := machine.EntryOverhead()
			for _, c := range commands {
				counted = counted.Add(machine.CommandSize(c))
				if _, report := c.(*command.ReportCopy); report {
					counted = counted.Add(machine.Size{Bytes: 1 << 20, Keys: 100}) // for older ones
				}
			}
			if keys, size := u.Writes(); !(machine.Size{Bytes: uint64(size + 32*keys), Keys: uint64(keys)}).Within(counted) {
				t.Fatalf("entry %d wrote %d keys of %d bytes, counted were %+v", index, keys, size, counted)
			}
			u.Commit(index)
			again, _, err := other.Apply(machine.New(), index, encode(commands...))
			if err != nil || !slices.Equal(again, results) {
				t.Fatalf("entry %d: replicas answer %+v and %+v", index, results, again)
			}
			a, _, _ := machine.Digest(s.Latest())
			if b, _, _ := machine.Digest(other.Latest()); a != b {
				t.Fatalf("entry %d: replicas differ", index)
			}
			if meta.Sealed && len(entries) > 0 {
				if _, unsealed := commands[0].(*command.Unseal); !unsealed {
					t.Fatalf("entry %d commits under a seal", index)
				}
			}
			for i := range entries {
				logBytes += uint64(len(command.AppendEntry(nil, &entries[i])))
			}
			sched, err := machine.ReadSchedule(s.Latest())
			if err != nil || sched.LogBytes != logBytes || sched.NextNumber < numbers {
				t.Fatalf("entry %d: schedule %+v, the log has %d bytes: %v", index, sched, logBytes, err)
			}
			numbers = sched.NextNumber
			all, err := machine.ReadCheckpoints(s.Latest())
			if err != nil {
				t.Fatal(err)
			}
			whole, need := false, ^uint64(0)
			for _, c := range all {
				if c.State != machine.CheckpointComplete {
					continue
				}
				for _, p := range c.Copies {
					if p.State == command.CopyWritten && p.Digest != c.Digest {
						t.Fatalf("entry %d: checkpoint %d counts a different copy: %+v", index, c.Number, c)
					}
				}
				if c.Whole() {
					whole, need = true, min(need, c.Position+1)
				}
			}
			if hadWhole && !whole || sched.LogFrom > 0 && sched.LogFrom > need {
				t.Fatalf("entry %d: nothing to restore from: log from %d, needed from %d", index, sched.LogFrom, need)
			}
			hadWhole = hadWhole || whole
		}
		apply(&command.RaiseEpoch{Node: "n1"}, &command.FeatureLevel{Level: 2},
			&command.Configure{Version: 1, Incarnation: 1, Participants: []string{"a", "b"}})
		request := func() command.CheckpointRequest {
			q := command.CheckpointRequest{Token: fmt.Sprint("t", n("token", 20)), Trigger: command.TriggerInterval}
			if n("part", 3) == 0 {
				q.Participants = []string{"a"}
			}
			return q
		}
		for i := range n("entries", 60) {
			decide := &command.Decide{Attempt: command.Attempt{ID: fmt.Sprint("o", i), Begun: s.Index()},
				Ops: []command.Op{{Kind: command.OpPut, Participant: "a", Key: "k"}}}
			number := uint64(n("number", int(numbers)))
			switch n("kind", 11) {
			case 0, 1:
				apply(decide)
			case 2:
				apply(&command.RequestCheckpoint{CheckpointRequest: request()}, decide)
			case 3, 4:
				c := &command.Checkpoint{CheckpointRequest: request(), Members: nodes[:1+n("members", 2)], MinCopies: uint64(n("copies", 2))}
				if n("seal", 5) == 0 && len(c.Participants) == 0 {
					c.Seal, c.SealToken = true, "r"
				}
				apply(c)
			case 5:
				apply(&command.AbandonCheckpoint{CheckpointRequest: request(), Detail: "x"}, decide)
			case 6, 7, 8, 9:
				c := &command.ReportCopy{Number: number, Node: nodes[n("node", 3)], State: command.CopyState(n("state", 4)), Rebuilt: n("rebuilt", 1) == 0}
				c.Digest[0] = byte(n("digest", 3) / 3)
				apply(c)
			case 10:
				apply(&command.Retain{Drop: []uint64{number}, LogFrom: uint64(n("from", 10))})
			case 11:
				apply(&command.Unseal{Token: "r"}, decide)
			}
		}
	})
}

// TestCheckpointBounds: the largest definition, and the largest record of a
// checkpoint, fit an entry beside what every entry of level 2 counts for,
// however small the limits are: else they would be refused for ever.
func TestCheckpointBounds(t *testing.T) {
	configure := &command.Configure{Definition: make([]byte, command.MaxDefinitionBytes), Participants: make([]string, command.MaxParticipants)}
	tiny := command.Limits{ValueBytes: 1, TransactionBytes: 1, TransactionKeys: 1, ScanKeys: 1}
	for _, c := range []command.Command{configure, &command.Checkpoint{}, &command.AbandonCheckpoint{}, &command.ReportCopy{}} {
		if size := machine.EntryOverhead().Add(machine.CommandSize(c)); !size.Within(machine.EntryBound(tiny)) {
			t.Errorf("%T of %+v does not fit %+v", c, size, machine.EntryBound(tiny))
		}
	}
	longest := func(n int) string { return fmt.Sprintf("%0*d", n, 1) }
	record := machine.Checkpoint{Number: 1, State: machine.CheckpointComplete, Request: command.CheckpointRequest{Token: longest(command.MaxIDBytes)}}
	for range command.MaxParticipants {
		record.Request.Participants = append(record.Request.Participants, longest(command.MaxNameBytes))
	}
	for range command.MaxCopies {
		record.Members = append(record.Members, longest(command.MaxNameBytes))
		record.Copies = append(record.Copies, machine.Copy{Node: longest(command.MaxNameBytes), Detail: longest(command.MaxDetailBytes), Bytes: 1 << 63, WriteNanos: 1 << 63, Rebuilt: 1 << 63})
	}
	for range command.MaxParticipants + 2 {
		record.Sections = append(record.Sections, command.Section{Name: longest(12 + command.MaxNameBytes), Keys: 1 << 63, Bytes: 1 << 63})
	}
	if n := uint64(len(machine.AppendCheckpoint(nil, &record))) + 200; n > machine.CommandSize(&command.NotePause{}).Bytes {
		t.Errorf("the largest record has %d bytes, counted are %d", n, machine.CommandSize(&command.NotePause{}).Bytes)
	}
}
