package participant_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/cohort-tx/cohort/participant"
)

// Without it a transaction would not see its own writes in program order, over
// any snapshot, any page size and any split of a scan.
func TestOverlayAgainstModel(t *testing.T) {
	keys := rapid.SampledFrom([]string{"a", "b/1", "b/2", "b/3", "b/30", "c", "\xff\x00"})
	rapid.Check(t, func(rt *rapid.T) {
		g := newFakeGroup("p")
		node := g.startNode("127.0.0.1:0")
		defer node.server.Stop()
		client, err := participant.Dial(node.addr)
		if err != nil {
			rt.Fatal(err)
		}
		defer client.Close()
		g.pageMax = rapid.IntRange(1, 4).Draw(rt, "page")
		model := map[string]string{}
		for _, k := range rapid.SliceOfNDistinct(keys, 0, 6, rapid.ID).Draw(rt, "before") {
			model[k] = strconv.Itoa(rapid.IntRange(-9, 9).Draw(rt, "value"))
			g.set("p", k, model[k])
		}
		_, err = client.Group(groupName).Run(rt.Context(), func(tx *participant.Tx) error {
			store := tx.Store("p")
			for range rapid.IntRange(1, 15).Draw(rt, "steps") {
				k := keys.Draw(rt, "key")
				switch rapid.IntRange(0, 5).Draw(rt, "op") {
				case 0:
					model[k] = strconv.Itoa(rapid.IntRange(-9, 9).Draw(rt, "put"))
					if err := store.Put(k, []byte(model[k])); err != nil {
						return err
					}
				case 1:
					delete(model, k)
					if err := store.Delete(k); err != nil {
						return err
					}
				case 2:
					n, _ := strconv.ParseInt(model[k], 10, 64)
					delta := rapid.Int64Range(-3, 3).Draw(rt, "delta")
					model[k] = strconv.FormatInt(n+delta, 10)
					if err := store.Add(k, delta, participant.AtLeast(n+delta), participant.AtMost(n+delta)); err != nil {
						return err
					}
				case 3:
					var got int64
					found, err := store.Get(k, &got)
					if err != nil {
						return err
					}
					want, live := model[k]
					if found != live || live && strconv.FormatInt(got, 10) != want {
						return fmt.Errorf("get %q: %v %d, want %v %s", k, found, got, live, want)
					}
				case 4:
					// A call hands the staged changes to the coordinator; there is no
					// instance, so nothing else comes of it.
					var call *participant.CallError
					if err := tx.Call("p", "m", nil, nil); !errors.As(err, &call) || call.Code != participant.CallRecovering {
						return fmt.Errorf("call: %w", err)
					}
				case 5:
					prefix := rapid.SampledFrom([]string{"", "b/", "b/3", "z"}).Draw(rt, "prefix")
					after := rapid.SampledFrom([]string{"", "b/1", "b/2"}).Draw(rt, "after")
					limit := rapid.IntRange(0, 4).Draw(rt, "limit")
					var got []string
					for item, err := range store.Scan(prefix, participant.After(after), participant.Limit(limit)) {
						if err != nil {
							return err
						}
						got = append(got, item.Key+"="+string(item.Value))
					}
					var want []string
					for _, k := range slices.Sorted(maps.Keys(model)) {
						if strings.HasPrefix(k, prefix) && k > after && (limit == 0 || len(want) < limit) {
							want = append(want, k+"="+model[k])
						}
					}
					if !slices.Equal(got, want) {
						return fmt.Errorf("scan %q after %q limit %d: %q, want %q", prefix, after, limit, got, want)
					}
				}
			}
			return nil
		})
		if err != nil {
			rt.Fatal(err)
		}
		for _, k := range []string{"a", "b/1", "b/2", "b/3", "b/30", "c", "\xff\x00"} {
			if got := g.value("p", k); got != model[k] {
				rt.Fatalf("committed %q = %q, want %q", k, got, model[k])
			}
		}
	})
}

// Without it a bound that the state machine would judge on the true value is
// judged on none, when the key is overwritten afterwards.
func TestReadOfOverwrittenAdd(t *testing.T) {
	g, group := started(t, "p")
	g.set("p", "k", "20")
	_, err := group.Run(testContext(t), func(tx *participant.Tx) error {
		store := tx.Store("p")
		if err := errors.Join(store.Add("k", 5, participant.AtLeast(10)), store.Put("k", "7")); err != nil {
			return err
		}
		var got string
		if _, err := store.Get("k", &got); err != nil || got != "7" {
			return fmt.Errorf("%q, %w", got, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Without it a read after an add would show a value that cannot commit.
func TestReadOfBrokenBound(t *testing.T) {
	g, group := started(t, "p")
	g.set("p", "n", "1")
	g.set("p", "text", "x")
	for key, delta := range map[string]int64{"n": -2, "text": 1} {
		_, err := group.Run(testContext(t), func(tx *participant.Tx) error {
			store := tx.Store("p")
			if err := store.Add(key, delta, participant.AtLeast(0)); err != nil {
				return err
			}
			if _, err := store.Get(key, nil); !errors.Is(err, participant.ErrConstraint) {
				return fmt.Errorf("get: %v", err)
			}
			return errStop
		})
		if err != errStop {
			t.Errorf("%s: %v", key, err)
		}
	}
}
