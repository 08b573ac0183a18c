package groups

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"pgregory.net/rapid"

	"github.com/cohort-tx/cohort/txlog/command"
)

// TestDefaultsAreValid: what a group gets when its file says nothing is allowed.
func TestDefaultsAreValid(t *testing.T) {
	d := Default("checkout", "orders")
	if err := d.Validate(); err != nil {
		t.Fatal(err)
	}
	empty := Definition{Group: "checkout", Participants: []Participant{{Name: "orders"}}}
	empty.EnsureDefaults()
	if changes := Diff(&d, &empty); changes != nil {
		t.Errorf("EnsureDefaults of an empty definition is not Default: %+v", changes)
	}
}

// TestEnsureDefaultsKeepsWhatIsOff: a trigger left out of a section that says
// something stays off, as its zero says.
func TestEnsureDefaultsKeepsWhatIsOff(t *testing.T) {
	d := Definition{
		Group:        "g",
		Replicas:     []string{"n1"},
		Participants: []Participant{{Name: "p", Health: &Health{TCP: "h:1"}}},
		Checkpoint:   Checkpoint{LogBytes: 1 << 20},
		Failover:     Failover{FailAfter: time.Second},
		Failback:     Failback{Mode: ModeManual},
	}
	d.EnsureDefaults()
	if err := d.Validate(); err != nil {
		t.Fatal(err)
	}
	if d.Checkpoint.Interval != 0 || d.Checkpoint.LogEntries != 0 || d.Checkpoint.MinGap != 0 {
		t.Errorf("triggers were switched on: %+v", d.Checkpoint)
	}
	if d.Checkpoint.MinCopies != 1 {
		t.Errorf("min_copies %d on one replica", d.Checkpoint.MinCopies)
	}
	if d.Participants[0].Health.FailAfter != 3 || d.Participants[0].Health.Every != time.Second {
		t.Errorf("probe without timing: %+v", d.Participants[0].Health)
	}
}

// TestMachineConfig: the replicated machine gets names in order and its limits.
func TestMachineConfig(t *testing.T) {
	d := Default("g", "b", "a")
	names, limits := d.MachineConfig()
	if !reflect.DeepEqual(names, []string{"b", "a"}) {
		t.Errorf("participants %v", names)
	}
	want := command.Limits{ValueBytes: 1 << 20, TransactionBytes: 4 << 20, TransactionKeys: 20_000, ScanKeys: 10_000}
	if limits != want {
		t.Errorf("limits %+v, want %+v", limits, want)
	}
}

// TestDecodeRefuses: JSON that this version would misunderstand is an error.
func TestDecodeRefuses(t *testing.T) {
	for data, want := range map[string]string{
		`{"group":"g","shards":2}`:                       `unknown key "shards"`,
		`{"checkpoint":{"interval":"2h"}}`:               "checkpoint.interval",
		`{"checkpoint":{"interval":1e99}}`:               "checkpoint.interval",
		`{"checkpoint":{"interval":0.0000000001}}`:       "nanoseconds",
		`{"checkpoint":{"at":["25:00"]}}`:                "time of day",
		`{"participants":[{"name":1}]}`:                  "participants[0].name",
		`{"replicas":"some"}`:                            "replicas",
		`[]`:                                             "definition JSON",
		`{"group":"` + strings.Repeat("g", 200000) + `"`: "bytes",
	} {
		if _, err := Decode([]byte(data)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: got %v, want %q", data, err, want)
		}
	}
}

// TestDecodeCompletes: a definition stored by a version that knew fewer keys has
// today's defaults for the others.
func TestDecodeCompletes(t *testing.T) {
	got, err := Decode([]byte(`{"group":"g","participants":[{"name":"p","health":{"tcp":"h:1"}}],"checkpoint":{"interval":0.5}}`))
	if err != nil {
		t.Fatal(err)
	}
	want := Default("g", "p")
	want.Checkpoint.Interval = 500 * time.Millisecond
	want.Participants[0].Health = &Health{TCP: "h:1", Every: time.Second, FailAfter: 3}
	if changes := Diff(&want, &got); changes != nil {
		t.Errorf("%+v", changes)
	}
}

