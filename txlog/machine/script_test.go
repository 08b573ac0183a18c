package machine_test

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/machine"
	"github.com/cohort-tx/cohort/txlog/machine/memstate"
)

// TestScripts runs testdata/*.txt: each is the specification of some rules. What
// a script can say is told at the methods of script.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/rules", func(t *testing.T, path string) {
		s := &script{t: t, store: memstate.New(), machine: machine.New(), epoch: 1}
		datadriven.RunTest(t, path, s.run)
	})
}

type script struct {
	t       *testing.T
	store   *memstate.Store
	machine *machine.Machine
	epoch   uint64
	time    int64
	entries []command.Entry
}

func (s *script) run(t *testing.T, d *datadriven.TestData) string {
	s.t = t
	switch d.Cmd {
	case "entry": // one Raft entry: a command a line, its parts indented below it
		return s.entry(d)
	case "fill": // n=… entries of one commit each (per=…): a/k0, a/k1 …, ids f0, f1 … (prefix=…)
		return s.fill(d)
	case "bytes": // an entry of these bytes, in hex
		data, err := hex.DecodeString(strings.Join(strings.Fields(d.Input), ""))
		s.must(err)
		return s.apply(s.index(d), data, nil)
	case "reload": // as after a restart
		s.machine = machine.New()
		s.must(s.machine.Reload(s.store.Latest()))
		return "ok"
	case "meta":
		return s.meta()
	case "checkpoints":
		return s.checkpoints()
	case "own-states":
		return s.ownStates()
	case "config":
		return s.config()
	case "activations":
		return s.activations()
	case "data":
		return s.data()
	case "outcomes": // newest first
		return s.outcomes(d)
	case "decision": // id=… begun=…
		var id string
		var begun uint64
		d.ScanArgs(t, "id", &id)
		d.ScanArgs(t, "begun", &begun)
		dec, o, err := machine.ReadDecision(s.store.Latest(), id, begun)
		s.must(err)
		return strings.TrimSpace(fmt.Sprintf("%v %s", dec, o.ID))
	case "horizon-target": // now=… age=… count=…
		return s.horizonTarget(d)
	case "scan": // participant=… start=… end=… limit=…
		return s.scan(d)
	}
	t.Fatalf("%s: unknown directive %s", d.Pos, d.Cmd)
	return ""
}

func (s *script) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *script) index(d *datadriven.TestData) uint64 {
	index := s.store.Index() + 1
	d.MaybeScanArgs(s.t, "index", &index)
	return index
}

func (s *script) entry(d *datadriven.TestData) string {
	b := &command.Batch{}
	d.MaybeScanArgs(s.t, "epoch", &s.epoch)
	d.MaybeScanArgs(s.t, "time", &s.time)
	b.Epoch, b.TimeUnixNano = s.epoch, s.time
	var names []string
	for _, line := range strings.Split(d.Input, "\n") {
		f := strings.Fields(line)
		if line[0] == ' ' {
			s.part(b.Commands[len(b.Commands)-1].(*command.Decide), f)
			continue
		}
		c, name := s.command(f)
		b.Commands = append(b.Commands, c)
		names = append(names, name)
	}
	return s.apply(s.index(d), command.AppendBatch(nil, b), names)
}

// args are the words of a line: name=value, and others in their order.
type args struct {
	words []string
	named map[string]string
}

func parse(f []string) args {
	a := args{named: map[string]string{}}
	for _, w := range f {
		if k, v, ok := strings.Cut(w, "="); ok {
			a.named[k] = v
		} else {
			a.words = append(a.words, w)
		}
	}
	return a
}

func (s *script) number(v string) uint64 {
	if v == "" {
		return 0
	}
	n, err := strconv.ParseUint(v, 10, 64)
	s.must(err)
	return n
}

var reasons = map[string]command.Reason{
	"none": command.ReasonNone, "conflict": command.ReasonConflict, "constraint": command.ReasonConstraint,
	"vote": command.ReasonVote, "timeout": command.ReasonTimeout, "moved": command.ReasonMoved,
	"recovering": command.ReasonRecovering, "expired": command.ReasonExpired, "overloaded": command.ReasonOverloaded,
	"id_reused": command.ReasonIDReused, "cancelled": command.ReasonCancelled, "superseded": command.ReasonSuperseded,
	"too_large": command.ReasonTooLarge, "unknown_participant": command.ReasonUnknownParticipant,
	"stale_epoch": command.ReasonStaleEpoch, "stale_version": command.ReasonStaleVersion,
	"has_data": command.ReasonHasData, "malformed": command.ReasonMalformed, "unconfigured": command.ReasonUnconfigured,
	"sealed": command.ReasonSealed, "unsupported": command.ReasonUnsupported, "needed": command.ReasonNeeded,
}

