package protocol

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/cohort-tx/cohort/txlog/command"
)

// TestScripts runs the scripts of testdata: each is a rule of the protocol, or
// what a crash at one point leaves. A line is an event, its output the effects.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		s := &script{}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			return s.run(t, d)
		})
	})
}

// script drives one core. Names of the script stand for the core's numbers: an
// attempt is named by its id, or id/nonce.
type script struct {
	core *Core
	now  time.Duration
}

func testConfig() Config {
	return Config{
		Epoch: 1, Participants: []string{"inv", "pay"}, InFlight: 3, Open: 3, StagedBytes: 4096,
		FeatureLevel: 3, Timeout: 30 * time.Second, FailAfter: 3 * time.Second, Grace: 2 * time.Second, AutoFailover: true,
	}
}

// base makes the numbers of epoch 1 small in scripts: #1 is the first.
const base = uint64(1) << 32

func num(n uint64) string {
	if n >= base {
		return fmt.Sprintf("#%d", n-base)
	}
	return strconv.FormatUint(n, 10)
}

type line struct {
	t    *testing.T
	name string
	args map[string]string
}

func parseLine(t *testing.T, text string) line {
	l := line{t: t, args: map[string]string{}}
	for i, f := range strings.Fields(text) {
		if i == 0 {
			l.name = f
			continue
		}
		k, v, _ := strings.Cut(f, "=")
		l.args[k] = v
	}
	return l
}

func (l line) has(k string) bool   { _, ok := l.args[k]; return ok }
func (l line) str(k string) string { return strings.ReplaceAll(l.args[k], "_", " ") }

func (l line) num(k string) uint64 {
	v, ok := l.args[k]
	if !ok {
		return 0
	}
	var off uint64
	if strings.HasPrefix(v, "#") {
		v, off = v[1:], base
	}
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		l.t.Fatalf("%s=%s: %v", k, v, err)
	}
	return n + off
}

func (l line) dur(k string) time.Duration {
	if !l.has(k) {
		return 0
	}
	d, err := time.ParseDuration(l.args[k])
	if err != nil {
		l.t.Fatal(err)
	}
	return d
}

// attempt is id@begun/nonce.
func (l line) attempt() Attempt {
	id, rest, _ := strings.Cut(l.args["tx"], "@")
	begun, nonce, _ := strings.Cut(rest, "/")
	sub := line{t: l.t, args: map[string]string{}}
	if begun != "" {
		sub.args["b"] = begun
	}
	if nonce != "" {
		sub.args["n"] = nonce
	}
	return Attempt{ID: id, Begun: sub.num("b"), Nonce: sub.num("n")}
}

// ops are participant/key, puts of one byte unless bytes= says more.
func (l line) ops() []command.Op {
	var ops []command.Op
	if !l.has("ops") {
		return nil
	}
	for _, o := range strings.Split(l.args["ops"], ",") {
		p, key, _ := strings.Cut(o, "/")
		op := command.Op{Kind: command.OpPut, Participant: p, Key: key, Value: make([]byte, max(l.num("bytes"), 1))}
		if l.has("applied") {
			op.Kind, op.AppliedEpoch = command.OpLog, 1
		}
		ops = append(ops, op)
	}
	return ops
}

