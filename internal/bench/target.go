package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	cohortv1 "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/internal/cluster"
	"github.com/cohort-tx/cohort/participant"
)

const (
	// readyTimeout bounds the start: elections take about a second, more on a
	// machine that is busy.
	readyTimeout = 2 * time.Minute
	closeTimeout = 20 * time.Second
	lookEvery    = 20 * time.Millisecond
)

// target is the cluster that is measured.
type target struct {
	config *Config
	// embedded is nil for a running cluster; dir holds its files.
	embedded *cluster.Embedded
	dir      string

	addrs    string
	options  []participant.ClientOption
	operator *participant.Client
	clients  []*participant.Client

	stopServices context.CancelFunc
	services     sync.WaitGroup
}

// openTarget starts the cluster, or connects to it, and declares the group.
func openTarget(ctx context.Context, c *Config, tell func(Step)) (*target, error) {
	t := &target{config: c}
	if err := t.open(ctx, tell); err != nil {
		return nil, errors.Join(err, t.close())
	}
	return t, nil
}

func (t *target) open(ctx context.Context, tell func(Step)) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if t.config.Running != nil {
		t.addrs, t.options = t.config.Running.Addrs, t.config.Running.Options
	} else {
		tell(Step{Name: fmt.Sprintf("starting %d node(s)", t.config.Nodes)})
		if err := t.start(ctx); err != nil {
			return err
		}
	}
	var err error
	if t.operator, err = participant.Dial(t.addrs, t.options...); err != nil {
		return err
	}
	return t.declare(ctx)
}

func (t *target) start(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "cohort-bench-")
	if err != nil {
		return err
	}
	t.dir = dir
	t.embedded, err = cluster.StartEmbedded(ctx, cluster.Options{Dir: filepath.Join(dir, "cluster"), Nodes: t.config.Nodes, RTT: t.config.rtt}, t.config.Version, nil)
	if err != nil {
		return err
	}
	t.addrs = t.embedded.Addrs()
	return t.embedded.WaitReady(ctx)
}

// declare makes the group, or sees to it that the one there is ours and has the
// participants.
func (t *target) declare(ctx context.Context) error {
	groups, err := t.operator.Cluster().ListGroups(ctx, &cohortv1.ListGroupsRequest{})
	if err != nil {
		return err
	}
	names := t.config.participants()
	for _, g := range groups.Groups {
		if g.Name != groupName {
			continue
		}
		if !ours(g.Participants) {
			return fmt.Errorf("group %s is there and has participants %v, which are not those of a benchmark (%sN): it will not write to them; use another cluster", groupName, g.Participants, participantPrefix)
		}
		if len(g.Participants) > len(names) {
			names = g.Participants
		}
	}
	yaml := t.config.definition(names)
	answer, err := t.operator.Cluster().Apply(ctx, &cohortv1.ApplyRequest{Files: []*cohortv1.ApplyFile{{Name: "bench.yaml", Yaml: []byte(yaml)}}})
	if err != nil {
		return fmt.Errorf("declare group %s: %w", groupName, err)
	}
	for _, fault := range answer.Errors {
		return fmt.Errorf("declare group %s: %d:%d: %s", groupName, fault.Line, fault.Column, fault.Message)
	}
	return t.wait(ctx, "the group has no coordinator", func() (bool, error) {
		answer, err := t.operator.Cluster().ListGroups(ctx, &cohortv1.ListGroupsRequest{Name: groupName})
		return err == nil && len(answer.Groups) == 1 && answer.Groups[0].Coordinator != "", err
	})
}

// wait looks until there is nothing more to wait for.
func (t *target) wait(ctx context.Context, what string, look func() (bool, error)) error {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		done, err := look()
		if done {
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("%s: %w", what, ctx.Err()), err)
		}
	}
}

// connect gives the ways to the group over which operations are spread.
func (t *target) connect() ([]group, error) {
	if t.config.Via == ViaAPI {
		return []group{newDirectGroup(t.embedded)}, nil
	}
	var list []group
	for range t.config.Clients {
		client, err := participant.Dial(t.addrs, t.options...)
		if err != nil {
			return nil, err
		}
		t.clients = append(t.clients, client)
		list = append(list, sdkGroup{client.Group(groupName)})
	}
	return list, nil
}

// serve runs the services of participants in this process and waits until they are
// active.
func (t *target) serve(ctx context.Context, participants []string) error {
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	t.stopServices = stop
	active := make(chan error, 2*len(participants))
	for _, name := range participants {
		app := service(name)
		var once sync.Once
		app.OnState(func(s participant.ServeState) {
			if s == participant.Active {
				once.Do(func() { active <- nil })
			}
		})
		t.services.Go(func() {
			if err := app.Serve(serving, t.addrs, t.options...); err != nil {
				active <- err
			}
		})
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for range participants {
		select {
		case err := <-active:
			if err != nil {
				return err
			}
		case <-ctx.Done():
			return fmt.Errorf("the services did not become active, is another benchmark running? %w", ctx.Err())
		}
	}
	return nil
}

func (t *target) close() error {
	if t.stopServices != nil {
		t.stopServices()
		t.services.Wait()
	}
	var errs []error
	for _, c := range append(t.clients, t.operator) {
		if c != nil {
			errs = append(errs, c.Close())
		}
	}
	if t.embedded != nil {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		errs = append(errs, t.embedded.Close(ctx))
	}
	if t.dir != "" {
		errs = append(errs, os.RemoveAll(t.dir))
	}
	return errors.Join(errs...)
}
