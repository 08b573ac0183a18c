package protocol

import (
	"container/heap"
	"time"
)

// timer is a moment at which its owner wants to act. The owner embeds it; it is
// in the heap at most once.
type timer struct {
	at    time.Duration
	seq   uint64 // order of equal moments: that of being set
	place int    // in the heap plus 1, 0 when not set
	owner any    // *attempt, *participant, *entry, *checkpoint or *Core
}

type timers struct {
	heap []*timer
	seq  uint64
}

func (t *timers) Len() int { return len(t.heap) }
func (t *timers) Less(i, j int) bool {
	a, b := t.heap[i], t.heap[j]
	return a.at < b.at || a.at == b.at && a.seq < b.seq
}
func (t *timers) Swap(i, j int) {
	h := t.heap
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i+1, j+1
}
func (t *timers) Push(x any) {
	tm := x.(*timer)
	t.heap = append(t.heap, tm)
	tm.place = len(t.heap)
}
func (t *timers) Pop() any {
	last := len(t.heap) - 1
	tm := t.heap[last]
	t.heap[last] = nil
	t.heap = t.heap[:last]
	tm.place = 0
	return tm
}

func (t *timers) set(tm *timer, at time.Duration) {
	if tm.place != 0 && tm.at == at {
		return
	}
	t.seq++
	tm.at, tm.seq = at, t.seq
	if tm.place != 0 {
		heap.Fix(t, tm.place-1)
		return
	}
	heap.Push(t, tm)
}

func (t *timers) stop(tm *timer) {
	if tm.place != 0 {
		heap.Remove(t, tm.place-1)
	}
}

// due takes the next timer that is due.
func (t *timers) due(now time.Duration) *timer {
	if len(t.heap) == 0 || t.heap[0].at > now {
		return nil
	}
	return heap.Pop(t).(*timer)
}
