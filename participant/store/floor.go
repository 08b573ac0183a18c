package store

import "time"

// versionFloor decides D, the discard floor: badger may throw away what only
// reads below it could see. D ≤ S, because a restart goes back to S; D ≤ every
// pin; and D is at most what was published KeepVersions ago. It only rises.
// The generation's lock guards it.
type versionFloor struct {
	index uint64
	// target is where the floor is about to be: pins below it are refused.
	target uint64
	pins   map[uint64]int
	keep   time.Duration
	// seen are synced indexes with the time at which they were the newest, oldest
	// first.
	seen []floorSample
}

type floorSample struct {
	at    time.Time
	index uint64
}

// floorSamples bounds seen: a finer division would let D follow KeepVersions
// more closely than anybody needs.
const floorSamples = 16

func newVersionFloor(index uint64, keep time.Duration) versionFloor {
	return versionFloor{index: index, target: index, pins: make(map[uint64]int), keep: keep}
}

func (f *versionFloor) pin(index uint64) bool {
	if index < max(f.index, f.target) {
		return false
	}
	f.pins[index]++
	return true
}

func (f *versionFloor) unpin(index uint64) {
	if f.pins[index]--; f.pins[index] == 0 {
		delete(f.pins, index)
	}
}

// next is how far the floor may go, synced being S now. It rises there by raise,
// once that is durable.
func (f *versionFloor) next(now time.Time, synced uint64) uint64 {
	if n := len(f.seen); n == 0 || now.Sub(f.seen[n-1].at) >= f.keep/floorSamples {
		f.seen = append(f.seen, floorSample{at: now, index: synced})
	}
	// What lies below a sample was superseded at the sample's time or before. The
	// newest sample that is old enough counts, and stays for when a pin that holds
	// the floor back goes away.
	old := -1
	for i, s := range f.seen {
		if now.Sub(s.at) < f.keep {
			break
		}
		old = i
	}
	if old >= 0 {
		f.seen = append(f.seen[:0], f.seen[old:]...)
		f.target = max(f.index, f.belowPins(f.seen[0].index))
	}
	return max(f.target, f.index)
}

// raise moves the floor to target. From next on no index below target can be
// pinned any more, so that nobody has begun to read there meanwhile.
func (f *versionFloor) raise(target uint64) { f.index = max(f.index, target) }

func (f *versionFloor) belowPins(d uint64) uint64 {
	for p := range f.pins {
		d = min(d, p)
	}
	return d
}