func (s *script) run(t *testing.T, d *datadriven.TestData) string {
	var out strings.Builder
	if d.Cmd == "new" {
		config := testConfig()
		for _, text := range strings.Split(strings.TrimSpace(d.Input), "\n") {
			l := parseLine(t, text)
			switch l.name {
			case "":
			case "active":
				config.Activations = append(config.Activations, Activation{Participant: l.args["p"], Node: l.args["node"], Instance: l.args["i"], Epoch: l.num("epoch"), OwnState: l.has("own")})
			case "level":
				config.FeatureLevel = l.num("of")
			case "limits":
				config.InFlight, config.Open = int(l.num("in_flight")), int(l.num("open"))
				if l.has("staged") {
					config.StagedBytes = int64(l.num("staged"))
				}
			case "checkpoint":
				config.Checkpoint = Checkpoint{MaxWait: l.dur("max_wait"), MaxPause: l.dur("max_pause")}
				if l.has("started") {
					config.Checkpoint.WaitFor = WaitForStarted
				}
			case "manual":
				config.AutoFailover = false
			default:
				t.Fatalf("no such setting: %s", l.name)
			}
		}
		s.core, s.now = New(config), 0
		return ""
	}
	switch d.Cmd {
	case "participants": // as they are described
		for _, p := range s.core.Participants() {
			fmt.Fprintf(&out, "%s epoch=%d own=%v reason=(%s)", p.Name, p.Activation.Epoch, p.Activation.OwnState, p.Reason)
			if p.Active != nil {
				p.Standbys = append([]InstanceInfo{*p.Active}, p.Standbys...)
			}
			for _, in := range p.Standbys {
				fmt.Fprintf(&out, " | %s %s at %d ready=%v", in.Instance, in.Phase, in.Position, in.Ready)
			}
			out.WriteString("\n")
		}
		return out.String()
	case "awaits": // number=… p=…
		l := parseLine(t, d.Input)
		return fmt.Sprintln(s.core.AwaitsCapture(l.num("number"), l.args["p"]))
	}
	if d.Cmd != "do" {
		t.Fatalf("no such command: %s", d.Cmd)
	}
	for _, text := range strings.Split(strings.TrimSpace(d.Input), "\n") {
		for _, ev := range s.event(parseLine(t, text)) {
			for _, e := range s.core.Step(s.now, ev) {
				fmt.Fprintln(&out, showEffect(e))
			}
		}
	}
	if out.Len() == 0 {
		return "(nothing)\n"
	}
	return out.String()
}

