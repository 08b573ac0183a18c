package machine_test

import (
	"fmt"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/machine"
	"github.com/cohort-tx/cohort/txlog/machine/memstate"
)

// TestCheckpointHistories: over random checkpoint commands a replica that
// restarts at each entry answers as one that does not, an entry writes no more
// than is counted, nothing commits under a seal, what is complete has its copies
// and every participant's own state, and what a restore needs stays.
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
				switch c.(type) {
				case *command.Checkpoint, *command.NotePause, *command.ReportCapture:
					counted = counted.Add(machine.Size{Bytes: 2 * 512, Keys: 17}) // captures, and what is pruned
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
			own, err := machine.ReadOwnStates(s.Latest())
			if err != nil {
				t.Fatal(err)
			}
			whole, need := false, ^uint64(0)
			for _, c := range all {
				for i := range c.Captures {
					p := &c.Captures[i]
					if c.State == machine.CheckpointComplete && !p.Exists() || p.State == machine.CaptureFailed && c.State != machine.CheckpointAbandoned {
						t.Fatalf("entry %d: checkpoint %d is %v with %+v", index, c.Number, c.State, p)
					}
					if p.State != machine.CaptureInherited && (p.Position != c.Position || p.Checkpoint != c.Number) {
						t.Fatalf("entry %d: a state of another cut: %+v", index, c)
					}
				}
				if c.State != machine.CheckpointComplete {
					continue
				}
				for i := range own {
					o := &own[i]
					at := slices.IndexFunc(c.Captures, func(p machine.Capture) bool { return p.Participant == o.Participant })
					switch {
					case !c.Whole():
					case at >= 0 && c.Captures[at].State == machine.CaptureStored && o.Last.Position < c.Position:
						t.Fatalf("entry %d: the last state of %s is older than checkpoint %d", index, o.Participant, c.Number)
					case at >= 0:
						need = min(need, c.Captures[at].Position+1)
					case o.Base < c.Position:
						need = min(need, o.Base+1)
					}
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
			for i := range own {
				if hadWhole && sched.LogFrom > own[i].From()+1 {
					t.Fatalf("entry %d: log from %d, and %+v", index, sched.LogFrom, own[i])
				}
			}
		}
		epochs := map[string]uint64{}
		apply(&command.RaiseEpoch{Node: "n1"}, &command.FeatureLevel{Level: 3},
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
			switch n("kind", 15) {
			case 0, 1:
				apply(decide)
			case 2:
				apply(&command.RequestCheckpoint{CheckpointRequest: request()}, decide)
			case 3, 4:
				c := &command.Checkpoint{CheckpointRequest: request(), Members: nodes[:1+n("members", 2)], MinCopies: uint64(n("copies", 2))}
				if n("seal", 5) == 0 && len(c.Participants) == 0 {
					c.Seal, c.SealToken = true, "r"
				}
				if own, _ := machine.ReadOwnStates(s.Latest()); c.Participants == nil {
					for i := range own {
						if n("asked", 2) > 0 {
							c.Captures = append(c.Captures, own[i].Participant)
						}
					}
				}
				apply(c)
			case 5:
				apply(&command.AbandonCheckpoint{CheckpointRequest: request(), Detail: "x"}, decide)
			case 6, 7, 8, 9:
				c := &command.ReportCopy{Number: number, Node: nodes[n("node", 3)], State: command.CopyState(n("state", 4)), Rebuilt: n("rebuilt", 1) == 0}
				c.Digest[0] = byte(n("digest", 3) / 3)
				apply(c)
			case 12:
				p := string("ab"[n("participant", 1)])
				apply(&command.Activate{Participant: p, Node: "n1", Instance: "i", Expect: epochs[p], OwnState: n("own", 3) > 0})
				a, _, _ := machine.ReadActivation(s.Latest(), p)
				epochs[p] = a.Epoch
			case 13, 14, 15:
				record, _, _ := machine.ReadCheckpoint(s.Latest(), number)
				for i := range record.Captures {
					p := &record.Captures[i]
					c := &command.ReportCapture{Number: number, Participant: p.Participant, Epoch: p.Epoch, Position: p.Position}
					if n("stored", 3) > 0 {
						c.Node, c.Section.Name = "n1", "state/"+p.Participant
					} else {
						c.Failure = "x"
					}
					c.Epoch += uint64(n("stale", 9) / 9)
					apply(c, decide)
				}
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
	most := machine.CommandSize(&command.NotePause{}).Bytes
	if n := uint64(len(machine.AppendCheckpoint(nil, &record))) + 200; n > most {
		t.Errorf("the largest record has %d bytes, counted are %d", n, most)
	}
	// With a state of its own of every participant, one of which has a detail.
	for range command.MaxParticipants {
		record.Captures = append(record.Captures, machine.Capture{
			Participant: longest(command.MaxNameBytes), State: machine.CaptureStored, Checkpoint: 1 << 63, Epoch: 1 << 63, Position: 1 << 63,
			Section: command.Section{Keys: 1 << 63, Bytes: 1 << 63}, Bytes: 1 << 63, Node: longest(command.MaxNameBytes),
		})
		record.Sections = append(record.Sections, command.Section{Name: longest(6 + command.MaxNameBytes), Keys: 1 << 63, Bytes: 1 << 63})
	}
	record.Captures[0].Detail, record.Detail = longest(command.MaxDetailBytes), longest(command.MaxDetailBytes)
	record.LogFrom, record.Before = 1<<63, machine.Cut{Number: 1 << 63, UnixNano: 1 << 62, Position: 1 << 63, LogBytes: 1 << 63}
	most += command.MaxParticipants * 512
	if n := uint64(len(machine.AppendCheckpoint(nil, &record))) + 200; n > most {
		t.Errorf("the largest record with captures has %d bytes, counted are %d", n, most)
	}
	if c, err := machine.DecodeCheckpoint(machine.AppendCheckpoint(nil, &record)); err != nil || !reflect.DeepEqual(c.Before, record.Before) || c.LogFrom != record.LogFrom || len(c.Captures) != len(record.Captures) {
		t.Errorf("the record does not come back: %v", err)
	}
}
