package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/dig"
	"go.uber.org/fx"

	"github.com/cohort-tx/cohort/configs"
	"github.com/cohort-tx/cohort/internal/node"
)

const (
	// startTimeout bounds taking addresses and opening files. Replicas replay their
	// logs after it.
	startTimeout = time.Minute
	// stopMargin is what stopping may take beyond the node's own grace.
	stopMargin = 5 * time.Second
)

func newServe(env *environment) *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "serve --config FILE",
		Short: "Run one node",
		Long: `Run one node until SIGINT or SIGTERM. The first signal drains it: it begins nothing
new, finishes what is open, hands its leadership over, and ends within
shutdown_grace. A second signal ends it at once.

A new node's data directory is made once with 'cohort node init'.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if path == "" {
				return usagef("serve needs --config FILE; configs/node.yaml is one to begin with")
			}
			return env.serve(cmd.Context(), path)
		},
	}
	cmd.Flags().StringVarP(&path, "config", "c", "", "the node's configuration file")
	return cmd
}

func (e *environment) serve(ctx context.Context, path string) error {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	defer signal.Stop(signals)

	config, err := configs.Load(path)
	if err != nil {
		return err
	}
	var n *node.Node
	app := fx.New(serveModule(config, e.stderr), fx.Populate(&n), fx.StartTimeout(startTimeout))
	if err := app.Err(); err != nil {
		return dig.RootCause(err)
	}
	starting, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := app.Start(starting); err != nil {
		return dig.RootCause(err)
	}
	select {
	case <-signals:
	case <-ctx.Done():
	case <-n.Failed():
	}
	ended := make(chan struct{})
	defer close(ended)
	go endOnSecond(signals, ended)
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), config.ShutdownGrace+stopMargin)
	defer cancel()
	return errors.Join(n.Err(), app.Stop(stopping))
}

// endOnSecond ends the process when another signal comes before ended.
func endOnSecond(signals <-chan os.Signal, ended <-chan struct{}) {
	select {
	case <-signals:
		os.Exit(exitFailed)
	case <-ended:
	}
}
