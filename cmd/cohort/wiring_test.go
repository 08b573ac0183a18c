package main

import (
	"io"
	"testing"

	"go.uber.org/fx"
)

// Without it a missing constructor would show only when a node is started.
func TestWiringIsComplete(t *testing.T) {
	if err := fx.ValidateApp(serveModule("node.yaml", io.Discard)); err != nil {
		t.Fatal(err)
	}
}
