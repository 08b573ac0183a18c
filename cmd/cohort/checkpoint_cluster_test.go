package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cohort-tx/cohort/participant/participanttest"
)

// Without it the commands could disagree with what nodes answer: a checkpoint
// would not come back from a file, a restore or a drill.
func TestCheckpointsOfACluster(t *testing.T) {
	c := participanttest.Start(t, `group: checkout
participants: [{name: orders}, {name: ledger}]
checkpoint: {interval: 1h, log_bytes: 0, log_entries: 0, min_gap: 1ms}
`)
	run := func(line string) string {
		t.Helper()
		return mustCLI(t, append(strings.Fields(line), "--addr", c.Addr)...)
	}
	decode := func(out string, into any) {
		t.Helper()
		if err := json.Unmarshal([]byte(out), into); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	orderOf := func(group string) string {
		t.Helper()
		return run("tx run --group " + group + " --get orders/o-1")
	}
	run("tx run --group checkout --put orders/o-1=new --add ledger/revenue=5")

	var taken checkpointView
	decode(run("checkpoint create checkout --wait -o json"), &taken)
	if taken.State != checkpointComplete || taken.Position != 1 || len(taken.Copies) != 1 || len(taken.Participants) != 2 {
		t.Fatalf("taken: %+v", taken)
	}
	run("tx run --group checkout --put orders/o-1=paid")
	if out := run("status"); !strings.Contains(out, fmt.Sprintf("checkpoint %d of position 1", taken.ID)) || !strings.Contains(out, "restorable from position") {
		t.Fatalf("status does not tell of the checkpoint:\n%s", out)
	}
	run("checkpoint verify checkout")

	file := filepath.Join(t.TempDir(), "checkout.tar")
	run("checkpoint export checkout --file " + file)
	run("checkpoint verify --file " + file)
	run("checkpoint import --file " + file + " --as imported")
	if out := orderOf("imported"); !strings.Contains(out, "new") {
		t.Fatalf("imported: %s", out)
	}

	var drilled drillView
	decode(run("drill checkout -o json"), &drilled)
	if !drilled.Equal || drilled.EntriesReplayed == 0 {
		t.Fatalf("drilled: %+v", drilled)
	}

	var restored restoreView
	decode(run(fmt.Sprintf("restore checkout --to checkpoint:%d --as before -o json", taken.ID)), &restored)
	if restored.Group != "before" || restored.Incarnation != 2 || restored.Position != 1 {
		t.Fatalf("restored: %+v", restored)
	}
	if out := orderOf("before"); !strings.Contains(out, "new") {
		t.Fatalf("restored: %s", out)
	}
	decode(run(fmt.Sprintf("restore checkout --to checkpoint:%d --in-place --yes -o json", taken.ID)), &restored)
	if restored.ComeBackCheckpoint <= taken.ID || restored.Incarnation != 2 {
		t.Fatalf("restored in place: %+v", restored)
	}
	if out := orderOf("checkout"); !strings.Contains(out, "new") {
		t.Fatalf("restored in place: %s", out)
	}
	run(fmt.Sprintf("restore checkout --to checkpoint:%d --in-place --yes", restored.ComeBackCheckpoint))
	if out := orderOf("checkout"); !strings.Contains(out, "paid") {
		t.Fatalf("brought back: %s", out)
	}
}
