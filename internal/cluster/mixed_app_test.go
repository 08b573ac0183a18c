package cluster_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/cohort-tx/cohort/participant"
	"github.com/cohort-tx/cohort/participant/postgres"
)

const (
	// appEnv makes the test binary an application of the mixed group: its value is
	// "memory" or "postgres". The others tell it where and how.
	appEnv      = "COHORT_TEST_APP"
	appAddrs    = "COHORT_TEST_ADDRS"
	appGroup    = "COHORT_TEST_GROUP"
	appDatabase = "COHORT_TEST_DATABASE"
	appCrash    = "COHORT_TEST_CRASH"

	mixedAccounts = 8
	mixedOpening  = 1000
	mixedSchema   = `create table account (name text primary key, cents bigint not null check (cents >= 0))`
)

// crashPoints are where an application may be killed.
var crashPoints = []string{"before-vote", "after-vote", "before-notice", "during-apply", "during-capture", "during-restore", ""}

// crash is a process's way to its end: at a point, the nth time that it comes
// there.
type crash struct {
	point string
	left  int
	mu    sync.Mutex
}

// here kills the process, as SIGKILL does, if its time has come.
func (c *crash) here(point string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if point != c.point {
		return
	}
	if c.left--; c.left <= 0 {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}

// moveRequest asks an application to change an account, or, with Total, for the
// sum of all.
type moveRequest struct {
	Account string
	Cents   int64
	Total   bool
}

type moveAnswer struct{ Cents int64 }

// runMixedApp is the application's process.
func runMixedApp(kind string) error {
	c := &crash{point: os.Getenv(appCrash), left: 1 + rand.IntN(20)}
	if c.point == "during-capture" || c.point == "during-restore" {
		c.left = 1
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	app := participant.New(os.Getenv(appGroup), kind)
	app.OnOutcome(func(participant.Notice) { c.here("before-notice") })
	if kind == "memory" {
		s := &memoryState{crash: c, cents: openingBalances()}
		app.OnPrepare(func(context.Context, *participant.Prepare) error { s.voting(); return nil })
		app.State(s)
		app.Handle("move", participant.Func(s.move))
		return app.Serve(ctx, os.Getenv(appAddrs))
	}
	client, err := participant.Dial(os.Getenv(appAddrs))
	if err != nil {
		return err
	}
	defer client.Close()
	pool, err := pgxpool.New(ctx, os.Getenv(appDatabase))
	if err != nil {
		return err
	}
	defer pool.Close()
	db, err := postgres.Open(ctx, pool, client.Group(os.Getenv(appGroup)), kind, postgres.Config{Tables: []string{"account"}, LockTimeout: 500 * time.Millisecond, ResolveEvery: time.Second})
	if err != nil {
		return err
	}
	defer db.Close()
	db.Attach(app)
	app.OnPrepare(func(ctx context.Context, p *participant.Prepare) error {
		c.here("before-vote")
		err := db.Vote(ctx, p)
		c.soon("after-vote")
		return err
	})
	app.OnOutcome(func(n participant.Notice) { c.here("before-notice"); db.Ended(n) })
	app.Handle("move", postgres.Func(db, moveRows))
	return app.Serve(ctx, os.Getenv(appAddrs))
}

// soon is here, a moment after the caller has gone on.
func (c *crash) soon(point string) {
	if point == c.point {
		time.AfterFunc(2*time.Millisecond, func() { c.here(point) })
	}
}

func openingBalances() map[string]int64 {
	all := make(map[string]int64)
	for n := range mixedAccounts {
		all[account(n)] = mixedOpening
	}
	return all
}

// memoryState is accounts in memory, without a trace on disk.
type memoryState struct {
	crash *crash
	mu    sync.Mutex
	cents map[string]int64
}

func (s *memoryState) voting() {
	s.crash.here("before-vote")
	s.crash.soon("after-vote")
}

func (s *memoryState) move(_ context.Context, tx *participant.StepTx, in moveRequest) (moveAnswer, error) {
	if in.Total {
		var names []string
		for n := range mixedAccounts {
			names = append(names, account(n))
		}
		if err := tx.RLock(names...); err != nil {
			return moveAnswer{}, err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		var sum int64
		for _, c := range s.cents {
			sum += c
		}
		return moveAnswer{sum}, nil
	}
	if err := tx.Lock(in.Account); err != nil {
		return moveAnswer{}, err
	}
	s.mu.Lock()
	left := s.cents[in.Account] + in.Cents
	s.mu.Unlock()
	if left < 0 {
		return moveAnswer{}, fmt.Errorf("%s has not enough", in.Account)
	}
	return moveAnswer{left}, tx.Log(in)
}

func (s *memoryState) Point(context.Context) (participant.Point, error) {
	return participant.Point{}, nil
}

func (s *memoryState) Restore(_ context.Context, _ participant.Point, r io.Reader) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.cents)
	s.crash.here("during-restore")
	return json.NewDecoder(r).Decode(&s.cents)
}

func (s *memoryState) Apply(_ context.Context, e participant.Entry) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range e.Changes {
		var m moveRequest
		if err := json.Unmarshal(c.Value, &m); err != nil {
			return err
		}
		s.crash.here("during-apply")
		s.cents[m.Account] += m.Cents
	}
	return nil
}

