package checkout

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/cohort-tx/cohort/participant"
)

// Main runs one service as a process of its own, until it is interrupted.
func Main(app *participant.App) {
	addr := flag.String("addr", "127.0.0.1:7070", "nodes of the cluster, separated by commas")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := app.Serve(ctx, *addr); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
