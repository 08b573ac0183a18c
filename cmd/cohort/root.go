package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2

	defaultAddr    = "127.0.0.1:7070"
	defaultTimeout = 30 * time.Second
)

// environment is what a command may touch of the process it runs in, and the
// flags that all commands share.
type environment struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string

	addrs   []string
	output  string
	timeout time.Duration
	// transport protects the connections to nodes.
	transport transport

	// running is set when flags and arguments were accepted: an error before
	// that is the caller's usage, one after it is a failure.
	running bool
}

// execute runs one command line and returns its exit code.
func execute(ctx context.Context, args []string, env *environment) int {
	root := newRoot(env)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	var usage *usageError
	isUsage := errors.As(err, &usage) || !env.running
	if text := explain(err); text != "" {
		fmt.Fprintf(env.stderr, "cohort: %s\n", text)
	}
	if isUsage {
		fmt.Fprintf(env.stderr, "See 'cohort help' or '--help' of the command.\n")
		return exitUsage
	}
	return exitFailed
}

func newRoot(env *environment) *cobra.Command {
	root := &cobra.Command{
		Use:   "cohort",
		Short: "Transactions over several applications: all of them or none",
		Long: `Cohort keeps several applications consistent as one: their transactions commit
at all of them or at none.

Exit codes: 0 done, 1 it failed, was aborted or is unhealthy, 2 wrong usage.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if err := env.acceptFlags(); err != nil {
				return err
			}
			env.running = true
			return nil
		},
	}
	root.SetIn(env.stdin)
	root.SetOut(env.stdout)
	root.SetErr(env.stderr)
	flags := root.PersistentFlags()
	flags.StringSliceVar(&env.addrs, "addr", nil,
		"API address of a node, several with commas or repeated; the first that answers is used (COHORT_ADDR, "+defaultAddr+")")
	flags.StringVarP(&env.output, "output", "o", formatTable, "table, json or yaml")
	flags.DurationVar(&env.timeout, "timeout", defaultTimeout, "how long to wait for the answer; what moves a checkpoint's data takes its time unless this is given")
	env.transport.flags(flags)
	root.AddCommand(
		newDemo(env), newDev(env), newServe(env), newNode(env),
		newApply(env), newGet(env), newStatus(env),
		newTx(env), newLog(env), newParticipant(env),
		newCheckpoint(env), newRestore(env), newDrill(env), newBench(env),
		newVersion(env), newCompletion(env),
	)
	root.CompletionOptions.DisableDefaultCmd = true
	requireSubcommand(root)
	return root
}

// acceptFlags checks the shared flags and fills them from the environment.
func (e *environment) acceptFlags() error {
	switch e.output {
	case formatTable, formatJSON, formatYAML:
	default:
		return usagef("-o %s: the formats are table, json and yaml", e.output)
	}
	if e.timeout <= 0 {
		return usagef("--timeout %s: give a duration above zero, like 30s", e.timeout)
	}
	if len(e.addrs) == 0 {
		if fromEnv := e.getenv("COHORT_ADDR"); fromEnv != "" {
			e.addrs = strings.Split(fromEnv, ",")
		} else {
			e.addrs = []string{defaultAddr}
		}
	}
	for i, addr := range e.addrs {
		addr = strings.TrimSpace(addr)
		if !strings.Contains(addr, ":") {
			return usagef("address %q has no port: give host:port, like %s", addr, defaultAddr)
		}
		e.addrs[i] = addr
	}
	return e.transport.check(e.addrs)
}

// requireSubcommand makes a command that only groups others refuse to run by
// itself; cobra would print help and report success.
func requireSubcommand(cmd *cobra.Command) {
	cmd.Args = cobra.ArbitraryArgs
	cmd.SuggestionsMinimumDistance = 2
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var names []string
		for _, sub := range cmd.Commands() {
			if sub.IsAvailableCommand() {
				names = append(names, sub.Name())
			}
		}
		if len(args) > 0 {
			hint := ""
			if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
				hint = fmt.Sprintf(", did you mean %q?", near[0])
			}
			return usagef("%s has no command %q%s (commands: %s)", cmd.CommandPath(), args[0], hint, strings.Join(names, ", "))
		}
		return usagef("%s needs a command: %s", cmd.CommandPath(), strings.Join(names, ", "))
	}
}

// request bounds a command's conversation with a node by --timeout.
func (e *environment) request(cmd *cobra.Command) (context.Context, context.CancelFunc) {
	return context.WithTimeout(cmd.Context(), e.timeout)
}

// longRequest is for what takes the longer the more data there is: only a
// --timeout that was given bounds it. The first interrupt cancels it, so that
// what it has begun is cleaned up; another one ends the process.
func (e *environment) longRequest(cmd *cobra.Command) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	if !cmd.Flags().Changed("timeout") {
		return ctx, stop
	}
	ctx, cancel := context.WithTimeout(ctx, e.timeout)
	return ctx, func() {
		cancel()
		stop()
	}
}