func (s *memoryState) Capture(context.Context) (io.WriterTo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.crash.here("during-capture")
	return participant.CaptureJSON(s.cents)
}

// moveRows is the handler of the application on PostgreSQL.
func moveRows(ctx context.Context, tx *postgres.Tx, in moveRequest) (out moveAnswer, err error) {
	if in.Total {
		err = tx.QueryRow(ctx, `select coalesce(sum(cents), 0) from (select cents from account for share) a`).Scan(&out.Cents)
		return out, err
	}
	if err := tx.QueryRow(ctx, `select cents from account where name = $1 for update`, in.Account).Scan(&out.Cents); err != nil {
		return out, err
	}
	if out.Cents += in.Cents; out.Cents < 0 {
		return out, fmt.Errorf("%s has not enough", in.Account)
	}
	_, err = tx.Exec(ctx, `update account set cents = $2 where name = $1`, in.Account, out.Cents)
	return out, err
}

// supervised is an application that is started again whenever it ends, to crash
// at another point each time, until stop is called.
type supervised struct {
	kind string
	env  []string

	// said is what its processes said, one after the other.
	said bytes.Buffer

	mu      sync.Mutex
	calm    bool
	cmd     *exec.Cmd // the newest process that was started
	crashes map[string]int
	done    chan struct{}
	end     context.CancelFunc
}

func supervise(kind string, calm bool, env ...string) *supervised {
	ctx, cancel := context.WithCancel(context.Background())
	s := &supervised{kind: kind, env: env, calm: calm, crashes: make(map[string]int), done: make(chan struct{}), end: cancel}
	go s.run(ctx)
	return s
}

func (s *supervised) run(ctx context.Context) {
	defer close(s.done)
	for turn := 0; ctx.Err() == nil; turn++ {
		s.mu.Lock()
		point := crashPoints[turn%len(crashPoints)]
		if s.calm {
			point = ""
		}
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(append(os.Environ(), appEnv+"="+s.kind, appCrash+"="+point), s.env...)
		cmd.Stderr = &s.said
		err := cmd.Start()
		if err == nil {
			s.cmd = cmd
		}
		calm := s.calm
		s.mu.Unlock()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		// One that does not come to its point is killed all the same.
		late := time.NewTimer(time.Duration(1500+rand.IntN(1500)) * time.Millisecond)
		for waiting := true; waiting; {
			select {
			case <-ended:
				waiting = false
				s.mu.Lock()
				s.crashes[point]++
				s.mu.Unlock()
			case <-late.C:
				if !calm {
					_ = cmd.Process.Kill()
				}
			case <-ctx.Done():
				_ = cmd.Process.Kill()
				<-ended
				late.Stop()
				return
			}
		}
		late.Stop()
	}
}

// settle lets the application live from now on.
func (s *supervised) settle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calm = true
	if s.cmd != nil {
		_ = s.cmd.Process.Kill()
	}
}

func (s *supervised) stop() {
	s.end()
	<-s.done
}
