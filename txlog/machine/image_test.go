package machine_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/machine"
	"github.com/cohort-tx/cohort/txlog/machine/memstate"
)

const imageBase = 1 << 44

// life is a random history at feature level 2 with a checkpoint in it.
type life struct {
	t       testing.TB
	store   *memstate.Store
	machine *machine.Machine
	entries []command.Entry
	cut     machine.Checkpoint
	// last is the index that ends at a position, of those that are the last of
	// their entry.
	last map[uint64]uint64
}

func newLife(t testing.TB, r *rand.Rand, steps int) *life {
	l := &life{t: t, store: memstate.New(), machine: machine.New(), last: map[uint64]uint64{}}
	l.apply(&command.RaiseEpoch{Node: "n1"}, &command.FeatureLevel{Level: 2},
		&command.Configure{Version: 1, Incarnation: 1, Participants: []string{"a", "b"}})
	cutAt := r.IntN(steps)
	version := uint64(1)
	for i := range steps {
		if i == cutAt {
			l.apply(&command.Checkpoint{
				CheckpointRequest: command.CheckpointRequest{Token: "t", Trigger: command.TriggerOperator}, Members: []string{"n1"},
			})
			cut, ok := l.machine.Cut()
			if !ok {
				t.Fatal("no cut")
			}
			l.cut = cut
		}
		var batch []command.Command
		if r.IntN(8) == 0 { // b goes with its data, or comes back
			version++
			c := &command.Configure{Version: version, Participants: []string{"b", "a"}, Prune: true}
			if r.IntN(2) == 0 {
				c.Participants = c.Participants[1:]
			}
			batch = append(batch, c)
		}
		for range 1 + r.IntN(3) {
			d := &command.Decide{Attempt: command.Attempt{ID: fmt.Sprint("o", i, "-", len(batch)), Begun: l.store.Index()}}
			if r.IntN(2) == 0 {
				d.RequestDigest = []byte("d")
			}
			for range r.IntN(4) {
				d.Ops = append(d.Ops, command.Op{
					Kind: command.OpKind(1 + r.IntN(3)), Participant: string("ab"[r.IntN(2)]), Key: fmt.Sprint("k", r.IntN(4)),
					Value: []byte(fmt.Sprint(r.IntN(9))), Delta: 1,
				})
			}
			batch = append(batch, d)
		}
		l.apply(batch...)
	}
	return l
}

func (l *life) apply(commands ...command.Command) {
	l.t.Helper()
	index := l.store.Index() + 1
	_, entries, err := l.store.Apply(l.machine, index, encode(commands...))
	if err != nil {
		l.t.Fatal(err)
	}
	l.entries = append(l.entries, entries...)
	l.last[uint64(len(l.entries))] = index
}

// image restores to a position; from the checkpoint, or from nothing.
func (l *life) image(loaded bool, position uint64) (*memstate.Store, machine.ImageResult) {
	l.t.Helper()
	s := memstate.New()
	u := s.Begin()
	im := machine.NewImage(u, machine.ImageSpec{
		Incarnation: 2, IndexBase: imageBase, Participants: []string{"b", "a"}, SourceGroup: "g", SourceIncarnation: 1, Token: "r",
	})
	must := func(err error) {
		l.t.Helper()
		if err != nil {
			l.t.Fatal(err)
		}
	}
	if loaded {
		at, err := l.store.At(l.cut.Index)
		must(err)
		cfg, err := machine.ReadConfig(at)
		must(err)
		for _, name := range machine.SectionNames(cfg, nil) {
			must(machine.ScanSection(at, cfg, name, func(k, v []byte) (bool, error) { return true, im.Load(name, k, v) }))
		}
		if im.Loaded() != l.cut.Position || im.LogHash() != l.cut.LogHash {
			l.t.Fatalf("loaded to %d, the cut is at %d", im.Loaded(), l.cut.Position)
		}
	}
	for _, e := range l.entries[im.Loaded():position] {
		must(im.Replay(e, len(command.AppendEntry(nil, &e))))
	}
	result, err := im.Finish()
	must(err)
	u.Commit(imageBase)
	return s, result
}

// check: a checkpoint and the log after it lead where the whole log leads, and
// where the source stood.
func (l *life) check(position uint64) {
	l.t.Helper()
	cut, err := l.store.At(l.cut.Index)
	if err != nil {
		l.t.Fatal(err)
	}
	atCut, err := machine.ReadSchedule(cut)
	if err != nil {
		l.t.Fatal(err)
	}
	if position == l.cut.Position && len(atCut.Dropped) > 0 {
		return // until the next entry the log does not tell what was dropped
	}
	s, got := l.image(true, position)
	_, want := l.image(false, position)
	if got.Digest != want.Digest || fmt.Sprint(got.Sections) != fmt.Sprint(want.Sections) || got.Meta.LogHash != want.Meta.LogHash {
		l.t.Fatalf("position %d from checkpoint at %d: %v, from nothing: %v", position, l.cut.Position, got, want)
	}
	if got.Meta.LogHash != chain(l.entries[:position]) || got.Meta.Outcomes != want.Meta.Outcomes {
		l.t.Fatalf("position %d: meta %+v, want %+v", position, got.Meta, want.Meta)
	}
	index, ok := l.last[position]
	if !ok {
		return
	}
	at, err := l.store.At(index)
	if err != nil {
		l.t.Fatal(err)
	}
	cfg, err := machine.ReadConfig(at)
	if err != nil {
		l.t.Fatal(err)
	}
	schedule, err := machine.ReadSchedule(at)
	if err != nil {
		l.t.Fatal(err)
	}
	live, sections, err := machine.ImageDigest(at, cfg)
	if err != nil {
		l.t.Fatal(err)
	}
	// What was dropped since the last transaction is in the image still.
	if len(schedule.Dropped) == 0 && live != got.Digest {
		l.t.Fatalf("position %d: image %v, live %v", position, got.Sections, sections)
	}
	l.begin(s, got)
}

