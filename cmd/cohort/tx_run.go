package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sort"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/cohort-tx/cohort/participant"
)

const (
	outcomeCommitted     = "committed"
	outcomeAborted       = "aborted"
	outcomeIndeterminate = "indeterminate"
)

// answerMargin is what an answer may take beyond the transaction's own time.
const answerMargin = 2 * time.Second

// committedView answers a transaction that committed. Reads are by "P/KEY", null
// where the key is absent; replies by "P/METHOD". Of one read or called twice
// the last counts. An id that had committed before has neither.
type committedView struct {
	Outcome     string                     `json:"outcome"`
	ID          string                     `json:"id"`
	Incarnation uint64                     `json:"incarnation"`
	Position    uint64                     `json:"position"`
	Reads       map[string]*string         `json:"reads"`
	Replies     map[string]json.RawMessage `json:"replies"`
}

type abortedView struct {
	Outcome     string `json:"outcome"`
	ID          string `json:"id"`
	Reason      string `json:"reason"`
	Participant string `json:"participant"`
	Key         string `json:"key"`
	Detail      string `json:"detail"`
}

// indeterminateView says that the outcome is not known, which is no abort, and
// the command that ends the doubt.
type indeterminateView struct {
	Outcome string `json:"outcome"`
	ID      string `json:"id"`
	Begun   uint64 `json:"begun"`
	Detail  string `json:"detail"`
	Next    string `json:"next"`
}

type runFlags struct {
	group, id  string
	attempts   int
	operations []operation
}

