package protocol

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/machine"
)

func instant(text string) int64 {
	t, err := time.Parse("2006-01-02 15:04:05", text)
	if err != nil {
		panic(err)
	}
	return t.UnixNano()
}

// cut is what the log makes of a checkpoint.
func cut(s *machine.Schedule, wish command.CheckpointRequest, now int64) {
	s.NextNumber++
	s.AttemptUnixNano = now
	s.Pending = slices.DeleteFunc(s.Pending, func(r command.CheckpointRequest) bool { return r.Token == wish.Token })
	if len(wish.Participants) == 0 {
		s.Cut.Number, s.Cut.UnixNano, s.Cut.LogBytes = s.NextNumber-1, now, s.LogBytes
	}
}

// follow looks whenever Due says, from one time to another, and lists the
// checkpoints taken.
func follow(t *testing.T, s *machine.Schedule, p Policy, from, to int64) []int64 {
	t.Helper()
	var taken []int64
	tokens := map[string]bool{}
	for now := from; now <= to; {
		wish, _, due, next := Due(*s, 0, p, 0, now)
		if !due {
			if next == 0 {
				break
			}
			if next <= now {
				t.Fatalf("not due at %d, and to look again at %d", now, next)
			}
			now = next
			continue
		}
		if tokens[wish.Token] {
			t.Fatalf("token %s twice", wish.Token)
		}
		tokens[wish.Token] = true
		taken = append(taken, now)
		cut(s, wish, now)
	}
	return taken
}

// A year of checkpoints every two hours: none is missed, none comes twice, and
// what each is told apart by never repeats.
func TestYearOfIntervals(t *testing.T) {
	start := instant("2027-01-01 00:00:00")
	s := machine.Schedule{NextNumber: 1, SinceUnixNano: start}
	p := Policy{Interval: 2 * time.Hour, MinGap: 5 * time.Second}
	taken := follow(t, &s, p, start, start+365*day)
	if len(taken) != 365*12 {
		t.Fatalf("%d checkpoints", len(taken))
	}
	for i, at := range taken {
		if want := start + int64(i+1)*int64(2*time.Hour); at != want {
			t.Fatalf("checkpoint %d is %s late", i, time.Duration(at-want))
		}
	}
}

// Times of day are kept to the minute in UTC every day of the year, also those
// when the clocks of some country change.
func TestYearOfTimesOfDay(t *testing.T) {
	start := instant("2027-01-01 12:00:00")
	s := machine.Schedule{NextNumber: 1, SinceUnixNano: start}
	taken := follow(t, &s, Policy{At: []int{3 * 60, 15*60 + 30}, MinGap: 5 * time.Second}, start, start+365*day)
	if len(taken) != 2*365 {
		t.Fatalf("%d checkpoints", len(taken))
	}
	for _, at := range taken {
		if of := time.Unix(0, at).UTC().Format("15:04:05"); of != "03:00:00" && of != "15:30:00" {
			t.Fatalf("one is at %s", of)
		}
	}
}

// Both together: a time of day is not skipped because an interval fell near it.
func TestIntervalBesideTimesOfDay(t *testing.T) {
	start := instant("2027-01-01 00:00:00")
	s := machine.Schedule{NextNumber: 1, SinceUnixNano: start}
	taken := follow(t, &s, Policy{At: []int{3 * 60}, Interval: 2 * time.Hour, MinGap: time.Minute}, start, start+10*day)
	for d := range int64(10) {
		if at := start + d*day + int64(3*time.Hour); !slices.Contains(taken, at) {
			t.Fatalf("03:00 of day %d was skipped", d)
		}
	}
	for i := 1; i < len(taken); i++ {
		if taken[i]-taken[i-1] < int64(time.Minute) || taken[i]-taken[i-1] > int64(2*time.Hour) {
			t.Fatalf("%s between two", time.Duration(taken[i]-taken[i-1]))
		}
	}
}