// begin: the restored group goes on, and a replica made from something else
// halts.
func (l *life) begin(s *memstate.Store, made machine.ImageResult) {
	l.t.Helper()
	m := machine.New()
	batch := func(c ...command.Command) []byte {
		return command.AppendBatch(nil, &command.Batch{Epoch: 1<<20 + 1, Commands: c})
	}
	wrong := made.Digest
	wrong[0]++
	if _, _, err := s.Apply(m, imageBase+1, batch(&command.RaiseEpoch{Node: "n1"}, &command.Begin{Incarnation: 2, Digest: wrong})); !errors.Is(err, machine.ErrOriginMismatch) {
		l.t.Fatalf("another digest: %v", err)
	}
	begin := &command.Begin{Incarnation: 2, Digest: made.Digest, Carried: [][]byte{
		machine.AppendCheckpoint(nil, &machine.Checkpoint{Number: 7, State: machine.CheckpointComplete}),
	}}
	results, entries, err := s.Apply(m, imageBase+1, batch(&command.RaiseEpoch{Node: "n1"}, begin, begin,
		&command.Decide{Attempt: command.Attempt{ID: "new", Begun: imageBase}},
		&command.Activate{Participant: "a", Node: "n1", Instance: "i", Expect: 1 << 20}))
	if err != nil {
		l.t.Fatal(err)
	}
	for i, want := range []command.Status{command.StatusDone, command.StatusDone, command.StatusDone, command.StatusRefused, command.StatusDone} {
		if results[i].Status != want { // begun before the horizon: expired
			l.t.Fatalf("command %d: %+v", i, results[i])
		}
	}
	if len(entries) != 0 {
		l.t.Fatal("an attempt of the earlier life committed")
	}
	results, entries, err = s.Apply(m, imageBase+2, batch(
		&command.Decide{Attempt: command.Attempt{ID: "new", Begun: imageBase + 1}},
		&command.MoveHorizon{To: imageBase}))
	if err != nil || results[0].Status != command.StatusCommitted || entries[0].Position != made.Meta.Position+1 {
		l.t.Fatalf("the restored group does not go on: %v %+v", err, results)
	}
	v := s.Latest()
	meta, _ := machine.ReadMeta(v)
	if want := uint64(1); !results[1].Remaining && meta.Outcomes != want || meta.Horizon != imageBase+1 {
		l.t.Fatalf("the outcomes of the earlier life are not forgotten: %+v", meta)
	}
	if sched, _ := machine.ReadSchedule(v); sched.NextNumber != 8 {
		l.t.Fatalf("the next number is %d, 7 was carried", sched.NextNumber)
	}
}

// TestImagePositions: fifty positions of one long history.
func TestImagePositions(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	l := newLife(t, r, 60)
	for range 50 {
		l.check(l.cut.Position + r.Uint64N(uint64(len(l.entries))-l.cut.Position+1))
	}
}

// TestImageHistories: any position of any history.
func TestImageHistories(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 0))
		l := newLife(t, r, rapid.IntRange(1, 25).Draw(rt, "steps"))
		l.check(l.cut.Position + r.Uint64N(uint64(len(l.entries))-l.cut.Position+1))
	})
}

// TestImageRefusals: a gap in the log, and data that the new definition loses.
func TestImageRefusals(t *testing.T) {
	u := memstate.New().Begin()
	im := machine.NewImage(u, machine.ImageSpec{Incarnation: 2, IndexBase: imageBase, Participants: []string{"a"}, SourceIncarnation: 1})
	e := command.Entry{Position: 1, ID: "o", Index: 1, Changes: []command.Change{{Kind: command.OpPut, Participant: "b", Key: "k"}}}
	gap := e
	gap.Position = 2
	if err := im.Replay(gap, len(command.AppendEntry(nil, &gap))); err == nil {
		t.Error("a gap was replayed")
	}
	if err := im.Replay(e, len(command.AppendEntry(nil, &e))); err != nil {
		t.Fatal(err)
	}
	if _, err := im.Finish(); err == nil || !strings.Contains(err.Error(), "participant b") {
		t.Errorf("data of b is lost: %v", err)
	}
}

