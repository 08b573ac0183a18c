package main

import (
	"context"
	"io"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.uber.org/fx"
	"go.uber.org/fx/fxevent"
	"go.uber.org/zap"

	"github.com/cohort-tx/cohort/configs"
	"github.com/cohort-tx/cohort/internal/node"
	"github.com/cohort-tx/cohort/txlog"
)

// logTarget is where the node's log goes.
type logTarget struct{ io.Writer }

// serveModule is how a node is put together:
//
//	configuration ─▶ logger ─▶ metrics registry ─▶ node ─▶ lifecycle
func serveModule(config configs.Node, stderr io.Writer) fx.Option {
	return fx.Options(
		fx.Supply(config, logTarget{stderr}),
		fx.Provide(provideLogger, provideMetrics, provideNode),
		fx.Invoke(runNode),
		fx.WithLogger(func(logger *zap.Logger) fxevent.Logger {
			events := &fxevent.ZapLogger{Logger: logger.Named("fx")}
			events.UseLogLevel(zap.DebugLevel)
			events.UseErrorLevel(zap.DebugLevel) // the command reports the error itself
			return events
		}),
	)
}

func provideLogger(config configs.Node, target logTarget) (*zap.Logger, error) {
	logger, err := newLogger(config.Log, target)
	if err != nil {
		return nil, err
	}
	txlog.SetDragonboatLogger(logger)
	return logger, nil
}

func provideMetrics() *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return registry
}

func provideNode(config configs.Node, logger *zap.Logger, metrics *prometheus.Registry) (*node.Node, error) {
	return node.New(node.Params{Config: config, Version: buildVersion(), Logger: logger, Metrics: metrics})
}

// runNode ties the node to the application's life.
func runNode(lifecycle fx.Lifecycle, n *node.Node) {
	lifecycle.Append(fx.Hook{
		OnStart: n.Start,
		OnStop:  func(ctx context.Context) error { return n.Close(ctx) },
	})
}