func someNames(t *rapid.T, label string, max int) []string {
	return rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z][a-z0-9-]{0,5}`), 0, max, rapid.ID).Draw(t, label)
}

// anyDefinition draws definitions of every shape, valid or not, lists nil when
// empty as Parse and Decode leave them.
func anyDefinition(t *rapid.T) Definition {
	duration := rapid.Custom(func(t *rapid.T) time.Duration { return time.Duration(rapid.Int64Min(0).Draw(t, "ns")) })
	bytesOf := rapid.Uint64Max(1 << 53)
	text := rapid.OneOf(rapid.StringN(0, 12, -1), rapid.SampledFrom([]string{"all", "none", "", `"all"`, "[a]", "a, b"}))
	d := Definition{
		Group:    rapid.StringMatching(`[a-z]{1,4}`).Draw(t, "group"),
		Replicas: someNames(t, "replicas", 3),
		Checkpoint: Checkpoint{
			Interval: duration.Draw(t, "interval"), LogBytes: bytesOf.Draw(t, "log_bytes"), LogEntries: rapid.Uint64().Draw(t, "log_entries"),
			MinGap: duration.Draw(t, "min_gap"), WaitFor: rapid.SampledFrom([]WaitFor{WaitForPrepared, WaitForStarted}).Draw(t, "wait_for"),
			MaxWait: duration.Draw(t, "max_wait"), MaxPause: duration.Draw(t, "max_pause"), MinCopies: rapid.Uint64().Draw(t, "min_copies"),
		},
		Outcomes:  Outcomes{Age: duration.Draw(t, "age"), Count: rapid.Uint64().Draw(t, "count")},
		Retention: Retention{Checkpoints: rapid.Uint64().Draw(t, "kept"), Log: LogDelete, ArchiveDir: text.Draw(t, "archive_dir"), MaxDisk: bytesOf.Draw(t, "max_disk"), Erase: rapid.Bool().Draw(t, "erase")},
		Failover:  Failover{Mode: ModeAuto, Choose: []Choice{ChooseOrder}, FailAfter: duration.Draw(t, "fail_after"), Grace: duration.Draw(t, "grace")},
		Failback:  Failback{Mode: ModeManual, StableFor: duration.Draw(t, "stable_for")},
		Limits:    Limits{InFlight: rapid.Uint64().Draw(t, "in_flight"), ValueBytes: bytesOf.Draw(t, "value_bytes"), Timeout: duration.Draw(t, "timeout")},
	}
	for _, m := range rapid.SliceOfN(rapid.IntRange(0, 24*60-1), 0, 3).Draw(t, "at") {
		d.Checkpoint.At = append(d.Checkpoint.At, TimeOfDay(m))
	}
	for _, name := range someNames(t, "participants", 4) {
		p := Participant{Name: name, Nodes: someNames(t, "nodes", 2), Command: rapid.SliceOfN(text, 0, 2).Draw(t, "command")}
		if rapid.Bool().Draw(t, "probed") {
			p.Health = &Health{HTTP: text.Draw(t, "http"), TCP: text.Draw(t, "tcp"), Exec: rapid.SliceOfN(text, 0, 2).Draw(t, "exec"), Every: duration.Draw(t, "every"), FailAfter: rapid.Uint64().Draw(t, "failures")}
		}
		d.Participants = append(d.Participants, p)
	}
	d.normalise()
	return d
}

// TestJSONRoundTrip: the canonical form loses nothing and is canonical.
func TestJSONRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := anyDefinition(t)
		data, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		var back Definition
		if err := json.Unmarshal(data, &back); err != nil {
			t.Fatalf("%v\n%s", err, data)
		}
		if !reflect.DeepEqual(d, back) {
			t.Fatalf("%+v\n%+v", d, back)
		}
		again, err := json.Marshal(back)
		if err != nil || !bytes.Equal(data, again) {
			t.Fatalf("%v\n%s\n%s", err, data, again)
		}
	})
}

// TestDiffFindsExactlyWhatDiffers: no change is shown if and only if the
// canonical forms are equal, and a copy shares nothing with its original.
func TestDiffFindsExactlyWhatDiffers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := anyDefinition(t)
		if changes := Diff(&a, &a); changes != nil {
			t.Fatalf("differs from itself: %+v", changes)
		}
		b := a.Clone()
		if rapid.Bool().Draw(t, "another") {
			b = anyDefinition(t)
		} else {
			mutate(t, &b)
		}
		dataA, _ := a.MarshalJSON()
		dataB, _ := b.MarshalJSON()
		changes := Diff(&a, &b)
		if (len(changes) == 0) != bytes.Equal(dataA, dataB) {
			t.Fatalf("%d changes between\n%s\n%s", len(changes), dataA, dataB)
		}
		if a.Equal(&b) != (len(changes) == 0) {
			t.Fatal("Equal and Diff disagree")
		}
		seen := map[string]bool{}
		for _, c := range changes {
			if c.Path == "" || c.Before == c.After || seen[c.Path] {
				t.Fatalf("odd change %+v of %+v", c, changes)
			}
			seen[c.Path] = true
		}
	})
}

// mutate changes at most one thing, in place, so that sharing between copies
// would show.
func mutate(t *rapid.T, d *Definition) {
	switch rapid.IntRange(0, 7).Draw(t, "mutation") {
	case 0:
		d.Limits.ValueBytes++
	case 1:
		d.Checkpoint.MaxPause++
	case 2:
		if len(d.Participants) > 1 {
			d.Participants[0], d.Participants[1] = d.Participants[1], d.Participants[0]
		}
	case 3:
		if len(d.Participants) > 0 {
			d.Participants = d.Participants[1:]
		}
	case 4:
		for _, p := range d.Participants {
			if p.Health != nil {
				p.Health.FailAfter++
				return
			}
		}
	case 5:
		for _, p := range d.Participants {
			if len(p.Command) > 0 {
				p.Command[0] += "x"
				return
			}
		}
	case 6:
		if len(d.Replicas) > 0 {
			d.Replicas[0] += "x"
		}
	}
}

// TestDiffText holds what an operator reads before a change is applied. Input is
// two group files, divided by `=== FILE` lines.
func TestDiffText(t *testing.T) {
	datadriven.RunTest(t, "testdata/diff", func(t *testing.T, td *datadriven.TestData) string {
		var definitions []Definition
		for _, f := range splitFiles(td.Input) {
			parsed, faults := Parse(f.Name, f.Data)
			if len(faults) > 0 {
				t.Fatal(faults)
			}
			definitions = append(definitions, parsed...)
		}
		var old *Definition
		if len(definitions) == 2 {
			old = &definitions[0]
		}
		var out strings.Builder
		for _, c := range Diff(old, &definitions[len(definitions)-1]) {
			out.WriteString(c.Path + ": " + c.Before + " -> " + c.After + "\n")
		}
		return out.String()
	})
}

// TestTimeOfDayNext: times of day are UTC, and the next one is after now.
func TestTimeOfDayNext(t *testing.T) {
	east := time.FixedZone("east", 5*3600)
	three := TimeOfDayAt(3, 0)
	for _, c := range []struct{ now, want time.Time }{
		{time.Date(2026, 1, 1, 2, 59, 59, 0, time.UTC), time.Date(2026, 1, 1, 3, 0, 0, 0, time.UTC)},
		{time.Date(2026, 1, 1, 3, 0, 0, 0, time.UTC), time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)},
		{time.Date(2026, 1, 1, 7, 0, 0, 0, east), time.Date(2026, 1, 1, 3, 0, 0, 0, time.UTC)},
		{time.Date(2026, 12, 31, 23, 0, 0, 0, time.UTC), time.Date(2027, 1, 1, 3, 0, 0, 0, time.UTC)},
	} {
		if got := three.Next(c.now); !got.Equal(c.want) {
			t.Errorf("after %v: %v, want %v", c.now, got, c.want)
		}
	}
}
