package main

import (
	"context"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
)

func newGetTransactions(env *environment) *cobra.Command {
	var limit uint32
	cmd := &cobra.Command{
		Use:   "transactions [GROUP]",
		Short: "Open and recently decided transactions, of one group or of all",
		Args:  optionalArg("group name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			conn, err := env.connect()
			if err != nil {
				return err
			}
			defer conn.Close()
			ctx, cancel := env.request(cmd)
			defer cancel()
			groups := args
			if len(groups) == 0 {
				if groups, err = groupNames(ctx, pb.NewClusterClient(conn)); err != nil {
					return err
				}
			}
			view := transactionList{Transactions: []transactionView{}}
			for _, group := range groups {
				some, err := listTransactions(ctx, pb.NewTransactionsClient(conn), group, "", limit)
				if err != nil {
					return err
				}
				view.Transactions = append(view.Transactions, some...)
			}
			return env.print(view, view.table)
		},
	}
	cmd.Flags().Uint32Var(&limit, "limit", 100, "at most so many of each group, 1000 at most")
	return cmd
}

func groupNames(ctx context.Context, cluster pb.ClusterClient) ([]string, error) {
	answer, err := cluster.ListGroups(ctx, &pb.ListGroupsRequest{})
	if err != nil {
		return nil, err
	}
	var names []string
	for _, group := range answer.Groups {
		names = append(names, group.Name)
	}
	return names, nil
}

type transactionList struct {
	Transactions []transactionView `json:"transactions"`
}

type transactionView struct {
	Group        string   `json:"group"`
	ID           string   `json:"id"`
	State        string   `json:"state"`
	Begun        uint64   `json:"begun"`
	Position     uint64   `json:"position"`
	Reason       string   `json:"reason"`
	Detail       string   `json:"detail"`
	Participants []string `json:"participants"`
	AgeSeconds   float64  `json:"age_seconds"`
	Time         *string  `json:"time"`
}

func (l transactionList) table(w *tabwriter.Writer) {
	fmt.Fprintln(w, "GROUP\tID\tSTATE\tPOSITION\tREASON\tTIME\tDETAIL")
	for _, t := range l.Transactions {
		position := "-"
		if t.Position > 0 {
			position = fmt.Sprint(t.Position)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", t.Group, t.ID, t.State, position,
			orDash(t.Reason), momentOrDash(t.Time), orDash(t.Detail))
	}
}

func listTransactions(ctx context.Context, client pb.TransactionsClient, group, id string, limit uint32) ([]transactionView, error) {
	answer, err := client.ListTransactions(ctx, &pb.ListTransactionsRequest{Group: group, Id: id, Limit: limit})
	if err != nil {
		return nil, err
	}
	views := []transactionView{}
	for _, t := range answer.Transactions {
		views = append(views, transactionView{
			Group: group, ID: t.Id, State: t.State, Begun: t.Begun, Position: t.Position, Reason: t.Reason,
			Detail: t.Detail, Participants: listed(t.Participants), AgeSeconds: t.AgeSeconds, Time: moment(t.Time),
		})
	}
	return views, nil
}
