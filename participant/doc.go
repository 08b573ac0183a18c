// Package participant is what an application imports to use Cohort: to run
// transactions over the applications of a consistency group (a workflow), to be
// one of those applications (a service), or both.
//
// # A workflow
//
// Dial gives a Client, Client.Group a group, and Group.Run runs a function as a
// transaction: everything it does through its Tx happens at all participants or
// at none. Run tries again when the transaction lost a race, and asks again when
// an answer got lost, so the function may run several times; only what it does
// through the Tx is undone by an abort.
//
//	receipt, err := client.Group("checkout").Run(ctx, func(tx *participant.Tx) error {
//		var r Reserved
//		if err := tx.Call("inventory", "reserve", Reserve{SKU: sku, N: 1}, &r); err != nil {
//			return err
//		}
//		return tx.Store("ledger").Add("revenue", r.Price)
//	}, participant.ID(orderID))
//
// # A service
//
// New names the participant, App.Handle gives a method its handler, and
// App.Serve attaches to a node and answers until its context ends. A handler
// reads and stages changes through its StepTx; they are applied when the
// transaction commits, and never otherwise.
//
// # A service with state of its own
//
// App.State gives an App an OwnState: a handler locks what it reads (StepTx.Lock)
// and logs what is to be changed (StepTx.Log); when the transaction has committed,
// OwnState.Apply gets it, once and in the log's order. Checkpoints capture the
// state, and a new process or another node is brought to the group's position by a
// captured state and the log after it. docs/participants.md has the contract of each
// callback.
//
// # What is guaranteed
//
// Read-write transactions are strictly serializable. An id that the caller chose
// commits at most once within the group's outcome window (24 hours unless
// configured otherwise), however often and through whichever node it is tried.
// An error that is an *AbortError means that nothing happened. An
// *IndeterminateError means that the outcome is not known yet, which is not the
// same; Group.Outcome settles it.
//
// All reads of a transaction see one snapshot and the transaction's own earlier
// writes.
//
// # Values
//
// A store keeps bytes. Put and Get take []byte and string as they are,
// proto.Message in its wire format, and everything else as JSON. A counter is a
// decimal integer, so Add works on what Put wrote from an int, and the reverse.
//
// Clients, groups and apps are safe for concurrent use. A Tx, a ReadTx and a
// StepTx belong to the one goroutine that runs their function. They carry its
// context, as an http.Request does.
package participant
