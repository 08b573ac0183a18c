package protocol

import "time"

// AttemptInfo describes an attempt for operators.
type AttemptInfo struct {
	Attempt      Attempt
	State        State
	Age          time.Duration
	Participants []string
}

// Attempts describes what is open, oldest first, at most limit.
func (c *Core) Attempts(limit int) []AttemptInfo {
	var infos []AttemptInfo
	for _, a := range c.all() {
		if len(infos) >= limit {
			break
		}
		info := AttemptInfo{Attempt: a.attemptName(), State: a.state, Age: c.now - a.since}
		for _, t := range a.touched {
			info.Participants = append(info.Participants, t.participant.name)
		}
		infos = append(infos, info)
	}
	return infos
}

// InstanceInfo describes an attached instance.
type InstanceInfo struct {
	Node, Instance, Description string
	Position                    uint64
	Votes, OwnState, Ready      bool
	Phase                       Phase
}

// ParticipantInfo describes a participant.
type ParticipantInfo struct {
	Name       string
	Activation Activation // with OwnState
	Activating bool
	// Active is nil while the active instance is not attached.
	Active   *InstanceInfo
	Standbys []InstanceInfo
	// Reason says why no step can run, empty when one can.
	Reason string
}

// Participants describes them in the definition's order.
func (c *Core) Participants() []ParticipantInfo {
	infos := make([]ParticipantInfo, 0, len(c.order))
	for _, p := range c.order {
		info := ParticipantInfo{
			Name:       p.name,
			Activation: Activation{Participant: p.name, Node: p.node, Instance: p.instance, Epoch: p.epoch, OwnState: p.own},
			Activating: p.activating,
		}
		for _, in := range p.instances {
			one := InstanceInfo{
				Node: in.node, Instance: in.nonce, Description: in.description, Position: in.position,
				Votes: in.votes, OwnState: in.ownState, Ready: in.ready, Phase: in.phase,
			}
			if in == p.active {
				info.Active = &one
			} else {
				info.Standbys = append(info.Standbys, one)
			}
		}
		if p.active == nil || !p.active.ready {
			info.Reason = c.whyNot(p)
		}
		infos = append(infos, info)
	}
	return infos
}
