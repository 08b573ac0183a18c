package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/internal/cluster"
)

// nodeChangeView is what a change of the nodes has begun, or would.
type nodeChangeView struct {
	Name   string     `json:"name"`
	DryRun bool       `json:"dry_run"`
	Steps  []stepView `json:"steps"`
	// DirectoryReplica of a node that comes; 0 otherwise.
	DirectoryReplica uint64 `json:"directory_replica"`
}

// show prints it; next says what is left for the operator.
func (v nodeChangeView) show(env *environment, done, next string) error {
	return env.print(v, func(w *tabwriter.Writer) {
		if v.DryRun {
			fmt.Fprintf(w, "node %s (dry run: nothing was changed):\n", v.Name)
		} else {
			fmt.Fprintf(w, "node %s %s; the cluster does the rest by itself:\n", v.Name, done)
		}
		for _, s := range v.Steps {
			fmt.Fprintf(w, "  %s\n", s.line())
		}
		if !v.DryRun {
			fmt.Fprintln(w, next)
		}
	})
}

func newNodeJoin(env *environment) *cobra.Command {
	return newNodeArrival(env, cluster.Joins, &cobra.Command{
		Use:   "join --config FILE",
		Short: "Add a new node to a running cluster; run it on the new node",
		Long: `Make the data directory of a new node and announce it to the cluster at --addr. Then
start it with 'cohort serve'. Groups with 'replicas: all' get a replica there once it
has started; others when 'cohort apply' names it.

The node's file has a name and addresses of its own, and under 'cluster' the same
initial nodes as the files of the others. For a cluster that began with one node
whose file lists none, that is this one node.`,
		Example: `  cohort node join --config n4.yaml --addr 10.0.0.1:7070
  cohort serve --config n4.yaml`,
	}, "is announced")
}

func newNodeReplace(env *environment) *cobra.Command {
	return newNodeArrival(env, cluster.Returns, &cobra.Command{
		Use:   "replace --config FILE",
		Short: "Rebuild a node whose data is lost; run it on that node",
		Long: `Make a new data directory for a node whose old one is lost, and have the cluster
rebuild the node: its old replicas are removed, new ones join without a vote, and
get one when they are caught up. Then start it with 'cohort serve'.

It is refused while the node answers with its old data, and when a group or the
directory has lost its quorum with it.`,
		Example: `  cohort node replace --config n3.yaml --addr 10.0.0.1:7070
  cohort serve --config n3.yaml`,
	}, "begins anew")
}

func newNodeArrival(env *environment, how cluster.Arrival, cmd *cobra.Command, done string) *cobra.Command {
	var (
		path string
		dry  bool
	)
	cmd.Args = cobra.NoArgs
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		config, err := nodeConfig(cmd.Name(), path)
		if err != nil {
			return err
		}
		conn, err := env.connect()
		if err != nil {
			return err
		}
		defer conn.Close()
		ctx, cancel := env.request(cmd)
		defer cancel()
		arrive := cluster.Announce
		if dry {
			arrive = cluster.Foretell
		}
		answer, err := arrive(ctx, pb.NewNodesClient(conn), config, how)
		if err != nil {
			return err
		}
		view := nodeChangeView{Name: config.Name, DryRun: dry, Steps: viewSteps(answer.Steps), DirectoryReplica: answer.DirectoryReplica}
		return view.show(env, done, fmt.Sprintf("start it with 'cohort serve --config %s'; 'cohort node list --wait' tells when it is done", path))
	}
	cmd.Flags().StringVarP(&path, "config", "c", "", "the node's configuration file")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only show what would be done, or why it is refused")
	return cmd
}

func newNodeRemove(env *environment) *cobra.Command {
	var dry, stay, wait bool
	cmd := &cobra.Command{
		Use:   "remove NAME",
		Short: "Take a node out of the cluster, running or lost",
		Long: `Take a node out: its replicas of groups first, then its replica of the directory.
A node that runs ends by itself when it is out; its data directory may be deleted.

It is refused, with the reason, when a quorum would be lost by it, when a group
names the node in 'replicas', and for the last node.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			conn, err := env.connect()
			if err != nil {
				return err
			}
			defer conn.Close()
			ctx, cancel := env.request(cmd)
			defer cancel()
			answer, err := pb.NewNodesClient(conn).RemoveNode(ctx, &pb.RemoveNodeRequest{Name: args[0], DryRun: dry, Cancel: stay})
			if err != nil {
				return err
			}
			if wait && !dry {
				return env.awaitMembers(cmd)
			}
			view := nodeChangeView{Name: args[0], DryRun: dry, Steps: viewSteps(answer.Steps)}
			done := "leaves"
			if stay {
				done = "stays"
			}
			return view.show(env, done, "'cohort node list --wait' tells when it is done")
		},
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only show what would be done, or why it is refused")
	cmd.Flags().BoolVar(&stay, "cancel", false, "take an earlier removal back, as long as the node holds replicas")
	cmd.Flags().BoolVar(&wait, "wait", false, "return when the node is out")
	return cmd
}