func (s *script) event(l line) []Event {
	req := l.num("r")
	switch l.name {
	case "begin":
		return []Event{&Begin{Request: req, ID: l.args["id"], RequestDigest: []byte(l.args["digest"]), Timeout: l.dur("timeout")}}
	case "pinned":
		p := &Pinned{Handle: l.num("h"), Begun: l.num("begun"), Position: l.num("position")}
		if l.has("committed") {
			p.Committed = &command.Receipt{ID: "x", Position: l.num("committed")}
			p.CommittedDigest = []byte(l.args["digest"])
		}
		return []Event{p}
	case "pin-failed":
		return []Event{&PinFailed{Handle: l.num("h"), Detail: "no quorum"}}
	case "call":
		return []Event{&Call{Request: req, Attempt: l.attempt(), Step: uint32(l.num("step")), Participant: l.args["p"], Method: "m" + l.args["m"], Ops: l.ops(), Timeout: l.dur("timeout")}}
	case "commit":
		c := &Commit{Request: req, Attempt: l.attempt(), Ops: l.ops(), Steps: uint32(l.num("steps")), Timeout: l.dur("timeout"), Published: 50, RequestDigest: []byte(l.args["digest"])}
		if l.has("read") {
			c.Reads = []command.Read{{Participant: "inv", Key: l.args["read"], Version: 1}}
		}
		if l.has("conflict") {
			c.Conflict = &Aborted{ID: c.Attempt.ID, Reason: command.ReasonConflict, Participant: "inv", Key: l.args["conflict"]}
		}
		return []Event{c, Flush{}}
	case "queue": // a commit in the middle of a burst
		return []Event{&Commit{Request: req, Attempt: l.attempt(), Ops: l.ops(), Published: 50}}
	case "abort":
		return []Event{&Abort{Request: req, Attempt: l.attempt()}, Flush{}}
	case "view":
		return []Event{&View{Request: req, Attempt: l.attempt()}}
	case "look":
		return []Event{&Look{Request: req, ID: l.args["id"]}}
	case "settle":
		return []Event{&Administer{Request: req, Command: &command.Settle{ID: l.args["id"], Begun: l.num("begun")}}, Flush{}}
	case "attach":
		return []Event{&Attached{Session: l.num("s"), Node: "n" + l.args["s"], Participant: l.args["p"], Instance: l.args["i"], Votes: l.has("votes"), OwnState: l.has("own"), AppliesFirst: l.has("first")}, Flush{}}
	case "detach":
		return []Event{&Detached{Session: l.num("s"), Participant: l.args["p"], Instance: l.args["i"], Goodbye: l.has("goodbye")}, Flush{}}
	case "session-closed":
		return []Event{&SessionClosed{Session: l.num("s")}, Flush{}}
	case "ready":
		return []Event{&Ready{Session: l.num("s"), Participant: l.args["p"], Instance: l.args["i"], Epoch: l.num("epoch")}}
	case "result":
		r := &StepResult{Session: l.num("s"), Participant: l.args["p"], Instance: l.args["i"], Call: l.num("call"), Payload: []byte("ok"), Ops: l.ops()}
		if l.has("fails") {
			r.Failure = &StepFailed{Code: FailureHandler, Message: l.str("fails")}
		}
		return []Event{r}
	case "vote":
		return []Event{&Vote{Session: l.num("s"), Participant: l.args["p"], Instance: l.args["i"], Call: l.num("call"), Yes: l.args["say"] == "yes", Reason: l.str("why"), Conflict: l.has("conflict")}, Flush{}}
	case "applied":
		return []Event{&Applied{Entry: l.num("e"), Results: parseResults(l), Position: l.num("position")}, Flush{}}
	case "checkpoint":
		cp := &TakeCheckpoint{
			Request: req, Wish: command.CheckpointRequest{Token: l.args["token"], Trigger: command.TriggerOperator},
			Members: []string{"n1"}, MinCopies: 1, Seal: l.has("seal"), Waited: l.dur("waited"),
		}
		if l.has("of") {
			cp.Wish.Participants = strings.Split(l.args["of"], ",")
		}
		return []Event{cp, Flush{}}
	case "captured":
		return []Event{&Captured{Session: l.num("s"), Participant: l.args["p"], Instance: l.args["i"], Number: l.num("number"), Position: l.num("position"), Epoch: l.num("epoch"), Failure: l.str("fails")}, Flush{}}
	case "progress":
		return []Event{&Progress{Session: l.num("s"), Participant: l.args["p"], Instance: l.args["i"], Phase: Phase(l.num("phase")), Position: l.num("position")}}
	case "leveled":
		return []Event{Leveled{Level: l.num("level")}, Flush{}}
	case "stored": // by a node that reports it
		return []Event{&Administer{Request: req, Command: &command.ReportCapture{Number: l.num("number"), Participant: l.args["p"], Epoch: l.num("epoch"), Position: l.num("position"), Node: "n1"}}, Flush{}}
	case "unsealed":
		return []Event{Unsealed{}, Flush{}}
	case "refuse":
		return []Event{&Refuse{Detail: l.str("detail")}}
	case "dropped":
		return []Event{&NotProposed{Entry: l.num("e"), TooLarge: l.has("too-large")}, Flush{}}
	case "unknown":
		return []Event{&Doubtful{Entry: l.num("e")}, Flush{}}
	case "activation":
		return []Event{&ActivationRead{Activation: Activation{Participant: l.args["p"], Instance: l.args["i"], Node: l.args["node"], Epoch: l.num("epoch")}}, Flush{}}
	case "configure":
		config := testConfig()
		config.Participants = strings.Split(l.args["participants"], ",")
		if l.has("epoch") {
			config.Activations = []Activation{{Participant: "inv", Node: "n9", Instance: "other", Epoch: l.num("epoch")}}
		}
		return []Event{&Configured{Config: config}, Flush{}}
	case "gate":
		if l.has("closed") {
			return []Event{CloseGate{}}
		}
		return []Event{OpenGate{}, Flush{}}
	case "wait":
		s.now += l.dur("for")
		return []Event{Tick{}, Flush{}}
	case "flush":
		return []Event{Flush{}}
	case "drain":
		return []Event{Drain{}}
	case "depose":
		return []Event{&Deposed{Detail: "leadership is lost"}}
	}
	l.t.Fatalf("no such event: %s", l.name)
	return nil
}

