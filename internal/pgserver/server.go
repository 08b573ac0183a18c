package pgserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// readyTimeout bounds a start: recovery after a kill included.
	readyTimeout = 30 * time.Second
	// stopTimeout bounds an orderly end, before it is forced.
	stopTimeout = 10 * time.Second
	// maxSocketBytes is what a socket's path may have.
	maxSocketBytes = 100
	// port only names the socket: nothing listens on the network.
	port = "5432"
	// superuser owns the server's databases.
	superuser = "postgres"
)

// Server is a PostgreSQL. Its methods are for one goroutine.
type Server struct {
	bin, dir string
	attr     *syscall.SysProcAttr
	settings []string

	// spawn runs functions on one operating system thread that lives as long as the
	// Server: on Linux a child dies with the thread that started it.
	spawn   chan func()
	spawned sync.WaitGroup

	cmd  *exec.Cmd
	done chan struct{} // closed when cmd has ended
}

// New makes a database cluster in a new directory and starts it. settings are
// lines of postgresql.conf, "max_prepared_transactions = 50" say, beside those that
// make a server that lives for minutes cheap: it has no autovacuum. What is written
// survives the end of processes, not of the machine. The error is ErrMissing
// where PostgreSQL is not installed.
func New(ctx context.Context, settings ...string) (*Server, error) {
	bin, err := find()
	if err != nil {
		return nil, err
	}
	attr, err := attributes()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "cohort-pg-")
	if err != nil {
		return nil, err
	}
	s := &Server{bin: bin, dir: dir, attr: attr, settings: settings, spawn: make(chan func())}
	s.spawned.Go(func() {
		runtime.LockOSThread()
		for fn := range s.spawn {
			fn()
		}
	})
	if err := s.init(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if err := s.Start(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Server) init(ctx context.Context) error {
	if socket := s.socket(); len(socket) > maxSocketBytes {
		return fmt.Errorf("the socket's path %s is too long: set TMPDIR to a shorter one", socket)
	}
	if c := s.attr.Credential; c != nil {
		if err := os.Chown(s.dir, int(c.Uid), int(c.Gid)); err != nil {
			return err
		}
	}
	out, err := s.run(ctx, "initdb", "--pgdata", s.data(), "--username", superuser, "--auth", "trust", "--encoding", "UTF8", "--locale", "C", "--no-sync")
	if err != nil {
		return fmt.Errorf("initdb: %w: %s", err, out)
	}
	conf := append([]string{
		"listen_addresses = ''",
		"unix_socket_directories = '" + s.dir + "'",
		"fsync = off",
		"full_page_writes = off",
		"shared_buffers = 32MB",
		"max_connections = 100",
		"autovacuum = off",
		"jit = off",
	}, s.settings...)
	f, err := os.OpenFile(filepath.Join(s.data(), "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(strings.Join(conf, "\n") + "\n")
	return errors.Join(err, f.Close())
}

// run runs a program of PostgreSQL to its end.
func (s *Server) run(ctx context.Context, name string, args ...string) (output string, err error) {
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, name), args...)
	cmd.Dir, cmd.SysProcAttr = s.dir, s.attr
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	finished := make(chan error, 1)
	s.spawn <- func() { finished <- cmd.Run() }
	err = <-finished
	return out.String(), err
}

func (s *Server) data() string   { return filepath.Join(s.dir, "data") }
func (s *Server) log() string    { return filepath.Join(s.dir, "log") }
func (s *Server) socket() string { return filepath.Join(s.dir, ".s.PGSQL."+port) }

// DSN is how a database is reached.
func (s *Server) DSN(database string) string {
	return fmt.Sprintf("host=%s port=%s user=%s dbname=%s", s.dir, port, superuser, database)
}

// Start starts the server, again after Kill, and waits until it takes connections.
// settings, "max_connections=10" say, are for this time.
func (s *Server) Start(ctx context.Context, settings ...string) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for {
		if err := s.launch(settings); err != nil {
			return err
		}
		if s.ready(ctx) {
			return nil
		}
		select {
		case <-s.done:
			// The children of a killed server end by themselves a moment later;
			// until then a new one refuses to start.
			if ctx.Err() == nil && s.logHas("pre-existing shared memory block") {
				time.Sleep(20 * time.Millisecond)
				continue
			}
		default:
		}
		return fmt.Errorf("PostgreSQL did not start:\n%s", s.tail())
	}
}

func (s *Server) launch(settings []string) error {
	out, err := os.Create(s.log())
	if err != nil {
		return err
	}
	defer out.Close()
	args := []string{"-D", s.data()}
	for _, setting := range settings {
		args = append(args, "-c", setting)
	}
	cmd := exec.Command(filepath.Join(s.bin, "postgres"), args...)
	cmd.Dir, cmd.SysProcAttr, cmd.Stdout, cmd.Stderr = s.dir, s.attr, out, out
	started := make(chan error, 1)
	s.spawn <- func() { started <- cmd.Start() }
	if err := <-started; err != nil {
		return err
	}
	done := make(chan struct{})
	s.spawned.Go(func() {
		_ = cmd.Wait()
		close(done)
	})
	s.cmd, s.done = cmd, done
	return nil
}

// ready waits until the server answers; false when it ended, or ctx did.
func (s *Server) ready(ctx context.Context) bool {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if s.logHas("database system is ready to accept connections") {
			if conn, err := net.Dial("unix", s.socket()); err == nil {
				_ = conn.Close()
				return true
			}
		}
		select {
		case <-s.done:
			return false
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
}

func (s *Server) logHas(text string) bool {
	data, _ := os.ReadFile(s.log())
	return bytes.Contains(data, []byte(text))
}

func (s *Server) tail() string {
	data, _ := os.ReadFile(s.log())
	return string(data[max(0, len(data)-4<<10):])
}

// Kill ends the server at once, as a crash of it would.
func (s *Server) Kill() error { return s.end(syscall.SIGKILL) }

// Stop ends the server in order; connections are cut.
func (s *Server) Stop() error { return s.end(syscall.SIGINT) }

func (s *Server) end(how syscall.Signal) error {
	if s.cmd == nil {
		return nil
	}
	if err := s.cmd.Process.Signal(how); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-s.done:
	case <-time.After(stopTimeout):
		_ = s.cmd.Process.Kill()
		<-s.done
	}
	s.cmd = nil
	return nil
}

// Close ends the server and removes its directory.
func (s *Server) Close() error {
	err := s.end(syscall.SIGQUIT)
	close(s.spawn)
	s.spawned.Wait()
	// Children of the server may still be writing as they end.
	for range 50 {
		if removeErr := os.RemoveAll(s.dir); removeErr == nil {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
	return errors.Join(err, os.RemoveAll(s.dir))
}
