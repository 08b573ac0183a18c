package main

import (
	"io"
	"testing"

	"go.uber.org/fx"

	"github.com/cohort-tx/cohort/configs"
)

// Without it a missing constructor would show only when a node is started.
func TestWiringIsComplete(t *testing.T) {
	if err := fx.ValidateApp(serveModule(configs.Default(), io.Discard)); err != nil {
		t.Fatal(err)
	}
}