func newTxRun(env *environment) *cobra.Command {
	var flags runFlags
	cmd := &cobra.Command{
		Use:   "run --group G [--id ID] OPERATION...",
		Short: "Run one transaction from the command line",
		Long: `Run the operations as one transaction, in the order they are given. Either all of
them happen or none.

  --get P/KEY                        read; the value, or null where there is none
  --put P/KEY=VALUE                  write
  --delete P/KEY                     delete
  --add P/KEY=N[,min=M][,max=M]      add to a counter, within bounds
  --call P/METHOD=JSON               call a method of a participant's application

The participant P ends at the first slash, the key at the first equals sign. With
--id the transaction commits at most once, however often it is tried: trying again
prints the same position. A transaction that lost a race is tried again by itself,
at most --attempts times.`,
		Example: `  cohort tx run --group checkout --put orders/o-1=new --add ledger/revenue=25
  cohort tx run --group checkout --id o-2 --add stock/apple=-3,min=0 --get stock/apple
  cohort tx run --group checkout --call 'inventory/reserve={"sku":"apple","n":1}'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := requireGroup(cmd, flags.group); err != nil {
				return err
			}
			if len(flags.operations) == 0 {
				return usagef("there is nothing to do: give --get, --put, --add, --delete or --call")
			}
			if flags.attempts < 1 {
				return usagef("--attempts %d: a transaction takes at least one", flags.attempts)
			}
			return env.runTransaction(cmd, flags)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&flags.group, "group", "g", "", "group to run it on")
	f.StringVar(&flags.id, "id", "", "id of your own, so that trying again commits once; one is made otherwise")
	f.IntVar(&flags.attempts, "attempts", 20, "how often to try when it loses a race")
	for _, op := range []struct {
		kind        operationKind
		form, about string
	}{
		{operationGet, "P/KEY", "read a key"},
		{operationPut, "P/KEY=VALUE", "write a key"},
		{operationDelete, "P/KEY", "delete a key"},
		{operationAdd, "P/KEY=N[,min=M][,max=M]", "add to a counter, within bounds"},
		{operationCall, "P/METHOD=JSON", "call a participant's application"},
	} {
		f.Var(operationFlag{kind: op.kind, form: op.form, into: &flags.operations}, string(op.kind), op.about)
	}
	return cmd
}

func (e *environment) runTransaction(cmd *cobra.Command, flags runFlags) error {
	client, err := e.dial()
	if err != nil {
		return err
	}
	defer client.Close()
	// The cluster is given the time first, so that it is the one to say why.
	ctx, cancel := context.WithTimeout(cmd.Context(), e.timeout+answerMargin)
	defer cancel()

	view := committedView{Outcome: outcomeCommitted}
	options := []participant.TxOption{participant.MaxAttempts(flags.attempts), participant.Timeout(e.timeout)}
	if flags.id != "" {
		options = append(options, participant.ID(flags.id), participant.Request(requestText(flags.operations)))
	}
	id := flags.id
	receipt, err := client.Group(flags.group).Run(ctx, func(tx *participant.Tx) error {
		id = tx.ID()
		view.Reads, view.Replies = map[string]*string{}, map[string]json.RawMessage{}
		for _, op := range flags.operations {
			if err := op.run(tx, &view); err != nil {
				return err
			}
		}
		return nil
	}, options...)
	if err != nil {
		return e.reportFailure(ctx, flags.group, id, err)
	}
	if view.Reads == nil { // committed before: nothing was run
		view.Reads, view.Replies = map[string]*string{}, map[string]json.RawMessage{}
	}
	view.ID, view.Incarnation, view.Position = receipt.ID, receipt.Incarnation, receipt.Position
	return e.print(view, view.table)
}

// run performs one operation inside the transaction.
func (op operation) run(tx *participant.Tx, view *committedView) error {
	store := tx.Store(op.participant)
	name := op.participant + "/" + op.name
	switch op.kind {
	case operationGet:
		value, found, err := store.GetBytes(op.name)
		if err != nil {
			return err
		}
		view.Reads[name] = nil
		if found {
			shown := text(value)
			view.Reads[name] = &shown
		}
		return nil
	case operationPut:
		return store.Put(op.name, []byte(op.value))
	case operationDelete:
		return store.Delete(op.name)
	case operationAdd:
		var bounds []participant.Bound
		if op.atLeast != nil {
			bounds = append(bounds, participant.AtLeast(*op.atLeast))
		}
		if op.atMost != nil {
			bounds = append(bounds, participant.AtMost(*op.atMost))
		}
		return store.Add(op.name, op.delta, bounds...)
	default:
		var reply []byte
		err := tx.Call(op.participant, op.name, json.RawMessage(op.value), &reply)
		var failed *participant.CallError
		if errors.As(err, &failed) && failed.Code == participant.CallRecovering {
			return &nobodyThere{failed}
		}
		if err != nil {
			return err
		}
		view.Replies[name] = replyJSON(reply)
		return nil
	}
}

// nobodyThere is a call that waited in vain for an instance. It hides its cause
// from Run, which would wait again and again: whoever typed the command can
// rather attach one.
type nobodyThere struct{ call *participant.CallError }

func (e *nobodyThere) Error() string { return e.call.Error() }

// replyJSON shows a reply as the JSON it is, or as a string when it is none.
func replyJSON(reply []byte) json.RawMessage {
	if json.Valid(reply) {
		return reply
	}
	quoted, err := json.Marshal(text(reply))
	if err != nil {
		panic("cohort: a string always encodes: " + err.Error())
	}
	return quoted
}

// reportFailure prints how a transaction ended that did not commit. What is
// neither an abort nor a doubt is a failed request: only an error.
func (e *environment) reportFailure(ctx context.Context, group, id string, err error) error {
	var unknown *participant.IndeterminateError
	if errors.As(err, &unknown) {
		view := indeterminateView{
			Outcome: outcomeIndeterminate, ID: unknown.ID, Begun: unknown.Begun, Detail: unknown.Detail,
			Next: fmt.Sprintf("cohort tx outcome %s --group %s --begun %d --settle", unknown.ID, group, unknown.Begun),
		}
		if view.Detail == "" && errors.Unwrap(unknown) != nil {
			view.Detail = errors.Unwrap(unknown).Error()
		}
		return e.failed(view, fmt.Errorf("%s may or may not have committed: %s; to end the doubt: %s", view.ID, view.Detail, view.Next))
	}
	view, aborted := viewAbort(id, err)
	if !aborted && ctx.Err() != nil {
		view = abortedView{ID: id, Reason: string(participant.ReasonTimeout), Detail: fmt.Sprintf("no answer within --timeout; nothing was committed (%v)", err)}
		aborted = true
	}
	if !aborted {
		return err
	}
	view.Outcome = outcomeAborted
	text := fmt.Sprintf("%s aborted: %s", view.ID, abortText(view.Reason, view.Participant, view.Key, view.Detail))
	if next := advice(participant.Reason(view.Reason)); next != "" {
		text += "; " + next
	}
	return e.failed(view, errors.New(text))
}

// failed prints a result that is a failure as data, where data is asked for, and
// returns the error that tells it to a person.
func (e *environment) failed(view any, failure error) error {
	if e.output != formatTable {
		if err := e.print(view, nil); err != nil {
			return err
		}
	}
	return failure
}

// advice says what to do about an abort, where its detail does not.
func advice(reason participant.Reason) string {
	switch reason {
	case participant.ReasonConflict, participant.ReasonMoved, participant.ReasonSnapshotTooOld, participant.ReasonSuperseded, participant.ReasonExpired:
		return "run it again"
	case participant.ReasonOverloaded:
		return "run it again in a moment"
	case participant.ReasonRecovering:
		return "'cohort get participants' tells whether an instance is attached"
	case participant.ReasonTimeout:
		return "run it again, with a longer --timeout if it needs one"
	case participant.ReasonIDReused:
		return "use another --id, or the same operations"
	case participant.ReasonUnknownParticipant:
		return "'cohort get participants' lists them"
	case participant.ReasonTooLarge:
		return "make it smaller, or raise the group's limits"
	default:
		return ""
	}
}

// viewAbort turns an abort, or a call that a handler refused, into its answer.
func viewAbort(id string, err error) (abortedView, bool) {
	var abort *participant.AbortError
	if errors.As(err, &abort) {
		if abort.ID != "" {
			id = abort.ID
		}
		return abortedView{
			ID: id, Reason: string(abort.Reason), Participant: abort.Participant,
			Key: text([]byte(abort.Key)), Detail: abort.Detail,
		}, true
	}
	var (
		call   *participant.CallError
		nobody *nobodyThere
	)
	if errors.As(err, &nobody) {
		call = nobody.call
	} else if !errors.As(err, &call) {
		return abortedView{}, false
	}
	reason := participant.ReasonVote
	switch call.Code {
	case participant.CallTimeout:
		reason = participant.ReasonTimeout
	case participant.CallRecovering, participant.CallInstanceLost:
		reason = participant.ReasonRecovering
	case participant.CallTooLarge:
		reason = participant.ReasonTooLarge
	}
	detail := call.Message
	if call.Code != participant.CallRefused {
		detail = fmt.Sprintf("%s: %s", call.Code, call.Message)
	}
	return abortedView{ID: id, Reason: string(reason), Participant: call.Participant, Detail: detail}, true
}

func (v committedView) table(w *tabwriter.Writer) {
	fmt.Fprintf(w, "%s committed at position %d\n", v.ID, v.Position)
	for _, name := range sortedKeys(v.Reads) {
		value := "(absent)"
		if read := v.Reads[name]; read != nil {
			value = *read
		}
		fmt.Fprintf(w, "  %s\t%s\n", name, value)
	}
	for _, name := range sortedKeys(v.Replies) {
		fmt.Fprintf(w, "  %s\t%s\n", name, v.Replies[name])
	}
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys
}
