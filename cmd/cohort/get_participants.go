package main

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
)

type participantView struct {
	Group       string `json:"group"`
	Name        string `json:"name"`
	Node        string `json:"node"`
	Instance    string `json:"instance"`
	State       string `json:"state"`
	Epoch       uint64 `json:"epoch"`
	Position    uint64 `json:"position"`
	Lag         uint64 `json:"lag"`
	Reason      string `json:"reason"`
	Votes       bool   `json:"votes"`
	OwnState    bool   `json:"own_state"`
	Description string `json:"description"`
	// Of a participant with state of its own: restoring or following, and the
	// position of its newest captured state.
	Phase            string         `json:"phase"`
	CapturedPosition uint64         `json:"captured_position"`
	Standbys         []instanceView `json:"standbys"`
}

type instanceView struct {
	Node        string `json:"node"`
	Instance    string `json:"instance"`
	Description string `json:"description"`
	Position    uint64 `json:"position"`
	OwnState    bool   `json:"own_state"`
	Lag         uint64 `json:"lag"`
	Phase       string `json:"phase"`
}

func viewParticipant(p *pb.ParticipantInfo) participantView {
	view := participantView{
		Group: p.Group, Name: p.Name, Node: p.Node, Instance: p.Instance, State: p.State, Epoch: p.Epoch,
		Position: p.Position, Lag: p.Lag, Reason: p.Reason, Votes: p.Votes, OwnState: p.OwnState,
		Description: p.Description, Phase: p.Phase, CapturedPosition: p.CapturedPosition, Standbys: []instanceView{},
	}
	for _, standby := range p.Standbys {
		view.Standbys = append(view.Standbys, instanceView{
			Node: standby.Node, Instance: standby.Instance, Description: standby.Description, Position: standby.Position,
			OwnState: standby.OwnState, Lag: standby.Lag, Phase: standby.Phase,
		})
	}
	return view
}

func newGetParticipants(env *environment) *cobra.Command {
	return &cobra.Command{
		Use:   "participants [GROUP[/PARTICIPANT]]",
		Short: "Participants and the instances attached as them",
		Args:  optionalArg("GROUP or GROUP/PARTICIPANT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			group, name, _ := strings.Cut(firstOf(args), "/")
			answer, err := askCluster(env, cmd, pb.ClusterClient.ListParticipants, &pb.ListParticipantsRequest{Group: group})
			if err != nil {
				return err
			}
			view := struct {
				Participants []participantView `json:"participants"`
			}{[]participantView{}}
			for _, participant := range answer.Participants {
				if name == "" || name == participant.Name {
					view.Participants = append(view.Participants, viewParticipant(participant))
				}
			}
			if name != "" && len(view.Participants) == 0 {
				return fmt.Errorf("group %q has no participant %q: 'cohort get participants %s' lists them", group, name, group)
			}
			return env.print(view, func(w *tabwriter.Writer) {
				fmt.Fprintln(w, "GROUP\tNAME\tSTATE\tNODE\tEPOCH\tPOSITION\tLAG\tSTANDBYS\tREASON")
				for _, p := range view.Participants {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\t%d\t%d\t%s\n", p.Group, p.Name, p.State, orDash(p.Node),
						p.Epoch, p.Position, p.Lag, len(p.Standbys), orDash(p.Reason))
					for _, s := range p.Standbys {
						fmt.Fprintln(w, s.row(p.Group+"\t"))
					}
				}
			})
		},
	}
}

// row shows a standby below its participant, after what comes before the name.
func (s instanceView) row(before string) string {
	position, lag := "-", "-"
	if s.OwnState {
		position, lag = fmt.Sprint(s.Position), fmt.Sprint(s.Lag)
	}
	state := "standby"
	if s.Phase != "" {
		state += ", " + s.Phase
	}
	return fmt.Sprintf("%s  %s\t%s\t%s\t-\t%s\t%s", before, shortInstance(s.Instance), state, s.Node, position, lag)
}

// shortInstance is enough of an instance's name to tell it from others.
func shortInstance(name string) string { return name[:min(len(name), 8)] }
