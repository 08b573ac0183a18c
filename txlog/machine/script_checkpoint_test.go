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
//	checkpoint TOKEN members=n1,n2 copies=N of=a,b serves=t,u seal=TOKEN captures=a,b
//	abandon TOKEN serves=t,u detail=…
//	pause NUMBER NANOS
//	report NUMBER NODE written|failed|lost DIGEST rebuilt states=a,b
//	capture NUMBER PARTICIPANT epoch=N at=POSITION node=NODE sha=N section=NAME failure=…
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
			Captures: list(a.named["captures"]),
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
		for _, name := range list(a.named["states"]) { // as captured with sha=1
			c.Sections = append(c.Sections, command.Section{Name: "state/" + name, Digest: [32]byte{1}})
			c.Digest = command.CheckpointDigest(c.Sections)
		}
		return c
	case "capture":
		c := &command.ReportCapture{
			Number: s.number(a.words[0]), Participant: a.words[1], Epoch: s.number(a.named["epoch"]), Position: s.number(a.named["at"]),
			Failure: a.named["failure"], Node: a.named["node"],
		}
		if sha := s.number(a.named["sha"]); sha > 0 {
			c.SHA256[0], c.Section = byte(sha), command.Section{Name: "state/" + c.Participant, Digest: [32]byte{byte(sha)}}
		}
		if name := a.named["section"]; name != "" {
			c.Section.Name = name
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
		sched.SinceUnixNano, sched.Cut.Number, sched.Cut.Position, sched.AttemptUnixNano, sched.LogFrom)
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
		for i := range c.Captures {
			fmt.Fprintf(&b, " | %s", capture(&c.Captures[i]))
		}
		if c.LogFrom != 0 {
			fmt.Fprintf(&b, " | log from %d", c.LogFrom)
		}
		b.WriteString("\n")
	}
	return b.String()
}

func capture(c *machine.Capture) string {
	return strings.TrimSpace(fmt.Sprintf("%s %v of %d at %d epoch %d %s %d %s", c.Participant, c.State, c.Checkpoint, c.Position, c.Epoch, c.Node, c.SHA256[0], c.Detail))
}

// ownStates prints the records of participants with state of their own.
func (s *script) ownStates() string {
	all, err := machine.ReadOwnStates(s.store.Latest())
	s.must(err)
	var b strings.Builder
	for i := range all {
		o := &all[i]
		fmt.Fprintf(&b, "%s base=%d from=%d", o.Participant, o.Base, o.From())
		if o.Last.State != 0 {
			fmt.Fprintf(&b, " last: %s", capture(&o.Last))
		}
		b.WriteString("\n")
	}
	return b.String()
}
