package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/cohort-tx/cohort/internal/bench"
)

// benchWorkload is one command of bench.
type benchWorkload struct {
	workload    bench.Workload
	short, long string
	flags       []func(*benchFlags, *pflag.FlagSet)
}

// benchFlags are those of all workloads; each command has some of them.
type benchFlags struct {
	config   bench.Config
	via      string
	warmup   time.Duration
	duration time.Duration
	sizes    []string
	profile  string
}

var benchWorkloads = []benchWorkload{
	{bench.Transfer, "Two participants, read and written", "Each transaction reads a balance at each of two participants and writes both.",
		[]func(*benchFlags, *pflag.FlagSet){nodeFlags, viaFlags, loadFlags, keyFlags, rawFlags}},
	{bench.Add, "Two participants, added to blindly", "Each transaction adds to a counter at each of two participants, without reading it.",
		[]func(*benchFlags, *pflag.FlagSet){nodeFlags, viaFlags, loadFlags, keyFlags, rawFlags}},
	{bench.Write, "Several participants, written blindly", "Each transaction puts a value at each of several participants.",
		[]func(*benchFlags, *pflag.FlagSet){nodeFlags, viaFlags, loadFlags, keyFlags, valueFlags, rawFlags}},
	{bench.Read, "Snapshot reads", "Each operation reads a value at each of several participants, in one snapshot that\nholds everything acknowledged before.",
		[]func(*benchFlags, *pflag.FlagSet){nodeFlags, viaFlags, loadFlags, keyFlags, valueFlags, rawFlags}},
	{bench.Mixed, "Half reads, a quarter adds, a quarter transfers", "One half of the operations is read, one quarter add and one quarter transfer.",
		[]func(*benchFlags, *pflag.FlagSet){nodeFlags, viaFlags, loadFlags, keyFlags, rawFlags}},
	{bench.Call, "Two participants, called", "Each transaction calls a service of each of two participants, which adds to a\ncounter. The services run in this process and attach over gRPC.",
		[]func(*benchFlags, *pflag.FlagSet){nodeFlags, viaFlags, loadFlags, keyFlags, rawFlags}},
	{bench.Checkpoint, "Checkpoints of growing data under load", "Brings the data to each size and takes checkpoints of it while transactions put\nvalues at two participants: how long they wait for it, and how many a second there\nare before and while it is written.",
		[]func(*benchFlags, *pflag.FlagSet){nodeFlags, viaFlags, loadFlags, keyFlags, valueFlags, sizeFlags, roundFlags}},
	{bench.Restore, "Restores of growing data", "Brings the data to each size, takes a checkpoint, commits transactions after it,\nand restores all of it to a new group.",
		[]func(*benchFlags, *pflag.FlagSet){nodeFlags, viaFlags, valueFlags, inFlightFlags, sizeFlags, entryFlags}},
	{bench.Raw, "Plain Raft entries", "Proposes plain 256-byte entries to dragonboat, with the settings of groups, to a\nmachine that does nothing: what Raft alone costs here.",
		[]func(*benchFlags, *pflag.FlagSet){nodeFlags, loadFlags}},
}

func newBench(env *environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure transactions, checkpoints and restores",
		Long: `Measure a cluster of three nodes in this process, or with --addr one that runs.
(COHORT_ADDR alone is not taken: a benchmark writes.) It declares the group bench
and writes to its participants bench-1, bench-2 and so on alone; on a running
cluster the group stays. An embedded cluster's files are in the directory for
temporary files, so set TMPDIR to the disk to be measured.

Without --rate each operation in flight is followed by the next (closed loop). With
it operations begin at that rate, and a latency counts from when the operation was
to begin (open loop), as users find it.

Ratios within one run, as --compare-raw gives, say more than figures of one machine.
Failover is not measured yet: it comes with failover.`,
		Example: `  cohort bench add --in-flight 512 --duration 8s --compare-raw -o json
  cohort bench transfer --via grpc --clients 4 --skew 0.99 --rate 2000
  cohort bench soak --for 10m
  cohort bench compare before.json after.json`,
	}
	for _, w := range benchWorkloads {
		cmd.AddCommand(newBenchWorkload(env, w))
	}
	cmd.AddCommand(newBenchSoak(env), newBenchCompare(env))
	requireSubcommand(cmd)
	return cmd
}