// TestImageOwnStates: a restored group brings states of its participants' own back
// from the checkpoint's captures and follows the log from there; what was not
// captured, from where the participant began.
func TestImageOwnStates(t *testing.T) {
	l := &life{t: t, store: memstate.New(), machine: machine.New(), last: map[uint64]uint64{}}
	change := func(id string, participants ...string) {
		d := &command.Decide{Attempt: command.Attempt{ID: id, Begun: l.store.Index()}}
		for _, p := range participants {
			d.Ops = append(d.Ops, command.Op{Kind: command.OpLog, Participant: p, Value: []byte(id)})
		}
		l.apply(d)
	}
	l.apply(&command.RaiseEpoch{Node: "n1"}, &command.FeatureLevel{Level: 3},
		&command.Configure{Version: 1, Incarnation: 1, Participants: []string{"a", "b", "c", "d"}},
		&command.Activate{Participant: "a", Node: "n1", Instance: "i", OwnState: true})
	change("o1", "a")
	l.apply(&command.Activate{Participant: "b", Node: "n1", Instance: "i", OwnState: true},
		&command.Activate{Participant: "c", Node: "n1", Instance: "i", OwnState: true})
	change("o2", "a", "b", "c")
	l.apply(&command.Checkpoint{
		CheckpointRequest: command.CheckpointRequest{Token: "t", Trigger: command.TriggerOperator}, Members: []string{"n1"}, Captures: []string{"a"},
	})
	l.apply(&command.ReportCapture{Number: 1, Participant: "a", Epoch: 1, Position: 2, Node: "n1", Section: command.Section{Name: "state/a", Bytes: 9}, SHA256: [32]byte{1}})
	record, _, err := machine.ReadCheckpoint(l.store.Latest(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if l.cut, _, _ = machine.ReadCheckpoint(l.store.Latest(), 1); l.cut.LogFrom != 2 {
		t.Fatalf("b and c need the log from their base on: %+v", l.cut)
	}
	l.apply(&command.Activate{Participant: "d", Node: "n1", Instance: "i", OwnState: true})
	change("o3", "a", "d")
	// c goes with its state; what comes back under the name begins anew.
	l.apply(&command.Configure{Version: 2, Participants: []string{"a", "b", "d"}, Prune: true}, &command.Configure{Version: 3, Participants: []string{"a", "b", "c", "d"}})
	change("o4", "c")
	image := func(from *machine.Checkpoint, position uint64) (string, error) {
		u := memstate.New().Begin()
		spec := machine.ImageSpec{Incarnation: 2, IndexBase: imageBase, Participants: []string{"d", "c", "b", "a"}, SourceIncarnation: 1}
		if from != nil {
			spec.Captures = from.Captures
		}
		im := machine.NewImage(u, spec)
		if from != nil {
			at, err := l.store.At(from.Index)
			if err != nil {
				t.Fatal(err)
			}
			cfg, err := machine.ReadConfig(at)
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range machine.SectionNames(cfg, nil) {
				before := ""
				err := machine.ScanSection(at, cfg, name, func(k, v []byte) (bool, error) {
					if string(k) <= before {
						t.Fatalf("section %s: %q comes after %q", name, k, before)
					}
					before = string(k)
					return true, im.Load(name, k, v)
				})
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		for _, e := range l.entries[im.Loaded():position] {
			if err := im.Replay(e, len(command.AppendEntry(nil, &e))); err != nil {
				t.Fatal(err)
			}
		}
		result, err := im.Finish()
		if err != nil {
			return "", err
		}
		if result.Meta.FeatureLevel != 3 {
			t.Errorf("the image is of level %d", result.Meta.FeatureLevel)
		}
		own, err := machine.ReadOwnStates(u)
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		for _, o := range own {
			fmt.Fprintf(&b, "%s base=%d", o.Participant, o.Base)
			if c := &o.Last; c.State != 0 {
				fmt.Fprintf(&b, " %v of %d at %d %s sha=%d node=%q", c.State, c.Checkpoint, c.Position, c.Section.Name, c.SHA256[0], c.Node)
			}
			b.WriteString("\n")
		}
		return b.String(), nil
	}
	const a = "a base=0 captured of 0 at 2 state/a sha=1 node=\"\"\n"
	for _, c := range []struct {
		from     *machine.Checkpoint
		position uint64
		want     string
	}{
		{&record, 2, a + "b base=1\nc base=1\n"},
		{&record, 3, a + "b base=1\nc base=1\nd base=2\n"},
		{&record, 4, a + "b base=1\nc base=3\nd base=2\n"},
		{nil, 4, "a base=0\nb base=1\nc base=3\nd base=2\n"},
	} {
		if got, err := image(c.from, c.position); err != nil || got != c.want {
			t.Errorf("at %d: %v\n got %s\nwant %s", c.position, err, got, c.want)
		}
	}
	late := record
	late.Captures = []machine.Capture{record.Captures[0]}
	late.Captures[0].Position = 9
	if _, err := image(&late, 4); err == nil || !strings.Contains(err.Error(), "participant a is of position 9") {
		t.Errorf("state from after the image: %v", err)
	}
}
