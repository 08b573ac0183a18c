package command_test

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/cohort-tx/cohort/txlog/command"
)

func ptr(v int64) *int64 { return &v }

// everything holds each command with each of its fields set.
func everything() *command.Batch {
	return &command.Batch{
		Epoch:        7,
		TimeUnixNano: -5,
		Commands: []command.Command{
			&command.RaiseEpoch{Node: "n1"},
			&command.Decide{
				Attempt:       command.Attempt{ID: "order-1", Begun: math.MaxUint64},
				RequestDigest: []byte("digest"),
				Fences:        []command.Fence{{Participant: "a", Epoch: 3}, {Participant: "b", Epoch: 1}},
				Reads:         []command.Read{{Participant: "a", Key: "k\x00", Version: 300}},
				Scans:         []command.ScanRead{{Participant: "a", Start: "a", End: "z", Hash: [16]byte{1, 15: 9}}},
				Ops: []command.Op{
					{Kind: command.OpPut, Participant: "a", Key: "k", Value: []byte("v")},
					{Kind: command.OpPut, Participant: "a", Key: "empty"},
					{Kind: command.OpDelete, Participant: "a", Key: "k"},
					{Kind: command.OpAdd, Participant: "b", Key: "n", Delta: math.MinInt64},
					{Kind: command.OpAdd, Participant: "b", Key: "n", Delta: 1, AtLeast: ptr(0)},
					{Kind: command.OpAdd, Participant: "b", Key: "n", Delta: 1, AtMost: ptr(-1)},
					{Kind: command.OpAdd, Participant: "b", Key: "n", Delta: 1, AtLeast: ptr(1), AtMost: ptr(math.MaxInt64)},
					{Kind: command.OpLog, Participant: "b", Value: []byte("change"), AppliedEpoch: 4},
				},
			},
			&command.Decide{Attempt: command.Attempt{ID: "order-2"}},
			&command.Settle{ID: "order-1", Begun: 9, Reason: command.ReasonTimeout, Detail: "late"},
			&command.Activate{Participant: "a", Node: "n2", Instance: "i", Expect: 5},
			&command.Configure{
				Version: 1, Incarnation: 2, Participants: []string{"a", "b"},
				Limits:     command.Limits{ValueBytes: 1, TransactionBytes: 2, TransactionKeys: 3, ScanKeys: 4},
				Definition: []byte("{}"), Prune: true,
			},
			&command.MoveHorizon{To: 11},
			&command.Purge{},
			&command.Unknown{Kind: 200},
		},
	}
}

// everyCheckpointCommand holds each command of feature level 2 with each field set.
func everyCheckpointCommand() *command.Batch {
	request := command.CheckpointRequest{
		Token: "t1", Trigger: command.TriggerOperator, By: "n1", Participants: []string{"a", "b"}, TimeUnixNano: -9,
	}
	return &command.Batch{
		Epoch: 8,
		Commands: []command.Command{
			&command.FeatureLevel{Level: 2},
			&command.RequestCheckpoint{CheckpointRequest: request},
			&command.Checkpoint{
				CheckpointRequest: request, Serves: []string{"t2", "t3"}, WaitNanos: 300, Members: []string{"n1", "n2"},
				MinCopies: 2, Seal: true, SealToken: "r1",
			},
			&command.AbandonCheckpoint{
				CheckpointRequest: request, Serves: []string{"t2"}, WaitNanos: 4, Detail: "d", Transaction: "o1", Participant: "a",
			},
			&command.NotePause{Number: 5, PauseNanos: math.MaxUint64},
			&command.ReportCopy{
				Number: 5, Node: "n1", State: command.CopyWritten, Rebuilt: true, Digest: [32]byte{1, 31: 2},
				Sections: []command.Section{{Name: "meta", Keys: 1, Bytes: 200, Digest: [32]byte{3, 31: 4}}, {Name: "outcomes"}},
				Bytes:    6, WriteNanos: 7, Detail: "x",
			},
			&command.Retain{Drop: []uint64{1, 300}, LogFrom: 8},
			&command.Unseal{Token: "r1"},
			&command.Begin{Incarnation: 2, Digest: [32]byte{5, 31: 6}, Carried: [][]byte{[]byte("one"), []byte("two")}},
		},
	}
}

