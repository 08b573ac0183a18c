package machine_test

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/machine"
	"github.com/cohort-tx/cohort/txlog/machine/memstate"
)

// TestHistories holds the machine against the model over random histories, and
// the invariants of the design against what both say. Besides the replica under
// test, a second one applies the same entries in other groups and with restarts.
func TestHistories(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := newHistory(t)
		for range rapid.IntRange(5, 60).Draw(t, "entries") {
			h.step()
		}
		h.other.flush()
		h.sameDigest()
	})
}

type history struct {
	t       *rapid.T
	model   *model
	store   *memstate.Store
	machine *machine.Machine
	other   *grouped
	index   uint64
	now     int64
	// past is what was proposed before, for duplicates.
	past []proposal
	// abortedFacts is what was answered about aborts, committed what was committed,
	// for as long as the history lasts.
	abortedFacts []abortedFact
	committed    []committedFact
	// positions counts the log entries.
	positions uint64
}

type proposal struct {
	c     command.Command
	scans []modelScan
}

// abortedFact: attempts of id begun in [from, through] are aborted.
type abortedFact struct {
	id            string
	from, through uint64
}

type committedFact struct {
	id           string
	begun, index uint64
	position     uint64
}

func newHistory(t *rapid.T) *history {
	h := &history{t: t, model: newModel(), store: memstate.New(), machine: machine.New()}
	h.other = &grouped{t: t, store: memstate.New(), machine: machine.New()}
	if rapid.IntRange(0, 9).Draw(t, "bare") > 0 {
		h.run(1, []proposal{{c: &command.RaiseEpoch{Node: "n1"}}, {c: h.configure(1)}})
	}
	return h
}

var (
	ids          = []string{"o1", "o2", "o3", "o4", "o5"}
	keys         = []string{"k1", "k2", "k3", "k4"}
	participants = []string{"a", "b", "c"}
)

func (h *history) pick(label string, from []string) string {
	return rapid.SampledFrom(from).Draw(h.t, label)
}

func (h *history) number(label string, from, to int) int {
	return rapid.IntRange(from, to).Draw(h.t, label)
}

// one in n.
func (h *history) rarely(label string, n int) bool { return h.number(label, 1, n) == n }

func (h *history) step() {
	epoch := h.model.epoch
	var batch []proposal
	if h.rarely("raise", 15) {
		epoch += uint64(h.number("up", 0, 2))
		batch = append(batch, proposal{c: &command.RaiseEpoch{Node: "n2"}})
	} else if h.rarely("deposed", 10) {
		epoch = uint64(max(0, int(epoch)+h.number("off", -2, 1)))
	}
	for range h.number("commands", 1, 6) {
		if len(h.past) > 0 && h.rarely("again", 5) {
			batch = append(batch, rapid.SampledFrom(h.past).Draw(h.t, "which"))
			continue
		}
		batch = append(batch, h.propose())
	}
	h.run(epoch, batch)
}

// begun is mostly a recent index, rarely one that cannot be.
func (h *history) begun() uint64 {
	return uint64(max(0, int(h.index)-h.number("age", -2, 12)))
}

func (h *history) propose() proposal {
	switch k := h.number("kind", 1, 20); {
	case k <= 12:
		return h.decide()
	case k <= 14:
		return proposal{c: &command.Settle{ID: h.pick("id", ids), Begun: h.begun(), Reason: command.ReasonSuperseded, Detail: "x"}}
	case k <= 16:
		return proposal{c: h.activate()}
	case k == 17:
		return proposal{c: h.configure(h.model.version + uint64(h.number("version", 0, 3)/2))}
	case k == 18:
		return proposal{c: &command.MoveHorizon{To: uint64(max(0, int(h.index)+2-h.number("behind", 0, 15)))}}
	case k == 19:
		return proposal{c: &command.Purge{}}
	}
	return proposal{c: &command.Unknown{Kind: 77}}
}

func (h *history) activate() command.Command {
	c := &command.Activate{Participant: h.pick("participant", participants)}
	if p := h.model.parts[c.Participant]; p != nil {
		c.Expect = p.epoch
	}
	if h.rarely("late", 4) {
		c.Expect++
	}
	if !h.rarely("deactivate", 5) {
		c.Node, c.Instance = "n1", "i1"
	}
	return c
}

