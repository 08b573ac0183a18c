package postgres

import (
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Config says what of a database belongs to the participant. Its zero fields mean
// the defaults.
type Config struct {
	// Tables are those whose rows are the participant's state: all that its steps
	// change. "accounts" is looked up as the pool's connections do, "shop.accounts"
	// names its schema; quoted as in SQL. At least one.
	Tables []string
	// LockTimeout bounds how long a statement of a step waits for a lock, and a step
	// for a connection. It ends deadlocks between databases, as a conflict that is
	// tried again. Default 2 s.
	LockTimeout time.Duration
	// AttemptTimeout is how long a transaction may be open here without coming to its
	// vote; then it is rolled back. At least the group's limits.timeout, or attempts
	// that could have committed do not. Default 60 s.
	AttemptTimeout time.Duration
	// ResolveEvery is how often transactions in doubt are looked for. Default 5 s.
	ResolveEvery time.Duration
	// CaptureTimeout bounds how long a captured snapshot stays open: as long as it
	// does, PostgreSQL cannot remove dead rows. Default 30 min.
	CaptureTimeout time.Duration
	// Role is granted what the participant needs of schema cohort, when Setup is run
	// by another one. Empty: nothing is granted.
	Role string
	// Logger gets what nobody can be returned. Default slog.Default.
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	set := func(d *time.Duration, to time.Duration) {
		if *d == 0 {
			*d = to
		}
	}
	set(&c.LockTimeout, 2*time.Second)
	set(&c.AttemptTimeout, time.Minute)
	set(&c.ResolveEvery, 5*time.Second)
	set(&c.CaptureTimeout, 30*time.Minute)
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

// Validate returns every fault at once.
func (c Config) Validate() error {
	var errs []error
	if len(c.Tables) == 0 {
		errs = append(errs, errors.New("postgres: Config.Tables is empty: name the tables whose rows are the participant's state"))
	}
	for name, d := range map[string]time.Duration{
		"LockTimeout": c.LockTimeout, "AttemptTimeout": c.AttemptTimeout, "ResolveEvery": c.ResolveEvery, "CaptureTimeout": c.CaptureTimeout,
	} {
		if d < 0 || d > 0 && d < time.Millisecond {
			errs = append(errs, fmt.Errorf("postgres: Config.%s is %s: want at least 1ms, or 0 for the default", name, d))
		}
	}
	return errors.Join(errs...)
}
