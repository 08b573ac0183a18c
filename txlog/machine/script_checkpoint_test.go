package machine_test

import (
	"fmt"
	"strings"

	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/machine"
)

// checkpointCommand is a line of an entry of feature level 2:
//
//	level N
//	request TOKEN of=a,b
//	checkpoint TOKEN members=n1,n2 copies=N of=a,b serves=t,u seal=TOKEN
//	abandon TOKEN serves=t,u detail=…
//	pause NUMBER NANOS
//	report NUMBER NODE written|failed|lost DIGEST rebuilt
//	retain drop=1,2 from=POSITION
//	unseal TOKEN
func (s *script) checkpointCommand(name string, a args) command.Command {
	list := func(v string) []string {
		if v == "" {
			return nil
		}
		return strings.Split(v, ",")
	}
	request := command.CheckpointRequest{Trigger: command.TriggerOperator, By: "n1", Participants: list(a.named["of"])}
	if len(a.words) > 0 {
		request.Token = a.words[0]
	}
	switch name {
	case "level":
		return &command.FeatureLevel{Level: s.number(a.words[0])}
	case "request":
		return &command.RequestCheckpoint{CheckpointRequest: request}
	case "checkpoint":
		return &command.Checkpoint{
			CheckpointRequest: request, Serves: list(a.named["serves"]), Members: list(a.named["members"]),
			MinCopies: s.number(a.named["copies"]), Seal: a.named["seal"] != "", SealToken: a.named["seal"],
		}
	case "abandon":
		return &command.AbandonCheckpoint{CheckpointRequest: request, Serves: list(a.named["serves"]), Detail: a.named["detail"]}
	case "pause":
		return &command.NotePause{Number: s.number(a.words[0]), PauseNanos: s.number(a.words[1])}
	case "report":
		c := &command.ReportCopy{Number: s.number(a.words[0]), Node: a.words[1], Rebuilt: len(a.words) > 4}
		for state := command.CopyNone; state <= command.CopyDifferent; state++ {
			if state.String() == a.words[2] {
				c.State = state
			}
		}
		if len(a.words) > 3 {
			c.Digest[0] = byte(s.number(a.words[3]))
		}
		return c
	case "retain":
		c := &command.Retain{LogFrom: s.number(a.named["from"])}
		for _, n := range list(a.named["drop"]) {
			c.Drop = append(c.Drop, s.number(n))
		}
		return c
	}
	return &command.Unseal{Token: request.Token}
}

// checkpoints prints the schedule and all records.
func (s *script) checkpoints() string {
	r := s.store.Latest()
	sched, err := machine.ReadSchedule(r)
	s.must(err)
	var b strings.Builder
	fmt.Fprintf(&b, "next=%d log=%d bytes since=%d cut=%d@%d attempt=%d from=%d pending=", sched.NextNumber, sched.LogBytes,
		sched.SinceUnixNano, sched.CutNumber, sched.CutPosition, sched.AttemptUnixNano, sched.LogFrom)
	for _, q := range sched.Pending {
		fmt.Fprintf(&b, "%s ", q.Token)
	}
	size := uint64(0)
	for i := range s.entries {
		if s.entries[i].RequestDigest != nil {
			size += uint64(len(command.AppendEntry(nil, &s.entries[i])))
		}
	}
	if size != sched.LogBytes {
		fmt.Fprintf(&b, "BUT THE LOG HAS %d BYTES", size)
	}
	b.WriteString("\n")
	all, err := machine.ReadCheckpoints(r)
	s.must(err)
	for _, c := range all {
		fmt.Fprintf(&b, "%d %s %v at %d pause=%d digest=%d %s", c.Number, c.Request.Token, c.State, c.Position, c.PauseNanos, c.Digest[0], c.Detail)
		for _, p := range c.Copies {
			fmt.Fprintf(&b, " | %s %v %d rebuilt=%d", p.Node, p.State, p.Digest[0], p.Rebuilt)
		}
		b.WriteString("\n")
	}
	return b.String()
}
