package txlog

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"

	"github.com/cohort-tx/cohort/txlog/command"
)

// history makes transactions from a fixed seed and remembers those that
// committed. It knows nothing of log, versions or files but the position that a
// commit was told.
type history struct {
	mu   *sync.Mutex
	rand *rand.Rand
	made *int
	// commits[i] is at position i+1.
	commits *[]modelCommit
}

type modelCommit struct {
	id  string
	ops []command.Op
}

func newHistory() history {
	return history{mu: new(sync.Mutex), rand: rand.New(rand.NewPCG(4, 8)), made: new(int), commits: new([]modelCommit)}
}

// next makes a transaction of puts, deletes and adds on few keys; some of the
// adds are refused.
func (h history) next(begun uint64) *command.Decide {
	h.mu.Lock()
	defer h.mu.Unlock()
	*h.made++
	d := &command.Decide{Attempt: command.Attempt{ID: fmt.Sprintf("h%d", *h.made), Begun: begun}, RequestDigest: []byte{byte(*h.made)}}
	seen := map[string]bool{}
	for range 1 + h.rand.IntN(4) {
		op := command.Op{Participant: []string{"a", "b"}[h.rand.IntN(2)]}
		switch h.rand.IntN(6) {
		case 0, 1:
			op.Kind, op.Key = command.OpPut, fmt.Sprintf("k%d", h.rand.IntN(40))
			op.Value = fmt.Appendf(nil, "%d-%0*d", *h.made, h.rand.IntN(60), 0)
		case 2:
			op.Kind, op.Key = command.OpDelete, fmt.Sprintf("k%d", h.rand.IntN(40))
		default:
			op.Kind, op.Key, op.Delta = command.OpAdd, fmt.Sprintf("n%d", h.rand.IntN(10)), int64(h.rand.IntN(100)-45)
			floor := int64(-60)
			op.AtLeast = &floor
		}
		if seen[dataKey(op.Participant, op.Key)] {
			continue
		}
		seen[dataKey(op.Participant, op.Key)] = true
		d.Ops = append(d.Ops, op)
	}
	return d
}

// commit remembers a commit. They come in the order of their positions.
func (h history) commit(r command.Receipt, d *command.Decide) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if r.Position != uint64(len(*h.commits))+1 {
		panic(fmt.Sprintf("the test commits one entry at a time, and got position %d after %d", r.Position, len(*h.commits)))
	}
	*h.commits = append(*h.commits, modelCommit{id: r.ID, ops: d.Ops})
}

// last is the position of the last commit.
func (h history) last() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return uint64(len(*h.commits))
}

// at is what a state at a position holds.
func (h history) at(position uint64) contents {
	h.mu.Lock()
	defer h.mu.Unlock()
	type cell struct {
		value   string
		version uint64
	}
	cells := map[string]cell{}
	c := contents{data: map[string]string{}, outcomes: map[string]uint64{}}
	for i, commit := range (*h.commits)[:position] {
		version := uint64(i + 1)
		c.outcomes[commit.id] = version
		for _, op := range commit.ops {
			key := dataKey(op.Participant, op.Key)
			switch op.Kind {
			case command.OpPut:
				cells[key] = cell{string(op.Value), version}
			case command.OpDelete:
				delete(cells, key)
			case command.OpAdd:
				n, _ := strconv.ParseInt(cells[key].value, 10, 64) // absent is 0
				cells[key] = cell{strconv.FormatInt(n+op.Delta, 10), version}
			}
		}
	}
	for key, v := range cells {
		c.data[key] = dataValue([]byte(v.value), v.version)
	}
	return c
}

// fork is a history of its own that begins with this one's first positions.
func (h history) fork(position uint64) history {
	h.mu.Lock()
	defer h.mu.Unlock()
	own := newHistory()
	*own.made = *h.made + 1_000_000 // other ids
	*own.commits = append(*own.commits, (*h.commits)[:position]...)
	return own
}
