package machine_test

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/machine"
	"github.com/cohort-tx/cohort/txlog/machine/memstate"
)

// group gives a configured store at index 1, with participants a and b, epoch 1.
func group(t testing.TB, limits command.Limits) (*memstate.Store, *machine.Machine) {
	t.Helper()
	s, m := memstate.New(), machine.New()
	mustApply(t, s, m, &command.RaiseEpoch{Node: "n1"},
		&command.Configure{Version: 1, Incarnation: 7, Participants: []string{"a", "b"}, Limits: limits})
	return s, m
}

func mustApply(t testing.TB, s *memstate.Store, m *machine.Machine, commands ...command.Command) []command.Result {
	t.Helper()
	results, _, err := s.Apply(m, s.Index()+1, encode(commands...))
	if err != nil {
		t.Fatal(err)
	}
	return results
}

func encode(commands ...command.Command) []byte {
	return command.AppendBatch(nil, &command.Batch{Epoch: 1, Commands: commands})
}

// failing is a state whose nth access fails.
type failing struct {
	machine.State
	left int
}

var errDisk = errors.New("disk on fire")

func (f *failing) fail() error {
	f.left--
	if f.left == 0 {
		return errDisk
	}
	return nil
}

func (f *failing) Get(key []byte) ([]byte, bool, error) {
	if err := f.fail(); err != nil {
		return nil, false, err
	}
	return f.State.Get(key)
}

func (f *failing) Scan(start, end []byte, fn func(k, v []byte) (bool, error)) error {
	if err := f.fail(); err != nil {
		return err
	}
	return f.State.Scan(start, end, fn)
}

// TestStateErrors: an I/O error comes back as it is, and after discarding the
// update the same machine applies the entry as if nothing had been. Without
// reading its caches again it would go on from what was discarded.
func TestStateErrors(t *testing.T) {
	commands := []command.Command{
		&command.Decide{Attempt: command.Attempt{ID: "o1", Begun: 1}, Ops: []command.Op{
			{Kind: command.OpAdd, Participant: "a", Key: "n", Delta: 1}}},
		&command.Activate{Participant: "a", Node: "n1", Instance: "i1"},
		&command.Decide{Attempt: command.Attempt{ID: "o2", Begun: 1},
			Reads: []command.Read{{Participant: "a", Key: "n", Version: 1}},
			Scans: []command.ScanRead{{Participant: "a"}}},
		&command.Settle{ID: "o3", Begun: 1, Reason: command.ReasonTimeout},
		&command.MoveHorizon{To: 2},
		&command.Configure{Version: 2, Participants: []string{"a"}, Prune: true},
		&command.Purge{},
	}
	want, m := group(t, command.Limits{})
	wantResults := mustApply(t, want, m, commands...)
	sum, _, err := machine.Digest(want.Latest())
	if err != nil {
		t.Fatal(err)
	}
	for n := 1; ; n++ {
		s, m := group(t, command.Limits{})
		u := s.Begin()
		f := &failing{State: u, left: n}
		_, _, err := m.Apply(f, 2, encode(commands...))
		if err == nil {
			if n < 8 {
				t.Fatalf("only %d accesses", n)
			}
			return
		}
		if !errors.Is(err, errDisk) {
			t.Fatal(err)
		}
		u.Discard()
		results := mustApply(t, s, m, commands...)
		if fmt.Sprint(results) != fmt.Sprint(wantResults) {
			t.Fatalf("after a failure at access %d: %v, want %v", n, results, wantResults)
		}
		if got, _, _ := machine.Digest(s.Latest()); got != sum {
			t.Fatalf("after a failure at access %d the state differs", n)
		}
	}
}