// One rule a line: what is due, or when to look again.
func TestDue(t *testing.T) {
	const hour = int64(time.Hour)
	now := instant("2027-03-28 10:00:00")
	base := machine.Schedule{NextNumber: 5, SinceUnixNano: now - 100*day, AttemptUnixNano: now - hour, LogBytes: 1500,
		Cut: machine.Cut{Number: 4, UnixNano: now - hour, Position: 100, LogBytes: 1000}}
	policy := Policy{Interval: 2 * time.Hour, MinGap: 5 * time.Second}
	ask := func(token string, of ...string) command.CheckpointRequest {
		return command.CheckpointRequest{Token: token, Trigger: command.TriggerOperator, Participants: of, TimeUnixNano: now - 5}
	}
	for _, c := range []struct {
		what string
		edit func(s *machine.Schedule, p *Policy)
		want string
	}{
		{"nothing is configured", func(_ *machine.Schedule, p *Policy) { *p = Policy{} }, "later 0s"},
		{"an interval is not over", func(*machine.Schedule, *Policy) {}, "later 1h0m0s"},
		{"it is over", func(s *machine.Schedule, _ *Policy) { s.Cut.UnixNano -= hour }, "interval schedule-4-5 late 0s"},
		{"days were missed: once", func(s *machine.Schedule, _ *Policy) { s.Cut.UnixNano -= 9 * day }, "interval schedule-4-5 late 215h0m0s"},
		{"days of times of day were missed: the last", func(s *machine.Schedule, p *Policy) {
			s.Cut.UnixNano -= 9 * day
			*p = Policy{At: []int{9 * 60, 3 * 60}}
		}, "at schedule-4-5 late 1h0m0s"},
		{"a time of day to come, tomorrow", func(_ *machine.Schedule, p *Policy) { *p = Policy{At: []int{9 * 60}} }, "later 23h0m0s"},
		{"the first interval counts from the beginning", func(s *machine.Schedule, _ *Policy) { s.Cut.Number, s.Cut.UnixNano, s.SinceUnixNano = 0, 0, now-hour/2 }, "later 1h30m0s"},
		{"not possible yet", func(s *machine.Schedule, _ *Policy) { *s = machine.Schedule{NextNumber: 1} }, "later 0s"},
		{"the interval was shortened", func(_ *machine.Schedule, p *Policy) { p.Interval = time.Hour / 2 }, "interval schedule-4-5 late 30m0s"},
		{"the interval was lengthened", func(_ *machine.Schedule, p *Policy) { p.Interval = 4 * time.Hour }, "later 3h0m0s"},
		{"an attempt a second ago: the gap", func(s *machine.Schedule, _ *Policy) {
			s.Cut.UnixNano -= 9 * day
			s.AttemptUnixNano = now - int64(time.Second)
		}, "later 4s"},
		{"the gap holds requests too", func(s *machine.Schedule, _ *Policy) { s.AttemptUnixNano = now; s.Pending = append(s.Pending, ask("a")) }, "later 5s"},
		{"bytes", func(_ *machine.Schedule, p *Policy) { p.LogBytes = 500 }, "log_bytes schedule-4-5 late 0s"},
		{"not as many", func(_ *machine.Schedule, p *Policy) { p.LogBytes = 501 }, "later 1h0m0s"},
		{"entries", func(_ *machine.Schedule, p *Policy) { p.LogEntries = 50 }, "log_entries schedule-4-5 late 0s"},
		{"not as many", func(_ *machine.Schedule, p *Policy) { p.LogEntries = 51 }, "later 1h0m0s"},
		{"a request goes first and serves the others", func(s *machine.Schedule, _ *Policy) {
			s.Cut.UnixNano -= hour
			s.Pending = append(s.Pending, ask("a"), ask("b", "inv"), ask("c"))
		}, "operator a late 5ns serves [b c]"},
		{"of some participants it serves what it covers", func(s *machine.Schedule, _ *Policy) {
			s.Pending = append(s.Pending, ask("a", "inv", "pay"), ask("b"), ask("c", "pay"), ask("d", "ship"))
		}, "operator a late 5ns serves [c]"},
		{"a request from a clock ahead", func(s *machine.Schedule, _ *Policy) {
			r := ask("a")
			r.TimeUnixNano = now + day
			s.Pending = append(s.Pending, r)
		}, "operator a late -24h0m0s"},
		{"the clock is a little behind", func(s *machine.Schedule, _ *Policy) { s.Cut.UnixNano, s.AttemptUnixNano = now+20, now+20 }, "later 2h0m0s"},
		{"a year behind", func(s *machine.Schedule, _ *Policy) { s.Cut.UnixNano, s.AttemptUnixNano = now+365*day, now+365*day }, "interval"},
	} {
		s, p := base, policy
		c.edit(&s, &p)
		got := ""
		if wish, serves, due, next := Due(s, 150, p, 0, now); due {
			got = fmt.Sprintf("%s %s late %s", wish.Trigger, wish.Token, time.Duration(now-wish.TimeUnixNano))
			if len(serves) > 0 {
				got += fmt.Sprintf(" serves %v", serves)
			}
			if c.want == wish.Trigger.String() {
				got = c.want
			}
		} else {
			got = fmt.Sprintf("later %s", time.Duration(max(next-now, 0)))
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", c.what, got, c.want)
		}
	}
}

