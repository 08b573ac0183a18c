package groups_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/cohort-tx/cohort/groups"
)

func ExampleParse() {
	_, faults := groups.Parse("checkout.yaml", []byte(`
group: checkout
participants: [{name: orders}, {name: ledger}]
checkpoint: {intervall: 2h}
failover: {fail_after: 200ms}
`))
	for _, f := range faults {
		fmt.Println(f.Error())
	}
	// Output:
	// checkout.yaml:4:14: checkpoint.intervall: unknown key `intervall`, did you mean `interval`?
	// checkout.yaml:5:24: failover.fail_after: 200ms is less than two heartbeats, so that a single late one would move participants; want at least 1s
}

func ExampleDiff() {
	before := groups.Default("checkout", "orders")
	after := groups.Default("checkout", "orders", "ledger")
	after.Limits.ValueBytes = 2 << 20
	for _, c := range groups.Diff(&before, &after) {
		fmt.Printf("%s: %s -> %s\n", c.Path, c.Before, c.After)
	}
	// Output:
	// participants[ledger]:  -> {name: ledger}
	// limits.value_bytes: 1MiB -> 2MiB
}

func ExampleDecode() {
	d := groups.Default("checkout", "orders")
	data, err := json.Marshal(d.Clone())
	if err != nil {
		log.Fatal(err)
	}
	back, err := groups.Decode(data)
	fmt.Println(back.Checkpoint.Interval, back.Equal(&d), err)
	// Output: 2h0m0s true <nil>
}

func ExampleOpenDataDir() {
	parent, err := os.MkdirTemp("", "cohort")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(parent)
	dir := filepath.Join(parent, "n1")

	_, err = groups.OpenDataDir(dir, "n1", "demo")
	fmt.Println(errors.Is(err, groups.ErrNoDataDir))
	if err := groups.InitDataDir(dir, "n1", "demo"); err != nil { // once
		log.Fatal(err)
	}
	data, err := groups.OpenDataDir(dir, "n1", "demo")
	if err != nil {
		log.Fatal(err)
	}
	mode, err := data.StartMode(groups.DirectoryShard, 1, false, false)
	fmt.Println(mode, err)
	// Output:
	// true
	// bootstrap <nil>
}
