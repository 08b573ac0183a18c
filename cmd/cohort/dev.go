package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/configs"
	"github.com/cohort-tx/cohort/groups"
	"github.com/cohort-tx/cohort/internal/cluster"
	"github.com/cohort-tx/cohort/txlog"
)

const (
	// devReadyTimeout bounds the wait for the cluster: elections take about a
	// second, a long log longer.
	devReadyTimeout = 2 * time.Minute
	// devStopTimeout is when children that do not end are killed.
	devStopTimeout = 15 * time.Second
	// devGrace is short: whoever stops the cluster waits for it.
	devGrace = 5 * time.Second
)

type devFlags struct {
	nodes     int
	processes bool
	verbose   bool
	dataDir   string
	files     []string
}

// readyView is the one line that dev prints.
type readyView struct {
	Ready bool `json:"ready"`
	// Addr is the first node's; Addrs are all, as --addr takes them.
	Addr    string      `json:"addr"`
	Addrs   string      `json:"addrs"`
	DataDir string      `json:"data_dir"`
	Nodes   []readyNode `json:"nodes"`
}

type readyNode struct {
	Name string `json:"name"`
	Addr string `json:"addr"`
	PID  int    `json:"pid"`
}

func newDev(env *environment) *cobra.Command {
	var flags devFlags
	cmd := &cobra.Command{
		Use:   "dev [--nodes N] [--processes] [--data-dir DIR] [-f GROUP.yaml]...",
		Short: "Run a cluster on this machine to develop against",
		Long: `Run a cluster on this machine until SIGINT or SIGTERM. It prints one line when it is
ready: every node serves, the group files are applied and every group has a
coordinator. The first node takes ` + defaultAddr + ` when that is free, so that other
commands find it without --addr.

With --data-dir a second start continues with the data; without it the data is
gone at the end. With --processes every node is a process of its own that can be
killed; it stays dead until it is started again with the command that is printed.`,
		Example: `  cohort dev -f checkout.yaml
  cohort dev --nodes 3 --processes --data-dir ./data -f checkout.yaml -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("nodes") && flags.nodes < 1 {
				return usagef("--nodes %d: a cluster has at least one node", flags.nodes)
			}
			return env.dev(cmd, flags)
		},
	}
	f := cmd.Flags()
	f.IntVar(&flags.nodes, "nodes", 0, "how many nodes; one, or as many as the data directory holds")
	f.BoolVar(&flags.processes, "processes", false, "run every node as a process of its own")
	f.StringVar(&flags.dataDir, "data-dir", "", "keep the data here and continue with what is there")
	f.StringArrayVarP(&flags.files, "file", "f", nil, "group file to apply; may be repeated")
	f.BoolVarP(&flags.verbose, "verbose", "v", false, "log what the nodes do, not only warnings")
	return cmd
}

// devCluster is what both kinds of cluster can do.
type devCluster interface {
	Members() []cluster.Member
	Addrs() string
	WaitReady(ctx context.Context) error
	Close(ctx context.Context) error
}

func (e *environment) dev(cmd *cobra.Command, flags devFlags) (err error) {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	defer signal.Stop(signals)
	interrupted, interrupt := context.WithCancel(cmd.Context())
	defer interrupt()
	watched := make(chan struct{})
	defer close(watched)
	go func() {
		select {
		case <-signals:
			interrupt()
			endOnSecond(signals, watched)
		case <-watched:
		}
	}()

	files, err := e.checkGroupFiles(flags.files)
	if err != nil {
		return err
	}
	if flags.dataDir == "" {
		if flags.dataDir, err = os.MkdirTemp("", "cohort-dev-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(flags.dataDir)) }()
	}
	c, pid, err := e.startDev(interrupted, flags)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(cmd.Context()), devStopTimeout)
		defer cancel()
		err = errors.Join(err, c.Close(ctx))
	}()

	ready, cancel := context.WithTimeout(interrupted, devReadyTimeout)
	defer cancel()
	if err := e.readyDev(ready, c, files); err != nil {
		if interrupted.Err() != nil {
			return nil // stopped while it started
		}
		return err
	}
	view := readyView{Ready: true, Addr: c.Members()[0].Addr, Addrs: c.Addrs(), DataDir: flags.dataDir}
	for _, m := range c.Members() {
		view.Nodes = append(view.Nodes, readyNode{Name: m.Name, Addr: m.Addr, PID: pid(m.Name)})
	}
	if err := e.print(view, view.table); err != nil {
		return err
	}
	<-interrupted.Done()
	return nil
}

func (v readyView) table(w *tabwriter.Writer) {
	nodes := make([]string, len(v.Nodes))
	for i, n := range v.Nodes {
		nodes[i] = fmt.Sprintf("%s pid %d", n.Name, n.PID)
	}
	fmt.Fprintf(w, "ready: COHORT_ADDR=%s (%s); end with Ctrl-C\n", v.Addrs, strings.Join(nodes, ", "))
}

// startDev starts the cluster and tells how to find a node's process.
func (e *environment) startDev(ctx context.Context, flags devFlags) (devCluster, func(string) int, error) {
	options := cluster.Options{Dir: flags.dataDir, Nodes: flags.nodes, API: defaultAddr, ShutdownGrace: devGrace, LogLevel: "warn"}
	if flags.verbose {
		options.LogLevel = "info"
	}
	if flags.processes {
		self, err := os.Executable()
		if err != nil {
			return nil, nil, err
		}
		c, err := cluster.StartProcesses(options, []string{self, "serve"}, func(exit cluster.Exit) {
			if !exit.Expected {
				fmt.Fprintf(e.stderr, "node %s (pid %d) ended: %s. Start it again with: %s serve --config %s\n",
					exit.Member.Name, exit.PID, exit.State, self, exit.Member.ConfigPath)
			}
		})
		if err != nil {
			return nil, nil, err
		}
		return c, c.PID, nil
	}
	logger, err := newLogger(configs.Log{Level: options.LogLevel, Format: "console"}, e.stderr)
	if err != nil {
		return nil, nil, err
	}
	// Raft's own warnings tell of elections, which are not news here.
	txlog.SetDragonboatLogger(logger.WithOptions(zap.IncreaseLevel(zap.ErrorLevel)))
	c, err := cluster.StartEmbedded(ctx, options, buildVersion(), logger)
	if err != nil {
		return nil, nil, err
	}
	return c, func(string) int { return os.Getpid() }, nil
}

// checkGroupFiles reads the files and finds what is wrong with them before a
// cluster is started for them.
func (e *environment) checkGroupFiles(names []string) ([]*pb.ApplyFile, error) {
	var (
		files  []*pb.ApplyFile
		parsed []groups.File
	)
	for _, name := range names {
		file, err := e.readGroupFile(name)
		if err != nil {
			return nil, err
		}
		files = append(files, file)
		parsed = append(parsed, groups.File{Name: file.Name, Data: file.Yaml})
	}
	_, faults := groups.ParseFiles(parsed)
	for _, fault := range faults {
		fmt.Fprintln(e.stderr, fault.Error())
	}
	if len(faults) > 0 {
		return nil, fmt.Errorf("nothing was started: correct the %d fault(s) above", len(faults))
	}
	return files, nil
}

// readyDev waits until every node serves, applies the files, and waits for the
// groups' coordinators.
func (e *environment) readyDev(ctx context.Context, c devCluster, files []*pb.ApplyFile) error {
	if err := c.WaitReady(ctx); err != nil {
		return err
	}
	if len(files) > 0 {
		quiet := *e
		quiet.addrs, quiet.stdout, quiet.output = []string{c.Members()[0].Addr}, io.Discard, formatTable
		if err := quiet.applyFiles(ctx, &pb.ApplyRequest{Files: files}); err != nil {
			return err
		}
	}
	return cluster.WaitGroups(ctx, c.Members()[0].Addr)
}