// A clock that is put back neither stops checkpoints nor makes a burst of them.
func TestClockPutBack(t *testing.T) {
	start := instant("2027-06-01 00:00:00")
	for _, back := range []time.Duration{time.Second, time.Minute, time.Hour, 400 * 24 * time.Hour} {
		s := machine.Schedule{NextNumber: 2, SinceUnixNano: start, Cut: machine.Cut{Number: 1, UnixNano: start}, AttemptUnixNano: start}
		from := start - int64(back)
		taken := follow(t, &s, Policy{Interval: 2 * time.Hour, MinGap: 5 * time.Second}, from, from+day)
		if len(taken) < 11 || len(taken) > 13 {
			t.Errorf("put back by %s: %d checkpoints in a day of two-hour ones", back, len(taken))
		}
	}
}

// One that cannot be taken is tried again after the gap, and no sooner.
func TestAbandonedComesBack(t *testing.T) {
	now := instant("2027-06-01 00:00:00")
	s := machine.Schedule{NextNumber: 1, SinceUnixNano: now - day}
	p := Policy{Interval: time.Hour, MinGap: 5 * time.Second}
	first, _, due, _ := Due(s, 0, p, 0, now)
	if !due {
		t.Fatal("not due")
	}
	s.NextNumber, s.AttemptUnixNano = 2, now // abandoned
	if _, _, due, next := Due(s, 0, p, 0, now+1); due || next != now+int64(p.MinGap) {
		t.Fatalf("due %v, next in %s", due, time.Duration(next-now))
	}
	again, _, due, _ := Due(s, 0, p, 0, now+int64(p.MinGap))
	if !due || again.Token == first.Token {
		t.Fatalf("due %v; tokens %s, %s", due, first.Token, again.Token)
	}
}

// Checkpoints that are due faster than they are written would pile up, and what an
// operator asks for would wait for all of them.
func TestScheduleWaitsForWhatIsBeingWritten(t *testing.T) {
	now := instant("2027-01-01 12:00:00")
	p := Policy{Interval: time.Second, LogEntries: 60}
	s := machine.Schedule{NextNumber: 2, SinceUnixNano: now - day, AttemptUnixNano: now - int64(time.Minute)}
	s.Cut.Number, s.Cut.UnixNano = 1, now-int64(time.Minute)
	writing := now - int64(time.Minute)
	if _, _, due, _ := Due(s, 1000, p, 0, now); !due {
		t.Fatal("nothing is being written, and none is due")
	}
	if _, _, due, next := Due(s, 1000, p, writing, now); due || next != writing+writingPatience {
		t.Fatalf("one is being written: due %t, to look again at %d", due, next)
	}
	if _, _, due, _ := Due(s, 1000, p, writing, writing+writingPatience); !due {
		t.Fatal("what is never finished has ended the schedule")
	}
	s.Pending = []command.CheckpointRequest{{Token: "mine", Trigger: command.TriggerOperator, TimeUnixNano: now}}
	if wish, _, due, _ := Due(s, 1000, p, writing, now); !due || wish.Token != "mine" {
		t.Fatalf("a request waits: due %t, %v", due, wish)
	}
}
