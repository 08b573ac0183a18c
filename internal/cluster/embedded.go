package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"go.uber.org/zap"

	"github.com/cohort-tx/cohort/internal/node"
)

// Embedded is a cluster whose nodes run in this process.
type Embedded struct {
	version string
	logger  *zap.Logger

	mu      sync.Mutex
	members []Member
	nodes   map[string]*node.Node // those that run
}

// StartEmbedded starts all nodes; see WaitReady.
func StartEmbedded(ctx context.Context, o Options, version string, logger *zap.Logger) (*Embedded, error) {
	members, err := prepare(o)
	if err != nil {
		return nil, err
	}
	if logger == nil {
		logger = zap.NewNop()
	}
	c := &Embedded{members: members, version: version, logger: logger, nodes: map[string]*node.Node{}}
	for _, m := range members {
		if err := c.Start(ctx, m.Name); err != nil {
			return nil, errors.Join(err, c.Close(ctx))
		}
	}
	return c, nil
}

// Members lists all nodes, running or not.
func (c *Embedded) Members() []Member {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.members)
}

// Join adds a node to the cluster, by way of a node that runs, and starts it.
func (c *Embedded) Join(ctx context.Context) (Member, error) {
	members, running := c.Members(), c.running()
	if len(running) == 0 {
		return Member{}, errors.New("no node runs that one could join")
	}
	m, err := join(ctx, members[0], len(members)+1, running[0].Addr())
	if err != nil {
		return Member{}, err
	}
	c.mu.Lock()
	c.members = append(c.members, m)
	c.mu.Unlock()
	return m, c.Start(ctx, m.Name)
}

// Addrs are the API addresses of all nodes, separated by commas.
func (c *Embedded) Addrs() string { return addrs(c.Members()) }

// Node returns a running node, nil for one that does not run.
func (c *Embedded) Node(name string) *node.Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[name]
}

// Start starts a node that does not run.
func (c *Embedded) Start(ctx context.Context, name string) error {
	m, err := member(c.Members(), name)
	if err != nil {
		return err
	}
	if c.Node(name) != nil {
		return fmt.Errorf("node %s runs already", name)
	}
	n, err := node.New(node.Params{Config: m.Config, Version: c.version, Logger: c.logger})
	if err != nil {
		return err
	}
	if err := n.Start(ctx); err != nil {
		return fmt.Errorf("node %s: %w", name, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes[name] = n
	return nil
}

// Kill ends a node at once, without draining.
func (c *Embedded) Kill(name string) error {
	n, err := c.take(name)
	if err != nil {
		return err
	}
	return n.Kill()
}

// Stop drains a node and ends it.
func (c *Embedded) Stop(ctx context.Context, name string) error {
	n, err := c.take(name)
	if err != nil {
		return err
	}
	return n.Close(ctx)
}

func (c *Embedded) take(name string) (*node.Node, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.nodes[name]
	if n == nil {
		return nil, fmt.Errorf("node %s does not run", name)
	}
	delete(c.nodes, name)
	return n, nil
}

// WaitReady waits until every running node is ready.
func (c *Embedded) WaitReady(ctx context.Context) error {
	for _, n := range c.running() {
		if err := n.Ready(ctx); err != nil {
			return fmt.Errorf("node %s: %w", n.Name(), err)
		}
	}
	return nil
}

func (c *Embedded) running() []*node.Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []*node.Node
	for _, m := range c.members {
		if n := c.nodes[m.Name]; n != nil {
			list = append(list, n)
		}
	}
	return list
}

// Close ends all nodes at the same time. It drains nothing: with every node
// going there is nobody to hand over to.
func (c *Embedded) Close(context.Context) error {
	var (
		closing sync.WaitGroup
		mu      sync.Mutex
		errs    []error
	)
	for _, n := range c.running() {
		closing.Go(func() {
			err := n.Kill()
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		})
	}
	closing.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.nodes)
	return errors.Join(errs...)
}

func member(members []Member, name string) (Member, error) {
	for _, m := range members {
		if m.Name == name {
			return m, nil
		}
	}
	return Member{}, fmt.Errorf("no node is named %q", name)
}

func addrs(members []Member) string {
	list := make([]string, len(members))
	for i, m := range members {
		list[i] = m.Addr
	}
	return strings.Join(list, ",")
}
