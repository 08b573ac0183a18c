package main

import (
	"fmt"

	"github.com/spf13/cobra"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
)

func newTxList(env *environment) *cobra.Command {
	var (
		group string
		limit uint32
	)
	cmd := &cobra.Command{
		Use:   "list --group G",
		Short: "Open and recently decided transactions of a group",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := requireGroup(cmd, group); err != nil {
				return err
			}
			list, err := env.fetchTransactions(cmd, group, "", limit)
			if err != nil {
				return err
			}
			return env.print(list, list.table)
		},
	}
	cmd.Flags().StringVarP(&group, "group", "g", "", "group to look at")
	cmd.Flags().Uint32Var(&limit, "limit", 100, "at most so many, 1000 at most")
	return cmd
}

func newTxShow(env *environment) *cobra.Command {
	var group string
	cmd := &cobra.Command{
		Use:   "show ID --group G",
		Short: "One transaction: open, or as it was decided",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := requireGroup(cmd, group); err != nil {
				return err
			}
			list, err := env.fetchTransactions(cmd, group, args[0], 0)
			if err != nil {
				return err
			}
			if len(list.Transactions) == 0 {
				return fmt.Errorf("group %s shows no transaction %q: 'cohort tx outcome %s --group %s' says what is known of it", group, args[0], args[0], group)
			}
			return env.print(list, list.table)
		},
	}
	cmd.Flags().StringVarP(&group, "group", "g", "", "the transaction's group")
	return cmd
}

func (e *environment) fetchTransactions(cmd *cobra.Command, group, id string, limit uint32) (transactionList, error) {
	conn, err := e.connect()
	if err != nil {
		return transactionList{}, err
	}
	defer conn.Close()
	ctx, cancel := e.request(cmd)
	defer cancel()
	some, err := listTransactions(ctx, pb.NewTransactionsClient(conn), group, id, limit)
	return transactionList{Transactions: some}, err
}