var reasons = map[string]command.Reason{
	"conflict": command.ReasonConflict, "constraint": command.ReasonConstraint, "moved": command.ReasonMoved, "expired": command.ReasonExpired,
	"overloaded": command.ReasonOverloaded, "id_reused": command.ReasonIDReused, "superseded": command.ReasonSuperseded,
	"sealed": command.ReasonSealed, "unsupported": command.ReasonUnsupported, "disk_full": command.ReasonDiskFull,
	"stale_epoch": command.ReasonStaleEpoch, "stale_version": command.ReasonStaleVersion, "malformed": command.ReasonMalformed,
	"vote": command.ReasonVote, "timeout": command.ReasonTimeout, "cancelled": command.ReasonCancelled,
	"too_large": command.ReasonTooLarge, "unknown_participant": command.ReasonUnknownParticipant,
}

func reasonName(r command.Reason) string {
	for name, reason := range reasons {
		if reason == r {
			return name
		}
	}
	return fmt.Sprintf("reason %d", r)
}

// parseResults reads results=committed:7@50,aborted:conflict,refused:moved,done:2
func parseResults(l line) []command.Result {
	var results []command.Result
	for _, r := range strings.Split(l.args["results"], ",") {
		status, what, _ := strings.Cut(r, ":")
		switch status {
		case "committed":
			position, begun, _ := strings.Cut(what, "@")
			sub := line{t: l.t, args: map[string]string{"p": position, "b": begun}}
			results = append(results, command.Result{Status: command.StatusCommitted, Receipt: command.Receipt{Position: sub.num("p"), Begun: sub.num("b")}})
		case "aborted":
			results = append(results, command.Result{Status: command.StatusAborted, Reason: reasons[what]})
		case "refused":
			results = append(results, command.Result{Status: command.StatusRefused, Reason: reasons[what], Detail: "refused"})
		case "done":
			if what == "" {
				what = "0"
			}
			sub := line{t: l.t, args: map[string]string{"e": what}}
			results = append(results, command.Result{Status: command.StatusDone, Epoch: sub.num("e")})
		case "number":
			sub := line{t: l.t, args: map[string]string{"n": what}}
			results = append(results, command.Result{Status: command.StatusDone, Number: sub.num("n")})
		}
	}
	return results
}

func showEffect(e Effect) string {
	switch e := e.(type) {
	case Pin:
		return fmt.Sprintf("pin %s id=%s", num(e.Handle), e.ID)
	case Unpin:
		return "unpin " + num(e.Handle)
	case *Propose:
		var cmds []string
		for _, c := range e.Commands {
			cmds = append(cmds, showCommand(c))
		}
		return fmt.Sprintf("propose %s: %s", num(e.Entry), strings.Join(cmds, "; "))
	case *Reply:
		return fmt.Sprintf("reply %d: %s", e.Request, showAnswer(e.Answer))
	case *Send:
		return fmt.Sprintf("send %s/%s@%d: %s", e.Participant, e.Instance, e.Session, showMessage(e.Message))
	case ReadActivation:
		return "read activation of " + e.Participant
	case Superseded:
		return "superseded"
	}
	return fmt.Sprintf("%T", e)
}

func showName(a Attempt) string { return fmt.Sprintf("%s@%d/%s", a.ID, a.Begun, num(a.Nonce)) }

