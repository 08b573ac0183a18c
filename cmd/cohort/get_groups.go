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
	Name            string          `json:"name"`
	Incarnation     uint64          `json:"incarnation"`
	Replicas        []string        `json:"replicas"`
	Coordinator     string          `json:"coordinator"`
	CoordinatorAddr string          `json:"coordinator_addr"`
	Version         uint64          `json:"version"`
	Position        uint64          `json:"position"`
	Participants    []string        `json:"participants"`
	Definition      json.RawMessage `json:"definition"`
}

func viewGroup(group *pb.GroupInfo) groupView {
	definition := json.RawMessage(group.DefinitionJson)
	if len(definition) == 0 {
		definition = json.RawMessage("null")
	}
	return groupView{
		Name: group.Name, Incarnation: group.Incarnation, Replicas: listed(group.Replicas),
		Coordinator: group.Coordinator, CoordinatorAddr: group.CoordinatorAddr, Version: group.Version,
		Position: group.Position, Participants: listed(group.Participants), Definition: definition,
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
			view := struct {
				Groups []groupView `json:"groups"`
			}{[]groupView{}}
			for _, group := range answer.Groups {
				view.Groups = append(view.Groups, viewGroup(group))
			}
			return env.print(view, func(w *tabwriter.Writer) {
				fmt.Fprintln(w, "NAME\tPARTICIPANTS\tREPLICAS\tCOORDINATOR\tPOSITION\tVERSION\tINCARNATION")
				for _, group := range view.Groups {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\t%d\n", group.Name,
						strings.Join(group.Participants, ","), strings.Join(group.Replicas, ","),
						orDash(group.Coordinator), group.Position, group.Version, group.Incarnation)
				}
			})
		},
	}
}
