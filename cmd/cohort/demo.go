package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/examples/checkout"
	"github.com/cohort-tx/cohort/internal/cluster"
	"github.com/cohort-tx/cohort/participant"
)

const (
	demoNodes   = 3
	demoWorkers = 8
	// demoBudget ends a demo that hangs.
	demoBudget = 5 * time.Minute
	// The leader is killed when this part of the orders is done, and its node
	// started again when that part is.
	demoKillAt, demoRestartAt = 0.4, 0.7
	// A checkpoint is taken when this part is.
	demoCheckpointAt = 0.2
)

// demoView is what the demo found.
type demoView struct {
	OK             bool   `json:"ok"`
	Nodes          int    `json:"nodes"`
	Orders         int    `json:"orders"`
	Placed         int    `json:"placed"`
	OutOfStock     int    `json:"out_of_stock"`
	NoCredit       int    `json:"no_credit"`
	Resubmitted    int    `json:"resubmitted"`
	KilledNode     string `json:"killed_node"`
	NewCoordinator string `json:"new_coordinator"`
	Position       uint64 `json:"position"`
	RevenueCents   int64  `json:"revenue_cents"`
	// The checkpoint taken under load, and what was restored from it.
	Checkpoint         uint64      `json:"checkpoint"`
	CheckpointPosition uint64      `json:"checkpoint_position"`
	PauseSeconds       float64     `json:"pause_seconds"`
	RestoreSeconds     float64     `json:"restore_seconds"`
	DurationSeconds    float64     `json:"duration_seconds"`
	Checks             []demoCheck `json:"checks"`
}

// demoCheck is one thing that must hold.
type demoCheck struct {
	Name    string   `json:"name"`
	OK      bool     `json:"ok"`
	Details []string `json:"details"`
}

