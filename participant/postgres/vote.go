package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cohort-tx/cohort/participant"
)

// Vote is the participant's answer to prepare: it prepares the attempt's SQL
// transaction. Its yes holds through any crash of the application and of
// PostgreSQL: rows stay locked until the decision is known here. Attach makes it
// the App's voter.
func (db *DB) Vote(ctx context.Context, p *participant.Prepare) error {
	return db.prepare(ctx, prepareKey(p))
}

func (db *DB) prepare(ctx context.Context, k attemptKey) error {
	a := db.attempts.find(k)
	if a == nil {
		return nil // none of its steps came to the database
	}
	select {
	case a.turn <- struct{}{}:
	default:
		return errors.New("postgres: a step of the transaction is still running")
	}
	defer db.attempts.give(a)
	voting, err := db.attempts.vote(ctx, a, db.config.LockTimeout)
	if !voting || err != nil {
		return err
	}
	g := gid{owner: db.owner, begun: k.begun, lot: a.lot, digest: a.digest.String(), id: k.id}
	name, hashed := g.encode()
	db.attempts.name(a, name)
	if hashed {
		if _, err := db.own.Exec(ctx, "insert into cohort.ids values ($1, $2) on conflict (hash) do update set at = now()", g.hash(), k.id); err != nil {
			db.attempts.die(a, "its id could not be stored: "+err.Error())
			return voteError(ctx, err)
		}
	}
	recorded := "null"
	if a.digest.any {
		recorded = literal(string(a.lot))
	}
	_, err = a.conn.Exec(ctx, fmt.Sprintf("set constraints all immediate; select cohort.ready(%s, %s, %s, %s, %d, %s); prepare transaction %s",
		recorded, literal(db.group), literal(db.name), literal(k.id), int64(k.begun), literal(db.owner), literal(name)))
	if err != nil {
		// The connection may have broken after it was prepared. It cannot commit, since
		// the vote is no; the resolver finds it.
		db.attempts.die(a, "it could not be prepared: "+err.Error())
		db.resolver.wake()
		return voteError(ctx, err)
	}
	a.conn.Release()
	a.conn = nil
	db.attempts.prepared(a)
	return nil
}

// vote lets an attempt be prepared, once there is room for one more. It is false
// when there is nothing to do: it is prepared already, or has no SQL transaction.
func (t *attempts) vote(ctx context.Context, a *attempt, patience time.Duration) (bool, error) {
	if err := t.alive(a); err != nil {
		return false, err
	}
	if a.conn == nil {
		return false, nil
	}
	wait := time.NewTimer(patience)
	defer wait.Stop()
	select {
	case t.slots <- struct{}{}:
	case <-ctx.Done():
		return false, ctx.Err()
	case <-wait.C:
		return false, conflict("%d transactions are prepared and wait for their outcome: raise max_prepared_transactions", cap(t.slots))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if a.state == attemptDead {
		<-t.slots
		return false, conflict("the transaction was given up here: %s", a.why)
	}
	a.slot, a.state = true, attemptVoting
	a.timer.Stop()
	return true, nil
}

func (t *attempts) name(a *attempt, gid string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	a.gid = gid
}

func (t *attempts) prepared(a *attempt) {
	t.mu.Lock()
	defer t.mu.Unlock()
	a.state, a.pid = attemptPrepared, 0
}

// Ended is told how an attempt ended that was voted for. Attach makes it the App's
// receiver of outcomes. It does not block.
func (db *DB) Ended(n participant.Notice) {
	if a := db.attempts.find(noticeKey(n)); a != nil {
		db.resolver.tell(a.lot, n.Committed)
	}
}