func reasonName(r command.Reason) string {
	for name, v := range reasons {
		if v == r {
			return name
		}
	}
	return fmt.Sprintf("reason %d", r)
}

func (s *script) command(f []string) (command.Command, string) {
	a := parse(f[1:])
	word := func(i int) string {
		if i >= len(a.words) {
			s.t.Fatalf("%v: a word is missing", f)
		}
		return a.words[i]
	}
	switch f[0] {
	case "raise": // raise NODE
		return &command.RaiseEpoch{Node: word(0)}, "raise"
	case "decide", "settle": // decide ID begun=… digest=…; settle ID begun=… reason=… detail=…
		id := word(0)
		if n := a.named["id_bytes"]; n != "" {
			id = strings.Repeat(id, int(s.number(n)))
		}
		at := command.Attempt{ID: id, Begun: s.number(a.named["begun"])}
		name := f[0] + " " + short(id) + "@" + a.named["begun"]
		if f[0] == "settle" {
			return &command.Settle{ID: id, Begun: at.Begun, Reason: reasons[a.named["reason"]], Detail: a.named["detail"]}, name
		}
		return &command.Decide{Attempt: at, RequestDigest: []byte(a.named["digest"])}, name
	case "activate": // activate PARTICIPANT NODE INSTANCE expect=… own=1, or without node and instance
		c := &command.Activate{Participant: word(0), Expect: s.number(a.named["expect"]), OwnState: a.named["own"] != ""}
		if len(a.words) > 1 {
			c.Node, c.Instance = word(1), word(2)
		}
		return c, "activate " + c.Participant
	case "configure": // configure VERSION a,b,… incarnation=… prune value_bytes=… …
		c := &command.Configure{Version: s.number(word(0)), Incarnation: s.number(a.named["incarnation"])}
		if p := word(1); p != "-" {
			c.Participants = strings.Split(p, ",")
		}
		c.Prune = len(a.words) > 2 && a.words[2] == "prune"
		c.Limits = command.Limits{
			ValueBytes:       s.number(a.named["value_bytes"]),
			TransactionBytes: s.number(a.named["transaction_bytes"]),
			TransactionKeys:  s.number(a.named["transaction_keys"]),
			ScanKeys:         s.number(a.named["scan_keys"]),
		}
		c.Definition = make([]byte, s.number(a.named["definition_bytes"]))
		return c, "configure " + f[1]
	case "move-horizon": // move-horizon TO
		return &command.MoveHorizon{To: s.number(word(0))}, "move-horizon"
	case "purge":
		return &command.Purge{}, "purge"
	case "level", "request", "checkpoint", "abandon", "pause", "report", "retain", "unseal", "capture":
		return s.checkpointCommand(f[0], a), strings.Join(f[:min(2, len(f))], " ")
	case "unknown": // unknown KIND
		return &command.Unknown{Kind: command.Kind(s.number(word(0)))}, "unknown"
	}
	s.t.Fatalf("unknown command %q", f[0])
	return nil, ""
}

// part adds a fence, read, scan or op to a Decide.
func (s *script) part(d *command.Decide, f []string) {
	a := parse(f[1:])
	participant, key, _ := strings.Cut(a.words[0], "/")
	if n := a.named["key_bytes"]; n != "" {
		key = strings.Repeat(key, int(s.number(n)))
	}
	op := command.Op{Participant: participant, Key: key}
	value := func() []byte {
		if n := a.named["size"]; n != "" {
			return []byte(strings.Repeat("x", int(s.number(n))))
		}
		if len(a.words) < 2 {
			return nil
		}
		return []byte(a.words[1])
	}
	bound := func(name string) *int64 {
		if a.named[name] == "" {
			return nil
		}
		v, err := strconv.ParseInt(a.named[name], 10, 64)
		s.must(err)
		return &v
	}
	switch f[0] {
	case "fence": // fence P EPOCH; n=COUNT for so many
		for range s.number(a.named["n"]) {
			d.Fences = append(d.Fences, command.Fence{Participant: participant})
		}
		d.Fences = append(d.Fences, command.Fence{Participant: participant, Epoch: s.number(a.words[1])})
		return
	case "read": // read P/KEY VERSION
		d.Reads = append(d.Reads, command.Read{Participant: participant, Key: key, Version: s.number(a.words[1])})
		return
	case "scan": // scan P start=… end=… (or end_bytes=…) limit=… at=INDEX: as it was read there
		v, err := s.store.At(s.number(a.named["at"]))
		s.must(err)
		cfg, err := machine.ReadConfig(v)
		s.must(err)
		read := command.ScanRead{Participant: participant, Start: a.named["start"], End: a.named["end"]}
		if n := a.named["end_bytes"]; n != "" {
			read.End = strings.Repeat("z", int(s.number(n)))
		}
		if _, known := cfg.Participant(participant); known {
			read, _, err = machine.ScanValues(v, cfg, participant, read.Start, read.End, int(s.number(a.named["limit"])), nil)
			s.must(err)
		}
		d.Scans = append(d.Scans, read)
		return
	case "put": // put P/KEY VALUE, or size=BYTES; n=COUNT for so many keys
		op.Kind, op.Value = command.OpPut, value()
		if n := a.named["n"]; n != "" {
			for i := range s.number(n) {
				op.Key = fmt.Sprintf("%s%d", key, i)
				d.Ops = append(d.Ops, op)
			}
			return
		}
	case "delete":
		op.Kind = command.OpDelete
	case "add": // add P/KEY DELTA at_least=… at_most=…
		delta, err := strconv.ParseInt(a.words[1], 10, 64)
		s.must(err)
		op.Kind, op.Delta, op.AtLeast, op.AtMost = command.OpAdd, delta, bound("at_least"), bound("at_most")
	case "log": // log P CHANGE applied=EPOCH
		op.Kind, op.Value, op.AppliedEpoch = command.OpLog, value(), s.number(a.named["applied"])
	default:
		s.t.Fatalf("unknown part %q", f[0])
	}
	d.Ops = append(d.Ops, op)
}