// TestCorruptRecords: every record cut short or of another version is a
// CorruptError that names it, not a panic and not zeros.
func TestCorruptRecords(t *testing.T) {
	s, m := group(t, command.Limits{})
	mustApply(t, s, m,
		&command.Activate{Participant: "a", Node: "n1", Instance: "i1"},
		&command.Decide{Attempt: command.Attempt{ID: "o1", Begun: 1}, Ops: []command.Op{{Kind: command.OpPut, Participant: "a", Key: "k"}}},
		&command.Settle{ID: "o2", Begun: 1, Reason: command.ReasonTimeout})
	readAll := func(r machine.Reader) error {
		cfg, err := machine.ReadConfig(r)
		if err != nil {
			return err
		}
		_, err1 := machine.ReadMeta(r)
		_, err2 := machine.ReadActivations(r)
		_, _, err3 := machine.ReadOutcome(r, "o1")
		_, _, err4 := machine.ReadOutcome(r, "o2")
		_, _, _, err5 := machine.GetValue(r, cfg, "a", "k")
		_, _, err6 := machine.HorizonTarget(r, 1000, time.Nanosecond, 1)
		return errors.Join(err1, err2, err3, err4, err5, err6)
	}
	if err := readAll(s.Latest()); err != nil {
		t.Fatal(err)
	}
	var keys [][]byte
	_ = s.Latest().Scan(nil, nil, func(k, _ []byte) (bool, error) {
		keys = append(keys, k)
		return true, nil
	})
	for _, k := range keys {
		v, _, _ := s.Latest().Get(k)
		damaged := map[string][]byte{"empty": nil, "cut": v[:len(v)-1]}
		if k[0] != 7 {
			damaged["longer"] = append(append([]byte{}, v...), 0)
			damaged["newer"] = append([]byte{9}, v[1:]...)
		}
		for how, bad := range damaged {
			u := s.Begin()
			u.Set(k, bad)
			err := readAll(u)
			var corrupt *machine.CorruptError
			if !errors.As(err, &corrupt) || string(corrupt.Key) != string(k) {
				t.Errorf("%s record at %x: %v", how, k, err)
			}
			u.Discard()
		}
	}
}

// TestEntryBoundHoldsWhatLimitsAllow: a transaction at its limits fits an empty
// entry; else it would be refused as overloaded for ever. And whatever fits the
// bound, the store writes no more.
func TestEntryBoundHoldsWhatLimitsAllow(t *testing.T) {
	for _, limits := range []command.Limits{
		{TransactionKeys: 1, TransactionBytes: 2000},
		{TransactionKeys: 300, TransactionBytes: 300 * 30},
		{TransactionKeys: 20, TransactionBytes: 40 << 10},
	} {
		s, m := group(t, limits)
		id := strings.Repeat("i", command.MaxIDBytes)
		d := &command.Decide{Attempt: command.Attempt{ID: id, Begun: 1}, RequestDigest: make([]byte, command.MaxDigestBytes)}
		each := int(limits.TransactionBytes / limits.TransactionKeys)
		for i := range limits.TransactionKeys {
			key := fmt.Sprintf("%06d", i)
			d.Ops = append(d.Ops, command.Op{Kind: command.OpPut, Participant: "a", Key: key, Value: make([]byte, each-len(key)-1)})
		}
		if err := machine.CheckSize(limits, d); err != nil {
			t.Fatal(err)
		}
		bound := machine.EntryBound(limits)
		if n := machine.EntryOverhead().Add(machine.CommandSize(d)); !n.Within(bound) {
			t.Fatalf("limits %v: a transaction at them counts for %v, the entry holds %v", limits, n, bound)
		}
		if r := mustApply(t, s, m, d); r[0].Status != command.StatusCommitted {
			t.Fatalf("limits %v: %+v", limits, r[0])
		}
		// An entry stuffed with transactions until it is full.
		var all []command.Command
		for i := range command.MaxBatchCommands {
			again := *d
			again.ID = fmt.Sprintf("%0*d", command.MaxIDBytes, i)
			again.Ops = d.Ops[:min(len(d.Ops), 5)]
			all = append(all, &again)
		}
		u := s.Begin()
		results, _, err := m.Apply(u, s.Index()+1, encode(all...))
		if err != nil {
			t.Fatal(err)
		}
		keys, size := u.Writes()
		if n := (machine.Size{Bytes: uint64(size + 32*keys), Keys: uint64(keys)}); !n.Within(bound) {
			t.Errorf("limits %v: an entry wrote %v, the bound is %v", limits, n, bound)
		}
		if last := results[len(results)-1]; last.Reason != command.ReasonOverloaded {
			t.Errorf("limits %v: the entry did not fill up: %+v", limits, last)
		}
		u.Discard()
	}
	// The largest definition always fits, also after the least limits.
	s, m := group(t, command.Limits{TransactionBytes: 1, TransactionKeys: 1})
	c := &command.Configure{Version: 2, Definition: make([]byte, command.MaxDefinitionBytes), Prune: true}
	for i := range command.MaxParticipants {
		c.Participants = append(c.Participants, "p"+strings.Repeat("x", 58)+fmt.Sprintf("%04d", i))
	}
	if r := mustApply(t, s, m, c); r[0].Status != command.StatusDone {
		t.Fatalf("%+v", r[0])
	}
}

