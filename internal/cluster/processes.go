package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/cohort-tx/cohort/configs"
)

const (
	// killAfter is what a process has beyond its own grace before it is killed.
	killAfter = 5 * time.Second
	// logFile is what a node's process writes to.
	logFile = "node.log"
)

// Exit tells that a node's process ended.
type Exit struct {
	Member Member
	PID    int
	// State says how, for people.
	State string
	// Expected is set when it was told to.
	Expected bool
}

// Processes is a cluster whose nodes are processes of their own. Those that die
// stay dead until Start.
type Processes struct {
	// command starts a node when "--config FILE" is added.
	command []string
	onExit  func(Exit)

	// spawn runs functions on one operating system thread that lives as long as
	// this cluster: on Linux a child dies with the thread that started it.
	spawn   chan func()
	spawned sync.WaitGroup

	mu      sync.Mutex
	members []Member
	running map[string]*process
}

type process struct {
	cmd      *exec.Cmd
	done     chan struct{}
	expected bool
}

// StartProcesses starts a process for each node. command is the program and its
// first arguments, to which "--config FILE" is added. onExit, if not nil, is
// called from a goroutine of its own when a process has ended.
func StartProcesses(o Options, command []string, onExit func(Exit)) (*Processes, error) {
	members, err := prepare(o)
	if err != nil {
		return nil, err
	}
	if onExit == nil {
		onExit = func(Exit) {}
	}
	c := &Processes{members: members, command: command, onExit: onExit, spawn: make(chan func()), running: map[string]*process{}}
	c.spawned.Go(func() {
		runtime.LockOSThread()
		for fn := range c.spawn {
			fn()
		}
	})
	for _, m := range members {
		if err := c.Start(m.Name); err != nil {
			c.Close(context.Background())
			return nil, err
		}
	}
	return c, nil
}

// Members lists all nodes, running or not.
func (c *Processes) Members() []Member {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.members)
}

// Add starts the process of one more node, whose file is at the path. It has been
// announced to the cluster.
func (c *Processes) Add(configPath string) (Member, error) {
	config, err := configs.Load(configPath)
	if err != nil {
		return Member{}, err
	}
	m := Member{Name: config.Name, Addr: config.APIAddress(), ConfigPath: configPath, Dir: filepath.Dir(configPath), Config: config}
	c.mu.Lock()
	c.members = append(c.members, m)
	c.mu.Unlock()
	return m, c.Start(m.Name)
}

// Addrs are the API addresses of all nodes, separated by commas.
func (c *Processes) Addrs() string { return addrs(c.Members()) }

// PID is that of a node's process, 0 when none runs.
func (c *Processes) PID(name string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.running[name]; p != nil {
		return p.cmd.Process.Pid
	}
	return 0
}

// Start starts the process of a node that has none.
func (c *Processes) Start(name string) error {
	m, err := member(c.Members(), name)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running[name] != nil {
		return fmt.Errorf("node %s runs already", name)
	}
	log, err := os.OpenFile(filepath.Join(m.Dir, logFile), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("log of node %s: %w", name, err)
	}
	defer log.Close()
	arguments := append(slices.Clone(c.command[1:]), "--config", m.ConfigPath)
	cmd := exec.Command(c.command[0], arguments...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = childAttributes()
	started := make(chan error)
	c.spawn <- func() { started <- cmd.Start() }
	if err := <-started; err != nil {
		return fmt.Errorf("start node %s: %w", name, err)
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	c.running[name] = p
	c.spawned.Go(func() { c.wait(m, p) })
	return nil
}

func (c *Processes) wait(m Member, p *process) {
	_ = p.cmd.Wait() // how it ended is in ProcessState
	c.mu.Lock()
	expected := p.expected
	delete(c.running, m.Name)
	c.mu.Unlock()
	close(p.done)
	c.onExit(Exit{Member: m, PID: p.cmd.Process.Pid, State: p.cmd.ProcessState.String(), Expected: expected})
}

// Kill ends a node's process with SIGKILL and waits for its end.
func (c *Processes) Kill(name string) error { return c.signal(name, syscall.SIGKILL, killAfter) }

// Stop ends a node's process with SIGTERM and waits; it is killed when it takes
// longer than its grace.
func (c *Processes) Stop(name string) error {
	m, err := member(c.Members(), name)
	if err != nil {
		return err
	}
	return c.signal(name, syscall.SIGTERM, m.Config.ShutdownGrace+killAfter)
}

func (c *Processes) signal(name string, signal os.Signal, patience time.Duration) error {
	c.mu.Lock()
	p := c.running[name]
	if p != nil {
		p.expected = true
	}
	c.mu.Unlock()
	if p == nil {
		return fmt.Errorf("node %s does not run", name)
	}
	if err := p.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end node %s: %w", name, err)
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-p.done:
		return nil
	case <-timer.C:
		err := p.cmd.Process.Kill()
		<-p.done
		return errors.Join(fmt.Errorf("node %s did not end within %s and was killed", name, patience), err)
	}
}

// WaitReady waits until the API of every running node says that it serves.
func (c *Processes) WaitReady(ctx context.Context) error {
	for _, m := range c.Members() {
		c.mu.Lock()
		p := c.running[m.Name]
		c.mu.Unlock()
		if p == nil {
			continue
		}
		if err := waitServing(ctx, m.Addr, p.done); err != nil {
			return fmt.Errorf("node %s: %w; its log is %s", m.Name, err, filepath.Join(m.Dir, logFile))
		}
	}
	return nil
}

// Close ends all processes by SIGTERM, at the same time, and those that outlive
// ctx or their grace by SIGKILL.
func (c *Processes) Close(ctx context.Context) error {
	var (
		closing sync.WaitGroup
		mu      sync.Mutex
		errs    []error
	)
	ended := make(chan struct{})
	for _, m := range c.Members() {
		if c.PID(m.Name) == 0 {
			continue
		}
		closing.Go(func() {
			err := c.Stop(m.Name)
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		})
	}
	go func() {
		closing.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
		c.killAll()
		<-ended
	}
	close(c.spawn)
	c.spawned.Wait()
	return errors.Join(errs...)
}

func (c *Processes) killAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.running {
		p.cmd.Process.Kill() // fails only for one that has ended
	}
}