func showCommand(c command.Command) string {
	switch c := c.(type) {
	case *command.Decide:
		s := fmt.Sprintf("decide %s@%d", c.ID, c.Begun)
		for _, f := range c.Fences {
			s += fmt.Sprintf(" fence=%s:%d", f.Participant, f.Epoch)
		}
		for _, o := range c.Ops {
			s += fmt.Sprintf(" %s/%s", o.Participant, o.Key)
			if o.AppliedEpoch != 0 {
				s += fmt.Sprintf("(applied under %d)", o.AppliedEpoch)
			}
		}
		return s
	case *command.Settle:
		return fmt.Sprintf("settle %s@%d", c.ID, c.Begun)
	case *command.Activate:
		s := fmt.Sprintf("activate %s/%s expect=%d", c.Participant, c.Instance, c.Expect)
		if c.OwnState {
			s += " own"
		}
		return s
	case *command.ReportCapture:
		return fmt.Sprintf("report capture %d of %s epoch=%d at %d by %s (%s)", c.Number, c.Participant, c.Epoch, c.Position, c.Node, c.Failure)
	case *command.Checkpoint:
		s := fmt.Sprintf("checkpoint %s waited=%s", c.Token, time.Duration(c.WaitNanos))
		if c.Seal {
			s += " seal"
		}
		if len(c.Captures) > 0 {
			s += fmt.Sprintf(" captures=%v", c.Captures)
		}
		return s
	case *command.AbandonCheckpoint:
		return fmt.Sprintf("abandon %s waited=%s tx=%s participant=%s (%s)", c.Token, time.Duration(c.WaitNanos), c.Transaction, c.Participant, c.Detail)
	case *command.NotePause:
		return fmt.Sprintf("note pause %d %s", c.Number, time.Duration(c.PauseNanos))
	}
	return fmt.Sprintf("%T", c)
}

func showAnswer(a Answer) string {
	switch a := a.(type) {
	case *Opened:
		return "opened " + showName(a.Attempt)
	case *Committed:
		return fmt.Sprintf("committed at %d", a.Receipt.Position)
	case *Aborted:
		s := "aborted " + reasonName(a.Reason)
		if a.Participant != "" {
			s += " by " + a.Participant
		}
		if a.Key != "" {
			s += " at " + a.Key
		}
		if a.Detail != "" {
			s += " (" + a.Detail + ")"
		}
		return s
	case *Indeterminate:
		return "indeterminate (" + a.Detail + ")"
	case *StepDone:
		return "step done"
	case *StepFailed:
		return fmt.Sprintf("step failed %d at %s (%s)", a.Code, a.Participant, a.Message)
	case *Done:
		return "done"
	case *Viewed:
		return fmt.Sprintf("%d ops", len(a.Ops))
	case *Looked:
		return fmt.Sprintf("pending=%v", a.Pending)
	case *Invalid:
		return fmt.Sprintf("invalid %s (%s)", a.Field, a.Detail)
	case *NotServing:
		return "not serving (" + a.Detail + ")"
	case *CheckpointTaken:
		s := fmt.Sprintf("checkpoint %d at %d pause=%s wait=%s", a.Number, a.Position, a.Pause, a.Wait)
		return s
	case *CheckpointAbandoned:
		return fmt.Sprintf("abandoned checkpoint %d tx=%s participant=%s (%s)", a.Number, a.Transaction, a.Participant, a.Detail)
	case *Busy:
		return "busy"
	}
	return fmt.Sprintf("%T", a)
}

func showMessage(m Message) string {
	switch m := m.(type) {
	case *Activated:
		return fmt.Sprintf("activated epoch=%d", m.Epoch)
	case *Standby:
		return "standby"
	case *Fenced:
		return fmt.Sprintf("fenced epoch=%d", m.Epoch)
	case *Refused:
		return "refused (" + m.Detail + ")"
	case *Step:
		return fmt.Sprintf("step call=%s tx=%s step=%d epoch=%d timeout=%s", num(m.Call), showName(m.Attempt), m.Step, m.Epoch, m.Timeout)
	case *Capture:
		return fmt.Sprintf("capture %d at %d epoch=%d", m.Checkpoint, m.Position, m.Epoch)
	case *Prepare:
		return fmt.Sprintf("prepare call=%s tx=%s epoch=%d", num(m.Call), showName(m.Attempt), m.Epoch)
	case *Notice:
		if m.Abort != nil {
			return fmt.Sprintf("notice tx=%s aborted %s", showName(m.Attempt), reasonName(m.Abort.Reason))
		}
		return fmt.Sprintf("notice tx=%s committed at %d", showName(m.Attempt), m.Position)
	}
	return fmt.Sprintf("%T", m)
}