// TestSmallOpsCountInFull: many small writes cost more than their bytes; a store
// that was laid out without that would refuse the entry.
func TestSmallOpsCountInFull(t *testing.T) {
	s, m := group(t, command.Limits{})
	d := &command.Decide{Attempt: command.Attempt{ID: "o", Begun: 1}}
	for i := range 5000 {
		d.Ops = append(d.Ops, command.Op{Kind: command.OpAdd, Participant: "a", Key: fmt.Sprint(i), Delta: math.MinInt64})
	}
	u := s.Begin()
	if r, _, err := m.Apply(u, 2, encode(d)); err != nil || r[0].Status != command.StatusCommitted {
		t.Fatal(r, err)
	}
	keys, size := u.Writes()
	counted := machine.EntryOverhead().Add(machine.CommandSize(d))
	if written := (machine.Size{Bytes: uint64(size + 32*keys), Keys: uint64(keys)}); !written.Within(counted) {
		t.Errorf("wrote %v, counted were %v", written, counted)
	}
}

// TestDetailsAreBounded: a detail is cut at a character.
func TestDetailsAreBounded(t *testing.T) {
	s, m := group(t, command.Limits{})
	r := mustApply(t, s, m, &command.Settle{ID: "o1", Begun: 1, Reason: command.ReasonVote, Detail: "x" + strings.Repeat("é", 400)})
	if want := "x" + strings.Repeat("é", 255); r[0].Detail != want {
		t.Errorf("detail of %d bytes, want %d", len(r[0].Detail), len(want))
	}
}

// TestReadsOfNothing: an empty state reads as a group that does not exist yet.
func TestReadsOfNothing(t *testing.T) {
	v := memstate.New().Latest()
	meta, err := machine.ReadMeta(v)
	if err != nil || meta != (machine.Meta{}) {
		t.Errorf("%+v %v", meta, err)
	}
	cfg, err := machine.ReadConfig(v)
	if err != nil || cfg.Version != 0 {
		t.Errorf("%+v %v", cfg, err)
	}
	var unknown *machine.UnknownParticipantError
	if _, _, _, err := machine.GetValue(v, cfg, "a", "k"); !errors.As(err, &unknown) {
		t.Errorf("%v", err)
	}
	if d, _, err := machine.ReadDecision(v, "o1", 0); d != machine.DecisionNone || err != nil {
		t.Errorf("%v %v", d, err)
	}
	if _, ok, err := machine.HorizonTarget(v, 1, time.Hour, 1); ok || err != nil {
		t.Errorf("%v %v", ok, err)
	}
}

// TestDigestCoversLogicalStateOnly: what the store and the replica keep for
// themselves is no part of it, everything else is.
func TestDigestCoversLogicalStateOnly(t *testing.T) {
	s, _ := group(t, command.Limits{})
	before, n, _ := machine.Digest(s.Latest())
	u := s.Begin()
	u.Set([]byte{0, 1}, []byte("store"))
	u.Set([]byte{1, 1}, []byte("replica"))
	if sum, m, _ := machine.Digest(u); sum != before || m != n {
		t.Error("local keys are in the digest")
	}
	u.Set([]byte{7, 0, 0, 0, 1, 'k'}, []byte("12345678"))
	if sum, m, _ := machine.Digest(u); sum == before || m != n+1 {
		t.Error("data is not in the digest")
	} else {
		u.Set([]byte{7, 0, 0, 0, 1, 'k'}, []byte("12345679"))
		if other, _, _ := machine.Digest(u); other == sum {
			t.Error("values are not in the digest")
		}
	}
}
