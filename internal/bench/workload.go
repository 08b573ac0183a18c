package bench

import (
	"context"
	"crypto/rand"
	"fmt"
	"strconv"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/cohort-tx/cohort/participant"
)

const (
	// Keys of counters and balances, and of values.
	countPrefix = "count-"
	valuePrefix = "value-"
	// opening is what balances begin with.
	opening = 1000
	// fillPerCommit keys are written at once before a workload, fewer of large
	// values, by fillers at the same time.
	fillPerCommit      = 500
	fillBytesPerCommit = 1 << 20
	fillers            = 8
	// addMethod of the services of Call.
	addMethod = "add"
)

// scene is what operations act on.
type scene struct {
	groups       []group
	participants []string
	keys         *zipf
	value        []byte
}

func newScene(c *Config, groups []group) *scene {
	s := &scene{groups: groups, participants: c.participants(), keys: newZipf(c.Keys, c.Skew), value: make([]byte, c.ValueBytes)}
	if c.Workload == Write || c.Workload == Read {
		s.participants = s.participants[:c.Participants]
	}
	rand.Read(s.value) // never fails: crypto/rand ends the process instead
	return s
}

func (s *scene) group(w *worker) group { return s.groups[w.index%len(s.groups)] }

func (s *scene) key(prefix string, w *worker) string {
	return prefix + strconv.FormatUint(s.keys.draw(w.rand), 10)
}

// update runs a transaction and counts its attempts.
func (s *scene) update(ctx context.Context, w *worker, fn func(tx) error) error {
	attempts, err := s.group(w).update(ctx, fn)
	w.retries += uint64(max(attempts-1, 0))
	return err
}

// operationOf gives a workload's operation.
func (s *scene) operationOf(w Workload) operation {
	switch w {
	case Transfer:
		return s.transfer
	case Add:
		return s.add
	case Write:
		return s.write
	case Read:
		return func(ctx context.Context, w *worker) error { return s.read(ctx, w, valuePrefix) }
	case Mixed:
		return s.mixed
	case Call:
		return s.call
	}
	panic("no operation of workload " + string(w))
}

func (s *scene) transfer(ctx context.Context, w *worker) error {
	from, to := s.key(countPrefix, w), s.key(countPrefix, w)
	return s.update(ctx, w, func(t tx) error {
		if err := change(t, s.participants[0], from, -1); err != nil {
			return err
		}
		return change(t, s.participants[1], to, 1)
	})
}

// change adds to a balance by reading and writing it.
func change(t tx, participant, key string, delta int64) error {
	value, _, err := t.get(participant, key)
	if err != nil {
		return err
	}
	balance, err := strconv.ParseInt(string(value), 10, 64)
	if err != nil {
		return fmt.Errorf("balance %s/%s: %w", participant, key, err)
	}
	return t.put(participant, key, strconv.AppendInt(nil, balance+delta, 10))
}

func (s *scene) add(ctx context.Context, w *worker) error {
	from, to := s.key(countPrefix, w), s.key(countPrefix, w)
	return s.update(ctx, w, func(t tx) error {
		if err := t.add(s.participants[0], from, -1); err != nil {
			return err
		}
		return t.add(s.participants[1], to, 1)
	})
}

func (s *scene) write(ctx context.Context, w *worker) error {
	key := s.key(valuePrefix, w)
	return s.update(ctx, w, func(t tx) error {
		for _, p := range s.participants {
			if err := t.put(p, key, s.value); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *scene) read(ctx context.Context, w *worker, prefix string) error {
	key := s.key(prefix, w)
	return s.group(w).view(ctx, func(r reader) error {
		for _, p := range s.participants {
			if _, found, err := r.get(p, key); err != nil {
				return err
			} else if !found {
				return fmt.Errorf("%s/%s is not there: it was written before", p, key)
			}
		}
		return nil
	})
}

func (s *scene) mixed(ctx context.Context, w *worker) error {
	switch w.rand.IntN(4) {
	case 0:
		return s.add(ctx, w)
	case 1:
		return s.transfer(ctx, w)
	}
	return s.read(ctx, w, countPrefix)
}

// addition is what Call's services are asked to do.
type addition struct {
	Key   string `json:"key"`
	Delta int64  `json:"delta"`
}

func (s *scene) call(ctx context.Context, w *worker) error {
	from, to := s.key(countPrefix, w), s.key(countPrefix, w)
	return s.update(ctx, w, func(t tx) error {
		if err := t.call(s.participants[0], addMethod, addition{from, -1}); err != nil {
			return err
		}
		return t.call(s.participants[1], addMethod, addition{to, 1})
	})
}

// service is the application of one participant.
func service(name string) *participant.App {
	app := participant.New(groupName, name)
	app.Handle(addMethod, participant.Func(func(_ context.Context, tx *participant.StepTx, in addition) (struct{}, error) {
		return struct{}{}, tx.Store().Add(in.Key, in.Delta)
	}))
	return app
}

// prepare writes what the operations read.
func (s *scene) prepare(ctx context.Context, w Workload, tell func(Step)) error {
	var prefix string
	var value []byte
	switch w {
	case Transfer, Mixed, Soak:
		prefix, value = countPrefix, strconv.AppendInt(nil, opening, 10)
	case Read:
		prefix, value = valuePrefix, s.value
	default:
		return nil // what is written blindly need not be there
	}
	return s.fill(ctx, prefix, 0, s.keys.n, s.participants, func(uint64) []byte { return value }, tell)
}

// fill writes the keys [from, to) of participants.
func (s *scene) fill(ctx context.Context, prefix string, from, to uint64, participants []string, value func(n uint64) []byte, tell func(Step)) error {
	if from >= to {
		return nil
	}
	filling, ctx := errgroup.WithContext(ctx)
	size := max(uint64(len(value(from))), 1) * uint64(len(participants))
	each := min(max(fillBytesPerCommit/size, 1), fillPerCommit)
	var next, done atomic.Uint64
	next.Store(from)
	for i := range fillers {
		filling.Go(func() error {
			for {
				begin := next.Add(each) - each
				if begin >= to {
					return nil
				}
				end := min(begin+each, to)
				_, err := s.groups[i%len(s.groups)].update(ctx, func(t tx) error {
					for n := begin; n < end; n++ {
						for _, p := range participants {
							if err := t.put(p, prefix+strconv.FormatUint(n, 10), value(n)); err != nil {
								return err
							}
						}
					}
					return nil
				})
				if err != nil {
					return fmt.Errorf("write what is to be read: %w", err)
				}
				done.Add((end - begin) * size)
				if i == 0 { // one goroutine tells
					tell(Step{Name: "writing data", Bytes: min(done.Load(), (to-from)*size), OfBytes: (to - from) * size})
				}
			}
		})
	}
	return filling.Wait()
}
