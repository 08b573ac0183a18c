package coordinator

import (
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/machine"
)

// versioned is a value of a fake snapshot.
type versioned struct {
	value   string
	version uint64
}

// fakeStore is a participant's keys; it scans as machine.ScanValues does, with
// the keys that it went over in place of their hash.
type fakeStore map[string]versioned

func (f fakeStore) Scan(participant, start, end string, limit int, fn func(string, []byte, uint64) (bool, error)) (command.ScanRead, bool, error) {
	read := command.ScanRead{Participant: participant, Start: start, End: end}
	last, count, stop, more := "", 0, false, false
	for _, key := range slices.Sorted(maps.Keys(f)) {
		if key < start || end != "" && key >= end {
			continue
		}
		if stop || limit > 0 && count == limit {
			more = true
			break
		}
		last = key
		count++
		goOn, err := fn(key, []byte(f[key].value), f[key].version)
		if err != nil {
			return command.ScanRead{}, false, err
		}
		stop = !goOn
	}
	if more {
		read.End = last + "\x00"
	}
	return read, more, nil
}

// Without it a transaction would not see its own changes as the state machine
// will apply them, or a scan's read would not cover what it answered.
func TestOverlayAgainstModel(t *testing.T) {
	keys := rapid.StringMatching(`[ab]{1,3}`)
	values := rapid.OneOf(rapid.StringMatching(`[0-9]{1,2}`), rapid.SampledFrom([]string{"x", "007", "-0", "9223372036854775807"}))
	rapid.Check(t, func(t *rapid.T) {
		base := fakeStore{}
		for i, key := range rapid.SliceOfDistinct(keys, rapid.ID).Draw(t, "base") {
			base[key] = versioned{values.Draw(t, "value"), uint64(i + 1)}
		}
		ops := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) command.Op {
			op := command.Op{
				Kind:        rapid.SampledFrom([]command.OpKind{command.OpPut, command.OpDelete, command.OpAdd}).Draw(t, "kind"),
				Participant: rapid.SampledFrom([]string{"p", "p", "p", "other"}).Draw(t, "participant"),
				Key:         keys.Draw(t, "key"),
			}
			switch op.Kind {
			case command.OpPut:
				op.Value = []byte(values.Draw(t, "put"))
			case command.OpAdd:
				op.Delta = int64(rapid.IntRange(-5, 5).Draw(t, "delta"))
				if rapid.IntRange(0, 3).Draw(t, "bounded") == 0 {
					low := int64(0)
					op.AtLeast = &low
				}
			}
			return op
		}), 0, 12).Draw(t, "ops")

		// The model applies everything to a copy and then looks.
		model := maps.Clone(base)
		broken := map[string]bool{}
		for _, op := range ops {
			if op.Participant != "p" || broken[op.Key] {
				continue
			}
			v, found := model[op.Key]
			switch op.Kind {
			case command.OpPut:
				model[op.Key] = versioned{string(op.Value), base[op.Key].version}
			case command.OpDelete:
				delete(model, op.Key)
			case command.OpAdd:
				current := int64(0)
				if found {
					var ok bool
					if current, ok = machine.ParseCounter([]byte(v.value)); !ok {
						broken[op.Key] = true
						continue
					}
				}
				sum := current + op.Delta
				overflow := (sum > current) != (op.Delta > 0) && op.Delta != 0
				if overflow || op.AtLeast != nil && sum < *op.AtLeast {
					broken[op.Key] = true
					continue
				}
				model[op.Key] = versioned{strconv.FormatInt(sum, 10), base[op.Key].version}
			}
		}
		o := newOverlay("p", ops)

		key := keys.Draw(t, "get")
		b, found := base[key]
		got, err := o.fold(key, cell{[]byte(b.value), found})
		if broken[key] {
			wantConstraint(t, err, key)
		} else if v, ok := model[key]; err != nil || got.found != ok || ok && string(got.value) != v.value {
			t.Fatalf("get %q: %q %v %v, want %q %v", key, got.value, got.found, err, v.value, ok)
		}

		prefix := rapid.StringMatching(`[ab]{0,2}`).Draw(t, "prefix")
		limit := rapid.IntRange(1, 6).Draw(t, "limit")
		items, read, more, err := o.scan(base, prefix, prefixEnd(prefix), limit, 1<<20)
		var want []string
		for _, key := range slices.Sorted(maps.Keys(model)) {
			if strings.HasPrefix(key, prefix) {
				want = append(want, key)
			}
		}
		for key := range broken {
			if strings.HasPrefix(key, prefix) {
				if err == nil && (len(items) < limit || key <= items[len(items)-1].key) {
					t.Fatalf("scan goes over %q, which cannot be shown, without a word", key)
				}
				if err != nil {
					wantConstraint(t, err, "")
					return
				}
			}
		}
		if len(broken) > 0 {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if wantMore := len(want) > limit; more != wantMore {
			t.Fatalf("more is %v of %q with limit %d", more, want, limit)
		}
		want = want[:min(limit, len(want))]
		if len(items) != len(want) {
			t.Fatalf("scan answered %d items, want %q", len(items), want)
		}
		for i, item := range items {
			if item.key != want[i] || string(item.value) != model[item.key].value || item.version != base[item.key].version {
				t.Fatalf("item %d is %+v, want %q %+v", i, item, want[i], model[want[i]])
			}
			if read.Start > item.key || read.End != "" && read.End <= item.key {
				t.Fatalf("the read %q–%q does not cover %q", read.Start, read.End, item.key)
			}
		}
		if !more && read.End != prefixEnd(prefix) {
			t.Fatalf("a scan to the end has read up to %q only", read.End)
		}
	})
}

func wantConstraint(t *rapid.T, err error, key string) {
	var aborted *Aborted
	if !errors.As(err, &aborted) || aborted.Reason != command.ReasonConstraint || aborted.Participant != "p" || key != "" && aborted.Key != key {
		t.Fatalf("want a constraint abort at %q, got %v", key, err)
	}
}

// Without it one Scan of large values would not fit a message.
func TestOverlayScanBoundsBytes(t *testing.T) {
	base := fakeStore{"a": {strings.Repeat("x", 600), 1}, "b": {strings.Repeat("x", 600), 2}, "c": {"y", 3}}
	items, _, more, err := newOverlay("p", nil).scan(base, "", "", 100, 1000)
	if err != nil || len(items) != 2 || !more {
		t.Fatalf("%d items, more %v, %v", len(items), more, err)
	}
}

func TestPrefixEnd(t *testing.T) {
	for prefix, want := range map[string]string{"": "", "a": "b", "a\xff": "b", "\xff\xff": "", "az": "a{"} {
		if got := prefixEnd(prefix); got != want {
			t.Errorf("after %q comes %q, not %q", prefix, want, got)
		}
	}
}
