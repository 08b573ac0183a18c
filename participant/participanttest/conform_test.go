package participanttest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cohort-tx/cohort/participant"
	"github.com/cohort-tx/cohort/participant/participanttest"
)

// counters is an own state whose changes add to a named counter: applied twice or
// left out, each shows. With a disk it stores everything with its Point; plant
// names a mistake that it makes.
type counters struct {
	plant string

	mu    sync.Mutex
	image image
	disk  *disk // nil: in memory
	// pending is what a lazy one has not stored.
	pending *participant.Point
}

type image struct {
	Counters map[string]int
	Point    participant.Point
}

// disk is what survives a process.
type disk struct {
	mu   sync.Mutex
	data []byte
}

func (c *counters) store() error {
	if c.disk == nil {
		return nil
	}
	stored := c.image
	if c.plant == "point stored later" && c.pending != nil {
		stored.Point = *c.pending
	}
	c.pending = &participant.Point{Incarnation: c.image.Point.Incarnation, Position: c.image.Point.Position}
	data, err := json.Marshal(stored)
	if err != nil {
		return err
	}
	c.disk.mu.Lock()
	defer c.disk.mu.Unlock()
	c.disk.data = data
	return nil
}

func (c *counters) Point(context.Context) (participant.Point, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.disk == nil {
		return participant.Point{}, nil
	}
	return c.image.Point, nil
}

func (c *counters) add(change []byte) {
	name, n, _ := strings.Cut(string(change), "+")
	var by int
	fmt.Sscan(n, &by)
	c.image.Counters[name] += by
}

func (c *counters) Apply(ctx context.Context, e participant.Entry) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	point := participant.Point{Incarnation: e.Incarnation, Position: e.Position}
	if c.plant == "point first" {
		c.image.Point = point
		if err := c.store(); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	for i, change := range e.Changes {
		if c.plant == "half an entry" && i > 0 {
			if err := c.store(); err != nil {
				return err
			}
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		c.add(change.Value)
	}
	if c.plant == "data first" {
		if err := c.store(); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	c.image.Point = point
	return c.store()
}

func (c *counters) Restore(_ context.Context, at participant.Point, r io.Reader) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.plant == "restore in place" && c.disk != nil {
		c.image = image{Counters: map[string]int{"half": 1}, Point: at}
		if err := c.store(); err != nil {
			return err
		}
	}
	restored := map[string]int{}
	switch c.plant {
	case "restore stops early":
		if err := json.NewDecoder(r).Decode(&restored); err != nil {
			return err
		}
	case "restore hides errors":
		data, _ := io.ReadAll(r)
		_ = json.Unmarshal(data, &restored)
	default:
		data, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		if err := json.Unmarshal(data, &restored); err != nil {
			return err
		}
	}
	if c.plant == "restore appends" {
		for name, n := range c.image.Counters {
			if _, ok := restored[name]; !ok {
				restored[name] = n
			}
		}
	}
	if c.plant == "restore keeps its point" {
		at = c.image.Point
	}
	c.image = image{Counters: restored, Point: at}
	c.pending = nil
	return c.store()
}

func (c *counters) Capture(context.Context) (io.WriterTo, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := &capturedCounters{plant: c.plant, of: c, counters: c.image.Counters}
	if c.plant != "capture not isolated" {
		w.counters = maps.Clone(c.image.Counters)
	}
	return w, nil
}

type capturedCounters struct {
	plant    string
	of       *counters
	counters map[string]int
	written  int
}

func (w *capturedCounters) WriteTo(to io.Writer) (int64, error) {
	if w.plant == "capture not isolated" {
		w.of.mu.Lock()
		defer w.of.mu.Unlock()
	}
	if w.written++; w.plant == "written once" && w.written > 1 {
		return 0, nil
	}
	data, err := json.Marshal(w.counters)
	if err != nil {
		return 0, err
	}
	if w.plant == "another order" && w.written%2 == 0 {
		data = append([]byte(" "), data...)
	}
	n, err := io.Copy(to, io.MultiReader(bytes.NewReader(data[:len(data)/2]), bytes.NewReader(data[len(data)/2:])))
	if w.plant == "write hides errors" {
		err = nil
	}
	return n, err
}

// batching applies several at once.
type batching struct{ *counters }

func (b *batching) ApplyBatch(ctx context.Context, entries []participant.Entry) error {
	for i, e := range entries {
		if b.plant == "batch leaves out the last" && i > 1 && i == len(entries)-1 {
			return nil
		}
		if err := b.Apply(ctx, e); err != nil {
			return err
		}
	}
	return nil
}

// undoing takes changes back.
type undoing struct{ *counters }

func (u *undoing) Undo(_ context.Context, _ string, changes []participant.Change) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	for i, c := range slices.Backward(changes) {
		if u.plant == "undo forgets one" && i == 0 && len(changes) > 2 {
			break
		}
		name, n, _ := strings.Cut(string(c.Value), "+")
		var by int
		fmt.Sscan(n, &by)
		u.image.Counters[name] -= by
		if u.image.Counters[name] == 0 {
			delete(u.image.Counters, name)
		}
	}
	return nil
}

