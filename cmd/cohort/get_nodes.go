package main

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
)

type nodeView struct {
	Name            string   `json:"name"`
	Addr            string   `json:"addr"`
	RaftAddr        string   `json:"raft_addr"`
	State           string   `json:"state"`
	Groups          []string `json:"groups"`
	Version         string   `json:"version"`
	DirectoryLeader bool     `json:"directory_leader"`
}

func viewNode(node *pb.NodeInfo) nodeView {
	return nodeView{
		Name: node.Name, Addr: node.Addr, RaftAddr: node.RaftAddr, State: node.State,
		Groups: listed(node.Groups), Version: node.Version, DirectoryLeader: node.DirectoryLeader,
	}
}

func newGetNodes(env *environment) *cobra.Command {
	return &cobra.Command{
		Use:   "nodes [NAME]",
		Short: "Nodes, where they are and what they hold",
		Args:  optionalArg("node name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			answer, err := askCluster(env, cmd, pb.ClusterClient.ListNodes, &pb.ListNodesRequest{})
			if err != nil {
				return err
			}
			view := struct {
				Nodes []nodeView `json:"nodes"`
			}{[]nodeView{}}
			for _, node := range answer.Nodes {
				if name := firstOf(args); name == "" || name == node.Name {
					view.Nodes = append(view.Nodes, viewNode(node))
				}
			}
			if len(args) > 0 && len(view.Nodes) == 0 {
				return fmt.Errorf("no node is named %q: 'cohort get nodes' lists them", args[0])
			}
			return env.print(view, func(w *tabwriter.Writer) {
				fmt.Fprintln(w, "NAME\tADDR\tRAFT\tSTATE\tGROUPS\tVERSION")
				for _, node := range view.Nodes {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", node.Name, node.Addr, node.RaftAddr,
						node.State, orDash(strings.Join(node.Groups, ",")), orDash(node.Version))
				}
			})
		},
	}
}
