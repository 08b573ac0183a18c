package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/cohort-tx/cohort/configs"
	"github.com/cohort-tx/cohort/groups"
)

func newNode(env *environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "node COMMAND",
		Short: "Prepare nodes; add, remove and rebuild them in a running cluster",
		Long: `Prepare the nodes of a new cluster, and change which nodes a running one has.

A change is recorded, and the cluster carries it out one safe step at a time: new
replicas join without a vote and get one when they are caught up; old ones leave
when no quorum is lost by it. It goes on after any crash. 'cohort node list' shows
what is under way.`,
	}
	cmd.AddCommand(newNodeInit(env), newNodeList(env), newNodeJoin(env), newNodeRemove(env), newNodeReplace(env))
	requireSubcommand(cmd)
	return cmd
}

func newNodeInit(env *environment) *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "init --config FILE",
		Short: "Make the data directory of a node of a new cluster, once in its life",
		Long: `Make the data directory that the node's configuration names. A node does it once in
its life: a directory that was lost must not be made again under the same name,
because the node would vote as if it had never voted. 'cohort node replace' is for
that, and 'cohort node join' for a node of a cluster that runs already.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			config, err := nodeConfig("init", path)
			if err != nil {
				return err
			}
			if config.InitialReplicaID() == 0 {
				return fmt.Errorf("%s: node %s is none of the initial nodes that `cluster` lists; add it to the running cluster with 'cohort node join --config %s'", path, config.Name, path)
			}
			if err := groups.InitDataDir(config.DataDir, config.Name, config.ClusterID()); err != nil {
				return err
			}
			view := struct {
				Name    string `json:"name"`
				DataDir string `json:"data_dir"`
			}{config.Name, config.DataDir}
			return env.print(view, func(w *tabwriter.Writer) {
				fmt.Fprintf(w, "node %s: %s is ready; start it with 'cohort serve --config %s'\n", view.Name, view.DataDir, path)
			})
		},
	}
	cmd.Flags().StringVarP(&path, "config", "c", "", "the node's configuration file")
	return cmd
}

func nodeConfig(command, path string) (configs.Node, error) {
	if path == "" {
		return configs.Node{}, usagef("node %s needs --config FILE; configs/node.yaml is one to begin with", command)
	}
	return configs.Load(path)
}
