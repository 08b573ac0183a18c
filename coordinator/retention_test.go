package coordinator

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/cohort-tx/cohort/coordinator/protocol"
	"github.com/cohort-tx/cohort/groups"
	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/machine"
)

// plainState is a state without a past: a year of versions would be too many.
type plainState map[string][]byte

func (s plainState) Get(key []byte) ([]byte, bool, error) {
	v, ok := s[string(key)]
	return v, ok, nil
}

func (s plainState) Scan(start, end []byte, fn func(key, value []byte) (bool, error)) error {
	var keys []string
	for k := range s {
		if k >= string(start) && (end == nil || k < string(end)) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	for _, k := range keys {
		if more, err := fn([]byte(k), s[k]); err != nil || !more {
			return err
		}
	}
	return nil
}

func (s plainState) Set(key, value []byte) { s[string(key)] = value }
func (s plainState) Delete(key []byte)     { delete(s, string(key)) }

// years runs a group's log with a clock of its own.
type years struct {
	t     *testing.T
	store plainState
	m     *machine.Machine
	index uint64
	now   time.Time
}

func (y *years) apply(commands ...command.Command) []command.Result {
	y.t.Helper()
	y.index++
	data := command.AppendBatch(nil, &command.Batch{Epoch: 1, TimeUnixNano: y.now.UnixNano(), Commands: commands})
	results, _, err := y.m.Apply(y.store, y.index, data)
	if err != nil {
		y.t.Fatal(err)
	}
	return results
}

func (y *years) done(c command.Command) command.Result {
	y.t.Helper()
	r := y.apply(c)[0]
	if r.Status != command.StatusDone {
		y.t.Fatalf("%T: %+v", c, r)
	}
	return r
}

// keys counts the live state without participants' data.
func (y *years) keys() (n, bytes int) {
	if err := y.store.Scan([]byte{0x02}, nil, func(k, v []byte) (bool, error) {
		n++
		bytes += len(k) + len(v)
		return true, nil
	}); err != nil {
		y.t.Fatal(err)
	}
	return n, bytes
}

// Would break: records, requests or outcomes that pile up over a year of
// checkpoints every two hours; a checkpoint missed, or one too many.
func TestAYearOfCheckpointsGrowsNothing(t *testing.T) {
	def := groups.Default("g", "a")
	y := &years{t: t, store: plainState{}, m: machine.New(), now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	participants, limits := def.MachineConfig()
	y.done(&command.RaiseEpoch{Node: "n1"})
	y.done(&command.Configure{Version: 1, Incarnation: 1, Participants: participants, Limits: limits, Definition: []byte("{}")})
	y.done(&command.FeatureLevel{Level: 2})
	policy := schedulePolicy(&def)
	members := []string{"n1", "n2", "n3"}
	taken, keysEarly, bytesEarly := 0, 0, 0
	for end := y.now.AddDate(1, 0, 0); y.now.Before(end); y.now = y.now.Add(20 * time.Minute) {
		y.apply(&command.Decide{Attempt: command.Attempt{ID: fmt.Sprint("t", y.index), Begun: y.index}, Ops: []command.Op{
			{Kind: command.OpPut, Participant: "a", Key: fmt.Sprint("k", y.index%50), Value: []byte("v")},
		}})
		view := y.store
		s, err := machine.ReadSchedule(view)
		if err != nil {
			t.Fatal(err)
		}
		wish, serves, due, _ := protocol.Due(s, y.m.Meta().Position, policy, 0, y.now.UnixNano())
		if due {
			taken++
			number := y.done(&command.Checkpoint{CheckpointRequest: wish, Serves: serves, Members: members, MinCopies: 2}).Number
			for _, node := range members {
				y.done(&command.ReportCopy{Number: number, Node: node, State: command.CopyWritten, Digest: command.CheckpointDigest(nil)})
			}
		}
		all, err := machine.ReadCheckpoints(y.store)
		if err != nil {
			t.Fatal(err)
		}
		if s, err = machine.ReadSchedule(y.store); err != nil {
			t.Fatal(err)
		}
		if cmd := retain(all, nil, s, 1, def.Retention.Checkpoints); cmd != nil {
			y.done(cmd)
		}
		for {
			to, ok, err := machine.HorizonTarget(y.store, y.now.UnixNano(), def.Outcomes.Age, def.Outcomes.Count)
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				break
			}
			y.done(&command.MoveHorizon{To: to})
		}
		if taken == 24 && keysEarly == 0 {
			keysEarly, bytesEarly = y.keys()
		}
	}
	if taken < 365*12-1 || taken > 365*12+1 {
		t.Errorf("%d checkpoints in a year", taken)
	}
	keys, bytes := y.keys()
	// Numbers get longer; that is all.
	if keys > keysEarly+5 || bytes > bytesEarly*5/4 {
		t.Errorf("after two days the state has %d keys and %d bytes, after a year %d and %d", keysEarly, bytesEarly, keys, bytes)
	}
	all, err := machine.ReadCheckpoints(y.store)
	if err != nil {
		t.Fatal(err)
	}
	s, err := machine.ReadSchedule(y.store)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) > int(def.Retention.Checkpoints)+1 || s.LogFrom+2*24*12 < y.m.Meta().Position {
		t.Errorf("%d checkpoints are kept, the log from position %d of %d", len(all), s.LogFrom, y.m.Meta().Position)
	}
}

