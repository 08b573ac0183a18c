// Package pgtest gives tests a PostgreSQL. A test is skipped where none is
// installed.
package pgtest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/cohort-tx/cohort/internal/pgserver"
)

// Server is a PostgreSQL for one test, or for all of a package.
type Server struct{ *pgserver.Server }

// Start runs a PostgreSQL that is gone when the test ends. settings are lines of
// its configuration.
func Start(t testing.TB, settings ...string) *Server {
	t.Helper()
	s, err := pgserver.New(t.Context(), settings...)
	if errors.Is(err, pgserver.ErrMissing) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("pgtest: %v", err)
		}
	})
	return &Server{s}
}

// Shared is a PostgreSQL for all tests of a package, which may kill it one after the
// other: made by the first that asks, ended by Close in TestMain.
type Shared struct {
	Settings []string

	once   sync.Once
	server *pgserver.Server
	err    error
}

// Get gives the server.
func (s *Shared) Get(t testing.TB) *Server {
	t.Helper()
	s.once.Do(func() { s.server, s.err = pgserver.New(context.Background(), s.Settings...) })
	if errors.Is(s.err, pgserver.ErrMissing) {
		t.Skip(s.err)
	}
	if s.err != nil {
		t.Fatalf("pgtest: %v", s.err)
	}
	return &Server{s.server}
}

// Close ends the server, if a test had it made.
func (s *Shared) Close() error {
	if s.server == nil {
		return nil
	}
	return s.server.Close()
}

// databases numbers the databases that tests make.
var databases atomic.Int64

// Database makes an empty database, runs schema in it, and gives its connection
// string. It goes when the server goes.
func (s *Server) Database(t testing.TB, schema string) string {
	t.Helper()
	name := fmt.Sprintf("test_%d", databases.Add(1))
	// Copying files is faster than logging them; before version 15 it is all there is.
	if err := s.exec(t, s.DSN("postgres"), "create database "+name+" strategy file_copy"); err != nil {
		s.Exec(t, s.DSN("postgres"), "create database "+name)
	}
	dsn := s.DSN(name)
	if strings.TrimSpace(schema) != "" {
		s.Exec(t, dsn, schema)
	}
	return dsn
}

// Exec runs statements on a connection of its own.
func (s *Server) Exec(t testing.TB, dsn, sql string) {
	t.Helper()
	if err := s.exec(t, dsn, sql); err != nil {
		t.Fatalf("pgtest: %s: %v", sql, err)
	}
}

func (s *Server) exec(t testing.TB, dsn, sql string) error {
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		return err
	}
	defer conn.Close(context.Background())
	_, err = conn.Exec(t.Context(), sql)
	return err
}

// KillAndRestart ends the server as a crash would, runs between, and starts it again.
func (s *Server) KillAndRestart(t testing.TB, between ...func()) {
	t.Helper()
	if err := s.Kill(); err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	for _, fn := range between {
		fn()
	}
	if err := s.Server.Start(t.Context()); err != nil {
		t.Fatalf("pgtest: %v", err)
	}
}