func (h *history) configure(version uint64) command.Command {
	c := &command.Configure{Version: version, Participants: slices.Clone(participants), Prune: h.rarely("prune", 3)}
	if h.rarely("fewer", 3) {
		c.Participants = c.Participants[:h.number("left", 1, 2)]
	}
	if version <= 1 {
		c.Incarnation = 7
	}
	if h.rarely("tight", 3) {
		c.Limits = command.Limits{ValueBytes: 6, TransactionKeys: 5, ScanKeys: 3}
	}
	return c
}

func (h *history) decide() proposal {
	d := &command.Decide{Attempt: command.Attempt{ID: h.pick("id", ids), Begun: h.begun()}}
	if h.rarely("digest", 4) {
		d.RequestDigest = []byte("d")
	}
	p := proposal{c: d}
	for range h.number("fences", 0, 3) / 2 {
		f := command.Fence{Participant: h.pick("participant", participants)}
		if m := h.model.parts[f.Participant]; m != nil {
			f.Epoch = m.epoch
		}
		if h.rarely("old", 4) && f.Epoch > 0 {
			f.Epoch--
		}
		d.Fences = append(d.Fences, f)
	}
	for range h.number("reads", 0, 3) / 2 {
		r := command.Read{Participant: h.pick("participant", participants), Key: h.pick("key", keys)}
		if m := h.model.parts[r.Participant]; m != nil {
			r.Version = m.data[r.Key].version
		}
		if h.rarely("stale", 5) {
			r.Version++
		}
		d.Reads = append(d.Reads, r)
	}
	if h.rarely("scan", 4) {
		h.scan(d, &p)
	}
	for range h.number("ops", 0, 4) {
		d.Ops = append(d.Ops, h.op())
	}
	return p
}

// scan reads a range now, through the machine and the model.
func (h *history) scan(d *command.Decide, p *proposal) {
	part := h.pick("participant", participants)
	if h.model.parts[part] == nil {
		return
	}
	start, end := h.pick("start", append(keys, "")), h.pick("end", append(keys, ""))
	cfg, err := machine.ReadConfig(h.store.Latest())
	h.must(err)
	read, _, err := machine.ScanValues(h.store.Latest(), cfg, part, start, end, h.number("limit", 0, 3), nil)
	h.must(err)
	d.Scans = append(d.Scans, read)
	p.scans = append(p.scans, h.model.scan(part, read.Start, read.End))
}

func (h *history) op() command.Op {
	o := command.Op{Participant: h.pick("participant", participants), Key: h.pick("key", keys)}
	switch h.number("op", 1, 8) {
	case 1, 2:
		o.Kind = command.OpPut
		o.Value = []byte(h.pick("value", []string{"", "5", "-3", "text", "07", "longer value", "9223372036854775800"}))
		if len(o.Value) == 0 {
			o.Value = nil
		}
	case 3:
		o.Kind = command.OpDelete
	case 4, 5, 6, 7:
		o.Kind = command.OpAdd
		o.Delta = int64(h.number("delta", -9, 9))
		if h.rarely("bounded", 2) {
			v := int64(h.number("bound", -5, 5))
			if h.rarely("above", 2) {
				o.AtMost = &v
			} else {
				o.AtLeast = &v
			}
		}
	default:
		o.Kind, o.Key, o.Value = command.OpLog, "", []byte("c")
		if m := h.model.parts[o.Participant]; m != nil && h.rarely("applied", 2) {
			o.AppliedEpoch = m.epoch
		}
	}
	return o
}

func (h *history) must(err error) {
	if err != nil {
		h.t.Fatal(err)
	}
}

