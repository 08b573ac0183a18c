package main

import "github.com/spf13/cobra"

func newTx(env *environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "tx run|outcome|list|show",
		Short: "Run a transaction, and look at what became of them",
	}
	cmd.AddCommand(newTxRun(env), newTxOutcome(env), newTxList(env), newTxShow(env))
	requireSubcommand(cmd)
	return cmd
}

// requireGroup refuses a command that was not told which group it is about.
func requireGroup(cmd *cobra.Command, group string) error {
	if group == "" {
		return usagef("%s needs --group: 'cohort get groups' lists them", cmd.CommandPath())
	}
	return nil
}
