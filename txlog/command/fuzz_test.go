package command_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/cohort-tx/cohort/txlog/command"
)

// Each target: no panic whatever the bytes; what decodes has one encoding, so it
// encodes to the bytes that it came from.

func FuzzBatch(f *testing.F) {
	f.Add(command.AppendBatch(nil, everything()))
	f.Add(command.AppendBatch(nil, &command.Batch{}))
	for _, c := range slices.Concat(everything().Commands, everyCheckpointCommand().Commands, everyOwnStateCommand().Commands) {
		f.Add(command.AppendBatch(nil, &command.Batch{Epoch: 1, Commands: []command.Command{c}}))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := command.DecodeBatch(data)
		if err != nil {
			checkMalformed(t, err)
			return
		}
		for _, c := range b.Commands {
			if _, unknown := c.(*command.Unknown); unknown {
				return // its content is not kept
			}
		}
		same(t, data, command.AppendBatch(nil, b))
	})
}

func FuzzResults(f *testing.F) {
	f.Add(command.AppendResults(nil, someResults()))
	f.Add(command.AppendResults(nil, numberedResults()))
	f.Add(command.AppendResults(nil, nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := command.DecodeResults(data)
		if err != nil {
			checkMalformed(t, err)
			return
		}
		same(t, data, command.AppendResults(nil, r))
	})
}

func FuzzEntry(f *testing.F) {
	e, e2 := someEntry(), someEntry2()
	f.Add(command.AppendEntry(nil, &e))
	f.Add(command.AppendEntry(nil, &e2))
	f.Add(command.AppendEntry(nil, &command.Entry{Position: 1, ID: "o"}))
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := command.DecodeEntry(data)
		if err != nil {
			checkMalformed(t, err)
			return
		}
		same(t, data, command.AppendEntry(nil, &e))
	})
}

func checkMalformed(t *testing.T, err error) {
	if !errors.Is(err, command.ErrMalformed) {
		t.Fatalf("the error is not ErrMalformed: %v", err)
	}
}

func same(t *testing.T, data, again []byte) {
	if !bytes.Equal(data, again) {
		t.Fatalf("decoded\n%x\nencodes to\n%x", data, again)
	}
}