// run applies one entry to all and compares.
func (h *history) run(epoch uint64, batch []proposal) {
	t := h.t
	h.index += uint64(h.number("skip", 1, 3)) // Raft has entries of its own
	h.now += int64(h.number("clock", -3, 10))
	b := &command.Batch{Epoch: epoch, TimeUnixNano: h.now}
	want := make([]command.Result, 0, len(batch))
	counted := machine.EntryOverhead()
	before := len(h.model.log)
	for _, p := range batch {
		b.Commands = append(b.Commands, p.c)
		counted = counted.Add(machine.CommandSize(p.c))
		want = append(want, h.model.apply(h.index, epoch, h.now, p.c, p.scans))
	}
	h.past = append(h.past, batch...)
	data := command.AppendBatch(nil, b)

	u := h.store.Begin()
	results, entries, err := h.machine.Apply(u, h.index, data)
	h.must(err)
	h.checkWrites(u, batch, counted)
	u.Commit(h.index)
	h.other.apply(h.index, data, results, entries)
	for i := range want {
		got := results[i]
		got.Detail, got.Remaining = "", false
		if got.Status == command.StatusRefused {
			// Who refuses is a matter of the reason alone.
			got = command.Result{Status: got.Status, Reason: got.Reason}
			want[i] = command.Result{Status: want[i].Status, Reason: want[i].Reason}
		}
		if got != want[i] {
			t.Fatalf("entry %d, command %d %+v: got %+v, want %+v", h.index, i, batch[i].c, results[i], want[i])
		}
	}
	if g, w := fmt.Sprintf("%+v", entries), fmt.Sprintf("%+v", append([]command.Entry{}, h.model.log[before:]...)); len(entries) != len(h.model.log)-before || len(entries) > 0 && g != w {
		t.Fatalf("entry %d: log %s, want %s", h.index, g, w)
	}
	h.checkInvariants(b, results, entries)
	h.checkState()
	if h.other.update == nil {
		h.sameDigest()
	}
}

// sameDigest is invariant 6.
func (h *history) sameDigest() {
	a, n, err := machine.Digest(h.store.Latest())
	h.must(err)
	b, m, err := machine.Digest(h.other.store.Latest())
	h.must(err)
	if a != b || n != m {
		h.t.Fatalf("entry %d: replicas differ: %x of %d keys, %x of %d", h.index, a, n, b, m)
	}
}

// checkWrites: an entry writes no more than its commands count for.
func (h *history) checkWrites(u *memstate.Update, batch []proposal, counted machine.Size) {
	for _, p := range batch {
		switch p.c.(type) {
		case *command.MoveHorizon, *command.Purge:
			return // they count for what they find
		}
	}
	keys, size := u.Writes()
	if written := (machine.Size{Bytes: uint64(size + 32*keys), Keys: uint64(keys)}); !written.Within(counted) {
		h.t.Fatalf("entry %d wrote %+v, counted were %+v", h.index, written, counted)
	}
}

// checkInvariants looks at answers alone, without the model's help.
func (h *history) checkInvariants(b *command.Batch, results []command.Result, entries []command.Entry) {
	t := h.t
	for _, e := range entries {
		h.positions++
		if e.Position != h.positions { // invariant 2
			t.Fatalf("position %d follows %d", e.Position, h.positions-1)
		}
		for _, c := range h.committed { // invariant 1, within the horizon
			// A horizon moved by the same entry only makes this weaker.
			if c.id == e.ID && c.index >= h.model.horizon {
				t.Fatalf("%s committed at %d and again at %d", e.ID, c.position, e.Position)
			}
		}
		for _, f := range h.abortedFacts {
			if f.id == e.ID && f.from <= e.Begun && e.Begun <= f.through {
				t.Fatalf("%s@%d commits and was aborted", e.ID, e.Begun)
			}
		}
		h.committed = append(h.committed, committedFact{e.ID, e.Begun, e.Index, e.Position})
	}
	for i, r := range results {
		var at command.Attempt
		switch c := b.Commands[i].(type) {
		case *command.Decide:
			at = c.Attempt
		case *command.Settle:
			at = command.Attempt{ID: c.ID, Begun: c.Begun}
		default:
			continue
		}
		switch r.Status {
		case command.StatusAborted, command.StatusDone:
			h.checkAborted(at)
		case command.StatusCommitted:
			if !slices.Contains(h.committed, committedFact{at.ID, r.Receipt.Begun, h.indexOf(r.Receipt.Position), r.Receipt.Position}) {
				t.Fatalf("a receipt %+v of nothing", r.Receipt)
			}
		}
	}
}

func (h *history) indexOf(position uint64) uint64 { return h.model.log[position-1].Index }