// of is the counters in any of the forms above.
func of(s participant.OwnState) *counters {
	switch s := s.(type) {
	case *batching:
		return s.counters
	case *undoing:
		return s.counters
	}
	return s.(*counters)
}

type countersContent struct{}

func (countersContent) Change(r *rand.Rand) []byte {
	return fmt.Appendf(nil, "c%d+%d", r.IntN(8), 1+r.IntN(9))
}

func (countersContent) Dump(s participant.OwnState) (string, error) {
	c := of(s)
	c.mu.Lock()
	defer c.mu.Unlock()
	data, err := json.Marshal(c.image.Counters)
	return string(data), err
}

type firstContent struct{ countersContent }

func (firstContent) Make(s participant.OwnState, change []byte) error {
	c := of(s)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.add(change)
	return nil
}

func newCounters(plant string, stored bool) func(testing.TB) participant.OwnState {
	return func(testing.TB) participant.OwnState {
		c := &counters{plant: plant, image: image{Counters: map[string]int{}}}
		if stored {
			c.disk = &disk{}
		}
		return c
	}
}

// reopened is what is on the disk.
func reopened(_ testing.TB, s participant.OwnState) participant.OwnState {
	old := of(s)
	old.disk.mu.Lock()
	defer old.disk.mu.Unlock()
	c := &counters{plant: old.plant, disk: old.disk, image: image{Counters: map[string]int{}}}
	if old.disk.data != nil {
		if err := json.Unmarshal(old.disk.data, &c.image); err != nil {
			panic(err)
		}
	}
	if _, ok := s.(*batching); ok {
		return &batching{c}
	}
	return c
}

// modelOfCounters is the naive one.
func modelOfCounters(changes [][]byte) string {
	c := &counters{image: image{Counters: map[string]int{}}}
	for _, change := range changes {
		c.add(change)
	}
	data, err := json.Marshal(c.image.Counters)
	if err != nil {
		panic(err)
	}
	return string(data)
}

// Without it the kit would find fault with what is right.
func TestConformTakesWhatIsRight(t *testing.T) {
	t.Run("memory", func(t *testing.T) {
		participanttest.Conform(t, newCounters("", false), countersContent{}, participanttest.Model(modelOfCounters))
	})
	t.Run("stored", func(t *testing.T) {
		participanttest.Conform(t, newCounters("", true), countersContent{}, participanttest.Reopens(reopened))
	})
	t.Run("batches", func(t *testing.T) {
		participanttest.Conform(t, func(t testing.TB) participant.OwnState { return &batching{newCounters("", true)(t).(*counters)} },
			countersContent{}, participanttest.Reopens(reopened), participanttest.Model(modelOfCounters))
	})
	t.Run("first", func(t *testing.T) {
		participanttest.Conform(t, func(t testing.TB) participant.OwnState { return &undoing{newCounters("", false)(t).(*counters)} },
			firstContent{}, participanttest.Model(modelOfCounters))
	})
}

// Without it a wrong implementation would pass: each of these has one mistake that
// people make.
func TestConformFindsMistakes(t *testing.T) {
	find := func(name, plant string, wrap func(*counters) participant.OwnState, content participanttest.Content, stored bool) {
		t.Run(name, func(t *testing.T) {
			opts := []participanttest.ConformOption{participanttest.Model(modelOfCounters)}
			if stored {
				opts = append(opts, participanttest.Reopens(reopened))
			}
			err := participanttest.Examine(t, func(t testing.TB) participant.OwnState {
				c := newCounters(plant, stored)(t).(*counters)
				if wrap != nil {
					return wrap(c)
				}
				return c
			}, content, opts...)
			if err == nil {
				t.Fatal("it passes")
			}
			if errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
			first, _, _ := strings.Cut(err.Error(), "\n")
			t.Log(first)
		})
	}
	for _, plant := range []string{
		"capture not isolated", "written once", "another order", "write hides errors",
		"restore appends", "restore stops early", "restore hides errors",
	} {
		find("memory, "+plant, plant, nil, countersContent{}, false)
	}
	for _, plant := range []string{
		"point stored later", "point first", "data first", "half an entry", "restore in place", "restore keeps its point",
	} {
		find("stored, "+plant, plant, nil, countersContent{}, true)
	}
	find("batches, leaves out the last", "batch leaves out the last", func(c *counters) participant.OwnState { return &batching{c} }, countersContent{}, false)
	find("first, undo forgets one", "undo forgets one", func(c *counters) participant.OwnState { return &undoing{c} }, firstContent{}, false)
}
