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
		Use:   "node init",
		Short: "Prepare nodes",
	}
	cmd.AddCommand(newNodeInit(env))
	requireSubcommand(cmd)
	return cmd
}

func newNodeInit(env *environment) *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "init --config FILE",
		Short: "Make a new node's data directory, once in its life",
		Long: `Make the data directory that the node's configuration names. A node does it once in
its life: a directory that was lost must not be made again under the same name,
because the node would vote as if it had never voted.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if path == "" {
				return usagef("node init needs --config FILE; configs/node.yaml is one to begin with")
			}
			config, err := configs.Load(path)
			if err != nil {
				return err
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
