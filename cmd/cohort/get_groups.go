package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
)

type groupView struct {
	Name            string   `json:"name"`
	Incarnation     uint64   `json:"incarnation"`
	Replicas        []string `json:"replicas"`
	Coordinator     string   `json:"coordinator"`
	CoordinatorAddr string   `json:"coordinator_addr"`
	Version         uint64   `json:"version"`
	Position        uint64   `json:"position"`
	Participants    []string `json:"participants"`
	checkpointState
	Definition json.RawMessage `json:"definition"`
}

func viewGroup(group *pb.GroupInfo, states map[string]checkpointState) groupView {
	definition := json.RawMessage(group.DefinitionJson)
	if len(definition) == 0 {
		definition = json.RawMessage("null")
	}
	return groupView{
		Name: group.Name, Incarnation: group.Incarnation, Replicas: listed(group.Replicas),
		Coordinator: group.Coordinator, CoordinatorAddr: group.CoordinatorAddr, Version: group.Version,
		Position: group.Position, Participants: listed(group.Participants), checkpointState: states[group.Name], Definition: definition,
	}
}

func newGetGroups(env *environment) *cobra.Command {
	return &cobra.Command{
		Use:   "groups [NAME]",
		Short: "Groups, with their whole definition in JSON and YAML",
		Args:  optionalArg("group name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			answer, err := askCluster(env, cmd, pb.ClusterClient.ListGroups, &pb.ListGroupsRequest{Name: firstOf(args)})
			if err != nil {
				return err
			}
			if len(args) > 0 && len(answer.Groups) == 0 {
				return fmt.Errorf("no group is named %q: 'cohort get groups' lists them, 'cohort apply -f' declares one", args[0])
			}
			states, err := checkpointStates(env, cmd, firstOf(args))
			if err != nil {
				return err
			}
			view := struct {
				Groups []groupView `json:"groups"`
			}{[]groupView{}}
			for _, group := range answer.Groups {
				view.Groups = append(view.Groups, viewGroup(group, states))
			}
			return env.print(view, func(w *tabwriter.Writer) {
				fmt.Fprintln(w, "NAME\tPARTICIPANTS\tREPLICAS\tCOORDINATOR\tPOSITION\tVERSION\tINCARNATION\tCHECKPOINT\tAGE\tRESTORABLE FROM")
				for _, group := range view.Groups {
					checkpoint, age, from := group.columns()
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\t%d\t%s\t%s\t%s\n", group.Name,
						strings.Join(group.Participants, ","), strings.Join(group.Replicas, ","),
						orDash(group.Coordinator), group.Position, group.Version, group.Incarnation, checkpoint, age, from)
				}
			})
		},
	}
}

// checkpointStates asks what each group could be restored from.
func checkpointStates(env *environment, cmd *cobra.Command, group string) (map[string]checkpointState, error) {
	answer, err := askCluster(env, cmd, pb.ClusterClient.Status, &pb.StatusRequest{Group: group})
	if err != nil {
		return nil, err
	}
	states := make(map[string]checkpointState)
	for _, g := range answer.Groups {
		states[g.Name] = viewCheckpointState(g)
	}
	return states, nil
}

func (c checkpointState) columns() (checkpoint, age, from string) {
	if c.Checkpoint == 0 {
		return "-", "-", "-"
	}
	return fmt.Sprint(c.Checkpoint), ageText(c.CheckpointAgeSeconds), fmt.Sprint(c.RestorableFrom)
}