// Would break: a checkpoint or log dropped that is still needed, or kept for ever.
func TestRetainKeepsTheNewestComplete(t *testing.T) {
	complete := func(number, position uint64) machine.Checkpoint {
		return machine.Checkpoint{Number: number, State: machine.CheckpointComplete, Incarnation: 1, Position: position}
	}
	writing := machine.Checkpoint{Number: 5, State: machine.CheckpointWriting, Incarnation: 1, Position: 50}
	part := complete(4, 40)
	part.Request.Participants = []string{"a"}
	failed := machine.Checkpoint{Number: 2, State: machine.CheckpointFailed, Incarnation: 1, Position: 20}
	abandoned := machine.Checkpoint{Number: 1, State: machine.CheckpointAbandoned, Incarnation: 1}
	captured := func(position uint64) machine.OwnState {
		return machine.OwnState{Participant: "a", Last: machine.Capture{Participant: "a", State: machine.CaptureStored, Position: position}}
	}
	inherits := complete(3, 30)
	inherits.LogFrom = 21
	for name, c := range map[string]struct {
		all  []machine.Checkpoint
		keep uint64
		own  []machine.OwnState
		from uint64
		want *command.Retain
	}{
		"fewer than are kept":                       {all: []machine.Checkpoint{complete(1, 10)}, keep: 2},
		"one too many":                              {all: []machine.Checkpoint{complete(1, 10), complete(3, 30), complete(6, 60)}, keep: 2, want: &command.Retain{Drop: []uint64{1}, LogFrom: 31}},
		"what is being written stays":               {all: []machine.Checkpoint{complete(3, 30), writing, complete(6, 60)}, keep: 1, want: &command.Retain{Drop: []uint64{3}, LogFrom: 61}},
		"part of a group does not count":            {all: []machine.Checkpoint{complete(3, 30), part}, keep: 2},
		"part of a group goes with its age":         {all: []machine.Checkpoint{complete(3, 30), part, complete(6, 60)}, keep: 1, want: &command.Retain{Drop: []uint64{3, 4}, LogFrom: 61}},
		"failed ones go, abandoned stay":            {all: []machine.Checkpoint{abandoned, failed, complete(3, 30)}, keep: 1, want: &command.Retain{Drop: []uint64{2}, LogFrom: 31}},
		"what was captured last holds the log":      {all: []machine.Checkpoint{complete(3, 30), complete(6, 60)}, keep: 1, own: []machine.OwnState{captured(40)}, want: &command.Retain{Drop: []uint64{3}, LogFrom: 41}},
		"what was never captured, from its base on": {all: []machine.Checkpoint{complete(3, 30), complete(6, 60)}, keep: 1, own: []machine.OwnState{{Participant: "a", Base: 7}}, want: &command.Retain{Drop: []uint64{3}, LogFrom: 8}},
		"what a kept one inherited":                 {all: []machine.Checkpoint{complete(1, 10), inherits, complete(6, 60)}, keep: 2, own: []machine.OwnState{captured(60)}, want: &command.Retain{Drop: []uint64{1}, LogFrom: 21}},
		"nothing twice":                             {all: []machine.Checkpoint{complete(3, 30)}, keep: 1, from: 31},
	} {
		got := retain(c.all, c.own, machine.Schedule{LogFrom: c.from}, 1, c.keep)
		if fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
	// Of an earlier incarnation: it is kept, and says nothing about this one's log.
	back := complete(3, 30)
	back.Incarnation = 1
	if got := retain([]machine.Checkpoint{back}, nil, machine.Schedule{}, 2, 1); got != nil {
		t.Errorf("a checkpoint of an earlier incarnation: %+v", got)
	}
}

// Would break: a disk that fills up, commits refused though there is room, or for
// ever because of a node that is gone.
func TestJudgeDisks(t *testing.T) {
	def := groups.Default("g", "a")
	def.Retention.MaxDisk = 1000
	now := time.Now()
	for _, c := range []struct {
		name    string
		reports map[string]DiskReport
		refuse  bool
		early   bool
	}{
		{"room", map[string]DiskReport{"n1": {GroupBytes: 100, at: now}}, false, false},
		{"early", map[string]DiskReport{"n1": {GroupBytes: 100, at: now}, "n2": {GroupBytes: 800, at: now}}, false, true},
		{"full", map[string]DiskReport{"n1": {GroupBytes: 1000, at: now}}, true, true},
		{"a node's reserve", map[string]DiskReport{"n1": {GroupBytes: 1, Refuse: "full", at: now}}, true, false},
		{"a node that is gone", map[string]DiskReport{"n1": {GroupBytes: 1000, Refuse: "full", at: now.Add(-time.Hour)}}, false, false},
	} {
		refuse, early := judgeDisks(&def, c.reports, now)
		if (refuse != "") != c.refuse || early != c.early {
			t.Errorf("%s: %q, %v", c.name, refuse, early)
		}
	}
}
