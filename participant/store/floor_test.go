package store

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// Would break: D above a pin, above S, above what is younger than KeepVersions, or
// stuck for ever.
func TestFloorRises(t *testing.T) {
	at := func(s float64) time.Time { return time.Unix(1000, 0).Add(time.Duration(s * float64(time.Second))) }
	f := newVersionFloor(10, 4*time.Second)
	want := func(now float64, synced, floor uint64) {
		t.Helper()
		got := f.next(at(now), synced)
		f.raise(got)
		if got != floor {
			t.Fatalf("at %v s, synced %d: the floor is %d, want %d", now, synced, got, floor)
		}
	}
	want(0, 20, 10)
	want(1, 30, 10)
	want(3.9, 40, 10)
	want(4, 40, 20)
	want(5, 50, 30)
	if f.pin(29) || !f.pin(30) || !f.pin(45) || !f.pin(45) {
		t.Fatal("what can be pinned is not what is at the floor or above")
	}
	want(20, 60, 30)
	f.unpin(30)
	want(20.1, 60, 45)
	f.unpin(45)
	want(30, 60, 45)
	f.unpin(45)
	want(31, 60, 60)
	for i := range 10_000 {
		f.raise(f.next(at(40+float64(i)/1000), 70))
	}
	if len(f.seen) > floorSamples+2 {
		t.Fatalf("%d samples", len(f.seen))
	}
}

// Would break: readers that are told nonsense because compaction threw away what
// they read. Memtables are flushed and compacted meanwhile, pins kept over many
// barriers, and every read compared with what was written.
func TestPinnedReadsStayExact(t *testing.T) {
	s := open(t, testOptions(t.TempDir()))
	const keys, lastIndex = 100, 6000
	// A value tells its index; its bulk makes badger flush.
	value := func(index uint64) []byte { return fmt.Appendf(nil, "%d%6000d", index, 0) }
	wrote := func(index uint64) (out []int) {
		r := rand.New(rand.NewPCG(2, index))
		for range 10 {
			out = append(out, r.IntN(keys))
		}
		return out
	}
	// lastWrite[k] holds, ascending, the indexes that wrote k.
	var lastWrite [keys][]uint64
	for i := uint64(1); i <= lastIndex; i++ {
		for _, k := range wrote(i) {
			lastWrite[k] = append(lastWrite[k], i)
		}
	}
	check := func(v *View, r *rand.Rand) error {
		k := r.IntN(keys)
		got, found, err := v.Get(fmt.Appendf(nil, "k%03d", k))
		if err != nil {
			return err
		}
		var want uint64
		for _, i := range lastWrite[k] {
			if i <= v.Index() {
				want = i
			}
		}
		if found != (want > 0) || found && string(got) != string(value(want)) {
			return fmt.Errorf("key %d at %d: found %v %.10q, want index %d", k, v.Index(), found, got, want)
		}
		return nil
	}
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for n := range 3 {
		readers.Go(func() {
			r := rand.New(rand.NewPCG(3, uint64(n)))
			var pinned []*View
			defer func() {
				for _, v := range pinned {
					v.Close()
				}
			}()
			for {
				select {
				case <-stop:
					return
				default:
				}
				v, err := s.View(0)
				if err != nil {
					t.Error(err)
					return
				}
				pinned = append(pinned, v)
				if len(pinned) > 20 {
					i := r.IntN(len(pinned))
					pinned[i].Close()
					pinned[i] = pinned[len(pinned)-1]
					pinned = pinned[:len(pinned)-1]
				}
				for range 20 {
					if err := check(pinned[r.IntN(len(pinned))], r); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	for i := uint64(1); i <= lastIndex; i++ {
		u := s.Begin(i)
		for _, k := range wrote(i) {
			u.Set(fmt.Appendf(nil, "k%03d", k), value(i))
		}
		must(t, u.Commit(i))
		must(t, u.Finish())
		if i%40 == 0 {
			must(t, s.Barrier())
		}
		if i >= 700 && i%100 == 0 && compacted(s) {
			break
		}
	}
	close(stop)
	readers.Wait()
	if !compacted(s) {
		t.Fatal("nothing was compacted")
	}
}

func compacted(s *Store) bool {
	return slices.ContainsFunc(s.current.db.Tables(), func(t badger.TableInfo) bool { return t.Level > 0 })
}

// Would break: a read below the floor that answers instead of saying too old, and
// a pin that does not hold the floor.
func TestBelowTheFloorIsTooOld(t *testing.T) {
	s := open(t, testOptions(t.TempDir()))
	for i := uint64(1); i <= 10; i++ {
		apply(t, s, i, script(i))
	}
	pinned, err := s.View(4)
	must(t, err)
	settle := func() {
		for range 3 { // the floor is a barrier behind
			must(t, s.Barrier())
		}
	}
	settle()
	if _, err := s.View(3); !errors.Is(err, ErrSnapshotTooOld) {
		t.Fatalf("below a pin: %v", err)
	}
	wantAt(t, s, 4, stateAt(4))
	wantAt(t, s, 7, stateAt(7))
	pinned.Close()
	settle()
	if _, err := s.View(9); !errors.Is(err, ErrSnapshotTooOld) {
		t.Fatalf("below S without a pin: %v", err)
	}
	apply(t, s, 11, script(11))
	wantAt(t, s, 10, stateAt(10)) // not synced past it
}

// Would break: a client that was told an index a moment ago and reads there.
func TestYoungVersionsAreKept(t *testing.T) {
	o := testOptions(t.TempDir())
	o.KeepVersions = time.Hour
	s := open(t, o)
	for i := uint64(1); i <= 10; i++ {
		apply(t, s, i, script(i))
		must(t, s.Barrier())
	}
	for i := uint64(1); i <= 10; i++ {
		wantAt(t, s, i, stateAt(i))
	}
}
