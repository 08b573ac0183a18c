package main

import (
	"github.com/spf13/cobra"
)

func newGet(env *environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "get nodes|groups|participants|checkpoints|transactions [NAME]",
		Short: "List what the cluster holds",
	}
	cmd.AddCommand(newGetNodes(env), newGetGroups(env), newGetParticipants(env), newGetCheckpoints(env), newGetTransactions(env))
	requireSubcommand(cmd)
	return cmd
}

// optionalArg accepts none or one argument and names what it would be.
func optionalArg(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > 1 {
			return usagef("%s takes one %s at most, not %d", cmd.CommandPath(), what, len(args))
		}
		return nil
	}
}

func firstOf(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}