func newBenchWorkload(env *environment, w benchWorkload) *cobra.Command {
	flags := &benchFlags{config: bench.Config{Workload: w.workload}}
	cmd := &cobra.Command{
		Use:   string(w.workload),
		Short: w.short,
		Long:  w.long + "\nSee 'cohort bench --help' for what all of them have in common.",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return env.bench(cmd, flags)
		},
	}
	for _, add := range w.flags {
		add(flags, cmd.Flags())
	}
	return cmd
}

func newBenchSoak(env *environment) *cobra.Command {
	flags := &benchFlags{config: bench.Config{Workload: bench.Soak}}
	cmd := &cobra.Command{
		Use:   "soak",
		Short: "Run for long and look whether anything grows; exit code 1 when it does",
		Long: `Run mixed operations on three nodes in this process, with checkpoints, and compare
memory, goroutines, open files and disk in the last quarter of the time with those
in the quarter before. The exit code is 0 when all are flat and no operation failed.
What waits to be merged and collected goes up and down, so give it ten minutes.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return env.bench(cmd, flags)
		},
	}
	f := cmd.Flags()
	f.DurationVar(&flags.duration, "for", 10*time.Minute, "how long")
	f.Float64Var(&flags.config.Rate, "rate", 0, "operations a second to begin; 0 is as many as go")
	nodeFlags(flags, f)
	viaFlags(flags, f)
	inFlightFlags(flags, f)
	keyFlags(flags, f)
	return cmd
}

func nodeFlags(b *benchFlags, f *pflag.FlagSet) {
	f.IntVar(&b.config.Nodes, "nodes", 0, "how many nodes in this process, when no --addr is given; 3")
}

func viaFlags(b *benchFlags, f *pflag.FlagSet) {
	f.StringVar(&b.via, "via", "", "api (the coordinator's Go API in this process) or grpc; api, with --addr grpc")
	f.IntVar(&b.config.Clients, "clients", 0, fmt.Sprintf("clients that operations are spread over, each with its own connection; with grpc only, at most %d; 1", bench.MaxClients))
}

func inFlightFlags(b *benchFlags, f *pflag.FlagSet) {
	f.IntVar(&b.config.InFlight, "in-flight", 0, fmt.Sprintf("operations under way at once, at most %d; 64, for checkpoint and soak 16", bench.MaxInFlight))
}

func loadFlags(b *benchFlags, f *pflag.FlagSet) {
	inFlightFlags(b, f)
	f.Float64Var(&b.config.Rate, "rate", 0, "operations a second to begin, however long earlier ones take; 0 is as many as go")
	f.DurationVar(&b.duration, "duration", 10*time.Second, "how long to measure; of checkpoint, before each round")
	f.DurationVar(&b.warmup, "warmup", 2*time.Second, "how long to run before")
}

func keyFlags(b *benchFlags, f *pflag.FlagSet) {
	f.Uint64Var(&b.config.Keys, "keys", 10_000, "keys of each participant")
	f.Float64Var(&b.config.Skew, "skew", 0, "how uneven keys are chosen (zipfian): 0 is evenly, 0.99 usual for hot ones")
}

func valueFlags(b *benchFlags, f *pflag.FlagSet) {
	f.IntVar(&b.config.ValueBytes, "value-size", 100, "bytes of a value")
	f.IntVar(&b.config.Participants, "participants", 2, "participants of each operation")
}

func rawFlags(b *benchFlags, f *pflag.FlagSet) {
	f.BoolVar(&b.config.CompareRaw, "compare-raw", false, "measure plain Raft entries under the same load too, half before and half after, and give ratios")
	f.StringVar(&b.profile, "cpu-profile", "", "write a profile of this process, while it measures, to this file; 'go tool pprof' shows it")
}

func sizeFlags(b *benchFlags, f *pflag.FlagSet) {
	f.StringSliceVar(&b.sizes, "sizes", []string{"10MiB", "100MiB"}, "sizes of the data, growing, as in 10MiB,1GiB")
}

func roundFlags(b *benchFlags, f *pflag.FlagSet) {
	f.IntVar(&b.config.Rounds, "rounds", 5, "checkpoints at each size; figures are medians")
}

func entryFlags(b *benchFlags, f *pflag.FlagSet) {
	f.IntVar(&b.config.Entries, "entries", 10_000, "transactions to replay after the checkpoint")
}

// configured checks the flags and makes a configuration of them.
func (e *environment) configured(cmd *cobra.Command, b *benchFlags) (bench.Config, error) {
	c := b.config
	c.Via, c.Version = bench.Via(b.via), buildVersion()
	changed := func(name string) bool { return cmd.Flags().Changed(name) }
	if cmd.Flags().Lookup("warmup") != nil {
		if b.warmup < 0 {
			return c, usagef("--warmup %s: give a duration, 0s for none", b.warmup)
		}
		if c.Warmup = b.warmup; c.Warmup == 0 {
			c.Warmup = -1 // none, which zero is not
		}
	}
	c.Duration = b.duration
	for _, name := range []string{"nodes", "clients", "in-flight", "duration", "for", "keys", "value-size", "participants", "rounds"} {
		if f := cmd.Flags().Lookup(name); f != nil && changed(name) && (f.Value.String() == "0" || f.Value.String() == "0s") {
			return c, usagef("--%s 0: give at least 1", name)
		}
	}
	if changed("addr") {
		option, err := e.transport.option()
		if err != nil {
			return c, err
		}
		c.Running = &bench.Running{Addrs: strings.Join(e.addrs, ",")}
		c.Running.Options = append(c.Running.Options, option)
	}
	for _, text := range b.sizes {
		size, err := parseSize(text)
		if err != nil {
			return c, err
		}
		c.Sizes = append(c.Sizes, size)
	}
	checked := c
	checked.EnsureDefaults()
	if err := checked.Validate(); err != nil {
		return c, usagef("%s", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	if c.Workload == bench.Restore && cmd.Flags().Changed("entries") && c.Entries == 0 {
		return c, usagef("--entries 0: give at least 1")
	}
	return c, nil
}

// parseSize reads a size as group files have them: 64KiB, 10MiB, 1GiB, or bytes.
func parseSize(text string) (uint64, error) {
	number, shift := text, 0
	for unit, s := range map[string]int{"KiB": 10, "MiB": 20, "GiB": 30} {
		if before, ok := strings.CutSuffix(text, unit); ok {
			number, shift = before, s
		}
	}
	n, err := strconv.ParseUint(number, 10, 64-40)
	if err != nil {
		if n, err = strconv.ParseUint(text, 10, 63); err != nil {
			return 0, usagef("size %q: give bytes, or KiB, MiB or GiB, like 100MiB", text)
		}
	}
	return n << shift, nil
}

func (e *environment) bench(cmd *cobra.Command, flags *benchFlags) error {
	config, err := e.configured(cmd, flags)
	if err != nil {
		return err
	}
	if flags.profile != "" {
		file, err := os.Create(flags.profile)
		if err != nil {
			return err
		}
		defer file.Close()
		config.CPUProfile = file
	}
	ctx, cancel := e.longRequest(cmd)
	defer cancel()
	progress := e.phases()
	report, err := bench.Run(ctx, config, func(s bench.Step) {
		if s.Of > 0 {
			progress.time(s.Name, s.Elapsed, s.Of)
			return
		}
		progress.phase(s.Name, s.Bytes, s.OfBytes)
	})
	progress.end()
	if err != nil {
		return err
	}
	if err := e.print(report, func(w *tabwriter.Writer) { report.WriteText(w) }); err != nil {
		return err
	}
	if failure := report.Failure(); failure != "" {
		return fmt.Errorf("%s: %s", config.Workload, failure)
	}
	return nil
}
