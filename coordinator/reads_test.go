package coordinator

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/cohort-tx/cohort/txlog/command"
)

func openFakeSession(t *testing.T, r *readSessions, replica *fakeReplica, idle time.Duration) uint64 {
	t.Helper()
	view, _ := replica.View(0)
	number, err := r.open(3, &readSession{group: "checkout", view: view, idle: idle})
	if err != nil {
		t.Fatal(err)
	}
	return number
}

func wantNoSession(t *testing.T, r *readSessions, number uint64) {
	t.Helper()
	_, _, err := r.use("checkout", number)
	var aborted *Aborted
	if !errors.As(err, &aborted) || aborted.Reason != command.ReasonSnapshotTooOld {
		t.Fatalf("using an ended session gives %v", err)
	}
}

// Without it an idle reader would pin old versions for ever.
func TestReadSessionExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		replica := newFakeReplica()
		r := newReadSessions(time.Now)
		defer r.close()
		number := openFakeSession(t, r, replica, 10*time.Second)
		if readNode(number) != 3 {
			t.Fatalf("session %d does not tell its node", number)
		}
		for range 5 { // in use it stays
			time.Sleep(9 * time.Second)
			_, release, err := r.use("checkout", number)
			if err != nil {
				t.Fatal(err)
			}
			release()
		}
		_, release, err := r.use("checkout", number)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute) // a long read is not idleness
		release()
		if _, release, err = r.use("checkout", number); err != nil {
			t.Fatal(err)
		}
		release()
		time.Sleep(12 * time.Second)
		synctest.Wait()
		if replica.views != 0 {
			t.Fatal("an idle session still pins its snapshot")
		}
		wantNoSession(t, r, number)
	})
}

// Without it a reader that never rests would pin old versions for ever.
func TestReadSessionLifeIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		replica := newFakeReplica()
		r := newReadSessions(time.Now)
		defer r.close()
		number := openFakeSession(t, r, replica, 0)
		begun := time.Now()
		for {
			_, release, err := r.use("checkout", number)
			if err != nil {
				break
			}
			release()
			if time.Since(begun) > maxReadLife+time.Minute {
				t.Fatal("the session lives on")
			}
			time.Sleep(20 * time.Second)
		}
		if replica.views != 0 {
			t.Fatal("it still pins its snapshot")
		}
	})
}

// Without it a session could end under a read, and the read see a closed store.
func TestReadSessionEndsAfterItsReaders(t *testing.T) {
	replica := newFakeReplica()
	r := newReadSessions(time.Now)
	defer r.close()
	number := openFakeSession(t, r, replica, 0)
	_, release, err := r.use("checkout", number)
	if err != nil {
		t.Fatal(err)
	}
	r.end("other", number) // of another group: not this one
	r.end("checkout", number)
	wantNoSession(t, r, number)
	if replica.views != 1 {
		t.Fatal("the view was closed under its reader")
	}
	release()
	if replica.views != 0 {
		t.Fatal("the view was not closed")
	}
	r.end("checkout", number) // again is no error
}

func TestReadSessionsAreBounded(t *testing.T) {
	replica := newFakeReplica()
	r := newReadSessions(time.Now)
	for range maxReadSessions {
		openFakeSession(t, r, replica, 0)
	}
	view, _ := replica.View(0)
	_, err := r.open(1, &readSession{group: "checkout", view: view})
	wantFailure(t, err, codes.ResourceExhausted, reasonOverloaded)
	r.close()
	if replica.views != 0 {
		t.Fatalf("%d views are left open", replica.views)
	}
}
