package participant_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cohort-tx/cohort/participant"
)

// exampleNode is a group "shop" with participants orders, inventory and ledger,
// in memory; the examples use it as a cluster.
func exampleNode() (addr string, stop func()) {
	g := newFakeGroup("orders", "inventory", "ledger")
	g.set("inventory", "apple", "5")
	node := g.startNode("127.0.0.1:0")
	return node.addr, node.server.Stop
}

func Example() {
	addr, stop := exampleNode()
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	// A service: the inventory, with one method.
	active := make(chan participant.ServeState, 1)
	app := participant.New("shop", "inventory")
	app.Handle("reserve", participant.Func(func(ctx context.Context, tx *participant.StepTx, in Reserve) (string, error) {
		return "reserved for " + tx.ID(), tx.Store().Add(in.SKU, -in.N, participant.AtLeast(0))
	}))
	app.OnState(func(s participant.ServeState) { active <- s })
	serving, leave := context.WithCancel(ctx)
	defer leave()
	left := make(chan error, 1)
	go func() { left <- app.Serve(serving, addr) }()
	<-active

	// A workflow.
	client, err := participant.Dial(addr)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	var note string
	_, err = client.Group("shop").Run(ctx, func(tx *participant.Tx) error {
		if err := tx.Call("inventory", "reserve", Reserve{SKU: "apple", N: 2}, &note); err != nil {
			return err
		}
		return tx.Store("ledger").Add("revenue", 398)
	}, participant.ID("order-17"))
	fmt.Println(note, err)

	leave()
	fmt.Println(<-left)
	// Output:
	// reserved for order-17 <nil>
	// <nil>
}

func ExampleGroup_Run() {
	addr, stop := exampleNode()
	defer stop()
	client, _ := participant.Dial(addr)
	defer client.Close()

	place := func() {
		receipt, err := client.Group("shop").Run(context.Background(), func(tx *participant.Tx) error {
			fmt.Println("placing", tx.ID())
			return errors.Join(
				tx.Store("orders").Put("order-17", map[string]int{"apple": 3}),
				tx.Store("inventory").Add("apple", -3, participant.AtLeast(0)))
		}, participant.ID("order-17"))
		fmt.Println(receipt.Position, err)
	}
	place()
	place() // the id committed: the same receipt, and nothing runs
	// Output:
	// placing order-17
	// 2 <nil>
	// 2 <nil>
}

func ExampleAbortError() {
	addr, stop := exampleNode()
	defer stop()
	client, _ := participant.Dial(addr)
	defer client.Close()

	_, err := client.Group("shop").Run(context.Background(), func(tx *participant.Tx) error {
		return tx.Store("inventory").Add("apple", -9, participant.AtLeast(0))
	})
	var abort *participant.AbortError
	fmt.Println(errors.Is(err, participant.ErrConstraint), errors.As(err, &abort), participant.Retryable(err))
	fmt.Println(abort.Participant, abort.Key)
	// Output:
	// true true false
	// inventory apple
}

func ExampleGroup_Begin() {
	addr, stop := exampleNode()
	defer stop()
	client, _ := participant.Dial(addr)
	defer client.Close()
	ctx := context.Background()

	tx, err := client.Group("shop").Begin(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer tx.Abort(ctx) // does nothing after Commit
	var left int
	found, err := tx.Store("inventory").Get("apple", &left)
	fmt.Println(left, found, err)
	if err := tx.Store("inventory").Put("apple", left+1); err != nil {
		fmt.Println(err)
		return
	}
	receipt, err := tx.Commit(ctx)
	fmt.Println(receipt.Position, err)
	// Output:
	// 5 true <nil>
	// 2 <nil>
}

func ExampleGroup_View() {
	addr, stop := exampleNode()
	defer stop()
	client, _ := participant.Dial(addr)
	defer client.Close()

	err := client.Group("shop").View(context.Background(), func(tx *participant.ReadTx) error {
		for item, err := range tx.Store("inventory").Scan("", participant.Limit(10)) {
			if err != nil {
				return err
			}
			fmt.Println(item.Key, string(item.Value))
		}
		return nil
	})
	fmt.Println(err)
	// Output:
	// apple 5
	// <nil>
}

func ExampleGroup_Outcome() {
	addr, stop := exampleNode()
	defer stop()
	client, _ := participant.Dial(addr)
	defer client.Close()

	out, err := client.Group("shop").Outcome(context.Background(), "order-17")
	fmt.Println(out.State, err)
	out, err = client.Group("shop").Outcome(context.Background(), "order-17", participant.Settle())
	fmt.Println(out.State, err)
	// Output:
	// unknown <nil>
	// aborted <nil>
}

func ExampleGroup_Log() {
	addr, stop := exampleNode()
	defer stop()
	client, _ := participant.Dial(addr)
	defer client.Close()

	for entry, err := range client.Group("shop").Log(context.Background(), 1, participant.NoWait()) {
		if err != nil {
			fmt.Println(err)
			return
		}
		for _, c := range entry.Changes {
			fmt.Println(entry.Position, c.Kind, c.Participant, c.Key, string(c.Value))
		}
	}
	// Output:
	// 1 put inventory apple 5
}

func ExampleApp_HandleAny() {
	app := participant.New("shop", "orders")
	app.HandleAny(func(_ context.Context, tx *participant.StepTx, in participant.Payload) (participant.Payload, error) {
		return in, tx.Store().Put("last/"+tx.Method(), in.Data)
	})
	// Output:
}
