package main

import (
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
)

// outcomeView is what became of an id. State is committed, aborted, pending,
// unknown or unknown_before_horizon.
type outcomeView struct {
	ID          string  `json:"id"`
	State       string  `json:"state"`
	Incarnation uint64  `json:"incarnation,omitempty"`
	Position    uint64  `json:"position,omitempty"`
	Begun       uint64  `json:"begun,omitempty"`
	Time        *string `json:"time,omitempty"`
	Reason      string  `json:"reason,omitempty"`
	Participant string  `json:"participant,omitempty"`
	Key         string  `json:"key,omitempty"`
	Detail      string  `json:"detail,omitempty"`
	Horizon     uint64  `json:"horizon"`
}

func viewOutcome(id string, answer *pb.OutcomeResponse) outcomeView {
	view := outcomeView{
		ID:      id,
		State:   strings.ToLower(strings.TrimPrefix(answer.State.String(), "STATE_")),
		Horizon: answer.Horizon,
	}
	if r := answer.Receipt; r != nil {
		view.Incarnation, view.Position, view.Begun, view.Time = r.Incarnation, r.Position, r.Begun, moment(r.Time)
	}
	if a := answer.Abort; a != nil {
		view.Reason, view.Participant, view.Key, view.Detail = reasonName(a.Reason), a.Participant, text(a.Key), a.Detail
	}
	return view
}

// reasonName is the reason's name in JSON: conflict, constraint, vote, …
func reasonName(reason pb.Reason) string {
	return strings.ToLower(strings.TrimPrefix(reason.String(), "REASON_"))
}

func newTxOutcome(env *environment) *cobra.Command {
	var (
		group  string
		begun  uint64
		settle bool
	)
	cmd := &cobra.Command{
		Use:   "outcome ID --group G [--settle]",
		Short: "What became of a transaction; --settle ends the doubt",
		Long: `Look up what became of a transaction id. Looking changes nothing. With --settle an
undecided attempt can never commit afterwards; one that is open and alive is
ended by it.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := requireGroup(cmd, group); err != nil {
				return err
			}
			conn, err := env.connect()
			if err != nil {
				return err
			}
			defer conn.Close()
			ctx, cancel := env.request(cmd)
			defer cancel()
			answer, err := pb.NewTransactionsClient(conn).Outcome(ctx, &pb.OutcomeRequest{
				Group: group, Id: args[0], Begun: begun, Settle: settle,
			})
			if err != nil {
				return err
			}
			view := viewOutcome(args[0], answer)
			if err := env.print(view, view.table); err != nil {
				return err
			}
			return view.verdict(group)
		},
	}
	cmd.Flags().StringVarP(&group, "group", "g", "", "the transaction's group")
	cmd.Flags().Uint64Var(&begun, "begun", 0, "ask about attempts begun up to this Raft index; 0 means up to now")
	cmd.Flags().BoolVar(&settle, "settle", false, "write a tombstone, so that an undecided attempt never commits")
	return cmd
}

func (v outcomeView) table(w *tabwriter.Writer) {
	switch v.State {
	case "committed":
		fmt.Fprintf(w, "%s committed at position %d of incarnation %d, %s\n", v.ID, v.Position, v.Incarnation, momentOrDash(v.Time))
	case "aborted":
		fmt.Fprintf(w, "%s aborted: %s\n", v.ID, abortText(v.Reason, v.Participant, v.Key, v.Detail))
	case "pending":
		fmt.Fprintf(w, "%s is open or being decided\n", v.ID)
	case "unknown":
		fmt.Fprintf(w, "%s has left no trace: never seen, given up before its decision, or not decided yet\n", v.ID)
	default:
		fmt.Fprintf(w, "%s may be older than what the group remembers (Raft index %d): this is not an abort\n", v.ID, v.Horizon)
	}
}

// verdict makes an outcome that is still in doubt a failure that says what ends it.
func (v outcomeView) verdict(group string) error {
	switch v.State {
	case "committed", "aborted":
		return nil
	case "pending", "unknown":
		return fmt.Errorf("%s is not decided: 'cohort tx outcome %s --group %s --settle' ends the doubt", v.ID, v.ID, group)
	default:
		return errors.New("the outcome is older than the group's outcomes.age and count allow to remember")
	}
}

// abortText says who aborted and why, on one line.
func abortText(reason, participant, key, detail string) string {
	said := reason
	if participant != "" {
		where := participant
		if key != "" {
			where += "/" + key
		}
		said += " at " + where
	}
	if detail != "" {
		said += ": " + detail
	}
	return said
}