func newDemo(env *environment) *cobra.Command {
	var keep, mixed bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Run a real checkout workflow on three nodes, kill the leader in the middle, and check the books",
		Long: `Starts a cluster of three node processes on this machine, places 1,200 orders
with several workers, each as one transaction over the services orders,
inventory and payments, and kills the node that leads the group with SIGKILL in
the middle. Then it checks that every order is at all three services or at none,
that money and stock add up, that no order was placed twice though some were
submitted twice, that the log holds exactly the committed ones, and that all
replicas are equal. On the way it takes a checkpoint while orders are placed; in
the end it restores that to a new group, and checks that exactly the orders up to
its position are in it, with exact totals. It exits with 0 only if all of it held.

With --postgres one transaction spans three kinds of participants: orders keep
their data in the store, inventory in its own memory, and payments in a PostgreSQL
that the demo starts. PostgreSQL must be installed.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			ctx, cancel := context.WithTimeout(ctx, demoBudget)
			defer cancel()
			return env.demo(ctx, keep, mixed)
		},
	}
	cmd.Flags().BoolVar(&keep, "keep", false, "leave the cluster's directory behind, and say where it is")
	cmd.Flags().BoolVar(&mixed, "postgres", false, "inventory in memory and payments on PostgreSQL, instead of all in stores")
	return cmd
}

func (e *environment) demo(ctx context.Context, keep, mixed bool) (err error) {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "cohort-demo-")
	if err != nil {
		return err
	}
	if keep {
		fmt.Fprintf(e.stderr, "the cluster's files are in %s\n", dir)
	} else {
		defer os.RemoveAll(dir)
	}
	d := demo{env: e, began: time.Now(), mixed: mixed, view: demoView{Nodes: demoNodes}}
	d.say("starting %d nodes", demoNodes)
	d.cluster, err = cluster.StartProcesses(cluster.Options{Dir: dir, Nodes: demoNodes}, []string{self, "serve"}, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.close()) }()
	if err := d.run(ctx); err != nil {
		return fmt.Errorf("the demo did not come to its end: %w", err)
	}
	if err := e.print(d.view, d.table); err != nil {
		return err
	}
	if !d.view.OK {
		return errors.New("a check failed")
	}
	return nil
}

// demo is one run.
type demo struct {
	env     *environment
	began   time.Time
	cluster *cluster.Processes
	client  *participant.Client
	group   *participant.Group

	mixed bool
	shop  shop

	stopApps context.CancelFunc
	apps     sync.WaitGroup
	view     demoView
}

// say tells how it goes; results are not among it.
func (d *demo) say(format string, args ...any) {
	fmt.Fprintf(d.env.stderr, "%5.1fs  %s\n", time.Since(d.began).Seconds(), fmt.Sprintf(format, args...))
}

func (d *demo) close() error {
	if d.stopApps != nil {
		d.stopApps()
		d.apps.Wait()
	}
	var err error
	if d.shop != nil {
		err = d.shop.close()
	}
	if d.client != nil {
		d.client.Close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return errors.Join(err, d.cluster.Close(ctx))
}

func (d *demo) run(ctx context.Context) error {
	if err := d.cluster.WaitReady(ctx); err != nil {
		return err
	}
	var err error
	if d.client, err = participant.Dial(d.cluster.Addrs()); err != nil {
		return err
	}
	d.group = d.client.Group(checkout.Group)
	if err := d.apply(ctx); err != nil {
		return err
	}
	if err := d.openShop(ctx); err != nil {
		return err
	}
	orders, err := checkout.ReadOrders(bytes.NewReader(checkout.Orders))
	if err != nil {
		return err
	}
	d.say("placing %d orders with %d workers", len(orders), demoWorkers)
	tally, err := d.place(ctx, checkout.NewShop(d.client), orders)
	if err != nil {
		return err
	}
	d.view.Orders, d.view.Placed, d.view.OutOfStock = tally.Total, tally.Placed, tally.OutOfStock
	d.view.NoCredit, d.view.Resubmitted = tally.NoCredit, tally.Resubmitted
	d.say("checking")
	if err := d.check(ctx, orders, tally); err != nil {
		return err
	}
	d.view.DurationSeconds = time.Since(d.began).Seconds()
	return nil
}

// apply declares the group.
func (d *demo) apply(ctx context.Context) error {
	answer, err := d.client.Cluster().Apply(ctx, &pb.ApplyRequest{Files: []*pb.ApplyFile{{Name: "group.yaml", Yaml: checkout.GroupYAML}}})
	if err != nil {
		return err
	}
	for _, fault := range answer.Errors {
		return fmt.Errorf("group.yaml:%d:%d: %s", fault.Line, fault.Column, fault.Message)
	}
	return cluster.WaitGroups(ctx, d.cluster.Members()[0].Addr)
}

// openShop serves the three participants.
func (d *demo) openShop(ctx context.Context) (err error) {
	d.shop = storeShop{d.client}
	if d.mixed {
		d.say("starting PostgreSQL")
		mixed, err := newMixedShop(ctx, d.client)
		if err != nil {
			return err
		}
		d.shop = mixed
	}
	ctx, d.stopApps = context.WithCancel(ctx)
	if err := d.serve(ctx, checkout.Group, false); err != nil {
		return err
	}
	return d.shop.seed(ctx)
}

// serve starts the services of a group; they end with stopApps.
func (d *demo) serve(ctx context.Context, group string, restored bool) error {
	apps, err := d.shop.apps(ctx, group, restored)
	if err != nil {
		return err
	}
	for _, app := range apps {
		d.apps.Go(func() {
			if err := app.Serve(ctx, d.cluster.Addrs()); err != nil {
				d.say("a service ended: %v", err)
			}
		})
	}
	return nil
}

// place places the orders; on the way the leader is killed and its node comes
// back.
func (d *demo) place(ctx context.Context, shop *checkout.Shop, orders []checkout.Order) (checkout.Tally, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var background sync.WaitGroup
	defer background.Wait()
	var snap, kill, restart sync.Once
	taken, killed := make(chan struct{}), make(chan struct{})
	progress := newProgress(d.env, d.say)
	tally, err := shop.Run(ctx, orders, demoWorkers, func(t checkout.Tally) {
		progress.show(t.Done(), t.Total)
		part := float64(t.Done()) / float64(t.Total)
		if part >= demoCheckpointAt {
			snap.Do(func() {
				background.Go(func() {
					defer close(taken)
					if err := d.takeCheckpoint(ctx); err != nil {
						cancel(err)
					}
				})
			})
		}
		if part >= demoKillAt {
			kill.Do(func() {
				background.Go(func() {
					defer close(killed)
					<-taken
					if err := d.killLeader(ctx); err != nil {
						cancel(err)
					}
				})
			})
		}
		if part >= demoRestartAt {
			restart.Do(func() {
				background.Go(func() {
					<-killed
					d.say("starting %s again", d.view.KilledNode)
					if err := d.cluster.Start(d.view.KilledNode); err != nil {
						cancel(err)
					}
				})
			})
		}
	})
	progress.end()
	if err == nil {
		background.Wait()
		err = context.Cause(ctx)
	}
	return tally, err
}

// killLeader kills the node that coordinates the group, and notes which one takes
// over.
func (d *demo) killLeader(ctx context.Context) error {
	leader, err := d.coordinator(ctx, "")
	if err != nil {
		return err
	}
	d.view.KilledNode = leader
	d.say("killing %s, the group's leader, with SIGKILL (pid %d)", leader, d.cluster.PID(leader))
	if err := d.cluster.Kill(leader); err != nil {
		return err
	}
	at := time.Now()
	next, err := d.coordinator(ctx, leader)
	if err != nil {
		return err
	}
	d.view.NewCoordinator = next
	d.say("%s leads the group, %.1f s later", next, time.Since(at).Seconds())
	return nil
}

// coordinator waits for a node other than not to coordinate the group.
func (d *demo) coordinator(ctx context.Context, not string) (string, error) {
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		answer, err := d.client.Cluster().ListGroups(ctx, &pb.ListGroupsRequest{Name: checkout.Group})
		if err == nil && len(answer.Groups) == 1 {
			if name := answer.Groups[0].Coordinator; name != "" && name != not {
				return name, nil
			}
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("no coordinator: %w", ctx.Err())
		case <-ticker.C:
		}
	}
}

// table is the report.
func (d *demo) table(w *tabwriter.Writer) {
	v := d.view
	fmt.Fprintf(w, "orders\t%d: %d placed, %d out of stock, %d beyond the customer's credit\n", v.Orders, v.Placed, v.OutOfStock, v.NoCredit)
	fmt.Fprintf(w, "submitted twice\t%d, each with the same receipt both times\n", v.Resubmitted)
	fmt.Fprintf(w, "leader killed\t%s; %s took over\n", v.KilledNode, v.NewCoordinator)
	fmt.Fprintf(w, "checkpoint\t%d at position %d, while orders were placed; they waited %.1f ms for it\n", v.Checkpoint, v.CheckpointPosition, v.PauseSeconds*1000)
	fmt.Fprintf(w, "restored\tas %s in %.1f s\n", demoRestored, v.RestoreSeconds)
	fmt.Fprintf(w, "books\tposition %d, revenue %d.%02d\n", v.Position, v.RevenueCents/100, v.RevenueCents%100)
	fmt.Fprintln(w, "\t")
	for _, c := range v.Checks {
		mark := "held"
		if !c.OK {
			mark = "FAILED"
		}
		fmt.Fprintf(w, "%s\t%s\n", mark, c.Name)
		for _, detail := range c.Details {
			fmt.Fprintf(w, "\t  %s\n", strings.TrimSpace(detail))
		}
	}
	fmt.Fprintf(w, "\t\ndone\tin %.1f seconds\n", v.DurationSeconds)
}