func (s *script) apply(index uint64, data []byte, names []string) string {
	results, entries, err := s.store.Apply(s.machine, index, data)
	s.must(err)
	var out strings.Builder
	for i, r := range results {
		name := "batch"
		if i < len(names) {
			name = names[i]
		}
		fmt.Fprintf(&out, "%s: %s\n", name, describe(r))
	}
	for _, e := range entries {
		fmt.Fprintf(&out, "  log %d: %s@%d", e.Position, short(e.ID), e.Begun)
		if len(e.Dropped) > 0 {
			fmt.Fprintf(&out, " dropped %v", e.Dropped)
		}
		for _, c := range e.Changes {
			fmt.Fprintf(&out, " | %s", change(c))
		}
		out.WriteString("\n")
	}
	s.entries = append(s.entries, entries...)
	return out.String()
}

func describe(r command.Result) string {
	var b strings.Builder
	b.WriteString([]string{"", "done", "committed", "aborted", "refused"}[r.Status])
	if r.Status == command.StatusCommitted {
		fmt.Fprintf(&b, " at %d.%d begun %d time %d", r.Receipt.Incarnation, r.Receipt.Position, r.Receipt.Begun, r.Receipt.TimeUnixNano)
	}
	if r.Reason != 0 {
		b.WriteString(" " + reasonName(r.Reason))
	}
	if r.Participant != "" || r.Key != "" {
		b.WriteString(" " + r.Participant + "/" + short(r.Key))
	}
	if r.Epoch != 0 {
		fmt.Fprintf(&b, " epoch %d", r.Epoch)
	}
	if r.Number != 0 {
		fmt.Fprintf(&b, " number %d", r.Number)
	}
	if r.Remaining {
		b.WriteString(" remaining")
	}
	if r.Detail != "" {
		b.WriteString(": " + r.Detail)
	}
	return b.String()
}

func change(c command.Change) string {
	switch c.Kind {
	case command.OpPut:
		return fmt.Sprintf("put %s/%s %s", c.Participant, short(c.Key), short(string(c.Value)))
	case command.OpDelete:
		return fmt.Sprintf("delete %s/%s", c.Participant, c.Key)
	case command.OpAdd:
		return fmt.Sprintf("add %s/%s %+d = %s", c.Participant, c.Key, c.Delta, c.Value)
	case command.OpLog:
		return fmt.Sprintf("log %s %s applied=%d", c.Participant, c.Value, c.AppliedEpoch)
	}
	return "?"
}

func short(s string) string {
	if len(s) > 40 {
		return fmt.Sprintf("%s…(%d bytes)", s[:4], len(s))
	}
	return s
}

func (s *script) fill(d *datadriven.TestData) string {
	var n, per int
	d.ScanArgs(s.t, "n", &n)
	per = 1
	d.MaybeScanArgs(s.t, "per", &per)
	prefix := "f"
	d.MaybeScanArgs(s.t, "prefix", &prefix)
	for i := 0; i < n; i += per {
		b := &command.Batch{Epoch: s.epoch, TimeUnixNano: s.time}
		for j := i; j < min(n, i+per); j++ {
			b.Commands = append(b.Commands, &command.Decide{
				Attempt: command.Attempt{ID: fmt.Sprintf("%s%d", prefix, j), Begun: s.store.Index()},
				Ops:     []command.Op{{Kind: command.OpPut, Participant: "a", Key: fmt.Sprintf("k%d", j)}},
			})
		}
		_, entries, err := s.store.Apply(s.machine, s.store.Index()+1, command.AppendBatch(nil, b))
		s.must(err)
		s.entries = append(s.entries, entries...)
	}
	return fmt.Sprintf("index %d", s.store.Index())
}

