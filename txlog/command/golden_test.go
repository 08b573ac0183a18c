package command_test

import (
	"bytes"
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/cohort-tx/cohort/txlog/command"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

// TestGolden holds the formats to what is on disks and in logs already: a change
// that this test notices needs a new version, and a decoder for the old one.
func TestGolden(t *testing.T) {
	entry, entry2 := someEntry(), someEntry2()
	for name, data := range map[string][]byte{
		"batch-1":             command.AppendBatch(nil, everything()),
		"batch-1-checkpoints": command.AppendBatch(nil, everyCheckpointCommand()),
		"batch-1-own-state":   command.AppendBatch(nil, everyOwnStateCommand()),
		"results-1":           command.AppendResults(nil, someResults()),
		"results-2":           command.AppendResults(nil, numberedResults()),
		"entry-1":             command.AppendEntry(nil, &entry),
		"entry-2":             command.AppendEntry(nil, &entry2),
	} {
		path := filepath.Join("testdata", "golden", name+".hex")
		if *rewrite {
			if err := os.WriteFile(path, []byte(hex.EncodeToString(data)+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		want, err := hex.DecodeString(string(bytes.TrimSpace(text)))
		if err != nil {
			t.Fatal(path, err)
		}
		if !bytes.Equal(data, want) {
			t.Errorf("%s: the encoding has changed", name)
		}
	}
}