// everyOwnStateCommand holds each command that feature level 3 brings or adds to,
// with each field set.
func everyOwnStateCommand() *command.Batch {
	return &command.Batch{
		Epoch: 9,
		Commands: []command.Command{
			&command.FeatureLevel{Level: 3},
			&command.Activate{Participant: "a", Node: "n2", Instance: "i", Expect: 5, OwnState: true},
			&command.Checkpoint{
				CheckpointRequest: command.CheckpointRequest{Token: "t1", Trigger: command.TriggerInterval},
				Members:           []string{"n1"}, MinCopies: 1, Captures: []string{"a", "b"},
			},
			&command.ReportCapture{
				Number: 5, Participant: "a", Epoch: 6, Position: 300, Node: "n1",
				Section: command.Section{Name: "state/a", Keys: 2, Bytes: 65552, Digest: [32]byte{7, 31: 8}},
				Bytes:   65536, SHA256: [32]byte{9, 31: 10},
			},
			&command.ReportCapture{Number: 5, Participant: "b", Epoch: 1, Position: 300, Failure: "it is at 301"},
		},
	}
}

// numberedResults need version 2.
func numberedResults() []command.Result {
	return append(someResults(), command.Result{Status: command.StatusDone, Number: 3})
}

// someEntry2 needs version 2.
func someEntry2() command.Entry {
	e := someEntry()
	e.RequestDigest, e.Dropped = []byte("digest"), []string{"old", "older"}
	return e
}

func someResults() []command.Result {
	return []command.Result{
		{Status: command.StatusCommitted, Receipt: command.Receipt{ID: "o", Incarnation: 1, Position: 2, Begun: 3, TimeUnixNano: -4}},
		{Status: command.StatusAborted, Reason: command.ReasonConflict, Participant: "a", Key: "k", Detail: "d"},
		{Status: command.StatusRefused, Reason: command.ReasonStaleEpoch, Epoch: 9},
		{Status: command.StatusDone, Remaining: true},
	}
}

func someEntry() command.Entry {
	return command.Entry{
		Position: 1, ID: "o", Begun: 2, Index: 3, TimeUnixNano: 4,
		Changes: []command.Change{
			{Kind: command.OpPut, Participant: "a", Key: "k", Value: []byte("v")},
			{Kind: command.OpDelete, Participant: "a", Key: "k"},
			{Kind: command.OpAdd, Participant: "a", Key: "n", Value: []byte("-3"), Delta: -4},
			{Kind: command.OpLog, Participant: "b", Value: []byte("c"), AppliedEpoch: 5},
		},
	}
}

// What is encoded comes back as it was; a field forgotten on either side shows.
func TestRoundTrip(t *testing.T) {
	for _, b := range []*command.Batch{everything(), everyCheckpointCommand(), everyOwnStateCommand()} {
		data := command.AppendBatch([]byte("before"), b)[len("before"):]
		got, err := command.DecodeBatch(data)
		if err != nil || !reflect.DeepEqual(got, b) {
			t.Errorf("batch: %v\n got %+v\nwant %+v", err, got, b)
		}
	}
	for _, results := range [][]command.Result{someResults(), numberedResults()} {
		r, err := command.DecodeResults(command.AppendResults(nil, results))
		if err != nil || !reflect.DeepEqual(r, results) {
			t.Errorf("results: %v\n got %+v\nwant %+v", err, r, results)
		}
	}
	empty := someEntry()
	empty.RequestDigest = []byte{} // not nil: a log that knows digests had none here
	for _, entry := range []command.Entry{someEntry(), someEntry2(), empty} {
		e, err := command.DecodeEntry(command.AppendEntry(nil, &entry))
		if err != nil || !reflect.DeepEqual(e, entry) {
			t.Errorf("entry: %v\n got %+v\nwant %+v", err, e, entry)
		}
	}
}

// Every prefix, every longer run, and other versions are refused.
func TestMalformed(t *testing.T) {
	entry, entry2 := someEntry(), someEntry2()
	batch := func(d []byte) error { _, err := command.DecodeBatch(d); return err }
	results := func(d []byte) error { _, err := command.DecodeResults(d); return err }
	entries := func(d []byte) error { _, err := command.DecodeEntry(d); return err }
	for name, c := range map[string]struct {
		data   []byte
		decode func([]byte) error
	}{
		"batch":               {command.AppendBatch(nil, everything()), batch},
		"checkpoint commands": {command.AppendBatch(nil, everyCheckpointCommand()), batch},
		"own-state commands":  {command.AppendBatch(nil, everyOwnStateCommand()), batch},
		"results":             {command.AppendResults(nil, someResults()), results},
		"numbered results":    {command.AppendResults(nil, numberedResults()), results},
		"entry":               {command.AppendEntry(nil, &entry), entries},
		"entry of version 2":  {command.AppendEntry(nil, &entry2), entries},
	} {
		check := func(what string, data []byte) {
			if err := c.decode(data); !errors.Is(err, command.ErrMalformed) {
				t.Errorf("%s, %s: %v", name, what, err)
			}
		}
		for n := range c.data {
			check(fmt.Sprintf("%d of its bytes", n), c.data[:n])
		}
		check("with a byte more", append(bytes.Clone(c.data), 0))
		newer := bytes.Clone(c.data)
		newer[1] = 3
		check("of a newer version", newer)
		other := bytes.Clone(c.data)
		other[0] = 'x'
		check("of another sort", other)
		check("a count without content", append([]byte{c.data[0], 1}, bytes.Repeat([]byte{0xff}, 9)...))
	}
	many := &command.Batch{}
	for range command.MaxBatchCommands + 1 {
		many.Commands = append(many.Commands, &command.Purge{})
	}
	if _, err := command.DecodeBatch(command.AppendBatch(nil, many)); !errors.Is(err, command.ErrMalformed) {
		t.Errorf("too many commands: %v", err)
	}
	longVarint := []byte{'b', 1, 0x80, 0x00, 0, 0}
	if _, err := command.DecodeBatch(longVarint); !errors.Is(err, command.ErrMalformed) {
		t.Errorf("a number longer than needed: %v", err)
	}
}