func (s *script) meta() string {
	m, err := machine.ReadMeta(s.store.Latest())
	s.must(err)
	chained := ""
	if m.LogHash != chain(s.entries) {
		chained = " BROKEN LOG HASH"
	}
	return fmt.Sprintf("incarnation=%d position=%d epoch=%d node=%s since=%d horizon=%d outcomes=%d last=%d time=%d version=%d refusals=%d%s",
		m.Incarnation, m.Position, m.CoordinatorEpoch, m.CoordinatorNode, m.FirstIndexOfEpoch, m.Horizon,
		m.Outcomes, m.LastDecided, m.TimeUnixNano, m.ConfigVersion, m.Refusals, chained)
}

func (s *script) config() string {
	c, err := machine.ReadConfig(s.store.Latest())
	s.must(err)
	var b strings.Builder
	fmt.Fprintf(&b, "version=%d definition=%d bytes next=%d dropped=%v floor=%d limits=%v\n", c.Version, len(c.Definition), c.NextID, c.Dropped, c.EpochFloor, c.Limits)
	for _, p := range c.Participants {
		fmt.Fprintf(&b, "%s id=%d\n", p.Name, p.ID)
	}
	return b.String()
}

func (s *script) activations() string {
	all, err := machine.ReadActivations(s.store.Latest())
	s.must(err)
	var b strings.Builder
	for _, a := range all {
		fmt.Fprintf(&b, "%s: epoch %d instance=%q node=%q index=%d position=%d\n", a.Participant, a.Epoch, a.Instance, a.Node, a.Index, a.Position)
	}
	return b.String()
}

// data prints all data with its raw participant id, so that dropped data shows.
func (s *script) data() string {
	var b strings.Builder
	n := 0
	s.must(s.store.Latest().Scan([]byte{7}, []byte{8}, func(k, v []byte) (bool, error) {
		n++
		fmt.Fprintf(&b, "%d/%s = %s @%d\n", k[4], k[5:], short(string(v[8:])), v[7])
		return true, nil
	}))
	if n > 100 {
		return fmt.Sprintf("%d keys", n)
	}
	return b.String()
}

func (s *script) outcomes(d *datadriven.TestData) string {
	limit := 100
	d.MaybeScanArgs(s.t, "limit", &limit)
	all, err := machine.RecentOutcomes(s.store.Latest(), limit)
	s.must(err)
	var b strings.Builder
	for _, o := range all {
		fmt.Fprintf(&b, "%s: index %d", short(o.ID), o.Index)
		if o.Committed {
			fmt.Fprintf(&b, " committed %d.%d begun %d digest %q", o.Receipt.Incarnation, o.Receipt.Position, o.Receipt.Begun, o.RequestDigest)
		}
		if o.AbortedThrough > 0 || !o.Committed {
			fmt.Fprintf(&b, " aborted through %d", o.AbortedThrough)
		}
		if o.Reason != 0 {
			fmt.Fprintf(&b, " %s %s/%s %s", reasonName(o.Reason), o.Participant, o.Key, short(o.Detail))
		}
		b.WriteString("\n")
	}
	return b.String()
}

func (s *script) horizonTarget(d *datadriven.TestData) string {
	var now, age int64
	var count uint64
	d.MaybeScanArgs(s.t, "now", &now)
	d.MaybeScanArgs(s.t, "age", &age)
	d.MaybeScanArgs(s.t, "count", &count)
	to, ok, err := machine.HorizonTarget(s.store.Latest(), now, time.Duration(age), count)
	s.must(err)
	if !ok {
		return "nothing to forget"
	}
	return fmt.Sprintf("to %d", to)
}

func (s *script) scan(d *datadriven.TestData) string {
	var p, start, end string
	var limit int
	d.ScanArgs(s.t, "participant", &p)
	d.MaybeScanArgs(s.t, "start", &start)
	d.MaybeScanArgs(s.t, "end", &end)
	d.MaybeScanArgs(s.t, "limit", &limit)
	cfg, err := machine.ReadConfig(s.store.Latest())
	s.must(err)
	var b strings.Builder
	read, more, err := machine.ScanValues(s.store.Latest(), cfg, p, start, end, limit, func(key string, value []byte, version uint64) (bool, error) {
		fmt.Fprintf(&b, "%s = %s @%d\n", key, value, version)
		return true, nil
	})
	if err != nil {
		return err.Error()
	}
	fmt.Fprintf(&b, "[%q, %q) more=%v hash=%x", read.Start, read.End, more, read.Hash[:4])
	return b.String()
}
