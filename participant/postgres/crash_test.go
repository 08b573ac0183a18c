package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/cohort-tx/cohort/participant"
)

// Without it a crash of PostgreSQL between vote and decision would lose the yes.
func TestServerKilledAfterTheVote(t *testing.T) {
	s := shared.Get(t)
	b := openBank(t, s.Database(t, accounts+"; insert into accounts values ('a', 5), ('b', 5), ('c', 5)"), newFakeGroup(), Config{Tables: []string{"accounts"}, LockTimeout: 5 * time.Second})
	committed := b.begin("t1").must("update accounts set balance = 6 where id = 'a'").yes()
	aborted := b.begin("t2").must("update accounts set balance = 6 where id = 'b'").yes()
	open := b.begin("t3").must("update accounts set balance = 6 where id = 'c'")
	c := b.capture()
	s.KillAndRestart(t, func() {
		// However long that takes, it is no fault of the state.
		if _, err := b.Point(t.Context()); !errors.Is(err, participant.ErrUnavailable) {
			t.Errorf("the position of a server that is down: %v", err)
		}
		if err := b.Advance(t.Context(), participant.Point{Incarnation: 1, Position: 1}); !errors.Is(err, participant.ErrUnavailable) {
			t.Errorf("advancing a server that is down: %v", err)
		}
	})
	// The application lives on.
	if err := open.vote(); err == nil {
		t.Error("a transaction whose changes are gone may commit")
	}
	if _, err := c.WriteTo(new(bytes.Buffer)); err == nil {
		t.Error("a snapshot that is gone was written")
	}
	b.group.set("t2", aborted.key.begun, participant.Aborted)
	b.apply(committed.commit())
	if err := b.resolver.pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.Ended(participant.Notice{ID: "t2", Begun: aborted.key.begun})
	eventually(t, "the aborted one is rolled back", func() bool { return len(b.attempts.slots) == 0 })
	b.want("select * from accounts order by id", "a 6\nb 5\nc 5")
	b.wantRest()
	b.begin("t4").must("update accounts set balance = 7").yes()
}

// Without it crashes of PostgreSQL and of the application at points that nobody
// thought of would lose or double money: the sum must be the same at the end, and a
// database made from the log alone must be equal.
func TestTransfersThroughCrashes(t *testing.T) {
	const rounds, workers, names = 3, 4, 6
	s := shared.Get(t)
	schema := accounts + "; insert into accounts select 'a' || n, 100 from generate_series(1, 6) n"
	g := newFakeGroup()
	dsn := s.Database(t, schema)
	cfg := Config{Tables: []string{"accounts"}, ResolveEvery: 50e6, LockTimeout: time.Second}
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(1, 2))
	begun, committed := uint64(1000), 0
	commits := func() int {
		mu.Lock()
		defer mu.Unlock()
		return committed
	}
	for round := range rounds {
		b := openBank(t, dsn, g, cfg)
		b.follow()
		ctx, crash := context.WithCancel(t.Context())
		var following sync.WaitGroup
		log := make(chan participant.Entry, 1<<16)
		following.Go(func() {
			for e := range log {
				for b.Apply(ctx, e) != nil && ctx.Err() == nil {
					_ = sleep(ctx, settlePause)
				}
			}
		})
		// transfer is one attempt; the log has it when it returns true.
		transfer := func() {
			mu.Lock()
			begun++
			key := attemptKey{id: fmt.Sprintf("t%d", begun), begun: begun}
			from, to, n := random.IntN(names)+1, random.IntN(names)+1, random.IntN(20)
			mu.Unlock()
			var changes [][]byte
			c := call{attempt: key, number: 1, log: func(data []byte) error { changes = append(changes, bytes.Clone(data)); return nil }}
			err := b.step(ctx, c, func(tx *Tx) error {
				for _, move := range [][2]int{{from, -n}, {to, n}} {
					if _, err := tx.Exec(ctx, "update accounts set balance = balance + $1 where id = $2", move[1], fmt.Sprintf("a%d", move[0])); err != nil {
						return err
					}
				}
				return nil
			})
			if err == nil {
				err = b.prepare(ctx, key)
			}
			if err != nil {
				g.set(key.id, key.begun, participant.Aborted)
				b.Ended(participant.Notice{ID: key.id, Begun: key.begun})
				_ = sleep(ctx, settlePause)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			committed++
			log <- g.commit(key.id, key.begun, changes...)
		}
		stop := make(chan struct{})
		var transfers sync.WaitGroup
		for range workers {
			transfers.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						transfer()
					}
				}
			})
		}
		at := commits()
		eventually(t, "transfers commit", func() bool { return commits() >= at+10 })
		s.KillAndRestart(t)
		at = commits()
		eventually(t, "transfers commit again", func() bool { return commits() >= at+10 })
		close(stop)
		transfers.Wait()
		if round%2 == 0 {
			crash() // the application's, with entries that it has not applied
		}
		close(log)
		following.Wait()
		crash()
		_ = b.Close()
	}
	b := openBank(t, dsn, g, cfg)
	b.follow()
	eventually(t, "no doubt is left", func() bool {
		return b.query("select gid from pg_prepared_xacts where database = current_database()") == ""
	})
	b.want("select sum(balance)::int from accounts", "600")
	fresh := openBank(t, s.Database(t, schema), g, cfg)
	fresh.apply(g.entries...)
	fresh.want("select * from accounts order by id", b.query("select * from accounts order by id"))
	t.Logf("%d transfers committed", committed)
	b.wantRest()
	fresh.wantRest()
}