// What a later feature level adds to a command is there only when it is set: one
// encoding of each command, and older ones as they were.
func TestAddedFields(t *testing.T) {
	for name, c := range map[string]struct {
		with, without command.Command
		empty         []byte
	}{
		"activate": {
			&command.Activate{Participant: "a", Node: "n", Instance: "i", OwnState: true},
			&command.Activate{Participant: "a", Node: "n", Instance: "i"},
			[]byte{0},
		},
		"checkpoint": {
			&command.Checkpoint{Members: []string{"n1"}, Captures: []string{"a"}},
			&command.Checkpoint{Members: []string{"n1"}},
			[]byte{0},
		},
	} {
		with := command.AppendBatch(nil, &command.Batch{Commands: []command.Command{c.with}})
		without := command.AppendBatch(nil, &command.Batch{Commands: []command.Command{c.without}})
		const length, content = 6, 10 // where the command's length and content begin
		if !bytes.HasPrefix(with[content:], without[content:]) || len(with) == len(without) {
			t.Errorf("%s: what is added does not come at the end:\n%x\n%x", name, with, without)
		}
		// The same with an empty addition is no encoding of anything.
		longer := append(bytes.Clone(without), c.empty...)
		longer[length] += byte(len(c.empty))
		if _, err := command.DecodeBatch(longer); !errors.Is(err, command.ErrMalformed) {
			t.Errorf("%s with an empty addition: %v", name, err)
		}
	}
}

// A decoder's second batch owes nothing to its first, also when they are large.
func TestDecoderReuse(t *testing.T) {
	large := &command.Batch{}
	for i := range 300 {
		d := &command.Decide{Attempt: command.Attempt{ID: fmt.Sprint("o", i)}}
		for j := range 70 {
			d.Ops = append(d.Ops, command.Op{Kind: command.OpAdd, Participant: "a", Key: fmt.Sprint(j), Delta: 1, AtLeast: ptr(int64(j))})
		}
		large.Commands = append(large.Commands, d)
	}
	var d command.Decoder
	for _, b := range []*command.Batch{everything(), large, everything(), {Epoch: 1}, large} {
		got, err := d.Batch(command.AppendBatch(nil, b))
		if err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(len(got.Commands)) != fmt.Sprint(len(b.Commands)) || len(b.Commands) > 0 && !reflect.DeepEqual(got, b) {
			t.Fatalf("got %+v, want %+v", got, b)
		}
	}
}

func TestChecks(t *testing.T) {
	for _, c := range []struct {
		what string
		err  error
		ok   bool
	}{
		{"id", command.CheckID("order-17/é"), true},
		{"longest id", command.CheckID(strings.Repeat("x", 256)), true},
		{"empty id", command.CheckID(""), false},
		{"long id", command.CheckID(strings.Repeat("x", 257)), false},
		{"id with a newline", command.CheckID("a\nb"), false},
		{"id that is no UTF-8", command.CheckID("a\xff"), false},
		{"name", command.CheckName("a-9"), true},
		{"longest name", command.CheckName(strings.Repeat("x", 63)), true},
		{"long name", command.CheckName(strings.Repeat("x", 64)), false},
		{"empty name", command.CheckName(""), false},
		{"name with a slash", command.CheckName("a/b"), false},
		{"name that begins with a digit", command.CheckName("9a"), false},
		{"key", command.CheckKey("\x00"), true},
		{"longest key", command.CheckKey(strings.Repeat("x", 1024)), true},
		{"empty key", command.CheckKey(""), false},
		{"long key", command.CheckKey(strings.Repeat("x", 1025)), false},
		{"default limits", command.Limits{}.WithDefaults().Validate(), true},
		{"large limits", command.Limits{ScanKeys: 1 << 40}.Validate(), false},
	} {
		if (c.err == nil) != c.ok {
			t.Errorf("%s: %v", c.what, c.err)
		}
	}
}