// checkAborted: what is called aborted never committed, also when forgotten
// since (invariants 1 and 11).
func (h *history) checkAborted(at command.Attempt) {
	for _, c := range h.committed {
		if c.id == at.ID && c.begun == at.Begun {
			h.t.Fatalf("%s@%d is called aborted and committed at %d", at.ID, at.Begun, c.position)
		}
	}
	h.abortedFacts = append(h.abortedFacts, abortedFact{at.ID, at.Begun, at.Begun})
}

// checkState compares the stored state with the model's.
func (h *history) checkState() {
	t, v := h.t, h.store.Latest()
	meta, err := machine.ReadMeta(v)
	h.must(err)
	m := h.model
	want := machine.Meta{
		Incarnation: m.incarnation, Position: uint64(len(m.log)), LogHash: chain(m.log), CoordinatorEpoch: m.epoch,
		CoordinatorNode: meta.CoordinatorNode, FirstIndexOfEpoch: meta.FirstIndexOfEpoch, LastDecided: meta.LastDecided,
		Horizon: m.horizon, Outcomes: uint64(len(m.outcomes)), TimeUnixNano: m.time, ConfigVersion: m.version, Refusals: m.refusals,
	}
	if meta != want {
		t.Fatalf("entry %d: meta %+v, want %+v", h.index, meta, want)
	}
	cfg, err := machine.ReadConfig(v)
	h.must(err)
	live := 0
	for name, p := range m.parts {
		got := map[string]modelValue{}
		_, _, err := machine.ScanValues(v, cfg, name, "", "", 0, func(k string, value []byte, version uint64) (bool, error) {
			got[k] = modelValue{string(value), version}
			return true, nil
		})
		h.must(err)
		if !maps.Equal(got, p.data) {
			t.Fatalf("entry %d: %s has %v, want %v", h.index, name, got, p.data)
		}
		live += len(p.data)
		a, _, err := machine.ReadActivation(v, name)
		h.must(err)
		if a.Epoch != p.epoch || a.Instance != p.instance {
			t.Fatalf("entry %d: activation %+v, want %+v", h.index, a, p)
		}
	}
	all := 0
	h.must(v.Scan([]byte{7}, []byte{8}, func(_, _ []byte) (bool, error) { all++; return true, nil }))
	if all != live+m.garbage {
		t.Fatalf("entry %d: %d data keys, want %d live and %d to purge", h.index, all, live, m.garbage)
	}
	h.checkOutcomes(v)
}

func (h *history) checkOutcomes(v machine.Reader) {
	recent, err := machine.RecentOutcomes(v, 100)
	h.must(err)
	if len(recent) != len(h.model.outcomes) {
		h.t.Fatalf("entry %d: %d outcomes, want %d", h.index, len(recent), len(h.model.outcomes))
	}
	for i, o := range recent {
		if i > 0 && o.Index > recent[i-1].Index {
			h.t.Fatalf("outcomes are not newest first")
		}
		w := h.model.outcomes[o.ID]
		got := modelOutcome{o.Committed, o.Receipt, string(o.RequestDigest), o.AbortedThrough, o.Reason, o.Participant, o.Key, o.Index}
		if got != w {
			h.t.Fatalf("entry %d: outcome of %s %+v, want %+v", h.index, o.ID, got, w)
		}
	}
}

// grouped is a replica that commits several entries as one update and restarts
// now and then: its answers and states must be the same.
type grouped struct {
	t       *rapid.T
	store   *memstate.Store
	machine *machine.Machine
	update  *memstate.Update
	last    uint64
}

func (g *grouped) apply(index uint64, data []byte, results []command.Result, entries []command.Entry) {
	if g.update == nil {
		g.update = g.store.Begin()
		if rapid.Bool().Draw(g.t, "restart") {
			g.machine = machine.New()
		}
	}
	// A decoder that aliases what it was given too long would show here.
	own := bytes.Clone(data)
	r, e, err := g.machine.Apply(g.update, index, own)
	if err != nil {
		g.t.Fatal(err)
	}
	if !slices.Equal(r, results) || fmt.Sprintf("%+v", e) != fmt.Sprintf("%+v", entries) {
		g.t.Fatalf("entry %d: replicas answer %+v and %+v", index, results, r)
	}
	clear(own)
	g.last = index
	if rapid.Bool().Draw(g.t, "commit") {
		g.flush()
	}
}

func (g *grouped) flush() {
	if g.update == nil {
		return
	}
	g.update.Commit(g.last)
	g.update = nil
}
